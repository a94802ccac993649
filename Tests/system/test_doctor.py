"""`sidelock doctor`: each finding, on a server, a service or settings that are wrong in that way."""

import json
import os
import shlex
import subprocess
import sys
from types import SimpleNamespace

import pytest

from harness.command import Command, terminal_output
from harness.daemon import binary, clean_environment
from harness.waiting import GENEROUS_SECONDS, wait_until

# Numbers that are no accounts of this host.
ANNA = 61_001


def examined(command, path=None, **options):
    """The status, and the findings by what was looked at: each a list of (state, why, fix)."""
    environment = command.environment
    # Nothing is asked of a systemd of this machine.
    environment["PATH"] = f"{path}:{os.environ['PATH']}" if path else "/nonexistent"
    done = subprocess.run(
        [binary("sidelock", "SIDELOCK"), "doctor"], capture_output=True, text=True, env=environment,
        stdin=subprocess.DEVNULL, timeout=GENEROUS_SECONDS, check=False, **options)
    assert done.stderr == ""
    findings = json.loads(done.stdout)
    states = [one["state"] for one in findings]
    assert done.returncode == (2 if "bad" in states else 1 if "warn" in states else 0)
    assert all(one["why"] for one in findings) and all("fix" in one for one in findings if one["state"] != "ok")
    by_check = {}
    for one in findings:
        by_check.setdefault(one["check"], []).append((one["state"], one["why"], one.get("fix")))
    return done.returncode, by_check


def only(findings, check):
    [found] = findings[check]
    return found


@pytest.fixture
def redis(lab):
    """One with which nothing is wrong."""
    redis = lab.redis()
    redis.admin.config_set("appendonly", "yes")
    wait_until(lambda: redis.admin.info("persistence")["aof_rewrite_in_progress"] == 0, "the file is written")
    return redis


def test_nothing_is_wrong_with_what_is_right(lab, redis):
    status, findings = examined(Command(lab, lab.daemon(redis)))
    assert status == 0, findings
    assert list(findings) == [
        "socket", "groups", "service", "settings", "version", "redis", "rights", "server", "eviction", "persistence",
        "replicas", "clock", "prefixes", "hosts"]


def test_without_redis_nothing_is_asked_of_it(lab):
    status, findings = examined(Command(lab, lab.daemon()))
    assert status == 0 and "without Redis" in only(findings, "redis")[1]


def test_it_is_text_for_people(lab, redis):
    redis.admin.config_set("maxmemory-policy", "allkeys-lru")
    status, lines = terminal_output(Command(lab, lab.daemon(redis)), "doctor")
    assert status == 1
    assert any(line.startswith("ok    socket: ") for line in lines)
    place = next(index for index, line in enumerate(lines) if line.startswith("warn  eviction: "))
    assert lines[place + 1].endswith("CONFIG SET maxmemory-policy noeviction")


# The socket

def test_a_daemon_that_is_not_there(lab):
    daemon = lab.daemon()
    daemon.terminate()
    _, findings = examined(Command(lab, daemon))
    state, why, fix = only(findings, "socket")
    assert state == "bad" and "no daemon listens" in why and str(daemon.socket_path) in fix


def test_the_command_for_a_path_can_be_typed(lab):
    daemon = lab.daemon()
    command = Command(lab, daemon)
    for name, words in (("no daemon's", "sidelockd --redis URL --socket "), ("file", "sidelock doctor --socket /run/"),
                        ("long" * 40, "sidelock doctor --socket /run/")):
        path = lab.directory / name
        if name == "file":
            path.write_text("")
        daemon.socket_path = path
        state, _, fix = only(examined(command)[1], "socket")
        assert state == "bad" and fix.startswith(words) and "--local" not in fix
        assert name != "no daemon's" or shlex.split(fix)[-1] == str(path)


def test_a_daemon_that_hangs(lab):
    daemon = lab.daemon()
    daemon.stop()
    state, why, _ = only(examined(Command(lab, daemon))[1], "socket")
    assert state == "bad" and "not answered" in why


@pytest.mark.skipif(os.geteuid() != 0, reason="other users can only be tried as root")
def test_a_socket_that_the_user_may_not_open(lab):
    daemon = lab.daemon()
    lab.directory.chmod(0o755)
    daemon.directory.chmod(0o755)
    daemon.socket_path.chmod(0o600)
    state, why, fix = only(examined(Command(lab, daemon), user=ANNA, extra_groups=[])[1], "socket")
    assert state == "bad" and "no permission" in why and fix == f"ls -l {daemon.socket_path}"


