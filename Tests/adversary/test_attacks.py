"""What a user of this host can do to another one: nothing.

Each attack stays within the limits that the daemon has unless it is told otherwise, as far as they allow, and ends with what
costs most: that everything goes at once. Beside it an innocent client of another user holds a lock, pings, and tries other
locks. What is asserted of time is how long a turn of the daemon's loop took the processor for, as the daemon says: how long
the innocent had to wait on a busy machine is shown, and proves nothing.
"""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import threading

import pytest
from harness.client import Client
from harness.daemon import binary
from harness.waiting import GENEROUS_SECONDS, wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="other users can only be tried as root")

ATTACKER, INNOCENT = 61_001, 61_002
# A debug build is many times as slow.
IS_DEBUG = "/debug/" in binary("sidelockd", "SIDELOCKD")
# Most take less than 20 ms on a machine of today; what this is about took from 60 ms to 20 s.
TURN_MILLISECONDS_MAX = 600 if IS_DEBUG else 100
SCALE = 4 if IS_DEBUG else 1


@contextlib.contextmanager
def user(uid):
    """What connects in here is of that user."""
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


class Attacker:
    """Connections of one user."""

    def __init__(self, daemon):
        self.daemon = daemon
        self.clients = []

    def client(self):
        with user(ATTACKER):
            client = Client(self.daemon.socket_path, check=False)
        self.clients.append(client)
        return client

    def leave(self):
        """All connections end at once."""
        for client in self.clients:
            with contextlib.suppress(OSError):
                client.socket.shutdown(socket.SHUT_RDWR)
            client.socket.close()
        self.clients = []


def pipeline(client, lines):
    """Sends all of these requests and reads an answer to each; gives the last error."""
    client.socket.settimeout(GENEROUS_SECONDS)
    error = None
    for start in range(0, len(lines), 100):
        part = lines[start:start + 100]
        client.socket.sendall(b"".join(part))
        left = len(part)
        while left:
            message = client.next()
            if "id" in message:
                left -= 1
                error = message.get("error", error)
    return error


def acquire(number, name, **params):
    return json.dumps({"id": number, "method": "acquire", "params": {"name": name, **params}}).encode() + b"\n"


# The attacks


def watches(attacker, _):
    """As many watches as there may be, and then they all go."""
    line = b'{"id":1,"method":"watch","params":{"prefix":"zzzz"}}\n'
    while True:
        error = pipeline(attacker.client(), [line] * 64)
        if error:
            assert error["data"]["limit"] == "watches_per_uid"
            break


def events(attacker, _):
    """Every watch there may be is told of every lock."""
    line = b'{"id":1,"method":"watch","params":{"prefix":""}}\n'
    while pipeline(attacker.client(), [line] * 64) is None:
        pass
    client = attacker.client()
    for number in range(100):
        pipeline(client, [acquire(number, "x"), b'{"id":"r","method":"release","params":{"name":"x"}}\n'])


