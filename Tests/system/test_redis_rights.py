"""What a user of Redis must be allowed: it is told at connect, and what the documents say is enough is enough."""

import pathlib
import re

import pytest
from harness.redis_server import version
from harness.waiting import GENEROUS_SECONDS, wait_until

ROOT = pathlib.Path(__file__).resolve().parents[2]
LEASE_MS = 20_000
SOON = LEASE_MS / 4 / 1000


def documented():
    """The rules that the documents say are enough."""
    text = (ROOT / "protocol/README.md").read_text()
    return re.search(r"^ACL SETUSER locks on >PASSWORD (.*)$", text, re.M)[1].split()


RULES = documented()
COMMANDS = [rule for rule in RULES if rule[0] == "+"]
# Redis 6.2 has none to read alone.
HAS_RIGHTS_TO_READ = version() >= (7,)
EXTRAS = ["+info", "+pubsub", "+scan", "+type"]


class User:
    """A Redis user with the rights of the documents, or others."""

    def __init__(self, redis, *rules, password="secret"):
        self.redis = redis
        self.url = f"unix://locks:{password}@{redis.socket_path}"
        self.set("reset", "on", f">{password}", *(rules or RULES))

    def set(self, *rules):
        self.redis.admin.execute_command("ACL", "SETUSER", "locks", *rules)

    def denials(self):
        """What the user was refused, as Redis notes it."""
        return [entry["object"] for entry in self.redis.admin.acl_log() if entry["username"] == "locks"]


@pytest.fixture
def redis(lab):
    server = lab.redis()
    server.admin.execute_command("ACL", "LOG", "RESET")
    return server


def reason(daemon):
    """Why the daemon has no connection, by what a try is told."""
    client = daemon.client()
    return client.error_of(client.request("acquire", name="orders", wait_ms=0)).data.get("detail", "")


def test_the_documented_rights_are_enough_for_everything(lab, redis):
    user = User(redis)
    one, two = (lab.daemon(user, lease_ms=3000) for _ in range(2))
    here, there, other = one.client(), two.client(), two.client()
    # Exclusive, and handed over between hosts, with others that wait.
    token = here.acquire("orders")
    assert there.try_acquire("orders") is None
    waiting, second = there.queue("orders"), other.queue("orders", mode="shared")
    here.release("orders", token)
    token = there.reply_to(waiting, SOON)["token"]
    # Shared by a downgrade, and by two hosts.
    there.call("downgrade", name="orders", token=token)
    other.reply_to(second, SOON)
    shared = here.acquire("orders", mode="shared", wait_ms=int(SOON * 1000))
    # Semaphores, several locks, and a transfer.
    for client in (here, there):
        client.acquire("pool", permits=2)
    assert other.error_of(other.request("acquire", name="pool", permits=2, wait_ms=0)).reason == "busy"
    assert other.error_of(other.request("acquire", name="pool", wait_ms=0)).reason == "mode_conflict"
    several = here.call("acquire", names=["a", "b"])["locks"]
    session = other.call("initialize", accept_transfers=True)["session"]
    moved = there.acquire("moved")
    assert there.call("transfer", name="moved", token=moved, session=session)["token"] > moved
    # A deadlock over two hosts.
    here.acquire("left", owner="x")
    there.acquire("right", owner="y")
    stuck = [here.request("acquire", name="right", owner="x"), there.request("acquire", name="left", owner="y")]
    wait_until(lambda: here.call("stats")["deadlocks_total"] + there.call("stats")["deadlocks_total"] == 1, "a victim")
    del stuck
    # Renewals, of all kinds.
    for client in (here, there):
        before = client.call("stats")["redis"]["renewals_total"]
        wait_until(lambda: client.call("stats")["redis"]["renewals_total"] >= before + 8, "renewals")
    # Looking, here and everywhere, and breaking from another host.
    found = other.call("inspect", name="orders")
    assert {holder["host"] for holder in found["holders"]} and found["mode"] == "shared"
    assert "moved" in [lock["name"] for lock in here.call("list", scope="all")["locks"]]
    assert there.call("break", name="orders", token=shared)["broken"] == [shared]
    assert here.notification("lost")["reason"] == "broken"
    # Tokens run out and are reserved anew; scripts are forgotten and loaded again.
    redis.admin.script_flush()
    here.release("a", several[0]["token"])
    for _ in range(300):
        here.release("shared", here.acquire("shared", mode="shared"))
    assert redis.admin.keys("*probe*") == []
    # For the warnings at the start, and to end a connection of before; they are not needed.
    assert set(user.denials()) <= {"info", "config|get", "config", "client|kill", "client"}
    assert "Redis refused a command" not in one.log() + two.log()


