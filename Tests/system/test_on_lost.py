"""`on_lost`: the process of a client that loses a lock is ended before anybody else can have it."""

import datetime
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from harness.command import is_alive, process_state
from harness.process_client import ProcessClient
from harness.waiting import GENEROUS_SECONDS, boot_time, wait_until

ANNA = 61_001


def signal_of(client):
    """What the process was ended by."""
    return -client.process.wait(30)


def signalled_at(daemon, name):
    """When the daemon sent a signal, in seconds, by its log."""
    [line] = wait_until(lambda: [line for line in daemon.log().splitlines()
                                 if "signal to the process" in line and f"signal={name}" in line], f"{name} in the log")
    return datetime.datetime.fromisoformat(line.split()[0].replace("Z", "+00:00")).timestamp()


@pytest.mark.parametrize("action", ["kill", "terminate"])
def test_a_broken_lock_kills_at_once(lab, action):
    """A broken lock is somebody else's at once, so there is no time for SIGTERM."""
    daemon = lab.daemon()
    client, root = ProcessClient(lab, daemon), daemon.client()
    client.call("acquire", name="a", on_lost=action)
    assert root.call("break", name="a")["broken"]
    assert signal_of(client) == signal.SIGKILL
    assert root.call("stats")["signals_sent_total"] == 1


def test_notify_does_nothing_to_the_process(lab):
    daemon = lab.daemon()
    client, root = ProcessClient(lab, daemon), daemon.client()
    client.call("acquire", name="a", on_lost="notify")
    root.call("break", name="a")
    assert client.next()["method"] == "lost"
    assert client.call("ping") == {}
    assert root.call("stats")["signals_sent_total"] == 0


def test_max_hold_kills(lab):
    daemon = lab.daemon()
    client, other = ProcessClient(lab, daemon), daemon.client()
    client.call("acquire", name="a", on_lost="kill", max_hold_ms=200)
    other.acquire("a")
    assert signal_of(client) == signal.SIGKILL


def test_a_released_lock_kills_nobody(lab):
    daemon = lab.daemon()
    client, root = ProcessClient(lab, daemon), daemon.client()
    client.call("acquire", name="a", on_lost="kill")
    client.call("release", name="a")
    client.call("acquire", name="b", on_lost="kill", max_hold_ms=60_000)
    assert root.call("break", name="a")["broken"] == []
    assert client.call("ping") == {}


@pytest.mark.parametrize("ignored", [False, True], ids=["ends_by_itself", "ignores_SIGTERM"])
def test_a_lease_that_runs_out_terminates_in_time(lab, measured, ignored):
    """SIGTERM at once, SIGKILL while the lease still keeps others out: nobody can have it before the process is dead."""
    redis = lab.redis()
    daemon = lab.daemon(redis, lease_ms=6000)
    command = ["env", "--ignore-signal=TERM"] if ignored else []
    client, watcher = ProcessClient(lab, daemon, command=command), daemon.client()
    client.call("acquire", name="a", on_lost="terminate")
    watcher.acquire("b")
    redis.stop()
    grace = watcher.notification("lost")["grace_ms"] / 1000
    told = boot_time()
    number = signal_of(client)
    taken = boot_time() - told
    measured(f"dead of {signal.Signals(number).name} after", f"{taken * 1000:.0f} of {grace * 1000:.0f} ms")
    assert number == (signal.SIGKILL if ignored else signal.SIGTERM)
    assert taken < grace
    if ignored:
        # How long it had, by the daemon's own clock: a busy machine has the test hear of its beginning late.
        asked, killed = (signalled_at(daemon, name) for name in ("SIGTERM", "SIGKILL"))
        assert killed - asked > grace * 0.5
    redis.resume()


@pytest.mark.parametrize("action,signals", [("kill", 1), ("terminate", 2)])
def test_who_loses_very_many_at_once_is_sent_each_signal_once(lab, action, signals):
    """A parent that does not wait for it keeps what is left of it, to which signals can be sent; a child keeps the connection."""
    redis = lab.redis()
    daemon = lab.daemon(redis, lease_ms=3000)
    client = ProcessClient(lab, daemon, command=["env", "--ignore-signal=TERM"])
    client.fork()
    count = 200
    for number in range(count):
        client.call("acquire", name=f"a{number}", on_lost=action)
    watcher = daemon.client()
    redis.stop()
    wait_until(lambda: process_state(client.pid) == "Z", "its end")
    wait_until(lambda: watcher.call("stats")["held"] == 0, "the end of all holds")
    assert watcher.call("stats")["lost_total"] == count
    assert watcher.call("stats")["signals_sent_total"] == signals
    assert signal_of(client) == signal.SIGKILL
    redis.resume()


