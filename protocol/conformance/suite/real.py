"""A real sidelockd, and raw connections to it."""

import json
import os
import signal
import socket
import subprocess
import threading
import time

from .words import START_SECONDS, Mismatch


def clean_environment(**more):
    """The environment without what could configure a daemon or a client."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SIDELOCK") and key not in (
        "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "XDG_RUNTIME_DIR")}
    return {**kept, **{key: value for key, value in more.items() if value is not None}}


class Daemon:
    """`sidelockd --local`, which serves when the constructor returns."""

    def __init__(self, program, path, directory, patience, arguments=()):
        self.path, self.patience = path, patience
        self.command = [program, "--local", "--socket", path, *arguments]
        self.log_path = os.path.join(directory, "sidelockd.log")
        self.process = None
        self.start()

    def start(self):
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env=clean_environment())
        deadline = time.monotonic() + max(self.patience, START_SECONDS)
        while True:
            try:
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.connect(self.path)
                    return
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    self.close()
                    with open(self.log_path, errors="replace") as log:
                        raise Mismatch(f"sidelockd does not serve: {log.read()[-2000:]}") from None
                time.sleep(0.005)

    def do(self, what):
        if what == "start":
            self.start()
        elif what == "stop":
            self.process.send_signal(signal.SIGSTOP)
            os.waitpid(self.process.pid, os.WUNTRACED)
        elif what == "continue":
            self.process.send_signal(signal.SIGCONT)
        elif what == "kill":
            self.process.kill()
            self.process.wait()
        elif what == "terminate":
            self.process.terminate()
            self.process.wait(self.patience)
        else:
            raise ValueError(f"a daemon cannot {what}")

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Service:
    """The daemon as a service of the systemd that is process 1 here."""

    def __init__(self, unit, path, patience):
        self.unit, self.path, self.patience = unit, path, patience
        self.systemctl("start", unit)

    def systemctl(self, *arguments):
        done = subprocess.run(["systemctl", *arguments], capture_output=True, text=True, timeout=self.patience * 2, check=False)
        if done.returncode != 0:
            raise Mismatch(f"systemctl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def do(self, what):
        if what == "restart":
            self.systemctl("restart", self.unit)
        elif what == "start":
            self.systemctl("start", self.unit)
        elif what == "terminate":
            self.systemctl("stop", self.unit)
        elif what in ("kill", "stop"):
            # Where it hangs, the watchdog ends it; either way systemd starts another one.
            before = self.systemctl("show", "-P", "MainPID", self.unit)
            os.kill(int(before), signal.SIGKILL if what == "kill" else signal.SIGSTOP)
            deadline = time.monotonic() + self.patience
            while self.systemctl("show", "-P", "MainPID", self.unit) in (before, "0") or (
                    self.systemctl("show", "-P", "ActiveState", self.unit) != "active"):
                if time.monotonic() > deadline:
                    raise Mismatch(f"systemd has started no other {self.unit}")
                time.sleep(0.05)
        else:
            raise ValueError(f"a service cannot {what}")

    def close(self):
        pass  # It is the machine's.


class Witness:
    """A connection that the scenario uses itself."""

    def __init__(self, path, patience):
        self.patience = patience
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.changed = threading.Condition()
        self.replies, self.notifications = {}, []
        self.last = 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        try:
            with self.socket.makefile("rb") as lines:
                for raw in lines:
                    message = json.loads(raw)
                    with self.changed:
                        if message.get("id") is not None:
                            self.replies[message["id"]] = message
                        else:
                            self.notifications.append(message)
                        self.changed.notify_all()
        except OSError:
            pass

    def request(self, method, params):
        self.last += 1
        self.socket.sendall(json.dumps({"id": self.last, "method": method, "params": params}).encode() + b"\n")
        return self.last

    def _wait(self, find, what):
        with self.changed:
            deadline = time.monotonic() + self.patience
            while True:
                found = find()
                if found is not None:
                    return found
                left = deadline - time.monotonic()
                if left <= 0:
                    raise Mismatch(f"the witness waited for {what} in vain")
                self.changed.wait(left)

    def reply(self, number):
        return self._wait(lambda: self.replies.get(number), "a reply")

    def notification(self, method, fits):
        return self._wait(lambda: next(
            (one for one in self.notifications if one.get("method") == method and fits(one.get("params"))), None), method)

    def close(self):
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.socket.close()
