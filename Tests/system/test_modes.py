"""Everything beyond one exclusive lock, with real processes: on one local host, on one with Redis, and over two hosts.

It covers the pitfalls 20 (several keys), 22 (permits leak or grow), 23 (several locks in opposite orders) and 24 (readers
starve a writer, or their leases leak).
"""

import random
import subprocess
import sys
import threading
import time

import pytest
from harness.client import Client, RpcError
from harness.service_manager import ServiceManager
from harness.waiting import GENEROUS_MS, GENEROUS_SECONDS, wait_until

HOLDER = __file__.replace("test_modes.py", "mode_holder.py")


class Hosts:
    """One host or two, to whose clients the same must happen."""

    def __init__(self, lab, kind):
        self.lab, self.kind = lab, kind
        self.redis = None if kind == "local" else lab.redis()
        # Without a budget for neighbours, whoever waits on another host is ahead of all who come later.
        options = {} if self.redis is None else {"lease_ms": 4000, "args": ["--cohort-ms", "0"]}
        self.daemons = [lab.daemon(self.redis, **options) for _ in range(2 if kind == "two hosts" else 1)]
        self.count = 0

    def client(self, host=None):
        """A client, of the hosts by turns."""
        self.count += 1
        return self.daemons[(self.count if host is None else host) % len(self.daemons)].client()

    def process(self, *arguments):
        """A process of its own that holds something, and what it holds."""
        self.count += 1
        daemon = self.daemons[self.count % len(self.daemons)]
        process = self.lab.track(subprocess.Popen(
            [sys.executable, HOLDER, str(daemon.socket_path), *map(str, arguments)], stdout=subprocess.PIPE, text=True))
        return process

    def all_know_of_a_waiter(self, name):
        """Whether a client that comes to any host now comes behind whoever waits."""
        return all(daemon.client().call("inspect", name=name)["waiters"] for daemon in self.daemons)

    def is_free(self, name):
        locks = [daemon.client().call("inspect", name=name) for daemon in self.daemons]
        return all(lock["mode"] is None and not lock["holders"] and lock["waiting"] == 0 for lock in locks)


@pytest.fixture(params=["local", "redis", "two hosts"])
def hosts(lab, request):
    return Hosts(lab, request.param)


@pytest.fixture
def two(lab):
    return Hosts(lab, "two hosts")


def still_waits(client):
    """Whether nothing has come but news of its place in the queue."""
    client.ping()
    while message := client.poll():
        if message.get("method") != "waiting":
            client.pending.insert(0, message)
            return False
    return True


def busy(client, **params):
    error = client.error_of(client.request("acquire", wait_ms=0, **params))
    assert error.reason == "busy"
    return error


# Readers and writers


def test_a_reader_that_stays_keeps_no_others_out(hosts):
    """However many come and go beside it: their host's lease never ends, and its block of tokens would."""
    long, short = hosts.client(0), hosts.client(0)
    tokens = [long.acquire("data", mode="shared")]
    for _ in range(5000):
        tokens.append(short.acquire("data", mode="shared", wait_ms=0))
        short.release("data")
    assert tokens == sorted(set(tokens))
    assert hosts.client().try_acquire("data") is None
    long.release("data", tokens[0])
    assert hosts.client().acquire("data", wait_ms=GENEROUS_MS) > tokens[-1]


def test_readers_read_together_and_a_writer_alone(hosts):
    readers = [hosts.client(0) for _ in range(6)]
    tokens = [reader.acquire("data", mode="shared") for reader in readers]
    assert len(set(tokens)) == len(tokens)
    writer = hosts.client(1)
    busy(writer, name="data")
    request = writer.queue("data")
    wait_until(lambda: hosts.all_know_of_a_waiter("data"), "all hosts to know of the writer")
    # It waits, so no reader that comes now passes it, on whatever host.
    late = [hosts.client() for _ in range(4)]
    requests = [reader.request("acquire", name="data", mode="shared") for reader in late]
    for reader, token in zip(readers, tokens):
        reader.release("data", token)
    written = writer.reply_to(request)["token"]
    assert written > max(tokens)
    for reader in late:
        assert still_waits(reader)
    writer.release("data", written)
    for reader, request in zip(late, requests):
        assert reader.reply_to(request)["token"] > written
    for reader in late:
        reader.release("data")
    wait_until(lambda: hosts.is_free("data"), "the lock to be free")


