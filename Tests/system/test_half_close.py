"""Clients that close their half of the connection while they hold something: by accident (`socket.end()` in Node), or
because they are one command of a shell."""

import json
import os
import subprocess

import pytest
from harness.client import Ended
from harness.command import is_alive
from harness.process_client import ProcessClient
from harness.service_manager import ServiceManager
from harness.waiting import GENEROUS_SECONDS, wait_until


@pytest.fixture(params=["redis", "local"])
def daemon(request, lab):
    return lab.daemon(lab.redis() if request.param == "redis" else None)


def losses(messages):
    return [(m["params"]["token"], m["params"]["reason"]) for m in messages if m.get("method") == "lost"]


def test_what_is_held_ends_and_the_log_says_whose_it_was(daemon):
    client, other = daemon.client(), daemon.client()
    session = client.call("initialize")["session"]
    tokens = [client.acquire(f"lock-{index}") for index in range(3)]
    waiting = other.queue("lock-1")
    client.half_close()
    assert losses(client.wait_for_end()) == [(token, "half_closed") for token in tokens]
    assert other.reply_to(waiting)["token"] > tokens[1]
    line = wait_until(
        lambda: next((line for line in daemon.log().splitlines() if "lost" in line and "lock-2" in line), None), "the log")
    for part in ("reason=half_closed", f"session={session}", f"pid={os.getpid()}"):
        assert part in line, line


def test_a_hold_lasts_to_the_last_reply(daemon):
    client, other = daemon.client(), daemon.client()
    theirs = other.acquire("theirs")
    mine = client.acquire("mine")
    request = client.queue("theirs")
    client.half_close()
    assert other.try_acquire("mine") is None
    other.release("theirs", theirs)
    granted = client.reply_to(request)["token"]
    assert sorted(losses(client.wait_for_end())) == sorted([(mine, "half_closed"), (granted, "half_closed")])
    for name in ("mine", "theirs"):
        assert other.acquire(name)


def test_a_wait_for_what_the_session_has_itself_is_answered(daemon):
    client, other = daemon.client(), daemon.client()
    first = client.acquire("b")
    several = client.request("acquire", names=["a", "b"])
    single = client.request("acquire", name="b")
    other.call("inspect", name="b")
    client.half_close()
    tokens = {lock["name"]: lock["token"] for lock in client.reply_to(several)["locks"]}
    second = client.reply_to(single)["token"]
    assert first < min(tokens["b"], second) and tokens["b"] != second
    assert set(losses(client.wait_for_end())) == {(t, "half_closed") for t in (first, second, *tokens.values())}
    assert other.acquire("a") and other.acquire("b")


@pytest.mark.parametrize("hosts", [1, 2])
def test_two_that_wait_for_each_other_do_not_wait_for_ever(lab, daemon, hosts):
    if hosts == 2:
        redis = lab.redis()
        daemons = [lab.daemon(redis, args=["--host", name]) for name in ("one", "two")]
    else:
        daemons = [daemon, daemon]
    # Both are there before either waits: `queue` returns when its wait has begun.
    first, second = daemons[0].client(), daemons[1].client()
    first_token, second_token = first.acquire("x"), second.acquire("y")
    first_wait, second_wait = first.queue("y"), second.queue("x")
    first.half_close()
    second.half_close()
    refusal = second.error_of(second_wait)
    assert refusal.reason == "deadlock" and [step["held"] for step in refusal.data["cycle"]] == [["y"], ["x"]]
    assert losses(second.wait_for_end()) == [(second_token, "half_closed")]
    granted = first.reply_to(first_wait)["token"]
    assert granted > second_token
    assert sorted(losses(first.wait_for_end())) == sorted([(first_token, "half_closed"), (granted, "half_closed")])


