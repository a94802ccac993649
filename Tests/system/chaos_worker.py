"""A client process for the chaos test: chaos_worker.py SOCKET NAME NUMBER NOTES.

It takes and gives back the lock for ever. Into the pipe NOTES, which all of them share, it notes `enter` once it has the lock
and `leave` before it gives it back, each with one write: the order of the lines is the order in which they happened.
Whoever is told `lost`, or whose connection ends, leaves first; `lost` is noted before that, with the reason. It ends when its input does.
"""

import json
import os
import random
import select
import socket
import sys
import time

from harness import notes

path, name, number, pipe = sys.argv[1:5]
random.seed(int(number))


class Disconnected(Exception):
    pass


def note(word, token):
    notes.write(int(pipe), f"{word} {number} {os.getpid()} {token}")


class Session:
    def __init__(self):
        self.socket = socket.socket(socket.AF_UNIX)
        self.buffer = b""
        self.inside = None
        try:
            self.socket.connect(path)
        except OSError:
            raise Disconnected from None

    def send(self, **message):
        try:
            self.socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            raise Disconnected from None

    def receive(self, seconds):
        """The next message, None when nothing came in time. `lost` and the end of the connection end the hold."""
        while b"\n" not in self.buffer:
            if not select.select([self.socket], [], [], seconds)[0]:
                return None
            try:
                data = self.socket.recv(65536)
            except OSError:
                data = b""
            if not data:
                self.leave()
                raise Disconnected
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        message = json.loads(line)
        if message.get("method") == "lost" and message["params"]["token"] == self.inside:
            note("lost", f"{self.inside} {message['params']['reason']}")
            self.leave()
        return message

    def leave(self):
        if self.inside is not None:
            note("leave", self.inside)
            self.inside = None

    def round(self, request):
        self.send(id=request, method="acquire", params={"name": name})
        while (message := self.receive(None)).get("id") != request:
            pass
        if "error" in message:
            if message["error"]["data"]["reason"] != "shutting_down":
                note("error", message["error"]["data"]["reason"])
            return
        self.inside = message["result"]["token"]
        note("enter", self.inside)
        end = time.monotonic() + random.choice([0, 0, 0.001, 0.003])
        while (left := end - time.monotonic()) > 0 and self.inside is not None:
            self.receive(left)
        token = message["result"]["token"]
        if self.inside is not None:
            self.leave()
            self.send(id=-request, method="release", params={"name": name, "token": token})


def main():
    request = 0
    while True:
        try:
            session = Session()
            while True:
                request += 1
                session.round(request)
        except Disconnected:
            # Its daemon is being started again; until then, and once a round, see whether this is the end.
            if select.select([0], [], [], 0.02)[0]:
                return


main()
