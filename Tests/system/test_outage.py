"""Redis stops, hangs, or comes back without its data."""

import signal

import pytest
from harness.client import RpcError
from harness.waiting import GENEROUS_SECONDS, boot_time, wait_until

LEASE_MS = 6000


def acquire_everywhere(clients, prefix):
    return {client: client.acquire(f"{prefix}-{i}") for i, client in enumerate(clients)}


def renewed_once(daemon, client, name):
    """Waits until the lease of `name` has been put off once, and is fresh."""
    def valid():
        return client.call("inspect", name=name)["lease"]["valid_ms"]
    before = valid()

    def went_up():
        nonlocal before
        now = valid()
        if now > before:
            return True
        before = now
        return False

    wait_until(went_up, "a renewal")


def test_redis_stopped_for_longer_than_the_lease(lab, measured):
    """Pitfalls 38 and 41: lost in time, tries refused, waits ended at their own deadlines, and then all is well."""
    redis = lab.redis()
    daemons = [lab.daemon(redis, lease_ms=LEASE_MS) for _ in range(2)]
    holders = [daemon.client() for daemon in daemons for _ in range(3)]
    tokens = acquire_everywhere(holders, "lock")
    neighbour = daemons[0].client()
    queued = neighbour.queue("lock-0")
    renewed_once(daemons[0], neighbour, "lock-0")
    redis.stop()
    # Nothing can be renewed now: whatever the leases are, they end by then.
    stopped = boot_time()
    latest_end = stopped + LEASE_MS / 1000

    # A wait ends at its own deadline, not when Redis is back, and not before.
    waits = {}
    for wait_ms in (50, 300, 1000):
        asked = boot_time()
        waits[neighbour.request("acquire", name="elsewhere", wait_ms=wait_ms)] = (asked, wait_ms / 1000)
    for request, (asked, seconds) in waits.items():
        error = neighbour.error_of(request)
        assert error.reason in ("unavailable", "timeout")
        assert boot_time() - asked >= seconds

    ends = []
    for i, holder in enumerate(holders):
        lost = holder.notification("lost")
        told = boot_time()
        assert lost["name"] == f"lock-{i}" and lost["token"] == tokens[holder]
        assert lost["reason"] == "lease_expired"
        # Told before anybody else could have it. `told` is when it was read here, which is later still.
        assert told < latest_end, f"told {told - latest_end:.3f} s after the lease's end"
        ends.append(told + lost["grace_ms"] / 1000)
    # The time that is left by the daemon's word is not more than there is; the one that was read with the least delay tells.
    assert min(ends) <= latest_end + 0.3
    measured(f"lost after Redis stopped, lease {LEASE_MS} ms", f"{(told - stopped) * 1000:.0f} ms")

    # No neighbour is given a lock of which the lease has ended, and nobody is reported as its holder.
    assert neighbour.poll() is None
    # What this host knows is told; of a lock of which it knows nothing, nothing can be.
    inspected = neighbour.call("inspect", name="lock-0")
    assert inspected["holders"] == [] and inspected["waiting"] == 1
    assert inspected["lease"]["state"] in ("lost", "asking")
    error = neighbour.error_of(neighbour.request("inspect", name="never heard of"))
    assert error.reason == "unavailable"
    assert not any(lock["holders"] for lock in neighbour.call("list")["locks"])
    for holder in holders:
        with pytest.raises(RpcError) as caught:
            holder.release(f"lock-{holders.index(holder)}", tokens[holder])
        assert (caught.value.reason, caught.value.data["lost"]) == ("lost", "lease_expired")

    # A try is refused clearly.
    tries = [daemon.client() for daemon in daemons]
    for client in tries:
        error = client.error_of(client.request("acquire", name="elsewhere", wait_ms=0))
        assert error.reason == "unavailable"
    # A wait that reaches its deadline meanwhile says so too.
    error = tries[0].error_of(tries[0].request("acquire", name="elsewhere", wait_ms=20))
    assert error.reason == "unavailable"
    forever = tries[1].request("acquire", name="elsewhere")

    redis.resume()
    assert tries[1].reply_to(forever)["token"] > 0
    assert neighbour.reply_to(queued)["token"] > tokens[holders[0]]
    for i, holder in enumerate(holders[1:], 1):
        assert holder.acquire(f"lock-{i}") > tokens[holder]


