"""Everything that a client can make grow: at each limit, one past it, and what `stats` tells of it."""

import pytest

from harness.client import Ended, RpcError
from harness.command import Command
from harness.process_client import ProcessClient
from harness.waiting import GENEROUS_SECONDS, wait_until

NOBODY = 65534


def met(client):
    """How often each limit was met."""
    return {name: count for name, count in client.call("stats")["limits_met_total"].items() if count}


def refusal_of(daemon):
    """The limit that the next connection is refused by; None when it is served."""
    client, message = daemon.knock()
    if "result" in message:
        return None
    client.wait_for_end()
    assert message["id"] is None and message["error"]["code"] == 7
    return message["error"]["data"]["limit"]


def test_connections(lab):
    daemon = lab.daemon(args=["--connections-max", "3"])
    clients = [daemon.client() for _ in range(3)]
    for client in clients:
        client.ping()
    assert refusal_of(daemon) == "connections"
    assert met(clients[0]) == {"connections": 1}
    clients.pop().close()
    wait_until(lambda: clients[0].call("stats")["sessions"] == 2, "the connection to be gone")
    assert refusal_of(daemon) is None


@pytest.mark.parametrize("limit", ["connections", "connections_per_uid"])
def test_the_command_says_which_limit_of_connections_was_met(lab, limit):
    daemon = lab.daemon(args=[f"--{limit.replace('_', '-')}-max", "1"])
    daemon.client().ping()
    command = Command(lab, daemon)
    for arguments in (["list"], ["run", "-n", "x", "--", "true"], ["ping"]) * 8:
        status, out, err = command.run(*arguments)
        assert (status, out) == (71, ""), err
        assert f"{limit}_max of sidelockd's settings is 1" in err and "which sidelock clients shows" in err
        assert f"or raise {limit}_max in " in err and "other requests" not in err


def test_connections_per_uid(lab):
    daemon = lab.daemon(args=["--connections-per-uid-max", "2"])
    clients = [daemon.client() for _ in range(2)]
    for client in clients:
        client.ping()
    assert refusal_of(daemon) == "connections_per_uid"
    assert met(clients[0]) == {"connections_per_uid": 1}
    # Another user has a count of their own.
    assert ProcessClient(lab, daemon, user=NOBODY).call("ping") == {}
    clients.pop().close()
    wait_until(lambda: clients[0].call("stats")["sessions"] == 2, "the connection to be gone")
    assert refusal_of(daemon) is None


def limit_of(error):
    assert error.code == 7
    return error.data["limit"]


def test_holds_per_session(lab):
    daemon = lab.daemon(args=["--holds-per-session-max", "3"])
    client = daemon.client()
    for name in "abc":
        client.acquire(name)
    assert limit_of(client.error_of(client.request("acquire", name="d"))) == "holds_per_session"
    daemon.client().acquire("d")
    client.release("a")
    client.acquire("e")
    assert met(client) == {"holds_per_session": 1}


def test_holds_per_uid(lab):
    daemon = lab.daemon(args=["--holds-per-uid-max", "3"])
    first, second = daemon.client(), daemon.client()
    for client, name in ((first, "a"), (first, "b"), (second, "c")):
        client.acquire(name)
    assert limit_of(second.error_of(second.request("acquire", name="d"))) == "holds_per_uid"
    assert "token" in ProcessClient(lab, daemon, user=NOBODY).call("acquire", name="d")
    first.release("a")
    second.acquire("e")
    assert met(first) == {"holds_per_uid": 1}


def test_waits_per_session(lab):
    daemon = lab.daemon(args=["--waits-per-session-max", "2"])
    holder, client = daemon.client(), daemon.client()
    for name in "abc":
        holder.acquire(name)
    waiting = [client.queue(name) for name in "ab"]
    assert limit_of(client.error_of(client.request("acquire", name="c"))) == "waits_per_session"
    assert client.call("initialize")["limits"]["requests_in_flight"] == 2
    client.call("cancel", id=waiting[0])
    client.queue("c")
    assert met(client) == {"waits_per_session": 1}


