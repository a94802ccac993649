"""`sidelock trace`: what is shown of a session, of a process and of a lock, to whom, and what it costs the others."""

import json
import os
import pty
import select
import signal

import pytest

from harness.command import Command
from harness.process_client import ProcessClient
from harness.service_manager import ServiceManager
from harness.waiting import GENEROUS_SECONDS, wait_until

NOBODY = 65_534


@pytest.fixture
def daemon(lab):
    return lab.daemon()


class Traced:
    """`sidelock trace` in a pipe."""

    def __init__(self, lab, daemon, *arguments):
        self.process = Command(lab, daemon).start("trace", *arguments)

    def has_begun(self):
        """Whether anything was shown by now."""
        return bool(select.select([self.process.stdout], [], [], 0.01)[0])

    def next(self):
        return json.loads(self.process.stdout.readline())

    def until(self, **wanted):
        """What is shown, up to the first with these members."""
        lines = [self.next()]
        while not wanted.items() <= lines[-1].items():
            lines.append(self.next())
        return lines

    def end(self):
        """The status, what is left of the output, and the messages, of a command that ends."""
        out, err = self.process.communicate(timeout=GENEROUS_SECONDS)
        return self.process.returncode, [json.loads(line) for line in out.splitlines()], err


def say_much(daemon, client):
    """More than somebody who does not read is told."""
    while daemon.client().call("stats")["notifications_missed_total"] < 100:
        for _ in range(50):
            client.acquire("x" * 400, owner="o" * 100)
            client.release("x" * 400)


def session_of(client):
    return client.call("initialize")["session"]


def test_a_session_is_shown_from_now_on_until_it_ends(lab, daemon):
    client, other = daemon.client(), daemon.client()
    session = session_of(client)
    traced = Traced(lab, daemon, session)
    wait_until(lambda: client.ping() or traced.has_begun(), "the trace")
    client.acquire("x", meta="a secret")
    other.acquire("y")
    client.close()
    status, lines, err = traced.end()
    acquire, reply = [line for line in lines if "x" in json.dumps(line)]
    assert (acquire["direction"], acquire["kind"], acquire["message"]["params"]) == ("in", "request", {"name": "x", "meta": "…"})
    assert (reply["direction"], reply["kind"], reply["message"]["result"]["name"]) == ("out", "reply", "x")
    assert acquire["message"]["id"] == reply["message"]["id"] and acquire["time"] <= reply["time"]
    assert {line["session"] for line in lines} == {session} and lines[-1]["kind"] == "end"
    assert status == 0 and f"session {session} has ended" in err and "the trace is over" in err


def test_who_looks_is_logged(lab, daemon):
    client = daemon.client()
    session = session_of(client)
    traced = Traced(lab, daemon, session)
    wait_until(lambda: client.ping() or traced.has_begun(), "the trace")
    wait_until(lambda: "messages are shown to an administrator" in daemon.log(), "the log")
    [line] = [line for line in daemon.log().splitlines() if "messages are shown" in line]
    assert f'target="session {session}"' in line and "by=" in line
    client.close()
    assert traced.end()[0] == 0


def test_a_process_that_is_no_client_is_told_as_that(lab, daemon):
    status, _, err = Command(lab, daemon).run("trace", "--pid", 1)
    assert status == 1 and "no client of this host is that process" in err and "clients" in err, err


def test_a_process_is_shown_with_all_its_sessions(lab, daemon):
    process, other = ProcessClient(lab, daemon), daemon.client()
    process.call("ping")
    traced = Traced(lab, daemon, "--pid", process.pid)
    wait_until(lambda: process.call("ping") == {} and traced.has_begun(), "the trace")
    process.call("acquire", name="x")
    other.acquire("y")
    process.kill()
    status, lines, err = traced.end()
    assert status == 0 and lines[-1]["kind"] == "end" and "the trace is over" in err
    shown = json.dumps(lines)
    assert '"acquire"' in shown and '"y"' not in shown


