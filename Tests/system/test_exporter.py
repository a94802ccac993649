"""`sidelock exporter`: what Prometheus is served, whatever becomes of the daemon, and whatever others send."""

import concurrent.futures
import random
import socket
import stat
import time

import pytest
from harness.command import Command
from harness.exporter import Exporter, rest
from harness.waiting import wait_until
from prometheus_client.openmetrics.parser import text_string_to_metric_families

# As ExporterServer.swift has them.
CONNECTIONS_MAX = 64
HEADER_BYTES_MAX = 8192


def families(exporter):
    status, headers, text = exporter.get("/metrics")
    assert status == 200 and headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
    assert text.endswith("# EOF\n")
    return {family.name: family for family in text_string_to_metric_families(text)}


def value(families, name):
    [sample] = families[name].samples
    return sample.value


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "0", "[::1]:0", "unix"])
def test_the_figures_of_the_daemon(lab, listen):
    command = Command(lab, lab.daemon(lab.redis()))
    path = lab.directory / "exporter.sock"
    exporter = Exporter(command, listen=f"unix:{path}" if listen == "unix" else listen)
    assert exporter.address.startswith({"unix": f"unix:{path}", "[::1]:0": "[::1]:"}.get(listen, "127.0.0.1:"))
    found = families(exporter)
    assert value(found, "sidelock_up") == 1 and value(found, "sidelock_redis_connected") == 1
    # What the command prints, and whether the daemon answers.
    status, out, _ = command.run("stats", "--openmetrics")
    assert status == 0
    assert set(found) == {family.name for family in text_string_to_metric_families(out)} | {"sidelock_up"}
    assert "sidelock_lock_held" not in found
    for name in ("/health", "/ready"):
        status, headers, text = exporter.get(name + "?verbose")
        assert status == 200 and text.startswith("OK: ") and headers["Content-Type"].startswith("text/plain")
    status, headers, text = exporter.get("/metrics", method="HEAD")
    assert status == 200 and text == "" and int(headers["Content-Length"]) > 1000
    assert exporter.get("/")[0] == 404 and exporter.get("/metrics/")[0] == 404
    assert exporter.get("http://localhost:80/health?verbose")[0] == 200 and exporter.get("http://localhost")[0] == 404
    status, headers, _ = exporter.get("/metrics", method="POST")
    assert status == 405 and headers["Allow"] == "GET, HEAD"
    assert exporter.end() == 0 and not path.exists()


def test_locks_are_told_of_by_name_if_they_are_given(lab):
    daemon = lab.daemon()
    command, client, other = Command(lab, daemon), daemon.client(), daemon.client()
    odd = 'odd "\\\nname'
    client.acquire("nightly")
    client.acquire("secret")
    other.queue("nightly")
    wait_until(lambda: client.call("inspect", name="nightly")["holders"][0]["held_ms"] >= 100, "100 ms")
    exporter = Exporter(command, "--lock", "nightly", "--lock", odd, "--lock", "nightly")
    found = families(exporter)

    def told(name):
        return {sample.labels["lock"]: sample.value for sample in found[f"sidelock_lock_{name}"].samples}

    assert told("held") == {"nightly": 1, odd: 0}
    assert told("waiters") == {"nightly": 1, odd: 0}
    ages = told("hold_age_seconds")
    assert 0.1 <= ages["nightly"] < 60 and ages[odd] == 0
    assert "secret" not in exporter.get("/metrics")[2]
    many = [word for number in range(65) for word in ("--lock", str(number))]
    assert command.run("exporter", *many)[0] == 64


def test_names_that_differ_by_their_bytes_are_two(lab):
    names = ["caf\u00e9", "cafe\u0301"]
    command = Command(lab, lab.daemon())
    found = families(Exporter(command, *[word for name in names for word in ("--lock", name)]))
    assert [sample.labels["lock"] for sample in found["sidelock_lock_held"].samples] == names


@pytest.mark.parametrize("name", ["", "\u00e9" * 256 + "a"])
def test_a_name_that_no_lock_can_have_is_wrong_usage(lab, name):
    status, _, err = Command(lab, lab.daemon()).run("exporter", "--lock", name)
    assert status == 64 and f"--lock takes names of 1 to 512 bytes; this one has {len(name.encode())}" in err and name in err


