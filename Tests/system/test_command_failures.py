"""Each way in which the command fails has a status of its own, says why, and says which command mends it."""

import contextlib
import grp
import os
import re
import socket
import subprocess
import threading

import pytest
from harness.command import Command
from harness.daemon import binary, clean_environment
from harness.waiting import GENEROUS_SECONDS, wait_until
from test_lifecycle import run_daemon

TRUE = ["run", "-n", "orders", "--", "true"]


def garbage_server(path):
    """A socket at which somebody talks who is no daemon."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connection.sendall(b"220 smtp.example\r\n")

    threading.Thread(target=serve, daemon=True).start()
    return listener


def busy(lab):
    daemon = lab.daemon()
    daemon.client().acquire("orders")
    return daemon, TRUE


def other_use(lab):
    daemon = lab.daemon()
    daemon.client().acquire("orders")
    return daemon, ["run", "--permits", "2", "-n", "orders", "--", "true"]


def no_redis(lab):
    redis = lab.redis()
    daemon = lab.daemon(redis)
    redis.kill()
    wait_until(lambda: not daemon.client().call("stats")["redis"]["connected"], "the daemon to see it")
    return daemon, TRUE


def no_daemon(lab):
    daemon = lab.daemon()
    daemon.terminate()
    return daemon, TRUE


def no_protocol(lab):
    class Place:
        socket_path = lab.directory / "smtp"
        listener = garbage_server(socket_path)
    return Place, TRUE


def limit(lab):
    daemon = lab.daemon(args=["--holds-per-uid-max", "1"])
    daemon.client().acquire("other")
    return daemon, TRUE


def no_replicas(lab):
    return lab.daemon(lab.redis()), ["run", "--replicas", "1", "orders", "--", "true"]


def deadlock(lab):
    return lab.daemon(), ["run", "orders", "--", binary("sidelock", "SIDELOCK"), "run", "orders", "--", "true"]


def denied(lab):
    return lab.daemon(args=["--rule", "deny use orders to everyone"]), TRUE


def with_command(*command):
    return lambda lab: (lab.daemon(), ["run", *command])


# A row: what the help says of the status, the status, how it comes about, and what is said.
FAILURES = [
    (1, busy, "busy: held by"),
    (64, with_command("orders"), "COMMAND is missing"),
    (65, other_use, "in use as a lock, held exclusively"),
    (68, no_redis, "Redis cannot be reached"),
    (69, no_daemon, "no daemon listens"),
    (70, no_protocol, "does not speak sidelock's protocol"),
    (71, limit, "holds_per_uid_max"),
    (73, no_replicas, "too few replicas"),
    (76, deadlock, "would wait for itself"),
    (77, denied, "no right to use that lock"),
    (124, with_command("--max-hold", "100ms", "orders", "--", "sleep", "1000"), "held orders for 100 ms"),
    (126, with_command("orders", "--", "/etc/passwd"), "/etc/passwd"),
    (127, with_command("orders", "--", "/nonexistent/x"), "/nonexistent/x"),
]


@pytest.mark.parametrize("status, way, words", FAILURES, ids=[str(row[0]) for row in FAILURES])
def test_each_failure_has_a_status_of_its_own_and_a_reason(lab, status, way, words):
    place, arguments = way(lab)
    found, out, err = Command(lab, place).run(*arguments)
    assert (found, out) == (status, ""), err
    assert words in err
    assert not re.search(r"wait_ms|data\.|Connection errors|SingleConnectionFailure|\(error set\)", err), err


def test_the_help_tells_each_status(sidelock):
    _, text, _ = sidelock.run("run", "--help")
    listed = {int(number) for number in re.findall(r"^ +(\d+) ", text.split("EXIT STATUS")[1].split("EXAMPLES")[0], re.MULTILINE)}
    # 125 stands in the tests of losses.
    assert listed == {row[0] for row in FAILURES} | {125}


# The command that mends it

FAILED_UNIT = """#!/bin/sh
cat <<'END'
LoadState=loaded
ActiveState=failed
SubState=failed
Result=exit-code
ExecMainCode=1
ExecMainStatus=78
END
"""


def run_as(user, groups, environment, *arguments):
    done = subprocess.run(
        [binary("sidelock", "SIDELOCK"), *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL,
        env=environment, user=user, group=user, extra_groups=groups, timeout=GENEROUS_SECONDS, check=False)
    return done.returncode, done.stderr


def test_no_daemon_names_the_command_that_starts_it(lab):
    daemon, arguments = no_daemon(lab)
    status, _, err = Command(lab, daemon).run(*arguments)
    assert status == 69 and f"sidelockd --redis URL --socket {daemon.socket_path}" in err


def test_a_bad_file_names_the_command_that_checks_it(lab):
    """systemd knows that the service ended with 78."""
    daemon, arguments = no_daemon(lab)
    directory = lab.directory / "bin"
    directory.mkdir()
    (directory / "systemctl").write_text(FAILED_UNIT)
    (directory / "systemctl").chmod(0o755)
    done = subprocess.run(
        [binary("sidelock", "SIDELOCK"), *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL,
        env={**Command(lab, daemon).environment, "PATH": f"{directory}:{os.environ['PATH']}"},
        timeout=GENEROUS_SECONDS, check=False)
    assert done.returncode == 69
    assert "sidelockd.service is failed (exit 78)" in done.stderr
    assert "sidelockd --config /etc/sidelock/sidelockd.yaml --check" in done.stderr


def test_no_redis_names_the_command_that_starts_it(lab):
    daemon, arguments = no_redis(lab)
    status, _, err = Command(lab, daemon).run(*arguments)
    assert status == 68 and "systemctl start redis-server" in err


def test_a_daemon_that_takes_no_more_clients_says_so(lab):
    """It closes the connection, maybe before the request is written; what it said last is read all the same."""
    daemon = lab.daemon(args=["--connections-max", "1"])
    command = Command(lab, daemon)
    daemon.client().call("ping")
    for _ in range(40):
        status, _, err = command.run(*TRUE)
        assert status == 71 and "connections_max" in err and "systemctl reload-or-restart sidelockd" in err, (status, err)


def test_a_wrong_password_names_file_and_command(lab):
    redis = lab.redis()
    redis.admin.config_set("requirepass", "right")
    daemon = lab.daemon(redis, wait=False)
    wait_until(lambda: daemon.socket_path.exists() and "password" in daemon.log(), "the refusal")
    status, _, err = Command(lab, daemon).run(*TRUE)
    assert status == 68 and "password" in err and "systemctl restart sidelockd" in err, err
    redis.admin.config_set("requirepass", "")


@pytest.mark.skipif(os.geteuid() != 0, reason="other users can only be tried as root")
@pytest.mark.parametrize("group", ["another group", "the group of root"])
def test_a_socket_that_is_closed_names_the_command_that_opens_it(lab, group):
    daemon = lab.daemon()
    # The directory of the test is root's alone.
    lab.directory.chmod(0o755)
    number = 61_100 if group == "another group" else 0
    os.chown(daemon.socket_path, 0, number)
    os.chmod(daemon.socket_path, 0o660)
    environment = clean_environment(SIDELOCK_SOCKET=str(daemon.socket_path), XDG_RUNTIME_DIR="/nonexistent")
    status, err = run_as(61_001, [], environment, *TRUE)
    assert status == 77, err
    assert ("sudo usermod -aG 61100 " if number else "--socket-mode 0666") in err
    assert number or "usermod" not in err
    # Who is in the group gets in.
    if number:
        assert run_as(61_001, [number], environment, *TRUE) == (0, "")


@pytest.mark.skipif(os.geteuid() != 0, reason="other users can only be tried as root")
@pytest.mark.parametrize("group", ["61100", "nogroup"])
def test_a_socket_is_for_the_group_that_the_settings_name(lab, group):
    number = 61_100 if group == "61100" else grp.getgrnam(group).gr_gid
    daemon = lab.daemon(args=["--socket-group", group])
    lab.directory.chmod(0o755)
    daemon.directory.chmod(0o755)
    status = os.stat(daemon.socket_path)
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (0, number, 0o660)
    environment = clean_environment(SIDELOCK_SOCKET=str(daemon.socket_path), XDG_RUNTIME_DIR="/nonexistent")
    assert run_as(61_001, [number], environment, *TRUE) == (0, "")
    assert run_as(61_001, [], environment, *TRUE)[0] == 77


def test_a_group_that_does_not_exist_or_may_not_be_given_is_told(lab):
    for check in ([], ["--check"]):
        done = run_daemon("--local", "--socket", lab.directory / "s", "--socket-group", "no-such-group", *check)
        assert done.returncode == 78 and 'this host has no group "no-such-group"' in done.stdout + done.stderr
        # What chown takes for "leave it as it is", and a text that is no number of a group.
        for group, words in ((2 ** 32 - 1, "no group has the number 4294967295"), ("+4", 'this host has no group "+4"')):
            done = run_daemon("--local", "--socket", lab.directory / "s", "--socket-group", group, *check)
            assert done.returncode == 78 and words in done.stdout + done.stderr
            assert not (lab.directory / "s").exists()
    if os.geteuid() == 0:
        lab.directory.chmod(0o777)
        program = ["setpriv", "--reuid", "61001", "--regid", "61001", "--clear-groups", binary("sidelockd", "SIDELOCKD")]
        done = subprocess.run(
            [*program, "--local", "--socket", lab.directory / "s", "--socket-group", "61100"], capture_output=True,
            text=True, timeout=GENEROUS_SECONDS, check=False, env=clean_environment())
        assert done.returncode != 0 and "must be root, or a member of it" in done.stdout + done.stderr
        assert not (lab.directory / "s").exists()


def test_a_right_that_is_missing_names_the_rule_that_gives_it(lab):
    daemon, arguments = denied(lab)
    _, _, err = Command(lab, daemon).run(*arguments)
    assert '"allow use orders to user:NAME"' in err and "systemctl reload-or-restart sidelockd" in err