def circle(lab, daemon, hosts, *words):
    """Sessions that hold each a lock, on so many hosts, and wait for that of the next one in the order in which they came;
    `words`: their half_close, None for one that stays open and has an owner. Gives the clients, tokens and waits."""
    if hosts == 2:
        redis = lab.redis()
        daemons = [lab.daemon(redis, args=["--host", name]) for name in ("one", "two")]
    else:
        daemons = [daemon, daemon]
    clients = [daemons[index % 2].client() for index in range(len(words))]
    owners = [{} if word else {"owner": "thread"} for word in words]
    tokens = [client.acquire(f"lock-{index}", **owner) for index, (client, owner) in enumerate(zip(clients, owners))]
    for client, word in zip(clients, words):
        if word:
            client.call("initialize", half_close=word)
    waits = []
    for index, (client, owner) in enumerate(zip(clients, owners)):
        waits.append(client.queue(f"lock-{(index + 1) % len(words)}", **owner))
    for client, word in zip(clients, words):
        if word:
            client.half_close()
    return clients, tokens, waits


@pytest.mark.parametrize("hosts", [1, 2])
@pytest.mark.parametrize("words", [
    ("hold", "hold"), ("hold", "end"), ("end", "hold"), ("hold", None), (None, "hold"), ("hold", "end", None)],
    ids=lambda words: "-".join(word or "open" for word in words))
def test_who_keeps_its_holds_is_in_no_circle_for_ever(lab, daemon, hosts, words):
    clients, tokens, waits = circle(lab, daemon, hosts, *words)
    refusal = clients[-1].error_of(waits[-1])
    assert refusal.reason == "deadlock"
    last = len(words) - 1
    assert [step["waits_for"] for step in refusal.data["cycle"]] == ["lock-0", *(f"lock-{i + 1}" for i in range(last))]
    # What the refused one holds ends with it, or before where it is only half closed; the next ones go on then.
    for index in range(last, 0, -1):
        if words[index] == "end":
            clients[index].wait_for_end()
        else:
            clients[index].close()
        assert clients[index - 1].reply_to(waits[index - 1])["token"] > tokens[index]


@pytest.mark.parametrize("words", ["name", "names"])
def test_who_keeps_its_holds_does_not_wait_for_itself(daemon, words):
    client, other = daemon.client(), daemon.client()
    client.call("initialize", half_close="hold")
    token = client.acquire("b")
    wait = client.queue("b") if words == "name" else client.request("acquire", names=["a", "b"])
    client.half_close()
    assert client.error_of(wait).reason == "deadlock"
    assert client.poll() is None
    assert other.call("inspect", name="b")["holders"][0]["token"] == token
    client.close()
    assert other.acquire("b") > token


def test_who_keeps_its_holds_may_wait_for_an_open_one(daemon):
    closed, there = daemon.client(), daemon.client()
    closed.call("initialize", half_close="hold")
    first = closed.acquire("x")
    token = there.acquire("y")
    closed_wait, wait = closed.queue("y"), there.queue("x")
    closed.half_close()
    there.ping()
    there.release("y", token)
    assert closed.reply_to(closed_wait)["token"] > token
    closed.close()
    assert there.reply_to(wait)["token"] > first


def test_one_that_waits_for_an_open_one_waits_on(daemon):
    """Who is still there can release, so nothing is refused."""
    closed, there = daemon.client(), daemon.client()
    closed.acquire("x")
    token = there.acquire("y")
    closed_wait, wait = closed.queue("y"), there.queue("x")
    closed.half_close()
    there.ping()
    there.release("y", token)
    assert closed.reply_to(closed_wait)["token"] > token
    assert there.reply_to(wait)["token"]


def test_hold_keeps_until_the_end_of_the_connection(daemon):
    client, other = daemon.client(), daemon.client()
    client.call("initialize", half_close="hold")
    token = client.acquire("orders")
    client.half_close()
    waiting = other.queue("orders")
    assert other.call("inspect", name="orders")["holders"][0]["token"] == token
    assert client.poll() is None
    client.close()
    assert other.reply_to(waiting)["token"] > token


def test_the_last_word_counts(daemon):
    client = daemon.client()
    for word in ("hold", "end"):
        client.call("initialize", half_close=word)
    client.call("initialize", lifetime="socket")
    token = client.acquire("orders")
    client.half_close()
    assert losses(client.wait_for_end()) == [(token, "half_closed")]


