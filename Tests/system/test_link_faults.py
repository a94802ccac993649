"""The link to Redis is cut, slow, or answers with errors, at the worst moments."""

import itertools

import pytest
from harness.client import Client, RpcError
from harness.waiting import boot_time, wait_until

# Long beside everything that these tests allow: whatever comes in a quarter of it did not wait for a lease to end.
LEASE_MS = 200_000
SOON = LEASE_MS / 4 / 1000
# A link that a test holds up for a moment is not given up meanwhile, however long the moment is on a busy machine.
PATIENT = ["--redis-timeout-ms", "60000"]
KEY = b"sidelock:{orders}"
PASSING_ERRORS = [
    "LOADING Redis is loading the dataset in memory", "READONLY You can't write against a read only replica.",
    "MISCONF Errors writing to the AOF file", "OOM command not allowed when used memory > 'maxmemory'.",
    "BUSY Redis is busy running a script.", "MASTERDOWN Link with MASTER is down", "TRYAGAIN Try again later",
    "CLUSTERDOWN The cluster is down", "UNKILLABLE Sorry", "NOREPLICAS Not enough good replicas to write.",
]
errors = pytest.mark.parametrize("error", PASSING_ERRORS, ids=lambda text: text.split()[0])


def about_orders(words):
    """A script that concerns the lock."""
    return words[0].upper().startswith(b"EVAL") and KEY in words


def reply(error):
    return f"-{error}\r\n".encode()


class Host:
    """A daemon behind a proxy of its own."""

    def __init__(self, lab, redis, **options):
        self.proxy = lab.proxy(redis)
        self.daemon = lab.daemon(self.proxy, **(options or {"lease_ms": LEASE_MS, "args": PATIENT}))
        self.client = self.daemon.client()


@pytest.fixture
def host(lab, redis):
    return Host(lab, redis)


@pytest.fixture
def other(lab, redis):
    """A second host, with a link that works."""
    return lab.daemon(redis, lease_ms=LEASE_MS).client()


def free_soon(redis):
    """The lock is given back at once, not when its lease ends."""
    wait_until(lambda: not redis.admin.exists(KEY), "the lock to be given back in Redis", seconds=SOON)


# Lost pushes: pitfall 2

def test_a_release_during_a_reconnect_is_not_missed(redis, host, other):
    token = other.acquire("orders")
    request = host.client.queue("orders")
    host.proxy.set(refusing=True)
    wait_until(lambda: len(redis.daemon_connections()) == 1, "the end of the link")
    other.release("orders", token)
    host.proxy.set(refusing=False)
    assert host.client.reply_to(request, SOON)["token"] > token


def test_a_grant_that_was_pushed_into_a_dead_connection_is_found(redis, host, other):
    token = other.acquire("orders")
    request = host.client.queue("orders")
    host.proxy.set(hold_replies=True)
    other.release("orders", token)
    # Redis has handed the lock over, and the push is on its way.
    wait_until(lambda: redis.admin.llen(KEY + b":queue") == 0 and redis.admin.exists(KEY), "the hand-over", SOON)
    host.proxy.cut()
    host.proxy.set(hold_replies=False)
    assert host.client.reply_to(request, SOON)["token"] > token
    host.client.release("orders")
    assert other.acquire("orders", wait_ms=int(SOON * 1000)) > token


def test_waiters_survive_many_reconnects(host, other):
    token = other.acquire("orders")
    request = host.client.queue("orders")
    for _ in range(5):
        before = host.proxy.connections
        host.proxy.cut()
        wait_until(lambda: host.proxy.connections > before, "a new connection", SOON)
    other.release("orders", token)
    assert host.client.reply_to(request, SOON)["token"] > token


# Replies that never come: pitfalls 4 and 5

def test_an_acquire_whose_reply_was_lost_is_one_hold(redis, host, other):
    host.proxy.cut_after(about_orders)
    token = host.client.acquire("orders", wait_ms=int(SOON * 1000))
    assert other.try_acquire("orders") is None
    host.client.release("orders", token)
    free_soon(redis)
    assert other.acquire("orders", wait_ms=0) > token


