"""Clients that send too much, nonsense, half of something, or nothing, and what the others notice: nothing."""

import array
import fcntl
import json
import random
import socket
import termios
import threading
import time

import pytest
from harness.client import Ended, connect
from harness.waiting import wait_until

MEGABYTE = 1 << 20


@pytest.fixture(params=["local", "redis"])
def daemon(lab, request):
    return lab.daemon(lab.redis() if request.param == "redis" else None)


@pytest.fixture
def bystander(daemon):
    """A client that holds a lock all along, and still has it at the end."""
    client = daemon.client()
    token = client.acquire("bystander")
    yield client
    client.ping()
    assert [h["token"] for h in client.call("inspect", name="bystander")["holders"]] == [token]
    assert client.poll() is None


def test_a_hundred_megabytes_in_one_line(daemon, bystander, measured):
    before = daemon.resident_bytes()
    sock = connect(daemon.socket_path)
    chunk, sent, peak = b"x" * 65536, 0, 0
    try:
        while sent < 100 * MEGABYTE:
            sent += sock.send(chunk)
            peak = max(peak, daemon.resident_bytes())
    except (BrokenPipeError, ConnectionResetError):
        pass
    # It was cut off soon after the first megabyte, and had the reason told.
    assert sent < 8 * MEGABYTE
    answer = b""
    try:
        while data := sock.recv(65536):
            answer += data
    except ConnectionResetError:
        pass
    if answer:
        assert json.loads(answer.splitlines()[0])["error"]["data"]["reason"] == "invalid_request"
    assert peak - before < 16 * MEGABYTE
    measured("growth of the daemon", f"{(peak - before) / MEGABYTE:.1f} MB")


def test_a_hundred_megabytes_of_lines_that_are_too_long(daemon, bystander, measured):
    """Each is skipped in bounded memory and answered, and the session keeps its lock."""
    client = daemon.client()
    token = client.acquire("mine")
    before = peak = daemon.resident_bytes()
    line = b"y" * (MEGABYTE - 2) + b"\n"
    for _ in range(100):
        client.send_raw(line)
        message = client.next()
        assert (message["id"], message["error"]["code"]) == (None, -32600)
        peak = max(peak, daemon.resident_bytes())
    assert peak - before < 16 * MEGABYTE
    assert client.release("mine", token)["token"] == token
    measured("growth of the daemon", f"{(peak - before) / MEGABYTE:.1f} MB")


def test_half_a_line_and_a_hang_up(daemon, bystander):
    """Pitfall 34: what is not complete has no effect when the client is gone."""
    for cut in range(1, 60, 7):
        sock = connect(daemon.socket_path)
        line = b'{"id":1,"method":"acquire","params":{"name":"half"}}\n'
        sock.sendall(line[:cut])
        sock.close()
    assert bystander.acquire("half") > 0
    bystander.release("half")


def test_a_half_written_line_blocks_nobody(daemon, bystander):
    """Pitfall 34."""
    slow = [connect(daemon.socket_path) for _ in range(50)]
    for sock in slow:
        sock.sendall(b'{"id":1,"meth')
    for _ in range(100):
        bystander.ping()
    for sock in slow:
        sock.sendall(b'od":"ping"}\n')
    for sock in slow:
        assert json.loads(sock.recv(65536)) == {"jsonrpc": "2.0", "id": 1, "result": {}}
        sock.close()


def test_ten_thousand_silent_connections(lab, measured):
    daemon = lab.daemon()
    bystander = daemon.client()
    token = bystander.acquire("bystander")
    before = daemon.resident_bytes()
    silent = []
    for _ in range(10_000):
        silent.append(connect(daemon.socket_path))
        if len(silent) % 500 == 0:
            bystander.ping()
    wait_until(lambda: daemon.descriptors() > 10_000, "all of them to be accepted")
    each = (daemon.resident_bytes() - before) / len(silent)
    measured("memory of a silent connection", f"{each / 1024:.1f} KiB")
    assert each < 32 * 1024
    started = time.monotonic()
    for _ in range(100):
        bystander.ping()
    measured("a round trip beside 10,000 silent connections", f"{(time.monotonic() - started) * 10:.3f} ms")
    late = daemon.client()
    assert late.try_acquire("bystander") is None
    for sock in silent:
        sock.close()
    wait_until(lambda: daemon.descriptors() < 100, "the end of all of them")
    bystander.release("bystander", token)
    assert late.acquire("bystander", wait_ms=0) > token


