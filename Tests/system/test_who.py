"""Who holds and who waits, on whatever host: nothing of it stands in Redis, the hosts ask each other."""

import os

import pytest
from harness.client import RpcError
from harness.service_manager import ServiceManager
from harness.waiting import wait_until


@pytest.fixture
def hosts(lab):
    redis = lab.redis()
    return redis, lab.daemon(redis, lease_ms=4000, args=["--host", "one"]), lab.daemon(redis, lease_ms=4000, args=["--host", "two"])


def test_inspect_tells_holders_and_waiters_of_every_host(hosts):
    _, one, two = hosts
    holder, waiter, observer = one.client(), two.client(), two.client()
    token = holder.acquire("orders", owner="thread 7", meta="nightly")
    waiter.queue("orders", meta="next")
    neighbour = one.client()
    neighbour.queue("orders", mode="shared")

    seen = observer.call("inspect", name="orders")
    assert seen["mode"] == "exclusive"
    [found] = seen["holders"]
    assert found["host"] == "one"
    assert found["session"] == holder.call("initialize")["session"]
    assert (found["pid"], found["uid"]) == (os.getpid(), os.getuid())
    assert (found["owner"], found["meta"], found["token"]) == ("thread 7", "nightly", token)
    assert found["command"] and found["held_ms"] >= 0
    assert [(w["host"], w["mode"], w.get("meta")) for w in seen["waiters"]] == [
        ("two", "exclusive", "next"), ("one", "shared", None)]
    # The holder's own host sees the same, its own waiters first.
    mirrored = one.client().call("inspect", name="orders")
    assert [h["token"] for h in mirrored["holders"]] == [token]
    assert [w["host"] for w in mirrored["waiters"]] == ["one", "two"]


def test_readers_and_permits_of_all_hosts_are_told(hosts):
    _, one, two = hosts
    clients = [one.client(), two.client()]
    tokens = [client.acquire("readers", mode="shared") for client in clients]
    permits = [client.acquire("pool", permits=3) for client in clients]
    for client in clients:
        seen = client.call("inspect", name="readers")
        assert seen["mode"] == "shared"
        assert sorted(holder["token"] for holder in seen["holders"]) == sorted(tokens)
        seen = client.call("inspect", name="pool")
        assert (seen["mode"], seen["permits"]) == ("permit", 3)
        assert sorted(holder["token"] for holder in seen["holders"]) == sorted(permits)
        locks = {lock["name"]: lock for lock in client.call("list", scope="all")["locks"]}
        assert sorted(holder["token"] for holder in locks["readers"]["holders"]) == sorted(tokens)
        assert sorted(holder["token"] for holder in locks["pool"]["holders"]) == sorted(permits)


def test_a_list_of_many_locks_of_two_hosts(hosts):
    _, one, two = hosts
    clients = [one.client(), two.client()]
    tokens = {f"lock-{n}": clients[n % 2].acquire(f"lock-{n}") for n in range(300)}
    found, cursor = {}, None
    while True:
        page = clients[0].call("list", scope="all", limit=100, **({"cursor": cursor} if cursor else {}))
        found.update({lock["name"]: lock["holders"][0]["token"] for lock in page["locks"]})
        cursor = page["cursor"]
        if cursor is None:
            break
    assert found == tokens


def test_nothing_of_it_stands_in_redis_and_no_cycle_pays_for_it(hosts):
    redis, one, _ = hosts
    client = one.client()
    token = client.acquire("orders", meta="secret-note", owner="secret-owner")
    for key in redis.admin.keys("*"):
        value = redis.admin.get(key) if redis.admin.type(key) == b"string" else b""
        assert b"secret" not in value and b"secret" not in key
    before = client.call("stats")["redis"]["commands_total"]
    client.release("orders", token)
    assert client.call("stats")["redis"]["commands_total"] - before <= 1


