#!/usr/bin/env python3
"""Holds a lock until the input ends: client.py SOCKET NAME."""

import json
import selectors
import socket
import sys


def main(path, name):
    sock = socket.socket(socket.AF_UNIX)  # Python sets close-on-exec itself.
    sock.connect(path)
    lines = sock.makefile("r", encoding="utf-8", newline="\n")

    def send(**request):
        sock.sendall(json.dumps(request).encode() + b"\n")

    def reply(wanted):
        for line in lines:
            message = json.loads(line)
            if message.get("id") == wanted:
                return message
            told(message)
        sys.exit("the daemon closed the connection")

    def told(message):
        if message.get("method") == "lost":
            print("lost", message["params"]["reason"], flush=True)
            sys.exit(3)

    send(id=1, method="acquire", params={"name": name})
    answer = reply(1)
    if "error" in answer:
        sys.exit(answer["error"]["message"])
    token = answer["result"]["token"]
    print("acquired", token, flush=True)

    # Work, and watch the socket meanwhile.
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ, "daemon")
        selector.register(sys.stdin, selectors.EVENT_READ, "input")
        working = True
        while working:
            for key, _ in selector.select():
                if key.data == "input":
                    working = sys.stdin.buffer.raw.read(4096) != b""
                else:
                    line = lines.readline()
                    if not line:
                        sys.exit("the daemon closed the connection")
                    told(json.loads(line))

    send(id=2, method="release", params={"name": name, "token": token})
    answer = reply(2)
    if "error" in answer:
        sys.exit(answer["error"]["message"])
    print("released", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: client.py SOCKET NAME")
    main(sys.argv[1], sys.argv[2])
