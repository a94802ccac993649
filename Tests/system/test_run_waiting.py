"""What `sidelock` tells who waits: for whom, since when and why, or what keeps the daemon or Redis from answering."""

import os
import re
import signal
import subprocess

import pytest
from harness.command import Command
from harness.daemon import binary
from harness.waiting import GENEROUS_SECONDS, wait_until
from test_run_job_control import CTRL_C, Terminal


# What waits, and what stands behind the name.
SUBCOMMANDS = {"run": ["--", "true"], "hold": []}


class Waiting:
    """A command whose standard error is a file that can be looked at."""

    def __init__(self, lab, daemon, *arguments, **options):
        self.path = lab.directory / f"err{len(lab.processes)}"
        with self.path.open("w") as err:
            self.process = Command(lab, daemon).start(*arguments, stderr=err, **options)

    @property
    def said(self):
        return self.path.read_text()

    def says(self, pattern):
        wait_until(lambda: re.search(pattern, self.said) or self.process.poll() is not None, pattern)
        found = re.search(pattern, self.said)
        assert found, self.said
        return found

    def ends(self, status=0):
        assert self.process.wait(GENEROUS_SECONDS) == status, self.said
        return self.said


def hosts(lab, count=2):
    redis = lab.redis()
    return [lab.daemon(redis, args=["--host", f"db{index + 1}"]) for index in range(count)]


def waiting_count(client, name="orders"):
    return client.call("inspect", name=name)["waiting"]


def hold(lab, daemon, *options):
    """A run of `cat` that holds the lock."""
    process = Command(lab, daemon).start("run", *options, "orders", "--", "cat", stdin=subprocess.PIPE)
    client = daemon.client()
    # What the process runs is read from /proc a moment later.
    wait_until(lambda: any("cat" in holder.get("command", "") for holder in client.call("inspect", name="orders")["holders"]),
               "the hold")
    return process


# Who has it

@pytest.mark.parametrize("place", ["same host", "other host"])
def test_who_waits_is_told_for_whom_since_when_and_why(lab, place):
    here, there = hosts(lab)
    host = here if place == "same host" else there
    holder = hold(lab, host, "--meta", "nightly")
    first = Waiting(lab, here, "run", "orders", "--", "true")
    wait_until(lambda: waiting_count(here.client()) == 1, "the first wait")
    second = Waiting(lab, here, "run", "orders", "--", "true")
    name = "db1" if place == "same host" else "db2"
    words = rf'sidelock: waiting for orders: held by {holder.pid} \(cat, (\S+, )?"nightly"\) on {name} for \d+ m?s'
    first.says(words + "\n")
    second.says(words + ", 1 before you\n")
    holder.stdin.close()
    first.ends()
    second.ends()
    # What has not changed is not said again.
    assert first.said.count("waiting for") == 1


def test_a_change_is_told(lab, daemon):
    holder = hold(lab, daemon)
    client = daemon.client()
    request = client.queue("orders", meta="a client")
    waiter = Waiting(lab, daemon, "run", "orders", "--", "true")
    waiter.says(rf"held by {holder.pid} .*, 1 before you")
    holder.stdin.close()
    token = client.reply_to(request)["token"]
    waiter.says(rf'held by {os.getpid()} \(.*"a client"\) on \S+ for \d+ m?s\n')
    client.release("orders", token)
    waiter.ends()


@pytest.mark.parametrize("arguments, word", [(["-n"], "busy"), (["-w", "500ms"], "timeout: not free within 500 ms")],
                         ids=["busy", "timeout"])
@pytest.mark.parametrize("place", ["same host", "other host"])
def test_who_does_not_get_it_is_told_who_has_it(lab, arguments, word, place):
    here, there = hosts(lab)
    holder = hold(lab, here if place == "same host" else there, "--meta", "nightly")
    for subcommand, rest in SUBCOMMANDS.items():
        status, out, err = Command(lab, here).run(subcommand, *arguments, "orders", *rest)
        assert (status, out) == (1, ""), err
        assert re.search(rf'orders: {word}.*held by {holder.pid} \(cat, .*"nightly"\) on db\d for \d+ m?s', err), err


def test_of_several_locks_the_one_that_is_held_is_named(lab, daemon):
    client = daemon.client()
    client.acquire("b", meta="a client")
    status, _, err = Command(lab, daemon).run("run", "-n", "a", "--and", "b", "--", "true")
    assert status == 1 and "b held by" in err and '"a client"' in err and "a held by" not in err, err


