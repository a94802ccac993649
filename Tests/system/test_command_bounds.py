"""`sidelock` beside a daemon that hangs, or that nobody has accept: nothing waits for longer than it was told."""

import os
import signal
import socket
import subprocess

import pytest
from harness.command import Command, is_alive, process_state, stop_beyond_keepalive
from harness.daemon import binary
from harness.waiting import GENEROUS_SECONDS, boot_time, wait_until

EVERY_COMMAND = [
    ["run", "-n", "orders", "--", "true"],
    ["run", "-w", "0.5", "orders", "--", "true"],
    ["run", "orders", "--", "true"],
    ["list"],
    ["list", "--all"],
    ["inspect", "orders"],
    ["clients"],
    ["hosts"],
    ["kill", "7"],
    ["stats"],
    ["ping"],
    ["watch"],
    ["break", "orders"],
    ["bench", "--scenario", "crash"],
    ["call", "stats"],
    ["call", "acquire", '{"name":"orders"}'],
    ["call", "acquire", '{"name":"orders","wait_ms":100}'],
]


def all_give_up(lab, daemon, why):
    """Starts every command, and expects each to end for that reason."""
    command = Command(lab, daemon)
    started = [(arguments, command.start(*arguments, stdin=subprocess.PIPE)) for arguments in EVERY_COMMAND]
    for arguments, process in started:
        # Their input stays open.
        status, out, err = process.wait(GENEROUS_SECONDS), process.stdout.read(), process.stderr.read()
        assert (status, out) == (69, ""), arguments
        assert why in err, arguments


def test_a_stopped_daemon_holds_nobody_up(lab):
    daemon = lab.daemon()
    daemon.stop()
    all_give_up(lab, daemon, "not answered")


class FullSocket:
    """A socket at which nobody accepts, and whose queue of connections is full."""

    def __init__(self, path, backlog=0, is_full=True):
        self.socket_path = path
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(backlog)
        self.queued = []
        while is_full:
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            self.queued.append(client)
            try:
                client.connect(str(path))
            except BlockingIOError:
                return

    def close(self):
        for one in [self.listener, *self.queued]:
            one.close()


def test_a_full_queue_of_connections_holds_nobody_up(lab):
    full = FullSocket(lab.directory / "full")
    try:
        all_give_up(lab, full, "accepted no connection")
    finally:
        full.close()


def test_a_socket_that_nobody_accepts_at_holds_nobody_up(lab):
    """The kernel connects, and takes what is sent."""
    deaf = FullSocket(lab.directory / "deaf", backlog=1000, is_full=False)
    try:
        all_give_up(lab, deaf, "not answered")
    finally:
        deaf.close()


def test_a_wait_without_limit_ends_when_the_daemon_hangs_meanwhile(lab):
    daemon = lab.daemon()
    client = daemon.client()
    client.acquire("orders")
    process = Command(lab, daemon).start("run", "orders", "--", "true")
    wait_until(lambda: client.call("inspect", name="orders")["waiting"] == 1, "its wait")
    daemon.stop()
    assert process.wait(GENEROUS_SECONDS) == 69
    daemon.resume()


def test_a_grant_that_comes_late_is_not_kept(lab):
    """The request lies in the socket of a daemon that is stopped; when it goes on, nobody is there to have the lock."""
    daemon = lab.daemon()
    client = daemon.client()
    daemon.stop()
    assert Command(lab, daemon).run("run", "-n", "orders", "--", "true")[0] == 69
    daemon.resume()
    token = client.acquire("orders")
    assert client.call("inspect", name="orders")["holders"][0]["token"] == token


def test_a_slow_answer_is_waited_for_as_long_as_the_daemon_lives(lab):
    """A wait that is over, for which Redis has not decided yet: the daemon still answers, and says so itself."""
    redis = lab.redis()
    daemon, holder = lab.daemon(redis), lab.daemon(redis).client()
    holder.acquire("orders")
    status, _, err = Command(lab, daemon).run("run", "-v", "-w", "0.3", "orders", "--", "true")
    assert status == 1 and "timeout" in err


# A daemon that hangs while locks of it are held

HOLDING = {
    "one": ('{"name":"orders"}', "orders"),
    "several": ('{"names":["orders","a"]}', "orders, a"),
    "shared": ('{"name":"orders","mode":"shared","progress":true}', "orders"),
    "permit": ('{"name":"orders","permits":3,"wait_ms":0}', "orders"),
}


def hold_by_call(lab, daemon, params):
    process = Command(lab, daemon).start("call", "acquire", params, stdin=subprocess.PIPE)
    assert '"token"' in process.stdout.readline()
    return process