def test_locks_that_nobody_tells_of_in_time_are_left_out(lab):
    redis = lab.redis()
    daemon = lab.daemon(redis, lease_ms=60_000, args=["--redis-timeout-ms", "20000"])
    exporter = Exporter(Command(lab, daemon), "--timeout", "4s", *["--lock", "a", "--lock", "b", "--lock", "c"])
    assert len(families(exporter)["sidelock_lock_held"].samples) == 3
    redis.stop()
    try:
        found = families(exporter)
    finally:
        redis.resume()
    assert value(found, "sidelock_up") == 1 and "sidelock_uptime_seconds" in found and "sidelock_lock_held" not in found
    wait_until(lambda: len(families(exporter)["sidelock_lock_held"].samples) == 3, "all locks", pause=0.05)


def test_a_lock_that_may_not_be_inspected_is_left_out(lab):
    daemon = lab.daemon(args=["--rule", "deny inspect hidden to everyone"])
    found = families(Exporter(Command(lab, daemon), "--lock", "hidden", "--lock", "open"))
    assert [sample.labels["lock"] for sample in found["sidelock_lock_held"].samples] == ["open"]


def test_a_daemon_that_is_away_is_told_in_words(lab):
    daemon = lab.daemon()
    command = Command(lab, daemon)
    exporter = Exporter(command, "--timeout", "500ms")
    assert daemon.terminate() == 0

    def assert_away(words):
        status, headers, text = exporter.get("/metrics")
        # Prometheus takes nothing from one with another status.
        assert status == 200 and headers["Content-Type"].startswith("application/openmetrics-text")
        [family] = text_string_to_metric_families(text)
        assert family.name == "sidelock_up" and family.samples[0].value == 0 and words in family.documentation
        for name in ("/health", "/ready"):
            status, _, text = exporter.get(name)
            assert status == 503 and text.startswith("CRITICAL: ") and words in text

    assert_away(str(daemon.socket_path))
    daemon.start()
    assert value(families(exporter), "sidelock_up") == 1
    daemon.stop()
    assert_away("not answered within")
    daemon.resume()
    exporter.wait_for("/health", 200)


def test_it_is_ready_only_when_locks_are_granted(lab):
    redis = lab.redis()
    exporter = Exporter(Command(lab, lab.daemon(redis)))
    assert exporter.get("/ready")[0] == 200
    redis.kill()
    exporter.wait_for("/ready", 503)
    assert "cannot use Redis" in exporter.get("/ready")[2]
    assert exporter.get("/health")[0] == 200
    assert value(families(exporter), "sidelock_redis_connected") == 0


def test_several_scrape_at_once_and_on_one_connection(lab):
    exporter = Exporter(Command(lab, lab.daemon()))
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: exporter.get("/metrics"), range(64)))
    assert all(status == 200 and text.endswith("# EOF\n") for status, _, text in answers)
    # Two requests in one piece, and then one more: each is answered, in order.
    with exporter.connect() as own:
        own.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n")
        file = own.makefile("rb")

        def answer():
            status = int(file.readline().split()[1])
            length = 0
            while line := file.readline().strip():
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            return status, file.read(length)

        assert [answer()[0], answer()[0]] == [200, 404]
        own.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert answer()[0] == 200 and file.read() == b""


def test_who_has_sent_all_gets_all_answers(lab):
    exporter = Exporter(Command(lab, lab.daemon()))
    request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for count in (1, 3):
        with exporter.connect() as own:
            own.sendall(request * count)
            own.shutdown(socket.SHUT_WR)
            data = rest(own)
            assert data.count(b"HTTP/1.1 200") == data.count(b"# EOF\n") == count, data[-200:]
    # More than that is not kept for somebody who has gone.
    with exporter.connect() as own:
        own.sendall(request * 2000)
        own.shutdown(socket.SHUT_WR)
        assert rest(own).count(b"# EOF\n") < 2000


