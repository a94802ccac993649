"""`sidelock log`: the history of a lock, from what a daemon has really written to the journal."""

import json
import os
import re
import shlex
import subprocess

import pytest
from harness.command import Command, terminal_output
from harness.daemon import ROOT, binary, clean_environment
from harness.journal import Journal
from harness.waiting import wait_until

IDS = "Sources/SystemdSupport/JournalMessage.swift"


class Reader:
    """`sidelock log` of a test's journal, with a journalctl of the test's own."""

    def __init__(self, lab):
        self.directory = lab.directory / "bin"
        self.directory.mkdir()
        self.lab = lab
        self.output, self.asked = self.directory / "output", self.directory / "asked"
        self.say("")

    def say(self, output, errors="", status=0):
        self.output.write_text(output)
        script = self.directory / "journalctl"
        script.write_text(
            f"#!/bin/sh\nprintf '%s\\n' \"$@\" >{self.asked}\nprintf '%s' {shlex.quote(errors)} >&2\ncat {self.output}\nexit {status}\n")
        script.chmod(0o755)

    @property
    def environment(self):
        return clean_environment(PATH=f"{self.directory}:{os.environ['PATH']}", TZ="UTC")

    def start(self, *args, **options):
        return Command.start(self, *args, **options)

    def run(self, *args, stdin=None):
        return Command.run(self, *args, stdin=stdin)


@pytest.fixture
def reader(lab):
    return Reader(lab)


@pytest.fixture
def written(lab):
    """The journal of a host on which something happened to the lock "orders"."""
    journal = Journal(lab.directory)
    daemon = lab.daemon(
        args=["--audit", "record all *", "--host", "here"], prefix=journal.prefix())
    client, other = daemon.client(), daemon.client()
    client.call("initialize", client={"name": "shop", "version": "1"})
    token = client.acquire("orders", meta="two\nlines")
    client.acquire("elsewhere")
    waiting = other.queue("orders")
    assert client.error_of(client.request("acquire", name="orders", wait_ms=0)).reason == "busy"
    client.release("orders", token)
    later = other.reply_to(waiting)["token"]
    client.call("break", name="orders", reason="stuck")
    other.notification("lost")
    short = client.acquire("orders", max_hold_ms=1)
    client.notification("lost")

    def has_all():
        return {"granted", "waiting", "lost"} <= {one for one in kinds(journal)} and kinds(journal).count("lost") == 2
    wait_until(has_all, "the entries")
    yield journal, (token, later, short)
    daemon.terminate()
    journal.close()


def identifiers():
    return dict(re.findall(r'"([0-9a-f]{32})": "(\w+)"', (ROOT / "Sources/sidelock/LogCommand.swift").read_text()))


def kinds_of(line):
    return identifiers().get(json.loads(line).get("MESSAGE_ID"))


def kinds(journal):
    known = identifiers()
    return [known.get(fields.get("MESSAGE_ID", b"").decode()) for _, fields in list(journal.entries)
            if fields.get("SIDELOCK_LOCK") == b"orders"]


def test_it_knows_the_messages_by_the_daemons_identifiers():
    source = (ROOT / IDS).read_text()
    of_the_daemon = {identifier: case for case, identifier in re.findall(r'case \.(\w+): "([0-9a-f]{32})"', source)}
    assert {of_the_daemon[identifier]: kind for identifier, kind in identifiers().items()} == {
        "lockGranted": "granted", "lockReleased": "released", "lockAwaited": "waiting", "lockNotAcquired": "not_acquired",
        "lockLost": "lost", "lockBroken": "broken", "lockTaken": "taken"}


