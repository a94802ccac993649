"""Whoever waits looks at its own place in the queue: nobody sleeps beside a free lock, whatever was to wake it and was lost.

Leases are long beside what these tests allow: what comes in time did not wait for one to end.
"""

import os
import signal

import pytest
from harness.waiting import wait_until
from test_connection import watch

LEASE_MS = 120_000
SOON = LEASE_MS / 4 / 1000
KEY = "sidelock:{orders}"
QUEUE = KEY + ":queue"


@pytest.fixture
def clients(lab, redis):
    """One on each of three hosts."""
    return [host(lab, redis, name).client() for name in ("one", "two", "three")]


def host(lab, redis, name, lease_ms=LEASE_MS):
    # No local client goes before another host's that came first.
    return lab.daemon(redis, lease_ms=lease_ms, args=["--host", name, "--cohort-ms", "0"])


def places(redis):
    """The entries of the queue, without their format."""
    entries = [entry.decode() for entry in redis.admin.lrange(QUEUE, 0, -1)]
    assert all(entry.startswith("1;") for entry in entries)
    return [entry.removeprefix("1;") for entry in entries]


def waits(redis, client, count, **params):
    request = client.queue("orders", **params)
    wait_until(lambda: len(places(redis)) == count, "the place in Redis")
    return request


def is_waiting(client, request):
    client.ping()
    return not any(message.get("id") == request for message in client.pending)


@pytest.mark.parametrize("lost", ["its place", "the queue"])
def test_a_place_that_is_gone_is_taken_again(redis, clients, lost):
    first, second, _ = clients
    token = first.acquire("orders")
    request = waits(redis, second, 1)
    place, = places(redis)
    if lost == "its place":
        redis.admin.lrem(QUEUE, 0, f"1;{place}")
    else:
        redis.admin.delete(QUEUE)
    wait_until(lambda: places(redis) == [place], "the same place again", SOON)
    assert redis.admin.pttl(QUEUE) > 0 and is_waiting(second, request)
    first.release("orders", token)
    assert second.reply_to(request, SOON)["token"] > token


def test_whoever_kept_its_place_goes_first(redis, clients):
    first, second, third = clients
    token = first.acquire("orders")
    requests = [waits(redis, second, 1), waits(redis, third, 2)]
    redis.admin.lrem(QUEUE, 0, f"1;{places(redis)[0]}")
    wait_until(lambda: [place.split("/")[0] for place in places(redis)] == ["three", "two"], "the place", SOON)
    first.release("orders", token)
    third.reply_to(requests[1], SOON)
    assert is_waiting(second, requests[0])
    third.release("orders")
    second.reply_to(requests[0], SOON)


def test_a_lock_that_was_given_back_while_the_queue_was_gone_is_found(redis, clients):
    first, second, _ = clients
    token = first.acquire("orders")
    request = waits(redis, second, 1)
    redis.admin.delete(QUEUE)
    first.release("orders", token)
    assert second.reply_to(request, SOON)["token"] > token


@pytest.mark.parametrize("mode", ["exclusive", "shared"])
def test_a_grant_of_which_nobody_told_is_found(redis, clients, mode):
    """What a message that was lost leaves behind."""
    first, second, _ = clients
    token = first.acquire("orders")
    request = waits(redis, second, 1, mode=mode)
    instance, attempt, lease, _ = places(redis)[0].split(":")
    pipe = redis.admin.pipeline()
    pipe.lpop(QUEUE)
    if mode == "exclusive":
        pipe.set(KEY, f"sidelock1;x;{instance}:{attempt}:{token + 100_000}", px=int(lease))
    else:
        end = int(redis.admin.time()[0]) * 1000 + int(lease)
        pipe.set(KEY, f"sidelock1;s;{instance}:{attempt}:{token + 100_000}:256:{end}", px=int(lease))
    pipe.execute()
    assert second.reply_to(request, SOON)["token"] >= token + 100_000


def test_who_could_share_the_lock_by_now_does(redis, clients):
    """What a downgrade leaves behind that ended before it let anybody in."""
    first, second, third = clients
    token = first.acquire("orders")
    requests = [waits(redis, second, 1, mode="shared"), waits(redis, third, 2, mode="shared")]
    holder, left = redis.admin.get(KEY).decode().split(";")[2], redis.admin.pttl(KEY)
    end = int(redis.admin.time()[0]) * 1000 + left
    redis.admin.set(KEY, f"sidelock1;s;{holder}:256:{end}", px=left)
    for client, request in zip((second, third), requests):
        assert client.reply_to(request, SOON)["token"] > token


