"""Links on which an answer takes half a second: whoever answers late is not taken for one who does not answer.

What is asserted is what happens, and never how long it takes.
"""

import pytest
from harness.waiting import GENEROUS_SECONDS, wait_until

LEASE_MS = 120_000  # so long that nothing in a test can be due to its end, however busy the machine is
EACH_WAY = 0.25


class Hosts:
    """Two hosts, each behind a proxy that delays what it is told to."""

    def __init__(self, lab, slow, each_way=EACH_WAY):
        self.redis = lab.redis()
        self.proxies = [lab.proxy(self.redis) for _ in range(2)]
        self.daemons = [lab.daemon(proxy, lease_ms=LEASE_MS, args=["--linger-ms", "10000"]) for proxy in self.proxies]
        self.here, self.there = (daemon.client() for daemon in self.daemons)
        for proxy, is_slow in zip(self.proxies, slow):
            proxy.set(delay_seconds=each_way if is_slow else 0)


@pytest.fixture(params=[(True, True), (True, False), (False, True)], ids=["both", "the holder", "who tries"])
def hosts(lab, request):
    return Hosts(lab, request.param)


def leave_idle(client, name="orders", **how):
    """Has the client's host keep a lease that nobody uses."""
    for _ in range(3):
        token = client.acquire(name, **how)
        client.release(name, token)
    assert client.call("inspect", name=name)["lease"]["state"] == "idle"
    return token


def test_a_try_on_a_lease_that_nobody_uses_gets_it(hosts):
    token = leave_idle(hosts.here)
    assert hosts.there.acquire("orders", wait_ms=0) > token


def test_several_locks_that_nobody_uses_are_got(hosts):
    leave_idle(hosts.here, "a")
    leave_idle(hosts.here, "b")
    assert len(hosts.there.call("acquire", names=["a", "b"], wait_ms=0)["locks"]) == 2


def test_a_name_that_nobody_uses_as_something_else_is_got(hosts):
    leave_idle(hosts.here)
    assert hosts.there.acquire("orders", permits=2, wait_ms=0) > 0


def test_a_try_on_a_lock_in_use_is_told_so(hosts):
    token = hosts.here.acquire("orders")
    error = hosts.there.error_of(hosts.there.request("acquire", name="orders", wait_ms=0))
    assert error.reason == "busy"
    hosts.here.release("orders", token)
    assert hosts.there.acquire("orders", wait_ms=0) > token


def test_a_permit_that_was_given_back_is_got(hosts):
    for client in (hosts.here, hosts.there):
        client.acquire("pool", permits=2)
    hosts.here.release("pool")
    assert hosts.there.acquire("pool", permits=2, wait_ms=0) > 0


def test_holders_on_a_slow_host_are_shown_and_broken(hosts):
    token = hosts.here.acquire("orders", meta="nightly")
    shown = hosts.there.call("inspect", name="orders")["holders"]
    assert [holder.get("meta") for holder in shown] == ["nightly"]
    listed = hosts.there.call("list", scope="all")["locks"]
    assert [holder.get("meta") for holder in listed[0]["holders"]] == ["nightly"]
    assert hosts.there.call("break", name="orders")["broken"] == [token]
    assert hosts.here.notification("lost")["reason"] == "broken"


def test_a_deadlock_over_slow_hosts_is_found(hosts):
    here, there = hosts.here, hosts.there
    here.acquire("left", owner="x")
    there.acquire("right", owner="y")
    here.request("acquire", name="right", owner="x")
    there.request("acquire", name="left", owner="y")

    def victim():
        return here.call("stats")["deadlocks_total"] + there.call("stats")["deadlocks_total"]

    wait_until(lambda: victim() == 1, "a victim")


def test_a_deadlock_over_many_slow_hosts_is_found(lab):
    """To go along the cycle takes longer than a cycle of near hosts is waited for."""
    redis, count = lab.redis(), 3
    proxies = [lab.proxy(redis) for _ in range(count)]
    clients = [lab.daemon(proxy, lease_ms=LEASE_MS).client() for proxy in proxies]
    for proxy in proxies:
        proxy.set(delay_seconds=0.45)
    for index, client in enumerate(clients):
        client.acquire(f"lock-{index}", owner="x")
    for index, client in enumerate(clients):
        client.request("acquire", name=f"lock-{(index + 1) % count}", owner="x")
    wait_until(lambda: sum(c.call("stats")["deadlocks_total"] for c in clients) >= 1, "a victim", 2 * GENEROUS_SECONDS)


def test_a_link_is_not_given_up_for_being_slow(lab):
    """Answers come to take longer than redis_timeout_ms, little by little; the timeout follows them."""
    redis = lab.redis()
    proxy = lab.proxy(redis)
    daemon = lab.daemon(proxy, lease_ms=LEASE_MS, args=["--redis-timeout-ms", "1000"])
    client = daemon.client()
    connections = proxy.connections
    for each_way in (0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6):
        proxy.set(delay_seconds=each_way)
        for round_ in range(2):
            # Names that the host had lately would not be asked for.
            names = [f"lock {each_way} {round_} {index}" for index in range(4)]
            for name, request in [(name, client.request("acquire", name=name)) for name in names]:
                client.release(name, client.reply_to(request)["token"])
    assert proxy.connections == connections
    assert client.call("stats")["redis"]["round_trip_ms"] >= 800


def test_a_daemon_that_starts_far_away_serves_with_redis(lab):
    """Ready means that Redis is there, if it answers in the time that it has."""
    redis = lab.redis()
    proxy = lab.proxy(redis)
    proxy.set(delay_seconds=0.4)
    client = lab.daemon(proxy, lease_ms=LEASE_MS).client()
    assert client.acquire("orders", wait_ms=0) > 0


def test_a_host_that_hangs_is_not_waited_for_for_ever(lab):
    """Its answer is waited for as long as a link may be silent, and then the lock counts as taken."""
    hosts = Hosts(lab, (False, False))
    hosts.here.acquire("orders")
    hosts.daemons[0].stop()
    error = hosts.there.error_of(hosts.there.request("acquire", name="orders", wait_ms=0))
    assert error.reason == "busy"
    assert [holder["host"] for holder in hosts.there.call("inspect", name="orders")["holders"]]
    hosts.daemons[0].resume()
