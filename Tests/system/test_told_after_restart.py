"""What clients are told by a daemon that follows when their leases have ended meanwhile."""

import pytest
from harness.service_manager import ServiceManager
from harness.waiting import boot_time, wait_until

LEASE_MS = 1000


@pytest.mark.parametrize("count", [1, 5])
def test_each_loss_is_told_once(lab, redis, count):
    service = ServiceManager(lab, "--redis", redis.url, "--lease-ms", LEASE_MS)
    service.start()
    clients = [service.client() for _ in range(count)]
    names = [[f"{number} {which}" for which in range(2)] for number in range(count)]
    for client, own in zip(clients, names):
        for name in own:
            client.acquire(name)
    service.stop(hand_over=True)
    gone = boot_time()
    wait_until(lambda: boot_time() > gone + 2 * LEASE_MS / 1000, "the end of all leases")
    service.start()
    for client, own in zip(clients, names):
        lost = [client.notification("lost")["name"] for _ in own]
        client.ping()
        lost += [message["params"]["name"] for message in client.pending if message.get("method") == "lost"]
        assert sorted(lost) == own
    assert service.client().call("stats")["lost_total"] == service.log().count("lock lost") == 2 * count
    service.stop()
