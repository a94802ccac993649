"""`warn_hold_ms`: the log says once who has a lock for long."""

import re
from datetime import datetime, timezone

import pytest
from harness.command import Command
from harness.waiting import wait_until

MESSAGE = "lock held for long"


def lines(daemon):
    return [line for line in daemon.log().splitlines() if MESSAGE in line]


def fields(line):
    return {name: quoted or bare for name, quoted, bare in re.findall(r' (\w+)=(?:"([^"]*)"|(\S*))', line)}


@pytest.mark.parametrize("is_local", [True, False])
def test_a_lock_that_is_held_for_long_is_logged_once(lab, is_local):
    began = datetime.now(timezone.utc)
    daemon = lab.daemon(*([] if is_local else [lab.redis()]), args=["--warn-hold-ms", "300"])
    client, other = daemon.client(), daemon.client()
    token = client.acquire("a lock")
    other.queue("a lock")
    client.release("short", client.acquire("short"))
    [line] = wait_until(lambda: lines(daemon), "the line")
    found = fields(line)
    assert " warning " in line
    assert (found["lock"], found["token"], found["waiting"]) == ("a lock", str(token), "1")
    assert found["session"] == client.call("initialize")["session"]
    assert int(found["pid"]) > 0 and found["uid"] == "0" and found["command"] and int(found["held_ms"]) >= 300
    since = datetime.fromisoformat(found["since"].replace("Z", "+00:00"))
    assert began <= since.astimezone(timezone.utc) <= datetime.now(timezone.utc)
    # It goes on, and so does another one, that is told when its time has come.
    last = client.acquire("another")
    wait_until(lambda: len(lines(daemon)) == 2, "the second line")
    assert fields(lines(daemon)[1])["token"] == str(last)
    assert client.call("stats")["held_long_total"] == 2
    status, out, _ = Command(lab, daemon).run("stats", "--openmetrics")
    assert status == 0 and "\nsidelock_held_long_total 2\n" in out


def test_very_many_do_not_fill_the_log(lab):
    daemon = lab.daemon(args=["--warn-hold-ms", "1"])
    client = daemon.client()
    for number in range(100):
        client.acquire(f"lock-{number}")
    wait_until(lambda: client.call("stats")["held_long_total"] == 100, "all of them")
    assert daemon.terminate() == 0
    told = len(lines(daemon))
    left_out = sum(map(int, re.findall(rf'left out kind="{MESSAGE}" count=(\d+)', daemon.log())))
    # The lines of those that were left out name the message, too.
    told -= len(re.findall(rf'left out kind="{MESSAGE}"', daemon.log()))
    assert 20 <= told < 100 and told + left_out == 100


def test_it_is_off_unless_set_and_changes_at_a_reload(lab):
    config = lab.directory / "sidelockd.yaml"
    config.write_text("")
    daemon = lab.daemon(args=["--config", str(config)])
    client = daemon.client()
    client.acquire("before")
    config.write_text("warn_hold_ms: 50\n")
    daemon.reload()
    client.acquire("after")
    [line] = wait_until(lambda: lines(daemon), "the line")
    assert fields(line)["lock"] == "after"
