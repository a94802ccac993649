"""Sessions that end with the process that connected (`lifetime`), or when nothing comes (`keepalive_ms`)."""

import json
import os
import signal

import pytest

from harness.command import is_alive
from harness.process_client import ProcessClient
from harness.waiting import boot_time, wait_until

def test_lifetime_process_ends_with_the_process_that_connected(lab):
    """Pitfall 30: a forked child has the socket, and the lock is free all the same."""
    daemon = lab.daemon()
    client = ProcessClient(lab, daemon)
    client.call("initialize", lifetime="process")
    token = client.call("acquire", name="a")["token"]
    client.fork()
    other = daemon.client()
    waiting = other.queue("a")
    client.kill()
    assert other.reply_to(waiting)["token"] > token
    assert is_alive(client.child)
    # The child hears that the session is over.
    assert client.next() is None
    wait_until(lambda: "reason=process_ended" in daemon.log(), "the log entry")


def test_lifetime_socket_goes_on_with_the_child(lab):
    daemon = lab.daemon()
    client = ProcessClient(lab, daemon)
    client.call("initialize", lifetime="socket")
    client.call("acquire", name="a")
    client.fork()
    other = daemon.client()
    client.kill()
    assert other.try_acquire("a") is None
    assert client.call("ping") == {}
    waiting = other.queue("a")
    client.kill_child()
    other.reply_to(waiting)


def test_lifetime_process_of_a_process_that_has_ended(lab):
    """Pitfall 31: the number of the process that connected may be anybody's by now; it is not looked for."""
    daemon = lab.daemon()
    client = ProcessClient(lab, daemon)
    client.call("acquire", name="a")
    client.fork()
    client.kill()
    other = daemon.client()
    waiting = other.queue("a")
    # The answer may still come, and then the end.
    client.message("initialize", lifetime="process")
    assert client.next() is None
    other.reply_to(waiting)


@pytest.mark.parametrize("later", [{}, {"lifetime": "socket"}])
def test_lifetime_process_is_not_taken_back(lab, later):
    """Otherwise whoever inherits the connection could."""
    daemon = lab.daemon()
    client = ProcessClient(lab, daemon)
    client.call("initialize", lifetime="process")
    client.call("initialize", **later)
    client.fork()
    client.kill()
    assert client.next() is None


def test_a_thousand_sessions_with_their_process_cost_little(lab):
    """A descriptor each, and one thread for all of them; what ends gives its descriptor back."""
    daemon = lab.daemon()
    daemon.client().call("initialize", lifetime="process")
    count = lambda: len(os.listdir(f"/proc/{daemon.pid}/fd"))
    threads = len(os.listdir(f"/proc/{daemon.pid}/task"))
    before = count()
    clients = [daemon.client() for _ in range(1000)]
    for client in clients:
        client.call("initialize", lifetime="process")
    assert len(os.listdir(f"/proc/{daemon.pid}/task")) == threads
    assert count() <= before + 2000
    for client in clients:
        client.close()
    wait_until(lambda: count() <= before, "the descriptors to be given back")


def test_keepalive_ends_a_silent_session(lab, measured):
    daemon = lab.daemon()
    silent, other = daemon.client(), daemon.client()
    silent.call("initialize", keepalive_ms=1000)
    token = silent.acquire("a")
    waiting = other.queue("a")
    started = boot_time()
    silent.ping()
    assert other.reply_to(waiting)["token"] > token
    taken = boot_time() - started
    assert taken >= 1.0, "it was ended before its time"
    measured("a session with keepalive_ms 1000 ended after", f"{taken * 1000:.0f} ms")
    assert silent.wait_for_end() == []
    wait_until(lambda: "silent" in daemon.log(), "the log entry")
    # A session that did not ask for it lives on in silence.
    other.ping()


def test_a_keepalive_can_be_taken_back(lab):
    daemon = lab.daemon()
    client, control, other = daemon.client(), daemon.client(), daemon.client()
    client.call("initialize", keepalive_ms=1000)
    client.acquire("a")
    client.call("initialize", keepalive_ms=None)
    # One that still has its keepalive shows when the time is over.
    control.call("initialize", keepalive_ms=1000)
    control.acquire("b")
    other.acquire("b")
    assert other.try_acquire("a") is None
    client.ping()