@pytest.mark.parametrize("subcommand, rest", SUBCOMMANDS.items(), ids=SUBCOMMANDS)
def test_quiet_says_nothing_of_it(lab, daemon, subcommand, rest):
    client = daemon.client()
    token = client.acquire("orders")
    command = Command(lab, daemon)
    for wait in (["-n"], ["-w", "1.5s"]):
        assert command.run(subcommand, "-q", *wait, "orders", *rest) == (1, "", "")
    client.release("orders", token)
    # What else fails is told.
    status, _, err = command.run(subcommand, "-q", "--socket", "/nonexistent/s", "orders", *rest)
    assert status == 69 and "no daemon listens" in err


def test_verbose_says_more_and_at_once(lab, daemon):
    client = daemon.client()
    token = client.acquire("orders")
    before = Waiting(lab, daemon, "run", "orders", "--", "true")
    wait_until(lambda: waiting_count(client) == 1, "the wait")
    waiter = Waiting(lab, daemon, "run", "-v", "orders", "--", "true")
    waiter.says(rf"held by {os.getpid()} \(.*user \S+.*\) .*, 1 before you, first {before.process.pid} \(")
    client.release("orders", token)
    assert re.search(r"has orders after \d+ m?s, token \d+", waiter.ends())


def test_call_says_who_has_it_too(lab, daemon):
    client = daemon.client()
    client.acquire("orders", meta="a client")
    status, _, err = Command(lab, daemon).run("call", "acquire", '{"name":"orders","wait_ms":100}')
    assert status == 1 and '"a client"' in err and "wait_ms" not in err, err


def test_a_terminal_shows_for_whom_it_waits(lab, daemon):
    """The screen of somebody who types the command, and gives up."""
    client = daemon.client()
    client.acquire("backup", meta="nightly")
    terminal = Terminal(Command(lab, daemon).environment)
    try:
        terminal.wait_for("ready> ")
        terminal.type(f"{binary('sidelock', 'SIDELOCK')} run backup -- true\n")
        terminal.wait_for(f"sidelock: waiting for backup: held by {os.getpid()} (")
        terminal.wait_for('"nightly") on ')
        terminal.type(CTRL_C)
        terminal.wait_for("ready> ")
        terminal.type("echo status $?\n")
        terminal.wait_for("status 130")
    finally:
        terminal.close()


# A daemon that does not answer

@pytest.mark.parametrize("subcommand, rest", SUBCOMMANDS.items(), ids=SUBCOMMANDS)
def test_a_daemon_that_does_not_answer_is_told(lab, subcommand, rest):
    daemon = lab.daemon()
    daemon.stop()
    waiter = Waiting(lab, daemon, subcommand, "orders", *rest, stdin=subprocess.PIPE)
    waiter.says("waiting for orders: the daemon has not answered for 1 s")
    daemon.resume()
    waiter.process.stdin.close()
    waiter.ends()


def test_a_daemon_that_hangs_during_the_wait_is_told_and_the_wait_goes_on(lab):
    daemon = lab.daemon()
    client = daemon.client()
    token = client.acquire("orders")
    waiter = Waiting(lab, daemon, "run", "orders", "--", "true")
    waiter.says("held by")
    daemon.stop()
    waiter.says("waiting for orders: the daemon has not answered for [12] s")
    daemon.resume()
    wait_until(lambda: waiter.said.count("held by") == 2 or waiter.process.poll() is not None, "who has it, again")
    client.release("orders", token)
    waiter.ends()


# Runs inside runs

def sidelock_path():
    return binary("sidelock", "SIDELOCK")


@pytest.mark.parametrize("options", [[], ["-q"], ["--shared"], ["--and", "z"]], ids=lambda words: words[0] if words else "alone")
def test_a_run_inside_a_run_of_the_same_lock_does_not_wait_for_itself(lab, options):
    [daemon] = hosts(lab, 1)
    process = Command(lab, daemon).start(
        "run", "orders", "--", sidelock_path(), "run", *options, "orders", "--", "echo", "never")
    out, err = process.communicate(timeout=GENEROUS_SECONDS)
    assert (process.returncode, out) == (76, ""), err
    assert f"held by the sidelock run ({process.pid}) in which this command runs" in err


