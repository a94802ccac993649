"""Grants of which clients are told when replicas of Redis have them."""

import contextlib
import threading

import pytest
from harness.command import Command
from harness.redis_server import ACL_LOGIN, HAS_ACL, version
from harness.service_manager import ServiceManager
from harness.slow_path import SlowPath
from harness.waiting import wait_until

KEEPS_ON_DISK = ["--appendonly", "yes", "--appendfsync", "always"]
# Longer than anything here takes, and short enough where a test waits for its end.
GENEROUS_MS = 30_000
SHORT_MS = 300


class Group:
    """A primary and replicas that follow it."""

    def __init__(self, lab, count=2, *args):
        self.lab = lab
        self.primary = lab.redis(*args)
        if HAS_ACL:
            # What the documents say is needed besides.
            self.primary.admin.execute_command(
                "ACL", "SETUSER", ACL_LOGIN.split(":")[0], "+wait", "+waitaof", "+info")
        # Without the pause of the primary that gathers replicas.
        self.primary.admin.config_set("repl-diskless-sync-delay", 0)
        self.replicas = [
            lab.redis(*args, "--replicaof", "127.0.0.1", str(self.primary.port)) for _ in range(count)]
        self.wait(count)

    def wait(self, count):
        """Until so many follow, and have all there is."""
        wait_until(
            lambda: sum(
                1 for name, replica in self.primary.admin.info("replication").items()
                if name.startswith("slave") and replica["state"] == "online") == count, "the replicas")
        self.primary.admin.set("probe", 1)
        assert wait_until(lambda: self.primary.admin.wait(count, 1000) >= count, "the first acknowledgements")
        self.primary.admin.delete("probe")

    def daemon(self, *args, timeout_ms=GENEROUS_MS):
        return self.lab.daemon(self.primary, args=["--replicas-timeout-ms", str(timeout_ms), *args])


class Login:
    """A server, for a daemon that logs in to it."""

    def __init__(self, server, login):
        self.url = f"unix://{login}@{server.socket_path}"


@contextlib.contextmanager
def stopped(*servers):
    for server in servers:
        server.stop()
    try:
        yield
    finally:
        for server in servers:
            server.resume()


def lock_key(name):
    return f"sidelock:{{{name}}}".encode()


def figures(daemon):
    return daemon.client().call("stats")["redis"]


def is_asking(daemon, name):
    """Whether somebody's lock is taken, and he is not told yet."""
    return any(holder.get("token") for holder in daemon.client().call("inspect", name=name)["holders"])


@pytest.mark.parametrize("params", [
    {"name": "x"}, {"names": ["x", "y"]}, {"name": "x", "mode": "shared"}, {"name": "x", "permits": 2},
    {"name": "x", "owner": "thread"}, {"name": "x", "wait_ms": 0}],
    ids=["name", "names", "shared", "permit", "owner", "try"])
def test_a_client_is_told_when_replicas_have_it(lab, params):
    group = Group(lab)
    daemon = group.daemon()
    client = daemon.client()
    result = client.call("acquire", replicas=2, **params)
    assert result["valid_ms"] > 0 and result["waited_ms"] >= 0
    for lock in result.get("locks", [result]):
        assert all(replica.admin.exists(lock_key(lock["name"])) for replica in group.replicas)
        client.release(lock["name"], lock["token"])
    assert figures(daemon)["acknowledged_total"] == 1


def test_with_a_stopped_replica_the_lock_is_given_back(lab):
    group = Group(lab)
    daemon = group.daemon(timeout_ms=SHORT_MS)
    client = daemon.client()
    client.acquire("before", replicas=2)
    with stopped(group.replicas[0]):
        error = client.error_of(client.request("acquire", name="x", replicas=2))
        assert (error.code, error.reason) == (14, "under_replicated")
        assert {key: error.data[key] for key in ("replicas", "acknowledged", "durability")} == {
            "replicas": 2, "acknowledged": 1, "durability": "memory"}
        # It is free, and one replica is enough for who asks for one.
        assert daemon.client().acquire("x", wait_ms=0, replicas=1)
    assert figures(daemon)["under_replicated_total"] == 1
    assert client.acquire("y", replicas=2)