def test_all_that_is_said_about_a_lock_is_shown_and_the_trace_goes_on(lab, daemon):
    holder, waiter, prober = daemon.client(), daemon.client(), daemon.client()
    traced = Traced(lab, daemon, "--lock", "x")
    wait_until(lambda: prober.call("inspect", name="x") and traced.has_begun(), "the trace")
    prober.close()
    holder.acquire("x")
    holder.acquire("y")
    request = waiter.queue("x")
    holder.close()
    waiter.reply_to(request)
    waiter.release("x")
    lines = traced.until(kind="reply", session=session_of(waiter), direction="out")
    while '"remaining"' not in json.dumps(lines[-1]):
        lines += traced.until(kind="reply")
    about = [(line["kind"], line["message"].get("method")) for line in lines if line["message"].get("method") != "inspect"]
    assert ("request", "acquire") in about and ("notification", "waiting") in about and ("request", "release") in about
    assert '"y"' not in json.dumps(lines) and not any(line["kind"] == "end" for line in lines)
    assert traced.process.poll() is None
    traced.process.send_signal(signal.SIGINT)
    traced.process.wait(GENEROUS_SECONDS)


def test_the_answer_to_a_wait_that_began_before_the_trace_is_shown(lab, daemon):
    holder, first, second, prober = daemon.client(), daemon.client(), daemon.client(), daemon.client()
    holder.acquire("x")
    granted, refused = first.queue("x"), second.queue("x", wait_ms=3_600_000)
    traced = Traced(lab, daemon, "--lock", "x")
    wait_until(lambda: prober.call("inspect", name="x") and traced.has_begun(), "the trace")
    second.send({"method": "cancel", "params": {"id": refused}})
    assert second.error_of(refused).reason == "cancelled"
    holder.release("x")
    token = first.reply_to(granted)["token"]
    lines = traced.until(kind="reply", session=session_of(second), direction="out")
    assert lines[-1]["message"]["error"]["data"]["reason"] == "cancelled"
    lines = traced.until(kind="reply", session=session_of(first), direction="out")
    assert lines[-1]["message"]["result"]["token"] == token
    traced.process.send_signal(signal.SIGINT)
    traced.process.wait(GENEROUS_SECONDS)


@pytest.mark.skipif(os.geteuid() != 0, reason="other users can only be tried as root")
def test_strangers_are_shown_nothing(lab, daemon):
    client = daemon.client()
    session = session_of(client)
    stranger = ProcessClient(lab, daemon, user=NOBODY)
    for params in ({"session": session}, {"pid": os.getpid()}, {"name": "x"}):
        error = stranger.error("trace", **params)
        assert error["data"]["reason"] == "denied" and error["data"]["right"] == "break"
    os.chmod(daemon.socket_path, 0o666)
    process = Command(lab, daemon).start("trace", session, user=NOBODY)
    _, err = process.communicate(timeout=GENEROUS_SECONDS)
    assert process.returncode == 77 and "break every lock" in err


def test_what_is_not_there_cannot_be_traced(lab, daemon):
    command = Command(lab, daemon)
    for arguments in (["77"], ["--pid", "1"]):
        status, out, err = command.run("trace", *arguments)
        assert (status, out) == (1, "") and err
    assert command.run("trace")[0] == 64 and command.run("trace", "1", "--lock", "x")[0] == 64


def test_a_tracer_that_does_not_read_costs_the_traced_nothing(lab, daemon):
    client, tracer = daemon.client(), daemon.client()
    tracer.call("trace", session=session_of(client))
    say_much(daemon, client)
    missed = 0
    while not missed:
        message = tracer.next()
        missed = message["params"]["count"] if message["method"] == "missed" else 0
    assert missed >= 100
    # It is told again what comes from now on.
    client.ping()
    tracer.wait_for(lambda m: m.get("method") == "traced" and m["params"]["message"].get("method") == "ping")


