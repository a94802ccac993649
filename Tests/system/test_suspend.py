"""A daemon that did not run for a while: what it believed to hold may be somebody else's by now."""

import pytest
from harness.waiting import GENEROUS_SECONDS, boot_time, wait_until

LEASE_MS = 3000


@pytest.fixture
def hosts(lab):
    redis = lab.redis()
    return [lab.daemon(redis, lease_ms=LEASE_MS) for _ in range(2)]


def test_lost_is_told_before_anything_else(hosts):
    """Pitfalls 15 and 38, as far as SIGSTOP can show them: requests came in meanwhile, and are answered after `lost`."""
    first, second = hosts
    holder, neighbour, elsewhere = first.client(), first.client(), second.client()
    token = holder.acquire("orders")
    kept = holder.acquire("other")
    queued = neighbour.queue("orders")
    remote = elsewhere.queue("orders")
    first.stop()
    newer = elsewhere.reply_to(remote)["token"]
    assert newer > token
    inspect = holder.request("inspect", name="orders")
    release = holder.request("release", name="orders", token=token)
    holder.request("release", name="other", token=kept)
    first.resume()
    seen = [holder.next() for _ in range(2)]
    assert [message.get("method") for message in seen] == ["lost", "lost"]
    assert {message["params"]["token"] for message in seen} == {token, kept}
    assert {message["params"]["reason"] for message in seen} == {"lease_expired"}
    assert all(message["params"]["grace_ms"] == 0 for message in seen)
    assert token not in [h.get("token") for h in holder.reply_to(inspect)["holders"]]
    assert holder.error_of(release).reason == "lost"
    # The neighbour waits for the other host, and no longer for the one that lost it.
    assert neighbour.poll() is None or neighbour.pending == []
    elsewhere.release("orders", newer)
    assert neighbour.reply_to(queued)["token"] > newer


def test_a_short_stop_costs_nothing(hosts):
    first, second = hosts
    holder, elsewhere = first.client(), second.client()
    token = holder.acquire("orders")
    request = elsewhere.queue("orders")
    first.stop()
    first.resume()
    holder.release("orders", token)
    assert elsewhere.reply_to(request)["token"] > token
    assert holder.poll() is None


def test_a_stopped_waiting_host_gets_the_lock_or_is_passed_over(hosts, lab):
    """Pitfall 21: the lock was handed to a host that does not run. It is nobody's for a lease, and then the next one's."""
    first, second = hosts
    third = lab.daemon(lab.servers[0], lease_ms=LEASE_MS).client()
    holder, frozen = first.client(), second.client()
    token = holder.acquire("orders")
    request = frozen.queue("orders")
    last = third.queue("orders")
    second.stop()
    holder.release("orders", token)
    newer = third.reply_to(last)["token"]
    assert newer > token
    second.resume()
    # The grant that waited for it in its socket is worth nothing by now.
    end = boot_time() + LEASE_MS / 1000 / 2
    while boot_time() < end:
        for message in iter(lambda: frozen.receive(0.02), None):
            assert message.get("id") != request, "two hosts have the lock"
    third.release("orders", newer)
    assert frozen.reply_to(request)["token"] > newer


def test_a_spinning_client_keeps_its_lock(hosts):
    """Pitfall 10: a client that floods its own daemon does not starve its own renewal."""
    first, second = hosts
    holder, elsewhere = first.client(check=False), second.client()
    holder.acquire("orders")
    request = elsewhere.queue("orders")
    end = boot_time() + 2 * LEASE_MS / 1000
    line = b'{"id":1,"method":"ping"}\n' * 50
    while boot_time() < end:
        holder.send_raw(line)
        for _ in range(50):
            assert "result" in holder.next()
    assert elsewhere.poll() is None
    holder.close()
    assert elsewhere.reply_to(request, GENEROUS_SECONDS)["token"] > 0


def test_many_hosts_pass_a_lock_round(lab):
    """In the order in which they came."""
    redis = lab.redis()
    clients = [lab.daemon(redis, lease_ms=240_000).client() for _ in range(6)]
    token = clients[0].acquire("orders")
    requests = []
    for client in clients[1:]:
        requests.append(client.queue("orders"))
        wait_until(lambda: redis.admin.llen("sidelock:{orders}:queue") == len(requests), "its place in Redis")
    for giver, taker, request in zip(clients, clients[1:], requests):
        assert all(client.poll() is None for client in clients)
        giver.release("orders", token)
        newer = taker.reply_to(request)["token"]
        assert newer > token
        token = newer
