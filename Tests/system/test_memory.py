"""What is charged to a user is the memory that he takes: the daemon's own does not grow to a multiple of it."""

import contextlib
import json
import os
import pathlib
import time

import pytest
from harness.client import Client
from harness.service_manager import ServiceManager
from harness.waiting import wait_until

LIMIT = 16 << 20
# What a limit does not say: connections, tables that grow by doubling, and the heap's own losses.
REST = 12 << 20


def status_bytes(pid, *names):
    fields = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines())
    return sum(int(fields[name].split()[0]) << 10 for name in names)


def own_bytes(pid):
    """Memory of the process that is no file's and is not shared, as that of the kept state is."""
    return status_bytes(pid, "RssAnon")


def all_bytes(pid):
    """The same, with the kept state."""
    return status_bytes(pid, "RssAnon", "RssShmem")


class Kept:
    """A daemon of a service manager, which keeps clients that hold a lock."""

    def __init__(self, lab, *args):
        self.manager = ServiceManager(lab, *self.store(lab), *args)
        self.manager.start()

    def store(self, lab):
        return ["--local"]

    def client(self):
        client = self.manager.client()
        client.acquire(f"of {id(client)}")
        return client

    @property
    def pid(self):
        return self.manager.process.pid

    def close(self):
        self.manager.stop()


class KeptOnRedis(Kept):
    def store(self, lab):
        return ["--redis", lab.redis().url]


class Plain:
    def __init__(self, lab, *args):
        self.daemon = lab.daemon(args=args)

    def client(self):
        return Client(self.daemon.socket_path, check=False)

    @property
    def pid(self):
        return self.daemon.pid

    def close(self):
        pass


def send_what_fits(client, line):
    """Sends requests until the daemon does not read them any more, and reads no answer."""
    client.socket.setblocking(False)
    with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
        while True:
            client.socket.send(line * 50)


# Pages of 60 kB, answers of 1 kB one at a time, and the document.
LIST = b'{"id":1,"method":"list","params":{"limit":1000}}\n'
INSPECT = b'{"id":1,"method":"inspect","params":{"name":"small"}}\n'
DISCOVER = b'{"id":1,"method":"rpc.discover"}\n'


@pytest.mark.parametrize("line", [LIST, INSPECT, DISCOVER], ids=["list", "inspect", "rpc.discover"])
@pytest.mark.parametrize("kind", [Plain, Kept])
def test_what_nobody_reads_takes_no_more_than_twice_what_is_charged(lab, kind, line, measured):
    daemon = kind(lab, "--bytes-per-uid-max", str(LIMIT))
    try:
        holder = daemon.client()
        holder.acquire("small", meta="m" * 1000)
        for number in range(120):
            holder.acquire(f"{number:0500}")
        holder.socket.sendall(line)
        holder.next()
        before = own_bytes(daemon.pid)
        clients = []
        # The kernel keeps some 200 kB for each, and the daemon stops reading from one at 256 KiB.
        for _ in range(10_000):
            if any(holder.call("stats")["limits_met_total"].values()):
                break
            for _ in range(10):
                clients.append(daemon.client())
                send_what_fits(clients[-1], line)
        stats = holder.call("stats")
        assert {name for name, count in stats["limits_met_total"].items() if count} == {"bytes_per_uid"}
        wait_until(lambda: holder.call("stats")["kept_bytes"] <= LIMIT, "those beyond the limit to be gone")
        grown = own_bytes(daemon.pid) - before
        measured("charged, and memory", f"{holder.call('stats')['kept_bytes'] >> 10} KiB, {grown >> 10} KiB")
        assert grown < 2 * LIMIT + REST
        for client in clients:
            client.close()
        wait_until(lambda: holder.call("stats")["kept_bytes"] == 0, "nothing to be charged any more")
        # The heap has room for the next one who does the same.
        for _ in range(3):
            clients = [daemon.client() for _ in range(20)]
            for client in clients:
                send_what_fits(client, line)
            for client in clients:
                client.close()
        wait_until(lambda: holder.call("stats")["kept_bytes"] == 0, "nothing to be charged any more")
        assert own_bytes(daemon.pid) - before < 2 * LIMIT + REST
    finally:
        daemon.close()


def acquire_until_refused(client, **params):
    """Acquires until the limit of bytes is met, and gives how many requests were not refused; those that wait are not
    answered. Each `%` becomes a number."""
    count = 0
    while True:
        for _ in range(100):
            count += 1
            texts = {key: value.replace("%", f"{count:06}") if isinstance(value, str) else value for key, value in params.items()}
            # As long as the name of a request may be.
            request = {"id": f"{count:0128}", "method": "acquire", "params": texts}
            client.send_raw(json.dumps(request).encode() + b"\n")
        client.send_raw(b'{"id":"end","method":"ping"}\n')
        while (message := client.next()).get("id") != "end":
            if error := message.get("error"):
                assert error["data"]["limit"] == "lock_bytes_per_uid", error
                client.wait_for(lambda message: message.get("id") == "end")
                return count


