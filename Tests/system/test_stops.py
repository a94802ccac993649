"""Signals to stop, sent to `sidelock` alone: it stops by itself, without the lock that it waits for, and no stranger of its
process group stops with it."""

import os
import pathlib
import signal
import subprocess

import pytest
from harness.command import Command, process_stat, process_state, stop_beyond_keepalive
from harness.daemon import binary
from harness.waiting import GENEROUS_SECONDS, wait_until

STOPS = [signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU]
WAITING = {"run": "run orders -- cat", "call": "call acquire '{\"name\":\"orders\"}'"}


@pytest.fixture
def script(lab, daemon):
    """Starts a shell without job control as a job of the test's session: in its group are the shell, a sibling, and
    sidelock, whose ids it gives."""
    pids = lab.directory / "pids"

    def start(line, prefix="exec"):
        process = lab.track(subprocess.Popen(
            ["bash", "-c", f"exec 5<&0; sleep 1000 & echo $! > {pids}; ({prefix} $S {line}) <&5 & echo $! >> {pids}; wait $!"],
            env={**Command(lab, daemon).environment, "S": binary("sidelock", "SIDELOCK")}, process_group=0, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        sibling, sidelock = map(int, wait_until(
            lambda: pids.exists() and len(found := pids.read_text().split()) == 2 and found, "the group"))
        assert {process_stat(pid)[2] for pid in (sibling, sidelock)} == {str(process.pid)}
        return process, sibling, sidelock

    yield start
    for pid in pids.read_text().split():
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            pass


def waiting(client):
    return client.call("inspect", name="orders")["waiting"]


def pending(pid, number):
    """Whether a signal has been sent to the process that it has not taken."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    masks = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd", "ShdPnd"))]
    return any(mask >> (number - 1) & 1 for mask in masks)


@pytest.mark.parametrize("number", STOPS, ids=lambda number: signal.Signals(number).name)
@pytest.mark.parametrize("command", WAITING)
def test_a_waiting_process_that_is_told_to_stop_stops_alone(script, daemon, command, number):
    holder, other = daemon.client(), daemon.client()
    token = holder.acquire("orders")
    shell, sibling, sidelock = script(WAITING[command])
    wait_until(lambda: waiting(holder) == 1, "its wait")
    os.kill(sidelock, number)
    wait_until(lambda: process_state(sidelock) == "T" and waiting(holder) == 0, "its stop")
    # A signal to the whole group would have reached them before it.
    assert process_state(shell.pid) != "T" and process_state(sibling) != "T"
    holder.release("orders", token)
    second = other.acquire("orders")
    os.kill(sidelock, signal.SIGCONT)
    wait_until(lambda: waiting(holder) == 1, "its wait, again")
    other.release("orders", second)
    holders = wait_until(lambda: holder.call("inspect", name="orders")["holders"], "the hold")
    assert holders[0]["pid"] == sidelock and holders[0]["token"] > second
    if command == "call":
        assert f'"token":{holders[0]["token"]},' in shell.stdout.readline()
    shell.stdin.close()
    assert shell.wait(GENEROUS_SECONDS) == 0


def test_a_running_command_stops_with_sidelock_and_with_nobody_else(script, daemon):
    client = daemon.client()
    shell, sibling, sidelock = script("run orders -- sh -c 'echo $$; exec cat'")
    command = int(shell.stdout.readline())
    os.kill(sidelock, signal.SIGTSTP)
    wait_until(lambda: process_state(sidelock) == process_state(command) == "T", "the stop")
    assert process_state(shell.pid) != "T" and process_state(sibling) != "T"
    assert client.call("inspect", name="orders")["holders"][0]["pid"] == sidelock
    os.kill(sidelock, signal.SIGCONT)
    wait_until(lambda: "T" not in (process_state(sidelock), process_state(command)), "the end of the stop")
    shell.stdin.close()
    assert shell.wait(GENEROUS_SECONDS) == 0


@pytest.mark.parametrize("command", WAITING)
def test_who_cannot_be_stopped_keeps_its_place(lab, daemon, command):
    """In a session of its own nobody could continue it, and the kernel does not stop it."""
    holder, other = daemon.client(), daemon.client()
    token = holder.acquire("orders")
    arguments = {"run": ["run", "orders", "--", "cat"], "call": ["call", "acquire", '{"name":"orders"}']}[command]
    process = Command(lab, daemon).start(*arguments, stdin=subprocess.PIPE)
    wait_until(lambda: waiting(holder) == 1, "its wait")
    request = other.queue("orders")
    for number in STOPS:
        os.kill(process.pid, number)
    # It has taken the last of them, and does what it does for the first one before it looks at the next: so for SIGTSTP
    # and SIGTTIN all is done.
    wait_until(lambda: not any(pending(process.pid, number) for number in STOPS), "the signals to be taken")
    holder.release("orders", token)
    holders = wait_until(lambda: holder.call("inspect", name="orders")["holders"], "the hold")
    assert holders[0]["pid"] == process.pid
    process.stdin.close()
    assert other.reply_to(request)["token"] > token
    assert process.wait(GENEROUS_SECONDS) == 0


IGNORED = [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, *STOPS]


@pytest.mark.parametrize("command", WAITING)
def test_a_signal_that_is_ignored_from_the_start_stays_ignored(lab, script, daemon, command):
    """nohup, and a shell that starts something in the background, have it so."""
    holder, other = daemon.client(), daemon.client()
    token = holder.acquire("orders")
    names = " ".join(signal.Signals(number).name[3:] for number in IGNORED)
    shell, _, sidelock = script(WAITING[command], prefix=f"trap '' {names}; exec")
    wait_until(lambda: waiting(holder) == 1, "its wait")
    request = other.queue("orders")
    for number in IGNORED:
        os.kill(sidelock, number)
    wait_until(lambda: not any(pending(sidelock, number) for number in IGNORED), "the signals to be taken")
    holder.release("orders", token)
    holders = wait_until(lambda: holder.call("inspect", name="orders")["holders"], "the hold")
    assert holders[0]["pid"] == sidelock
    shell.stdin.close()
    assert other.reply_to(request)["token"] > token
    assert shell.wait(GENEROUS_SECONDS) == 0


def test_an_acquire_by_call_that_is_stopped_does_not_get_the_lock_for_good(lab, daemon):
    holder, other = daemon.client(), daemon.client()
    token = holder.acquire("orders")
    process = Command(lab, daemon).start("call", "acquire", '{"name":"orders"}', stdin=subprocess.PIPE)
    wait_until(lambda: waiting(holder) == 1, "its wait")
    os.kill(process.pid, signal.SIGSTOP)
    request = other.queue("orders")
    holder.release("orders", token)
    # It is granted the lock, cannot take it, and is ended by the keepalive.
    second = other.reply_to(request)["token"]
    os.kill(process.pid, signal.SIGCONT)
    wait_until(lambda: waiting(holder) == 1, "its wait, again")
    other.release("orders", second)
    holders = wait_until(lambda: holder.call("inspect", name="orders")["holders"], "the hold")
    assert holders[0]["pid"] == process.pid and holders[0]["token"] > second
    process.stdin.close()
    assert process.wait(GENEROUS_SECONDS) == 0
    out = process.stdout.read()
    # The grant that was taken back is not told.
    assert f'"token":{holders[0]["token"]},' in out and out.count('"token"') == 1


@pytest.mark.parametrize("line", ["run orders -- cat", "hold orders"])
def test_a_wait_that_was_told_something_while_it_was_stopped_is_begun_anew(lab, daemon, line):
    """What it reads first when it goes on is not the end of its session."""
    holder, first = daemon.client(), daemon.client()
    token = holder.acquire("orders")
    first.queue("orders")
    process = Command(lab, daemon).start(*line.split(), stdin=subprocess.PIPE)
    wait_until(lambda: waiting(holder) == 2, "its wait")
    os.kill(process.pid, signal.SIGSTOP)
    wait_until(lambda: process_state(process.pid) == "T", "its stop")
    first.close()
    wait_until(lambda: waiting(holder) == 0, "the end of its session")
    os.kill(process.pid, signal.SIGCONT)
    wait_until(lambda: waiting(holder) == 1 or process.poll() is not None, "its wait, again")
    holder.release("orders", token)
    holders = wait_until(lambda: process.poll() is not None or holder.call("inspect", name="orders")["holders"], "the hold")
    assert process.poll() is None and holders[0]["pid"] == process.pid
    process.stdin.close()
    assert process.wait(GENEROUS_SECONDS) == 0


def test_an_acquire_by_call_keeps_its_lock_when_it_is_stopped_later(lab, daemon):
    process = Command(lab, daemon).start("call", "acquire", '{"name":"orders"}', stdin=subprocess.PIPE)
    assert '"token"' in process.stdout.readline()
    client = daemon.client()
    stop_beyond_keepalive(process, daemon)
    assert client.call("inspect", name="orders")["holders"][0]["pid"] == process.pid
    os.kill(process.pid, signal.SIGCONT)
    process.stdin.close()
    assert process.wait(GENEROUS_SECONDS) == 0


def test_what_is_left_of_the_wait_goes_on_after_a_stop(script, daemon):
    holder = daemon.client()
    holder.acquire("orders")
    shell, _, sidelock = script("call acquire '{\"name\":\"orders\",\"wait_ms\":60000,\"progress\":true}'")
    wait_until(lambda: waiting(holder) == 1, "its wait")
    os.kill(sidelock, signal.SIGTSTP)
    wait_until(lambda: process_state(sidelock) == "T" and waiting(holder) == 0, "its stop")
    os.kill(sidelock, signal.SIGCONT)
    wait_until(lambda: waiting(holder) == 1, "its wait, again")
    assert '"waiting"' in shell.stdout.readline()