@pytest.mark.skipif(os.geteuid() != 0, reason="other users can only be tried as root")
def test_who_is_not_told_everything_is_told_so(lab, redis):
    daemon = lab.daemon(redis)
    lab.directory.chmod(0o755)
    daemon.directory.chmod(0o755)
    daemon.socket_path.chmod(0o666)
    status, findings = examined(Command(lab, daemon), user=ANNA, extra_groups=[])
    assert status == 1
    for check in ("settings", "server"):
        state, why, fix = only(findings, check)
        assert (state, fix) == ("warn", f"sudo sidelock doctor --socket {shlex.quote(str(daemon.socket_path))}") and "may not" in why


# The service

@pytest.fixture
def systemctl(lab):
    """A directory for PATH with a systemctl that tells these properties."""
    def tells(daemon, **properties):
        directory = lab.directory / "bin"
        directory.mkdir()
        lines = {"LoadState": "loaded", "ActiveState": "active", "MainPID": daemon.pid, "NeedDaemonReload": "no",
                 "DropInPaths": "", "NoNewPrivileges": "yes", "ProtectSystem": "strict",
                 "FileDescriptorStoreMax": "1040", **properties}
        program = directory / "systemctl"
        text = "\n".join(f"{name}={value}" for name, value in lines.items())
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
        program.chmod(0o755)
        return str(directory)

    return tells


@pytest.mark.parametrize("properties, check, state, words", [
    ({}, "service", "ok", "systemd runs"),
    ({}, "sandbox", "ok", "in force"),
    ({"DropInPaths": "/etc/systemd/system/sidelockd.service.d/a.conf"}, "sandbox", "ok", "d/a.conf"),
    ({"NeedDaemonReload": "yes"}, "service", "warn", "has changed since"),
    ({"FileDescriptorStoreMax": "0"}, "service", "warn", "keeps no connections"),
    ({"ActiveState": "activating"}, "service", "bad", "is activating"),
    ({"NoNewPrivileges": "no"}, "sandbox", "warn", "NoNewPrivileges is off"),
    ({"ProtectSystem": "no", "DropInPaths": "/x/b.conf"}, "sandbox", "warn", "ProtectSystem is off; drop-ins: /x/b.conf"),
    ({"MainPID": "1", "NeedDaemonReload": "yes"}, "service", "ok", "does not run this daemon"),
    ({"LoadState": "not-found"}, "service", "ok", "does not run this daemon"),
])
def test_what_systemd_says_of_the_service(lab, systemctl, properties, check, state, words):
    daemon = lab.daemon()
    found = only(examined(Command(lab, daemon), systemctl(daemon, **properties))[1], check)
    assert found[0] == state and words in found[1]


# The settings

def test_a_mistake_in_the_settings_is_found_before_the_restart(lab, tmp_path):
    config = tmp_path / "sidelock.yaml"
    config.write_text("lease_ms: 10000\n")
    daemon = lab.daemon(args=["--config", str(config)])
    command = Command(lab, daemon)
    assert only(examined(command)[1], "settings")[0] == "ok"
    config.write_text("lease_ms: 1\nlease: 5\n")
    findings = examined(command)[1]["settings"]
    assert {state for state, _, _ in findings} == {"bad"}
    assert any("lease_ms" in why and "not allowed" in why for _, why, _ in findings)
    # What is told can be typed, and says the same.
    assert {fix for _, _, fix in findings} == {f"sidelockd --config {config} --check"}


def test_paths_of_settings_are_those_of_the_daemon(lab, tmp_path):
    config = tmp_path / "sidelock.yaml"
    config.write_text("lease_ms: 10000\n")
    daemon = lab.daemon(prefix=["env", "-C", str(tmp_path)], args=["--config", config.name])
    assert only(examined(Command(lab, daemon))[1], "settings")[0] == "ok"


def test_no_program_of_the_daemon_is_run(lab):
    """Whoever serves a socket would choose what root runs that looks at it."""
    program, path, mark = (lab.directory / name for name in ("sidelockd", "socket", "mark"))
    program.write_text(f"""#!{sys.executable}
import json, os, pathlib, socket, sys
if "--check" in sys.argv:
    pathlib.Path({str(mark)!r}).touch()
server = socket.socket(socket.AF_UNIX)
server.bind({str(path)!r} + ".new")
server.listen()
os.rename({str(path)!r} + ".new", {str(path)!r})
while True:
    connection, _ = server.accept()
    for line in connection.makefile():
        connection.sendall(json.dumps({{"id": json.loads(line)["id"], "result": {{}}}}).encode() + b"\\n")
""")
    program.chmod(0o755)
    lab.track(subprocess.Popen([program]))
    wait_until(path.exists, "the socket")
    command = Command(lab, lab.daemon())
    command.daemon.socket_path = path
    findings = examined(command)[1]["settings"]
    assert {state for state, _, _ in findings} <= {"warn", "bad"} and not mark.exists(), findings


