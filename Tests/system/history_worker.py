"""A client process for the history test: history_worker.py SOCKET NUMBER SEED NOTES.

It takes and gives back locks, shared locks, permits and several locks at once, some of them as an owner that enters
again, for ever. Into the pipe NOTES, which all of them share, it writes each call before it is sent and after it was answered,
with the time by the monotonic clock, which is the same for all processes. It ends when its input does.
"""

import json
import os
import random
import select
import socket
import sys
import time

from harness import notes

path, number, seed, pipe = sys.argv[1:5]
random.seed(f"{seed}/{number}/{os.getpid()}")

# Readers and writers, writers only, and semaphores.
LOCKS = ["a", "b", "c"]
SEMAPHORES = {"two": 2, "three": 3}


class Disconnected(Exception):
    pass


def note(event, **facts):
    facts.update(at=time.monotonic_ns(), event=event, pid=os.getpid(), host=int(number) % 2)
    notes.write(int(pipe), json.dumps(facts))


class Session:
    def __init__(self):
        self.socket = socket.socket(socket.AF_UNIX)
        self.buffer = b""
        self.last = 0
        self.held = {}  # (name, token) -> mode
        try:
            self.socket.connect(path)
        except OSError:
            raise Disconnected from None

    def call(self, method, facts, **params):
        """Sends a request, notes it, and waits for the answer."""
        self.last += 1
        call = f"{os.getpid()}-{self.last}-{id(self) % 10**6}"
        note("call", call=call, method=method, **facts)
        try:
            self.socket.sendall(json.dumps({"id": self.last, "method": method, "params": params}).encode() + b"\n")
        except OSError:
            self.end()
        while (message := self.receive(None)).get("id") != self.last:
            pass
        if "error" in message:
            note("refused", call=call, reason=message["error"]["data"]["reason"])
            return None
        result = message["result"]
        tokens = {lock["name"]: lock["token"] for lock in result.get("locks", [result] if "token" in result else [])}
        if method == "acquire":
            self.held.update({(name, token): facts["mode"] for name, token in tokens.items()})
        note("answer", call=call, tokens=tokens)
        return tokens

    def receive(self, seconds):
        while b"\n" not in self.buffer:
            if not select.select([self.socket], [], [], seconds)[0]:
                return None
            try:
                data = self.socket.recv(65536)
            except OSError:
                data = b""
            if not data:
                self.end()
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        message = json.loads(line)
        if message.get("method") == "lost":
            key = (message["params"]["name"], message["params"]["token"])
            if self.held.pop(key, None):
                note("lost", name=key[0], token=key[1], reason=message["params"]["reason"])
        return message

    def end(self):
        note("ended")
        raise Disconnected

    def hold_for_a_while(self):
        end = time.monotonic() + random.choice([0, 0, 0.001, 0.003])
        while (left := end - time.monotonic()) > 0:
            self.receive(left)

    def give(self, name, token):
        if (name, token) not in self.held:
            return
        mode = self.held.pop((name, token))
        self.call("release", {"names": [name], "mode": mode, "token": token}, name=name, token=token)

    def round(self):
        kind = random.random()
        wait = {"wait_ms": 0} if random.random() < 0.15 else {}
        if kind < 0.3:
            name, capacity = random.choice(sorted(SEMAPHORES.items()))
            tokens = self.call("acquire", {"names": [name], "mode": "p"}, name=name, permits=capacity, **wait)
        elif kind < 0.5:
            names = random.sample(LOCKS, random.choice([2, 3]))
            mode = random.choice(["exclusive", "exclusive", "shared"])
            tokens = self.call("acquire", {"names": names, "mode": mode[0].replace("e", "x")}, names=names, mode=mode,
                               **wait)
        else:
            name = random.choice(LOCKS)
            mode = random.choice(["exclusive", "shared", "shared"])
            owner = {"owner": "thread"} if random.random() < 0.3 else {}
            tokens = self.call("acquire", {"names": [name], "mode": mode[0].replace("e", "x")}, name=name, mode=mode,
                               **owner, **wait)
            if tokens and owner:
                self.enter_again(name, mode, tokens[name])
        if tokens:
            self.hold_for_a_while()
            for name, token in random.sample(sorted(tokens.items()), len(tokens)):
                self.give(name, token)

    def enter_again(self, name, mode, token):
        """The same owner gets what it has at once, under the same token, and has to give it back once more."""
        letter = self.held[(name, token)] if (name, token) in self.held else "x"
        again = self.call("acquire", {"names": [], "mode": letter}, name=name, mode=mode, owner="thread", wait_ms=0)
        if (name, token) not in self.held:
            return
        if again != {name: token}:
            return note("wrong", what=f"entered again with {again}, not {token}")
        self.call("release", {"names": [], "mode": letter}, name=name, token=token)


def main():
    while True:
        try:
            session = Session()
            while True:
                session.round()
        except Disconnected:
            # Its daemon is being started again; until then, and once a round, see whether this is the end.
            if select.select([0], [], [], 0.02)[0]:
                return


main()