@pytest.mark.parametrize("kind", HOLDING)
def test_a_lock_held_by_call_is_given_up_when_the_daemon_hangs(lab, kind):
    """It ends before another host can have the lock, of which nobody else would tell it."""
    params, names = HOLDING[kind]
    lease_ms = 6000
    redis = lab.redis()
    daemon, other = lab.daemon(redis, lease_ms=lease_ms), lab.daemon(redis, lease_ms=lease_ms).client()
    process = hold_by_call(lab, daemon, params)
    start = boot_time()
    request = None if kind == "permit" else other.request("acquire", name="orders")
    daemon.stop()
    assert process.wait(GENEROUS_SECONDS) == 125
    told = process.stderr.read()
    assert f"lost {names}: the daemon has not answered and the lease is about to end" in told
    if boot_time() - start < 0.9 * lease_ms / 1000:
        assert other.poll() is None, "the lock is free only later"
    if request:
        assert other.reply_to(request)["token"] > 0
    daemon.resume()


@pytest.mark.parametrize("kind", HOLDING)
def test_a_lock_held_by_call_is_lost_with_a_daemon_that_is_killed(lab, kind):
    params, names = HOLDING[kind]
    daemon = lab.daemon(lab.redis())
    process = hold_by_call(lab, daemon, params)
    daemon.kill()
    assert process.wait(GENEROUS_SECONDS) == 125
    assert f"lost {names}: the connection to the daemon ended" in process.stderr.read()


def test_a_lock_held_by_call_outlives_many_leases(lab):
    daemon = lab.daemon(lab.redis(), lease_ms=1000)
    process = hold_by_call(lab, daemon, '{"name":"orders"}')
    client = daemon.client()
    renewals = client.call("stats")["redis"]["renewals_total"]
    wait_until(lambda: client.call("stats")["redis"]["renewals_total"] >= renewals + 12, "renewals")
    assert process.poll() is None, process.communicate()
    # So it does while it is stopped itself: the daemon renews, and is asked before anything is believed.
    os.kill(process.pid, signal.SIGSTOP)
    renewals = client.call("stats")["redis"]["renewals_total"]
    wait_until(lambda: client.call("stats")["redis"]["renewals_total"] >= renewals + 12, "renewals")
    os.kill(process.pid, signal.SIGCONT)
    wait_until(lambda: client.call("stats")["redis"]["renewals_total"] >= renewals + 18, "renewals")
    assert process.poll() is None, process.communicate()
    assert client.call("inspect", name="orders")["holders"][0]["pid"] == process.pid
    process.stdin.close()
    assert process.wait(GENEROUS_SECONDS) == 0


@pytest.mark.parametrize("arguments", [["watch"], ["call", "watch", '{"prefix":""}']], ids=lambda words: words[0])
def test_a_watch_ends_when_the_daemon_hangs(lab, arguments):
    daemon = lab.daemon(lab.redis())
    client = daemon.client()
    process = Command(lab, daemon).start(*arguments, stdin=subprocess.PIPE)
    wait_until(lambda: client.call("stats")["watches"] == 1, "the watch")
    daemon.stop()
    assert process.wait(GENEROUS_SECONDS) == 69
    assert "not answered" in process.stderr.read()
    daemon.resume()


@pytest.fixture
def systemctl(lab):
    """A directory for PATH with a systemctl that says what it is told to."""
    directory = lab.directory / "bin"
    directory.mkdir()

    def says(script):
        program = directory / "systemctl"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return str(directory)

    return says


def run_with_path(lab, daemon, path, *arguments):
    command = Command(lab, daemon)
    done = subprocess.run(
        [binary("sidelock", "SIDELOCK"), *arguments], capture_output=True, text=True,
        stdin=subprocess.DEVNULL, env={**command.environment, "PATH": f"{path}:{os.environ['PATH']}"},
        timeout=GENEROUS_SECONDS, check=False)
    return done.returncode, done.stderr


FAILING = """cat <<'END'
LoadState=loaded
ActiveState=activating
SubState=auto-restart
Result=exit-code
ExecMainCode=1
ExecMainStatus=78
END"""


@pytest.mark.parametrize("arguments", [["list"], ["run", "-n", "orders", "--", "true"]], ids=lambda words: words[0])
def test_what_systemd_knows_is_said(lab, systemctl, arguments):
    daemon = lab.daemon()
    daemon.stop()
    status, err = run_with_path(lab, daemon, systemctl(FAILING), *arguments)
    assert status == 69
    assert "sidelockd.service is activating (exit 78): see systemctl status sidelockd" in err


