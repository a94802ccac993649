"""An administrator takes a lock from those who cannot be asked: hosts that are gone or silent, and foreign processes."""

import subprocess

import pytest
from harness.client import RpcError
from harness.command import Command
from harness.waiting import GENEROUS_SECONDS, wait_until

LEASE_MS = 120_000  # so long that nothing in a test can be due to its end


@pytest.fixture
def hosts(lab, redis):
    return [lab.daemon(redis, lease_ms=LEASE_MS, args=["--host", name, "--cohort-ms", "0"]) for name in ("one", "two")]


def taken(answer):
    """What of `taken` does not depend on the clock, and for how long each may run."""
    rest = [{key: value for key, value in one.items() if key != "might_run_ms"} for one in answer["taken"]]
    return rest, [one["might_run_ms"] for one in answer["taken"]]


def test_a_break_without_a_reason_tells_none(lab, hosts):
    holder, elsewhere = hosts[0].client(), hosts[1].client()
    for admin in (hosts[0].client(), elsewhere):
        for reason in ({}, {"reason": ""}):
            holder.acquire("orders")
            admin.call("break", name="orders", **reason)
            assert "detail" not in holder.notification("lost")
    wait_until(lambda: hosts[0].log().count("lock broken") == 4, "the log entries")
    lines = [line for line in hosts[0].log().splitlines() if "lock broken" in line]
    assert all('reason="none was given"' in line for line in lines)
    command = Command(lab, hosts[0])
    process = command.start("run", "orders", "--", "cat", stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_until(lambda: elsewhere.call("inspect", name="orders")["holders"], "the hold")
    elsewhere.call("break", name="orders")
    said = process.communicate(timeout=GENEROUS_SECONDS)[1]
    assert process.returncode == 125
    assert "lost orders: an administrator took it away (broken); " in said


def test_a_lock_of_a_host_that_died_goes_to_the_next(hosts):
    one, two = hosts
    token = one.client().acquire("orders")
    waiter, admin = two.client(), two.client()
    request = waiter.queue("orders")
    one.kill()
    answer = admin.call("break", name="orders", reason="power cut")
    assert answer["broken"] == []
    who, [left] = taken(answer)
    assert who == [{"host": "one", "reason": "host_gone"}]
    assert 0 < left <= LEASE_MS
    assert waiter.reply_to(request)["token"] > token
    wait_until(lambda: "lock taken away in Redis" in two.log() and "power cut" in two.log(), "the log entry")
    assert admin.call("stats")["broken_total"] == 1
    waiter.release("orders")
    assert admin.call("break", name="orders") == {"name": "orders", "broken": [], "taken": []}
    one.start()
    assert one.client().acquire("orders", wait_ms=5000) > token


def test_nobody_waits_and_tokens_rise_all_the_same(hosts, redis):
    one, two = hosts
    token = one.client().acquire("orders")
    one.kill()
    assert two.client().call("break", name="orders")["taken"]
    assert not redis.admin.exists("sidelock:{orders}")
    assert two.client().acquire("orders", wait_ms=0) > token


def test_only_the_hold_of_the_token_that_is_given(hosts):
    one, two = hosts
    token = one.client().acquire("orders")
    one.kill()
    admin = two.client()
    assert admin.call("break", name="orders", token=token - 1)["taken"] == []
    assert admin.try_acquire("orders") is None
    assert taken(admin.call("break", name="orders", token=token))[0] == [{"host": "one", "reason": "host_gone"}]
    assert admin.acquire("orders", wait_ms=0) > token


def test_of_those_who_share_only_the_dead_lose_their_part(hosts):
    one, two = hosts
    alive, dead, writer = two.client(), one.client(), two.client()
    kept = alive.acquire("data", mode="shared")
    dead.acquire("data", mode="shared")
    one.kill()
    request = writer.queue("data")
    answer = two.client().call("break", name="data", token=kept)
    assert answer["broken"] == [kept] and answer["taken"] == []
    assert alive.notification("lost")["reason"] == "broken"
    writer.ping()
    assert all(message.get("id") != request for message in writer.pending)
    assert taken(two.client().call("break", name="data"))[0] == [{"host": "one", "reason": "host_gone"}]
    assert writer.reply_to(request)["token"] > kept


def test_of_a_semaphore_only_the_permits_of_the_dead_come_free(hosts):
    one, two = hosts
    alive = two.client()
    kept = alive.acquire("pool", permits=3)
    for _ in range(2):
        one.client().acquire("pool", permits=3)
    one.kill()
    admin = two.client()
    answer = admin.call("break", name="pool")
    # A living host is asked as ever.
    assert answer["broken"] == [kept]
    assert taken(answer)[0] == [{"host": "one", "reason": "host_gone"}] * 2
    for _ in range(3):
        admin.call("acquire", name="pool", permits=3, wait_ms=0)


def test_a_host_that_is_stopped_has_its_time_and_tells_its_holder_when_it_goes_on(hosts):
    one, two = hosts
    holder = one.client()
    token = holder.acquire("orders")
    waiter = two.client()
    request = waiter.queue("orders")
    one.stop()
    try:
        answer = two.client().call("break", name="orders", reason="it hangs")
        who, [left] = taken(answer)
        assert (answer["broken"], who) == ([], [{"host": "one", "reason": "host_silent"}])
        assert 0 < left <= LEASE_MS
        assert waiter.reply_to(request)["token"] > token
    finally:
        one.resume()
    lost = holder.notification("lost")
    assert (lost["token"], lost["reason"], lost["detail"]) == (token, "broken", "it hangs")
    waiter.ping()
    assert not waiter.pending


@pytest.mark.parametrize("mode", ["exclusive", "shared", "permit"])
@pytest.mark.parametrize("is_taken", [True, False], ids=["somebody has it then", "nobody has it then"])
def test_a_host_that_was_cut_off_finds_out_when_it_comes_back(lab, redis, is_taken, mode):
    proxy = lab.proxy(redis)
    one = lab.daemon(proxy, lease_ms=LEASE_MS, args=["--host", "one"])
    two = lab.daemon(redis, lease_ms=LEASE_MS, args=["--host", "two"])
    holder = one.client()
    params = {"exclusive": {}, "shared": {"mode": "shared"}, "permit": {"permits": 2}}[mode]
    token = holder.acquire("orders", **params)
    proxy.set(refusing=True)
    wait_until(lambda: inbox(redis, "one") is None, "Redis to know that the host is gone")
    assert taken(two.client().call("break", name="orders"))[0] == [{"host": "one", "reason": "host_gone"}]
    if is_taken:
        two.client().acquire("orders", wait_ms=0, **params)
    proxy.set(refusing=False)
    lost = holder.notification("lost")
    assert (lost["token"], lost["reason"]) == (token, "data_loss")


def inbox(redis, host):
    channels = redis.admin.pubsub_channels(f"*inbox:{host}/*")
    return channels[0].decode() if channels else None


@pytest.mark.parametrize("expiry", [None, 100_000])
def test_a_foreign_key_is_taken_and_its_waiters_wake(hosts, redis, expiry):
    _, two = hosts
    redis.admin.set("sidelock:{orders}", "theirs", px=expiry)
    waiter, admin = two.client(), two.client()
    request = waiter.queue("orders")
    # A foreign holder has no token.
    assert admin.call("break", name="orders", token=1) == {"name": "orders", "broken": [], "taken": []}
    who, [left] = taken(admin.call("break", name="orders"))
    assert who == [{"foreign": True, "reason": "foreign"}]
    assert left is None if expiry is None else 0 < left <= expiry
    assert waiter.reply_to(request)["token"]
    assert redis.admin.get("sidelock:{orders}").startswith(b"sidelock1;x;two/")


@pytest.mark.parametrize("value", ["sidelock2;x;one/1f:1:1", "sidelock10;anything"])
@pytest.mark.parametrize("token", [{}, {"token": 1}], ids=["all", "one"])
def test_what_a_later_release_holds_is_refused_with_what_to_do(hosts, redis, value, token):
    _, two = hosts
    redis.admin.set("sidelock:{orders}", value, px=100_000)
    waiter, admin = two.client(), two.client()
    request = waiter.queue("orders")
    error = admin.error_of(admin.request("break", name="orders", **token))
    assert (error.code, error.data) == (13, {"reason": "wrong_type", "key": "sidelock:{orders}"})
    assert "a later release" in str(error) and "upgrade this one" in str(error)
    assert redis.admin.get("sidelock:{orders}") == value.encode()
    assert redis.admin.pttl("sidelock:{orders}") > 0
    assert admin.call("stats")["broken_total"] == 0
    # Whoever holds it gives it back.
    redis.admin.delete("sidelock:{orders}")
    assert waiter.reply_to(request)["token"]


def test_a_key_of_ours_without_an_end_is_taken_where_its_host_knows_nothing_of_it(hosts, redis):
    one, two = hosts
    me = inbox(redis, "one").split("inbox:")[1]
    for daemon in (two, one):
        redis.admin.set("sidelock:{orders}", f"sidelock1;x;{me}:77:1700000000000000")
        assert taken(daemon.client().call("break", name="orders")) == ([{"host": "one", "reason": "no_ttl"}], [None])
    # One that is held has an end again after its next renewal; until then its host is asked.
    token = one.client().acquire("orders")
    redis.admin.persist("sidelock:{orders}")
    assert two.client().call("break", name="orders") == {"name": "orders", "broken": [token], "taken": []}
    one.kill()
    redis.admin.set("sidelock:{orders}", f"sidelock1;x;{me}:77:1700000000000000")
    assert taken(two.client().call("break", name="orders")) == ([{"host": "one", "reason": "host_gone"}], [None])


def test_other_data_are_left_alone(hosts, redis):
    redis.admin.hset("sidelock:{orders}", "a", "b")
    with pytest.raises(RpcError) as refusal:
        hosts[0].client().call("break", name="orders")
    assert refusal.value.reason == "wrong_type"
    assert redis.admin.hgetall("sidelock:{orders}") == {b"a": b"b"}


def test_the_command_says_who_was_not_told(lab, hosts, redis):
    one, two = hosts
    command = Command(lab, two)
    one.client().acquire("orders")
    one.kill()
    redis.admin.set("sidelock:{other}", "theirs")
    status, out, err = command.run("break", "orders")
    assert (status, '"reason":"host_gone"' in out) == (0, True)
    assert "one" in err and "has died or is cut off" in err and "may go on for up to" in err
    status, out, err = command.run("break", "other")
    assert (status, '"reason":"foreign"' in out) == (0, True)
    assert "does not use sidelock" in err and err.rstrip().endswith("may go on")
    status, _, err = command.run("break", "orders")
    assert status == 1 and "nobody holds" in err


@pytest.mark.parametrize("mode", [{}, {"mode": "shared"}, {"permits": 1}], ids=["alone", "shared", "permit"])
def test_who_gets_it_next_on_another_host_keeps_it(hosts, mode):
    """The one who is asked to break it passes it on by that."""
    one, two = hosts
    holder, writer, waiter = one.client(), one.client(), two.client()
    token = holder.acquire("orders", **mode)
    wait = waiter.request("acquire", name="orders", **({} if "mode" in mode else mode))
    wait_until(lambda: one.client().call("inspect", name="orders")["waiters"], "the host of the other one to wait")
    assert writer.call("break", name="orders")["broken"] == [token]
    next_token = waiter.reply_to(wait)["token"]
    assert holder.notification("lost")["reason"] == "broken"
    assert waiter.release("orders", next_token)["token"] == next_token


def test_a_host_without_redis_breaks_what_is_held_there(hosts, redis):
    holder, admin = hosts[0].client(), hosts[0].client()
    token = holder.acquire("orders")
    redis.kill()
    wait_until(lambda: not admin.call("stats")["redis"]["connected"], "the daemon to see that Redis is gone")
    assert admin.call("break", name="orders")["broken"] == [token]
    assert holder.notification("lost")["reason"] == "broken"
    with pytest.raises(RpcError) as caught:
        admin.call("break", name="orders")
    assert caught.value.reason == "unavailable"
