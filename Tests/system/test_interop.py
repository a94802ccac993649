"""Locks shared with processes that do not use sidelock."""

import pytest
import redis as redis_py
from harness.waiting import GENEROUS_MS, GENEROUS_SECONDS, boot_time, wait_until

COMPARE_AND_DELETE = 'if redis.call("GET", KEYS[1]) == ARGV[1] then return redis.call("DEL", KEYS[1]) else return 0 end'


def connect(server):
    return redis_py.Redis(unix_socket_path=str(server.socket_path))


def test_redis_py_lock_excludes_and_is_excluded(lab):
    redis = lab.redis()
    client = lab.daemon(redis).client()
    theirs = connect(redis).lock("sidelock:{orders}", timeout=GENEROUS_SECONDS)

    assert theirs.acquire(blocking=False)
    error = client.error_of(client.request("acquire", name="orders", wait_ms=0))
    assert error.reason == "busy" and error.data["holders"] == [{"foreign": True}]
    error = client.error_of(client.request("acquire", name="orders", wait_ms=30))
    assert error.reason == "timeout" and error.data["holders"] == [{"foreign": True}]
    assert client.call("inspect", name="orders")["holders"] == [{"foreign": True}]
    theirs.release()

    token = client.acquire("orders", wait_ms=int(GENEROUS_SECONDS * 1000))
    assert not theirs.acquire(blocking=False)
    client.release("orders", token)
    # A lingering lease, if there is one, goes by itself.
    wait_until(lambda: theirs.acquire(blocking=False), "the lock for redis-py")
    theirs.extend(5)
    assert client.try_acquire("orders") is None
    theirs.release()
    assert client.acquire("orders") > token


def test_waiters_wake_when_a_foreign_holder_gives_back(lab, measured):
    redis = lab.redis()
    clients = [lab.daemon(redis).client() for _ in range(2)]
    foreign = connect(redis)
    assert foreign.set("sidelock:{orders}", "mine", nx=True, px=60_000)
    requests = [client.queue("orders") for client in clients]
    monitor = redis.monitor()
    started = boot_time()
    while boot_time() < started + 1:
        assert clients[0].receive(0.05) is None
    # Each host looks again from time to time, at most ten times a second.
    looks = [text for _, text in monitor.commands() if "PING" not in text.upper()]
    assert len(looks) <= 2 * (10 * (boot_time() - started) + 1), looks
    monitor.close()
    given = boot_time()
    assert foreign.eval(COMPARE_AND_DELETE, 1, "sidelock:{orders}", "mine") == 1
    tokens = []
    while requests:
        for client, request in zip(list(clients), list(requests)):
            message = client.receive(0.01)
            if message and message.get("id") == request:
                tokens.append(message["result"]["token"])
                measured("from a foreign release to the grant", f"{(boot_time() - given) * 1000:.0f} ms")
                client.release("orders", tokens[-1])
                clients.remove(client)
                requests.remove(request)
        assert boot_time() - given < GENEROUS_SECONDS
    assert tokens == sorted(set(tokens))