@pytest.mark.parametrize("rule", [rule for rule in COMMANDS if rule not in EXTRAS])
def test_each_right_is_needed_and_told_at_connect(lab, redis, rule):
    user = User(redis, *[r for r in RULES if r != rule])
    daemon = lab.daemon(user, lease_ms=LEASE_MS)
    told = reason(daemon)
    allow = re.search(r"allow it with (ACL SETUSER locks (.*))", told)
    assert allow, told
    assert rule in allow[2].split(), told
    assert "no connection to Redis" in daemon.log() and rule in daemon.log()
    # What it says helps, as it stands.
    waiting = daemon.client()
    request = waiting.request("acquire", name="orders")
    redis.admin.execute_command(*allow[1].split())
    assert waiting.reply_to(request)["token"] > 0
    assert redis.admin.keys("*probe*") == []


def test_all_that_is_missing_is_told_at_once(lab, redis):
    user = User(redis, "~sidelock:*", "resetchannels", "&sidelock:*", "+script|load", "+evalsha", "+subscribe", "+set")
    told = reason(lab.daemon(user, lease_ms=LEASE_MS))
    missing = set(COMMANDS) - {"+script|load", "+evalsha", "+subscribe", "+set"}
    assert set(told.rsplit("ACL SETUSER locks ", 1)[1].split()) == missing
    redis.admin.execute_command(*told[told.index("ACL SETUSER"):].split())
    assert lab.daemon(user, lease_ms=LEASE_MS).client().acquire("orders", wait_ms=int(SOON * 1000)) > 0


@pytest.mark.parametrize("pattern", ["~sidelock:*", "&sidelock:*"])
def test_patterns_that_are_missing_are_told(lab, redis, pattern):
    others = {"~sidelock:*": "~other:*", "&sidelock:*": "&other:*"}
    user = User(redis, "resetchannels", *[others[r] if r == pattern else r for r in RULES])
    daemon = lab.daemon(user, lease_ms=LEASE_MS)
    told = reason(daemon)
    assert pattern in told[told.index("ACL SETUSER"):].split(), told
    redis.admin.execute_command(*told[told.index("ACL SETUSER"):].split())
    assert daemon.client().acquire("orders", wait_ms=int(GENEROUS_SECONDS * 1000)) > 0


KEYS, CHANNELS = "keys that begin with sidelock:", "channels that begin with sidelock:"


@pytest.mark.parametrize("patterns, missing", [
    (["&sidelock:*"], [KEYS]),
    *[([f"%{right}~sidelock:*", "&sidelock:*"], [KEYS]) for right in "RW" if HAS_RIGHTS_TO_READ],
    (["~other:*", "&sidelock:*"], [KEYS]),
    (["~sidelock:*"], [CHANNELS]),
    (["~sidelock:*", "&other:*"], [CHANNELS]),
    (["&other:*"], [KEYS, CHANNELS]),
], ids=lambda value: "+".join(value) if value and value[0][0] in "~&%" else "")
def test_what_is_missing_is_named(lab, redis, patterns, missing):
    """Redis refuses the command for its keys or its channel: the words are about those, and not about the command."""
    user = User(redis, "resetkeys", "resetchannels", *patterns, *COMMANDS)
    daemon = lab.daemon(user, lease_ms=LEASE_MS)
    told = reason(daemon)
    words, rules = told.split(": allow it with ACL SETUSER locks ")
    for part in (KEYS, CHANNELS):
        assert (part in words) == (part in missing), told
    assert not re.search(r"EVALSHA|SUBSCRIBE|PUBLISH|GET|SET", words), told
    redis.admin.execute_command("ACL", "SETUSER", "locks", *rules.split())
    assert daemon.client().acquire("orders", wait_ms=int(GENEROUS_SECONDS * 1000)) > 0


