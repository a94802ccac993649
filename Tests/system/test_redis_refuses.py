"""Redis refuses what it is asked: with errors that nobody has listed, and by rights that are taken away for a while.

What is not known to be final may pass: a wait goes on to its own deadline, a try is told the error, and nobody loses
anything that the error says nothing about.
"""

import re

import pytest
from harness.command import Command
from harness.waiting import boot_time, wait_until

# Long beside everything that these tests allow: whatever comes in a quarter of it did not wait for a lease to end.
LEASE_MS = 120_000
SOON = LEASE_MS / 4 / 1000
KEY = b"sidelock:{orders}"

ERRORS = [
    "NOPERM this user has no permissions to run the 'evalsha' command",
    "NOPERM User locks has no permissions to access one of the keys",
    "ERR The user executing the script can't run this command or subcommand script: 1b, on @user_script:3.",
    "ERR unknown command 'EVALSHA', with args beginning with: ",
    "ERR upstream failure",
    "ERR user_script:7: attempt to compare nil with number script: 1b, on @user_script:7.",
    "OOM command not allowed when used memory > 'maxmemory'.", "MISCONF Errors writing to the AOF file",
    "BUSY Redis is busy running a script.", "MASTERDOWN Link with MASTER is down", "CLUSTERDOWN The cluster is down",
    "NOREPLICAS Not enough good replicas to write.", "TRYAGAIN Try again later", "LOADING Redis is loading the dataset",
    "NOAUTH Authentication required.", "NOPROTO what", "EXECABORT no", "WEIRD \x01\xff", "garbage", "", "-",
]
errors = pytest.mark.parametrize("error", ERRORS, ids=lambda text: re.sub(r"[^A-Za-z]+", "_", text)[:40] or "empty")


def about_orders(words):
    """A script that concerns the lock."""
    return words[0].upper().startswith(b"EVAL") and KEY in words


def reply(error):
    return b"-" + error.encode("latin-1") + b"\r\n"


class User:
    """A Redis user of the daemons' own, whose rights come and go."""

    def __init__(self, redis):
        self.redis = redis
        self.url = f"unix://locks:secret@{redis.socket_path}"
        self.set("reset", "on", ">secret", "~sidelock:*", "resetchannels", "&sidelock:*", "+@all")

    def set(self, *rules):
        self.redis.admin.execute_command("ACL", "SETUSER", "locks", *rules)


@pytest.fixture
def user(redis):
    return User(redis)


@pytest.fixture
def proxy(lab, redis):
    return lab.proxy(redis)


@pytest.fixture
def client(lab, proxy):
    client = lab.daemon(proxy, lease_ms=LEASE_MS).client()
    # Before that it is the epoch that is refused.
    wait_until(lambda: client.call("stats")["redis"].get("epoch"), "the epoch")
    return client


def refused(client):
    return client.call("stats")["redis"]["errors_total"]


def refusals(daemon):
    """The errors that the log tells."""
    return re.findall(r'Redis refused a command command=(\S+) count=1 error="([^"]*)"', daemon.log())


# Errors that nobody has listed

@errors
def test_a_wait_goes_on_until_the_error_has_passed_and_a_release_is_repeated(redis, proxy, client, error):
    rule = proxy.answer(about_orders, reply(error), times=10**9)
    request = client.request("acquire", name="orders")
    several = client.request("acquire", names=["a", "orders"], wait_ms=int(SOON * 1000))
    wait_until(lambda: rule.done >= 3, "the daemon to ask again", SOON)
    assert client.poll() is None
    rule.times = 0
    token = client.reply_to(request, SOON)["token"]
    client.release("orders", token)
    locks = client.reply_to(several, SOON)["locks"]
    assert [lock["name"] for lock in locks] == ["a", "orders"]
    rule = proxy.answer(about_orders, reply(error), times=3)
    assert client.release("orders")["token"] == locks[1]["token"]
    wait_until(lambda: not redis.admin.exists(KEY), "the lock to be given back in Redis", SOON)
    assert rule.done == 3


