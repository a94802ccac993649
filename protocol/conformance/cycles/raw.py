import os, socket, time

SCRIPT = 'if redis.call("GET", KEYS[1]) == ARGV[1] then return redis.call("DEL", KEYS[1]) else return 0 end'
server = socket.socket(socket.AF_UNIX)
server.connect(os.environ["CYCLES_REDIS"])


def ask(*words):
    parts = [f"${len(word)}\r\n{word}\r\n" for word in words]
    server.sendall(f"*{len(words)}\r\n{''.join(parts)}".encode())
    return server.recv(4096)


end, count = time.monotonic() + float(os.environ["CYCLES_SECONDS"]), 0
while time.monotonic() < end:
    assert ask("SET", "raw", "mine", "NX", "PX", "30000") == b"+OK\r\n"
    assert ask("EVAL", SCRIPT, "1", "raw", "mine") == b":1\r\n"
    count += 1
print(count)
