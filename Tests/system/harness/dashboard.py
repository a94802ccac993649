"""`sidelock dashboard` as a process, and requests to it."""

import http.client
import json
import select
import urllib.parse

from .waiting import GENEROUS_SECONDS

TOKEN_HEADER = "X-Sidelock-Token"


class Dashboard:
    """It listens when the constructor returns."""

    def __init__(self, command, *arguments, **options):
        self.process = command.start("dashboard", *arguments, **options)
        ready, _, _ = select.select([self.process.stdout], [], [], GENEROUS_SECONDS)
        assert ready, "it does not listen"
        line = self.process.stdout.readline()
        assert line, self.process.communicate(timeout=GENEROUS_SECONDS)
        self.told = json.loads(line)
        self.url = self.told["url"]
        parts = urllib.parse.urlsplit(self.url)
        self.host, self.port = parts.hostname, parts.port
        self.token = parts.path.strip("/")

    def request(self, method, path, body=None, token=None, host=None, headers=()):
        """The status, the headers and the bytes of an answer."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=GENEROUS_SECONDS)
        try:
            connection.putrequest(method, path, skip_host=True)
            connection.putheader("Host", host or f"{self.host}:{self.port}")
            data = None if body is None else json.dumps(body).encode()
            for name, value in [*headers, *([(TOKEN_HEADER, token)] if token else []),
                                *([("Content-Length", str(len(data)))] if data else [])]:
                connection.putheader(name, value)
            connection.endheaders(data)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def ask(self, call, **params):
        """The status of a call with the token, and what it tells."""
        status, _, data = self.request("POST", f"/api/{call}", params, self.token)
        return status, json.loads(data)

    def end(self):
        """Has it end, and gives its status."""
        self.process.terminate()
        return self.process.wait(GENEROUS_SECONDS)
