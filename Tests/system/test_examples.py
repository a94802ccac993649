"""What scripts do with the client for bash, and the commands that the specification shows."""

import json
import os
import re
import signal
import subprocess
import time

import pytest
from harness.schema import PROTOCOL
from harness.waiting import GENEROUS_SECONDS, wait_until

CLIENT = PROTOCOL / "clients/bash/sidelock.bash"

BEGIN = """\
set -euo pipefail
. "$1"
sidelock_open "$2"
lost() { echo "lost $4"; exit 3; }
sidelock_acquire --on-lost lost -- "$3" || { echo "$SIDELOCK_MESSAGE" >&2; exit 1; }
echo "acquired $SIDELOCK_TOKEN"
"""
# Holds the lock until its input ends.
HOLD = BEGIN + """\
while true; do
  status=0
  read -r -t 0.1 || status=$?
  [ "$status" -eq 0 ] || [ "$status" -gt 128 ] || break
  sidelock_pump
done
sidelock_release "$3" || { echo "lost $SIDELOCK_LOST"; exit 3; }
echo released
"""


@pytest.fixture
def script(lab):
    """Starts a script that has sourced the client, in a session of its own."""
    def start(daemon, name, text):
        return lab.track(subprocess.Popen(
            ["bash", "-c", text, "script", str(CLIENT), str(daemon.socket_path), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True))
    return start


@pytest.fixture
def start(script):
    return lambda daemon, name: script(daemon, name, HOLD)


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
    ("no daemon", ""), ("denied", "right to use"), ("limit", "connections_max|connection to the daemon has ended"), ("stopped while it waits", ""),
    ("killed while it waits", "connection to the daemon has ended")])
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


def test_a_script_that_is_killed_leaves_no_lock_to_the_programs_it_started(lab, script):
    """Nor to its subshells: what they inherit keeps no connection open."""
    daemon = lab.daemon()
    process = script(daemon, "orders", BEGIN + """
sleep 1000 </dev/null >/dev/null 2>&1 &
echo $!
(sleep 1000; true) </dev/null >/dev/null 2>&1 &
echo $!
kill -9 $$
""")
    token = int(process.stdout.readline().split()[1])
    children = [int(process.stdout.readline()) for _ in range(2)]
    try:
        assert daemon.client().acquire("orders") > token
        for child in children:
            os.kill(child, 0)
    finally:
        os.killpg(process.pid, signal.SIGKILL)


def test_a_script_that_is_interrupted_may_go_on_with_its_lock(lab, script):
    """A terminal sends its signals to all of its processes, and the connection is in one of its own."""
    daemon = lab.daemon()
    process = script(daemon, "orders", "trap 'echo interrupted' INT\n" + BEGIN + """
read -r || true
sidelock_check "$3"
sidelock_release "$3"
echo released
""")
    assert process.stdout.readline().startswith("acquired ")
    os.killpg(process.pid, signal.SIGINT)
    assert process.stdout.readline() == "interrupted\n"
    process.stdin.close()
    assert process.stdout.read() == "released\n", process.stderr.read()
    assert process.wait(GENEROUS_SECONDS) == 0


def test_a_script_keeps_to_itself_what_it_has_open(lab, script, tmp_path):
    """A lock of flock(1), for one; and whoever waits for his children does not wait for the connection."""
    daemon = lab.daemon()
    process = script(daemon, "orders", f"exec 9>{tmp_path}/lock; flock 9\n" + BEGIN + f"""
exec 9>&-
flock --nonblock {tmp_path}/lock true
true &
wait
if (sidelock_held "$3"); then echo "a subshell holds it"; fi
sidelock_held "$3"
sidelock_release "$3"
echo released
""")
    assert process.stdout.readline().startswith("acquired ")
    assert process.stdout.read() == "released\n", process.stderr.read()
    assert process.wait(GENEROUS_SECONDS) == 0


def test_a_script_gets_the_words_for_who_has_the_lock(lab, script):
    daemon = lab.daemon()
    holder = daemon.client()
    token = holder.acquire("orders")
    process = script(daemon, "orders", """
. "$1"
sidelock_open "$2"
status=0
sidelock_acquire -w .05 "$3" || status=$?
echo "$status $SIDELOCK_REASON $SIDELOCK_TYPE ${#SIDELOCK_HOLDERS[@]}"
printf '%s\\n' "${SIDELOCK_HOLDERS[@]}"
""")
    out, err = process.communicate(timeout=GENEROUS_SECONDS)
    first, holders = out.split("\n", 1)
    assert first == "1 timeout timeout 1", err
    assert f"pid={os.getpid()}\t" in holders and f"\ttoken={token}" in holders


@pytest.mark.parametrize("arguments, words", [
    ("-w soon orders", "no time"), ("--permits many orders", "no number"), ("--wiat 5 orders", "no option"), ("-w", "needs a value"), ("", "1 to 64")])
def test_a_script_that_asks_for_nonsense_is_told_so(lab, script, arguments, words):
    """And waits for nothing."""
    daemon = lab.daemon()
    process = script(daemon, "orders", f"""
. "$1"
sidelock_open "$2"
sidelock_acquire {arguments}
echo "$? $SIDELOCK_REASON $SIDELOCK_MESSAGE"
""")
    out, _ = process.communicate(timeout=GENEROUS_SECONDS)
    assert out.startswith("2 invalid_params ") and words in out


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