def test_no_library_of_the_daemon_is_loaded(lab, tmp_path):
    # The loader writes a file for each program that has the variable.
    daemon = lab.daemon(env={"LD_DEBUG": "libs", "LD_DEBUG_OUTPUT": str(tmp_path / "trace")})
    assert only(examined(Command(lab, daemon))[1], "settings")[0] == "ok"
    assert len(list(tmp_path.iterdir())) == 1


# Redis

def test_redis_that_is_away_or_refuses(lab, redis):
    daemon = lab.daemon(redis)
    command = Command(lab, daemon)
    redis.kill()
    client = daemon.client()
    wait_until(lambda: client.call("stats")["redis"]["connected"] == 0, "Redis is missed")
    status, findings = examined(command)
    state, _, fix = only(findings, "redis")
    assert status == 2 and state == "bad" and "systemctl start redis-server" in fix and "eviction" not in findings


def test_redis_that_refuses_locks(lab, redis):
    daemon = lab.daemon(redis)
    command = Command(lab, daemon)
    redis.admin.config_set("maxmemory", 1)
    assert command.run("run", "-n", "full", "--", "true")[0] == 68
    status, findings = examined(command)
    state, why, fix = only(findings, "redis")
    assert status == 2 and state == "bad" and "refuses locks: OOM" in why and "CONFIG SET maxmemory" in fix
    redis.admin.config_set("maxmemory", 0)


def test_a_right_that_the_daemon_needs(lab, redis):
    redis.admin.execute_command("ACL", "SETUSER", "default", "-evalsha")
    daemon = lab.daemon(redis, wait=False)
    wait_until(lambda: "evalsha" in daemon.log(), "the right is missed")
    status, findings = examined(Command(lab, daemon))
    state, why, _ = only(findings, "redis")
    assert status == 2 and state == "bad" and "evalsha" in why


@pytest.mark.parametrize("right", ["info", "pubsub", "scan"])
def test_a_right_that_may_be_missing(lab, redis, right):
    daemon = lab.daemon(redis)
    redis.admin.execute_command("ACL", "SETUSER", "default", f"-{right}")
    status, findings = examined(Command(lab, daemon))
    state, why, fix = only(findings, "rights")
    assert (status, state) == (1, "warn") and f"not allow {right}:" in why and fix.endswith(f"+{right}")
    redis.admin.execute_command("ACL", "SETUSER", "default", f"+{right}")


def test_eviction(lab, redis):
    command = Command(lab, lab.daemon(redis))
    redis.admin.config_set("maxmemory-policy", "allkeys-lru")
    assert only(examined(command)[1], "eviction")[0] == "warn"
    redis.admin.config_set("maxmemory", "1gb")
    state, why, fix = only(examined(command)[1], "eviction")
    assert state == "bad" and "allkeys-lru evicts locks" in why
    # It reaches this server, and not that of the usual port.
    assert subprocess.run(fix, shell=True, capture_output=True, text=True, check=True).stdout.strip() == "OK"
    assert only(examined(command)[1], "eviction")[0] == "ok"


def test_persistence(lab, redis):
    redis.admin.config_set("appendonly", "no")
    state, why, _ = only(examined(Command(lab, lab.daemon(redis)))[1], "persistence")
    assert state == "ok" and "no append-only file" in why
    daemon = lab.daemon(redis, args=["--durability", "disk"])
    state, _, fix = only(examined(Command(lab, daemon))[1], "persistence")
    assert state == "bad"
    subprocess.run(fix, shell=True, capture_output=True, check=True)
    assert only(examined(Command(lab, daemon))[1], "persistence")[0] == "ok"


def test_a_snapshot_that_fails(lab, redis):
    redis.admin.config_set("appendonly", "no")
    daemon = lab.daemon(redis)
    directory, name = redis.admin.config_get("dir")["dir"], redis.admin.config_get("dbfilename")["dbfilename"]
    # A directory stands where the snapshot is to be put.
    os.makedirs(f"{directory}/{name}/in-the-way")
    redis.admin.bgsave()
    wait_until(
        lambda: redis.admin.info("persistence")["rdb_last_bgsave_status"] == "err", "the snapshot fails")
    state, why, _ = only(examined(Command(lab, daemon))[1], "persistence")
    assert state == "bad" and "last snapshot failed" in why
    redis.admin.config_set("stop-writes-on-bgsave-error", "no")