def test_a_slow_reader_is_held_up_or_cut_off_and_nobody_else(daemon, bystander, measured):
    """Pitfall 34: it asks and asks and never reads. The daemon's memory stays bounded."""
    before = daemon.resident_bytes()
    sock = connect(daemon.socket_path)
    sock.setblocking(False)
    line = b'{"id":1,"method":"rpc.discover"}\n' * 100
    sent = 0
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        try:
            sent += sock.send(line)
        except BlockingIOError:
            # The daemon does not read on. Others are served meanwhile.
            bystander.ping()
        except (BrokenPipeError, ConnectionResetError):
            break
    assert daemon.resident_bytes() - before < 24 * MEGABYTE
    measured("growth of the daemon", f"{(daemon.resident_bytes() - before) / MEGABYTE:.1f} MB")
    sock.close()


@pytest.mark.parametrize("count", [9, 12, 100])
def test_a_half_closed_client_gets_all_its_replies(daemon, count):
    """It says all that it has to say, takes its time to read, and is not cut off before the last byte."""
    sock = connect(daemon.socket_path)

    def speak():
        # Blank lines at the end are nothing that is answered.
        sock.sendall(b'{"id":1,"method":"rpc.discover"}\n' * count + b"\n\n")
        sock.shutdown(socket.SHUT_WR)

    speaker = threading.Thread(target=speak)
    speaker.start()
    # The daemon has written what the kernel has room for, or much of it, before the first byte is read.
    wait_until(lambda: _unread_bytes(sock) > 65_536, "replies")
    lines = 0
    while data := sock.recv(65_536):
        lines += data.count(b"\n")
    speaker.join()
    sock.close()
    assert lines == count


def _unread_bytes(sock):
    size = array.array("i", [0])
    fcntl.ioctl(sock, termios.FIONREAD, size)
    return size[0]


def test_a_half_closed_client_gets_every_reply_however_slowly_it_reads(daemon, bystander):
    """More requests than the daemon keeps replies for, then the end of the input, an unterminated last line included."""
    count = 20_000
    sock = connect(daemon.socket_path)
    requests = b"".join(b'{"id":%d,"method":"ping"}\n' % number for number in range(count)) + b'{"id":"last","method":"ping"}'
    sent, received = 0, bytearray()
    sock.setblocking(False)
    half_closed = False

    def all_is_read():
        nonlocal sent, half_closed
        try:
            while sent < len(requests):
                sent += sock.send(requests[sent:sent + 65536])
            if not half_closed:
                sock.shutdown(socket.SHUT_WR)
                half_closed = True
        except BlockingIOError:
            pass
        try:
            data = sock.recv(4096)
        except BlockingIOError:
            return False
        received.extend(data)
        return not data

    wait_until(all_is_read, "the end of the connection", pause=0)
    ids = [json.loads(line)["id"] for line in received.splitlines()]
    assert ids == [*range(count), "last"]


def test_a_client_that_does_not_read_its_notifications(lab, measured):
    """Pitfall 34: notifications come unasked, so that holding back its requests does not help. Memory stays bounded."""
    daemon = lab.daemon()
    name = "n" * 500
    holder, deaf = daemon.client(), daemon.client()
    token = holder.acquire(name)
    ahead = [(client, [client.request("acquire", name=name) for _ in range(100)])
             for client in [daemon.client() for _ in range(5)]]
    for client, _ in ahead:
        client.ping()
    for _ in range(100):
        deaf.request("acquire", name=name, progress=True)
    witness = daemon.client()
    wait_until(lambda: witness.call("inspect", name=name)["waiting"] == 600, "its waits")
    before = daemon.resident_bytes()
    # Each that leaves moves a hundred waits of the deaf client up by one place.
    for client, requests in ahead:
        for request in requests:
            assert client.call("cancel", id=request) == {"cancelled": True}
            assert client.error_of(request).reason == "cancelled"
    grown = daemon.resident_bytes() - before
    measured("growth of the daemon", f"{grown / MEGABYTE:.1f} MB")
    assert grown < 16 * MEGABYTE
    assert holder.release(name, token)["token"] == token


