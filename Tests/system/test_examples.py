"""The program of protocol/clients that shows the wire, and the commands that the specification shows."""

import json
import re
import subprocess
import time

import pytest
from harness.schema import PROTOCOL
from harness.waiting import GENEROUS_SECONDS, wait_until

CLIENTS = sorted((PROTOCOL / "clients").glob("client.*"))


@pytest.fixture(params=CLIENTS, ids=lambda path: path.name)
def start(request, lab):
    """Starts the small client."""
    def start(daemon, name):
        return lab.track(subprocess.Popen(
            [str(request.param), str(daemon.socket_path), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True))
    return start


def test_a_small_client_takes_and_gives_back(lab, start):
    daemon = lab.daemon()
    witness = daemon.client()
    name = 'orders "é" \\'
    process = start(daemon, name)
    word, token = process.stdout.readline().split()
    assert word == "acquired"
    assert [h["token"] for h in witness.call("inspect", name=name)["holders"]] == [int(token)]
    request = witness.queue(name)
    process.stdin.close()
    assert process.stdout.readline() == "released\n"
    assert process.wait(GENEROUS_SECONDS) == 0
    assert witness.reply_to(request)["token"] > int(token)


def test_a_small_client_takes_no_name_for_another(lab, start):
    """Bytes that are no UTF-8 are no name, and stand for none."""
    daemon = lab.daemon()
    process = start(daemon, b"caf\xe9")
    assert process.wait(GENEROUS_SECONDS) != 0
    assert process.stdout.read() == "" and "UTF-8" in process.stderr.read()
    assert daemon.client().call("list")["locks"] == []


def test_a_small_client_waits_its_turn(lab, start):
    daemon = lab.daemon()
    holder = daemon.client()
    token = holder.acquire("orders")
    process = start(daemon, "orders")
    wait_until(lambda: holder.call("inspect", name="orders")["waiting"] == 1, "its wait")
    holder.release("orders", token)
    word, theirs = process.stdout.readline().split()
    assert word == "acquired" and int(theirs) > token
    request = holder.queue("orders")
    process.kill()
    assert holder.reply_to(request)["token"] > int(theirs)


def test_a_small_client_hears_that_its_lock_is_lost(lab, start):
    daemon = lab.daemon()
    process = start(daemon, "orders")
    assert process.stdout.readline().startswith("acquired ")
    assert daemon.terminate() == 0
    assert process.stdout.readline() == "lost shutdown\n"
    assert process.wait(GENEROUS_SECONDS) == 3


def test_a_small_client_counts_the_end_of_the_connection_as_a_loss(lab, start):
    daemon = lab.daemon()
    process = start(daemon, "orders")
    assert process.stdout.readline().startswith("acquired ")
    daemon.kill()
    # Its input has not ended.
    assert process.stdout.read() == "lost connection_ended\n"
    assert process.wait(GENEROUS_SECONDS) == 3
    assert "Traceback" not in process.stderr.read()


def test_a_small_client_that_gives_back_what_it_has_lost_says_so(lab, start):
    """Whatever it reads first: what its lock was for is over."""
    daemon = lab.daemon()
    process = start(daemon, "orders")
    assert process.stdout.readline().startswith("acquired ")
    daemon.stop()
    process.stdin.close()
    administrator = daemon.client()
    administrator.request("break", name="orders")
    daemon.resume()
    # The order in which the daemon reads the two is not known: the lock was given back, or broken before.
    out = process.stdout.read()
    assert (out, process.wait(GENEROUS_SECONDS)) in (("released\n", 0), ("lost broken\n", 3))
    assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize("trouble, words", [
    ("no daemon", ""), ("denied", "right to use"), ("limit", "connections_max|closed the connection"), ("stopped while it waits", ""),
    ("killed while it waits", "closed the connection")])
def test_a_small_client_says_in_a_line_why_it_has_no_lock(lab, start, trouble, words):
    args = {"denied": ["--rule", "deny use orders to everyone"], "limit": ["--connections-max", "1"]}
    daemon = lab.daemon(args=args.get(trouble, []))
    witness = daemon.client()
    witness.ping()
    if trouble == "no daemon":
        daemon.terminate()
    elif "waits" in trouble:
        witness.acquire("orders")
    process = start(daemon, "orders")
    if "waits" in trouble:
        wait_until(lambda: witness.call("inspect", name="orders")["waiting"] == 1, "its wait")
        if trouble.startswith("stopped"):
            daemon.terminate()
        else:
            daemon.kill()
    out, err = process.communicate(timeout=GENEROUS_SECONDS)
    assert (out, process.returncode) == ("", 1)
    assert re.search(words, err) and 1 <= len(err.splitlines()) <= 2 and "Traceback" not in err, err


def test_one_shot_with_socat_returns_at_once(lab, measured):
    """Half-close with nothing held and nothing pending: the daemon closes, however long socat would wait."""
    daemon = lab.daemon(lab.redis())
    daemon.client().acquire("x")
    for request in ('{"id":1,"method":"list"}', '{"id":1,"method":"list","params":{"scope":"all"}}',
                    '{"id":1,"method":"acquire","params":{"name":"x","wait_ms":20}}\n{"id":2,"method":"ping"}'):
        started = time.monotonic()
        done = subprocess.run(
            ["socat", "-t60", "-", f"UNIX-CONNECT:{daemon.socket_path}"], input=request + "\n", capture_output=True,
            text=True, timeout=GENEROUS_SECONDS, check=True)
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(answers) == len(request.splitlines())
        measured("one request with socat", f"{(time.monotonic() - started) * 1000:.0f} ms")
