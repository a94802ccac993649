#!/usr/bin/env python3
"""Holds a lock until the input ends: client.py SOCKET NAME."""

import json
import os
import select
import socket
import sys


class Lost(Exception):
    """The lock is gone; the reason is the text."""


class Daemon:
    """A connection to sidelockd."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)  # Python sets close-on-exec itself.
        self.socket.connect(path)
        self.buffer = b""
        self.last_id = 0

    def next_message(self):
        """Reads until a line is complete."""
        while b"\n" not in self.buffer:
            data = self.socket.recv(65536)
            if not data:
                sys.exit("the daemon closed the connection")
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        message = json.loads(line)
        if message.get("method") == "lost":
            raise Lost(message["params"]["reason"])
        return message

    def call(self, method, **params):
        """Sends a request and gives its result."""
        self.last_id += 1
        request = {"id": self.last_id, "method": method, "params": params}
        self.socket.sendall(json.dumps(request).encode() + b"\n")
        while True:
            message = self.next_message()
            if message.get("id") == self.last_id:
                if "error" in message:
                    sys.exit(message["error"]["message"])
                return message["result"]


def main(path, name):
    daemon = Daemon(path)
    token = daemon.call("acquire", name=name)["token"]
    print("acquired", token, flush=True)
    # Work, and watch the socket meanwhile.
    working = True
    while working:
        while b"\n" in daemon.buffer:
            daemon.next_message()
        for ready in select.select([daemon.socket, 0], [], [])[0]:
            if ready is daemon.socket:
                daemon.next_message()
            else:
                working = os.read(0, 4096) != b""
    daemon.call("release", name=name, token=token)
    print("released", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: client.py SOCKET NAME")
    try:
        main(sys.argv[1], sys.argv[2])
    except Lost as lost:
        print("lost", lost, flush=True)
        sys.exit(3)