def test_readers_of_both_hosts_read_together_and_the_writer_of_one_comes_in(two):
    readers = [two.client() for _ in range(6)]
    tokens = [reader.acquire("data", mode="shared") for reader in readers]
    writer = two.client(0)
    request = writer.queue("data")
    for reader, token in zip(readers, tokens):
        assert still_waits(writer)
        reader.release("data", token)
    assert writer.reply_to(request)["token"] > max(tokens)


def test_a_writer_behind_readers_of_its_own_host_is_not_passed_on_the_other(two):
    readers = [two.client(0), two.client(1)]
    tokens = [reader.acquire("data", mode="shared") for reader in readers]
    writer = two.client(0)
    request = writer.queue("data")
    wait_until(lambda: two.all_know_of_a_waiter("data"), "all hosts to know of the writer")
    late = [two.client(1), two.client(0)]
    requests = [reader.request("acquire", name="data", mode="shared") for reader in late]
    for reader, token in zip(readers, tokens):
        assert all(still_waits(client) for client in late)
        reader.release("data", token)
    written = writer.reply_to(request)["token"]
    assert written > max(tokens)
    assert all(still_waits(reader) for reader in late)
    writer.release("data", written)
    for reader, request in zip(late, requests):
        assert reader.reply_to(request)["token"] > written


@pytest.mark.parametrize("order", ["001", "010", "0012", "0102", "010212"])
def test_writers_of_all_hosts_are_served_in_the_order_in_which_they_came(lab, order):
    """Also those who wait on the host that has the lock, behind its holder."""
    redis = lab.redis()
    daemons = [lab.daemon(redis, args=["--cohort-ms", "0"]) for _ in range(3)]
    clients = [daemons[int(host)].client() for host in order]
    witnesses = [daemon.client() for daemon in daemons]

    def all_hosts_know():
        """An answer of Redis comes behind whatever it has told a host before: who waits elsewhere is known there by now. The
        first round lets each host's own place reach Redis."""
        for witness in witnesses * 2:
            witness.call("inspect", name="data")

    clients[0].acquire("data")
    requests = []
    for client in clients[1:]:
        requests.append(client.queue("data"))
        # Who comes next comes later for everybody only when all know of this one.
        all_hosts_know()
    for client, following, request in zip(clients, clients[1:], requests):
        all_hosts_know()
        client.release("data")
        following.reply_to(request)
        assert all(still_waits(later) for later in clients[clients.index(following) + 1:])


def test_readers_in_a_loop_do_not_starve_a_writer(hosts):
    """Pitfall 24."""
    stop = threading.Event()
    faults = []

    def read(client):
        try:
            while not stop.is_set():
                client.acquire("data", mode="shared", wait_ms=60_000)
                time.sleep(random.uniform(0, 0.02))
                client.release("data")
        except Exception as fault:  # noqa: BLE001 - it is told in the main thread
            faults.append(fault)

    threads = [threading.Thread(target=read, args=[hosts.client()]) for _ in range(6)]
    for thread in threads:
        thread.start()
    writer = hosts.client()
    try:
        for _ in range(15):
            token = writer.acquire("data", wait_ms=GENEROUS_MS)
            writer.release("data", token)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not faults
    wait_until(lambda: hosts.is_free("data"), "the readers' leases to be gone")


def test_a_killed_reader_leaves_nothing_behind(hosts):
    """Pitfall 24: a reader's lease does not leak."""
    keeper = hosts.client()
    kept = keeper.acquire("data", mode="shared")
    killed = [hosts.process("acquire", "data", "mode=shared") for _ in range(4)]
    for process in killed:
        assert process.stdout.readline().startswith("held")
    writer = hosts.client()
    request = writer.queue("data")
    for process in killed:
        process.kill()
    assert still_waits(writer)
    keeper.release("data", kept)
    assert writer.reply_to(request)["token"] > kept


