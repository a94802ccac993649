"""The record: what the setting `audit` has the daemon write down of locks and sessions, and what it always does."""

import os
import pwd
import re
import shlex
import signal
import subprocess

import pytest

from harness.process_client import ProcessClient
from harness.waiting import wait_until

USER = pwd.getpwuid(os.getuid()).pw_name


def entries(daemon, message):
    """The fields of the entries with a message, oldest first."""
    found = []
    for line in daemon.log().splitlines():
        match = re.match(rf"\S+ (?:info|notice|warning|error) +{re.escape(message)}(?: (.*))?$", line)
        # The last line may be half written.
        if match and line in daemon.log():
            found.append(dict(part.split("=", 1) for part in shlex.split(match[1] or "")))
    return found


def entry(daemon, message, **wanted):
    """The one entry with a message and these fields."""
    def look():
        return [one for one in entries(daemon, message) if wanted.items() <= one.items()]
    wait_until(look, f"{message} {wanted}")
    (one,) = look()
    return one


@pytest.fixture(params=["redis", "local"])
def start(request, lab):
    def make(*rules, **options):
        args = [part for rule in rules for part in ("--audit", rule)] + list(options.pop("args", ()))
        return lab.daemon(lab.redis() if request.param == "redis" else None, args=args, **options)
    return make


def test_each_kind_has_its_fields(start):
    daemon = start("record all *")
    client, other = daemon.client(), daemon.client()
    session = client.call("initialize", client={"name": "shop", "version": "3"})["session"]
    theirs = other.call("initialize")["session"]
    token = client.acquire("orders", meta="nightly \"x\"\nrun", owner="thread 1")
    waiting = other.queue("orders")
    error = client.error_of(client.request("acquire", name="orders", wait_ms=1))
    assert error.reason == "timeout"
    client.release("orders", token)
    later = other.reply_to(waiting)["token"]
    of_us = {"session": session, "pid": str(os.getpid()), "uid": str(os.getuid()), "user": USER, "client": "shop 3"}
    granted = entry(daemon, "lock granted", token=str(token))
    assert granted.items() >= {
        **of_us, "lock": "orders", "mode": "exclusive", "owner": "thread 1", "meta": 'nightly "x"\\nrun'}.items()
    assert int(granted["waited_ms"]) >= 0
    assert granted["command"] in open("/proc/self/comm", encoding="utf-8").read()
    waits = entry(daemon, "waiting for a lock", session=theirs)
    assert waits["lock"] == "orders" and waits["waiters"] == "1" and f"session {session}" in waits["holder"]
    timeout = entry(daemon, "lock not acquired", session=session)
    assert timeout["reason"] == "timeout" and int(timeout["waited_ms"]) >= 1 and timeout["user"] == USER
    released = entry(daemon, "lock released", token=str(token))
    assert released["reason"] == "released" and int(released["held_ms"]) >= 1 and released["client"] == "shop 3"
    assert int(entry(daemon, "lock granted", token=str(later))["waited_ms"]) >= 1
    other.close()
    assert entry(daemon, "lock released", token=str(later))["reason"] == "session_ended"
    assert entry(daemon, "lock released", token=str(later))["pid"] == str(os.getpid())
    assert int(entry(daemon, "session ended", session=theirs)["lasted_ms"]) >= 1
    for who in (session, theirs):
        assert entry(daemon, "session began", session=who)["user"] == USER


def test_a_wait_for_another_host_is_written_down(lab):
    redis = lab.redis()
    daemon, other = lab.daemon(redis, args=["--audit", "record wait *", "--host", "one"]), lab.daemon(redis, args=["--host", "two"])
    mine, theirs = daemon.client(), other.client()
    theirs.acquire("orders")
    mine.request("acquire", name="orders")
    assert entry(daemon, "waiting for a lock", lock="orders")["holder"] == "host two"


def test_what_nobody_has_to_wait_for_is_no_wait(start):
    daemon = start("record wait,grant *")
    client = daemon.client()
    client.acquire("orders")
    entry(daemon, "lock granted", lock="orders")
    assert entries(daemon, "waiting for a lock") == []


def test_the_first_rule_that_fits_decides(start):
    daemon = start("omit grant orders/cache/*", "record grant,release orders/*", 'record grant "a b"')
    client = daemon.client()
    for name in ("orders/cache/1", "orders/2", "a b", "a", "orders"):
        client.release(name, client.acquire(name))
    entry(daemon, "lock granted", lock="a b")
    entry(daemon, "lock granted", lock="orders/2")
    entry(daemon, "lock released", lock="orders/2")
    entry(daemon, "lock released", lock="orders/cache/1")
    assert len(entries(daemon, "lock granted")) == 2 and len(entries(daemon, "lock released")) == 2
    assert entries(daemon, "session began") == []