def test_waits_per_uid(lab):
    daemon = lab.daemon(args=["--waits-per-uid-max", "2"])
    holder, first, second = daemon.client(), daemon.client(), daemon.client()
    holder.acquire("a")
    first.queue("a")
    second.queue("a")
    assert limit_of(first.error_of(first.request("acquire", name="a"))) == "waits_per_uid"
    second.close()
    wait_until(lambda: holder.call("stats")["waiting"] == 1, "the wait to be withdrawn")
    first.queue("a")
    assert met(first) == {"waits_per_uid": 1}


def test_watches_per_session(lab):
    client = lab.daemon().client()
    watches = [client.call("watch", name="a")["watch"] for _ in range(64)]
    assert limit_of(client.error_of(client.request("watch", name="a"))) == "watches_per_session"
    client.call("unwatch", watch=watches[0])
    client.call("watch", name="a")
    assert met(client) == {"watches_per_session": 1}


def test_watches_per_uid(lab):
    daemon = lab.daemon(args=["--watches-per-uid-max", "2"])
    first, second = daemon.client(), daemon.client()
    first.call("watch", name="a")
    watch = second.call("watch", prefix="")["watch"]
    for client in (first, second):
        assert limit_of(client.error_of(client.request("watch", name="b"))) == "watches_per_uid"
    assert "watch" in ProcessClient(lab, daemon, user=NOBODY).call("watch", name="b")
    second.call("unwatch", watch=watch)
    second.call("watch", name="b")
    first.close()
    wait_until(lambda: second.call("stats")["watches"] == 2, "the watches of the first one to end")
    second.call("watch", name="c")
    assert met(second) == {"watches_per_uid": 2}


def test_lock_bytes_per_uid(lab):
    """Beyond it nothing more is held or waited for; what is held stays, and nobody else is concerned."""
    daemon = lab.daemon(args=["--lock-bytes-per-uid-max", str(1 << 20)])
    greedy, holder = daemon.client(), ProcessClient(lab, daemon, user=NOBODY)
    holder.call("acquire", name="taken")
    meta, count = "m" * 1024, 0
    while True:
        request = greedy.request("acquire", name=f"{count:0512}", meta=meta)
        try:
            greedy.reply_to(request)
        except RpcError as error:
            assert limit_of(error) == "lock_bytes_per_uid"
            break
        count += 1
    assert 200 < count < 300
    assert limit_of(greedy.error_of(greedy.request("acquire", name="taken", meta=meta))) == "lock_bytes_per_uid"
    stats = greedy.call("stats")
    assert stats["held"] == count + 1 and (1 << 20) - 5120 < stats["lock_bytes"] < (1 << 20) + 2048
    assert "token" in holder.call("acquire", name="x" * 512, meta=meta)
    greedy.release(f"{0:0512}")
    greedy.acquire("taken too", meta=meta)


# Each answer of these waits has some 240 bytes: so many of them stay below a MiB, and three times as many do not.
MANY = 3300


def wait_together(client, name, count):
    """Has a client wait so often for a lock to read. All these waits end at one moment, when its writer gives it back:
    answers that come without a request can not be held back."""
    lines = b"".join(
        b'{"id":"%0128d","method":"acquire","params":{"name":"%s","mode":"shared"}}\n' % (number, name.encode())
        for number in range(count))
    client.socket.sendall(lines)


def expect_grants(client, count):
    """Reads that many answers, and nothing else comes."""
    for _ in range(count):
        assert "result" in client.next()
    client.ping()


def grants_before_the_end(client):
    """Reads to the end of the connection; gives the number of answers before it."""
    count = 0
    while True:
        try:
            assert client.receive(GENEROUS_SECONDS) is not None, "the connection does not end"
        except AssertionError as fault:
            # A client that is cut off may have been sent half an answer.
            assert "half a line" in str(fault), fault
            return count
        except (Ended, ConnectionResetError):
            return count
        count += 1


