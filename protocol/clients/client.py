#!/usr/bin/env python3
"""Holds a lock until the input ends: client.py SOCKET NAME."""

import json
import os
import select
import socket
import sys


class Lost(Exception):
    """The lock is gone; the reason is the text."""


class Failed(Exception):
    """There is no lock; the reason is the text."""


class Daemon:
    """A connection to sidelockd, for one thread: replies belong to whoever reads them."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)  # Python sets close-on-exec itself.
        try:
            self.socket.connect(path)
        except OSError as error:
            raise Failed(f"{path}: {error.strerror}") from None
        self.buffer = b""
        self.last_id = 0
        self.holds = False

    def next_message(self):
        """Reads until a line is complete."""
        while b"\n" not in self.buffer:
            try:
                data = self.socket.recv(65536)
            except OSError:
                data = b""
            if not data:
                self.ended()
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        message = json.loads(line)
        if message.get("method") == "lost":
            raise Lost(message["params"]["reason"])
        return message

    def ended(self):
        """Locks end with the connection."""
        if self.holds:
            raise Lost("connection_ended")
        raise Failed("the daemon closed the connection")

    def call(self, method, **params):
        """Sends a request and gives its result."""
        self.last_id += 1
        request = {"id": self.last_id, "method": method, "params": params}
        try:
            self.socket.sendall(json.dumps(request).encode() + b"\n")
        except OSError:
            pass  # What the daemon said before it closed the connection can still be read.
        while True:
            message = self.next_message()
            # A connection that the daemon refuses is told so with a null id.
            if message.get("id", 0) in (self.last_id, None):
                if "error" in message:
                    if message["error"]["data"]["reason"] == "lost":
                        raise Lost(message["error"]["data"]["lost"])
                    raise Failed(message["error"]["message"])
                return message["result"]


def main(path, name):
    daemon = Daemon(path)
    # Close-on-exec does not help against fork(): a child would have the connection, and with it the lock.
    daemon.call("initialize", lifetime="process")
    token = daemon.call("acquire", name=name)["token"]
    daemon.holds = True
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
    except Failed as failure:
        sys.exit(str(failure))