def test_a_lease_that_runs_out_kills_a_stopped_process(lab):
    """Who is stopped cannot be asked to end, and may go on at any time."""
    redis = lab.redis()
    daemon = lab.daemon(redis, lease_ms=6000)
    client, watcher = ProcessClient(lab, daemon), daemon.client()
    client.call("acquire", name="a", on_lost="terminate")
    watcher.acquire("b")
    os.kill(client.pid, signal.SIGSTOP)
    wait_until(lambda: process_state(client.pid) == "T", "it to be stopped")
    redis.stop()
    grace = watcher.notification("lost")["grace_ms"] / 1000
    told = boot_time()
    assert signal_of(client) == signal.SIGKILL
    assert boot_time() - told < grace
    redis.resume()


def test_the_process_that_connected_is_ended_and_no_other(lab):
    """Pitfall 31. The child that has the connection is not the one that asked."""
    daemon = lab.daemon()
    client, root = ProcessClient(lab, daemon), daemon.client()
    client.call("acquire", name="a", on_lost="kill")
    client.fork()
    client.kill()
    assert root.call("break", name="a")["broken"]
    assert client.next()["method"] == "lost"
    assert is_alive(client.child)
    # Of a process that has ended nothing can be enforced.
    error = client.error("acquire", name="a", on_lost="kill")
    assert error["code"] == -32602 and error["data"]["field"] == "on_lost"
    client.call("acquire", name="a")


@pytest.mark.skipif(os.geteuid() != 0, reason="other users can only be tried as root")
@pytest.mark.parametrize("action", ["kill", "terminate"])
def test_without_the_right_to_signal_it_is_refused(lab, action):
    daemon = lab.daemon(prefix=["setpriv", "--bounding-set", "-kill"])
    client = ProcessClient(lab, daemon, user=ANNA)
    error = client.error("acquire", name="a", on_lost=action)
    assert error["code"] == 6
    assert (error["data"]["right"], error["data"]["name"]) == ("CAP_KILL", "a")
    assert "enforce-loss.conf" in error["message"]
    assert daemon.client().call("inspect", name="a")["holders"] == []
    client.call("acquire", name="a", on_lost="notify")
    # Its own user's processes it may signal.
    own = ProcessClient(lab, daemon, command=["setpriv", "--bounding-set", "-kill"])
    own.call("acquire", name="b", on_lost=action)


def test_the_end_of_the_daemon_is_a_loss_too(lab):
    daemon = lab.daemon()
    clients = {action: ProcessClient(lab, daemon) for action in ("kill", "terminate", "notify")}
    for action, client in clients.items():
        client.call("acquire", name=action, on_lost=action)
    daemon.terminate()
    assert signal_of(clients["kill"]) == signal.SIGKILL
    assert signal_of(clients["terminate"]) == signal.SIGKILL
    assert is_alive(clients["notify"].pid)


def test_a_session_that_the_daemon_ends_is_a_loss_too(lab):
    """A silent client does not know that its lock is another's now."""
    daemon = lab.daemon()
    silent, freed, other = ProcessClient(lab, daemon), ProcessClient(lab, daemon), daemon.client()
    silent.call("initialize", keepalive_ms=1000)
    silent.call("acquire", name="a", on_lost="terminate")
    freed.call("initialize", keepalive_ms=1000)
    freed.call("acquire", name="b", on_lost="kill")
    freed.call("release", name="b")
    other.acquire("a")
    assert signal_of(silent) == signal.SIGKILL
    wait_until(lambda: other.call("stats")["sessions"] == 1, "the end of the other one")
    assert is_alive(freed.pid)


def set_uid(lab, program):
    """A copy of a program that makes whoever runs it root."""
    directory = lab.directory / "set-uid"
    directory.mkdir(exist_ok=True)
    os.chmod(lab.directory, 0o755)
    copy = directory / program
    shutil.copy(shutil.which(program), copy)
    os.chmod(copy, 0o4755)
    return str(copy)


def may_signal(user, pid):
    """What kill(2) says, asked by a process of that user."""
    check = f"import os; os.kill({pid}, 0)"
    return subprocess.run(["/usr/bin/python3", "-c", check], user=user, stderr=subprocess.DEVNULL).returncode == 0


def users_of(pid):
    """Its real, effective and saved user."""
    line = next(line for line in open(f"/proc/{pid}/status") if line.startswith("Uid:"))
    return [int(word) for word in line.split()[1:4]]