def test_nothing_is_written_unless_asked_for_but_what_always_is(start):
    daemon = start(args=("--waits-per-session-max", "1"))
    client = daemon.client()
    session = client.call("initialize", client={"name": "shop"})["session"]
    client.release("orders", client.acquire("orders"))
    token = client.acquire("short", max_hold_ms=5, meta="note")
    client.notification("lost")
    lost = entry(daemon, "lock lost", token=str(token))
    assert lost.items() >= {"lock": "short", "session": session, "reason": "max_hold", "meta": "note", "user": USER}.items()
    assert int(lost["held_ms"]) >= 5 and lost["client"] == "shop"
    token = client.acquire("orders")
    client.request("acquire", name="orders")
    for _ in range(5):
        assert client.error_of(client.request("acquire", name="orders")).data["limit"] == "waits_per_session"
    met = entry(daemon, "a limit was met")
    assert met.items() >= {"limit": "waits_per_session", "count": "1", "session": session, "user": USER}.items()
    admin = daemon.client()
    assert token in admin.call("break", name="orders", reason="stuck")["broken"]
    broken = entry(daemon, "lock broken", token=str(token))
    assert broken.items() >= {"session": session, "user": USER, "reason": "stuck"}.items()
    assert f"user {USER}" in broken["by"]
    admin.call("kill", session=session, reason="enough")
    killed = entry(daemon, "session ended by an administrator", session=session)
    assert killed.items() >= {"pid": str(os.getpid()), "reason": "enough"}.items()
    assert entries(daemon, "lock granted") == entries(daemon, "lock released") == entries(daemon, "lock not acquired") == []


def test_whom_the_daemon_ends_is_named(lab):
    daemon = lab.daemon()
    silent = daemon.client()
    session = silent.call("initialize", client={"name": "shop", "version": "3"}, keepalive_ms=1000)["session"]
    silent.acquire("orders")
    ended = entry(daemon, "session ended by the daemon", session=session)
    assert ended.items() >= {
        "reason": "silent", "pid": str(os.getpid()), "uid": str(os.getuid()), "user": USER, "client": "shop 3"}.items()
    assert ended["command"] in open("/proc/self/comm", encoding="utf-8").read()


def test_whose_process_gets_a_signal_is_named(lab):
    daemon = lab.daemon(args=["--audit", "record session *"])
    client = ProcessClient(lab, daemon)
    session = client.call("initialize", client={"name": "shop", "version": "3"})["session"]
    client.call("acquire", name="orders", on_lost="kill")
    # It is not held up by the look-up of the user, which is over with this entry.
    entry(daemon, "session began", session=session)
    daemon.client().call("break", name="orders")
    told = entry(daemon, "signal to the process of a client that lost a lock", session=session)
    assert told.items() >= {
        "signal": "SIGKILL", "outcome": "sent", "pid": str(client.pid), "uid": str(os.getuid()), "user": USER,
        "client": "shop 3"}.items()


def test_another_level_of_the_log_leaves_it_as_it_is(start):
    daemon = start("record grant *", args=("--log-level", "error"))
    daemon.client().acquire("orders")
    entry(daemon, "lock granted", lock="orders")