@pytest.mark.parametrize("when", ["after", "before"])
def test_a_try_whose_outcome_is_unknown_leaks_nothing(redis, host, other, when):
    host.proxy.add(type(host.proxy.answer(lambda _: False, b""))(about_orders, cut=when))
    request = host.client.request("acquire", name="orders", wait_ms=0)
    try:
        token = host.client.reply_to(request, SOON)["token"]
        host.client.release("orders", token)
    except RpcError as error:
        assert error.reason == "unavailable"
    free_soon(redis)
    assert other.acquire("orders", wait_ms=0) > 0


def test_a_release_whose_reply_was_lost_frees_the_lock(redis, host, other):
    token = host.client.acquire("orders")
    host.proxy.cut_before(about_orders)
    assert host.client.release("orders", token)["token"] == token
    assert other.acquire("orders", wait_ms=int(SOON * 1000)) > token


# Leaving at every step: pitfalls 7, 26, 39 and 45

@pytest.mark.parametrize("leave", ["cancel", "close"])
@pytest.mark.parametrize("step", ["before Redis", "before the reply", "in the queue", "push on its way"])
def test_a_wait_that_is_given_up_leaves_nothing(redis, host, other, leave, step):
    connections = host.proxy.connections
    token = other.acquire("orders") if step in ("in the queue", "push on its way") else 0
    client = Client(host.daemon.socket_path)
    if step == "before Redis":
        host.proxy.set(hold_requests=True)
    elif step == "before the reply":
        host.proxy.set(hold_replies=True)
    request = client.request("acquire", name="orders", progress=True)
    client.ping()
    if step == "before the reply":
        wait_until(lambda: redis.admin.exists(KEY), "Redis to have executed it", SOON)
    elif token:
        client.notification("waiting")
    if step == "push on its way":
        host.proxy.set(hold_replies=True)
        other.release("orders", token)
        wait_until(lambda: redis.admin.llen(KEY + b":queue") == 0, "the hand-over", SOON)
    if leave == "cancel":
        assert client.call("cancel", id=request) == {"cancelled": True}
        assert client.error_of(request).reason == "cancelled"
        client.ping()
    else:
        client.close()
    host.client.ping()
    host.proxy.set(hold_requests=False, hold_replies=False)
    if step == "in the queue":
        wait_until(lambda: redis.admin.llen(KEY + b":queue") == 0, "the wait to be withdrawn in Redis", SOON)
        other.release("orders", token)
    free_soon(redis)
    assert other.acquire("orders", wait_ms=0) > token
    assert host.client.call("list")["locks"] == []
    # Giving up is the client's own affair: the link stays.
    assert host.proxy.connections == connections


def test_cancelling_at_random_never_touches_the_link(redis, host, other):
    """Pitfall 45: however acquires, cancels and releases meet, one connection serves them all."""
    connections = host.proxy.connections
    clients = [host.daemon.client() for _ in range(3)]
    held = 0
    for round_ in range(60):
        requests = [(client, client.request("acquire", name="orders")) for client in clients]
        for index, (client, request) in enumerate(requests):
            if (round_ + index) % 3 == 0:
                client.request("cancel", id=request)
        waiting = dict(requests)

        def all_decided():
            """Whoever is granted it, in whatever order, gives it back."""
            nonlocal held
            for client in list(waiting):
                while client in waiting and (message := client.poll()) is not None:
                    if message.get("id") != waiting[client]:
                        continue
                    del waiting[client]
                    if "result" in message:
                        held = message["result"]["token"]
                        client.request("release", name="orders", token=held)
                    else:
                        assert message["error"]["data"]["reason"] == "cancelled"
            return not waiting

        wait_until(all_decided, "the end of the round", SOON, pause=0)
    free_soon(redis)
    assert other.acquire("orders", wait_ms=0) > held
    assert host.proxy.connections == connections


