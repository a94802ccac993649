"""A client that speaks the protocol over a blocking socket, and holds everything it hears against the document."""

import json
import select
import socket
import time
import uuid

from . import schema
from .waiting import GENEROUS_SECONDS


class RpcError(Exception):
    """The daemon answered with an error."""

    def __init__(self, error):
        super().__init__(f"{error.get('code')} {error.get('data', {}).get('reason')}: {error.get('message')}")
        self.code = error["code"]
        self.data = error.get("data", {})
        self.reason = self.data.get("reason")


class Ended(Exception):
    """The daemon closed the connection."""


def connect(path):
    """A connected socket. Connecting itself blocks: otherwise it would fail while many others connect."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(str(path))
    sock.settimeout(GENEROUS_SECONDS)
    return sock


class Client:
    """One session. Messages come out in the order in which they came in."""

    def __init__(self, path, check=True):
        self.socket = connect(path)
        self.check = check
        self.buffer = bytearray()
        self.scanned = 0
        self.ended = False
        self.last_id = 0
        self.methods = {}  # id -> method, for what is not answered yet
        self.pending = []  # messages that came while another one was waited for

    # Sending

    def send_raw(self, data):
        self.socket.settimeout(GENEROUS_SECONDS)
        self.socket.sendall(data)

    def send(self, message):
        if isinstance(message, dict) and message.get("id") is not None:
            self.methods.setdefault(_key(message["id"]), message.get("method"))
        self.send_raw(json.dumps(message).encode() + b"\n")

    def request(self, method, **params):
        """Sends a request and gives its id."""
        self.last_id += 1
        self.send({"id": self.last_id, "method": method, "params": params})
        return self.last_id

    def half_close(self):
        self.socket.shutdown(socket.SHUT_WR)

    def close(self):
        self.socket.close()

    # Receiving

    def _take_line(self):
        end = self.buffer.find(b"\n", self.scanned)
        if end < 0:
            self.scanned = len(self.buffer)
            return None
        line = bytes(self.buffer[:end])
        del self.buffer[: end + 1]
        self.scanned = 0
        return line

    def receive(self, seconds):
        """The next message from the socket, past those that wait here; None when nothing came in time."""
        deadline = time.monotonic() + seconds
        while True:
            line = self._take_line()
            if line is not None:
                return self._decoded(line)
            if self.ended:
                raise Ended()
            # Not select(), which knows 1,024 descriptors only.
            poll = select.poll()
            poll.register(self.socket, select.POLLIN)
            if not poll.poll(max(0, deadline - time.monotonic()) * 1000):
                return None
            try:
                data = self.socket.recv(1 << 16)
            except ConnectionResetError:
                data = b""
            if not data:
                self.ended = True
                assert not self.buffer, f"half a line at the end: {bytes(self.buffer)!r}"
            self.buffer += data

    def _decoded(self, line):
        assert len(line) <= 65536, "the daemon sent a line beyond its own limit"
        message = json.loads(line)
        if self.check:
            if "id" in message:
                found = schema.reply_problems(self.methods.pop(_key(message["id"]), None), message)
            else:
                found = schema.notification_problems(message)
            assert not found, f"{found} in {message}"
        return message

    def next(self, seconds=GENEROUS_SECONDS):
        """The next message, whatever it is."""
        if self.pending:
            return self.pending.pop(0)
        message = self.receive(seconds)
        if message is None:
            raise AssertionError(f"nothing came within {seconds} s")
        return message

    def poll(self):
        """The next message if there is one, else None."""
        return self.pending.pop(0) if self.pending else self.receive(0)

    def wait_for(self, wanted, seconds=GENEROUS_SECONDS, what="a message"):
        """The first message for which `wanted` is true; the others stay for later, in their order."""
        for index, message in enumerate(self.pending):
            if wanted(message):
                return self.pending.pop(index)
        deadline = time.monotonic() + seconds
        while True:
            message = self.receive(max(0, deadline - time.monotonic()))
            if message is None:
                raise AssertionError(f"{what} did not come within {seconds} s; there are {self.pending}")
            if wanted(message):
                return message
            self.pending.append(message)

    def reply_to(self, request, seconds=GENEROUS_SECONDS):
        """The result of a request; raises RpcError when it was refused."""
        message = self.wait_for(
            lambda m: "id" in m and _key(m["id"]) == _key(request), seconds, f"the reply to {request}")
        if "error" in message:
            raise RpcError(message["error"])
        return message["result"]

    def error_of(self, request, seconds=GENEROUS_SECONDS):
        """The error of a request; fails when it was not refused."""
        try:
            result = self.reply_to(request, seconds)
        except RpcError as error:
            return error
        raise AssertionError(f"{request} was not refused: {result}")

    def notification(self, method, seconds=GENEROUS_SECONDS):
        """The params of the next notification of that name."""
        return self.wait_for(lambda m: m.get("method") == method, seconds, f"the notification {method}")["params"]

    def wait_for_end(self, seconds=GENEROUS_SECONDS):
        """Reads until the daemon closes the connection; gives what came before."""
        messages, self.pending = self.pending, []
        deadline = time.monotonic() + seconds
        while True:
            try:
                message = self.receive(max(0, deadline - time.monotonic()))
            except Ended:
                return messages
            assert message is not None, f"the connection was not closed within {seconds} s; there came {messages}"
            messages.append(message)

    # Methods

    def call(self, method, **params):
        return self.reply_to(self.request(method, **params))

    def acquire(self, name, **params):
        """Takes a lock and gives its token."""
        return self.call("acquire", name=name, **params)["token"]

    def try_acquire(self, name):
        """The token, or None when the lock is in use."""
        try:
            return self.acquire(name, wait_ms=0)
        except RpcError as error:
            if error.reason != "busy":
                raise
            return None

    def release(self, name, token=None):
        return self.call("release", name=name, **({} if token is None else {"token": token}))

    def ask_redis(self, **params):
        """Takes and gives back a lock of a new name: one that the host had lately would not be asked for."""
        name = f"new {uuid.uuid4().hex}"
        return self.release(name, self.acquire(name, **params))

    def queue(self, name, **params):
        """Sends an acquire that has to wait, and returns its id once it stands in the queue."""
        request = self.request("acquire", name=name, progress=True, **params)
        self.wait_for(
            lambda m: m.get("method") == "waiting" and m["params"]["id"] == request, what="its place in the queue")
        return request

    def ping(self):
        """A round trip: everything sent before it has been read by the daemon."""
        assert self.call("ping").keys() <= {"valid_ms"}


def _key(request):
    # 1 and "1" are two ids, and True is none.
    return (type(request).__name__, request)
