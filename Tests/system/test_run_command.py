"""`sidelock run`: pitfall 29. No command outlives its lock, and nothing of its exit or its signals is lost."""

import contextlib
import json
import os
import signal
import subprocess

import pytest
from harness.command import Command, is_alive
from harness.daemon import binary, clean_environment
from harness.waiting import GENEROUS_SECONDS, boot_time, wait_until

# A command with a family: two shells that do not care for SIGTERM, and a child of each. It writes their ids.
STUBBORN = """
trap '' TERM HUP INT
echo $$ >> "$1"
sh -c 'trap "" TERM; echo $$ >> "$1"; while :; do sleep 1000 & echo $! >> "$1"; wait; done' sh "$1" &
echo ready >> "$1"
while :; do wait; done
"""


def family(path):
    """The ids that the stubborn command has written, once all are there."""
    wait_until(lambda: path.exists() and "ready" in (text := path.read_text()) and len(text.split()) >= 4,
               "the command's family")
    return [int(word) for word in path.read_text().split() if word != "ready"]


def start_stubborn(lab, sidelock, *options):
    path = lab.directory / f"pids{len(lab.processes)}"
    process = sidelock.start("run", *options, "orders", "--", "sh", "-c", STUBBORN, "sh", path)
    pids = family(path)
    assert all(is_alive(pid) for pid in pids)
    return process, pids


def time_of_death(pids, seconds=GENEROUS_SECONDS):
    wait_until(lambda: not any(is_alive(pid) for pid in pids), f"the end of {pids}", seconds, pause=0.001)
    return boot_time()


# The exit status

@pytest.mark.parametrize("script, status", [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 128 + 9)])
def test_the_commands_status_is_kept(sidelock, script, status):
    assert sidelock.run("run", "orders", "--", "sh", "-c", script)[0] == status
    assert sidelock.run("run", "orders", "-c", script)[0] == status


def test_statuses_of_its_own(sidelock, daemon):
    assert sidelock.run("run", "orders", "--", "/nonexistent/command")[0] == 127
    assert sidelock.run("run", "orders", "--", "/etc/passwd")[0] == 126
    assert sidelock.run("run", "orders")[0] == 64
    assert sidelock.run("run", "--no-such-option", "orders", "--", "true")[0] == 64
    assert sidelock.run("run", "--socket", "/nonexistent/s", "orders", "--", "true")[0] == 69
    client = daemon.client()
    token = client.acquire("orders")
    ran = daemon.directory / "ran"
    assert sidelock.run("run", "-n", "orders", "--", "touch", ran)[0] == 1
    assert sidelock.run("run", "-n", "-E", "75", "orders", "--", "touch", ran)[0] == 75
    started = boot_time()
    assert sidelock.run("run", "-w", "0.2", "orders", "--", "touch", ran)[0] == 1
    assert boot_time() - started >= 0.2
    assert not ran.exists()
    client.release("orders", token)
    assert sidelock.run("run", "-n", "orders", "--", "touch", ran)[0] == 0
    assert ran.exists()


def test_input_output_and_environment_are_the_commands(sidelock, daemon):
    status, out, err = sidelock.run(
        "run", "--meta", "a note", "orders", "--", "sh", "-c", 'cat; echo "$SIDELOCK_NAME $SIDELOCK_TOKEN"; echo e >&2',
        stdin="input\n")
    lines = out.splitlines()
    assert (status, lines[0], err) == (0, "input", "e\n")
    name, token = lines[1].split()
    assert name == "orders" and daemon.client().acquire("orders") > int(token)


def test_the_lock_is_held_exactly_as_long_as_the_command_runs(sidelock, daemon):
    client = daemon.client()
    process = sidelock.start("run", "orders", "--", "cat", stdin=subprocess.PIPE)
    holders = wait_until(lambda: client.call("inspect", name="orders")["holders"], "the hold")
    assert holders[0]["pid"] == process.pid
    request = client.queue("orders")
    process.stdin.close()
    assert client.reply_to(request)["token"] > holders[0]["token"]
    assert process.wait(GENEROUS_SECONDS) == 0


# Signals

@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGQUIT])
def test_signals_are_passed_on(sidelock, number):
    name = signal.Signals(number).name[3:]
    process = sidelock.start("run", "orders", "--", "sh", "-c", f"""
        trap 'echo got {name}; exit 9' {name}
        echo ready
        while :; do sleep 0.02; done""")
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert process.stdout.readline() == f"got {name}\n"
    assert process.wait(GENEROUS_SECONDS) == 9