def test_who_does_not_read_what_strangers_do_keeps_its_locks(lab):
    """Events are left out and counted while they are not read; the connection, and what it holds, stays."""
    daemon = lab.daemon()
    name = "n" * 500
    watcher, busy = daemon.client(), daemon.client()
    watcher.call("watch", prefix="n")
    token = watcher.acquire("mine")
    pairs = 0
    while busy.call("stats")["notifications_missed_total"] < 100:
        busy.release(name, busy.acquire(name))
        pairs += 1
    events, missed = 0, 0
    while not missed:
        message = watcher.next()
        if message["method"] == "missed":
            missed = message["params"]["count"]
        else:
            assert message["method"] == "event"
            events += 1
    assert events + missed == 2 * pairs
    assert watcher.call("inspect", name="mine")["holders"][0]["token"] == token
    busy.acquire(name)
    assert watcher.notification("event")["kind"] == "acquired"


def test_many_requests_of_many_clients_are_all_answered(lab):
    """Each has a share of a turn and goes on in another one: nothing of what it sent is forgotten, and its order is kept."""
    daemon = lab.daemon()
    count = 800
    clients = [daemon.client() for _ in range(40)]
    line = b'{"id":%d,"method":"ping"}\n'
    text = b"".join(line % index for index in range(count))
    for client in clients:
        client.send_raw(text)
    for client in clients:
        assert [client.next()["id"] for _ in range(count)] == list(range(count))
    for client in clients:
        client.ping()


def test_waits_that_come_in_a_crowd_are_served_in_the_order_in_which_they_came(lab):
    daemon = lab.daemon()
    holder = daemon.client()
    clients = [daemon.client() for _ in range(300)]
    token = holder.acquire("orders")
    requests = [client.request("acquire", name="orders") for client in clients]
    wait_until(lambda: holder.call("inspect", name="orders")["waiting"] == 300, "all waits")
    holder.release("orders", token)
    for client, request in zip(clients, requests):
        later = client.reply_to(request)["token"]
        assert later > token
        token = later
        client.release("orders", token)


def corpus(rng):
    """Lines that are nearly right, and lines that are not."""
    valid = [
        b'{"id":1,"method":"acquire","params":{"name":"fuzz","wait_ms":0}}',
        b'{"id":"a","method":"release","params":{"name":"fuzz","token":1}}',
        b'{"jsonrpc":"2.0","id":2,"method":"list","params":{"scope":"host","limit":3}}',
        b'{"method":"cancel","params":{"id":1}}', b'{"id":3,"method":"initialize","params":{"client":{"name":"x"}}}',
        b'{"id":4,"method":"extend","params":{"name":"fuzz","max_hold_ms":null}}',
    ]
    while True:
        line = bytearray(rng.choice(valid))
        for _ in range(rng.randrange(4)):
            position = rng.randrange(len(line) + 1)
            kind = rng.randrange(5)
            if kind == 0:
                line[position:position] = bytes([rng.randrange(256)])
            elif kind == 1:
                del line[position:position + rng.randrange(1, 8)]
            elif kind == 2:
                line[position:position] = rng.choice(
                    [b"\\u0000", b"\\ud800", b"1e999", b"-0", b"99999999999999999999", b"[[", b"{", b"\xff", b"\r",
                     b"\xed\xa0\x80", b"null", b'"', b"\\"])
            elif kind == 3 and len(line):
                line[min(position, len(line) - 1)] ^= 1 << rng.randrange(8)
            else:
                line += line[position:]
        yield bytes(line).replace(b"\n", b" ") + b"\n"


def test_mutated_requests(daemon, bystander):
    """Pitfall 44: whatever comes, each line has at most one answer, and the daemon lives. The seed is fixed."""
    rng = random.Random(44)
    lines = corpus(rng)
    for _ in range(20):
        client = daemon.client(check=False)
        for _ in range(100):
            client.send_raw(next(lines))
        client.send({"id": "end", "method": "ping"})
        answers = 0
        while client.next().get("id") != "end":
            answers += 1
        assert answers <= 200  # an answer each, and a notification at most
        client.close()


def test_random_bytes(daemon, bystander):
    rng = random.Random(45)
    for _ in range(50):
        client = daemon.client(check=False)
        try:
            client.send_raw(rng.randbytes(rng.randrange(1, 5000)))
            client.half_close()
            client.wait_for_end()
        except (Ended, BrokenPipeError, ConnectionResetError):
            pass
        client.close()


def test_every_byte_on_its_own(daemon, bystander):
    client = daemon.client()
    for byte in b'{"id":1,"method":"acquire","params":{"name":"bytes","meta":"\xc3\xa9"}}\r\n':
        client.send_raw(bytes([byte]))
    assert client.reply_to(1)["name"] == "bytes"