def test_replicas_that_are_missing(lab, redis):
    asks = Command(lab, lab.daemon(redis, args=["--replicas", "1"]))
    state, why, _ = only(examined(asks)[1], "replicas")
    assert state == "bad" and "ask for 1 replica," in why
    plain = Command(lab, lab.daemon(redis))
    assert only(examined(plain)[1], "replicas")[0] == "ok"
    redis.admin.config_set("min-replicas-to-write", "1")
    state, why, fix = only(examined(plain)[1], "replicas")
    assert state == "bad" and "refuses writes" in why
    redis.admin.config_set(*fix.split()[-2:])


@pytest.mark.parametrize("seconds, word", [(3600, "ahead of"), (-3600, "behind")])
def test_a_server_with_another_clock(lab, seconds, word):
    redis = lab.redis()
    redis.clock_seconds = seconds
    redis.restart()
    state, why, _ = only(examined(Command(lab, lab.daemon(redis)))[1], "clock")
    assert state == "warn" and f"{word} that of this host" in why


def test_hosts_of_another_prefix_and_hosts_that_are_silent(lab, redis):
    daemon = lab.daemon(redis)
    command = Command(lab, daemon)
    lab.daemon(redis, args=["--key-prefix", "other:", "--host", "b"])
    state, why, _ = only(examined(command)[1], "prefixes")
    assert state == "warn" and "others there other:" in why
    silent = lab.daemon(redis, args=["--host", "c"])
    assert only(examined(command)[1], "hosts")[0] == "ok"
    silent.stop()
    state, why, _ = only(examined(command)[1], "hosts")
    assert state == "warn" and "no answer comes from c" in why
    silent.resume()


def test_a_daemon_in_another_database_is_none_of_these(lab):
    redis = lab.redis()
    daemon = lab.daemon(redis, args=["--host", "twin"])
    Command(lab, daemon).run("run", "warm", "--", "true")
    # Its data set is new, and nobody else is in it: no grace.
    other = Command(lab, lab.daemon(SimpleNamespace(url=f"{redis.tcp_url}/1"), args=["--host", "twin"]))
    assert other.run("run", "-w", "5s", "first", "--", "true")[0] == 0
    status, out, err = other.run("hosts")
    assert status == 0 and len(json.loads(out)) == 1 and err == ""
    assert only(examined(other)[1], "hosts")[0] == "ok"


def test_the_fix_of_a_name_holds_whatever_the_file_is_like(lab, redis, tmp_path):
    lab.daemon(redis, args=["--host", "twin"])
    _, _, fix = only(examined(Command(lab, lab.daemon(redis, args=["--host", "twin"])))[1], "hosts")
    file = tmp_path / "sidelockd.yaml"
    edit = fix.replace("/etc/sidelock/sidelockd.yaml", str(file)).removesuffix(" && systemctl restart sidelockd").replace("NAME", "own")
    for before in ["linger_ms: 100\n", "linger_ms: 100", "host: twin\nlinger_ms: 100\n", "host: twin"]:
        file.write_text(before)
        subprocess.run(["sh", "-c", edit], check=True)
        told = subprocess.run(
            [binary("sidelockd", "SIDELOCKD"), "--local", "--config", file, "--check"], capture_output=True, text=True,
            env=clean_environment(), timeout=GENEROUS_SECONDS)
        assert told.returncode == 0 and json.loads(told.stdout)["settings"]["host"]["value"] == "own", told.stderr


def test_another_prefix_is_told_of_in_each_database(lab):
    redis = lab.redis()
    place = SimpleNamespace(url=f"{redis.tcp_url}/1")
    command = Command(lab, lab.daemon(place, args=["--host", "a"]))
    for store, prefix in [(place, "other"), (redis, "elsewhere")]:
        lab.daemon(store, args=["--key-prefix", f"{prefix}:", "--host", prefix])
    state, why, _ = only(examined(command)[1], "prefixes")
    assert state == "warn" and "other:" in why and "elsewhere:" not in why


def test_another_daemon_of_the_same_name_is_noticed(lab, redis):
    lab.daemon(redis, args=["--host", "twin"])
    # Who was killed is no other one, though Redis may still list it.
    gone = lab.daemon(redis, args=["--host", "single"])
    gone.kill()
    lab.daemon(redis, args=["--host", "single"])
    command = Command(lab, lab.daemon(redis, args=["--host", "twin"]))
    state, why, fix = only(examined(command)[1], "hosts")
    assert state == "warn" and "several daemons have the name twin" in why and "host: NAME" in fix
    _, out, err = command.run("hosts")
    assert "several daemons have the name twin" in err and "single" not in err
    assert [one["host"] for one in json.loads(out)].count("twin") == 2