def test_a_signal_while_waiting_ends_the_wait(sidelock, daemon):
    client = daemon.client()
    client.acquire("orders")
    process = sidelock.start("run", "orders", "--", "true")
    wait_until(lambda: client.call("inspect", name="orders")["waiting"] == 1, "its wait")
    process.terminate()
    assert process.wait(GENEROUS_SECONDS) in (-signal.SIGTERM, 128 + signal.SIGTERM)
    wait_until(lambda: client.call("inspect", name="orders")["waiting"] == 0, "the end of its wait")


# A lock that is lost

def test_the_whole_group_is_dead_before_the_lease_ends(lab, measured):
    """Redis hangs; the command and its children ignore SIGTERM."""
    lease_ms = 10_000
    redis = lab.redis()
    daemon = lab.daemon(redis, lease_ms=lease_ms)
    process, pids = start_stubborn(lab, Command(lab, daemon))
    redis.stop()
    latest_end = boot_time() + lease_ms / 1000
    dead = time_of_death(pids)
    measured("left of the lease when the last of the group was dead", f"{(latest_end - dead) * 1000:.0f} ms")
    assert dead < latest_end
    assert process.wait(GENEROUS_SECONDS) == 125
    redis.resume()


def test_a_command_that_obeys_sigterm_is_not_killed(lab):
    redis = lab.redis()
    daemon = lab.daemon(redis, lease_ms=5000)
    process = Command(lab, daemon).start(
        "run", "orders", "--", "sh", "-c", 'trap "echo cleaned up; exit 3" TERM; echo ready; while :; do sleep 0.02; done')
    assert process.stdout.readline() == "ready\n"
    redis.stop()
    assert process.stdout.readline() == "cleaned up\n"
    assert process.wait(GENEROUS_SECONDS) == 125
    redis.resume()


def test_the_group_ends_when_the_daemon_is_killed(lab):
    """Nobody renews any more; the group is dead before the lease in Redis is."""
    lease_ms = 5000
    redis = lab.redis()
    daemon = lab.daemon(redis, lease_ms=lease_ms)
    process, pids = start_stubborn(lab, Command(lab, daemon))
    daemon.kill()
    latest_end = boot_time() + redis.admin.pttl("sidelock:{orders}") / 1000
    assert time_of_death(pids) < latest_end
    assert process.wait(GENEROUS_SECONDS) == 125


def test_the_group_is_dead_before_a_hung_daemon_loses_the_lock(lab):
    """The daemon can tell nobody that its lease ends; sidelock finds out by itself."""
    redis = lab.redis()
    hung, other = lab.daemon(redis, lease_ms=10_000), lab.daemon(redis, lease_ms=10_000)
    process, pids = start_stubborn(lab, Command(lab, hung))
    waiter = other.client()
    request = waiter.queue("orders")
    hung.stop()
    assert waiter.reply_to(request)["token"] > 0
    assert not any(is_alive(pid) for pid in pids)
    assert process.wait(GENEROUS_SECONDS) == 125


def test_the_group_ends_when_sidelock_itself_is_killed(lab, sidelock, daemon):
    process, pids = start_stubborn(lab, sidelock)
    waiter = daemon.client()
    request = waiter.queue("orders")
    process.kill()
    time_of_death(pids)
    assert waiter.reply_to(request)["token"] > 0


def test_the_group_ends_at_max_hold(lab, sidelock, daemon):
    """It has its grace, keeps the lock meanwhile, and is dead before anybody else has it."""
    process, pids = start_stubborn(lab, sidelock, "--max-hold", "0.5", "--term-grace", "0.3")
    waiter = daemon.client()
    request = waiter.queue("orders")
    assert waiter.reply_to(request)["token"] > 0
    assert not any(is_alive(pid) for pid in pids)
    assert process.wait(GENEROUS_SECONDS) == 124


def test_a_command_that_obeys_sigterm_is_not_killed_at_max_hold(sidelock):
    process = sidelock.start(
        "run", "--max-hold", "0.3", "orders", "--", "sh", "-c",
        'trap "echo cleaned up; exit 3" TERM; while :; do sleep 0.02; done')
    assert process.stdout.readline() == "cleaned up\n"
    assert process.wait(GENEROUS_SECONDS) == 124


