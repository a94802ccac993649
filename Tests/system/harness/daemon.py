"""A real sidelockd, watched the way systemd would."""

import os
import pathlib
import signal
import socket
import subprocess
import threading
import time

from .client import Client
from .waiting import GENEROUS_SECONDS, wait_until

ROOT = pathlib.Path(__file__).resolve().parents[3]


def binary(name, variable):
    """The program under test: from the environment, else the release build, else the debug build."""
    candidates = [os.environ.get(variable), ROOT / ".build/release" / name, ROOT / ".build/debug" / name]
    for candidate in candidates:
        if candidate and os.access(candidate, os.X_OK):
            return str(pathlib.Path(candidate).resolve())
    raise FileNotFoundError(f"{name} is not built: run swift build, or set {variable}")


def clean_environment(**more):
    """The environment without what could configure a daemon or a client."""
    kept = {k: v for k, v in os.environ.items()
            if not k.startswith("SIDELOCK") and k not in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")}
    return {**kept, **more}


class NotifySocket:
    """Stands in for systemd's notify socket. As systemd does, it closes the descriptors that come along, for which a
    sender of BARRIER=1 waits; so it reads in a thread of its own."""

    def __init__(self, path):
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.messages = []  # (monotonic seconds, text), one entry a line
        self.drained = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        while True:
            data, descriptors, _, _ = socket.recv_fds(self.socket, 1 << 16, 8)
            now = time.monotonic()
            for descriptor in descriptors:
                os.close(descriptor)
            if data == b"close":
                return
            if data == b"drained":
                self.drained.set()
                continue
            self.messages.extend((now, line) for line in data.decode().splitlines())

    def lines(self, prefix):
        return [text for _, text in list(self.messages) if text.startswith(prefix)]

    def drain(self):
        """Forgets all that was sent so far, what the thread has not read yet included."""
        self.drained.clear()
        self._say(b"drained")
        assert self.drained.wait(GENEROUS_SECONDS)
        self.messages = []

    def _say(self, word):
        """Datagrams are read in the order in which they were sent."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
            own.sendto(word, self.path)

    def close(self):
        self._say(b"close")
        self.thread.join()
        self.socket.close()


class Daemon:
    """One host. It is ready when the constructor returns."""

    def __init__(self, directory, redis_url=None, lease_ms=None, args=(), env=None, wait=True, socket_path=None, prefix=()):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(exist_ok=True)
        self.socket_path = pathlib.Path(socket_path or self.directory / "s.sock")
        self.log_path = self.directory / "daemon.log"
        self.command = [*prefix, binary("sidelockd", "SIDELOCKD"), "--socket", str(self.socket_path)]
        self.command += ["--local"] if redis_url is None else ["--redis", redis_url]
        self.command += [] if lease_ms is None else ["--lease-ms", str(lease_ms)]
        self.command += list(args)
        self.env = env or {}
        self.notify = None
        self.process = None
        self.may_fail = False  # set when a test kills it on purpose
        self.clients = []
        self.start(wait)

    def start(self, wait=True):
        if self.notify:
            self.notify.close()
            self.notify = None
        notify_path = self.directory / "n.sock"
        notify_path.unlink(missing_ok=True)
        self.notify = NotifySocket(notify_path)
        self.may_fail = False
        self.started = time.monotonic()
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                env=clean_environment(NOTIFY_SOCKET=self.notify.path, **self.env))
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self):
        """Waits for READY=1, and gives the seconds it took."""
        wait_until(lambda: self.notify.lines("READY=1") or self.process.poll() is not None, "READY=1", pause=0.001)
        if not self.notify.lines("READY=1"):
            raise AssertionError(f"sidelockd ended with {self.process.returncode}: {self.log()}")
        return next(at for at, text in self.notify.messages if text == "READY=1") - self.started

    @property
    def pid(self):
        return self.process.pid

    def client(self, **options):
        client = Client(self.socket_path, **options)
        self.clients.append(client)
        return client

    def knock(self):
        """A new connection, and what it is told first: that it is served, or why not."""
        client = self.client(check=False)
        try:
            client.request("ping")
        except BrokenPipeError:
            pass
        return client, client.next()

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def signal(self, number):
        os.kill(self.pid, number)

    def reload(self):
        """Has it read its settings again; returns when they are in force, or have been refused."""
        self.notify.drain()
        self.signal(signal.SIGHUP)
        wait_until(lambda: self.notify.lines("READY=1"), "the end of the reload")

    def stop(self):
        """SIGSTOP; returns when the kernel has stopped it."""
        self.signal(signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def resume(self):
        self.signal(signal.SIGCONT)

    def kill(self):
        self.may_fail = True
        self.process.kill()
        self.process.wait()

    def terminate(self, seconds=GENEROUS_SECONDS):
        """SIGTERM, and its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def finish(self):
        """At the end of a test: it must still be alive, and go in peace."""
        for client in self.clients:
            client.close()
        try:
            if self.process.poll() is None:
                self.resume()
                status = self.terminate()
            else:
                status = self.process.returncode
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"sidelockd did not end after SIGTERM: {self.log()[-4000:]}") from None
        finally:
            self.notify.close()
            self.notify = None
        assert self.may_fail or status == 0, f"sidelockd ended with {status}: {self.log()[-4000:]}"

    # What /proc tells

    def resident_bytes(self):
        return int(pathlib.Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def cpu_seconds(self):
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def cpu_nanoseconds(self):
        """The same, exact to the scheduler's clock; summed over its threads."""
        total = 0
        for task in pathlib.Path(f"/proc/{self.pid}/task").iterdir():
            try:
                total += int((task / "schedstat").read_text().split()[0])
            except FileNotFoundError:
                pass
        return total

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))