def test_a_ping_tells_for_how_long_the_holds_are_safe(lab):
    """What `sidelock run` goes by: the time of the lease, not the silence of a daemon that hangs."""
    redis = lab.redis()
    daemon = lab.daemon(redis, lease_ms=3000)
    client = daemon.client()
    assert client.call("ping") == {}
    client.acquire("a")
    client.acquire("b")
    assert 0 < client.call("ping")["valid_ms"] <= 2550
    # Without renewals it runs out, and is never told longer than it is.
    redis.stop()
    told = client.call("ping")["valid_ms"]
    asked = boot_time()
    wait_until(lambda: client.call("ping").get("valid_ms", 0) < told, "the time to pass")
    left = client.call("ping").get("valid_ms", 0)
    assert left <= told
    assert boot_time() - asked >= (told - left) / 1000 - 0.02
    redis.resume()


@pytest.mark.parametrize("said", [b"\n", b" ", json.dumps({"id": 1, "method": "ping"}).encode() + b"\n"])
def test_any_bytes_keep_a_session_alive(lab, said):
    daemon = lab.daemon()
    client, other = daemon.client(check=False), daemon.client()
    client.call("initialize", keepalive_ms=2000)
    client.acquire("a")
    end = boot_time() + 5
    while boot_time() < end:
        client.send_raw(said)
        client.receive(0.2)
    assert other.try_acquire("a") is None


def test_keepalive_ends_a_stopped_client(lab):
    """Pitfall 11: a frozen client is not renewed for ever. Without a keepalive it would be (pitfall 10)."""
    redis = lab.redis()
    daemon, elsewhere = lab.daemon(redis), lab.daemon(redis)
    stopped, without = ProcessClient(lab, daemon), ProcessClient(lab, daemon)
    stopped.call("initialize", keepalive_ms=1000)
    stopped.call("acquire", name="a")
    without.call("acquire", name="b")
    for client in (stopped, without):
        os.kill(client.pid, signal.SIGSTOP)
    other = elsewhere.client()
    other.acquire("a")
    assert other.try_acquire("b") is None


def test_keepalive_counts_what_a_busy_daemon_has_not_read(lab):
    """It is the client's silence that ends a session, not the daemon's deafness."""
    daemon = lab.daemon()
    client = daemon.client()
    client.call("initialize", keepalive_ms=1000)
    token = client.acquire("a")
    daemon.stop()
    asked = client.request("release", name="a", token=token)
    end = boot_time() + 1.5
    while boot_time() < end:
        assert client.receive(0.1) is None
    daemon.resume()
    assert client.reply_to(asked)["remaining"] == 0


def test_keepalive_ends_a_waiting_session_too(lab):
    daemon = lab.daemon()
    holder, silent = daemon.client(), daemon.client()
    holder.acquire("a")
    silent.call("initialize", keepalive_ms=1000)
    silent.queue("a")
    silent.wait_for_end()
    assert holder.call("inspect", name="a")["waiting"] == 0


def test_many_sessions_with_a_keepalive(lab):
    """All end when their time has come, and those that speak do not."""
    daemon = lab.daemon()
    clients = [daemon.client() for _ in range(200)]
    talking, silent = clients[:5], clients[5:]
    for client in [*silent, *talking]:
        client.call("initialize", keepalive_ms=1000 if client in silent else 5000)

    def gone():
        for client in talking:
            client.ping()
        return talking[0].call("stats")["sessions"] == len(talking)

    wait_until(gone, "the silent ones to be ended", pause=0.1)
    for client in silent:
        client.wait_for_end()
    for client in talking:
        client.ping()


def test_keepalive_is_a_second_to_a_day(lab):
    client = lab.daemon().client()
    for good in (1000, 86_400_000):
        client.call("initialize", keepalive_ms=good)
    for bad in (999, 86_400_001, 0, -1):
        error = client.error_of(client.request("initialize", keepalive_ms=bad))
        assert error.code == -32602 and error.data["field"] == "keepalive_ms"
