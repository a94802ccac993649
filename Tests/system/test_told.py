"""What a client is told of locks that it may not inspect, for everything that could tell of one."""

import os
import pathlib

import pytest

from harness.client import RpcError
from harness.fake_host import NEW, OLD, FakeHost, packed

NAME = "secret/1"
PROTOCOL = pathlib.Path(__file__).parents[2] / "protocol" / "README.md"


def refused(client, method, **params):
    return client.error_of(client.request(method, **params))


def names_on_pages(client, **params):
    """The locks of each page of a list, to its end."""
    pages, cursor = [], None
    while True:
        answer = client.call("list", **params, **({"cursor": cursor} if cursor else {}))
        pages.append([lock["name"] for lock in answer["locks"]])
        cursor = answer["cursor"]
        if cursor is None:
            return pages


def inspecting_is_denied(daemon, client, _):
    for method in ("inspect", "watch"):
        error = refused(client, method, name=NAME)
        assert (error.reason, error.data["right"]) == ("denied", "inspect")


def lists_are_as_if_it_did_not_exist(daemon, client, other):
    """With few and with many locks that are passed over, before, between and behind those that are shown."""
    for name in ("a", "b", "z"):
        other.acquire(name)
    for limit, pages in ((1, [["a"], ["b"], ["z"]]), (2, [["a", "b"], ["z"]]), (3, [["a", "b", "z"]])):
        assert names_on_pages(client, limit=limit) == pages
    for index in range(700):
        other.acquire(f"secret/{index:03}")
    for limit, pages in ((1, [["a"], ["b"], ["z"]]), (2, [["a", "b"], ["z"]]), (3, [["a", "b", "z"]])):
        assert names_on_pages(client, limit=limit) == pages
    assert names_on_pages(client, limit=1, prefix="secret") == [[]]
    # Behind the last page that shows any.
    other.release("z")
    assert names_on_pages(client, limit=2) == [["a", "b"]]
    assert names_on_pages(client, limit=1000, prefix="c") == [[]]


def clients_are_those_of_ones_own_user(daemon, client, other):
    """Here all are of the same user; CrowdTests.swift has others, too."""
    own, others = (one.call("initialize")["session"] for one in (client, other))
    told = client.call("clients")["clients"]
    assert [(one["session"], one["holds"], one["waits"]) for one in told] == [(own, 0, 0), (others, 1, 0)]
    assert {one["uid"] for one in told} == {os.getuid()}


def hosts_are_the_own_one(daemon, client, other):
    [host] = client.call("hosts")["hosts"]
    assert host["own"] and host["instance"] == client.call("initialize")["instance"]


def events_are_not_sent(daemon, client, other):
    client.call("watch", prefix="")
    other.release(NAME)
    other.acquire("open")
    assert client.notification("event")["name"] == "open"


def holders_are_not_named(daemon, client, other):
    assert refused(client, "acquire", name=NAME, wait_ms=0).data["holders"] == []
    assert refused(client, "acquire", name=NAME, wait_ms=1).data["holders"] == []
    # Of several the one that is met.
    assert refused(client, "acquire", names=["open", NAME], wait_ms=0).data["holders"] == []
    wait = client.request("acquire", name=NAME, progress=True)
    told = client.notification("waiting")
    assert (told["name"], told["position"], told["holders"]) == (NAME, 1, [])
    other.release(NAME)
    assert client.reply_to(wait)["token"]


def circles_show_what_is_ones_own(daemon, client, other):
    other.release(NAME)
    other.acquire(NAME, owner="o", meta="hidden")
    client.acquire("open", owner="mine")
    other.queue("open", owner="o")
    own, step = refused(client, "acquire", name=NAME, owner="mine").data["cycle"]
    assert (own["waits_for"], own["held"], own["owner"]) == (NAME, ["open"], "mine")
    assert own["session"] == client.call("initialize")["session"]
    # Who holds the lock is not told, though it waits for one that may be inspected.
    assert step == {"waits_for": "open", "held": []}


def how_it_is_held_is_told(daemon, client, other):
    assert refused(client, "acquire", name=NAME, permits=2).data["held"] == {"mode": "exclusive"}
    other.release(NAME)
    client.acquire(NAME, progress=True)
    other.request("acquire", name=NAME)
    assert client.notification("contended") == {
        "name": NAME, "token": client.call("release", name=NAME)["token"], "waiters": 1}


def who_hands_it_over_is_told(daemon, client, other):
    session = client.call("initialize", accept_transfers=True)["session"]
    other.call("transfer", name=NAME, session=session)
    assert client.notification("transferred")["from"] == other.call("initialize")["session"]


def what_was_broken_is_told(daemon, client, other):
    assert len(client.call("break", name=NAME)["broken"]) == 1


def sums_are_told(daemon, client, other):
    assert client.call("stats")["held"] == 1


