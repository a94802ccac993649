"""A path to a TCP server over which everything takes long."""

import collections
import socket
import threading
import time


class SlowPath:
    """Listens on `port` and forwards to `to_port`; bytes arrive `seconds` later, each way. It ends with the process."""

    def __init__(self, to_port, seconds):
        self.to_port, self.seconds = to_port, seconds
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self._begin(self._accept)

    @staticmethod
    def _begin(body, *args):
        threading.Thread(target=body, args=args, daemon=True).start()

    def _accept(self):
        while True:
            near, _ = self.listener.accept()
            try:
                far = socket.create_connection(("127.0.0.1", self.to_port))
            except OSError:
                near.close()
                continue
            for source, target in ((near, far), (far, near)):
                under_way = collections.deque()
                arrived = threading.Semaphore(0)
                self._begin(self._read, source, under_way, arrived)
                self._begin(self._write, target, under_way, arrived)

    def _read(self, source, under_way, arrived):
        data = b"."
        while data:
            try:
                data = source.recv(1 << 16)
            except OSError:
                data = b""
            under_way.append((time.monotonic() + self.seconds, data))
            arrived.release()

    @staticmethod
    def _write(target, under_way, arrived):
        data = b"."
        while data:
            arrived.acquire()
            due, data = under_way.popleft()
            time.sleep(max(0, due - time.monotonic()))
            try:
                target.sendall(data)
            except OSError:
                break
        target.close()