def test_the_history_of_a_lock(reader, written):
    journal, (token, later, short) = written
    status, out, err = reader.run("log", "orders", "--from", "-", stdin=journal.lines())
    assert (status, err) == (0, "")
    events = json.loads(out)
    assert all(event["lock"] == "orders" and event["host"] == "here" for event in events)
    assert [event["time"] for event in events] == sorted(event["time"] for event in events)
    assert [(event["kind"], event.get("token")) for event in events if event["kind"] not in ("waiting", "not_acquired")] == [
        ("granted", token), ("released", token), ("granted", later), ("broken", later), ("lost", later), ("granted", short),
        ("lost", short)]
    first = events[0]
    assert first.items() >= {"pid": os.getpid(), "uid": os.getuid(), "client": "shop 1", "meta": "two\nlines"}.items()
    assert {event["reason"] for event in events if event["kind"] == "lost"} == {"broken", "max_hold"}
    (broken,) = [event for event in events if event["kind"] == "broken"]
    assert broken["reason"] == "stuck" and f"pid {os.getpid()}" in broken["by"]
    (failed,) = [event for event in events if event["kind"] == "not_acquired"]
    assert failed["reason"] == "busy"
    (waits,) = [event for event in events if event["kind"] == "waiting"]
    assert f"pid {os.getpid()}" in waits["holder"]
    status, out, err = reader.run("log", "orders", "-n", "2", "--from", "-", stdin=journal.lines())
    assert [event["kind"] for event in json.loads(out)] == ["granted", "lost"]


def test_a_table_for_people(reader, written):
    journal, _ = written
    reader.say(journal.lines())
    status, lines = terminal_output(reader, "log", "orders")
    assert status == 0 and all(len(line) <= 80 for line in lines)
    assert lines[0].split() == ["TIME", "EVENT", "WHO", "WAITED", "HELD", "MORE"]
    assert len(lines) == 1 + len(kinds(journal))
    granted = next(line for line in lines if "granted" in line)
    assert re.match(r"\d\d-\d\d \d\d:\d\d:\d\d  granted", granted) and " ms" in granted
    assert not any("\x1b" in line or "\n" in line for line in lines)
    # Of another year.
    reader.say(re.sub(r'"__REALTIME_TIMESTAMP": "\d+"', '"__REALTIME_TIMESTAMP": "1000000000000000"', journal.lines()))
    status, lines = terminal_output(reader, "log", "orders")
    assert status == 0 and all(line.startswith("2001-09-09 01:46:40  ") for line in lines[1:])