def test_waiters_wake_when_a_foreign_key_expires(lab):
    redis = lab.redis()
    client = lab.daemon(redis).client()
    connect(redis).set("sidelock:{orders}", "mine", nx=True, px=300)
    assert client.acquire("orders", wait_ms=GENEROUS_MS // 2) > 0


def test_names_with_braces_have_the_keys_that_the_specification_says(lab):
    """Pitfall 20 and 25: every name has a key of its own, and one slot."""
    redis = lab.redis()
    client = lab.daemon(redis).client()
    wanted = {"orders": "sidelock:{orders}", "a{b}%": "sidelock:{a%7Bb%7D%25}", "}": "sidelock:{%7D}",
              "%7D": "sidelock:{%257D}"}
    for name in wanted:
        client.acquire(name)
    assert {key.decode() for key in redis.keys() if key.endswith(b"}")} == set(wanted.values())
    for key in wanted.values():
        assert redis.admin.type(key) == b"string"
        assert redis.admin.pttl(key) > 0
    for name in wanted:
        client.release(name)


def test_a_key_that_is_no_lock_is_an_error_of_its_own(lab):
    """Pitfall 43: WRONGTYPE is not hidden behind busy, and the data are left alone."""
    redis = lab.redis()
    daemon = lab.daemon(redis)
    client = daemon.client()
    redis.admin.rpush("sidelock:{orders}", "someone", "else")
    for params in ({"wait_ms": 0}, {"wait_ms": 1000}, {}):
        error = client.error_of(client.request("acquire", name="orders", **params))
        assert (error.code, error.reason) == (13, "wrong_type")
    assert client.error_of(client.request("inspect", name="orders")).reason == "wrong_type"
    assert redis.admin.lrange("sidelock:{orders}", 0, -1) == [b"someone", b"else"]
    # Other locks are not concerned, and this one works once the data are gone.
    client.release("other", client.acquire("other"))
    redis.admin.delete("sidelock:{orders}")
    assert client.acquire("orders", wait_ms=0) > 0


OTHER_TYPES = {
    "hash": lambda admin, key: admin.hset(key, "a", "b"),
    "list": lambda admin, key: admin.rpush(key, "a"),
    "set": lambda admin, key: admin.sadd(key, "a"),
    "zset": lambda admin, key: admin.zadd(key, {"a": 1}),
    "stream": lambda admin, key: admin.xadd(key, {"a": "b"}),
    "string": lambda admin, key: admin.set(key, "theirs"),
}
OTHER_DATA = [(part, kind) for part, own in (("", "string"), (":queue", "list"), (":fence", "string"))
              for kind in OTHER_TYPES if kind != own]


def put_other_data(redis, part, kind, name="orders"):
    """Gives the key, what it holds, and what data of an error tell of it."""
    key = f"sidelock:{{{name}}}{part}"
    redis.admin.delete(key)
    OTHER_TYPES[kind](redis.admin, key)
    return key, redis.admin.dump(key), {"reason": "wrong_type", "key": key, "type": kind}


def refusal(client, method, **params):
    error = client.error_of(client.request(method, **params))
    assert error.code == 13, error
    return error


@pytest.mark.parametrize("part, kind", OTHER_DATA, ids=lambda value: value.lstrip(":") or "lock")
@pytest.mark.parametrize("holder", ["nobody", "a foreign one"])
def test_other_data_in_any_key_of_a_lock_are_named(lab, part, kind, holder):
    if not part and holder != "nobody":
        holder = "nobody"
    redis = lab.redis()
    client = lab.daemon(redis).client()
    key, before, data = put_other_data(redis, part, kind)
    if holder != "nobody":
        redis.admin.set("sidelock:{orders}", "theirs", px=600_000)
    for params in ({"wait_ms": 0}, {"wait_ms": 600_000}, {}, {"mode": "shared"}, {"permits": 2}):
        error = refusal(client, "acquire", name="orders", **params)
        assert error.data == data
        assert f"the Redis key {key} holds other data (type {kind})" in str(error)
    assert refusal(client, "acquire", names=["a", "orders"]).data == data
    assert refusal(client, "inspect", name="orders").data == data
    if holder != "nobody" or not part:
        assert refusal(client, "break", name="orders").data == data
    # One such lock spoils no list.
    other = client.acquire("other")
    listed = [lock["name"] for lock in client.call("list", scope="all")["locks"]]
    assert sorted(listed) == ["orders", "other"] if holder != "nobody" else listed == ["other"]
    client.release("other", other)
    assert redis.admin.dump(key) == before
    redis.admin.delete(key, "sidelock:{orders}")
    assert client.acquire("orders", wait_ms=0) > 0


@pytest.mark.parametrize("part, kind", [row for row in OTHER_DATA if row[0] and row[1] in ("hash", "string", "list")],
                         ids=lambda value: value.lstrip(":"))
@pytest.mark.parametrize("mode", [{}, {"mode": "shared"}, {"permits": 2}], ids=["alone", "shared", "permit"])
def test_a_lock_is_given_back_beside_other_data(lab, part, kind, mode):
    """They came while it was held; no other host has to wait for the end of the lease because of them."""
    redis = lab.redis()
    one, two = (lab.daemon(redis, lease_ms=600_000) for _ in range(2))
    client, other = one.client(), two.client()
    tokens = [client.acquire("orders", **mode)]
    if mode:
        there = other.acquire("orders", **mode)
    key, before, data = put_other_data(redis, part, kind)
    client.release("orders", tokens[0])
    if mode:
        wait_until(lambda: redis.admin.get("sidelock:{orders}").count(b";") == 2, "one that is left")
        other.release("orders", there)
    wait_until(lambda: not redis.admin.exists("sidelock:{orders}"), "the lock to be free")
    assert redis.admin.dump(key) == before
    assert refusal(other, "acquire", name="orders", **mode).data == data
    redis.admin.delete(key)
    assert other.acquire("orders", wait_ms=0, **mode) > max(tokens)


@pytest.mark.parametrize("kind", ["hash", "string"])
def test_a_holder_that_lives_is_broken_beside_other_data(lab, kind):
    redis = lab.redis()
    one, two = (lab.daemon(redis, args=["--host", name]) for name in ("one", "two"))
    holder = one.client()
    token = holder.acquire("orders")
    _, _, data = put_other_data(redis, ":queue", kind)
    assert two.client().call("break", name="orders")["broken"] == [token]
    assert holder.notification("lost")["reason"] == "broken"
    wait_until(lambda: not redis.admin.exists("sidelock:{orders}"), "the lock to be free")
    redis.admin.delete("sidelock:{orders}:queue")
    holder.acquire("orders")
    put_other_data(redis, ":queue", kind)
    one.kill()
    assert refusal(two.client(), "break", name="orders").data == data


def test_a_type_that_may_not_be_asked_for_is_left_out(lab):
    redis = lab.redis()
    redis.admin.execute_command("ACL", "SETUSER", redis.user, "-type")
    daemon = lab.daemon(redis)
    client = daemon.client()
    redis.admin.hset("sidelock:{orders}:queue", "a", "b")
    error = refusal(client, "acquire", name="orders")
    assert error.data == {"reason": "wrong_type", "key": "sidelock:{orders}:queue"}
    wait_until(lambda: "+type" in daemon.log(), "the warning")


def test_a_foreign_overwrite_is_noticed_and_left_alone(lab):
    """Pitfall 8: a renewal compares the owner, and never takes back what somebody else has."""
    redis = lab.redis()
    client = lab.daemon(redis, lease_ms=4000).client()
    token = client.acquire("orders")
    connect(redis).set("sidelock:{orders}", "mine", px=60_000)
    lost = client.notification("lost")
    assert (lost["token"], lost["reason"]) == (token, "data_loss")
    assert client.try_acquire("orders") is None
    assert redis.admin.get("sidelock:{orders}") == b"mine"


def test_a_deleted_key_that_somebody_else_has_taken_is_not_made_anew(lab):
    """Pitfall 8: the lock was deleted by hand, and is another's for a moment. Its holder is told, and no renewal brings
    the key back. (One that nobody has taken is made anew: test_data_loss.py.)"""
    redis = lab.redis()
    daemon = lab.daemon(redis, lease_ms=4000)
    client = daemon.client()
    other = client.acquire("other")
    token = client.acquire("orders")
    redis.admin.set("sidelock:{orders}", "another's")
    assert client.notification("lost")["token"] == token
    redis.admin.delete("sidelock:{orders}")
    monitor = redis.monitor()
    # Two more renewals of the other lock.
    wait_until(lambda: redis.admin.pttl("sidelock:{other}") < 3300, "the lease to age")
    wait_until(lambda: redis.admin.pttl("sidelock:{other}") > 3300, "a renewal")
    assert not any("{orders}" in text for _, text in monitor.commands())
    monitor.close()
    assert not redis.admin.exists("sidelock:{orders}")
    assert client.release("other", other)["token"] == other


@pytest.mark.parametrize("strange", [b"m" * 513, b"m" * 60_000, b"m" * 1_000_000, b"\xff\xfe", b"m%zz", b"m}", b""],
                         ids=["513 bytes", "60,000 bytes", "a megabyte", "not UTF-8", "not escaped", "a brace", "empty"])
def test_list_leaves_out_what_is_no_lock_name(lab, strange):
    """Other programs' keys may look like ours. What no client could ask for is not listed, and hides nothing else."""
    redis = lab.redis()
    client = lab.daemon(redis).client()
    for name in "azq":
        client.acquire(name)
    redis.admin.set(b"sidelock:{" + strange + b"}", "theirs")
    redis.admin.rpush("sidelock:{list}", "no lock")
    names, cursor = [], None
    for _ in range(10):
        answer = client.call("list", scope="all", **({} if cursor is None else {"cursor": cursor}))
        names += [lock["name"] for lock in answer["locks"]]
        cursor = answer["cursor"]
        if cursor is None:
            break
    assert cursor is None
    assert sorted(names) == ["a", "q", "z"]


def test_names_that_were_used_leave_nothing_in_redis_for_longer_than_a_minute(lab, measured):
    redis = lab.redis()
    client = lab.daemon(redis).client()
    connection = connect(redis)
    for number in range(200):
        client.acquire(f"job-{number}")
        client.release(f"job-{number}")
        client.call("acquire", name=f"pool-{number}", permits=3)
        client.release(f"pool-{number}")
    wait_until(lambda: not connection.keys("*}"), "the locks to be given back")
    left = redis.keys()
    assert left and all(key.endswith(b":fence") for key in left)
    # What is kept is the counter of tokens, for as long as Redis' clock could fall behind it.
    assert all(0 < connection.pttl(key) <= 61_000 for key in left)
    measured("what a name leaves behind for a minute", f"{connection.memory_usage(left[0])} bytes")
