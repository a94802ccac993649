"""A primary with replicas, and the sentinels that watch over them."""

import os
import signal
import subprocess

import redis

from .redis_server import PROGRAM, RedisServer, free_port
from .waiting import GENEROUS_SECONDS, wait_until

MASTER = "locks"
DOWN_AFTER_MS = 500


class Node(RedisServer):
    """A server that comes back on the same port. `address`: from which it also speaks to others."""

    def __init__(self, directory, port, *args, address=None):
        self.fixed_port = port
        if address:
            self.address = address
            # To a server 127.0.0.1 alone is this host.
            args = (*args, "--bind-source-addr", address, "--protected-mode", "no")
        super().__init__(directory, "--port", str(port), *args)

    def start(self, data=None):
        super().start(data)
        self.port = self.fixed_port

    @property
    def role(self):
        try:
            return self.admin.execute_command("ROLE")[0].decode()
        except redis.exceptions.ConnectionError:
            return None

    def end(self):
        """SIGKILL, also while it is stopped."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Sentinel:
    """One process; its settings outlive it, as those of real ones do."""

    def __init__(self, directory, lines, address, port, **login):
        self.directory, self.address, self.port = directory, address, port
        self.path = directory / "sentinel.conf"
        self.path.write_text("\n".join(lines) + "\n")
        self.admin = redis.Redis(host=address, port=port, socket_timeout=GENEROUS_SECONDS, **login)
        self.start()

    def start(self):
        with open(self.directory / "sentinel.log", "ab") as log:
            self.process = subprocess.Popen([PROGRAM, self.path, "--sentinel"], stdout=log, stderr=log,
                                            stdin=subprocess.DEVNULL)
        wait_until(self.answers, "the sentinel's start")

    def answers(self):
        try:
            return self.admin.ping()
        except redis.exceptions.AuthenticationError:
            return True
        except redis.exceptions.ConnectionError:
            return False

    def stop(self):
        os.kill(self.process.pid, signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)

    def resume(self):
        os.kill(self.process.pid, signal.SIGCONT)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.admin.connection_pool.disconnect()

    def master(self):
        pairs = self.admin.execute_command("SENTINEL", "MASTER", MASTER)
        return pairs if isinstance(pairs, dict) else dict(zip(pairs[::2], pairs[1::2]))

    @property
    def told(self):
        """What it tells of the master, as text."""
        def text(value):
            return value.decode() if isinstance(value, bytes) else value

        return {text(key): text(value) for key, value in self.master().items()}

    @property
    def primary_port(self):
        return int(self.admin.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)[1])

    def listeners(self):
        """The daemons that listen to it."""
        return [c for c in self.admin.client_list() if c["name"].startswith("sidelockd") and int(c["sub"]) > 0]


class SentinelSet:
    """`servers[0]` is the primary at first. `network`: in which each server and sentinel has an
    address of its own."""

    def __init__(self, lab, replicas=2, sentinels=3, server_args=(), sentinel_lines=(), login=None, tls_ports=False,
                 sentinel_port=None, network=None):
        self.lab, self.network = lab, network
        # Those for TLS are what sentinels speak of, where there are any.
        self.server_args, self.tls_ports = server_args, tls_ports
        self.servers = []
        for _ in range(1 + replicas):
            self._start_server()
        primary = self.servers[0]
        for replica in self.servers[1:]:
            replica.admin.execute_command("REPLICAOF", primary.address, primary.told_port)
        self.sentinel_lines, self.login = sentinel_lines, login or {}
        self.sentinels = []
        self.quorum = sentinels // 2 + 1
        for _ in range(sentinels):
            self.start_sentinel(primary, sentinel_port or free_port())
        self.settle()

    def _start_server(self):
        place = self.lab._place("r", len(self.lab.servers))
        port = free_port()
        tls = ["--tls-port", str(tls_port := free_port())] if self.tls_ports else []
        node = Node(place, port, *tls, *self.server_args, "--repl-diskless-sync-delay", "0",
                    address=self.network and self.network.address())
        node.told_port = tls_port if self.tls_ports else port
        self.servers.append(node)
        self.lab.servers.append(node)

    def start_sentinel(self, primary, port):
        place = self.lab.directory / f"sentinel{len(self.sentinels)}"
        place.mkdir()
        address = self.network.address() if self.network else "127.0.0.1"
        lines = [
            *([f"bind-source-addr {address}", "protected-mode no"] if self.network else []),
            *([f"tls-port {port}", "port 0"] if self.tls_ports else [f"port {port}"]), f"bind {address}", f"dir {place}",
            f"sentinel monitor {MASTER} {primary.address} {primary.told_port} {self.quorum}",
            f"sentinel down-after-milliseconds {MASTER} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {MASTER} 3000", f"sentinel parallel-syncs {MASTER} 2", *self.sentinel_lines]
        sentinel = Sentinel(place, lines, address, port, **self.login)
        self.sentinels.append(sentinel)
        self.lab.track(sentinel.process)

    def restart_sentinel(self, sentinel):
        sentinel.start()
        self.lab.track(sentinel.process)

    @property
    def url(self):
        return self.url_of(*self.sentinels)

    def url_of(self, *sentinels, scheme=None):
        hosts = ",".join(f"{sentinel.address}:{sentinel.port}" for sentinel in sentinels)
        scheme = scheme or ("rediss-sentinel" if self.tls_ports else "redis-sentinel")
        return f"{scheme}://{hosts}?sentinelMasterId={MASTER}"

    @property
    def primary(self):
        return next(server for server in self.servers if server.role == "master")

    @property
    def failovers(self):
        """How many there were: on a busy machine a primary that is well may seem to be down."""
        return max(int(sentinel.told["config-epoch"]) for sentinel in self.sentinels if sentinel.process.poll() is None)

    def settle(self):
        """Waits until everybody knows everybody, and all is well."""
        def is_settled():
            for sentinel in self.sentinels:
                try:
                    told = sentinel.told
                except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError):
                    return False
                flags = told["flags"]
                if int(told["num-other-sentinels"]) != len(self.sentinels) - 1:
                    return False
                if int(told["num-slaves"]) < len(self.servers) - 1 or flags != "master":
                    return False
            masters = [server for server in self.servers if server.role == "master"]
            if len(masters) != 1 or {s.primary_port for s in self.sentinels} != {masters[0].told_port}:
                return False
            return all(s.admin.info("replication")["master_link_status"] == "up" for s in self.servers if s not in masters)

        # One that finds itself held up on a busy machine does nothing for half a minute (TILT).
        wait_until(is_settled, "a set in which all is well", seconds=3 * GENEROUS_SECONDS, pause=0.05)

    def wait_for_failover(self, old, sentinels=None):
        """Waits until the sentinels name another primary than `old`."""
        for sentinel in sentinels or self.sentinels:
            wait_until(lambda: sentinel.primary_port != old.told_port, "a failover", pause=0.02)
