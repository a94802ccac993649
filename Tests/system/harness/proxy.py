"""A Redis proxy that can hold, delay, drop, cut, and answer in Redis' place."""

import os
import selectors
import socket
import threading
import time

from . import resp

# Their only answers are pushes.
_UNANSWERED = {b"SUBSCRIBE", b"PSUBSCRIBE", b"SSUBSCRIBE", b"UNSUBSCRIBE", b"PUNSUBSCRIBE", b"SUNSUBSCRIBE"}


class Rule:
    """What to do with commands that `matches` accepts: at most `times` of them, after the first `skip`."""

    def __init__(self, matches, reply=None, cut=None, times=1, skip=0):
        self.matches, self.reply, self.cut, self.times, self.skip = matches, reply, cut, times, skip
        self.done = 0

    def applies(self, words):
        if self.done >= self.times or not self.matches(words):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.done += 1
        return True


class _Pair:
    def __init__(self, down, up):
        self.down, self.up = down, up
        self.from_down, self.from_up = bytearray(), bytearray()
        self.to_up, self.to_down = bytearray(), bytearray()
        self.late_up, self.late_down = [], []  # (when it is due, bytes), in their order
        self.answers = []  # in the order of the commands: None for Redis' own, bytes for ours, "cut" to hang up


class Proxy:
    """Listens on a Unix socket in `directory` and forwards to `server`, in a thread of its own."""

    def __init__(self, directory, server):
        self.path = os.path.join(str(directory), "proxy.sock")
        self.server = server
        self.lock = threading.RLock()
        self.pairs = []
        self.rules = []
        self.commands = []  # the words of every command that came
        self.hold_replies = False
        self.hold_requests = False
        self.refusing = False
        self.delay_seconds = 0  # each way
        self.rewrite = None  # what the daemon hears instead of a value that Redis sent
        self.connections = 0
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(64)
        self.wake_read, self.wake_write = os.pipe()
        self.closing = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    @property
    def url(self):
        return f"unix://{self.server.login}{self.path}"

    # What a test asks for

    def add(self, rule):
        with self.lock:
            self.rules.append(rule)
        return rule

    def answer(self, matches, reply, **options):
        """Answers in Redis' place; Redis does not see the command."""
        return self.add(Rule(matches, reply=reply, **options))

    def cut_after(self, matches, **options):
        """Lets Redis execute the command, then hangs up in place of its reply."""
        return self.add(Rule(matches, cut="after", **options))

    def cut_before(self, matches, **options):
        """Hangs up; Redis never sees the command."""
        return self.add(Rule(matches, cut="before", **options))

    def cut(self):
        """Hangs up on everybody."""
        with self.lock:
            for pair in list(self.pairs):
                self._drop(pair)

    def set(self, **switches):
        """Sets hold_replies, hold_requests, refusing, delay_seconds or rewrite."""
        with self.lock:
            for name, value in switches.items():
                assert hasattr(self, name)
                setattr(self, name, value)
            if self.refusing:
                self.cut()
        os.write(self.wake_write, b".")

    def send_down(self, data):
        """Says something to the daemon that Redis never said."""
        with self.lock:
            for pair in self.pairs:
                pair.to_down += data
        os.write(self.wake_write, b".")

    def count(self, matches):
        with self.lock:
            return sum(1 for words in self.commands if matches(words))

    def close(self):
        self.closing = True
        os.write(self.wake_write, b".")
        self.thread.join()
        self.cut()
        self.listener.close()
        os.close(self.wake_read)
        os.close(self.wake_write)

    # The thread

    def _run(self):
        while not self.closing:
            with selectors.DefaultSelector() as selector:
                with self.lock:
                    selector.register(self.listener, selectors.EVENT_READ)
                    selector.register(self.wake_read, selectors.EVENT_READ)
                    for pair in self.pairs:
                        for end, out in ((pair.down, pair.to_down), (pair.up, pair.to_up)):
                            selector.register(end, selectors.EVENT_READ | (selectors.EVENT_WRITE if out else 0))
                    due = [late[0][0] for pair in self.pairs for late in (pair.late_up, pair.late_down) if late]
                patience = max(0, min(due) - time.monotonic()) if due else None
                ready = {key.fileobj for key, _ in selector.select(patience)}
            with self.lock:
                if self.wake_read in ready:
                    os.read(self.wake_read, 4096)
                if self.listener in ready:
                    self._accept()
                for pair in list(self.pairs):
                    self._serve(pair, ready)

    def _accept(self):
        down, _ = self.listener.accept()
        self.connections += 1
        if self.refusing:
            down.close()
            return
        up = socket.socket(socket.AF_UNIX)
        try:
            up.connect(str(self.server.socket_path))
        except OSError:
            down.close()
            return
        down.setblocking(False)
        up.setblocking(False)
        self.pairs.append(_Pair(down, up))

    def _serve(self, pair, ready):
        try:
            for end, buffer in ((pair.down, pair.from_down), (pair.up, pair.from_up)):
                if end in ready:
                    try:
                        data = end.recv(1 << 16)
                    except BlockingIOError:
                        continue
                    if not data:
                        raise ConnectionError
                    buffer += data
            self._requests(pair)
            self._replies(pair)
            for late, out in ((pair.late_up, pair.to_up), (pair.late_down, pair.to_down)):
                while late and late[0][0] <= time.monotonic():
                    out += late.pop(0)[1]
            for end, out in ((pair.down, pair.to_down), (pair.up, pair.to_up)):
                if out:
                    try:
                        del out[: end.send(out)]
                    except BlockingIOError:
                        pass
        except OSError:
            self._drop(pair)

    def _requests(self, pair):
        while not self.hold_requests and (end := resp.value_end(pair.from_down)) is not None:
            raw = bytes(pair.from_down[:end])
            words = resp.command_words(raw)
            self.commands.append(words)
            rule = next((rule for rule in self.rules if rule.applies(words)), None)
            if rule and rule.cut == "before":
                raise ConnectionError
            del pair.from_down[:end]
            if rule and rule.reply is not None:
                pair.answers.append(rule.reply)
                continue
            pair.late_up.append((time.monotonic() + self.delay_seconds, raw))
            if words and words[0].upper() not in _UNANSWERED:
                pair.answers.append("cut" if rule else None)

    def _replies(self, pair):
        while not self.hold_replies:
            if pair.answers and isinstance(pair.answers[0], bytes):
                pair.late_down.append((time.monotonic() + self.delay_seconds, pair.answers.pop(0)))
                continue
            end = resp.value_end(pair.from_up)
            if end is None:
                return
            if pair.from_up[:1] != b">":
                if pair.answers.pop(0) == "cut":
                    raise ConnectionError
            said = bytes(pair.from_up[:end])
            if self.rewrite:
                said = self.rewrite(said)
            pair.late_down.append((time.monotonic() + self.delay_seconds, said))
            del pair.from_up[:end]

    def _drop(self, pair):
        if pair in self.pairs:
            self.pairs.remove(pair)
        pair.down.close()
        pair.up.close()