@pytest.mark.skipif(os.geteuid() != 0, reason="other users can only be tried as root")
@pytest.mark.parametrize("action", ["kill", "terminate"])
@pytest.mark.parametrize("becomes", ["its own with more rights", "root's"])
def test_no_process_is_ended_that_its_client_could_not_end(lab, becomes, action):
    """The daemon is root's and may end everything. What kill(2) allows the client's user is the measure."""
    redis = lab.redis()
    daemon = lab.daemon(redis, lease_ms=2000)
    client, watcher = ProcessClient(lab, daemon, user=ANNA), daemon.client()
    client.call("acquire", name="a", on_lost=action)
    watcher.acquire("b")
    if becomes == "root's":
        client.run(set_uid(lab, "setpriv"), "--reuid=0", "--regid=0", "--clear-groups", shutil.which("sleep"), "600")
        wait_until(lambda: users_of(client.pid) == [0, 0, 0], "it to be root's")
    else:
        client.run(set_uid(lab, "sleep"), "600")
        wait_until(lambda: users_of(client.pid) == [ANNA, 0, 0], "it to have root's rights")
    is_allowed = becomes != "root's"
    assert may_signal(ANNA, client.pid) == is_allowed
    if action == "terminate":
        redis.stop()
        watcher.notification("lost")
    else:
        watcher.call("break", name="a")
    if is_allowed:
        assert signal_of(client) in (signal.SIGKILL, signal.SIGTERM)
    else:
        # With "terminate" both signals are refused, the second one when it would be due.
        wait_until(lambda: daemon.log().count('outcome="another user\'s process by now"') == (2 if action == "terminate" else 1),
                   "the refusals in the log")
        assert is_alive(client.pid) and users_of(client.pid) == [0, 0, 0]
        assert watcher.call("stats")["signals_sent_total"] == 0
        os.kill(client.pid, signal.SIGKILL)
    redis.resume()


# Becomes `WHO`, root or a user, for each line of input `become WHO`, and sends the others to the daemon. It writes the answers.
CHANGES_USERS = """
import os, socket, sys
os.setresuid(*[int(sys.argv[2])] * 2, 0)
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(sys.argv[1])
    lines = connection.makefile()
    for line in sys.stdin:
        if line.startswith("become"):
            os.seteuid(0)
            os.setresuid(*[int(line.split()[1])] * 2, 0)
            print("{}", flush=True)
            continue
        connection.sendall(line.encode())
        print(next(answer for answer in lines if '"id"' in answer).strip(), flush=True)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="other users can only be tried as root")
def test_a_process_that_could_not_be_ended_is_at_its_next_loss(lab):
    """It was root's when its first lock was lost."""
    redis = lab.redis()
    daemon = lab.daemon(redis, lease_ms=2000)
    os.chmod(daemon.socket_path, 0o666)
    for directory in (lab.directory, daemon.directory):
        os.chmod(directory, 0o755)
    process = lab.track(subprocess.Popen(
        [sys.executable, "-S", "-c", CHANGES_USERS, str(daemon.socket_path), str(ANNA)], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE))

    def say(line):
        process.stdin.write(line + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    def acquire(name):
        return say(json.dumps({"id": 1, "method": "acquire", "params": {"name": name, "on_lost": "terminate"}}))["result"]
    acquire("a")
    say("become 0")
    redis.stop()
    wait_until(lambda: daemon.log().count("another user's process by now") == 2, "both refusals in the log")
    redis.resume()
    say(f"become {ANNA}")
    acquire("b")
    redis.stop()
    assert -process.wait(GENEROUS_SECONDS) == signal.SIGTERM
    redis.resume()


@pytest.mark.skipif(os.geteuid() != 0, reason="other users can only be tried as root")
def test_who_cannot_be_ended_is_told(lab):
    """The process that connected is root's by now, and its child, which has the connection, is not."""
    daemon = lab.daemon()
    client, root = ProcessClient(lab, daemon, user=ANNA), daemon.client()
    client.call("acquire", name="a", on_lost="kill")
    client.fork(set_uid(lab, "setpriv"), "--reuid=0", "--regid=0", "--clear-groups", shutil.which("sleep"), "600")
    wait_until(lambda: users_of(client.pid) == [0, 0, 0], "it to be root's")
    assert root.call("break", name="a")["broken"]
    lost = client.next()
    assert lost["method"] == "lost" and lost["params"]["enforced"] is False
    error = client.error("acquire", name="a", on_lost="kill")
    assert error["code"] == -32602 and error["data"]["field"] == "on_lost" and "another user" in error["message"]
    assert is_alive(client.pid)
    client.call("acquire", name="a")