def holds_of_one_name(attacker, _):
    client = attacker.client()
    pipeline(client, [acquire(number, "one", mode="shared") for number in range(43_000 // SCALE)])


def holds_of_different_names(attacker, _):
    client = attacker.client()
    error = pipeline(client, [acquire(number, f"many {number}") for number in range(65_600 // SCALE)])
    assert SCALE > 1 or error["data"]["limit"] == "holds_per_session"


def inspections(attacker, _):
    client = attacker.client()
    pipeline(client, [acquire(number, "one", mode="shared") for number in range(20_000 // SCALE)])
    pipeline(attacker.client(), [b'{"id":1,"method":"inspect","params":{"name":"one"}}\n'] * 200)


def lists(attacker, _):
    for _ in range(2):
        client = attacker.client()
        pipeline(client, [acquire(number, f"{len(attacker.clients)} {number}") for number in range(50_000 // SCALE)])
    client = attacker.client()
    for params in ('{"prefix":"zzzz"}', '{"limit":1000}', '{"prefix":"1","limit":1000,"cursor":"1 9"}'):
        pipeline(client, [b'{"id":1,"method":"list","params":%s}\n' % params.encode()] * 400)


def a_search_for_deadlocks(attacker, _):
    """3,000 owners share a lock and wait for one that 3,000 others share, who wait for a third; then one wants the first."""
    count = 3000 // SCALE

    def crowd(held, wanted):
        for start in range(0, count, 100):
            client = attacker.client()
            owners = [f"{held}{number}" for number in range(start, min(start + 100, count))]
            pipeline(client, [acquire(owner, held, mode="shared", owner=owner) for owner in owners])
            client.socket.sendall(b"".join(acquire("w" + owner, wanted, owner=owner) for owner in owners))
        client = attacker.client()
        wait_until(lambda: client.call("inspect", name=wanted)["waiting"] == count, "all of them to wait")

    attacker.client().call("acquire", name="third")
    crowd("second", "third")
    crowd("first", "second")
    for _ in range(3):
        attacker.client().request("acquire", name="first", owner="x")
    client = attacker.client()
    wait_until(lambda: client.call("inspect", name="first")["waiting"] == 3, "those who want the first lock to wait")


def transfers_to_a_stranger(attacker, innocent):
    client = attacker.client()
    pipeline(client, [acquire(1, "gift")])
    line = json.dumps({"id": 1, "method": "transfer", "params": {"name": "gift", "session": innocent.session}})
    error = pipeline(client, [line.encode() + b"\n"] * 7000)
    assert error["data"]["field"] == "session"


def sessions_that_end_while_they_wait(attacker, _):
    """Nothing of them stays."""
    holder = attacker.client()
    holder.call("acquire", name="b")
    names = json.dumps({"id": 1, "method": "acquire", "params": {"names": ["a", "b", "c"], "meta": "m" * 1000}})

    def churn(count):
        for _ in range(count):
            with user(ATTACKER):
                sock = socket.socket(socket.AF_UNIX)
                sock.connect(str(attacker.daemon.socket_path))
            sock.sendall(names.encode() + b"\n")
            sock.close()
        wait_until(lambda: holder.call("stats")["sessions"] == 2, "the end of all of them")

    churn(2000 // SCALE)
    before = attacker.daemon.resident_bytes()
    churn(10_000 // SCALE)
    assert attacker.daemon.resident_bytes() - before < 8 << 20


def long_texts(attacker, _):
    """Holds with the longest names, notes and owners, as many as there may be."""
    number, error, rest = 0, None, {"meta": "m" * 1024, "owner": "o" * 128}
    while error is None:
        client = attacker.client()
        for _ in range(30 if SCALE == 1 else 5):
            error = pipeline(client, [acquire(i, f"{i:0512}", **rest) for i in range(number, number + 100)])
            number += 100
            if error:
                assert error["data"]["limit"] in ("lock_bytes_per_uid", "holds_per_session")
                break
        if SCALE > 1 and number > 10_000:
            break


def short_holds(attacker, _):
    """Holds that end at once, each of which is told in the journal and to the client."""
    client = attacker.client()
    before = len(attacker.daemon.log().splitlines())
    pipeline(client, [acquire(number, f"short {number}", max_hold_ms=1) for number in range(20_000 // SCALE)])
    wait_until(lambda: client.call("stats")["held"] == 1, "all of them to end")
    # 1,000 losses are logged at once, then 100 a second.
    assert len(attacker.daemon.log().splitlines()) - before < 3000


def what_nobody_reads(attacker, _):
    for _ in range(20):
        client = attacker.client()
        client.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            while True:
                client.socket.send(b'{"id":1,"method":"rpc.discover"}\n' * 100)
    probe = attacker.client()
    wait_until(lambda: probe.call("ping") is not None, "an answer")


def nonsense(attacker, _):
    """Long lines, deep nests, escapes, and many short lines of nothing."""
    client = attacker.client()
    deep = b'{"id":1,"method":"list","params":' + b'{"a":' * 15 + b"1" + b"}" * 15 + b"}\n"
    wide = b'{"id":1,"method":"acquire","params":{"name":"' + b"\\u00e9" * 10_000 + b'"}}\n'
    keys = b'{"id":1,"method":"acquire","params":{' + b",".join(b'"k%d":1' % n for n in range(5000)) + b"}}\n"
    for line in (deep, wide, keys, b"x\n", b"[]\n"):
        pipeline(client, [line] * 300)
    client.socket.sendall(b"\n" * (1 << 20))
    client.call("ping")


def connections_that_come_and_go(attacker, _):
    for _ in range(5):
        for _ in range(1000 // SCALE):
            attacker.client()
        attacker.clients[-1].call("ping")
        attacker.leave()


def half_closed_sessions_with_many_holds(attacker, _):
    """Each of their holds is lost by itself, and told to all who watch."""
    while pipeline(attacker.client(), [b'{"id":1,"method":"watch","params":{"prefix":""}}\n'] * 64) is None:
        pass
    for session in range(4):
        client = attacker.client()
        pipeline(client, [acquire(number, f"{session} {number}") for number in range(10_000 // SCALE)])
        client.half_close()
    probe = attacker.client()
    wait_until(lambda: probe.call("stats")["held"] == 1, "all of them to be lost")


def a_crowd_that_hears_of_its_place(attacker, _):
    attacker.client().call("acquire", name="wanted")
    clients = [attacker.client() for _ in range(100 // SCALE)]
    for start in range(0, len(clients), 10):
        for client in clients[start:start + 10]:
            client.socket.sendall(b"".join(acquire(number, "wanted", progress=True) for number in range(120)))
    probe = attacker.client()
    wait_until(lambda: probe.call("stats")["waiting"] == 120 * len(clients), "all of them to wait")


def permits_of_a_million(attacker, _):
    """As many as one may have, of several semaphores; all of them are renewed for a while."""
    clients = [attacker.client() for _ in range(8)]
    for number, client in enumerate(clients):
        client.socket.sendall(b"".join(
            acquire(index, f"many {number}", permits=1_000_000, wait_ms=3000) for index in range(120)))
    for client in clients:
        for _ in range(120):
            client.next()
        client.call("stats")


def lists_of_all_hosts(attacker, _):
    client = attacker.client()
    pipeline(client, [acquire(number, f"listed {number}") for number in range(20_000 // SCALE)])
    clients = [attacker.client() for _ in range(40 // SCALE)]
    for client in clients:
        client.socket.sendall(b'{"id":1,"method":"list","params":{"scope":"all","limit":1000}}\n' * 16)
    for client in clients:
        for _ in range(16):
            client.next()


def gifts_to_one_that_does_not_read(attacker, _):
    """Another session has said that it takes what it is handed, and is busy for a while."""
    victim = attacker.daemon.client(check=False)
    session = victim.call("initialize", accept_transfers=True)["session"]
    token = victim.acquire("victim's")
    client, refused = attacker.client(), None
    for number in range(10_000):
        name = f"{number:0400}"
        client.call("acquire", name=name)
        request = client.request("transfer", name=name, session=session)
        message = client.wait_for(lambda message: message.get("id") == request)
        refused = message.get("error")
        if refused:
            break
    assert refused["data"]["field"] == "session", refused
    assert victim.release("victim's", token)["token"] == token
    victim.close()


def ever_new_names(attacker, _):
    """Two hundred sessions ask Redis for as much as they may, all the time."""
    clients = [attacker.client() for _ in range(200 // SCALE)]
    number = 0
    for _ in range(8):
        for client in clients:
            client.socket.sendall(b"".join(acquire(n, f"new {n}") for n in range(number, number + 100)))
            number += 100
        for client in clients:
            for _ in range(100):
                client.next()


ATTACKS = [
    watches, events, holds_of_one_name, holds_of_different_names, inspections, lists, a_search_for_deadlocks,
    transfers_to_a_stranger, sessions_that_end_while_they_wait, long_texts, short_holds, what_nobody_reads, nonsense,
    half_closed_sessions_with_many_holds, a_crowd_that_hears_of_its_place, permits_of_a_million, lists_of_all_hosts,
    gifts_to_one_that_does_not_read, connections_that_come_and_go, ever_new_names]


class Innocent:
    """The innocent client, as a process of another user."""

    def __init__(self, lab, daemon):
        os.chmod(daemon.socket_path, 0o666)
        for directory in (lab.directory, daemon.directory):
            os.chmod(directory, 0o755)
        program = (pathlib.Path(__file__).parent / "innocent.py").read_text()
        self.process = lab.track(subprocess.Popen(
            ["/usr/bin/python3", "-c", program, str(daemon.socket_path)], text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, user=INNOCENT, group=INNOCENT, extra_groups=[]))
        self.session = self.process.stdout.readline().strip()

    def end(self):
        self.process.stdin.close()
        return json.loads(self.process.stdout.readline())


def test_whoever_asks_does_not_wait_for_the_connections_of_another_one(lab):
    """A process with very many connections ends, and then a client of another user asks how many there are."""
    daemon = lab.daemon()
    for directory in (lab.directory, daemon.directory):
        os.chmod(directory, 0o755)
    os.chmod(daemon.socket_path, 0o666)
    attacker, count = Attacker(daemon), 800
    for _ in range(count):
        attacker.client()
    innocent = daemon.client()
    assert innocent.call("stats")["sessions"] == count + 1
    daemon.stop()
    attacker.leave()
    request = innocent.request("stats")
    daemon.resume()
    answer = innocent.wait_for(lambda message: message.get("id") == request)
    assert answer["result"]["sessions"] > count / 4
    wait_until(lambda: innocent.call("stats")["sessions"] == 1, "the end of all of them")


def test_a_stop_tells_everybody_whatever_one_has(lab):
    """Each end of very many holds is told to as many watches as there may be, for which there is not time enough."""
    daemon = lab.daemon()
    for directory in (lab.directory, daemon.directory):
        os.chmod(directory, 0o755)
    os.chmod(daemon.socket_path, 0o666)
    attacker = Attacker(daemon)
    for _ in range(4):
        pipeline(attacker.client(), [b'{"id":1,"method":"watch","params":{"prefix":""}}\n'] * 64)
    readers = [threading.Thread(target=read_all, args=(client,), daemon=True) for client in attacker.clients]
    for reader in readers:
        reader.start()
    client = attacker.client()
    pipeline(client, [acquire(number, f"many {number}") for number in range(20_000 // SCALE)])
    innocent = daemon.client()
    innocent.acquire("innocent's")
    daemon.signal(signal.SIGTERM)
    assert innocent.notification("lost")["name"] == "innocent's"
    assert daemon.process.wait(GENEROUS_SECONDS) == 0


def read_all(client):
    client.socket.settimeout(None)
    with contextlib.suppress(OSError):
        while client.socket.recv(1 << 20):
            pass


@pytest.mark.parametrize("backend", ["local", "redis"])
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_an_attack_harms_nobody_else(lab, attack, backend, measured):
    daemon = lab.daemon(lab.redis() if backend == "redis" else None)
    innocent, attacker = Innocent(lab, daemon), Attacker(daemon)
    attack(attacker, innocent)
    attacker.leave()
    probe = daemon.client()
    wait_until(lambda: probe.call("stats")["sessions"] == 2, "all that the attack has left behind to be gone")
    wait_until(lambda: probe.call("stats")["held"] <= 2, "all locks of the attack to be free")
    told = innocent.end()
    turns = probe.call("stats")["turns"]
    longest = turns["longest"]
    measured("longest turn, worst ping, worst try of the innocent", (
        f"{longest['processor_us'] / 1000:.1f} ms ({longest['work']}), {told['worst_ping_ms']:.1f} ms, "
        f"{told['worst_try_ms']:.1f} ms"))
    assert told["still_held"] and told["lost"] == []
    assert told["refused"] == [], told["refused"][:3]
    assert longest["processor_us"] < TURN_MILLISECONDS_MAX * 1000, longest