def test_a_short_stop_of_redis_costs_nobody_a_lock(lab):
    redis = lab.redis()
    daemon = lab.daemon(redis, lease_ms=240_000)
    holder = daemon.client()
    token = holder.acquire("orders")
    redis.stop()
    # While Redis is silent the daemon goes on serving.
    waiter = daemon.client()
    request = waiter.queue("orders")
    holder.release("orders", token)
    # A hand-over to a neighbour needs no Redis while the lease is good.
    second = waiter.reply_to(request)["token"]
    assert second > token
    redis.resume()
    waiter.release("orders", second)
    assert holder.acquire("orders") > second
    assert holder.poll() is None and waiter.poll() is None


@pytest.mark.parametrize("how", ["restart", "FLUSHALL"])
def test_tokens_increase_although_redis_lost_its_data(lab, how):
    """Pitfalls 16 and 17: the counter is gone, the tokens still increase."""
    redis = lab.redis()
    daemons = [lab.daemon(redis, lease_ms=1000) for _ in range(2)]
    clients = [daemon.client() for daemon in daemons]
    last = 0
    for round_ in range(4):
        client = clients[round_ % 2]
        for _ in range(3):
            token = client.acquire("orders")
            assert token > last
            last = token
            client.release("orders", token)
        if how == "restart":
            redis.restart()
        else:
            redis.admin.flushall()
    assert clients[0].acquire("orders") > last


def test_tokens_of_all_locks_lie_above_those_that_the_host_has_seen(lab):
    """Redis has lost its data, and its clock is an hour behind the tokens that it gave out."""
    redis = lab.redis()
    one, other = (lab.daemon(redis, lease_ms=1000).client() for _ in range(2))
    seconds, microseconds = redis.admin.time()
    redis.admin.set("sidelock:{orders}:fence", (seconds + 3600) * 1_000_000 + microseconds)
    token = one.acquire("orders")
    assert token > (seconds + 3600) * 1_000_000
    one.release("orders", token)
    redis.admin.flushall()
    last = one.acquire("invoices")
    assert last > token
    one.release("invoices", last)
    # The other host has seen none of them, but heard of them with the epoch.
    mails = other.acquire("mails")
    other.release("mails", mails)
    assert mails > token
    redis.admin.flushall()
    first = one.acquire("mails")
    assert first > last
    request = other.request("acquire", name="mails", wait_ms=60_000)
    wait_until(lambda: redis.admin.llen("sidelock:{mails}:queue") == 1, "the wait")
    redis.admin.delete("sidelock:{mails}:fence")
    one.release("mails", first)
    assert other.reply_to(request)["token"] > first


def test_a_holder_is_told_when_somebody_else_has_its_lock(lab):
    """Pitfalls 14 and 28: the lease is another's before its time; that is noticed, told, and not taken back."""
    redis = lab.redis()
    daemon = lab.daemon(redis, lease_ms=5000)
    holder = daemon.client()
    token = holder.acquire("orders")
    redis.admin.set("sidelock:{orders}", "another's", px=2000)
    lost = holder.notification("lost")
    assert (lost["name"], lost["token"], lost["reason"]) == ("orders", token, "data_loss")
    assert lost["grace_ms"] >= 0
    assert daemon.client().acquire("orders") > token