def test_what_the_settings_ask_for_is_the_least(lab):
    group = Group(lab)
    daemon = group.daemon("--replicas", "2", timeout_ms=SHORT_MS)
    with stopped(group.replicas[0]):
        for params in ({}, {"replicas": 1}, {"replicas": 3}):
            client = daemon.client()
            error = client.error_of(client.request("acquire", name="x", **params))
            assert error.data["replicas"] == max(2, params.get("replicas", 0)) and error.data["acknowledged"] == 1
    assert daemon.client().acquire("x")


def test_the_daemon_warns_of_too_few_replicas_and_of_a_primary_that_writes_without(lab):
    group = Group(lab, 1)
    daemon = group.daemon("--replicas", "2")
    for words in ("Redis has fewer replicas than the setting replicas asks for", "set min-replicas-to-write in Redis"):
        wait_until(lambda: words in daemon.log(), words)
    group.primary.admin.config_set("min-replicas-to-write", 1)
    quiet = group.daemon("--replicas", "1")
    assert quiet.client().acquire("x")
    assert "replicas" not in quiet.log()


if HAS_ACL:
    # The rights that are enough do not let the daemon see min-replicas-to-write.
    del test_the_daemon_warns_of_too_few_replicas_and_of_a_primary_that_writes_without


def test_a_promoted_replica_has_the_lock_that_was_granted(lab):
    group = Group(lab)
    daemon = group.daemon()
    token = daemon.client().acquire("x", replicas=2)
    group.primary.kill()
    for replica in group.replicas:
        replica.admin.replicaof("NO", "ONE")
        assert str(token).encode() in replica.admin.get(lock_key("x"))


def test_without_a_store_it_is_refused_in_words(lab):
    client = lab.daemon().client()
    error = client.error_of(client.request("acquire", name="x", replicas=1))
    assert error.reason == "under_replicated" and "without Redis" in error.data["detail"]
    assert client.acquire("x", replicas=0, durability="memory")


def test_a_server_without_waitaof_is_named(lab):
    group = Group(lab, 1)
    client = group.daemon().client()
    error = client.error_of(client.request("acquire", name="x", durability="disk"))
    assert error.reason == "under_replicated" and "needs Redis 7.2" in error.data["detail"]
    assert client.acquire("x", replicas=1)


class TestDisk:
    def test_the_disk_is_waited_for(self, lab):
        group = Group(lab, 1, *KEEPS_ON_DISK)
        client = group.daemon().client()
        assert client.acquire("x", durability="disk")
        assert client.acquire("y", durability="disk", replicas=1)

    def test_a_replica_without_a_disk_does_not_count(self, lab):
        group = Group(lab, 1, *KEEPS_ON_DISK)
        group.replicas[0].admin.config_set("appendonly", "no")
        client = group.daemon(timeout_ms=SHORT_MS).client()
        assert client.acquire("x", durability="disk")
        error = client.error_of(client.request("acquire", name="y", durability="disk", replicas=1))
        assert (error.data["acknowledged"], error.data["durability"]) == (0, "disk")

    def test_a_primary_without_a_disk_is_named(self, lab):
        client = Group(lab, 1).daemon().client()
        error = client.error_of(client.request("acquire", name="x", durability="disk"))
        assert "appendonly yes" in error.data["detail"]


# Of a server that has WAITAOF nobody can show what is said without, and the other way round.
if version() >= (7, 2):
    del test_a_server_without_waitaof_is_named
else:
    del TestDisk


def test_a_right_that_is_missing_is_named(lab):
    group = Group(lab, 1)
    group.primary.admin.execute_command(
        "ACL", "SETUSER", "locks", "on", ">word", "~sidelock:*", "resetchannels", "&sidelock:*", "+@all", "-wait")
    client = lab.daemon(Login(group.primary, "locks:word")).client()
    error = client.error_of(client.request("acquire", name="x", replicas=1))
    assert "+wait" in error.data["detail"]
    assert client.acquire("x")


@pytest.mark.parametrize("ending", ["cancel", "close"])
def test_who_is_gone_holds_nothing(lab, ending):
    group = Group(lab)
    daemon = group.daemon()
    client = daemon.client()
    with stopped(*group.replicas):
        request = client.request("acquire", name="x", replicas=2)
        wait_until(lambda: is_asking(daemon, "x"), "the lock")
        if ending == "cancel":
            assert client.call("cancel", id=request)["cancelled"]
            assert client.error_of(request).reason == "cancelled"
        else:
            client.close()
        assert daemon.client().acquire("x")