def test_a_reload_changes_it(lab, tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("log_level: info\n")
    daemon = lab.daemon(args=["--config", str(file)])
    client = daemon.client()
    client.release("first", client.acquire("first"))
    file.write_text("log_level: info\naudit:\n  - record grant *\n")
    daemon.process.send_signal(signal.SIGHUP)

    def is_recorded():
        # The log tells of the reload a little before the event loop goes by it.
        client.release("second", client.acquire("second"))
        return entries(daemon, "lock granted")

    wait_until(is_recorded, "the reload")
    assert {granted["lock"] for granted in entries(daemon, "lock granted")} == {"second"}
    assert entry(daemon, "setting changed", setting="audit").items() >= {"from": "none", "to": "record grant *"}.items()


def test_what_is_left_out_is_counted(lab):
    daemon = lab.daemon(args=["--audit", "record grant,release *"])
    client = daemon.client()
    total = 5000
    for _ in range(total // 50):
        requests = [client.request(method, name="hot") for _ in range(25) for method in ("acquire", "release")]
        for request in requests:
            client.reply_to(request)
    assert daemon.terminate() == 0
    for message in ("lock granted", "lock released"):
        written = len(entries(daemon, message))
        left = sum(int(one["count"]) for one in entries(daemon, "log messages left out") if one["kind"] == message)
        assert written + left == total // 2 and 1000 <= written
        assert left > 0


@pytest.mark.skipif(os.geteuid() != 0, reason="other users can only be tried as root")
def test_nobody_can_have_the_entries_of_others_left_out(lab):
    daemon = lab.daemon(args=["--audit", "record grant *", "--socket-mode", "0666"])
    lab.directory.chmod(0o755)
    daemon.directory.chmod(0o755)
    program = """import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
lines = s.makefile()
for _ in range(60):
    s.sendall(b"".join(b'{"id":1,"method":"%s","params":{"name":"hot"}}\\n' % m for m in (b"acquire", b"release") * 50))
    for _ in range(100):
        assert "result" in lines.readline()
"""
    subprocess.run(["python3", "-c", program, str(daemon.socket_path)], user=61_001, group=61_001, extra_groups=[], check=True)
    token = daemon.client().acquire("mine")
    entry(daemon, "lock granted", token=str(token))
    assert daemon.terminate() == 0
    left = [one for one in entries(daemon, "log messages left out") if one["kind"] == "lock granted"]
    assert {one["uid"] for one in left} == {"61001"}
    written = [one for one in entries(daemon, "lock granted") if one["uid"] == "61001"]
    assert 1000 <= len(written) == 3000 - sum(int(one["count"]) for one in left)


def test_who_has_no_right_is_written_down(start):
    daemon = start("record timeout *", args=("--rule", "deny use secret to everyone"))
    client = daemon.client()
    session = client.call("initialize")["session"]
    assert client.error_of(client.request("acquire", name="secret")).reason == "denied"
    denied = entry(daemon, "lock not acquired", lock="secret")
    assert denied.items() >= {"reason": "denied", "session": session, "user": USER, "waited_ms": "0"}.items()
    assert client.error_of(client.request("acquire", names=["open", "secret"])).reason == "denied"
    assert entry(daemon, "lock not acquired", lock="open")["reason"] == "denied"
    wait_until(lambda: len(entries(daemon, "lock not acquired")) == 3, "all of them")


def test_a_session_that_began_before_it_was_logged_has_its_time(lab, tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("log_level: info\n")
    daemon = lab.daemon(args=["--config", str(file)])
    client = daemon.client()
    session = client.call("initialize")["session"]
    file.write_text("audit:\n  - record session *\n")
    daemon.process.send_signal(signal.SIGHUP)

    def is_logged():
        daemon.client().call("initialize")
        return entries(daemon, "session began")
    wait_until(is_logged, "the reload")
    client.close()
    assert int(entry(daemon, "session ended", session=session)["lasted_ms"]) >= 0


def test_no_break_is_left_out(lab):
    daemon = lab.daemon()
    client, admin = daemon.client(), daemon.client()
    tokens = [client.acquire(f"lock-{index}") for index in range(100)]
    for index in range(100):
        admin.call("break", name=f"lock-{index}")
    wait_until(lambda: len(entries(daemon, "lock broken")) == 100, "every break")
    assert {one["token"] for one in entries(daemon, "lock broken")} == set(map(str, tokens))
    assert {one["token"] for one in entries(daemon, "lock lost")} == set(map(str, tokens))


def test_the_arguments_of_a_program_are_not_written_down(lab):
    """They may hold secrets, and the log is read by others than a process's own user."""
    daemon = lab.daemon(args=["--audit", "record all *"])
    program = """import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(b'{"id":1,"method":"acquire","params":{"name":"orders"}}\\n')
s.recv(4096)
"""
    subprocess.run(["python3", "-c", program, str(daemon.socket_path), "--password=hunter2"], check=True)
    granted = entry(daemon, "lock granted", lock="orders")
    assert granted["command"].startswith("python3")
    entry(daemon, "session ended", pid=granted["pid"])
    assert "hunter2" not in daemon.log()


def test_who_half_closes_and_keeps_something_is_named_once(start):
    daemon = start()
    client = daemon.client()
    session = client.call("initialize", half_close="hold")["session"]
    client.acquire("orders")
    client.acquire("other")
    client.half_close()
    told = entry(daemon, "a client has half-closed its connection and keeps locks")
    assert told.items() >= {"session": session, "lock": "orders", "held": "2", "user": USER}.items()


def test_a_rule_that_is_wrong_is_refused_with_its_place(lab):
    for rule, words in (
        ("grant orders/*", "record or omit"), ("record grants orders/*", '"grants" is not expected here'),
        ("record session orders/*", "session goes with the name *"), ("record grant a to everyone", "a name with spaces stands in quotes"),
    ):
        daemon = lab.daemon(args=["--audit", rule], wait=False)
        daemon.may_fail = True
        assert daemon.process.wait() == 78
        assert words in daemon.log(), daemon.log()
