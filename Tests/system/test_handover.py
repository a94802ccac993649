"""Who gets a lock next, and how soon, when its holder or a waiter goes."""

import signal
import subprocess
import sys
import time

import pytest
from harness.client import Client
from harness.waiting import boot_time, wait_until

# Longer than everything that these tests wait for: what came had not to wait for the end of a lease.
LEASE_MS = 240_000
HOLDER = __file__.replace("test_handover.py", "holder.py")


def start_holder(lab, daemon, name):
    """A process of its own that holds the lock."""
    process = lab.track(subprocess.Popen(
        [sys.executable, HOLDER, str(daemon.socket_path), name], stdout=subprocess.PIPE, text=True))
    word, token = process.stdout.readline().split()
    assert word == "held"
    return process, int(token)


@pytest.mark.parametrize("where", ["same host", "other host"])
def test_sigkill_of_a_holder_frees_its_lock_at_once(lab, measured, where):
    redis = lab.redis()
    first, second = lab.daemon(redis, lease_ms=LEASE_MS), lab.daemon(redis, lease_ms=LEASE_MS)
    waiter = (first if where == "same host" else second).client()
    best = None
    last = 0
    for _ in range(5):
        process, token = start_holder(lab, first, "orders")
        assert token > last
        request = waiter.queue("orders")
        killed = time.monotonic()
        process.kill()
        last = waiter.reply_to(request)["token"]
        taken = (time.monotonic() - killed) * 1000
        assert last > token
        best = taken if best is None else min(best, taken)
        process.wait()
        waiter.release("orders", last)
    measured(f"from SIGKILL to the next grant, {where}, best of 5", f"{best:.2f} ms")


def test_a_stopped_client_keeps_its_lock_until_it_is_killed(lab):
    """Pitfall 10: renewal does not depend on the client."""
    redis = lab.redis()
    first, second = lab.daemon(redis, lease_ms=2000), lab.daemon(redis, lease_ms=2000)
    process, token = start_holder(lab, first, "orders")
    process.send_signal(signal.SIGSTOP)
    waiter = second.client()
    request = waiter.queue("orders")
    # Two leases long its own lease is renewed: a third session sees the same holder then.
    end = boot_time() + 4
    witness = first.client()
    while boot_time() < end:
        assert [holder["token"] for holder in witness.call("inspect", name="orders")["holders"]] == [token]
        assert waiter.poll() is None
    process.kill()
    assert waiter.reply_to(request)["token"] > token


def test_a_killed_daemons_locks_pass_on_after_its_lease(lab, measured):
    """Pitfall 3: the waiting host's own timer does it, although Redis expires nothing actively."""
    redis = lab.redis()
    redis.admin.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", "0")
    first, second = lab.daemon(redis, lease_ms=1500), lab.daemon(redis, lease_ms=1500)
    holder = first.client()
    token = holder.acquire("orders")
    waiter = second.client()
    request = waiter.queue("orders")
    killed = boot_time()
    first.kill()
    assert holder.wait_for_end() == []
    assert waiter.reply_to(request)["token"] > token
    taken = boot_time() - killed
    measured("from SIGKILL of a daemon with a lease of 1500 ms to the grant elsewhere", f"{taken * 1000:.0f} ms")


def test_dead_waiting_hosts_do_not_delay_the_next_one(lab, measured):
    """Pitfall 21: however many waiting hosts were killed, the lock goes past them in one step."""
    redis = lab.redis()
    first, last = lab.daemon(redis, lease_ms=LEASE_MS), lab.daemon(redis, lease_ms=LEASE_MS)
    holder = first.client()
    token = holder.acquire("orders")
    dead = [lab.daemon(redis, lease_ms=LEASE_MS) for _ in range(5)]
    for daemon in dead:
        daemon.client().queue("orders")
    waiter = last.client()
    request = waiter.queue("orders")
    for daemon in dead:
        daemon.kill()
    # Redis has noticed that they are gone.
    wait_until(lambda: len(redis.daemon_connections()) == 2, "the end of the dead hosts' connections")
    released = time.monotonic()
    holder.release("orders", token)
    assert waiter.reply_to(request)["token"] > token
    taken = (time.monotonic() - released) * 1000
    measured("from release to the grant past 5 dead hosts", f"{taken:.2f} ms")


@pytest.mark.parametrize("where", ["same host", "other host"])
def test_a_grant_to_a_waiter_that_just_left_passes_on(lab, where):
    """Pitfalls 39 and 7: a waiter leaves in the same moment in which the lock is given back."""
    redis = lab.redis()
    first, second = lab.daemon(redis, lease_ms=LEASE_MS), lab.daemon(redis, lease_ms=LEASE_MS)
    other = first if where == "same host" else second
    holder, patient = first.client(), second.client()
    last = 0
    for round_ in range(30):
        token = holder.acquire("orders")
        assert token > last
        leaver = Client(other.socket_path)
        leaver.queue("orders")
        request = patient.queue("orders")
        # Now this way round, now that way round.
        steps = [lambda: holder.request("release", name="orders", token=token), leaver.close]
        for step in steps if round_ % 2 else reversed(steps):
            step()
        last = patient.reply_to(request)["token"]
        patient.release("orders", last)