def test_a_host_that_is_silent_or_gone_is_told_by_its_name(hosts):
    _, one, two = hosts
    holder = one.client()
    holder.acquire("orders")
    one.stop()
    try:
        assert two.client().call("inspect", name="orders")["holders"] == [{"host": "one"}]
    finally:
        one.resume()
    one.kill()
    assert two.client().call("inspect", name="orders")["holders"] == [{"host": "one"}]
    one.start()


def test_an_administrator_breaks_a_lock_of_another_host(hosts):
    _, one, two = hosts
    holder, waiter, admin = one.client(), two.client(), two.client()
    token = holder.acquire("orders")
    request = waiter.queue("orders")
    assert admin.call("break", name="orders", token=token + 1)["broken"] == []
    assert admin.call("break", name="orders", reason="it hangs")["broken"] == [token]
    lost = holder.notification("lost")
    assert (lost["name"], lost["token"], lost["reason"], lost["detail"]) == ("orders", token, "broken", "it hangs")
    assert waiter.reply_to(request)["token"] > token
    with pytest.raises(RpcError) as refusal:
        holder.release("orders", token)
    assert refusal.value.reason == "lost"
    wait_until(lambda: "lock broken" in one.log() and "it hangs" in one.log(), "the log entry")


@pytest.mark.parametrize("message", [
    b"1;call 1 x/1;3:who1:14:x", b"1;call 1 x/1;9:wh", b"1;call 99999999999999999999 x/1;3:who", b"1;answer 1;1:x",
    b"1;answer 1;", b"1;call 1 x/1;5:break1:a3:abc0:0:", b"1;tell;5:probe", b"1;tell;6:victim1:1", b"\xff\xfe", b"1;call 1 " + b"9" * 70000,
    b"1;answer 1;" + b"12:1:x1:02:991:{" + b"0" * 70000, b"1;call 1 x/1;3:who1:9" + b"0:" * 1000, b"2;call 1 x/1;3:who1:0", b"1;",
])
def test_rubbish_in_an_inbox_does_no_harm(hosts, message):
    redis, one, two = hosts
    holder, observer = one.client(), two.client()
    holder.acquire("orders")
    channels = redis.admin.pubsub_channels("*inbox*")
    assert len(channels) == 2
    for channel in channels:
        assert redis.admin.publish(channel, message) == 1
    # A large one may leave no time for the next message to the inbox, which then is left out.
    wait_until(lambda: observer.call("inspect", name="orders")["holders"][0].get("token"), "the holder's own words")


def test_an_answer_that_is_no_json_is_not_shown(hosts):
    """The host that gives it is shown by its name alone."""
    redis, one, two = hosts
    one.client().acquire("orders")
    [inbox] = [channel for channel in redis.admin.pubsub_channels("*inbox:two/*")]
    one.stop()
    try:
        observer = two.client()
        request = observer.request("inspect", name="orders")
        # An answer under any number that may be open, with a line break inside.
        for number in range(1, 20):
            redis.admin.publish(inbox, b'answer %d 6:orders1:01:113:{"a":1,\n"b":2}1:0' % number)
        assert observer.reply_to(request)["holders"] == [{"host": "one"}]
    finally:
        one.resume()


def test_what_a_client_says_of_itself_is_told_where_nobody_may_look(lab, hosts):
    """As in the service's sandbox, where the daemon sees no command lines: the words stand in for them."""
    _, one, two = hosts
    holder = one.client()
    holder.call("initialize", client={"name": "sidelock run sleep", "version": "1.0"})
    holder.acquire("orders")
    for daemon in (one, two):
        [found] = daemon.client().call("inspect", name="orders")["holders"]
        assert found["client"] == "sidelock run sleep 1.0"
    [told] = [client for client in one.client().call("clients")["clients"] if client["holds"]]
    assert told["client"] == "sidelock run sleep 1.0"


def test_it_is_kept_over_a_restart(lab):
    service = ServiceManager(lab, "--local")
    service.start()
    holder = service.client()
    holder.call("initialize", client={"name": "worker"})
    holder.acquire("orders")
    service.crash()
    service.start()
    [found] = service.client().call("inspect", name="orders")["holders"]
    assert found["client"] == "worker"
    assert service.stop() == 0
