"""`sidelock list`, `clients` and `hosts`: whom they show, in which order, and how."""

import json
import os
import pwd
import subprocess

import pytest

from harness.command import Command, terminal_output
from harness.daemon import binary
from harness.process_client import ProcessClient
from harness.waiting import wait_until

# A number that is no account of this host.
ANNA = 61_001


def at_a_terminal(command, *arguments):
    """The lines that the command prints for people."""
    status, lines = terminal_output(command, *arguments)
    assert status == 0
    return lines


def told(command, *arguments):
    """What the command prints in a pipe."""
    status, out, err = command.run(*arguments)
    assert (status, err) == (0, "")
    return json.loads(out)


def names(command, *arguments):
    return [lock["name"] for lock in told(command, "list", *arguments)]


def test_locks_are_chosen_by_holder_and_sorted(lab):
    daemon = lab.daemon()
    command, client = Command(lab, daemon), daemon.client()
    client.acquire("b")
    wait_until(lambda: client.call("inspect", name="b")["holders"][0]["held_ms"] > 100, "b is held for a while")
    client.acquire("a")
    for _ in range(2):
        daemon.client().queue("a")
    assert names(command) == ["a", "b"]
    assert names(command, "--sort", "held") == ["b", "a"]
    assert names(command, "--sort", "waiting") == ["a", "b"]
    assert names(command, "--waiters") == ["a"]
    assert names(command, "--older", "0.1")[-1:] == ["b"] and names(command, "--older", "3600") == []
    own = pwd.getpwuid(os.getuid()).pw_name
    for user, expected in ((own, ["a", "b"]), (os.getuid(), ["a", "b"]), (ANNA, [])):
        assert names(command, "--user", user) == expected
    assert names(command, "--unit", "none") == []
    status, _, err = command.run("list", "--user", "nobody of that name")
    assert status == 64 and "There is no user" in err
    assert command.run("list", "--sort", "size")[0] == 64


@pytest.mark.skipif(os.geteuid() != 0, reason="other users can only be tried as root")
def test_a_user_finds_its_locks_and_its_clients(lab):
    daemon = lab.daemon(args=["--rule", f"deny inspect secret to user:{ANNA}"])
    command, root, anna = Command(lab, daemon), daemon.client(), ProcessClient(lab, daemon, user=ANNA)
    root.acquire("a")
    anna.call("acquire", name="b")
    assert names(command, "--user", ANNA) == ["b"] and names(command, "--user", 0) == ["a"]
    own = anna.call("initialize")["session"]
    assert [one["session"] for one in anna.call("clients")["clients"]] == [own]
    assert len(anna.call("hosts")["hosts"]) == 1
    clients = told(command, "clients")
    assert {one["uid"] for one in clients} == {0, ANNA} and own in [one["session"] for one in clients]


def test_clients_are_told_with_what_they_have(lab):
    daemon = lab.daemon()
    command, client, other = Command(lab, daemon), daemon.client(), daemon.client()
    client.acquire("a")
    client.acquire("b")
    other.queue("a")
    sessions = [one.call("initialize")["session"] for one in (client, other)]
    clients = told(command, "clients")
    assert [one["session"] for one in clients[:2]] == sessions
    assert [(one["holds"], one["waits"]) for one in clients] == [(2, 0), (0, 1), (0, 0)]
    first, own = clients[0], clients[2]
    assert (first["pid"], first["uid"], first["user"]) == (os.getpid(), os.getuid(), pwd.getpwuid(os.getuid()).pw_name)
    assert "python" in first["command"] and own["command"] == "sidelock"
    # More than fit on one page of an answer.
    more = [daemon.client() for _ in range(150)]
    assert len(told(command, "clients")) == 2 + len(more) + 1
    lines = at_a_terminal(command, "clients")
    assert lines[0].split() == ["SESSION", "PID", "USER", "COMMAND", "UNIT", "HOLDS", "WAITS"]
    assert len(lines) == 1 + 2 + len(more) + 1
    assert lines[1].split()[0] == sessions[0] and lines[1].split()[-2:] == ["2", "0"]


def test_tables_keep_to_eighty_columns(lab):
    daemon = lab.daemon()
    command, client = Command(lab, daemon), daemon.client()
    client.acquire("n" * 200, meta="m" * 200)
    for arguments in (["list"], ["clients"], ["hosts"]):
        lines = at_a_terminal(command, *arguments)
        assert len(lines) >= 2 and max(map(len, lines)) <= 80, arguments
    assert max(map(len, at_a_terminal(command, "list"))) == 80
    # A program is told all of it.
    assert names(command) == ["n" * 200]


