"""Waits that would never end, through several hosts."""

import itertools
import random
import threading
import time

from harness.client import RpcError


def test_a_cycle_through_three_hosts_is_found_within_a_second(lab, measured):
    redis = lab.redis()
    hosts = [lab.daemon(redis, args=["--host", name]) for name in ("one", "two", "three")]
    names = ["a", "b", "c"]
    worst = 0
    for _ in range(5):
        clients = [host.client() for host in hosts]
        for client, name in zip(clients, names):
            client.acquire(name, owner="thread")
        waits = [client.queue(name, owner="thread") for client, name in zip(clients[:2], ["b", "c"])]
        started = time.monotonic()
        last = clients[2].request("acquire", name="a", owner="thread")
        refusal = clients[2].error_of(last)
        worst = max(worst, time.monotonic() - started)
        assert refusal.reason == "deadlock"
        assert [step["host"] for step in refusal.data["cycle"]] == ["three", "one", "two"]
        assert [step["waits_for"] for step in refusal.data["cycle"]] == ["a", "b", "c"]
        assert [step["held"] for step in refusal.data["cycle"]] == [["c"], ["a"], ["b"]]
        assert all(step["pid"] and step["command"] and step["owner"] == "thread" for step in refusal.data["cycle"])
        # The others go on, one after the other.
        clients[2].release("c")
        clients[1].reply_to(waits[1])
        clients[1].release("b")
        clients[0].reply_to(waits[0])
        for client in clients:
            client.close()
    measured("a cycle through three hosts, the slowest of 5", f"{worst * 1000:.0f} ms")


def test_the_youngest_of_a_circle_is_refused_whichever_hosts_its_waits_are_on(lab):
    """As soon as somebody can know of a wait, every wait that begins is younger, by however little."""
    redis = lab.redis()
    hosts = [lab.daemon(redis, args=["--host", name]) for name in ("one", "two", "three")]
    orders = [(("x", "y"), order) for order in itertools.permutations(range(3), 2)]
    orders += [(("x", "y", "z"), order) for order in itertools.permutations(range(3))]
    # Both waits on one host, in a circle that leads over another one.
    orders += [(("x", "y", "z"), order) for order in [(0, 0, 1), (0, 1, 0), (1, 0, 0)]]
    for names, order in orders:
        clients = [hosts[number].client() for number in order]
        for client, name in zip(clients, names):
            client.acquire(name, owner="thread")
        wanted = names[1:] + names[:1]
        waits = [client.queue(name, owner="thread") for client, name in zip(clients[:-1], wanted)]
        refusal = clients[-1].error_of(clients[-1].request("acquire", name=wanted[-1], owner="thread"))
        assert refusal.reason == "deadlock"
        assert refusal.data["cycle"][0]["waits_for"] == wanted[-1], (names, order)
        clients[-1].close()
        for client, wait in reversed(list(zip(clients, waits))):
            client.reply_to(wait)
            client.close()


def test_a_knot_of_shared_locks_is_undone(lab, measured):
    """Everybody shares one lock and wants another one for himself: the circles in it are beyond number."""
    redis = lab.redis()
    hosts = [lab.daemon(redis, args=["--host", name]) for name in ("one", "two", "three", "four")]
    names = ["a", "b", "c"]
    agents = []
    for number in range(24):
        client = hosts[number % 4].client()
        client.acquire(names[number % 3], mode="shared", owner="thread")
        agents.append((client, names[number % 3]))
    ready = threading.Barrier(len(agents))
    ends, faults = [], []

    def play(number):
        client, has = agents[number]
        wants = random.Random(number).choice([name for name in names if name != has])
        try:
            ready.wait()
            try:
                client.acquire(wants, owner="thread")
                client.release(wants)
                ends.append("granted")
            except RpcError as refusal:
                ends.append(refusal.reason)
            client.release(has)
        except Exception as fault:  # noqa: BLE001
            faults.append(fault)

    def commands():
        return redis.admin.info("stats")["total_commands_processed"]

    before = commands()
    started = time.monotonic()
    players = [threading.Thread(target=play, args=(number,)) for number in range(len(agents))]
    for player in players:
        player.start()
    for player in players:
        player.join()
    measured("a knot of 24 waits that share three locks on four hosts is undone",
             f"in {time.monotonic() - started:.1f} s with {commands() - before} commands, "
             f"{ends.count('deadlock')} refused")
    assert not faults
    assert set(ends) == {"granted", "deadlock"}
    assert len(ends) == len(agents)


def test_churn_without_a_cycle_is_never_taken_for_one(lab, measured):
    """Everybody takes two locks in the same order, holds them for a while and gives up at random, on two hosts."""
    redis = lab.redis()
    hosts = [lab.daemon(redis, args=["--host", name]) for name in ("one", "two")]
    rounds, faults = [], []

    def play(number):
        random.seed(number)
        client = hosts[number % 2].client()
        done = 0
        try:
            while done < 60:
                first, second = sorted(random.sample(["a", "b", "c", "d"], 2))
                held = []
                for name in (first, second):
                    try:
                        client.acquire(name, owner="thread", wait_ms=random.choice([250, 400, 1000]))
                        held.append(name)
                    except RpcError as refusal:
                        if refusal.reason != "timeout":
                            faults.append(refusal)
                            return
                        break
                time.sleep(random.choice([0, 0.01, 0.05]))
                for name in random.sample(held, len(held)):
                    client.release(name)
                done += 1
            rounds.append(done)
        except Exception as fault:  # noqa: BLE001
            faults.append(fault)

    players = [threading.Thread(target=play, args=(number,)) for number in range(10)]
    for player in players:
        player.start()
    for player in players:
        player.join()
    assert not faults
    assert sum(rounds) == 600
    looks = sum(host.client().call("stats")["deadlocks_total"] for host in hosts)
    assert looks == 0