# Errors: pitfall 19

@errors
def test_an_error_that_passes_delays_an_acquire_and_no_more(redis, host, error):
    rule = host.proxy.answer(about_orders, reply(error), times=2)
    token = host.client.acquire("orders", wait_ms=int(SOON * 1000))
    assert rule.done == 2
    assert host.client.release("orders", token)["token"] == token
    free_soon(redis)


@errors
def test_an_error_that_stays_is_told(host, error):
    rule = host.proxy.answer(lambda words: words[0].upper().startswith(b"EVAL"), reply(error), times=10**9)
    refused = host.client.error_of(host.client.request("acquire", name="orders", wait_ms=0), SOON)
    assert refused.reason == "unavailable"
    asked = boot_time()
    refused = host.client.error_of(host.client.request("acquire", name="orders", wait_ms=200), SOON)
    # Redis works again, so that the daemon can end in peace.
    rule.times = 0
    assert refused.reason == "unavailable"
    assert boot_time() - asked >= 0.2


@errors
def test_an_error_to_a_release_does_not_keep_the_lock(redis, host, other, error):
    token = host.client.acquire("orders")
    host.proxy.answer(about_orders, reply(error), times=2)
    assert host.client.release("orders", token)["token"] == token
    free_soon(redis)
    assert other.acquire("orders", wait_ms=0) > token


@errors
def test_an_error_to_a_renewal_is_not_its_end(lab, redis, error):
    """Pitfall 9: the renewal fails twice, and the next one comes."""
    host = Host(lab, redis, lease_ms=5000)
    token = host.client.acquire("orders")
    renewals = host.proxy.count(about_orders)
    rule = host.proxy.answer(about_orders, reply(error), times=2)
    wait_until(lambda: host.proxy.count(about_orders) >= renewals + 4, "the renewals after the two that failed")
    assert rule.done == 2
    assert host.client.poll() is None
    assert host.client.release("orders", token)["token"] == token


def test_scripts_are_loaded_again_when_redis_forgot_them(lab, redis):
    host = Host(lab, redis, lease_ms=3000)
    tokens = []
    for _ in range(3):
        redis.admin.script_flush()
        tokens.append(host.client.acquire("orders", wait_ms=0))
        redis.admin.script_flush()
        renewals = host.proxy.count(about_orders)
        wait_until(lambda: host.proxy.count(about_orders) >= renewals + 2, "renewals")
        redis.admin.script_flush()
        host.client.release("orders", tokens[-1])
        free_soon(redis)
    assert tokens == sorted(set(tokens))
    assert host.client.poll() is None


@pytest.mark.parametrize("error", ["NOPERM this user has no permissions", "ERR what", "", "WEIRD \x01\xff"])
def test_an_error_that_nobody_expects_is_told_and_harms_nobody_else(host, error):
    rule = host.proxy.answer(about_orders, b"-" + error.encode("latin-1") + b"\r\n", times=10**9)
    refused = host.client.error_of(host.client.request("acquire", name="orders", wait_ms=0), SOON)
    assert refused.reason in ("unavailable", "internal_error")
    refused = host.client.error_of(host.client.request("acquire", name="orders", wait_ms=100), SOON)
    rule.times = 0
    assert refused.reason in ("unavailable", "internal_error")
    assert host.client.acquire("other", wait_ms=0) > 0


@pytest.mark.parametrize("command", [b"HELLO", b"CLIENT", b"SUBSCRIBE", b"SELECT", b"AUTH", b"INFO", b"CONFIG"])
def test_errors_to_the_handshake_are_survived(lab, redis, command):
    """Whatever of the first commands fails, once or twice: the daemon tries again and works in the end."""
    host = Host(lab, redis)
    host.proxy.answer(lambda words: words[0].upper() == command, reply("LOADING Redis is loading"), times=2)
    host.proxy.cut()
    assert host.client.acquire("orders", wait_ms=int(SOON * 1000)) > 0