def test_annotations_of_the_client_object_are_not_shown(daemon):
    client, tracer = daemon.client(), daemon.client()
    tracer.call("trace", session=session_of(client))
    client.call("initialize", client={"name": "n", "x-key": "secret"}, _key="secret")
    told = tracer.wait_for(lambda m: m.get("method") == "traced" and m["params"]["kind"] == "request")["params"]
    assert told["message"]["params"] == {"client": {"name": "n", "x-key": "…"}, "_key": "…"}


def test_what_was_missed_is_told_before_the_trace_is_over(daemon):
    client, tracer = daemon.client(), daemon.client()
    tracer.call("trace", session=session_of(client))
    say_much(daemon, client)
    client.close()
    missed = 0
    while (message := tracer.next())["params"].get("kind") != "over":
        missed += message["params"]["count"] if message["method"] == "missed" else 0
    assert missed >= 100


@pytest.mark.parametrize("value", ["1e400", "1.5", "9223372036854775808", "[" * 14 + "]" * 14])
def test_what_no_notification_can_hold_is_told_by_its_length(lab, daemon, value):
    client = daemon.client()
    traced = Traced(lab, daemon, session_of(client))
    wait_until(lambda: client.ping() or traced.has_begun(), "the trace")
    line = f'{{"id":"odd","method":"ping","params":{{"q":{value}}}}}'
    client.send_raw(line.encode() + b"\n")
    client.wait_for(lambda message: message.get("id") == "odd")
    client.close()
    status, lines, err = traced.end()
    assert status == 0, err
    assert [shown for shown in lines if shown.get("bytes") == len(line) and "message" not in shown]


def test_on_a_terminal_a_message_is_a_line(lab, daemon):
    client = daemon.client()
    session = session_of(client)
    terminal, side = pty.openpty()
    process = Command(lab, daemon).start("trace", session, stdout=side)
    os.close(side)
    os.set_blocking(terminal, False)
    output = b""

    def is_shown():
        nonlocal output
        client.acquire("x")
        client.release("x")
        try:
            output += os.read(terminal, 65_536)
        except BlockingIOError:
            pass
        return output.count(b"\n") >= 4

    wait_until(is_shown, "four lines", pause=0.05)
    lines = [line.split() for line in output.decode().splitlines()[:4]]
    assert all(line[1] == session for line in lines) and {line[2] for line in lines} == {">", "<"}
    assert any(line[4:5] == ["acquire"] and line[2] == ">" for line in lines)
    client.close()
    process.communicate(timeout=GENEROUS_SECONDS)
    assert process.returncode == 0
    os.close(terminal)


@pytest.mark.parametrize("how", ["restart", "crash"])
def test_a_trace_is_over_after_a_restart(lab, how):
    service = ServiceManager(lab, "--local")
    service.start()
    client, tracer = service.client(), service.client()
    tracer.acquire("own")
    watch = tracer.call("trace", session=session_of(client))["watch"]
    client.acquire("x")
    tracer.wait_for(lambda m: m.get("method") == "traced" and m["params"]["kind"] == "reply")
    if how == "crash":
        service.crash()
        service.start()
    else:
        service.restart()
    over = tracer.wait_for(lambda m: m.get("method") == "traced" and m["params"]["kind"] == "over")
    assert over["params"] == {"watch": watch, "kind": "over"}
    client.ping()
    tracer.ping()
    assert not any(message["params"].get("message", {}).get("method") == "ping" for message in tracer.pending)
    # Its number is no other watch's.
    assert tracer.call("watch", prefix="")["watch"] > watch


def test_two_locks_are_traced_each_by_itself(daemon):
    tracer, client = daemon.client(), daemon.client()
    watches = {tracer.call("trace", name=name)["watch"]: name for name in ("a", "b")}
    for name in ("a", "b"):
        client.acquire(name)
    shown = [tracer.notification("traced") for _ in range(4)]
    told = [(watches[one["watch"]], one["kind"], json.loads(one["message"]) if isinstance(one["message"], str) else one["message"]) for one in shown]
    assert [(name, kind, (message.get("params") or message.get("result"))["name"]) for name, kind, message in told] == [
        (name, kind, name) for name in ("a", "b") for kind in ("request", "reply")]