@errors
def test_a_try_and_a_wait_that_ends_and_who_looks_are_told_the_words(proxy, client, error):
    rule = proxy.answer(lambda words: words[0].upper().startswith((b"EVAL", b"SCAN")), reply(error), times=10**9)
    words = "".join(c if " " <= c <= "~" else "?" for c in error)
    for asked in ({"name": "orders"}, {"names": ["orders", "zebra"]}):
        told = client.error_of(client.request("acquire", wait_ms=0, **asked), SOON)
        assert told.reason == "unavailable"
        # Where only a new connection helps there is none for a moment.
        assert words in told.data.get("detail", "") or error.startswith(("NOAUTH", "MASTERDOWN"))
    began = boot_time()
    told = client.error_of(client.request("acquire", name="orders", wait_ms=300), SOON)
    assert told.reason == "unavailable" and boot_time() - began >= 0.3
    for method, params in (("inspect", {"name": "orders"}), ("list", {"scope": "all"})):
        told = client.error_of(client.request(method, **params), SOON)
        assert told.reason == "unavailable"
        # Empty words are none.
        assert told.data.get("detail") if error else "detail" not in told.data
    rule.times = 0


def test_waits_are_asked_for_less_and_less_often(proxy, client):
    """Each lock asks for itself: ten times a second for each would be a flood."""
    rule = proxy.answer(about_orders, reply("ERR upstream failure"), times=10**9)
    client.request("acquire", name="orders")
    wait_until(lambda: rule.done >= 1, "the first ask")
    began = boot_time()
    wait_until(lambda: rule.done >= 8, "seven more")
    # 0.1, 0.1, 0.2, 0.4, 0.8, 1 and 1 s. However slow the machine is, it is not faster than that.
    assert boot_time() - began >= 3.0
    rule.times = 0


# Rights that are taken away and come back

def test_a_right_that_comes_back_costs_nobody_anything(lab, redis, user):
    daemon = lab.daemon(user, lease_ms=LEASE_MS)
    client = daemon.client()
    held = client.acquire("held")
    user.set("-evalsha", "-eval")
    waiting = client.request("acquire", name="orders")
    limited = client.request("acquire", name="orders", wait_ms=int(SOON * 1000))
    wait_until(lambda: refused(client) >= 3, "the daemon to ask again", SOON)
    # Behind those who wait, and where nobody is.
    for name in ("orders", "other"):
        told = client.error_of(client.request("acquire", name=name, wait_ms=0), SOON)
        assert told.reason == "unavailable" and "NOPERM" in told.data["detail"]
    client.release("held", held)
    user.set("+evalsha", "+eval")
    token = client.reply_to(waiting, SOON)["token"]
    client.release("orders", token)
    assert client.reply_to(limited, SOON)["token"] > token
    wait_until(lambda: not redis.admin.exists("sidelock:{held}"), "the lock to be given back in Redis", SOON)


@pytest.mark.parametrize("rights", [["get"], ["pexpire"], ["evalsha", "eval"], ["get", "set", "time"]], ids=" ".join)
@pytest.mark.parametrize("mode", ["exclusive", "shared", "permit"])
def test_a_renewal_that_is_refused_is_no_loss(lab, user, rights, mode):
    """The lease is there; that it may not be looked at says nothing about it."""
    host, other = (lab.daemon(user, lease_ms=6000) for _ in range(2))
    client = host.client()
    asked = {"exclusive": {}, "shared": {"mode": "shared"}, "permit": {"permits": 2}}[mode]
    if mode == "shared":
        other.client().acquire("orders", **asked)
    token = client.acquire("orders", **asked)
    before = refused(client)
    user.set(*(f"-{right}" for right in rights))
    wait_until(lambda: refused(client) > before, "a renewal that is refused", pause=0.001)
    user.set(*(f"+{right}" for right in rights))
    renewals = client.call("stats")["redis"]["renewals_total"]
    wait_until(lambda: client.call("stats")["redis"]["renewals_total"] >= renewals + 2, "renewals")
    assert client.poll() is None
    assert client.release("orders", token)["token"] == token