def test_what_is_handed_to_it_ends_too(daemon):
    giver, taker, other = daemon.client(), daemon.client(), daemon.client()
    session = taker.call("initialize", accept_transfers=True)["session"]
    token = giver.acquire("orders")
    busy = other.acquire("busy")
    waiting = taker.queue("busy")
    taker.half_close()
    handed = giver.call("transfer", name="orders", token=token, session=session)["token"]
    other.release("busy", busy)
    taker.reply_to(waiting)
    assert (handed, "half_closed") in losses(taker.wait_for_end())
    assert giver.acquire("orders") > handed


def test_a_client_that_does_not_read_is_not_kept_for_it(daemon):
    client, other = daemon.client(), daemon.client()
    token = client.acquire("orders")
    client.half_close()
    assert other.acquire("orders") > token


def socat(daemon, text, *options, **more):
    return subprocess.Popen(
        ["bash", "-c", text, "bash", *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "SOCKET": str(daemon.socket_path)}, **more)


def test_one_command_of_a_shell_leaves_nothing_locked(lab, daemon):
    process = lab.track(socat(daemon, """echo '{"id":1,"method":"acquire","params":{"name":"a"}}' |
      socat -t60 - "UNIX-CONNECT:$SOCKET" """))
    answers = [json.loads(line) for line in process.communicate(timeout=GENEROUS_SECONDS)[0].splitlines()]
    assert [answer.get("method", "reply") for answer in answers] == ["reply", "lost"]
    assert daemon.client().acquire("a") > answers[0]["result"]["token"]


def test_socat_can_hold(lab, daemon):
    """The two ways that the document shows."""
    kept_open = lab.track(socat(daemon, """(echo '{"id":1,"method":"acquire","params":{"name":"a"}}'; cat) |
      socat - "UNIX-CONNECT:$SOCKET" """))
    asked_for = lab.track(socat(daemon, """printf '%s\\n' '{"id":1,"method":"initialize","params":{"half_close":"hold"}}' \
      '{"id":2,"method":"acquire","params":{"name":"b"}}' | socat -t60 - "UNIX-CONNECT:$SOCKET" """,
                                start_new_session=True))
    assert "token" in kept_open.stdout.readline()
    asked_for.stdout.readline()
    assert "token" in asked_for.stdout.readline()
    other = daemon.client()
    waits = [other.queue("a"), other.queue("b")]
    kept_open.stdin.close()
    assert other.reply_to(waits[0])["token"]
    assert other.call("inspect", name="b")["holding"] == 1
    subprocess.run(["kill", "--", f"-{asked_for.pid}"], check=True)
    assert other.reply_to(waits[1])["token"]


def test_the_loss_is_enforced(lab):
    """Whoever asked to be ended with its lock is."""
    daemon = lab.daemon()
    client = ProcessClient(lab, daemon)
    client.call("acquire", name="a", on_lost="kill")
    client.half_close()
    wait_until(lambda: not is_alive(client.pid), "the end of the process")


def test_nobody_is_told_a_second_time(daemon):
    client = daemon.client()
    client.acquire("a")
    client.half_close()
    client.wait_for_end()
    with pytest.raises(Ended):
        client.next(1)


@pytest.mark.parametrize("how", ["restart", "crash"])
def test_the_wish_outlives_a_restart(lab, how):
    service = ServiceManager(lab, "--local")
    service.start()
    keeps, ends, other = service.client(), service.client(), service.client()
    keeps.call("initialize", half_close="hold")
    kept, busy = keeps.acquire("kept"), other.acquire("busy")
    ended = ends.acquire("ended")
    waiting = ends.queue("busy")
    keeps.half_close()
    ends.half_close()
    other.ping()
    if how == "crash":
        service.crash()
        service.start()
    else:
        service.restart()
    other.release("busy", busy)
    granted = ends.reply_to(waiting)["token"]
    assert set(losses(ends.wait_for_end())) == {(ended, "half_closed"), (granted, "half_closed")}
    assert other.call("inspect", name="kept")["holders"][0]["token"] == kept
    keeps.close()
    assert other.acquire("kept") > kept
    assert service.stop() == 0