HOLDS = {
    "short names": {"name": "%"},
    "shared": {"name": "%", "mode": "shared", "max_hold_ms": 10_000_000},
    "owners": {"name": "%", "owner": "%"},
    "owners of one lock": {"name": "x", "mode": "shared", "owner": "%"},
    "long texts": {"name": "n" * 506 + "%", "owner": "o" * 122 + "%", "meta": "m" * 1024},
    "notes": {"name": "%", "meta": "m" * 1024},
    "waits": {"name": "taken", "wait_ms": 10_000_000},
    "waits of owners": {"name": "taken", "owner": "%"},
    "waits with notes": {"name": "taken", "meta": "m" * 1024, "owner": "o" * 122 + "%"},
}


@pytest.mark.parametrize("what", HOLDS)
@pytest.mark.parametrize("kind", [Kept, KeptOnRedis])
def test_what_is_held_and_waited_for_takes_no_more_than_twice_what_is_charged(lab, kind, what, measured):
    daemon = kind(
        lab, "--lock-bytes-per-uid-max", str(LIMIT), "--waits-per-session-max", "65536")
    try:
        holder, client = daemon.client(), daemon.client()
        holder.acquire("taken")
        before = all_bytes(daemon.pid)
        count = acquire_until_refused(client, **HOLDS[what])
        stats = holder.call("stats")
        assert LIMIT - 16_384 < stats["lock_bytes"] <= LIMIT
        grown = all_bytes(daemon.pid) - before
        measured("held or waited for, and memory", f"{count}, {grown >> 10} KiB, {grown // count} bytes each")
        assert grown < 2 * LIMIT + REST
    finally:
        daemon.close()


def release(name):
    return json.dumps({"id": 1, "method": "release", "params": {"name": name}}).encode() + b"\n"


def test_a_session_leaves_no_memory_behind_for_what_it_has_no_more(lab, measured):
    """One after the other, sessions hold very many locks, give back all but one, and stay."""
    daemon = Plain(lab)
    probe = daemon.client()
    count, sessions, most = 8000, 8, []
    clients = []
    for _ in range(sessions):
        clients.append(daemon.client())
        for line in (acquire, release):
            for start in range(0, count, 200):
                clients[-1].send_raw(b"".join(line(f"{number}") for number in range(start, start + 200) if line is acquire or number))
                for _ in range(200 if line is acquire or start else 199):
                    assert "result" in clients[-1].next()
        clients[-1].send_raw(release("0"))
        clients[-1].next()
        clients[-1].acquire(f"of {len(clients)}")
        most.append(own_bytes(daemon.pid))
    assert probe.call("stats")["held"] == sessions
    grown = (most[-1] - most[0]) // (sessions - 1)
    measured("memory that a session keeps that had 8,000 holds and has one", f"{grown >> 10} KiB")
    assert grown < 65_536


def acquire(name):
    return json.dumps({"id": 1, "method": "acquire", "params": {"name": name}}).encode() + b"\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="other users can only be tried as root")
def test_commands_wait_in_bounded_memory_on_a_slow_link(lab, redis, measured):
    """A user asks for ever new names, faster than Redis answers: he is not read from until there is room again."""
    proxy = lab.proxy(redis)
    limit = 8 << 20
    daemon = lab.daemon(proxy, args=["--bytes-per-uid-max", str(limit), "--redis-timeout-ms", "25000", "--lease-ms", "60000"])
    os.chmod(daemon.socket_path, 0o666)
    for directory in (lab.directory, daemon.directory):
        os.chmod(directory, 0o755)
    innocent = daemon.client()
    innocent.acquire("innocent")
    # It answers nothing until all have asked.
    proxy.set(hold_replies=True)
    each, most, longest = 128, 0, 0
    clients = []
    for number in range(90):
        os.seteuid(61_001)
        try:
            clients.append(Client(daemon.socket_path, check=False))
        finally:
            os.seteuid(0)
        lines = b"".join(
            json.dumps({"id": index, "method": "acquire", "params": {"name": f"{number * each + index:0512}"}}).encode() + b"\n"
            for index in range(each))
        # The kernel has room for all of it.
        clients[-1].send_raw(lines)
    wait_until(lambda: innocent.call("stats")["redis"]["commands_waiting"] > 2700, "as many as may wait")
    for _ in range(100):
        sent = time.monotonic()
        most = max(most, innocent.call("stats")["redis"]["commands_waiting"])
        longest = max(longest, time.monotonic() - sent)
    proxy.set(hold_replies=False)
    measured("commands that waited, at most; the innocent's worst answer", f"{most}, {longest * 1000:.1f} ms")
    # What a name of 512 bytes counts for, those beside it that may be in flight, and what one turn reads.
    assert most < limit / 2 / 1536 + 512
    assert {name for name, count in innocent.call("stats")["limits_met_total"].items() if count} == set()
    # He is read from again, and all is answered.
    for client in clients:
        for _ in range(each):
            assert "result" in client.next()
    assert innocent.call("ping") is not None
