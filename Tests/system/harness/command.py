"""`sidelock` as a process, and a look at the processes that it starts."""

import os
import pathlib
import pty
import signal
import subprocess

from .daemon import binary, clean_environment
from .waiting import GENEROUS_SECONDS


class Command:
    """`sidelock` with the daemon's socket."""

    def __init__(self, lab, daemon):
        self.lab, self.daemon = lab, daemon

    @property
    def environment(self):
        return clean_environment(SIDELOCK_SOCKET=str(self.daemon.socket_path), XDG_RUNTIME_DIR="/nonexistent")

    def start(self, *args, **options):
        return self.lab.track(subprocess.Popen(
            [binary("sidelock", "SIDELOCK"), *map(str, args)], text=True,
            **{"start_new_session": True, "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
            env=self.environment))

    def run(self, *args, stdin=None):
        process = self.start(*args, stdin=subprocess.PIPE)
        out, err = process.communicate(stdin, timeout=GENEROUS_SECONDS)
        return process.returncode, out, err


def terminal_output(command, *arguments):
    """The status, and the lines that the command prints for people, on a terminal."""
    terminal, side = pty.openpty()
    process = command.start(*arguments, stdout=side)
    os.close(side)
    output = b""
    while True:
        try:
            output += os.read(terminal, 4096)
        except OSError:  # Nobody has the other side any more.
            break
    os.close(terminal)
    return process.wait(GENEROUS_SECONDS), output.decode().splitlines()


def check_urls(program, refused, accepted, shown):
    """`sidelockd --check` names what is wrong in each URL of `refused`, without its password, and shows `accepted` as `shown`."""
    def check(url):
        return subprocess.run([program, "--check", "--redis", url], capture_output=True, text=True, env=clean_environment())

    for url, words in refused:
        done = check(url)
        assert done.returncode == 78 and words in done.stderr and "hunter2" not in done.stderr, done.stderr
    done = check(accepted)
    assert done.returncode == 0 and shown in done.stdout


def process_stat(pid):
    """The fields of /proc/PID/stat behind the name (state, parent, group, …), or None."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def process_state(pid):
    """One letter, such as T for stopped; X for a process that is no more."""
    stat = process_stat(pid)
    return stat[0] if stat else "X"


def is_alive(pid):
    return process_state(pid) not in "ZX"


def children(pid):
    """The children that have not ended: id and name of each."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        stat = process_stat(path.name)
        if stat and stat[1] == str(pid) and stat[0] not in "ZX":
            found.append((int(path.name), (path / "comm").read_text().strip()))
    return found


def stop_beyond_keepalive(process, daemon):
    """Stops a process for longer than the keepalive of a wait lasts: one like it ends meanwhile."""
    control, client = daemon.client(), daemon.client()
    os.kill(process.pid, signal.SIGSTOP)
    control.call("initialize", keepalive_ms=6000)
    control.acquire("control")
    client.acquire("control")
