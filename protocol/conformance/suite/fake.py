"""A daemon that does what a scenario says."""

import json
import os
import select
import socket
import struct
import threading
import time

from .words import Mismatch

LIMITS = {"line_bytes": 65536, "name_bytes": 512, "names": 64, "owner_bytes": 128, "meta_bytes": 1024}
HELLO = {"protocol": 1, "server": {"name": "sidelock", "version": "0"}, "instance": "fake", "session": "7", "host": "fake",
         "backend": "redis", "lease_ms": 10000, "limits": LIMITS}


class Connection:
    """A client's connection. What is to be answered by itself is answered by the thread that reads."""

    def __init__(self, fake, peer):
        self.fake, self.peer = fake, peer
        self.requests, self.ended = [], False
        # Pieces of a byte fill the socket of a client that has ceased to read.
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(fake.patience), 0))
        self.lock = threading.Lock()

    def send(self, text, pieces=0):
        data = text.encode() if isinstance(text, str) else text
        with self.lock:
            try:
                for start in range(0, len(data), pieces or len(data) or 1):
                    self.peer.sendall(data[start:start + (pieces or len(data))])
                    if pieces:
                        time.sleep(0.0002)  # so that the pieces are read one by one
            except OSError:
                pass  # The client has gone, which the scenario asks for elsewhere.

    def run(self):
        buffer = b""
        while True:
            try:
                data = self.peer.recv(65536)
            except OSError:
                data = b""
            if not data:
                break
            *lines, buffer = (buffer + data).split(b"\n")
            for raw in filter(None, lines):
                self.received(raw)
        with self.fake.changed:
            self.ended = True
            self.fake.changed.notify_all()

    def received(self, raw):
        fake = self.fake
        try:
            message = json.loads(raw)
            if len(raw) > LIMITS["line_bytes"] or not isinstance(message, dict):
                raise ValueError
        except ValueError:
            message = {"method": "no request", "raw": raw[:80].decode(errors="replace")}
        with fake.changed:
            fake.history.append(f"> {raw[:300].decode(errors='replace')}")
            result = None if fake.deaf else fake.automatic.get(message.get("method"))
            if result is None:
                self.requests.append(message)
            fake.changed.notify_all()
        if result is not None and "id" in message:
            self.send(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}) + "\n")


class Fake:
    """Listens at a path."""

    def __init__(self, path, patience, automatic=None):
        self.path, self.patience = path, patience
        self.automatic = {"initialize": HELLO, "ping": {"valid_ms": 9000}, **(automatic or {})}
        self.changed = threading.Condition()
        self.connections, self.history = [], []
        self.deaf = False
        self.greeting = None  # a line that ends the next connection
        self.listens_first = True  # whether it does so when the client has written something
        self.listener = None
        self.listen()

    def listen(self):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(16)
        threading.Thread(target=self._accept, args=[self.listener], daemon=True).start()

    def _accept(self, listener):
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            connection = Connection(self, peer)
            with self.changed:
                self.connections.append(connection)
                greeting, self.greeting = self.greeting, None
                self.changed.notify_all()
            if greeting is not None:
                if self.listens_first:
                    peer.recv(65536)
                connection.send(greeting)
                peer.close()
                connection.ended = True
            else:
                threading.Thread(target=connection.run, daemon=True).start()

    def wait(self, condition, what):
        with self.changed:
            deadline = time.monotonic() + self.patience
            while True:
                found = condition()
                if found:
                    return found
                left = deadline - time.monotonic()
                if left <= 0:
                    raise Mismatch(f"the daemon waited for {what} in vain")
                self.changed.wait(left)

    def newest(self):
        return self.wait(lambda: self.connections[-1:], "a connection")[0]

    def expect(self, method, fits):
        """The first request of that method that fits, on any connection; it is taken out."""
        def find():
            for connection in self.connections:
                for index, request in enumerate(connection.requests):
                    if request.get("method") == method and fits(request):
                        del connection.requests[index]
                        return [request]
            return None
        return self.wait(find, method)[0]

    def unexpected(self, method):
        with self.changed:
            return [request for connection in self.connections for request in connection.requests
                    if request.get("method") == method]

    def send(self, messages, pieces=0):
        text = "".join(one if isinstance(one, str) else json.dumps({"jsonrpc": "2.0", **one}) + "\n" for one in messages)
        with self.changed:
            self.history.extend(f"< {part[:300]}" for part in text.replace("\0", "\\0").splitlines())
        self.newest().send(text, pieces)

    def close_connection(self):
        connection = self.newest()
        try:
            connection.peer.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        connection.peer.close()

    def client_closed(self):
        """The client has closed its connection, and not only its half of it."""
        connection = self.newest()
        self.wait(lambda: connection.ended, "the end of the connection")
        poll = select.poll()
        poll.register(connection.peer, 0)
        deadline = time.monotonic() + self.patience
        while not poll.poll(50):
            if time.monotonic() > deadline:
                raise Mismatch("the client has closed its half of the connection only")

    def gone(self):
        """No daemon any more."""
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        os.unlink(self.path)
        for connection in self.connections:
            try:
                connection.peer.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        try:
            self.gone()
        except OSError:
            pass
        for connection in self.connections:
            connection.peer.close()
