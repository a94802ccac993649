"""A private redis-server, and a look at the commands that it executes."""

import functools
import os
import pathlib
import re
import signal
import socket
import subprocess
import time
import uuid

import redis

from .waiting import GENEROUS_SECONDS, wait_until


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wrong_clock(directory):
    """The library of wrong_clock.c, made in `directory`."""
    library = pathlib.Path(directory) / "wrong_clock.so"
    if not library.exists():
        source = pathlib.Path(__file__).with_name("wrong_clock.c")
        subprocess.run(["clang", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, source], check=True)
    return library


# Another server than that of the system, such as one of Tests/lib/servers.py.
PROGRAM = os.environ.get("SIDELOCK_TEST_REDIS", "redis-server")


# Whether daemons have the login of a user with the rights that packaging/settings.md says are enough, and no others.
HAS_ACL = os.environ.get("SIDELOCK_TEST_ACL") == "1"
ACL_LOGIN = "locks:acl-of-the-tests"


def acl_rules():
    """Those that packaging/settings.md says are enough."""
    text = (pathlib.Path(__file__).resolve().parents[3] / "packaging/settings.md").read_text()
    return re.search(r"^ACL SETUSER locks on >PASSWORD (.*)$", text, re.M)[1]


@functools.cache
def version():
    """That of the server, such as (7, 0, 15)."""
    said = subprocess.run([PROGRAM, "--version"], check=True, capture_output=True, text=True).stdout
    return tuple(int(number) for number in re.search(r" v=([0-9.]+) ", said)[1].split("."))


class RedisServer:
    """Runs in `directory`, on a Unix socket and a TCP port of the loopback interface. It keeps no data on disk, unless
    it is told to."""

    address = "127.0.0.1"

    def __init__(self, directory, *args):
        self.directory = pathlib.Path(directory)
        self.socket_path = self.directory / "redis.sock"
        self.args = args
        self.process = None
        self.port = None
        self.log_path = self.directory / "redis.log"
        # By how much its wall clock is wrong from its next start on.
        self.clock_seconds = 0
        # An administrator's connection: no tests of a client library's own retries here.
        self.admin = redis.Redis(unix_socket_path=str(self.socket_path), socket_timeout=GENEROUS_SECONDS)
        self.start()

    @property
    def user(self):
        """Whose login daemons have."""
        return ACL_LOGIN.split(":")[0] if HAS_ACL else "default"

    @property
    def login(self):
        """What stands before the host in a URL."""
        return f"{ACL_LOGIN}@" if HAS_ACL else ""

    @property
    def url(self):
        return f"unix://{self.login}{self.socket_path}"

    @property
    def tcp_url(self):
        return f"redis://{self.login}{self.address}:{self.port}"

    @property
    def pid(self):
        return self.process.pid

    def start(self, data=None):
        """Starts with the data of a snapshot, or with none."""
        dump = self.directory / "dump.rdb"
        dump.unlink(missing_ok=True)
        if data is not None:
            dump.write_bytes(data)
        env = dict(os.environ)
        name, password = ACL_LOGIN.split(":")
        # It is there before anybody can connect.
        user = ["--user", name, "on", f">{password}", *acl_rules().split()] if HAS_ACL else []
        if self.clock_seconds:
            env.update(LD_PRELOAD=str(wrong_clock(self.directory)), WRONG_CLOCK_SECONDS=str(self.clock_seconds))
        for _ in range(5):
            self.port = free_port()
            with open(self.log_path, "ab") as log:
                self.process = subprocess.Popen(
                    [PROGRAM, "--bind", self.address, "--port", str(self.port), "--unixsocket",
                     str(self.socket_path), "--save", "", "--appendonly", "no", "--dir", str(self.directory),
                     "--maxclients", "10000", *(["--enable-debug-command", "local"] if version() >= (7,) else []), *user, *self.args],
                    stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=env)
            if wait_until(lambda: self._answers() or self.process.poll() is not None, "redis-server's start"):
                if self.process.poll() is None:
                    return
        raise AssertionError(f"redis-server does not start: {self.log_path.read_text()}")

    def _answers(self):
        try:
            return self.admin.ping()
        except redis.exceptions.AuthenticationError:
            return True
        except (redis.exceptions.ConnectionError, redis.exceptions.BusyLoadingError):
            return False

    def stop(self):
        """SIGSTOP: it is there, and says nothing. Returns when the kernel has stopped it."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def resume(self):
        os.kill(self.pid, signal.SIGCONT)

    def kill(self):
        """SIGKILL. Whatever it held is gone."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.admin.connection_pool.disconnect()
        self.socket_path.unlink(missing_ok=True)

    def restart(self, data=None):
        self.kill()
        self.start(data)

    def snapshot(self):
        """All data as they are now, to start with later."""
        def is_saved():
            try:
                return self.admin.save()
            except redis.ResponseError as error:
                # A replica may just have asked for one.
                if "in progress" not in str(error):
                    raise
                return False

        wait_until(is_saved, "a snapshot")
        return (self.directory / "dump.rdb").read_bytes()

    def keys(self):
        """All keys but that of the epoch, which stays."""
        return sorted(set(self.admin.keys("*")) - {b"sidelock:epoch"})

    def daemon_connections(self):
        """The connections that are not this administrator's own."""
        own = self.admin.client_id()
        return [c for c in self.admin.client_list() if int(c["id"]) != own and c["cmd"] != "monitor"]

    def monitor(self):
        return Monitor(self)


class Monitor:
    """The commands that the server executes, in their order, from the moment this exists."""

    def __init__(self, server):
        self.server = server
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(GENEROUS_SECONDS)
        self.socket.connect(str(server.socket_path))
        self.file = self.socket.makefile("rb")
        self.socket.sendall(b"MONITOR\r\n")
        assert self.file.readline() == b"+OK\r\n"

    def commands(self):
        """What has been executed since the last call, as (seconds, text); scripts' own commands are left out."""
        marker = uuid.uuid4().hex
        self.server.admin.execute_command("ECHO", marker)
        found = []
        while True:
            line = self.file.readline().decode("utf-8", "replace").strip()
            assert line, "MONITOR ended"
            if marker in line:
                return found
            head, _, text = line.partition("] ")
            if " lua" in head or text.upper().startswith('"CLIENT" "SETINFO"'):
                continue
            found.append((float(head[1:].split()[0]), text))

    def settle(self):
        """Waits until the server has executed nothing new for half a second, and forgets what it did before. A host that waits
        says the same each second."""
        deadline = time.monotonic() + GENEROUS_SECONDS
        quiet_since, known = time.monotonic(), set()
        while time.monotonic() < quiet_since + 0.5:
            texts = {text for _, text in self.commands()}
            if texts - known:
                quiet_since = time.monotonic()
            known |= texts
            assert time.monotonic() < deadline, "the server has no rest"
            time.sleep(0.02)

    def close(self):
        self.file.close()
        self.socket.close()
