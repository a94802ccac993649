"""Two hosts, four clients each, one lock, many rounds, with faults at random: never two holders, and nobody stuck."""

import os
import random
import subprocess
import sys
import time

import pytest
from harness.notes import Notes
from harness.waiting import GENEROUS_MS, wait_until

FLUSHES = int(os.environ.get("SIDELOCK_TEST_FLUSHES", 15))
WORKER = __file__.replace("test_chaos.py", "chaos_worker.py")


class Judge:
    """Reads the notes line by line, in the order in which it happened, and fails when two held the lock at once."""

    def __init__(self, daemons=2):
        self.daemons = daemons
        self.inside = None  # (number of the worker, pid, token)
        self.dead = set()  # pids that were killed
        self.last_token = 0
        self.lost = []  # the reasons of all losses
        self.last_grant = {}  # pid -> how many rounds there were
        self.rounds = 0

    def hear(self, line):
        word, *rest = line.split()
        if word == "killed-worker":
            self.dead.add(int(rest[0]))
            if self.inside and self.inside[1] == int(rest[0]):
                self.inside = None
        elif word == "killed-daemon":
            # Its clients' connections end now; the lease in Redis outlives them.
            if self.inside and self.inside[0] % self.daemons == int(rest[0]):
                self.inside = None
        elif word == "error":
            raise AssertionError(f"a worker was refused: {line}")
        elif int(rest[1]) in self.dead:
            return
        elif word == "lost":
            self.lost.append(rest[3])
        elif word == "enter":
            number, pid, token = map(int, rest)
            assert self.inside is None, f"{rest} has the lock, and so has {self.inside}"
            assert token > self.last_token, f"token {token} comes after {self.last_token}"
            self.inside = (number, pid, token)
            self.last_token = token
            self.rounds += 1
            self.last_grant[pid] = self.rounds
        elif self.inside and self.inside[1] == int(rest[1]):
            assert word == "leave"
            self.inside = None


def test_the_judge_sees_two_holders_and_old_tokens():
    for notes in (["enter 0 10 5", "enter 1 11 6"], ["enter 0 10 5", "leave 0 10 5", "enter 1 11 5"],
                    ["enter 0 10 5", "killed-worker 99", "enter 1 11 6"], ["error 0 10 unavailable"],
                    ["enter 0 10 5", "killed-daemon 1", "enter 1 11 6"]):
        judge = Judge()
        with pytest.raises(AssertionError):
            for line in notes:
                judge.hear(line)
    judge = Judge()
    for line in ["enter 0 10 5", "killed-worker 10", "leave 0 10 5", "enter 1 11 6", "killed-daemon 1", "enter 2 12 7",
                 "lost 2 12 7 data_loss", "leave 2 12 7", "enter 3 13 9"]:
        judge.hear(line)
    assert judge.rounds == 4 and judge.lost == ["data_loss"]


class Chaos:
    def __init__(self, lab, stores, lease_ms, seed):
        self.random = random.Random(seed)
        self.lab = lab
        self.judge = Judge(len(stores))
        self.notes = Notes()
        self.daemons = [lab.daemon(store, lease_ms=lease_ms) for store in stores]
        self.workers = {}
        for number in range(8):
            self.start_worker(number)

    def start_worker(self, number):
        self.workers[number] = self.lab.track(subprocess.Popen(
            [sys.executable, WORKER, str(self.daemons[number % len(self.daemons)].socket_path), "orders", str(number),
             str(self.notes.writer)], stdin=subprocess.PIPE, pass_fds=[self.notes.writer]))

    def read_notes(self):
        """Has the judge hear what has been noted since the last call."""
        for line in self.notes.take():
            self.judge.hear(line)

    def wait_rounds(self, rounds):
        def reached():
            self.read_notes()
            return self.judge.rounds >= rounds
        wait_until(reached, f"round {rounds}", pause=0.002)

    def kill_holder(self):
        """The holder, if there is one at this moment; else anybody."""
        number = self.judge.inside[0] if self.judge.inside else self.random.randrange(8)
        process = self.workers[number]
        # Noted before it happens: from here on it does not count as a holder.
        self.notes.write(f"killed-worker {process.pid}")
        process.kill()
        process.wait()
        self.start_worker(number)

    def kill_daemon(self):
        index = self.random.randrange(len(self.daemons))
        self.notes.write(f"killed-daemon {index}")
        self.daemons[index].kill()
        self.daemons[index].start(wait=False)

    def everybody_has_a_turn(self):
        """Nobody is stuck once the faults are off. Then the workers end, and nothing is left behind."""
        for daemon in self.daemons:
            daemon.wait_ready()
        self.read_notes()
        mark = self.judge.rounds

        def all_had_one():
            self.read_notes()
            return all(self.judge.last_grant.get(process.pid, 0) > mark for process in self.workers.values())

        wait_until(all_had_one, "a turn for everybody")
        for process in self.workers.values():
            assert process.poll() is None
            process.kill()
            process.wait()
        for daemon in self.daemons:
            client = daemon.client()
            wait_until(lambda: not client.call("inspect", name="orders")["holders"], "the last holder's end")
        assert self.daemons[0].client().acquire("orders", wait_ms=GENEROUS_MS) > self.judge.last_token


def seeds():
    """A seed of its own for each run; it is in the test's name. SIDELOCK_TEST_SEED repeats one."""
    return [int(os.environ.get("SIDELOCK_TEST_SEED", time.time_ns() % 10**6))]