if HAS_RIGHTS_TO_READ:
    def test_rights_to_read_and_to_write_may_come_apart(lab, redis):
        user = User(redis, "%R~sidelock:*", "%W~sidelock:*", "&sidelock:*", *COMMANDS)
        assert lab.daemon(user, lease_ms=LEASE_MS).client().acquire("orders", wait_ms=int(SOON * 1000)) > 0


def test_another_prefix_has_other_patterns(lab, redis):
    user = User(redis, *[rule for rule in RULES if rule[0] == "+"])
    daemon = lab.daemon(user, lease_ms=LEASE_MS, args=["--key-prefix", "shop*:"])
    told = reason(daemon)
    assert {r"~shop\*:*", r"&shop\*:*"} <= set(told[told.index("ACL SETUSER"):].split()), told


def test_rights_that_can_be_done_without_are_a_warning(lab, redis):
    """Without two of them nobody can be sure to be the first, so that there is a grace."""
    user = User(redis, *[rule for rule in RULES if rule not in EXTRAS])
    daemon = lab.daemon(user, lease_ms=1000)
    assert daemon.client().acquire("orders", wait_ms=int(GENEROUS_SECONDS * 1000)) > 0
    wait_until(lambda: "ACL SETUSER locks +type +info +pubsub +scan" in daemon.log(), "the warning")


@pytest.mark.parametrize("trouble", ["full", "unsaved"])
def test_a_server_that_cannot_be_written_to_is_connected_to(lab, redis, trouble):
    """Leases can be renewed there, so they must not be lost for the sake of a probe."""
    user = User(redis)
    daemon = lab.daemon(user, lease_ms=3000)
    client = daemon.client()
    token = client.acquire("orders")
    if trouble == "full":
        redis.admin.config_set("maxmemory", 1)
    else:
        redis.admin.config_set("min-replicas-to-write", 1)
    before = client.call("stats")["redis"]
    for connection in redis.daemon_connections():
        redis.admin.client_kill_filter(_id=connection["id"])
    wait_until(lambda: client.call("stats")["redis"]["connections_total"] > before["connections_total"], "a connection")
    if trouble == "full":
        renewals = client.call("stats")["redis"]["renewals_total"]
        wait_until(lambda: client.call("stats")["redis"]["renewals_total"] >= renewals + 2, "renewals")
        assert client.poll() is None
    redis.admin.config_set("maxmemory", 0)
    redis.admin.config_set("min-replicas-to-write", 0)
    if trouble == "full":
        assert client.release("orders", token)["token"] == token


def test_the_probe_costs_no_round_trip(lab, redis):
    """All of the handshake is sent at once, so nothing of it waits for an answer."""
    proxy = lab.proxy(redis)
    proxy.set(hold_replies=True)
    daemon = lab.daemon(proxy, lease_ms=LEASE_MS, wait=False)
    wait_until(lambda: proxy.count(lambda words: words[0].upper() == b"SUBSCRIBE") == 1, "the subscription")
    wait_until(lambda: proxy.count(lambda words: words[0].upper() == b"PING") == 1, "what shows that the trial is over")
    assert proxy.count(lambda words: words[0].upper() == b"EVALSHA") == 2
    proxy.set(hold_replies=False)
    daemon.wait_ready()
