"""`sidelock run` under a shell on a terminal: the command is a job like any other, and never runs without its lock."""

import fcntl
import os
import pty
import select
import signal
import struct
import termios

import pytest
from harness.command import Command, children, is_alive, process_state, process_stat
from harness.daemon import binary
from harness.waiting import wait_until

CTRL_C, CTRL_Z = "\x03", "\x1a"


class Terminal:
    """An interactive shell on a pseudo-terminal."""

    def __init__(self, environment):
        self.shown = ""
        self.shell, self.master = pty.fork()
        if self.shell == 0:
            # bash without its line editor, which would change the terminal's modes between commands.
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "--noediting", "-i"],
                       {**environment, "PS1": "ready> ", "HISTFILE": "", "LC_ALL": "C"})
        os.set_blocking(self.master, False)

    def type(self, text):
        os.write(self.master, text.encode())

    def read(self):
        while select.select([self.master], [], [], 0)[0]:
            try:
                data = os.read(self.master, 65536)
            except OSError:
                break
            if not data:
                break
            self.shown += data.decode(errors="replace")
        return self.shown

    def wait_for(self, text):
        """Waits until that is shown, and forgets what was shown up to there."""
        try:
            wait_until(lambda: text in self.read(), text)
        except AssertionError as fault:
            raise AssertionError(f"{fault}; the terminal shows {self.shown!r}") from None
        self.shown = self.shown.split(text, 1)[1]

    @property
    def foreground_group(self):
        return struct.unpack("i", fcntl.ioctl(self.master, termios.TIOCGPGRP, b"\0" * 4))[0]

    def close(self):
        # The shell is the leader of its session: its jobs are told that the terminal is gone.
        os.close(self.master)
        os.kill(self.shell, signal.SIGKILL)
        os.waitpid(self.shell, 0)


@pytest.fixture
def terminal(lab, daemon):
    terminal = Terminal(Command(lab, daemon).environment)
    terminal.wait_for("ready> ")
    yield terminal
    terminal.close()


def start(terminal, daemon, command, background=False):
    """Starts `command` under the lock; gives the ids of sidelock and of the command."""
    terminal.type(f"{binary('sidelock', 'SIDELOCK')} run orders -- {command}{' &' if background else ''}\n")
    client = daemon.client()
    holders = wait_until(lambda: client.call("inspect", name="orders")["holders"], "the hold")
    sidelock = holders[0]["pid"]
    name = command.split()[0]
    pids = wait_until(lambda: [pid for pid, comm in children(sidelock) if comm == name], "the command")
    return sidelock, pids[0]


def is_free(daemon):
    return daemon.client().try_acquire("orders") is not None


def test_the_command_has_the_terminal_and_ctrl_c_ends_the_job(terminal, daemon):
    sidelock, cat = start(terminal, daemon, "cat")
    wait_until(lambda: terminal.foreground_group == int(process_stat(cat)[2]), "its place in the foreground")
    assert int(process_stat(cat)[2]) != int(process_stat(sidelock)[2])
    terminal.type("a line\n")
    # Once as the terminal's echo, once from cat.
    terminal.wait_for("a line")
    terminal.wait_for("a line")
    terminal.type(CTRL_C)
    terminal.wait_for("ready> ")
    assert terminal.foreground_group == terminal.shell
    terminal.type("echo status $?\n")
    terminal.wait_for("status 130")
    wait_until(lambda: is_free(daemon), "the end of the hold")


def test_ctrl_z_stops_the_job_with_its_lock_and_fg_continues_it(terminal, daemon):
    sidelock, cat = start(terminal, daemon, "cat")
    wait_until(lambda: terminal.foreground_group == int(process_stat(cat)[2]), "its place in the foreground")
    terminal.type(CTRL_Z)
    terminal.wait_for("Stopped")
    terminal.wait_for("ready> ")
    assert (process_state(sidelock), process_state(cat)) == ("T", "T")
    assert terminal.foreground_group == terminal.shell
    assert not is_free(daemon)
    terminal.type("fg\n")
    wait_until(lambda: terminal.foreground_group == int(process_stat(cat)[2]), "its place in the foreground")
    terminal.type("again\n")
    terminal.wait_for("again")
    terminal.wait_for("again")
    # Ctrl-D ends cat.
    terminal.type("\x04")
    terminal.wait_for("ready> ")
    terminal.type("echo status $?\n")
    terminal.wait_for("status 0")
    wait_until(lambda: is_free(daemon), "the end of the hold")