def test_it_goes_on_over_a_restart(lab):
    group = Group(lab)
    manager = ServiceManager(lab, "--redis", group.primary.url, "--replicas-timeout-ms", GENEROUS_MS)
    manager.start()
    client = manager.client()
    with stopped(*group.replicas):
        request = client.request("acquire", name="x", replicas=2)
        wait_until(lambda: any(holder.get("token") for holder in manager.client().call("inspect", name="x")["holders"]),
                   "the lock")
        manager.restart()
        assert client.poll() is None
    assert client.reply_to(request)["token"]
    assert all(replica.admin.exists(lock_key("x")) for replica in group.replicas)
    manager.stop()


def test_who_asks_for_too_many_delays_nobody(lab):
    """16 replicas of one beside one of one: the many get no answer before their time is over, the others get theirs."""
    group = Group(lab, 1)
    daemon = group.daemon(timeout_ms=5_000)
    greedy, modest = daemon.client(), daemon.client()
    many = [greedy.request("acquire", name=f"many-{index}", replicas=16) for index in range(100)]
    for index in range(20):
        assert modest.acquire(f"few-{index}", replicas=1)
    # All of that in less time than the first of the many has.
    assert greedy.poll() is None
    for request in many:
        error = greedy.error_of(request)
        assert error.reason == "under_replicated" and error.data["acknowledged"] == 1


@pytest.mark.parametrize("others", [1, 2])
def test_a_replica_that_is_slower_than_the_others_is_heard(lab, others):
    """One is far away, while many ask, one after the other, without waiting for answers."""
    group = Group(lab, 1)
    path = SlowPath(group.primary.port, 0.1)
    group.replicas.append(lab.redis("--replicaof", "127.0.0.1", str(path.port)))
    group.wait(2)
    daemon = group.daemon(timeout_ms=5_000)
    ends = threading.Event()
    asked = []

    def ask():
        client = daemon.client()
        while not ends.wait(0.01):
            asked.append(client.request("acquire", name=f"other-{len(asked)}", replicas=others))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        client = daemon.client()
        wait_until(lambda: len(asked) > 10, "others")
        for index in range(3):
            assert client.acquire(f"x-{index}", replicas=2)
    finally:
        ends.set()
        asking.join()


def test_nothing_is_told_of_a_link_that_went_down(lab):
    group = Group(lab)
    daemon = group.daemon()
    client = daemon.client()
    with stopped(*group.replicas):
        request = client.request("acquire", name="x", replicas=2)
        wait_until(lambda: is_asking(daemon, "x"), "the lock")
        group.primary.admin.client_kill_filter(_type="pubsub")
        wait_until(lambda: figures(daemon)["connections_total"] == 2, "the next connection")
        assert client.poll() is None
    # The lease is confirmed on the next connection, and replicas are asked anew.
    assert client.reply_to(request)["token"]


def test_one_question_is_enough_for_all_who_ask(lab):
    group = Group(lab)
    daemon = group.daemon()
    client = daemon.client()
    assert client.acquire("first", replicas=2)
    monitor = group.primary.monitor()
    with stopped(*group.replicas):
        requests = [client.request("acquire", name=f"lock-{index}", replicas=2) for index in range(100)]
        wait_until(lambda: is_asking(daemon, "lock-99"), "the last lock")
    for request in requests:
        assert client.reply_to(request)["token"]
    writes = [text for _, text in monitor.commands() if text.startswith('"SET" "sidelock:ack:')]
    monitor.close()
    assert len(writes) < 50, len(writes)


def test_the_key_of_the_questions_ends_by_itself(lab):
    group = Group(lab, 1)
    daemon = group.daemon()
    daemon.client().acquire("x", replicas=1)
    keys = [key for key in group.primary.keys() if key.startswith(b"sidelock:ack:")]
    assert len(keys) == 1 and 0 < group.primary.admin.pttl(keys[0]) <= 60_000


def test_the_command_runs_only_with_replicas(lab):
    group = Group(lab, 1)
    command = Command(lab, group.daemon(timeout_ms=SHORT_MS))
    assert command.run("run", "--replicas", "1", "x", "--", "echo", "ran") == (0, "ran\n", "")
    status, out, err = command.run("run", "--replicas", "2", "x", "--", "echo", "ran")
    assert (status, out) == (73, "") and "too few replicas" in err, err
