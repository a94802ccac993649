"""The small clients of protocol/clients, and the commands that the specification shows."""

import json
import shutil
import subprocess
import time

import pytest
from harness.schema import PROTOCOL
from harness.waiting import GENEROUS_SECONDS, wait_until

CLIENTS = [path for path in sorted((PROTOCOL / "clients").glob("client.*"))
           if path.suffix != ".js" or shutil.which("node")]


@pytest.fixture(params=CLIENTS, ids=lambda path: path.name)
def start(request, lab):
    """Starts one of the small clients."""
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
