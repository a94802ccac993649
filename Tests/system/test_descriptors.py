"""A limit of open files that is lower than what clients want: they are refused, and the daemon itself lacks nothing."""

import os
import re
import resource
import signal
import subprocess

import pytest
from harness.client import Client, RpcError
from harness.daemon import binary, clean_environment
from harness.process_client import ProcessClient
from harness.waiting import boot_time, wait_until


def limited(count):
    return ["prlimit", f"--nofile={count}:{count}"]


def crowd_of(daemon, count):
    """So many connections: those that are served, and what the others were told."""
    served, refused = [], []
    for _ in range(count):
        client, message = daemon.knock()
        if "result" in message:
            served.append(client)
        else:
            client.wait_for_end()
            refused.append(message)
    return served, refused


@pytest.mark.parametrize("limit", [48, 64, 128])
def test_clients_beyond_are_told_and_the_link_comes_back(lab, limit):
    redis = lab.redis()
    # When Redis is back nothing is granted for as long as a lease.
    daemon = lab.daemon(redis, prefix=limited(limit), lease_ms=6000)
    served, refused = crowd_of(daemon, limit + 16)
    assert len(served) >= limit // 4 and refused
    for message in refused:
        assert message["id"] is None and message["error"]["code"] == 7
        assert message["error"]["data"]["limit"] == "connections"
        for part in ("connections_max", str(limit), "LimitNOFILE"):
            assert part in message["error"]["message"], message
    assert daemon.log().count("the limit of open files is below connections_max") == 1
    for _ in range(2):
        redis.kill()
        wait_until(lambda: "Redis unreachable" in daemon.notify.lines("STATUS=")[-1], "the outage")
        # Whoever was refused tries again while the link is away.
        assert not crowd_of(daemon, limit)[0]
        redis.start()
        wait_until(lambda: "Redis connected" in daemon.notify.lines("STATUS=")[-1], "the connection")
        for index, client in enumerate(served):
            client.release(f"lock-{index}", client.acquire(f"lock-{index}"))
    served.pop().close()
    wait_until(lambda: served[0].call("stats")["sessions"] == len(served), "the connection to be gone")
    assert crowd_of(daemon, 1)[0]


@pytest.mark.parametrize("limit", [6, 10, 16, 24, 30])
def test_a_limit_too_low_to_serve_with_is_said_at_once(lab, limit):
    """It serves everybody, or nobody and says so."""
    result = subprocess.run(
        [*limited(limit), binary("sidelockd", "SIDELOCKD"), "--local", "--socket", lab.directory / "s.sock"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, env=clean_environment(), timeout=60)
    assert result.returncode == 78, result
    (line,) = result.stderr.splitlines()
    needed = int(re.search(r"needed=(\d+)", line)[1])
    assert "the limit of open files is too low" in line and f"limit={limit} " in line and needed > limit


@pytest.mark.parametrize("backend", ["redis", "local"])
def test_with_the_limit_that_it_asks_for_everybody_is_answered(lab, backend):
    redis = lab.redis() if backend == "redis" else None
    command = [*limited(10), binary("sidelockd", "SIDELOCKD"), "--local", "--socket", lab.directory / "s.sock"]
    said = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=clean_environment(), timeout=60).stderr
    # The harness' daemon has no more files open at its start than this one.
    limit = int(re.search(r"needed=(\d+)", said)[1])
    daemon = lab.daemon(redis, prefix=limited(limit))
    served, refused = crowd_of(daemon, 3 * limit)
    assert len(served) >= 8 and len(served) + len(refused) == 3 * limit
    for index, client in enumerate(served):
        assert client.acquire(f"lock-{index}")
    assert "cannot be accepted" not in daemon.log()


def test_a_process_that_is_watched_counts(lab):
    daemon = lab.daemon(prefix=limited(64))
    # Each takes two descriptors: so that the last one has room for its connection, their number must be odd.
    others = 1 - int(re.search(r"clients=(\d+)", daemon.log())[1]) % 2
    for _ in range(others):
        daemon.client().call("ping")
    watched = []
    while True:
        client = daemon.client()
        try:
            client.call("initialize", lifetime="process")
        except RpcError as error:
            assert (error.reason, error.data["limit"]) == ("limit", "connections")
            break
        watched.append(client)
    assert len(watched) >= 8
    # It is served all the same, and so is on_lost refused, and nobody else is harmed.
    assert client.acquire("a")
    with pytest.raises(RpcError) as caught:
        client.acquire("b", on_lost="kill")
    assert caught.value.reason == "limit"
    watched.pop().close()
    wait_until(lambda: client.call("stats")["sessions"] == len(watched) + 1 + others, "the connection to be gone")
    client.call("initialize", lifetime="process")
    token = client.acquire("b", on_lost="kill")
    assert token
    # Lost when the daemon stops, it would end the process of this client, which is the test's own.
    client.release("b", token)


def test_a_loss_is_enforced_when_nothing_is_left_for_clients(lab):
    daemon = lab.daemon(prefix=limited(64))
    victim = ProcessClient(lab, daemon)
    victim.call("acquire", name="a", on_lost="kill", max_hold_ms=300)
    crowd_of(daemon, 80)
    victim.process.wait(30)
    assert victim.process.returncode == -signal.SIGKILL


def test_the_limit_is_raised_as_far_as_it_may_be_and_followed_when_it_changes(lab):
    daemon = lab.daemon(prefix=["prlimit", "--nofile=64:4096"])
    served, refused = crowd_of(daemon, 80)
    assert len(served) == 80 and not refused
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (100, 4096))
    refused = crowd_of(daemon, 1)[1]
    assert "100" in refused[0]["error"]["message"]
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (4096, 4096))
    assert crowd_of(daemon, 1)[0]


def test_accepting_does_not_spin_when_there_is_no_descriptor(lab):
    """It cannot even be refused then; it waits."""
    daemon = lab.daemon(prefix=["prlimit", "--nofile=4096:4096"])
    first = daemon.client()
    first.ping()

    def taken():
        """The numbers of the daemon's descriptors, once none is open only for a moment."""
        before = os.listdir(f"/proc/{daemon.pid}/fd")
        first.ping()
        return {int(name) for name in before} if before == os.listdir(f"/proc/{daemon.pid}/fd") else None

    numbers = wait_until(taken, "descriptors that stay")
    # The lowest number that is free: below it nothing can be opened.
    count = next(number for number in range(len(numbers) + 1) if number not in numbers)
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (count, 4096))
    late = Client(daemon.socket_path)
    late.request("ping")
    began, before = boot_time(), daemon.cpu_seconds()
    wait_until(lambda: boot_time() > began + 2, "two seconds")
    first.ping()
    assert daemon.cpu_seconds() - before < 0.5
    # One connection at a time finds room now and then; that is not a new failure each time.
    for spare in (1, 0) * 8:
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (count + spare, 4096))
        waiting = Client(daemon.socket_path)
        waiting.request("ping")
        waiting.close()
    first.ping()
    assert daemon.log().count("connections cannot be accepted") == 1
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (4096, 4096))
    assert late.next()["result"] == {}
    late.close()