def test_what_the_journal_is_asked(reader, written):
    journal, _ = written
    reader.say(journal.lines())
    assert reader.run("log", "orders", "--since", "2h")[0] == 0
    asked = reader.asked.read_text().splitlines()
    assert {"-o", "json", "_SYSTEMD_UNIT=sidelockd.service", "SIDELOCK_LOCK=orders"} <= set(asked)
    assert {f"MESSAGE_ID={identifier}" for identifier in identifiers()} == {one for one in asked if one.startswith("MESSAGE_ID=")}
    [since] = [one for one in asked if one.startswith("--since=@")]
    assert abs(int(since.split("@")[1]) - (journal.entries[0][0] // 1_000_000 - 7200)) < 3600
    assert reader.run("log", "orders", "--since", "yesterday", "--unit", "other.service")[0] == 0
    assert {"--since=yesterday", "_SYSTEMD_UNIT=other.service"} <= set(reader.asked.read_text().splitlines())
    status, out, err = reader.run("log", "orders", "--since", "yesterday", "--from", "-", stdin="")
    assert status == 64 and "--since" in err


@pytest.mark.parametrize("name, rule", [
    ("orders", "record all orders"), ("a b", 'record all "a b"'), ("or'ders", "record all or'ders"),
    ('*"\\ x', 'record all "\\*\\"\\\\ x"'), ("a: #b\n\t", 'record all "a: #b\\n\\t"'), ("caf\u00e9", "record all caf\u00e9"),
    ("a\x1bb", "record all a*"), ("\u2028", "record all *"),
])
def test_nothing_is_audited_and_the_rule_that_is_told_mends_that(reader, lab, name, rule):
    status, out, err = reader.run("log", name)
    assert (status, json.loads(out)) == (1, []) and "nothing about the lock" in err
    assert "echo" not in err and "tee" not in err
    assert "sidelockd --config /etc/sidelock/sidelockd.yaml --check" in err and "systemctl reload sidelockd" in err
    assert ("no rule can name this lock" in err) == rule.endswith("*")
    settings = lab.directory / "sidelockd.yaml"
    [item] = re.findall(r"^sidelock:      ?(- .*)$", err, re.MULTILINE)
    settings.write_text(f"local: true\naudit:\n  - omit grant cache/*\n  {item}\nlog_level: info")
    done = subprocess.run([binary("sidelockd", "SIDELOCKD"), "--config", str(settings), "--check"], capture_output=True,
                          text=True, env=clean_environment(), check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["settings"]["audit"]["value"] == f"omit grant cache/*; {rule}"


def test_what_is_always_written_says_that_there_could_be_more(reader, written):
    journal, _ = written
    lost = [line for line in journal.lines().splitlines() if "144505c4199e459b96609fdc0c50649f" in line]
    reader.say("\n".join(lost) + "\n")
    status, out, err = reader.run("log", "orders")
    assert status == 0 and len(json.loads(out)) == len(lost) > 0 and "record all orders" in err


@pytest.mark.parametrize("errors, status, exits, words", [
    ("No journal files were opened due to insufficient permissions.\n", 1, 77, "sudo usermod -aG systemd-journal root"),
    ("Hint: You are currently not seeing messages from other users and the system.\n", 0, 77, "systemd-journal"),
    ("Failed to open files: x\n", 1, 69, "Failed to open files: x"),
    ("No journal files were found.\n", 0, 69, "no journal"),
])
def test_a_journal_that_cannot_be_read(reader, errors, status, exits, words):
    reader.say("", errors, status)
    done, out, err = reader.run("log", "orders")
    assert done == exits and words in err and out == ""


def test_a_time_that_is_none(reader):
    reader.say("", "Failed to parse timestamp: gestern\n", 1)
    status, out, err = reader.run("log", "orders", "--since", "gestern")
    assert (status, out) == (64, "") and "--since takes a time" in err and "gestern" in err


def test_a_unit_may_be_named_without_its_ending(reader):
    for unit in ("other", "other.service"):
        reader.run("log", "orders", "--unit", unit)
        assert "_SYSTEMD_UNIT=other.service" in reader.asked.read_text().splitlines()


def test_only_sidelock_is_believed_what_it_runs(reader, written):
    journal, _ = written
    [line] = [line for line in journal.lines().splitlines() if kinds_of(line) == "granted"][:1]
    for command, who in (("sidelock", "root deploy "), (None, "root deploy "), ("python3", f"root python3 {os.getpid()}")):
        entry = {**json.loads(line), "SIDELOCK_CLIENT": "sidelock run deploy 1", "SIDELOCK_COMMAND": command, "SIDELOCK_USER": "root"}
        reader.say(json.dumps({name: value for name, value in entry.items() if value is not None}) + "\n")
        status, lines = terminal_output(reader, "log", "orders")
        assert status == 0 and who in lines[1], lines


def test_no_text_turns_a_line_of_the_table_around(reader, written):
    journal, _ = written
    [line] = [line for line in journal.lines().splitlines() if kinds_of(line) == "granted"][:1]
    reader.say(json.dumps({**json.loads(line), "SIDELOCK_META": "a\u202eb\u2028c", "SIDELOCK_COMMAND": "x"}) + "\n")
    status, lines = terminal_output(reader, "log", "orders")
    text = "\n".join(lines)
    assert status == 0 and "\u202e" not in text and "\u2028" not in text and "a\\u{202e}b" in text, lines


def test_a_host_without_a_journal(reader):
    (reader.directory / "journalctl").unlink()
    done = subprocess.run([binary("sidelock", "SIDELOCK"), "log", "orders"], capture_output=True, text=True, check=False,
                          env=clean_environment(PATH=str(reader.directory)))
    assert done.returncode == 69 and "journalctl cannot be run" in done.stderr and "--from" in done.stderr


def test_what_is_no_entry_is_passed_over(reader, written):
    journal, _ = written
    lines = "\n".join(["x", "[]", "{}", '{"MESSAGE_ID":"144505c4199e459b96609fdc0c50649f"}', "\0", journal.lines()])
    status, out, err = reader.run("log", "orders", "--from", "-", stdin=lines)
    assert status == 0 and len(json.loads(out)) == len(kinds(journal))


def test_what_sidelock_run_runs_is_named(lab, reader):
    journal = Journal(lab.directory)
    daemon = lab.daemon(args=["--audit", "record grant *"], prefix=journal.prefix())
    assert Command(lab, daemon).run("run", "orders", "--", "/bin/true", "--secret")[0] == 0
    wait_until(lambda: "granted" in kinds(journal), "the grant")
    reader.say(journal.lines())
    status, lines = terminal_output(reader, "log", "orders")
    assert status == 0 and " true " in lines[1] and "secret" not in journal.lines()
    daemon.terminate()
    journal.close()