@pytest.mark.parametrize("linger_ms", [0, 5000])
def test_release_is_seen_by_whoever_was_told(lab, linger_ms):
    """A try on another host that starts after the release was answered gets the lock: no lingering lease shows."""
    redis = lab.redis()
    args = ["--linger-ms", str(linger_ms)]
    clients = [lab.daemon(redis, lease_ms=LEASE_MS, args=args).client() for _ in range(2)]
    last = 0
    for round_ in range(100):
        client = clients[round_ % 2]
        token = client.acquire("orders", wait_ms=0)
        assert token > last
        last = token
        client.release("orders", token)


def test_an_idle_lease_shows_as_idle_and_goes_to_whoever_wants_it(lab):
    """A lock that this host comes back to costs no Redis trip; another host has it at once, waiting or trying."""
    redis = lab.redis()
    first, second = (lab.daemon(redis, lease_ms=LEASE_MS, args=["--linger-ms", "60000"]) for _ in range(2))
    client, other = first.client(), second.client()

    def use():
        client.release("orders", client.acquire("orders"))
        return client.call("inspect", name="orders")["lease"]["state"] == "idle"

    last = 0
    for wanted in ({"wait_ms": 0}, {}):
        wait_until(use, "the lease to linger")
        seen = client.call("inspect", name="orders")
        assert seen["holders"] == [] and seen["mode"] is None
        monitor = redis.monitor()
        for _ in range(20):
            token = client.acquire("orders", wait_ms=0)
            assert token > last
            last = token
            client.release("orders", token)
        assert not [text for _, text in monitor.commands() if "orders" in text]
        monitor.close()
        token = other.acquire("orders", **wanted)
        assert token > last
        last = token
        other.release("orders", token)


def test_a_try_against_a_lock_in_use_elsewhere_is_busy(lab):
    redis = lab.redis()
    first, second = lab.daemon(redis, lease_ms=LEASE_MS), lab.daemon(redis, lease_ms=LEASE_MS)
    holder, other = first.client(), second.client()
    host = holder.call("initialize")["host"]
    token = holder.acquire("orders")
    for _ in range(5):
        error = other.error_of(other.request("acquire", name="orders", wait_ms=0))
        assert error.reason == "busy"
        assert error.data["holders"] == [{"host": host}]
    error = other.error_of(other.request("acquire", name="orders", wait_ms=50))
    assert error.reason == "timeout"
    assert [h["token"] for h in holder.call("inspect", name="orders")["holders"]] == [token]


def test_neighbours_do_not_starve_another_host(lab, measured):
    """Pitfall 37: two clients of one host hand the lock to each other as fast as they can; another host waits."""
    redis = lab.redis()
    first, second = lab.daemon(redis, lease_ms=LEASE_MS), lab.daemon(redis, lease_ms=LEASE_MS)
    busy = [first.client(check=False) for _ in range(2)]
    remote = second.client()
    pending = {client: client.request("acquire", name="orders") for client in busy}
    hand_overs, longest, tokens = 0, 0.0, []

    def turn():
        """Every local client that has the lock gives it back and asks again."""
        nonlocal hand_overs
        for client in busy:
            while (message := client.poll()) is not None:
                if message.get("id") == pending[client]:
                    tokens.append(message["result"]["token"])
                    hand_overs += 1
                    client.request("release", name="orders", token=tokens[-1])
                    pending[client] = client.request("acquire", name="orders")

    for _ in range(10):
        before = hand_overs
        wait_until(lambda: turn() or hand_overs > before + 10, "the neighbours' own hand-overs", pause=0)
        request = remote.request("acquire", name="orders")
        asked = time.monotonic()
        granted = []

        def remote_has_it():
            turn()
            while (message := remote.poll()) is not None:
                if message.get("id") == request:
                    granted.append(message["result"]["token"])
            return granted

        wait_until(remote_has_it, "the other host's turn", pause=0)
        longest = max(longest, time.monotonic() - asked)
        tokens.append(granted[0])
        remote.release("orders", granted[0])
    assert tokens == sorted(set(tokens))
    measured(f"longest wait of another host beside {hand_overs} local hand-overs", f"{longest * 1000:.1f} ms")


def test_release_between_busy_and_the_wait_is_not_missed(lab):
    """Pitfall 1: holder and waiter of two hosts hand the lock to each other; no wake-up is ever missed."""
    redis = lab.redis()
    clients = [lab.daemon(redis, lease_ms=LEASE_MS).client() for _ in range(2)]
    holder = clients[0].acquire("orders")
    for round_ in range(200):
        giver, taker = clients[round_ % 2], clients[1 - round_ % 2]
        # Sent at the same time on two sockets: they meet in Redis in either order.
        request = taker.request("acquire", name="orders")
        giver.release("orders", holder)
        token = taker.reply_to(request)["token"]
        assert token > holder
        holder = token
