"""`sidelock top` on a terminal, as somebody sees it: screens that tmux has captured."""

import os
import pathlib
import pty
import re
import shlex
import shutil
import signal
import subprocess
import termios

import pytest

from harness.command import Command, children, process_state
from harness.daemon import binary
from harness.waiting import GENEROUS_SECONDS, wait_until

pytestmark = pytest.mark.skipif(not shutil.which("tmux"), reason="there is no tmux")


class Terminal:
    """A shell in a terminal of its own."""

    def __init__(self, lab, environment, columns=80, rows=24):
        self.socket = lab.directory / "tmux"
        self.command = ["tmux", "-S", str(self.socket), "-f", "/dev/null"]
        self.environment = {**environment, "TERM": "xterm", "LC_ALL": "C.UTF-8"}
        self.tmux("new-session", "-d", "-x", str(columns), "-y", str(rows), "exec env 'PS1=here> ' bash --norc --noprofile")
        self.wait("here>")

    def tmux(self, *arguments):
        return subprocess.run(
            [*self.command, *arguments], env=self.environment, capture_output=True, text=True, check=True,
            timeout=GENEROUS_SECONDS).stdout

    def screen(self):
        return self.tmux("capture-pane", "-p").split("\n")[:-1]

    def wait(self, *texts):
        """The lines of the screen, once all of these texts are on it."""
        wait_until(lambda: all(text in "\n".join(self.screen()) for text in texts), f"{texts} on the screen")
        return self.screen()

    def press(self, *keys):
        self.tmux("send-keys", *keys)

    def run(self, text):
        self.tmux("send-keys", "-l", text)
        self.press("Enter")

    def asked(self, what):
        return self.tmux("display-message", "-p", what).strip()

    def is_as_before(self):
        """Neither the other screen nor a hidden cursor is left, and the shell's line is edited and shown."""
        return self.asked("#{alternate_on} #{cursor_flag}") == "0 1"

    def settings(self):
        """What `stty` says, behind the prompt that follows."""
        self.press("C-l")
        wait_until(lambda: "icanon" not in "\n".join(self.screen()), "the screen cleared of what it said before")
        self.run("stty -a; echo said")
        lines = self.wait("icanon", "\nsaid")
        return [line for line in lines if "icanon" in line or " echo " in line]

    def pid_of_top(self):
        shell = int(self.asked("#{pane_pid}"))
        found = [pid for pid, name in children(shell) if name == "sidelock"]
        return found[0] if found else None

    def close(self):
        subprocess.run([*self.command, "kill-server"], capture_output=True, check=False, timeout=GENEROUS_SECONDS)


@pytest.fixture
def daemon(lab):
    return lab.daemon(args=["--host", "web-1"])


@pytest.fixture
def terminal(lab, daemon):
    terminal = Terminal(lab, Command(lab, daemon).environment)
    yield terminal
    terminal.close()


def top(*arguments):
    return shlex.join([binary("sidelock", "SIDELOCK"), "top", "--interval", "0.1", *arguments])


def order(lines, *names):
    """These locks in the order of their lines."""
    return [line.split()[0] for line in lines if line.split()[:1] and line.split()[0] in names]


def test_locks_holders_waiters_and_rates_are_shown_and_go_on(terminal, daemon):
    client = daemon.client()
    client.acquire("orders")
    terminal.run(top())
    lines = terminal.wait("orders", "1 held, 0 waiting")
    assert lines[0].startswith("sidelock top  web-1  up ") and "without Redis" in lines[0]
    assert lines[3].split() == ["NAME", "MODE", "HOLDER", "USER", "UNIT", "HELD", "WAITING", "LEASE"]
    assert lines[-1].startswith("q quit") and max(map(len, lines)) <= 80
    daemon.client().queue("orders")
    client.acquire("later")
    terminal.wait("2 held, 1 waiting", "later")
    for _ in range(100):
        client.release("later")
        client.acquire("later")
    wait_until(lambda: " 0.0 grants/s" not in terminal.screen()[1], "grants are counted")
    client.close()
    terminal.wait("1 held, 0 waiting")