def test_a_systemctl_that_hangs_is_not_waited_for(lab, systemctl):
    daemon = lab.daemon()
    daemon.kill()
    # It leaves a process behind that keeps its output open.
    started = lab.directory / "pids"
    status, err = run_with_path(
        lab, daemon, systemctl(f"sleep 1000 & echo $! > {started}; echo $$ >> {started}; wait"), "list")
    pids = [int(pid) for pid in started.read_text().split()]
    try:
        assert status == 69
        assert "sidelockd.service" not in err
        assert not is_alive(pids[1])
    finally:
        os.kill(pids[0], signal.SIGKILL)


def test_a_command_lives_on_while_a_hung_daemon_is_replaced(lab):
    """The daemon is silent for a good part of its lease, as when a watchdog replaces it, and goes on with its locks."""
    lease_ms = 12_000
    redis = lab.redis()
    daemon = lab.daemon(redis, lease_ms=lease_ms)
    process = Command(lab, daemon).start("run", "orders", "--", "sleep", "1000")
    client = daemon.client()
    wait_until(lambda: client.call("inspect", name="orders")["holders"], "the hold")
    while True:
        daemon.stop()
        stopped = boot_time()
        wait_until(lambda: boot_time() - stopped > 0.385 * lease_ms / 1000 or process.poll() is not None, "the silence")
        daemon.resume()
        client.ping()
        # Half a lease is left at least; a machine that has stood still for so long proves nothing.
        if boot_time() - stopped < 0.48 * lease_ms / 1000:
            break
        assert process.poll() is None or process.wait() == 125
        process = Command(lab, daemon).start("run", "orders", "--", "sleep", "1000")
        wait_until(lambda: client.call("inspect", name="orders")["holders"], "the hold")
    assert process.poll() is None, process.communicate()
    assert client.call("inspect", name="orders")["holders"][0]["pid"] == process.pid
    process.terminate()
    process.wait(GENEROUS_SECONDS)


# Stopped while it waits

def test_ctrl_z_withdraws_the_wait_and_a_continue_queues_again(lab):
    daemon = lab.daemon()
    holder, other = daemon.client(), daemon.client()
    token = holder.acquire("orders")
    # A group of its own in the session of the test, as a shell does with a job: a group without a parent in its session
    # cannot be stopped so.
    process = Command(lab, daemon).start(
        "run", "orders", "--", "cat", stdin=subprocess.PIPE, start_new_session=False, process_group=0)

    def waiting():
        return holder.call("inspect", name="orders")["waiting"]

    wait_until(lambda: waiting() == 1, "its wait")
    os.kill(process.pid, signal.SIGTSTP)
    wait_until(lambda: process_state(process.pid) == "T" and waiting() == 0, "its stop")
    os.kill(process.pid, signal.SIGCONT)
    wait_until(lambda: waiting() == 1, "its wait, again")
    request = other.queue("orders")
    holder.release("orders", token)
    holders = wait_until(lambda: holder.call("inspect", name="orders")["holders"], "the hold")
    assert holders[0]["pid"] == process.pid
    process.stdin.close()
    assert other.reply_to(request)["token"] > token
    assert process.wait(GENEROUS_SECONDS) == 0


def test_a_waiting_process_that_is_stopped_does_not_get_the_lock_for_good(lab):
    daemon = lab.daemon()
    holder, other = daemon.client(), daemon.client()
    token = holder.acquire("orders")
    process = Command(lab, daemon).start("run", "orders", "--", "cat", stdin=subprocess.PIPE)
    wait_until(lambda: holder.call("inspect", name="orders")["waiting"] == 1, "its wait")
    os.kill(process.pid, signal.SIGSTOP)
    request = other.queue("orders")
    holder.release("orders", token)
    # It is granted the lock, cannot take it, and is ended by the keepalive.
    second = other.reply_to(request)["token"]
    assert second > token
    os.kill(process.pid, signal.SIGCONT)
    # Continued, it waits again, and its command has not run without the lock.
    wait_until(lambda: holder.call("inspect", name="orders")["waiting"] == 1, "its wait, again")
    other.release("orders", second)
    holders = wait_until(lambda: holder.call("inspect", name="orders")["holders"], "the hold")
    assert holders[0]["pid"] == process.pid and holders[0]["token"] > second
    process.stdin.close()
    assert process.wait(GENEROUS_SECONDS) == 0


def test_a_stopped_process_keeps_the_lock_of_its_command(lab):
    """It has no keepalive any more when the command runs: a job that is stopped keeps its lock."""
    daemon = lab.daemon()
    process = Command(lab, daemon).start("run", "orders", "--", "sh", "-c", "echo ready; exec cat", stdin=subprocess.PIPE)
    client = daemon.client()
    assert process.stdout.readline() == "ready\n"
    stop_beyond_keepalive(process, daemon)
    assert client.call("inspect", name="orders")["holders"][0]["pid"] == process.pid
    os.kill(process.pid, signal.SIGCONT)
    process.stdin.close()
    assert process.wait(GENEROUS_SECONDS) == 0