def test_a_group_that_stays_behind_does_not_keep_the_lock(lab, sidelock, daemon):
    """As with flock -o: the lock ends with the command, not with what it left in the background."""
    process = sidelock.start("run", "orders", "--", "sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!")
    left = int(process.stdout.readline())
    try:
        assert process.wait(GENEROUS_SECONDS) == 0
        assert daemon.client().acquire("orders", wait_ms=0) > 0
    finally:
        if is_alive(left):
            os.kill(left, signal.SIGKILL)


# The other subcommands

def test_list_inspect_ping_and_call(sidelock, daemon):
    client = daemon.client()
    token = client.acquire("orders", meta="nightly")
    assert sidelock.run("ping")[0] == 0
    status, out, _ = sidelock.run("list")
    assert status == 0 and "orders" in out
    status, out, _ = sidelock.run("inspect", "orders")
    assert status == 0 and str(token) in out and "nightly" in out
    status, out, _ = sidelock.run("call", "inspect", '{"name":"orders"}')
    assert status == 0 and f"{token}" in out
    assert sidelock.run("call", "inspect", '{"nam":"orders"}')[0] != 0
    assert sidelock.run("call", "acquire", '{"name":"orders","wait_ms":0}')[0] == 1


def test_the_socket_is_found_in_the_documented_order(lab, daemon):
    other = lab.daemon()
    runtime = lab.directory / "runtime"
    (runtime / "sidelock").mkdir(parents=True)
    (runtime / "sidelock" / "sidelock.sock").symlink_to(other.socket_path)

    def instance(*args, **env):
        done = subprocess.run(
            [binary("sidelock", "SIDELOCK"), "call", *args, "initialize", "{}"], capture_output=True, text=True,
            env=clean_environment(XDG_RUNTIME_DIR=str(runtime), **env), timeout=GENEROUS_SECONDS, check=True)
        return done.stdout

    first, second = (d.client().call("initialize")["instance"] for d in (daemon, other))
    assert second in instance()
    assert first in instance(SIDELOCK_SOCKET=str(daemon.socket_path))
    assert second in instance("--socket", str(other.socket_path), SIDELOCK_SOCKET=str(daemon.socket_path))


def test_a_daemon_can_be_the_command(lab):
    """What `sidelock run` tells its command are no settings, whatever it is; and what was inherited counts."""
    command = Command(lab, lab.daemon())
    for more in ([], ["--and", "other"], ["--permits", "3"], ["--max-hold", "60"]):
        status, out, err = command.run(
            "run", *more, "ci", "--", binary("sidelockd", "SIDELOCKD"), "--local", "--socket", lab.directory / "s",
            "--check")
        assert status == 0, out + err
        checked = json.loads(out)
        assert checked["valid"] and not checked["problems"] and not checked["warnings"]


# Messages that nobody reads

def full_pipe():
    """A pipe whose reader does not read: its write end has no room, and whoever writes to it waits."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for size in (65536, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"x" * size)
    os.set_blocking(writer, True)
    return reader, writer


@pytest.mark.parametrize("how", ["broken", "held too long", "daemon killed", "spoken of before"])
def test_messages_that_nobody_reads_keep_no_command_alive(lab, how):
    daemon = lab.daemon(lab.redis())
    sidelock = Command(lab, daemon)
    reader, writer = full_pipe()
    options = {"held too long": ["--max-hold", "0.5", "--term-grace", "0.1"], "spoken of before": ["-v"]}.get(how, [])
    path = lab.directory / "pids"
    process = sidelock.start("run", *options, "orders", "--", "sh", "-c", STUBBORN, "sh", path, stderr=writer)
    pids = family(path)
    if how == "daemon killed":
        daemon.kill()
    elif how != "held too long":
        daemon.client().call("break", name="orders")
    time_of_death(pids)
    # What there was to say is said where somebody reads again.
    os.close(writer)
    said = b""
    while data := os.read(reader, 1 << 20):
        said += data
    assert process.wait(GENEROUS_SECONDS) == (124 if how == "held too long" else 125)
    assert b"orders" in said.lstrip(b"x")
    os.close(reader)


def test_the_end_does_not_wait_for_ever_for_somebody_to_read(lab, daemon):
    reader, writer = full_pipe()
    sidelock = Command(lab, daemon)
    process = sidelock.start("run", "orders", "--", "sh", "-c", "sleep 1000", stderr=writer)
    wait_until(lambda: daemon.client().call("inspect", name="orders")["holders"], "the lock to be held")
    daemon.client().call("break", name="orders")
    assert process.wait(GENEROUS_SECONDS) == 125
    os.close(reader)
    os.close(writer)