def test_keys_sort_filter_and_inspect(terminal, daemon):
    first, second = daemon.client(), daemon.client()
    first.acquire("a-oldest")
    wait_until(lambda: first.call("inspect", name="a-oldest")["holders"][0]["held_ms"] > 200, "it is held for a while")
    second.acquire("b-wanted", meta="nightly")
    daemon.client().queue("b-wanted")
    terminal.run(top())
    lines = terminal.wait("a-oldest", "b-wanted", "s sort (held)")
    assert order(lines, "a-oldest", "b-wanted") == ["a-oldest", "b-wanted"]
    terminal.press("s")
    terminal.wait("s sort (waiting)")
    assert order(terminal.screen(), "a-oldest", "b-wanted") == ["b-wanted", "a-oldest"]
    terminal.press("Enter")
    lines = terminal.wait("Lock:     b-wanted", "note    nightly", "Waiting:  1", "q back")
    terminal.press("q")
    terminal.wait("a-oldest")
    terminal.press("Down", "Enter")
    terminal.wait("Lock:     a-oldest")
    terminal.press("q")
    terminal.wait("q quit")
    terminal.press("/")
    terminal.tmux("send-keys", "-l", "wanx")
    terminal.wait("filter: wanx_")
    terminal.press("BSpace", "Enter")
    lines = terminal.wait("[only wan]", "b-wanted")
    assert order(lines, "a-oldest", "b-wanted") == ["b-wanted"]
    terminal.press("q")
    wait_until(terminal.is_as_before, "the terminal is as before")


def test_q_gives_the_terminal_back(terminal):
    before = terminal.settings()
    terminal.run(top())
    terminal.wait("q quit")
    assert not terminal.is_as_before()
    terminal.press("q")
    wait_until(terminal.is_as_before, "the terminal is as before")
    lines = terminal.wait("here>")
    assert not any("q quit" in line for line in lines)
    assert terminal.settings() == before


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"])
def test_a_signal_that_ends_it_gives_the_terminal_back(terminal, name):
    before = terminal.settings()
    terminal.run(top() + "; echo status $?")
    terminal.wait("q quit")
    os.kill(terminal.pid_of_top(), getattr(signal, name))
    wait_until(terminal.is_as_before, "the terminal is as before")
    terminal.run("echo behind")
    terminal.wait("\nbehind")
    assert terminal.settings() == before


def test_it_stops_and_goes_on(terminal):
    terminal.run(top())
    terminal.wait("q quit")
    pid = terminal.pid_of_top()
    terminal.press("C-z")
    wait_until(lambda: process_state(pid) == "T", "it is stopped")
    wait_until(terminal.is_as_before, "the terminal is as before")
    terminal.run("fg")
    terminal.wait("q quit")
    assert not terminal.is_as_before()
    terminal.press("q")
    wait_until(terminal.is_as_before, "the terminal is as before")


def test_it_follows_the_size_of_the_terminal(terminal, daemon):
    client = daemon.client()
    for index in range(30):
        client.acquire(f"lock-{index:02}-{'x' * 40}")
    terminal.run(top("--sort", "name"))
    terminal.wait("lock-18", "q quit")
    terminal.tmux("resize-window", "-x", "60", "-y", "12")
    wait_until(lambda: len(terminal.screen()) == 12 and terminal.screen()[-1].startswith("q quit"), "it is smaller")
    assert any("lock-06" in line for line in terminal.screen())
    # What is selected stays in sight.
    terminal.press(*["Down"] * 29)
    terminal.wait("lock-29")
    terminal.press("q")


def test_a_daemon_that_ends_is_told_behind_the_screen(terminal, daemon):
    terminal.run(top() + "; echo status $?")
    terminal.wait("q quit")
    daemon.terminate()
    terminal.wait("status 69")
    assert terminal.is_as_before() and "connection to the daemon" in "\n".join(terminal.screen())


def test_it_needs_a_terminal(lab, daemon):
    status, out, err = Command(lab, daemon).run("top")
    assert (status, out) == (64, "") and "needs a terminal" in err


def test_a_terminal_that_nobody_reads_does_not_keep_it(lab, daemon):
    master, own = pty.openpty()
    termios.tcflow(own, termios.TCOOFF)
    top = subprocess.Popen([binary("sidelock", "SIDELOCK"), "top", "--socket", daemon.socket_path], stdin=own, stdout=own,
                           stderr=subprocess.PIPE, start_new_session=True)
    try:
        wait_until(lambda: blocks(top.pid, signal.SIGTERM), "top takes signals by itself, and writes")
        top.send_signal(signal.SIGTERM)
        assert top.wait(GENEROUS_SECONDS) == -signal.SIGTERM
    finally:
        top.kill()
        top.wait()
        os.close(master)
        os.close(own)


def blocks(pid, number):
    """Whether a process keeps that signal back."""
    mask = re.search(r"SigBlk:\s*([0-9a-f]+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1]
    return int(mask, 16) >> (number - 1) & 1 == 1


def test_a_tiny_terminal_shows_what_it_can(lab, daemon):
    client = daemon.client()
    for name in ("b2", "a1"):
        client.acquire(name)
    tiny = Terminal(lab, Command(lab, daemon).environment, columns=20, rows=5)
    try:
        tiny.run(top())
        lines = tiny.wait("a1", "b2")
        assert lines[0].startswith("sidelock top") and lines[1].startswith("NAME")
        assert len(order(lines, "a1", "b2")) == 2
        tiny.press("q")
        wait_until(tiny.is_as_before, "the terminal given back")
    finally:
        tiny.close()