def test_hosts_are_those_on_the_same_redis_under_the_same_prefix(lab):
    redis = lab.redis()
    first, second = lab.daemon(redis, args=["--host", "a"]), lab.daemon(redis, args=["--host", "b"])
    lab.daemon(redis, args=["--host", "c", "--key-prefix", "other:"])
    command = Command(lab, first)
    version = subprocess.run(
        [binary("sidelockd", "SIDELOCKD"), "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
    hosts = told(command, "hosts")
    assert [(one["host"], one["own"], one["version"]) for one in hosts] == [("a", True, version), ("b", False, version)]
    assert [one["instance"] for one in hosts] == [
        one.client().call("initialize")["instance"] for one in (first, second)]
    # Anybody may listen to a channel that looks like an inbox.
    listener = redis.admin.pubsub()
    listener.subscribe("sidelock:inbox:z/1", "sidelock:inbox:nothing", b"sidelock:inbox:\xff/1")
    wait_until(lambda: [one["host"] for one in told(command, "hosts")] == ["a", "b", "z"], "the strange inbox is told")
    lines = at_a_terminal(command, "hosts")
    assert lines[0].split() == ["HOST", "VERSION", "INSTANCE", "NOTE"]
    assert "this host" in lines[1] and lines[3].endswith("does not answer")
    redis.kill()
    wait_until(lambda: command.run("hosts")[0] == 68, "the hosts cannot be told without Redis")


def test_without_redis_there_is_one_host(lab):
    [host] = told(Command(lab, lab.daemon()), "hosts")
    assert host["own"]


def test_a_lock_that_another_host_has_is_listed_with_that_host(lab):
    redis = lab.redis()
    here, there = lab.daemon(redis, args=["--host", "here"]), lab.daemon(redis, args=["--host", "there"])
    there.client().acquire("jobs")
    here.client().queue("jobs")
    redis.admin.set("sidelock:{foreign}", "somebody", px=600_000)
    here.client().request("acquire", name="foreign")
    command = Command(lab, here)

    def listed():
        return {lock["name"]: lock["holders"] for lock in told(command, "list")}

    wait_until(lambda: listed().get("foreign"), "the answer of Redis")
    assert listed() == {"jobs": [{"host": "there"}], "foreign": [{"foreign": True}]}
    assert at_a_terminal(command, "list")[2].split()[:3] == ["jobs", "-", "there"]
    # The holder's own host tells who it is.
    [holder] = told(Command(lab, there), "list", "--prefix", "jobs")[0]["holders"]
    assert holder["user"] == pwd.getpwuid(os.getuid()).pw_name


def test_people_see_users_by_name(lab):
    daemon = lab.daemon()
    command, client = Command(lab, daemon), daemon.client()
    own = pwd.getpwuid(os.getuid()).pw_name
    client.acquire("jobs")
    daemon.client().queue("jobs")
    heading, row = at_a_terminal(command, "list")
    assert row[heading.index("USER"):].split()[0] == own
    shown = at_a_terminal(command, "inspect", "jobs")
    assert f"  user    {own}" in shown and any(f", user {own}" in line for line in shown)
    inspected = told(command, "inspect", "jobs")
    assert [one["user"] for one in inspected["holders"] + inspected["waiters"]] == [own, own]


def test_a_watch_says_who_it_is(lab):
    daemon = lab.daemon(lab.redis())
    own, command = pwd.getpwuid(os.getuid()).pw_name, Command(lab, daemon)
    watch = command.start("watch", "jobs")
    probe = daemon.client()
    wait_until(lambda: probe.call("stats")["watches"] == 1, "the watch")
    first, second = daemon.client(), daemon.client()
    first.call("initialize", client={"name": "shop", "version": "3"})
    first.acquire("jobs")
    second.queue("jobs")
    first.close()
    events = [json.loads(watch.stdout.readline()) for _ in range(4)]
    # Nobody has waited who was granted it at once.
    assert [one["kind"] for one in events] == ["acquired", "waiting", "released", "acquired"]
    for one in events:
        assert (one["pid"], one["uid"], one["user"]) == (os.getpid(), os.getuid(), own) and one["command"]
    assert events[0]["client"] == events[2]["client"] == "shop 3" and "client" not in events[1]
    watch.kill()


def test_a_watch_on_a_terminal_says_who_it_is(lab):
    daemon = lab.daemon()
    command = Command(lab, daemon)
    terminal, side = os.openpty()
    watch = command.start("watch", stdout=side)
    os.close(side)
    probe = daemon.client()
    wait_until(lambda: probe.call("stats")["watches"] == 1, "the watch")
    daemon.client().acquire("jobs")
    text = ""
    while "\n" not in text:
        text += os.read(terminal, 4096).decode()
    assert f"acquired  jobs  {os.getpid()} (" in text and f"user {pwd.getpwuid(os.getuid()).pw_name})" in text
    watch.kill()
    os.close(terminal)


@pytest.mark.parametrize("arguments", [["nonsense"], ["nonsense", "--help"], ["help", "nonsense"]])
def test_a_subcommand_that_is_none_is_named(lab, arguments):
    status, out, err = Command(lab, lab.daemon()).run(*arguments)
    assert (status, out) == (64, "") and "There is no subcommand nonsense" in err