def test_a_background_job_that_wants_the_terminal_waits_for_fg(terminal, daemon):
    sidelock, cat = start(terminal, daemon, "cat", background=True)
    wait_until(lambda: (process_state(sidelock), process_state(cat)) == ("T", "T"), "the stop of the job")
    assert terminal.foreground_group == terminal.shell
    assert not is_free(daemon)
    terminal.type("fg\n")
    wait_until(lambda: terminal.foreground_group == int(process_stat(cat)[2]), "its place in the foreground")
    terminal.type("now\n")
    terminal.wait_for("now")
    terminal.wait_for("now")
    terminal.type(CTRL_C)
    terminal.wait_for("ready> ")
    wait_until(lambda: is_free(daemon), "the end of the hold")


def test_a_lock_that_is_lost_during_the_stop_ends_the_job_before_it_runs_again(lab, terminal, daemon):
    ticks = lab.directory / "ticks"
    script = lab.directory / "ticker"
    script.write_text(f"while :; do echo tick >> {ticks}; done\n")
    sidelock, ticker = start(terminal, daemon, f"sh {script}")
    wait_until(lambda: ticks.exists() and ticks.stat().st_size > 0, "its ticks")
    terminal.type(CTRL_Z)
    terminal.wait_for("Stopped")
    assert (process_state(sidelock), process_state(ticker)) == ("T", "T")
    size = ticks.stat().st_size
    daemon.kill()
    terminal.type("fg\n")
    terminal.wait_for("lost orders")
    terminal.type("echo status $?\n")
    terminal.wait_for("status 125")
    assert not is_alive(ticker)
    assert ticks.stat().st_size == size


@pytest.mark.parametrize("line", ["run orders -- cat", "call acquire '{\"name\":\"orders\"}'"], ids=lambda line: line.split()[0])
def test_ctrl_z_stops_a_script_that_waits_and_the_lock_is_others_meanwhile(lab, terminal, daemon, line):
    """All of the job stops, each process by the terminal's signal, and fg has all of it go on."""
    holder, other = daemon.client(), daemon.client()
    token = holder.acquire("orders")
    script = lab.directory / "script"
    script.write_text(f"echo $$ > {lab.directory}/pid\n{binary('sidelock', 'SIDELOCK')} {line}\necho went on\n")
    terminal.type(f"sh {script}\n")

    def waiting():
        return holder.call("inspect", name="orders")["waiting"]

    wait_until(lambda: waiting() == 1, "the wait")
    shell = int((lab.directory / "pid").read_text())
    [(sidelock, _)] = children(shell)
    terminal.type(CTRL_Z)
    terminal.wait_for("Stopped")
    wait_until(lambda: (process_state(shell), process_state(sidelock)) == ("T", "T"), "the stop of all")
    holder.release("orders", token)
    second = other.acquire("orders")
    terminal.type("fg\n")
    wait_until(lambda: waiting() == 1, "the wait, again")
    other.release("orders", second)
    holders = wait_until(lambda: holder.call("inspect", name="orders")["holders"], "the hold")
    assert holders[0]["pid"] == sidelock
    # Ctrl-D ends the input of both.
    if line.startswith("run"):
        wait_until(lambda: terminal.foreground_group != shell, "the command's place in the foreground")
    else:
        terminal.wait_for('"token"')
    terminal.type("\x04")
    terminal.wait_for("went on")
    wait_until(lambda: is_free(daemon), "the end of the hold")


def test_ctrl_z_at_the_command_stops_the_script_around_it(lab, terminal, daemon):
    """The terminal's signal reaches the command's group alone; the shell waits for the whole job to stop."""
    script = lab.directory / "script"
    script.write_text(f"{binary('sidelock', 'SIDELOCK')} run orders -- cat\necho went on\n")
    terminal.type(f"sh {script}\n")
    client = daemon.client()
    sidelock = wait_until(lambda: client.call("inspect", name="orders")["holders"], "the hold")[0]["pid"]
    [cat] = wait_until(lambda: [pid for pid, name in children(sidelock) if name == "cat"], "the command")
    wait_until(lambda: terminal.foreground_group == cat, "its place in the foreground")
    terminal.type(CTRL_Z)
    terminal.wait_for("Stopped")
    terminal.wait_for("ready> ")
    terminal.type("fg\n")
    wait_until(lambda: terminal.foreground_group == cat, "its place in the foreground")
    terminal.type("\x04")
    terminal.wait_for("went on")
