"""Everything that one test starts, and that ends with it."""

import pathlib
import shutil
import tempfile

from .daemon import Daemon
from .proxy import Proxy
from .redis_server import RedisServer


class Lab:
    """Starts servers, daemons and proxies in a directory with a short name, because socket paths are short."""

    def __init__(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="sl-", dir="/tmp"))
        self.servers, self.daemons, self.proxies, self.processes = [], [], [], []

    def _place(self, letter, count):
        place = self.directory / f"{letter}{count}"
        place.mkdir()
        return place

    def redis(self, *args):
        server = RedisServer(self._place("r", len(self.servers)), *args)
        self.servers.append(server)
        return server

    def proxy(self, server):
        proxy = Proxy(self._place("p", len(self.proxies)), server)
        self.proxies.append(proxy)
        return proxy

    def daemon(self, store=None, **options):
        """A daemon on `store` (a server or a proxy); without one, a local daemon."""
        daemon = Daemon(self._place("d", len(self.daemons)), store.url if store else None, **options)
        self.daemons.append(daemon)
        return daemon

    def track(self, process):
        """A process of the test's own, killed at the end if it still runs."""
        self.processes.append(process)
        return process

    def logs(self):
        return [(f"sidelockd {index}, pid {daemon.process.pid}", daemon.log()[-8000:])
                for index, daemon in enumerate(self.daemons)]

    def close(self):
        faults = []
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        for server in self.servers:
            if server.process.poll() is None:
                server.resume()
        for daemon in self.daemons:
            try:
                daemon.finish()
            except AssertionError as fault:
                faults.append(str(fault))
        for proxy in self.proxies:
            proxy.close()
        for server in self.servers:
            server.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
        assert not faults, "\n".join(faults)