def test_a_writer_turns_reader_without_a_gap(hosts):
    writer, reader, other = hosts.client(), hosts.client(), hosts.client()
    token = writer.acquire("data")
    request = reader.queue("data", mode="shared")
    assert writer.call("downgrade", name="data") == {"name": "data", "token": token, "mode": "shared"}
    assert reader.reply_to(request)["mode"] == "shared"
    busy(other, name="data")
    # Both must go before a writer enters.
    request = other.queue("data")
    writer.release("data", token)
    assert still_waits(other)
    reader.release("data")
    assert other.reply_to(request)["token"] > token


# Semaphores


def test_never_more_holders_than_permits_and_first_come_first_served(hosts):
    holders = [hosts.client() for _ in range(3)]
    for holder in holders:
        assert holder.call("acquire", name="pool", permits=3)["permits"] == 3
    waiters = [hosts.client(0) for _ in range(3)]
    requests = [waiter.queue("pool", permits=3) for waiter in waiters]
    busy(hosts.client(), name="pool", permits=3)
    for index, holder in enumerate(holders):
        holder.close()
        waiters[index].reply_to(requests[index])
        for later in waiters[index + 1:]:
            assert still_waits(later)


@pytest.mark.parametrize("ask, held", [({"permits": 2}, {"permits": 3}), ({}, {"permits": 3}),
                                       ({"mode": "shared"}, {"permits": 3})])
def test_a_name_is_one_thing_at_a_time(hosts, ask, held):
    first, second = hosts.client(), hosts.client()
    first.acquire("pool", permits=3)
    for wait in ({"wait_ms": 0}, {}):
        error = second.error_of(second.request("acquire", name="pool", **ask, **wait))
        assert (error.reason, error.data["held"]) == ("mode_conflict", held)
        # Which other host it is Redis does not say here.
        assert [one["session"] for one in error.data["holders"]] in ([], [first.call("initialize")["session"]])
    first.release("pool")
    second.acquire("pool", wait_ms=GENEROUS_MS, **ask)


def test_permits_are_conserved_through_crashes_and_cancels(hosts):
    """Pitfall 22."""
    permits, rng = 3, random.Random(4)
    for _ in range(8):
        processes = [hosts.process("cycle", "pool", f"permits={permits}") for _ in range(4)]
        witness = hosts.client()
        for _ in range(10):
            request = witness.request("acquire", name="pool", permits=permits, wait_ms=rng.choice([0, 1, 5, 20]))
            if rng.random() < 0.5:
                witness.send({"method": "cancel", "params": {"id": request}})
            try:
                witness.release("pool", witness.reply_to(request)["token"])
            except RpcError as error:
                assert error.reason in ("busy", "timeout", "cancelled")
        for process in processes:
            assert process.stdout.readline().startswith("held")
            process.kill()
            process.wait()
    # All of them can be had, and not one more.
    takers = [hosts.client() for _ in range(permits)]
    for taker in takers:
        taker.acquire("pool", permits=permits, wait_ms=GENEROUS_MS)
    busy(hosts.client(), name="pool", permits=permits)


# Several at once