def ghost(lab, redis, clients, lease_ms=LEASE_MS):
    """The first host has a reader; another one, on which a writer waits behind it."""
    clients[0].acquire("orders", mode="shared")
    daemon = host(lab, redis, "ghost", lease_ms)
    waits(redis, daemon.client(), 1)
    # What Redis is asked now is answered behind the message about who waits.
    clients[0].call("inspect", name="orders")
    return daemon


@pytest.mark.parametrize("reader", [0, 1], ids=["same host", "other host"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_waiting_writer_whose_host_is_gone_keeps_no_reader_out(lab, redis, clients, reader, when):
    daemon = ghost(lab, redis, clients)
    request = None if when == "before" else waits(redis, clients[reader], 2, mode="shared")
    daemon.kill()
    request = request or clients[reader].request("acquire", name="orders", mode="shared")
    assert clients[reader].reply_to(request, SOON)["token"] > 0
    assert places(redis) == []


@pytest.mark.parametrize("lease_ms", [2000, 120_000], ids=["short", "long"])
def test_a_waiting_writer_whose_host_is_stopped_keeps_readers_out_no_longer_than_its_lease(lab, redis, lease_ms):
    """However long the leases of the others are."""
    clients = [host(lab, redis, name, lease_ms).client() for name in ("one", "two")]
    daemon = ghost(lab, redis, clients, lease_ms=2000)
    os.kill(daemon.process.pid, signal.SIGSTOP)
    request = clients[1].queue("orders", mode="shared")
    assert clients[1].reply_to(request, SOON)["token"] > 0
    os.kill(daemon.process.pid, signal.SIGCONT)
    # It looks at its place, and has it again.
    wait_until(lambda: places(redis) and places(redis)[0].startswith("ghost/"), "its place", SOON)


def test_a_waiting_writer_whose_host_is_there_keeps_its_place(lab, redis):
    """For longer than it takes to take somebody for gone."""
    clients = [host(lab, redis, name, 2000).client() for name in ("one", "two")]
    daemon = ghost(lab, redis, clients, lease_ms=2000)
    waits(redis, clients[1], 2, mode="shared")
    before = places(redis)
    since = redis.admin.time()[0]
    wait_until(lambda: redis.admin.time()[0] > since + 14 or places(redis) != before, "14 s", 60)
    assert places(redis) == before
    assert daemon.process.poll() is None


def test_a_permit_that_is_left_is_taken(redis, clients):
    first, second, third = clients
    for client in (first, second):
        client.acquire("orders", permits=2)
    request = waits(redis, third, 1, permits=2)
    name, mode, one, two = redis.admin.get(KEY).decode().split(";")
    mine = next(entry for entry in (one, two) if entry.startswith("one/"))
    redis.admin.set(KEY, f"{name};{mode};{mine}", px=redis.admin.pttl(KEY))
    third.reply_to(request, SOON)


def test_a_lock_whose_key_was_deleted_goes_to_who_waits(redis, clients):
    first, second, _ = clients
    token = first.acquire("orders")
    request = waits(redis, second, 1)
    redis.admin.delete(KEY)
    assert second.reply_to(request, SOON)["token"] > token


def test_other_data_in_the_key_are_told(redis, clients):
    first, second, _ = clients
    first.acquire("orders")
    request = waits(redis, second, 1)
    redis.admin.delete(KEY)
    redis.admin.hset(KEY, "a", "b")
    assert second.error_of(request, SOON).reason == "wrong_type"


@pytest.mark.parametrize("wait_ms", [0, int(SOON * 1000)])
def test_a_later_attempt_of_its_own_that_a_host_has_forgotten_is_no_dead_end(redis, clients, wait_ms):
    first, second, _ = clients
    me = f"one/{first.call('initialize')['instance']}"
    token = first.acquire("orders")
    first.release("orders", token)
    # Wherever it began to count, this is further on.
    redis.admin.set(KEY, f"sidelock1;x;{me}:{2**53 - 1000}:{token + 100_000}", px=LEASE_MS)
    fresh = first.acquire("orders", wait_ms=wait_ms)
    assert fresh > token + 100_000
    request = second.queue("orders")
    first.release("orders", fresh)
    assert second.reply_to(request, SOON)["token"] > fresh


def test_who_does_not_wait_says_nothing(redis, clients):
    first, second, _ = clients
    first.acquire("orders")
    request = waits(redis, second, 1)
    second.call("cancel", id=request)
    wait_until(lambda: places(redis) == [], "the end of the wait")
    monitor = redis.monitor()
    monitor.settle()
    watch(3, first, second)
    assert monitor.commands() == []
    monitor.close()