@pytest.mark.parametrize("right, mode", [
    (right, mode) for right in ("set", "publish", "lpop", "pexpire") for mode in ("exclusive", "shared")
    # A host that waits alone for a lock of its own gets it in a way that does without.
    if (right, mode) != ("pexpire", "exclusive")])
def test_a_hand_over_that_fails_half_way_gives_the_lock_to_nobody_twice(lab, redis, user, right, mode):
    """A host must not be told that it has the lock before that stands in Redis."""
    # Some of these get the lock at the end of a lease.
    first, second, third = (lab.daemon(user, lease_ms=20_000).client() for _ in range(3))
    held = first.acquire("orders")
    waiting = second.queue("orders", mode=mode)
    user.set(f"-{right}")
    before = refused(first)
    first.release("orders", held)
    wait_until(lambda: refused(first) > before, "the release to be refused", SOON)
    user.set(f"+{right}")
    last = third.request("acquire", name="orders")
    # Whoever of the two gets it first: the other one waits.
    order = []

    def granted():
        for who, request in ((second, waiting), (third, last)):
            message = who.poll()
            if message and message.get("id") == request:
                order.append((who, message["result"]["token"]))
        return order

    wait_until(granted, "the lock to go on")
    who, token = order[0]
    loser = third if who is second else second
    assert redis.admin.get(KEY)
    for _ in range(20):
        loser.ping()
        assert not [m for m in loser.pending if "result" in m and "token" in m["result"]]
    who.release("orders", token)
    wait_until(lambda: granted() and len(order) == 2, "the other one's turn")
    assert order[0][0] is not order[1][0] and order[1][1] > token


def test_a_lease_that_is_to_be_shared_is_shared_when_it_may(lab, user):
    first, second = (lab.daemon(user, lease_ms=LEASE_MS).client() for _ in range(2))
    token = first.acquire("orders")
    waiting = second.queue("orders", mode="shared")
    before = refused(first)
    user.set("-set")
    first.call("downgrade", name="orders", token=token)
    wait_until(lambda: refused(first) >= before + 2, "Redis to refuse it twice", SOON)
    user.set("+set")
    assert second.reply_to(waiting, SOON)["token"] > 0
    assert first.poll() is None


def test_what_may_not_be_looked_at_is_not_taken_for_other_data(lab, user):
    client = lab.daemon(user, lease_ms=LEASE_MS).client()
    user.set("-get")
    told = client.error_of(client.request("inspect", name="orders"), SOON)
    assert told.reason == "unavailable" and told.data["detail"]
    user.set("+get")
    assert client.call("inspect", name="orders")["mode"] is None


def test_data_that_is_no_lock_stays_an_error_of_its_own(redis, client):
    redis.admin.rpush(KEY, "x")
    for params in ({"wait_ms": 0}, {"wait_ms": 60_000}, {}):
        assert client.error_of(client.request("acquire", name="orders", **params), SOON).reason == "wrong_type"
    assert client.error_of(client.request("inspect", name="orders"), SOON).reason == "wrong_type"


# The log

def test_each_kind_of_refusal_stands_in_the_log_once_in_a_while(lab, user):
    daemon = lab.daemon(user, lease_ms=LEASE_MS)
    client = daemon.client()
    user.set("-evalsha", "-eval")
    for index in range(20):
        client.error_of(client.request("acquire", name=f"lock-{index}", wait_ms=0), SOON)
    user.set("+evalsha", "+eval", "-exists", "-get")
    for index in range(20):
        client.error_of(client.request("acquire", name=f"lock-{index}", wait_ms=0), SOON)
    user.set("+@all")
    wait_until(lambda: len(refusals(daemon)) >= 2, "both kinds in the log")
    client.acquire("orders", wait_ms=int(SOON * 1000))
    told = refusals(daemon)
    assert len(told) == 2, told
    assert told[0][0] == "acquire" and told[0][1].startswith("NOPERM")
    assert "warning" in next(line for line in daemon.log().splitlines() if "Redis refused a command" in line)


