"""Clients that the daemon cannot see: it is in a pid namespace (a container's) of its own, and they are outside."""

import os

import pytest

from harness.client import RpcError
from harness.process_client import ProcessClient
from harness.waiting import wait_until
from test_lifecycle import run_daemon
from test_policy import rules

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces can only be made as root")

# Starts the daemon as process 1 of namespaces of its own, passes SIGTERM on, and ends as it ends.
APART = ["/usr/bin/python3", "-c", """
import ctypes, os, signal, sys
libc = ctypes.CDLL(None)
assert libc.unshare(0x20000000 | 0x00020000) == 0  # CLONE_NEWPID, CLONE_NEWNS
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
child = os.fork()
if child == 0:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    os.execvp("sh", ["sh", "-c", 'mount --make-rprivate / && mount -t proc proc /proc && exec "$@"', "sh", *sys.argv[1:]])
signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""]


@pytest.fixture
def apart(lab):
    """Starts a daemon that sees no processes but its own."""
    return lambda store=None, **options: lab.daemon(store, prefix=APART, **options)


def refusal(client, method, **params):
    with pytest.raises(RpcError) as caught:
        client.call(method, **params)
    return caught.value


def test_what_is_not_known_is_left_out(lab, apart):
    """Not "pid 0", and nothing of another process that has the number by chance."""
    redis = lab.redis()
    daemon, elsewhere = apart(redis, args=["--host", "apart"]), lab.daemon(redis, args=["--host", "open"])
    holder, waiter, observer = daemon.client(), daemon.client(), elsewhere.client()
    holder.acquire("orders", meta="nightly")
    waiter.queue("orders")
    for client in (daemon.client(), observer):
        seen = client.call("inspect", name="orders")
        [found], [waits] = seen["holders"], seen["waiters"]
        assert (found["uid"], found["meta"]) == (os.getuid(), "nightly")
        for what in (found, waits):
            assert not {"pid", "command", "unit"} & what.keys(), what
    [listed] = daemon.client().call("list")["locks"]
    assert "pid" not in listed["holders"][0]
    # Where the daemon sees its client all is told.
    mine = elsewhere.client()
    mine.acquire("mine")
    assert observer.call("inspect", name="mine")["holders"][0]["pid"] == os.getpid()


def test_a_deadlock_names_no_process_that_is_not_seen(apart):
    daemon = apart()
    first, second = daemon.client(), daemon.client()
    first.acquire("left", owner="a")
    second.acquire("right", owner="b")
    first.queue("right", owner="a")
    error = second.error_of(second.request("acquire", name="left", owner="b"))
    assert error.reason == "deadlock"
    assert all("pid" not in step and "command" not in step for step in error.data["cycle"]), error.data


@pytest.mark.parametrize("action", ["kill", "terminate"])
def test_a_process_that_no_signal_reaches_is_no_matter_of_rights(lab, apart, action):
    """CAP_KILL would not help, and the process has not ended either."""
    daemon = apart()
    client = ProcessClient(lab, daemon)
    error = client.error("acquire", name="a", on_lost=action)
    assert (error["code"], error["data"]["field"]) == (-32602, "on_lost")
    assert "another pid namespace" in error["message"]
    assert "CAP_KILL" not in error["message"] and "enforce-loss" not in error["message"] and "ended," not in error["message"]
    assert daemon.client().call("inspect", name="a")["holders"] == []
    client.call("acquire", name="a", on_lost="notify")


def test_a_session_ends_with_a_process_that_is_not_seen_or_says_why_not(lab, apart):
    """Since Linux 6.5 the kernel gives a descriptor of it all the same."""
    daemon = apart()
    client = ProcessClient(lab, daemon)
    answer = client.message("initialize", lifetime="process")
    if "error" in answer:
        assert answer["error"]["data"]["field"] == "lifetime" and "another pid namespace" in answer["error"]["message"]
        assert client.call("ping") == {}
        return
    client.call("acquire", name="a")
    client.fork()
    client.kill()
    daemon.client().acquire("a")


def test_a_unit_that_cannot_be_known_is_given_as_the_reason(apart):
    daemon = apart(args=rules("allow use a to unit:shop.service", "deny use a to everyone"))
    error = refusal(daemon.client(), "acquire", name="a")
    assert error.reason == "denied"
    assert "another pid namespace" in str(error) and "unit is not known" in str(error)


def test_who_is_missing_a_right_for_other_reasons_hears_nothing_of_units(lab):
    daemon = lab.daemon(args=rules("deny use a to everyone"))
    assert "unit" not in str(refusal(daemon.client(), "acquire", name="a"))


def test_the_log_names_no_process_zero(apart):
    daemon = apart(args=["--log-level", "trace"])
    holder, silent, administrator = daemon.client(), daemon.client(), daemon.client()
    silent.call("initialize", keepalive_ms=1000, client={"name": "x"})
    holder.acquire("a")
    assert administrator.call("break", name="a", reason="by hand")["broken"]
    silent.wait_for_end()
    wait_until(lambda: "session ended by the daemon" in daemon.log() and "lock broken" in daemon.log(), "the log entries")
    assert "pid=0" not in daemon.log() and "pid 0" not in daemon.log()
    assert "pid=unknown" in daemon.log() and "pid unknown" in daemon.log()


def test_another_daemon_on_the_socket_is_not_given_a_number_that_is_not_its_own(apart):
    """Its own number is that of another process here, or of none."""
    daemon = apart()
    second = run_daemon("--local", "--socket", daemon.socket_path)
    assert second.returncode == 75
    text = second.stdout + second.stderr
    assert "process 1 " not in text and "process 0" not in text, text


def test_root_is_told_that_its_socket_is_for_root_alone(lab):
    """And not that somebody should join the group root."""
    daemon = lab.daemon()
    assert (os.stat(daemon.socket_path).st_gid, os.stat(daemon.socket_path).st_mode & 0o777) == (0, 0o660)
    wait_until(lambda: "only root may connect" in daemon.log(), "the log entry")
    assert "--socket-mode" in daemon.log() and "usermod" not in daemon.log()
    assert "--socket-group GROUP" in daemon.log()
    assert "only root may connect" not in lab.daemon(args=["--socket-mode", "0666"]).log()
    assert "only root may connect" not in lab.daemon(args=["--socket-group", "61100"]).log()


@pytest.mark.parametrize("place, words, not_words", [
    ("missing/directory/s.sock", "make", "writable"), ("file/s.sock", "is not a directory", "writable")])
def test_a_socket_that_cannot_be_made_has_the_true_reason(lab, place, words, not_words):
    (lab.directory / "file").write_text("")
    done = run_daemon("--local", "--socket", lab.directory / place)
    text = done.stdout + done.stderr
    assert done.returncode == 1 and words in text and not_words not in text, text
