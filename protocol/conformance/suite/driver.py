"""A driver program under test."""

import os
import subprocess
import threading
import time

from . import words
from .words import START_SECONDS, Mismatch


class Driver:
    """Starts a driver, sends it commands, and keeps what it says."""

    def __init__(self, command, environment, directory, patience):
        self.patience = patience
        self.errors = open(os.path.join(directory, f"driver-{time.monotonic_ns()}.err"), "w+b")
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, env=environment, bufsize=0)
        self.changed = threading.Condition()
        self.answers, self.events, self.history = {}, [], []
        self.hello = None
        self.ended = False
        self.tag = 0
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()
        self._wait(lambda: self.hello is not None, "its first line", max(patience, START_SECONDS))

    def _read(self):
        with self.process.stdout as output:
            for raw in output:
                head, *rest = raw.decode(errors="surrogateescape").split() or [""]
                with self.changed:
                    self.history.append(f"< {raw.decode(errors='replace').rstrip()}")
                    if head == "driver" and rest and rest[0] == "1":
                        self.hello = words.fields(rest[1:])
                    elif head == "event" and rest:
                        self.events.append((rest[0], words.fields(rest[1:])))
                    elif head.isdigit() and rest and rest[0] in ("ok", "error"):
                        kind, more = rest[0], rest[1:]
                        found = words.fields(more[1:] if kind == "error" else more)
                        if kind == "error":
                            found["reason"] = more[0] if more else ""
                        self.answers.setdefault(int(head), []).append((kind, found))
                    elif head:
                        self.answers.setdefault(0, []).append(("nonsense", {"line": raw.decode(errors="replace")}))
                    self.changed.notify_all()
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def _wait(self, condition, what, seconds=None):
        with self.changed:
            deadline = time.monotonic() + (self.patience if seconds is None else seconds)
            while True:
                found = condition()
                if found:
                    return found
                left = deadline - time.monotonic()
                if left <= 0 or self.ended:
                    # A program that ended may have said it with its last words.
                    found = condition()
                    if found:
                        return found
                    end = f"the driver ended ({self.process.poll()})" if self.ended else "it did not come in time"
                    raise Mismatch(f"{what}: {end}")
                self.changed.wait(left)

    @property
    def features(self):
        return set(filter(None, self.hello.get("features", "").split(",")))

    def send(self, verb, fields):
        """Sends a command, and gives its tag."""
        self.tag += 1
        text = words.line(f"{self.tag} {verb}", fields)
        with self.changed:
            self.history.append(f"> {text}")
        try:
            self.process.stdin.write(text.encode("utf-8", "surrogateescape") + b"\n")
        except BrokenPipeError:
            raise Mismatch(f"the driver has ended ({self.process.wait(5)}) before {verb}") from None
        return self.tag

    def answer(self, tag, patience=1):
        """The answer to a command: ("ok" or "error", fields)."""
        return self._wait(lambda: self.answers.get(tag), f"the answer to command {tag}", self.patience * patience)[0]

    def is_answered(self, tag):
        with self.changed:
            return tag in self.answers

    def event(self, kind, fits):
        """The first event of that kind that fits; it is taken out."""
        def find():
            for index, (name, found) in enumerate(self.events):
                if name == kind and fits(found):
                    del self.events[index]
                    return [found]
            return None
        return self._wait(find, f"the event {kind}")[0]

    def has_event(self, kind):
        with self.changed:
            return [found for name, found in self.events if name == kind]

    def faults(self):
        """What no driver may do, in no scenario."""
        with self.changed:
            twice = [tag for tag, answers in self.answers.items() if tag and len(answers) > 1]
            nonsense = [found["line"] for _, found in self.answers.get(0, [])]
        return [*(f"command {tag} was answered twice" for tag in twice), *(f"no line of the protocol: {text}" for text in nonsense)]

    def error_text(self):
        self.errors.flush()
        with open(self.errors.name, "rb") as file:
            return file.read().decode(errors="replace")

    def close(self):
        try:
            self.process.stdin.close()
        except OSError:
            pass
        try:
            self.process.wait(0.01 if self.ended else 2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.errors.close()