TOLD = {
    "`inspect`, `watch` of a name": inspecting_is_denied,
    "`list`: locks, pages and cursors": lists_are_as_if_it_did_not_exist,
    "`clients`: sessions, pages and cursors": clients_are_those_of_ones_own_user,
    "`hosts`": hosts_are_the_own_one,
    "`event`": events_are_not_sent,
    "`data.holders` of `busy`, `timeout` and `mode_conflict`, `holders` of `waiting`": holders_are_not_named,
    "`data.cycle` of `deadlock`": circles_show_what_is_ones_own,
    "`data.held` of `mode_conflict`, `position` of `waiting`, `waiters` of `contended`": how_it_is_held_is_told,
    "`from` of `transferred`": who_hands_it_over_is_told,
    "`broken` and `taken` of `break`": what_was_broken_is_told,
    "`stats`": sums_are_told,
}


def data_of_others_are_told(redis, client):
    redis.admin.hset("sidelock:{" + NAME + "}:queue", "a", "b")
    data = refused(client, "acquire", name=NAME).data
    assert (data["key"], data["type"]) == ("sidelock:{" + NAME + "}:queue", "hash")


def trouble_with_redis_is_told(redis, client):
    redis.admin.execute_command("ACL", "SETUSER", "default", "-set")
    assert refused(client, "acquire", name=NAME, wait_ms=0).data["detail"]
    client.request("acquire", name=NAME, progress=True)
    told = client.notification("waiting")
    assert told["detail"] and told["holders"] == []
    redis.admin.execute_command("ACL", "SETUSER", "default", "+set")


def hosts_are_not_named(redis, client):
    host = FakeHost(redis, "other", lambda _: OLD)
    client.call("watch", prefix="", scope="all")
    host.serve(1)
    host.close()
    client.ask_redis()
    assert not [message for message in client.pending if message.get("method") == "host"]


def nothing_is_traced(redis, client):
    error = refused(client, "trace", name="open")
    assert (error.reason, error.data["right"]) == ("denied", "inspect") and "name" not in error.data


def how_much_was_missed_is_not_told(redis, client):
    """The host has told of nothing, and of five events less than there were at the next question."""
    rows = iter([(7, 0), (7, 5)])
    host = FakeHost(redis, "other", lambda question: NEW if question == "5:about" else packed(*next(rows, (7, 5))))
    client.call("watch", prefix="", scope="all")
    host.serve(3)
    assert client.notification("missed") == {"count": 1}
    host.close()


TOLD_OF_REDIS = {
    "`key` and `type` of `wrong_type`": data_of_others_are_told,
    "`detail` of `unavailable` and `waiting`": trouble_with_redis_is_told,
    "`host`": hosts_are_not_named,
    "`trace`": nothing_is_traced,
    "`missed` of another host": how_much_was_missed_is_not_told,
}


@pytest.mark.parametrize("told", TOLD_OF_REDIS.values(), ids=[check.__name__ for check in TOLD_OF_REDIS.values()])
def test_what_is_told_of_redis_needs_no_right_to_inspect(lab, told):
    redis = lab.redis()
    told(redis, lab.daemon(redis, args=["--rule", "deny inspect secret* to everyone"]).client())


@pytest.mark.parametrize("told", TOLD.values(), ids=[check.__name__ for check in TOLD.values()])
def test_what_tells_of_a_lock_asks_whether_the_client_may_inspect_it(lab, told):
    daemon = lab.daemon(args=["--rule", "deny inspect secret* to everyone"])
    client, other = daemon.client(), daemon.client()
    other.acquire(NAME)
    told(daemon, client, other)


def test_the_protocol_names_all_that_could_tell_of_a_lock():
    table = PROTOCOL.read_text().split("| told | without")[1].split("\n\n")[0]
    assert [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()[2:]] == [*TOLD, *TOLD_OF_REDIS]


def test_pages_of_all_hosts_do_not_show_what_was_passed_over(lab):
    """The pages of one step of SCAN, which finds all that there is."""
    redis = lab.redis()
    daemon = lab.daemon(redis, args=["--rule", "deny inspect secret* to everyone"])
    elsewhere = lab.daemon(redis).client()
    client = daemon.client()
    for name in ("a", "b", "z"):
        elsewhere.acquire(name)
    few = names_on_pages(client, scope="all", limit=1)
    for index in range(100):
        elsewhere.acquire(f"secret/{index}")
    many = names_on_pages(client, scope="all", limit=1)
    assert len(many) == len(few)
    assert sorted(sum(few, [])) == sorted(sum(many, [])) == ["a", "b", "z"]


def test_what_a_client_waits_for_when_rules_change_is_judged_by_the_new_ones(lab, tmp_path):
    config = tmp_path / "sidelock.yaml"
    config.write_text("rules: []\n")
    daemon = lab.daemon(args=["--config", str(config)])
    client, other = daemon.client(), daemon.client()
    other.acquire(NAME)
    assert refused(client, "acquire", name=NAME, wait_ms=0).data["holders"] != []
    config.write_text("rules:\n- deny inspect secret/* to everyone\n")
    daemon.reload()
    with pytest.raises(RpcError):
        client.call("inspect", name=NAME)
    assert refused(client, "acquire", name=NAME, wait_ms=0).data["holders"] == []
