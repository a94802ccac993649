"""`sidelock exporter` as a process, and HTTP to it, byte by byte where that matters."""

import http.client
import select
import socket

from .waiting import GENEROUS_SECONDS, wait_until


class Exporter:
    """It listens when the constructor returns."""

    def __init__(self, command, *arguments, listen="127.0.0.1:0", **options):
        self.process = command.start("exporter", "--listen", listen, *arguments, **options)
        ready, _, _ = select.select([self.process.stdout], [], [], GENEROUS_SECONDS)
        assert ready, "it does not listen"
        self.address = self.process.stdout.readline().strip()
        assert self.address, self.process.communicate(timeout=GENEROUS_SECONDS)

    def connect(self):
        """A connection, as a socket."""
        if self.address.startswith("unix:"):
            own = socket.socket(socket.AF_UNIX)
            own.settimeout(GENEROUS_SECONDS)
            own.connect(self.address.removeprefix("unix:"))
            return own
        host, _, port = self.address.rpartition(":")
        return socket.create_connection((host.strip("[]"), int(port)), timeout=GENEROUS_SECONDS)

    def get(self, path, method="GET"):
        """The status, the headers and the text of an answer."""
        connection = http.client.HTTPConnection("localhost", timeout=GENEROUS_SECONDS)
        connection.sock = self.connect()
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode()
        finally:
            connection.close()

    def say(self, data):
        """Sends bytes, and gives what comes until the exporter closes the connection."""
        with self.connect() as own:
            try:
                own.sendall(data)
            except (BrokenPipeError, ConnectionResetError):
                pass
            return rest(own)

    def end(self):
        """Has it end, and gives its status."""
        self.process.terminate()
        return self.process.wait(GENEROUS_SECONDS)

    def wait_for(self, path, status):
        wait_until(lambda: self.get(path)[0] == status, f"{status} of {path}", pause=0.05)


def rest(own):
    """All that comes over a connection until the other side closes it."""
    data = b""
    while True:
        try:
            more = own.recv(65536)
        except ConnectionResetError:
            return data
        if not more:
            return data
        data += more
