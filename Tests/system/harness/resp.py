"""As much of Redis' protocol as a proxy needs: where a value ends, and what a command says."""


def value_end(data, start=0):
    """The position after the value at `start`, or None when it is not complete."""
    line_end = data.find(b"\r\n", start)
    if line_end < 0:
        return None
    kind, end = data[start:start + 1], line_end + 2
    if kind in b"+-:,#_(":
        return end
    count = int(data[start + 1:line_end])
    if kind in b"$!=":
        return end if count < 0 else (end + count + 2 if len(data) >= end + count + 2 else None)
    count = max(count, 0) * (2 if kind in b"%|" else 1) + (1 if kind == b"|" else 0)
    for _ in range(count):
        end = value_end(data, end)
        if end is None:
            return None
    return end


def command_words(data):
    """The words of one complete command."""
    words, position = [], data.find(b"\r\n") + 2
    while position < len(data):
        line_end = data.find(b"\r\n", position)
        length = int(data[position + 1:line_end])
        words.append(bytes(data[line_end + 2:line_end + 2 + length]))
        position = line_end + 2 + length + 2
    return words