# What people are told

@pytest.mark.parametrize("arguments", [
    ["run", "-n", "orders", "--", "true"], ["call", "acquire", '{"name":"orders","wait_ms":0}'],
], ids=lambda arguments: arguments[0])
def test_the_command_tells_what_redis_said(lab, redis, arguments):
    daemon = lab.daemon(redis)
    redis.admin.config_set("maxmemory", 1)
    status, _, err = Command(lab, daemon).run(*arguments)
    assert status == 68
    assert "OOM command not allowed when used memory > 'maxmemory'" in err


@pytest.mark.parametrize("arguments", [["list", "--all"], ["call", "list", '{"scope":"all"}']], ids=lambda words: words[0])
def test_a_question_that_redis_refuses_tells_why(lab, user, arguments):
    user.set("-scan")
    status, _, err = Command(lab, lab.daemon(user)).run(*arguments)
    assert status == 68
    assert "NOPERM" in err and "scan" in err


def test_the_words_of_redis_are_one_line_of_text(lab, proxy):
    daemon = lab.daemon(proxy)
    proxy.answer(about_orders, b"-OOM \x1b[31mred\x1b[0m\r\n", times=10**9)
    status, _, err = Command(lab, daemon).run("run", "-n", "orders", "--", "true")
    assert status == 68
    assert "OOM" in err and "\x1b" not in err and len(err.splitlines()) == 1


# Why `run` waits

REFUSES = "waiting for orders: Redis refuses or cannot be reached: "


def said_by(process, log, words):
    """Waits for words on its standard error."""
    wait_until(lambda: words in log.read_text() or process.poll() is not None, "the words")
    return log.read_text()


@pytest.mark.parametrize("arguments", [[], ["-w", "3600"], ["--shared"], ["--and", "a"]],
                         ids=lambda words: words[0] if words else "alone")
def test_run_says_once_why_it_waits_and_when_that_is_over(lab, arguments):
    redis = lab.redis()
    user = User(redis)
    daemon = lab.daemon(user, lease_ms=LEASE_MS)
    holder = lab.daemon(redis, lease_ms=LEASE_MS).client()
    token = holder.acquire("orders")
    user.set("-set", "-rpush")
    log = lab.directory / "err"
    with log.open("w") as err:
        process = Command(lab, daemon).start("run", *arguments, "orders", "--", "true", stderr=err)
    # Of several locks the one that is waited for is named: they are taken in the order of their names.
    refuses = REFUSES.replace("orders", "a") if "--and" in arguments else REFUSES
    text = said_by(process, log, refuses)
    assert re.search("can't run|no permissions", text.split(refuses)[1]), text
    user.set("+@all")
    text = said_by(process, log, "waiting for orders: held by")
    assert text.count(refuses) == 1, text
    holder.release("orders", token)
    assert process.wait(SOON) == 0


def test_run_says_that_redis_cannot_be_reached(lab):
    redis = lab.redis()
    # When Redis is back nothing is granted for as long as a lease.
    daemon = lab.daemon(redis, lease_ms=5000)
    redis.kill()
    wait_until(lambda: not daemon.client().call("stats")["redis"]["connected"], "the daemon to see that Redis is gone")
    log = lab.directory / "err"
    with log.open("w") as err:
        process = Command(lab, daemon).start("run", "orders", "--", "true", stderr=err)
    said_by(process, log, REFUSES)
    redis.start()
    assert process.wait(SOON) == 0
    assert log.read_text().count(REFUSES) == 1
