"""Whoever is told "released" may tell a process on another host, by any other way, to try: it then gets the lock."""

import pytest
from harness.client import Client

ROUNDS = 2000
#: The third time nothing is needed from Redis: the second one has shown that the host comes back.
TIMES = 3


@pytest.mark.parametrize("args", [[], ["--linger-ms", "0"]], ids=["as_installed", "without_lingering"])
def test_a_try_right_after_a_release_elsewhere_gets_the_lock(lab, args):
    redis = lab.redis()
    daemons = [lab.daemon(redis, args=args) for _ in range(2)]
    # Unchecked messages, because checking them against the document takes longer than the lock.
    clients = [Client(daemon.socket_path, check=False) for daemon in daemons]
    for round_ in range(ROUNDS):
        # A name that another host wanted while it lingered goes back at once for a while.
        name, last = f"orders {round_}", 0
        for client in clients:
            for _ in range(TIMES):
                token = client.call("acquire", name=name, wait_ms=0)["token"]
                assert token > last
                last = token
                client.call("release", name=name, token=token)
    # The test is about leases that linger only if they did.
    without_redis = sum(client.call("stats")["grants_without_redis_total"] for client in clients)
    assert without_redis == 0 if args else without_redis > 2 * ROUNDS * (TIMES - 2) * 0.9
