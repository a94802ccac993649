"""Stands in for systemd as far as a restart goes: it has the daemon's socket and keeps the descriptors that the daemon
stores with it, and hands both to the next one."""

import array
import fcntl
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading

from .client import Client
from .daemon import binary, clean_environment
from .waiting import GENEROUS_SECONDS, wait_until

HAND_OVER, STOP = signal.SIGRTMIN + 1, signal.SIGRTMIN + 2
# Puts the descriptors where a service finds them, and becomes the service.
TAKE_PLACES = """
import os, sys
for place, descriptor in enumerate(sys.argv[1].split(","), 3):
    os.dup2(int(descriptor), place)
    os.close(int(descriptor))
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""
STORE_MAX = 64


class ServiceManager:
    """A service whose daemon is `sidelockd ARGS`."""

    def __init__(self, lab, *args):
        self.lab, self.args = lab, list(map(str, args))
        self.prefix = []
        # Whether it keeps what it is given.
        self.keeps = True
        self.directory = lab.directory / f"manager-{id(self)}"
        self.directory.mkdir()
        self.path = str(self.directory / "s.sock")
        self.log_path = self.directory / "daemon.log"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(128)
        self.store = []  # (name, descriptor)
        self.lines = []
        self.process = None
        self.heard = 0
        self.notify_path = str(self.directory / "n.sock")
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(self.notify_path)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        while True:
            data, ancillary, _, _ = self.notify.recvmsg(1 << 16, socket.CMSG_SPACE(64))
            descriptors = array.array("i")
            for level, kind, payload in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    descriptors.frombytes(payload[:len(payload) - len(payload) % descriptors.itemsize])
            lines = data.decode().splitlines()
            fields = dict(line.split("=", 1) for line in lines)
            if fields.get("FDSTOREREMOVE") == "1":
                for name, descriptor in [entry for entry in self.store if entry[0] == fields["FDNAME"]]:
                    self.store.remove((name, descriptor))
                    os.close(descriptor)
            if fields.get("FDSTORE") == "1" and self.keeps:
                self.store += [(fields["FDNAME"], descriptor) for descriptor in descriptors]
            else:
                for descriptor in descriptors:
                    os.close(descriptor)
            self.lines += lines

    def status(self):
        return next((line[7:] for line in reversed(self.lines) if line.startswith("STATUS=")), "")

    def log(self):
        return self.log_path.read_text() if self.log_path.exists() else ""

    def _hear(self):
        """Returns when everything that was sent before has been dealt with, as systemd does before it starts another."""
        self.heard += 1
        word = f"HEARD={self.heard}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
            own.sendto(word.encode(), self.notify_path)
        wait_until(lambda: word in self.lines, "everything that the daemon said")

    def spawn(self):
        """Starts a daemon; it may not come to serve."""
        self._hear()
        self.lines = []
        handed = [("sidelock", self.listener.fileno()), *self.store]
        # Out of the way of the numbers that they are to have.
        copies = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 200) for _, descriptor in handed]
        with open(self.log_path, "ab") as log:
            self.process = self.lab.track(subprocess.Popen(
                [sys.executable, "-S", "-c", TAKE_PLACES, ",".join(map(str, copies)), *self.prefix,
                 binary("sidelockd", "SIDELOCKD"), *self.args],
                env=clean_environment(
                    NOTIFY_SOCKET=self.notify_path, FDSTORE=str(STORE_MAX), LISTEN_FDS=str(len(handed)),
                    LISTEN_FDNAMES=":".join(name for name, _ in handed)),
                pass_fds=copies, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        for copy in copies:
            os.close(copy)

    def start(self):
        self.spawn()
        wait_until(lambda: "READY=1" in self.lines or self.process.poll() is not None, "READY=1")
        assert "READY=1" in self.lines, self.log()

    def stop(self, hand_over=False, announced=True):
        """As systemd does it; not announced, where the command of ExecStop= fails."""
        if announced:
            self.process.send_signal(HAND_OVER if hand_over else STOP)
        self.process.terminate()
        status = self.process.wait(GENEROUS_SECONDS)
        # Without a daemon that follows the store is emptied.
        if not hand_over:
            self._hear()
            self.drop()
        return status

    def drop(self):
        for _, descriptor in self.store:
            os.close(descriptor)
        self.store = []

    def restart(self, announced=True):
        assert self.stop(hand_over=True, announced=announced) == 0, self.log()
        self.start()

    def crash(self):
        self.process.kill()
        self.process.wait()

    def reload(self):
        self.lines = []
        self.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "READY=1" in self.lines, "the end of the reload")

    def client(self, **options):
        return Client(pathlib.Path(self.path), **options)