def test_bytes_per_session(lab):
    """Whoever leaves too much unread is cut off. What stays within the limit is kept until it is read."""
    daemon = lab.daemon(args=["--bytes-per-session-max", "1048576", "--waits-per-session-max", "65536"])
    holder, modest, slow = daemon.client(), daemon.client(check=False), daemon.client(check=False)
    for name in "ab":
        holder.acquire(name)
    wait_together(modest, "a", MANY)
    wait_together(slow, "a", 3 * MANY)
    wait_until(lambda: holder.call("stats")["waiting"] == 4 * MANY, "all waits", pause=0.1)
    holder.release("a")
    wait_until(lambda: met(holder), "one of them to be cut off", pause=0.1)
    assert grants_before_the_end(slow) < 3 * MANY
    expect_grants(modest, MANY)
    assert met(holder) == {"bytes_per_session": 1}
    wait_until(lambda: "limit=bytes_per_session" in daemon.log(), "the log entry")
    # What was read is not counted any more.
    wait_together(modest, "b", MANY)
    wait_until(lambda: holder.call("stats")["waiting"] == MANY, "all waits", pause=0.1)
    holder.release("b")
    expect_grants(modest, MANY)
    assert met(holder) == {"bytes_per_session": 1}


def test_bytes_per_uid_of_output(lab):
    daemon = lab.daemon(args=["--bytes-per-uid-max", "1048576", "--waits-per-session-max", "65536"])
    holder, first, second = daemon.client(), daemon.client(check=False), daemon.client(check=False)
    for name, client in (("a", first), ("b", second)):
        holder.acquire(name)
        wait_together(client, name, MANY)
    wait_until(lambda: holder.call("stats")["waiting"] == 2 * MANY, "all waits", pause=0.1)
    holder.release("a")
    wait_until(lambda: holder.call("stats")["waiting"] == MANY, "all of the first to be granted", pause=0.1)
    assert met(holder) == {}
    holder.release("b")
    wait_until(lambda: met(holder), "one of them to be cut off", pause=0.1)
    assert met(holder) == {"bytes_per_uid": 1}
    assert grants_before_the_end(second) < MANY
    expect_grants(first, MANY)
    holder.ping()


def test_bytes_per_uid_of_input(lab):
    """Half a line is kept, too: sixteen clients may have one of 64 KiB each, and the next not one byte."""
    daemon = lab.daemon(args=["--bytes-per-uid-max", "1048576"])
    client = daemon.client()
    halves = [daemon.client() for _ in range(16)]
    for half in halves:
        half.send_raw(b'{"id":1,"method":"ping","x-filler":"'.ljust(65_536, b"."))
    wait_until(lambda: client.call("stats")["bytes_in_total"] > 16 * 65_536, "all of it to be read")
    assert met(client) == {}
    next_one = daemon.client()
    next_one.send_raw(b"{")
    error = next_one.next()["error"]
    assert error["code"] == 7 and error["data"]["limit"] == "bytes_per_uid"
    next_one.wait_for_end()
    # What comes as a whole is not kept, and is answered.
    client.ping()
    assert met(client) == {"bytes_per_uid": 1}
    halves.pop().close()
    wait_until(lambda: client.call("stats")["sessions"] == 16, "the half line to be gone")
    late = daemon.client()
    late.send_raw(b"{")
    late.send_raw(b'"id":1,"method":"ping"}\n')
    assert late.next()["result"] == {}


def test_limits_change_while_the_daemon_runs(lab):
    config = lab.directory / "settings.yaml"
    config.write_text("holds_per_session_max: 1\nwaits_per_session_max: 1\nconnections_per_uid_max: 2\n")
    daemon = lab.daemon(args=["--config", str(config)])
    client = daemon.client()
    client.acquire("a")
    assert limit_of(client.error_of(client.request("acquire", name="b"))) == "holds_per_session"
    config.write_text("holds_per_session_max: 2\nwaits_per_session_max: 1\nconnections_per_uid_max: 1\n")
    daemon.reload()
    client.acquire("b")
    assert refusal_of(daemon) == "connections_per_uid"