# Time: pitfalls 12 and 28

def test_validity_counts_from_the_sending(redis, host):
    host.proxy.set(hold_replies=True)
    sent = boot_time()
    request = host.client.request("acquire", name="orders")
    host.client.ping()
    wait_until(lambda: boot_time() - sent >= 0.5, "half a second")
    host.proxy.set(hold_replies=False)
    granted = host.client.reply_to(request, SOON)
    assert granted["valid_ms"] <= LEASE_MS - 500
    # It is never longer than the key lives. `PTTL` is asked later, so that its own time has passed meanwhile.
    assert granted["valid_ms"] <= redis.admin.pttl(KEY) + 500


def test_a_reply_that_comes_after_the_lease_grants_nothing(lab, redis):
    """The reply is held back for longer than a lease: it is never taken for a grant."""
    host = Host(lab, redis, lease_ms=2000)
    host.proxy.set(hold_replies=True)
    request = host.client.request("acquire", name="orders")
    host.client.ping()
    wait_until(lambda: redis.admin.exists(KEY), "Redis to have executed it")
    first = int(redis.admin.get(KEY).rsplit(b":", 1)[1])
    wait_until(lambda: not redis.admin.exists(KEY), "the end of the lease")
    assert host.client.poll() is None
    host.proxy.set(hold_replies=False)
    granted = host.client.reply_to(request)
    # That is another grant, and it is good.
    assert granted["token"] > first
    assert 0 < granted["valid_ms"] <= redis.admin.pttl(KEY) + 500


def test_a_reconnect_does_not_bring_a_lost_hold_back(redis, host, other):
    """Pitfall 28: while the link was down the lock became somebody else's; the old holder is told."""
    token = host.client.acquire("orders")
    host.proxy.set(refusing=True)
    redis.admin.delete(KEY)
    newer = other.acquire("orders")
    host.proxy.set(refusing=False)
    lost = host.client.notification("lost", SOON)
    assert (lost["token"], lost["reason"]) == (token, "data_loss")
    error = host.client.error_of(host.client.request("release", name="orders", token=token))
    assert error.reason in ("lost", "not_held")
    assert [h["token"] for h in other.call("inspect", name="orders")["holders"]] == [newer]


def test_a_reconnect_keeps_a_hold_that_is_still_there(redis, host, other):
    token = host.client.acquire("orders")
    for _ in range(3):
        before = host.proxy.connections
        host.proxy.cut()
        wait_until(lambda: host.proxy.connections > before, "a new connection", SOON)
    host.client.release("orders", token)
    assert host.client.poll() is None
    free_soon(redis)


# A flood: pitfall 35

def test_renewals_come_first_in_a_flood(lab, redis, measured):
    """Ten thousand acquires are queued at a time, for three leases; no lease is lost."""
    daemon = lab.daemon(redis, lease_ms=4000)
    holders = [daemon.client() for _ in range(10)]
    tokens = {holder: holder.acquire(f"held-{index}") for index, holder in enumerate(holders)}
    flood = [daemon.client(check=False) for _ in range(80)]
    numbers = itertools.count()
    end = boot_time() + 12
    asked = 0
    while boot_time() < end:
        for client in flood:
            lines = b"".join(
                b'{"id":%d,"method":"acquire","params":{"name":"flood-%d","wait_ms":0}}\n' % (n, n)
                for n in itertools.islice(numbers, 125))
            client.send_raw(lines)
            asked += 125
        for client in flood:
            for _ in range(125):
                client.next()
        for client in flood:
            client.close()
        flood = [daemon.client(check=False) for _ in range(80)]
    measured("acquires asked for meanwhile", asked)
    for index, holder in enumerate(holders):
        assert holder.poll() is None
        assert holder.release(f"held-{index}", tokens[holder])["token"] == tokens[holder]
    # And all of it has been given back.
    wait_until(lambda: not any(key.endswith(b"}") for key in redis.keys()), "the end of the flood")
