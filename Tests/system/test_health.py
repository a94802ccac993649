"""`sidelock health` and `sidelock kill`: what monitors and administrators rely on."""

import json
import os

import pytest

from harness.command import Command
from harness.process_client import ProcessClient
from harness.waiting import wait_until

# A number that is no account of this host.
ANNA = 61_001


def health(command, *arguments):
    """The status, the word and the reason: always one line."""
    status, out, err = command.run("health", *arguments)
    [line] = out.splitlines()
    word, why = line.split(": ", 1)
    assert err == "" and why
    assert word == ["OK", "WARNING", "CRITICAL"][status]
    return status, why


def test_a_daemon_without_redis_is_well(lab):
    command = Command(lab, lab.daemon())
    assert health(command) == (0, "the daemon answers")
    for option in ("--redis", "--ready"):
        status, why = health(command, option)
        assert status == 0 and "without Redis" in why


def test_a_daemon_that_is_gone_or_hangs_is_not(lab):
    daemon = lab.daemon()
    command = Command(lab, daemon)
    daemon.stop()
    status, why = health(command, "--timeout", "0.5")
    assert status == 2 and "not answered" in why
    daemon.resume()
    assert health(command)[0] == 0
    daemon.terminate()
    status, why = health(command, "--ready")
    assert status == 2 and str(daemon.socket_path) in why
    assert command.run("health", "--timeout", "0")[0] == 64


def test_redis_that_is_away_matters_where_it_is_asked_for(lab):
    redis = lab.redis()
    command = Command(lab, lab.daemon(redis))
    for option in ([], ["--redis"], ["--ready"]):
        assert health(command, *option)[0] == 0
    redis.kill()
    wait_until(lambda: health(command, "--redis")[0] == 2, "Redis is missed")
    status, why = health(command, "--ready")
    assert status == 2 and "cannot use Redis: " in why and "systemctl start redis-server" in why
    assert health(command)[0] == 0


def test_redis_that_refuses_locks_is_not_ready(lab):
    """Each lock is refused, and the connection is as good as before."""
    redis = lab.redis()
    daemon = lab.daemon(redis)
    command = Command(lab, daemon)
    redis.admin.config_set("maxmemory", 1)
    assert command.run("run", "-n", "full", "--", "true")[0] == 68
    status, why = health(command, "--ready")
    assert status == 2 and "OOM" in why and "CONFIG SET maxmemory" in why
    assert health(command, "--redis")[0] == 1
    assert health(command)[0] == 0
    wait_until(lambda: any("Redis refuses locks (OOM" in line for line in daemon.notify.lines("STATUS=")), "the status line")
    redis.admin.config_set("maxmemory", 0)
    assert command.run("run", "-n", "full", "--", "true")[0] == 0
    assert health(command, "--ready")[0] == 0


def test_redis_with_other_data_is_a_warning_and_not_ready(lab):
    redis = lab.redis()
    daemon = lab.daemon(redis, lease_ms=20_000)
    command, client = Command(lab, daemon), daemon.client()
    client.acquire("orders")
    redis.admin.flushall()
    client.request("acquire", name="other")
    wait_until(lambda: health(command, "--redis")[0] == 1, "the other data are noticed")
    status, why = health(command, "--ready")
    assert status == 2 and "other data than before" in why
    assert health(command)[0] == 0


def test_a_session_is_ended_and_what_it_held_is_free(lab):
    daemon = lab.daemon()
    command, client, other = Command(lab, daemon), daemon.client(), daemon.client()
    client.acquire("orders")
    waiting = other.queue("orders")
    session = client.call("initialize")["session"]
    status, out, _ = command.run("kill", session, "--reason", "hangs since noon")
    assert status == 0 and json.loads(out) == {"session": session}
    client.wait_for_end()
    assert other.reply_to(waiting)["token"]
    wait_until(
        lambda: "session ended by an administrator" in daemon.log() and "hangs since noon" in daemon.log(),
        "the log says who and why")
    status, _, err = command.run("kill", session)
    assert status == 1 and "no session of that name" in err


@pytest.mark.skipif(os.geteuid() != 0, reason="other users can only be tried as root")
@pytest.mark.parametrize(
    "rules, is_allowed", [
        ([], False), ([f"allow break * to user:{ANNA}"], True), ([f"allow break orders to user:{ANNA}"], False),
        ([f"deny break secret to user:{ANNA}", f"allow break * to user:{ANNA}"], False)])
def test_who_may_break_every_lock_may_end_sessions(lab, rules, is_allowed):
    daemon = lab.daemon(args=[word for rule in rules for word in ("--rule", rule)])
    anna, client = ProcessClient(lab, daemon, user=ANNA), daemon.client()
    client.acquire("orders")
    session = client.call("initialize")["session"]
    if is_allowed:
        assert anna.call("kill", session=session) == {"session": session}
        client.wait_for_end()
    else:
        error = anna.error("kill", session=session)
        assert (error["code"], error["data"]) == (6, {"reason": "denied", "right": "break"})
        assert client.call("release", name="orders")["remaining"] == 0
