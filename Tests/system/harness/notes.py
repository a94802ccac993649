"""What many processes note, in the order in which they noted it, though each may be killed at any moment.

It is a pipe: a write of at most PIPE_BUF bytes is there whole or not at all. To a file it is not: whoever is killed while
it writes leaves a part of a line where a page ends, and the next line is stuck to it.
"""

import fcntl
import os
import select

SPACE = 1 << 20


class Notes:
    def __init__(self):
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        # Writers must not wait for a test that looks at something else for a moment.
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, SPACE)
        self.lines = []
        self.tail = b""

    def write(self, text):
        """For the process that reads. It reads first, so that there is space."""
        self.pull()
        write(self.writer, text)

    def take(self):
        """The lines that came since the last call."""
        self.pull()
        lines, self.lines = self.lines, []
        return lines

    def pull(self):
        while select.select([self.reader], [], [], 0)[0]:
            *lines, self.tail = (self.tail + os.read(self.reader, SPACE)).split(b"\n")
            self.lines += [line.decode() for line in lines]


def write(writer, text):
    """For a process that was given the number of the pipe's end."""
    line = text.encode() + b"\n"
    assert len(line) <= select.PIPE_BUF, text
    os.write(writer, line)