def test_a_daemon_that_hangs_keeps_the_loop_and_the_others_free(lab):
    daemon = lab.daemon()
    slow, quick = (Exporter(Command(lab, daemon), "--timeout", time) for time in ("10m", "1s"))
    daemon.stop()
    try:
        waiting = [slow.connect() for _ in range(20)]
        for own in waiting:
            own.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert slow.get("/nothing")[0] == 404 and slow.get("/health", method="POST")[0] == 405
        # Who asks at the same time shares an answer.
        start = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(60) as pool:
            assert {status for status, _, _ in pool.map(lambda _: quick.get("/health"), range(60))} == {503}
        assert time.monotonic() - start < 8
    finally:
        daemon.resume()
    for own in waiting:
        assert own.recv(100).startswith(b"HTTP/1.1 200")
        own.close()


BAD = {
    "no-http": b"\x00\xff" * 100,
    "a-line": b"hello\r\n\r\n",
    "no-version": b"GET /metrics\r\n\r\n",
    "bad-version": b"GET /metrics HTTP/9.9\r\n\r\n",
    "tls": bytes.fromhex("16030100c5010000c10303") + b"\x00" * 200,
    "long-target": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    "long-field": b"GET /metrics HTTP/1.1\r\nX: " + b"a" * (HEADER_BYTES_MAX + 1) + b"\r\n\r\n",
    "many-fields": b"GET /metrics HTTP/1.1\r\n" + b"X: a\r\n" * 1000 + b"\r\n",
    "long-fields": b"GET /metrics HTTP/1.1\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"a" * 400) for n in range(50)) + b"\r\n",
    "long-body": b"GET /metrics HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n" + b"a" * 1_000_000,
    "chunks": b"GET /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
    "two-lengths": b"GET /metrics HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "smuggled": b"GET /metrics HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_refused_and_ends_nothing(lab, name):
    exporter = Exporter(Command(lab, lab.daemon()))
    answer = exporter.say(BAD[name])
    assert answer == b"" or answer.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400")), answer[:200]
    assert exporter.get("/health")[0] == 200 and exporter.process.poll() is None


@pytest.mark.parametrize("seed", range(4))
def test_no_bytes_end_it(lab, seed):
    exporter = Exporter(Command(lab, lab.daemon()))
    draw = random.Random(seed)
    good = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\nContent-Length: 3\r\n\r\nabc"
    for _ in range(100):
        data = bytearray(good)
        for _ in range(draw.randrange(1, 6)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        with exporter.connect() as own:
            own.sendall(data[:draw.randrange(1, len(data) + 1)])
            own.shutdown(socket.SHUT_WR)
            rest(own)
    assert exporter.get("/health")[0] == 200 and exporter.process.poll() is None


def test_who_connects_and_says_nothing_keeps_nobody_out(lab):
    exporter = Exporter(Command(lab, lab.daemon()))
    silent = [exporter.connect() for _ in range(CONNECTIONS_MAX)]
    for own in silent[::2]:
        own.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
    # There is no room: the eldest that says nothing ends for each that comes, and at last those that are slow.
    asked = [exporter.say(b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n") for _ in range(2)]
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in asked)
    more = [exporter.connect() for _ in range(2 * CONNECTIONS_MAX)]
    assert exporter.say(b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 200")
    # Their requests have not come in time.
    for own in silent + more:
        assert not rest(own).startswith(b"HTTP/1.1 200")
        own.close()
    exporter.wait_for("/health", 200)


@pytest.mark.parametrize("listen, status", [("127.0.0.1:0", b"403"), ("[::1]:0", b"403"), ("0.0.0.0:0", b"200"), ("unix", b"200")])
def test_on_the_loopback_it_answers_under_no_other_name(lab, listen, status):
    """The name of another site may lead a browser here; its pages would read the answer."""
    path = lab.directory / "exporter.sock"
    exporter = Exporter(Command(lab, lab.daemon()), listen=f"unix:{path}" if listen == "unix" else listen)

    def answer(*hosts):
        lines = "".join(f"Host: {host}\r\n" for host in hosts)
        return exporter.say(f"GET /metrics HTTP/1.1\r\n{lines}Connection: close\r\n\r\n".encode())[9:12]

    for host in ("example.org", "127.0.0.1.example.org:9797", "10.0.0.1"):
        assert answer(host) == status, host
    for host in ("localhost", "LOCALHOST:9797", "127.0.0.1:80", "[::1]"):
        assert answer(host) == b"200", host
    assert answer() == b"200"


def test_who_is_slow_after_an_answer_or_reads_none_is_left(lab):
    exporter = Exporter(Command(lab, lab.daemon()))
    request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"

    def resident():
        with open(f"/proc/{exporter.process.pid}/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmRSS:"))

    dripping, greedy = exporter.connect(), exporter.connect()
    dripping.sendall(request)
    assert dripping.recv(12) == b"HTTP/1.1 200"
    for own in (dripping, greedy):
        own.setblocking(False)
    before = resident()

    def is_closed(own, data):
        try:
            own.send(data)
            return own is dripping and own.recv(1 << 20) == b""
        except BlockingIOError:
            return False
        except (BrokenPipeError, ConnectionResetError):
            return True

    left = {dripping: b"G", greedy: request * 1000}

    def are_closed():
        for own in [own for own, data in left.items() if is_closed(own, data)]:
            del left[own]
        return not left

    # Three times as long as either may take, and much less than a connection may be silent.
    wait_until(are_closed, "the end of both", 40, pause=0.2)
    assert resident() - before < 40_000
    for own in (dripping, greedy):
        own.close()
    assert exporter.get("/health")[0] == 200


def test_only_a_socket_of_its_own_that_is_left_over_is_removed(lab):
    command = Command(lab, lab.daemon())
    path = lab.directory / "exporter.sock"

    def assert_stays(words):
        before = path.stat()
        status, _, err = command.run("exporter", "--listen", f"unix:{path}")
        assert status == 70 and words in err and str(path) in err
        assert path.stat().st_ino == before.st_ino
        path.unlink()

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        assert_stays("another process serves there")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen(0)
        queue = []
        while not queue or queue[-1].connect_ex(str(path)) == 0:
            queue.append(socket.socket(socket.AF_UNIX))
            queue[-1].setblocking(False)
        assert_stays("another process serves there")
        for own in queue:
            own.close()
    path.write_text("")
    assert_stays("no socket")
    exporter = Exporter(command, listen=f"unix:{path}", umask=0o077)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        assert exporter.end() == 0 and path.exists()


def test_a_socket_that_is_left_over_is_replaced_and_one_in_use_stays(lab):
    command = Command(lab, lab.daemon())
    path = lab.directory / "exporter.sock"
    first = Exporter(command, listen=f"unix:{path}")
    status, _, err = command.run("exporter", "--listen", f"unix:{path}")
    assert status == 70 and "another process serves there" in err
    assert first.get("/health")[0] == 200
    first.process.kill()
    first.process.wait()
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert Exporter(command, listen=f"unix:{path}").get("/health")[0] == 200


@pytest.mark.parametrize("listen", ["", "unix:", ":80", "a:b", "1.2.3.4", "localhost:99999", "::1:80", "-1"])
def test_a_wrong_address_is_wrong_usage(lab, listen):
    assert Command(lab, lab.daemon()).run("exporter", f"--listen={listen}")[0] == 64


@pytest.mark.parametrize("listen,status,words", [
    ("*:9797", 64, "0.0.0.0:9797"),
    ("unix:" + "a" * 108, 64, "up to 107 bytes; this one has 108"),
    ("unix:/nonexistent/exporter.sock", 70, "No such file or directory"),
    ("a..b:9797", 70, "host that is not known"),
])
def test_an_address_where_none_can_listen_is_said_in_words(lab, listen, status, words):
    found, _, err = Command(lab, lab.daemon()).run("exporter", "--listen", listen)
    assert found == status and words in err and "unixDomain" not in err and "SocketAddress" not in err, err


def test_an_address_that_is_taken_is_said(lab):
    command = Command(lab, lab.daemon())
    address = Exporter(command).address
    status, _, err = command.run("exporter", "--listen", address)
    assert status == 70 and address in err