@pytest.mark.parametrize("seed", seeds())
def test_a_thousand_rounds_with_holders_and_daemons_killed(lab, measured, seed):
    """Pitfalls 6, 16, 21, 26 and 39 at once."""
    redis = lab.redis()
    # Long enough for a worker of a busy machine to read `lost` before the lease ends.
    chaos = Chaos(lab, [redis, redis], 2000, seed)
    started = time.monotonic()
    kills = daemon_kills = 0
    while chaos.judge.rounds < 1000:
        chaos.wait_rounds(chaos.judge.rounds + chaos.random.randrange(5, 40))
        if chaos.random.random() < 0.15 and daemon_kills < 8:
            chaos.kill_daemon()
            daemon_kills += 1
        else:
            chaos.kill_holder()
            kills += 1
    measured(f"{chaos.judge.rounds} rounds, {kills} clients and {daemon_kills} daemons killed",
             f"{time.monotonic() - started:.1f} s")
    chaos.everybody_has_a_turn()


@pytest.mark.parametrize("seed", seeds())
def test_rounds_with_the_links_cut_and_held_up(lab, measured, seed):
    """Pitfalls 2, 4, 5, 12 and 28 at once: each host has a link of its own, which breaks or falls silent."""
    redis = lab.redis()
    proxies = [lab.proxy(redis) for _ in range(2)]
    # Long enough for a slow machine to have a worker read `lost` before the lease ends.
    chaos = Chaos(lab, proxies, 4000, seed)
    started = time.monotonic()
    cuts = silences = 0
    while chaos.judge.rounds < 1000:
        chaos.wait_rounds(chaos.judge.rounds + chaos.random.randrange(5, 25))
        proxy = chaos.random.choice(proxies)
        if chaos.random.random() < 0.2 and silences < 8:
            switch = chaos.random.choice(["hold_replies", "hold_requests"])
            proxy.set(**{switch: True})
            # Its locks are lost, and the other host goes on.
            chaos.wait_rounds(chaos.judge.rounds + chaos.random.randrange(1, 10))
            proxy.set(**{switch: False})
            silences += 1
        elif chaos.random.random() < 0.3:
            chaos.kill_holder()
        else:
            proxy.cut()
            cuts += 1
    measured(f"{chaos.judge.rounds} rounds, links cut {cuts} times and silent {silences} times",
             f"{time.monotonic() - started:.1f} s")
    chaos.everybody_has_a_turn()


@pytest.mark.parametrize("seed", seeds())
def test_rounds_with_redis_forgetting_everything(lab, measured, seed):
    """It is flushed, swapped, restarted empty or with older data; holders and daemons are killed beside it."""
    redis = lab.redis()
    chaos = Chaos(lab, [redis, redis], 2000, seed)
    chaos.wait_rounds(10)
    started = time.monotonic()
    older, forgotten = redis.snapshot(), {}

    def start_with_older_data():
        nonlocal older
        newer = redis.snapshot()
        redis.restart(older)
        older = newer

    ways = {
        "flushed": redis.admin.flushall, "swapped": lambda: redis.admin.swapdb(0, 1), "restarted empty": redis.restart,
        "restarted with older data": start_with_older_data, "epoch deleted": lambda: redis.admin.delete("sidelock:epoch")}
    while len(forgotten) < len(ways) or sum(forgotten.values()) < 10:
        chaos.wait_rounds(chaos.judge.rounds + chaos.random.randrange(5, 40))
        if chaos.random.random() < 0.3:
            # Redis may be empty only as long as somebody remembers.
            chaos.kill_daemon()
            for daemon in chaos.daemons:
                daemon.wait_ready()
            chaos.wait_rounds(chaos.judge.rounds + 5)
        way = chaos.random.choice([way for way in ways if forgotten.get(way, 0) < 3])
        ways[way]()
        forgotten[way] = forgotten.get(way, 0) + 1
        if chaos.random.random() < 0.5:
            chaos.kill_holder()
    measured(f"{chaos.judge.rounds} rounds, Redis {forgotten}, lost: {chaos.judge.lost}",
             f"{time.monotonic() - started:.1f} s")
    # A restart of Redis on a busy machine may take longer than what is left of a lease.
    assert "data_loss" not in chaos.judge.lost
    chaos.everybody_has_a_turn()


@pytest.mark.timeout(300 + 5 * FLUSHES)
@pytest.mark.parametrize("seed", seeds())
def test_redis_is_flushed_again_and_again(lab, measured, seed):
    """Three daemons. SIDELOCK_TEST_FLUSHES says how often; half of the time it is flushed before the grace is over."""
    redis = lab.redis()
    chaos = Chaos(lab, [redis] * 3, 1000, seed)
    chaos.wait_rounds(10)
    started, flushes, graces = time.monotonic(), FLUSHES, []
    for _ in range(flushes):
        redis.admin.flushall()
        flushed = time.monotonic()
        wait_until(lambda: redis.admin.exists("sidelock:epoch"), "somebody who notices")
        if chaos.random.random() < 0.1:
            chaos.kill_holder()
        if chaos.random.random() < 0.5:
            chaos.read_notes()
            chaos.wait_rounds(chaos.judge.rounds + 1)
            graces.append(time.monotonic() - flushed)
            chaos.wait_rounds(chaos.judge.rounds + chaos.random.randrange(10))
    measured(f"{chaos.judge.rounds} rounds, flushed {flushes} times, lost: {chaos.judge.lost}, longest until somebody had it: "
             f"{max(graces, default=0):.2f} s", f"{time.monotonic() - started:.1f} s")
    assert "data_loss" not in chaos.judge.lost
    chaos.everybody_has_a_turn()