def test_opposite_orders_never_meet_in_the_middle(hosts):
    """Pitfall 23: many rounds, each client naming the locks in an order of its own."""
    names = [f"part/{letter}" for letter in "abcd"]
    inside, faults = set(), []

    def work(client, rng):
        try:
            for _ in range(12):
                wanted = rng.sample(names, rng.randint(2, 4))
                locks = client.call("acquire", names=wanted, wait_ms=GENEROUS_MS)["locks"]
                assert [lock["name"] for lock in locks] == wanted
                assert not inside & set(wanted)
                inside.update(wanted)
                time.sleep(rng.uniform(0, 0.003))
                inside.difference_update(wanted)
                for lock in rng.sample(locks, len(locks)):
                    client.release(lock["name"], lock["token"])
        except Exception as fault:  # noqa: BLE001 - it is told in the main thread
            faults.append(fault)

    threads = [threading.Thread(target=work, args=[hosts.client(), random.Random(seed)]) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    # A release is answered before the other host can know of it.
    wait_until(lambda: all(hosts.is_free(name) for name in names), "all of them to be free")


def test_all_or_none(hosts):
    first, second = hosts.client(), hosts.client()
    first.acquire("part/b")
    busy(second, names=["part/a", "part/b", "part/c"])
    error = second.error_of(second.request("acquire", names=["part/c", "part/b", "part/a"], wait_ms=100))
    assert error.reason == "timeout"
    for name in ("part/a", "part/c"):
        first.acquire(name, wait_ms=GENEROUS_MS)
    request = second.request("acquire", names=["part/c", "part/b", "part/a"])
    for name in ("part/a", "part/b", "part/c"):
        second.ping()
        first.release(name)
    assert len(second.reply_to(request)["locks"]) == 3


def test_several_locks_at_once_use_one_slot_a_command(two):
    """Pitfall 20: no command names keys of two locks, so that a cluster can have them in any slots."""
    monitor = two.redis.monitor()
    names = [f"slot/{n}" for n in range(64)]
    assert len(two.client().call("acquire", names=names)["locks"]) == 64
    other = two.client()
    busy(other, names=names[::-1])
    seen = 0
    for command in monitor.commands():
        text = str(command)
        mentioned = {name for name in names if "{" + name + "}" in text}
        seen += len(mentioned)
        # A renewal may name many locks, each with its own key alone.
        assert len(mentioned) <= 1 or ":queue" not in text
    monitor.close()
    assert seen >= 64


# Owners and deadlocks


def test_an_owner_gets_again_what_it_holds(hosts):
    first, second = hosts.client(), hosts.client()
    tokens = {first.acquire("mine", owner="t1") for _ in range(3)}
    assert len(tokens) == 1
    busy(first, name="mine", owner="t2")
    busy(second, name="mine", owner="t1")
    assert [first.release("mine")["remaining"] for _ in range(3)] == [2, 1, 0]
    second.acquire("mine", owner="t1", wait_ms=GENEROUS_MS)


# Both are an é, and equal wherever texts are compared as people read them.
ALIKE = ["\u00e9", "e\u0301"]


def test_owners_that_only_look_alike_are_two(hosts):
    one, other = ALIKE
    client, bystander = hosts.client(0), hosts.client(1)
    token = client.acquire("mine", owner=one)
    busy(client, name="mine", owner=other)
    assert client.acquire("mine", owner=one) == token
    # The circle would be one if they were one.
    bystander.acquire("right", owner="t")
    on_right = client.queue("right", owner=other)
    on_mine = bystander.request("acquire", name="mine", owner="t", wait_ms=1500)
    assert bystander.error_of(on_mine).reason == "timeout"
    bystander.release("right")
    client.reply_to(on_right)
    waiting = client.queue("mine", owner=other)
    assert [client.release("mine", token)["remaining"] for _ in range(2)] == [1, 0]
    assert client.reply_to(waiting)["token"] > token
    busy(client, name="mine", owner=one)


@pytest.mark.parametrize("how", ["restart", "crash"])
def test_owners_that_only_look_alike_stay_two_over_a_restart(lab, how):
    one, other = ALIKE
    service = ServiceManager(lab, "--local")
    service.start()
    client = service.client()
    token = client.acquire("mine", owner=one)
    waiting = client.queue("mine", owner=other)
    client.ping()
    if how == "crash":
        service.crash()
        service.start()
    else:
        service.restart()
    busy(client, name="mine", owner=other)
    assert client.acquire("mine", owner=one) == token
    assert [client.release("mine", token)["remaining"] for _ in range(2)] == [1, 0]
    assert client.reply_to(waiting)["token"] > token
    assert service.stop() == 0


def test_owners_that_wait_for_each_other_are_told_and_go_on(hosts):
    first, second = hosts.client(0), hosts.client(1)
    first.acquire("left", owner="a")
    second.acquire("right", owner="b")
    began = time.monotonic()
    waiting = first.queue("right", owner="a")
    victim = second.request("acquire", name="left", owner="b")
    error = second.error_of(victim)
    took = time.monotonic() - began
    assert error.reason == "deadlock"
    cycle = error.data["cycle"]
    assert [(step["owner"], step["waits_for"], step["held"]) for step in cycle] == [
        ("b", "left", ["right"]), ("a", "right", ["left"])]
    assert all(step["pid"] > 0 and step["command"] for step in cycle)
    assert took < GENEROUS_SECONDS / 3
    second.release("right")
    first.reply_to(waiting)


def test_waits_that_end_by_themselves_are_no_deadlock(hosts):
    first, second = hosts.client(0), hosts.client(1)
    first.acquire("left", owner="a")
    second.acquire("right", owner="b")
    first.queue("right", owner="a")
    # It holds nothing that the other waits for.
    bystander = hosts.client()
    error = bystander.error_of(bystander.request("acquire", name="left", owner="c", wait_ms=1500))
    assert error.reason == "timeout"


# Handing over, breaking, watching


def test_a_hold_is_handed_to_another_session(hosts):
    giver, taker, waiter = hosts.client(0), hosts.client(0), hosts.client(1)
    token = giver.acquire("baton", max_hold_ms=600_000)
    request = waiter.queue("baton")
    session = taker.call("initialize", accept_transfers=True)["session"]
    fresh = giver.call("transfer", name="baton", session=session)["token"]
    assert fresh > token
    told = taker.notification("transferred")
    assert (told["token"], told["mode"]) == (fresh, "exclusive")
    # The giver's end changes nothing any more.
    giver.close()
    assert still_waits(waiter)
    taker.release("baton", fresh)
    assert waiter.reply_to(request)["token"] > fresh


def test_a_broken_lock_goes_to_the_next_and_its_holder_is_told_why(hosts):
    holder, waiter, administrator = hosts.client(0), hosts.client(1), hosts.client(1)
    token = holder.acquire("stuck")
    request = waiter.queue("stuck")
    assert administrator.call("break", name="stuck", reason="by hand")["broken"] == [token]
    lost = holder.notification("lost")
    assert (lost["token"], lost["reason"], lost["detail"]) == (token, "broken", "by hand")
    assert waiter.reply_to(request)["token"] > token
    wait_until(lambda: any("lock broken" in d.log() and "by hand" in d.log() for d in hosts.daemons), "the log entry")
    assert administrator.call("break", name="nobody")["broken"] == []


def test_a_watch_sees_what_happens_on_its_host(hosts):
    watcher, holder = hosts.client(0), hosts.client(0)
    watch = watcher.call("watch", prefix="jobs/")["watch"]
    token = holder.acquire("jobs/1", mode="shared")
    holder.acquire("other")
    holder.close()
    events = []
    while not events or events[-1]["kind"] != "released":
        events.append(watcher.notification("event"))
    assert all(event["watch"] == watch and event["name"] == "jobs/1" for event in events)
    assert [event["token"] for event in events if event["kind"] in ("acquired", "released")] == [token, token]


def test_a_watch_hears_of_the_other_host(two):
    watcher, here, there = two.client(0), two.client(0), two.client(1)
    watcher.call("watch", name="orders")
    there.acquire("orders")
    here.queue("orders")
    events = [watcher.notification("event") for _ in range(2)]
    assert {event["kind"] for event in events} == {"waiting", "remote"}


def test_a_holder_hears_that_others_wait(hosts):
    holder, waiter = hosts.client(0), hosts.client(1)
    token = holder.acquire("busy", progress=True)
    request = waiter.request("acquire", name="busy")
    told = holder.notification("contended")
    assert (told["token"], told["waiters"]) == (token, 1)
    waiter.send({"method": "cancel", "params": {"id": request}})
    assert waiter.error_of(request).reason == "cancelled"


# Crashes in every mode


def test_killed_processes_leave_every_mode_free(hosts):
    """Pitfalls 22 and 24: what readers, holders of permits and of several locks had is free when they are killed."""
    kinds = [("acquire", "r", "mode=shared"), ("acquire", "p", "permits=2"), ("acquire", "m/1,m/2,m/3"),
             ("acquire", "o", "owner=t")]
    processes = [hosts.process(*kind) for kind in kinds]
    for process in processes:
        assert process.stdout.readline().startswith("held")
    for process in processes:
        process.kill()
        process.wait()
    for name in ("r", "p", "m/1", "m/2", "m/3", "o"):
        wait_until(lambda: hosts.is_free(name), f"{name} to be free")  # noqa: B023
        assert Client(hosts.daemons[0].socket_path).acquire(name, wait_ms=GENEROUS_MS)