def test_waits_end_in_time_although_redis_is_away(lab):
    """Pitfall 41: Redis is killed, not only slow; and comes back."""
    redis = lab.redis()
    daemon = lab.daemon(redis, lease_ms=1000)
    client = daemon.client()
    client.release("warm-up", client.acquire("warm-up"))
    redis.kill()
    requests = []
    for wait_ms in (0, 20, 100, 300):
        requests.append((client.request("acquire", name="orders", wait_ms=wait_ms), boot_time(), wait_ms / 1000))
    for request, asked, seconds in requests:
        error = client.error_of(request)
        assert error.reason == "unavailable"
        assert boot_time() - asked >= seconds
    waiting = client.request("acquire", name="orders", wait_ms=int(GENEROUS_SECONDS * 1000))
    redis.start()
    assert client.reply_to(waiting)["token"] > 0


def test_redis_is_away_at_the_start(lab):
    """The daemon starts, says so, refuses tries, and works once Redis is there."""
    redis = lab.redis()
    redis.kill()
    daemon = lab.daemon(redis, lease_ms=1000, wait=False)
    # Whether READY waits for Redis is the daemon's choice; it serves its socket in any case.
    wait_until(lambda: daemon.socket_path.exists(), "the socket")
    client = daemon.client()
    error = client.error_of(client.request("acquire", name="orders", wait_ms=0))
    assert error.reason == "unavailable"
    waiting = client.request("acquire", name="orders")
    redis.start()
    assert client.reply_to(waiting)["token"] > 0
    daemon.wait_ready()


def test_the_daemon_stops_in_peace_while_redis_hangs(lab):
    redis = lab.redis()
    daemon = lab.daemon(redis, lease_ms=60_000)
    client = daemon.client()
    client.acquire("orders")
    redis.stop()
    daemon.signal(signal.SIGTERM)
    messages = client.wait_for_end()
    assert [m["params"]["reason"] for m in messages if m.get("method") == "lost"] == ["shutdown"]
    assert daemon.process.wait(GENEROUS_SECONDS) == 0


def test_a_primary_that_becomes_a_replica_and_back(lab):
    """Pitfall 19 with a real failover: READONLY to everything; holders are told in time; then all works again."""
    redis, primary = lab.redis(), lab.redis()
    daemon = lab.daemon(redis, lease_ms=1000)
    holder, client = daemon.client(), daemon.client()
    token = holder.acquire("orders")
    redis.admin.execute_command("REPLICAOF", "127.0.0.1", primary.port)
    lost = holder.notification("lost")
    assert lost["token"] == token and lost["reason"] in ("lease_expired", "data_loss")
    assert client.error_of(client.request("acquire", name="orders", wait_ms=0)).reason == "unavailable"
    redis.admin.execute_command("REPLICAOF", "NO", "ONE")
    assert client.acquire("orders", wait_ms=int(GENEROUS_SECONDS * 1000)) > token


def test_killed_connections_are_made_anew(lab):
    """An administrator kills the link again and again; holds and waits are not harmed."""
    redis = lab.redis()
    first, second = lab.daemon(redis, lease_ms=240_000), lab.daemon(redis, lease_ms=240_000)
    holder, waiter = first.client(), second.client()
    token = holder.acquire("orders")
    request = waiter.queue("orders")
    for _ in range(5):
        for connection in redis.daemon_connections():
            redis.admin.client_kill_filter(_id=connection["id"])
        wait_until(lambda: len(redis.daemon_connections()) == 2, "both hosts to be back")
    assert holder.poll() is None and waiter.poll() is None
    holder.release("orders", token)
    assert waiter.reply_to(request)["token"] > token


def test_a_redis_that_blocks_for_longer_than_a_lease(lab):
    """Its own event loop hangs in a command: connections stay open, nothing is answered."""
    redis = lab.redis()
    daemon = lab.daemon(redis, lease_ms=1000)
    holder = daemon.client()
    token = holder.acquire("orders")
    redis.admin.execute_command("CLIENT", "PAUSE", "1500", "ALL")
    lost = holder.notification("lost")
    assert (lost["token"], lost["reason"]) == (token, "lease_expired")
    assert holder.acquire("orders", wait_ms=int(GENEROUS_SECONDS * 1000)) > token
