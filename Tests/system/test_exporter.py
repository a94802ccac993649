"""`sidelock exporter`: what Prometheus is served, whatever becomes of the daemon, and whatever others send."""

import concurrent.futures
import random
import socket
import stat

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
        assert status == 503 and headers["Content-Type"].startswith("application/openmetrics-text")
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
    assert "cannot reach Redis" in exporter.get("/ready")[2]
    assert exporter.get("/health")[0] == 200
    assert value(families(exporter), "sidelock_redis_connected") == 0


def test_several_scrape_at_once_and_on_one_connection(lab):
    exporter = Exporter(Command(lab, lab.daemon()))
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: exporter.get("/metrics"), range(64)))
    assert all(status == 200 and text.endswith("# EOF\n") for status, _, text in answers)
    # Two requests in one piece, and then one more: each is answered, in order.
    with exporter.connect() as own:
        own.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\nGET /nothing HTTP/1.1\r\nHost: a\r\n\r\n")
        file = own.makefile("rb")

        def answer():
            status = int(file.readline().split()[1])
            length = 0
            while line := file.readline().strip():
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            return status, file.read(length)

        assert [answer()[0], answer()[0]] == [200, 404]
        own.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert answer()[0] == 200 and file.read() == b""


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


def test_who_connects_and_says_nothing_keeps_nobody_out_for_long(lab):
    exporter = Exporter(Command(lab, lab.daemon()))
    silent = [exporter.connect() for _ in range(CONNECTIONS_MAX)]
    for own in silent[::2]:
        own.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
    # There is no room: the connection ends at once.
    wait_until(lambda: exporter.say(b"GET /health HTTP/1.1\r\n\r\n") == b"", "no room")
    # Their requests have not come in time.
    for own in silent:
        assert not rest(own).startswith(b"HTTP/1.1 200")
        own.close()
    exporter.wait_for("/health", 200)


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


def test_an_address_that_is_taken_is_said(lab):
    command = Command(lab, lab.daemon())
    address = Exporter(command).address
    status, _, err = command.run("exporter", "--listen", address)
    assert status == 70 and address in err
