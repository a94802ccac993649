"""Rights that are missing while a lock is passed on: what a script wrote before it was refused, Redis keeps.

Whichever it is that is missing, and wherever the script ends for it: nobody who waits loses its place, or sleeps until the
holder's lease would have ended, once the right is back.
"""

import re

import pytest
from harness.client import RpcError
from harness.waiting import wait_until
from test_redis_refuses import KEY, LEASE_MS, SOON, User, refused
from test_redis_rights import COMMANDS

QUEUE = KEY + b":queue"
RIGHTS = [rule[1:] for rule in COMMANDS if rule[1:] not in ("scan", "ping", "evalsha", "script|load", "subscribe")]
rights = pytest.mark.parametrize("right", RIGHTS)


@pytest.fixture
def user(redis):
    return User(redis)


@pytest.fixture
def clients(lab, user):
    """One on each of three hosts."""
    return [lab.daemon(user, lease_ms=LEASE_MS).client() for _ in range(3)]


def reply(client, request):
    """The reply to a request if it is there; it stays."""
    client.ping()
    return next((m for m in client.pending if m.get("id") == request), None)


def without(user, right, act, witness, is_done):
    """Does something that Redis refuses until the right is back, or that works without it."""
    before = refused(witness)
    user.set(f"-{right}")
    act()
    wait_until(lambda: refused(witness) > before or is_done(), "Redis to refuse it, or the effect", SOON)
    user.set(f"+{right}")


@rights
@pytest.mark.parametrize("end, modes", [
    ("release", ["exclusive"]), ("close", ["exclusive", "exclusive"]), ("release", ["shared", "exclusive"]),
    ("close", ["shared", "shared"])], ids=lambda value: value if isinstance(value, str) else " ".join(value))
def test_a_lock_that_is_given_back_goes_to_who_waited_longest(lab, redis, user, clients, right, end, modes):
    first, *others = clients
    witness = lab.daemons[0].client()
    token = first.acquire("orders")
    waiting = [(client, client.queue("orders", mode=mode)) for client, mode in zip(others, modes)]
    wait_until(lambda: redis.admin.llen(QUEUE) == len(modes), "the queue")

    def act():
        if end == "release":
            first.release("orders", token)
        else:
            first.close()

    without(user, right, act, witness, lambda: reply(*waiting[0]))
    tokens = [waiting[0][0].reply_to(waiting[0][1], SOON)["token"]]
    if modes == ["shared", "shared"]:
        tokens.append(waiting[1][0].reply_to(waiting[1][1], SOON)["token"])
    elif len(modes) == 2:
        assert reply(*waiting[1]) is None
        waiting[0][0].release("orders", tokens[0])
        tokens.append(waiting[1][0].reply_to(waiting[1][1], SOON)["token"])
        assert tokens[1] > tokens[0]
    assert min(tokens) > token
    for client, _ in waiting:
        client.close()
    wait_until(lambda: redis.admin.exists(KEY, QUEUE) == 0, "nothing to be left", SOON)


@rights
def test_a_lock_that_is_shared_from_now_on_lets_in_who_waits(redis, user, clients, right):
    first, *others = clients
    token = first.acquire("orders")
    waiting = [(client, client.queue("orders", mode="shared")) for client in others]
    wait_until(lambda: redis.admin.llen(QUEUE) == 2, "the queue")
    without(user, right, lambda: first.call("downgrade", name="orders", token=token), first,
            lambda: reply(*waiting[0]))
    for client, request in waiting:
        assert client.reply_to(request, SOON)["mode"] == "shared"
    first.ping()
    assert not first.pending
    for client in clients:
        client.release("orders")
    wait_until(lambda: redis.admin.exists(KEY, QUEUE) == 0, "nothing to be left", SOON)


@rights
def test_who_leaves_the_queue_lets_in_who_waited_behind(redis, user, clients, right):
    """A writer between readers: its place goes, and that is all that kept the others out."""
    first, writer, reader = clients
    first.acquire("orders", mode="shared")
    leaving = writer.queue("orders")
    wait_until(lambda: redis.admin.llen(QUEUE) == 1, "the writer's place")
    request = reader.queue("orders", mode="shared")
    wait_until(lambda: redis.admin.llen(QUEUE) == 2, "the reader's place")
    without(user, right, lambda: writer.call("cancel", id=leaving), writer, lambda: reply(reader, request))
    assert reader.reply_to(request, SOON)["mode"] == "shared"


@rights
@pytest.mark.parametrize("modes", [["exclusive", "exclusive"], ["shared", "shared"]], ids=" ".join)
def test_a_foreign_lock_that_is_broken_goes_to_who_waits(redis, user, clients, right, modes):
    redis.admin.set(KEY, "theirs")
    admin, *others = clients
    waiting = []
    for client, mode in zip(others, modes):
        waiting.append((client, client.queue("orders", mode=mode)))
        wait_until(lambda: redis.admin.llen(QUEUE) == len(waiting), "the queue")
    places = redis.admin.lrange(QUEUE, 0, -1)
    user.set(f"-{right}")
    try:
        admin.call("break", name="orders")
    except RpcError as error:
        assert error.reason == "unavailable"
    was_refused = redis.admin.get(KEY) == b"theirs"
    if was_refused:
        assert redis.admin.lrange(QUEUE, 0, -1) == places
    user.set(f"+{right}")
    if was_refused:
        admin.call("break", name="orders")
    granted = [waiting[0][0].reply_to(waiting[0][1], SOON)["token"]]
    if modes[0] == "exclusive":
        assert reply(*waiting[1]) is None
        waiting[0][0].release("orders")
    assert waiting[1][0].reply_to(waiting[1][1], SOON)["token"] != granted[0]


@rights
def test_who_comes_while_a_right_is_missing_is_served_in_its_turn(redis, user, clients, right):
    first, second, third = clients
    token = first.acquire("orders")
    before = refused(second)
    user.set(f"-{right}")
    request = second.request("acquire", name="orders")
    wait_until(lambda: refused(second) > before or redis.admin.llen(QUEUE) == 1, "Redis to refuse it, or a place", SOON)
    user.set(f"+{right}")
    wait_until(lambda: redis.admin.llen(QUEUE) == 1 and redis.admin.pttl(QUEUE) > 0, "its place", SOON)
    later = third.queue("orders")
    first.release("orders", token)
    assert second.reply_to(request, SOON)["token"] > token
    assert reply(third, later) is None
    second.close()
    assert third.reply_to(later, SOON)["token"] > token


def test_all_rights_of_the_scripts_are_among_them():
    """These tests take the rights from the documents: that there are any."""
    assert {"set", "publish", "lpop", "lindex", "lrem", "rpush", "del", "pexpire", "pttl", "time"} <= set(RIGHTS)
    assert all(re.fullmatch("[a-z]+", right) for right in RIGHTS)
