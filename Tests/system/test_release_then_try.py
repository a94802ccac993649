"""Whoever is told "released" may tell a process on another host, by any other way, to try: it then gets the lock."""

import itertools

import pytest
from harness.client import Client

ROUNDS = 5000


@pytest.mark.parametrize("linger_ms", [0, 1000])
def test_a_try_right_after_a_release_elsewhere_gets_the_lock(lab, linger_ms):
    redis = lab.redis()
    daemons = [lab.daemon(redis, args=["--linger-ms", str(linger_ms)]) for _ in range(2)]
    # Unchecked messages, because checking them against the document takes longer than the lock.
    clients = [Client(daemon.socket_path, check=False) for daemon in daemons]
    last = 0
    for client in itertools.islice(itertools.cycle(clients), ROUNDS):
        # The second time the host comes back to the name, so that its lease lingers where it may.
        for _ in range(2):
            token = client.call("acquire", name="orders", wait_ms=0)["token"]
            assert token > last
            last = token
            client.call("release", name="orders", token=token)
    # The test is about leases that linger only if they did: nearly every second acquire needed nothing from Redis.
    without_redis = sum(client.call("stats")["grants_without_redis_total"] for client in clients)
    assert without_redis == 0 if linger_ms == 0 else without_redis > ROUNDS / 2