def test_a_hold_inside_a_run_of_the_same_lock_does_not_wait_for_itself(lab, daemon):
    status, out, err = Command(lab, daemon).run("run", "orders", "--", sidelock_path(), "hold", "orders")
    assert (status, out) == (76, "") and "in which this command runs" in err, err


def test_a_run_inside_a_run_of_other_locks_and_other_permits_goes_on(lab, daemon):
    inner = f'{sidelock_path()} run --permits 2 gate -- sh -c "echo \\$SIDELOCK_NAME"'
    status, out, err = Command(lab, daemon).run("run", "--permits", "2", "gate", "-c", inner)
    assert (status, out) == (0, "gate\n"), err
    status, out, err = Command(lab, daemon).run("run", "a", "--", sidelock_path(), "run", "b", "--", "echo", "ran")
    assert (status, out) == (0, "ran\n"), err


def test_what_a_run_left_behind_waits_like_anybody_else(lab, daemon):
    """The lock of the run around it was given back: the environment is of yesterday."""
    client = daemon.client()
    go = lab.directory / "go"
    script = (f"(exec >/dev/null 2>{lab.directory}/err; until [ -e {go} ]; do sleep 0.02; done; "
              f"{sidelock_path()} run orders -- touch {lab.directory}/ran) & echo left")
    assert Command(lab, daemon).run("run", "orders", "--", "sh", "-c", script)[:2] == (0, "left\n")
    token = client.acquire("orders")
    go.touch()
    wait_until(lambda: waiting_count(client) == 1, "its wait")
    client.release("orders", token)
    wait_until((lab.directory / "ran").exists, "its command")


@pytest.mark.parametrize("place", ["one host", "two hosts"])
def test_runs_that_cross_do_not_wait_for_each_other(lab, place):
    here, there = hosts(lab)
    there = here if place == "one host" else there
    meet = lab.directory
    started = []
    for daemon, own, other in ((here, "a", "b"), (there, "b", "a")):
        script = (f"touch {meet}/{own}; until [ -e {meet}/{other} ]; do sleep 0.02; done; "
                  f"exec {sidelock_path()} run {other} -- echo ran")
        started.append(Command(lab, daemon).start("run", own, "--", "sh", "-c", script))
    ended = [(process.communicate(timeout=GENEROUS_SECONDS), process.returncode) for process in started]
    statuses = sorted(status for _, status in ended)
    assert statuses in ([0, 76], [76, 76]), ended
    for (_, err), status in ended:
        assert status == 0 or "whose command" in err and "waits for" in err, ended


# What becomes of the command when the lock is lost

def lose(daemon):
    daemon.client().call("break", name="orders", reason="a test")


def test_on_lost_notify_lets_the_command_go_on(lab, daemon):
    waiter = Waiting(lab, daemon, "run", "--on-lost", "notify", "orders", "--", "sh", "-c", "echo ready; cat; echo done",
                     stdin=subprocess.PIPE)
    assert waiter.process.stdout.readline() == "ready\n"
    lose(daemon)
    waiter.says(r"lost orders: an administrator took it away \(broken\): a test; the command goes on without it")
    assert daemon.client().acquire("orders") > 0
    waiter.process.stdin.close()
    assert waiter.process.stdout.read() == "done\n"
    waiter.ends(125)


def test_on_lost_kill_kills_at_once(lab, daemon):
    process = Command(lab, daemon).start(
        "run", "--on-lost", "kill", "orders", "--", "sh", "-c", "trap 'echo no' TERM; echo ready; cat", stdin=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"
    lose(daemon)
    assert process.wait(GENEROUS_SECONDS) == 125
    assert process.stdout.read() == ""


def test_the_owner_is_shown(lab, daemon):
    process = hold(lab, daemon, "--owner", "-job 7")
    assert daemon.client().call("inspect", name="orders")["holders"][0]["owner"] == "-job 7"
    process.send_signal(signal.SIGTERM)


def test_a_name_may_begin_with_a_dash(sidelock):
    assert sidelock.run("run", "-n", "--name", "-x", "--and", "-y", "--", "sh", "-c", "echo $SIDELOCK_NAME")[:2] == (0, "-x\n")
    assert sidelock.run("run", "--name", "-x", "y", "--", "true")[0] == 64
