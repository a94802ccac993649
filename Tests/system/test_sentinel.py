"""A primary that Sentinels watch over: it is found, and each way of its failover is followed; no lock is granted twice, and none
is lost where the failover is over before 85 % of a lease are.

A witness hears what clients are told, and judges by that alone (harness/witness.py).
"""

import os
import random
import re
import time

import pytest
import redis
from harness.certificates import Authority
from harness.command import check_urls
from harness.reasons import reason
from harness.redis_server import free_port
from harness.sentinels import MASTER, SentinelSet
from harness.service_manager import ServiceManager
from harness.waiting import GENEROUS_MS, boot_time, wait_until
from harness.witness import Member, Witness
from test_addresses import NAME, Place
from test_chaos import Chaos, seeds

# Longer than a failover takes on a busy machine.
LEASE_MS = 20_000
CHAOS_SECONDS = int(os.environ.get("SIDELOCK_TEST_SENTINEL_SECONDS", 120))


def told(daemon):
    return daemon.client().call("stats")["redis"]["sentinel"]


def is_at(daemon, server):
    return f":{server.told_port}" in told(daemon).get("primary", "") and daemon.client().call("stats")["redis"]["connected"]


class At:
    """What a daemon is given as its store."""

    def __init__(self, url):
        self.url = url


# The ways of a failover. Each begins one; `wait_for_failover` tells that it is over.

def kill(set, old):
    old.end()


def stop(set, old):
    old.stop()


def ask(sentinel, old):
    """A sentinel gives up where no replica is good enough yet; so it is asked again until it has promoted one."""
    def is_done():
        if sentinel.primary_port != old.told_port:
            return True
        try:
            sentinel.admin.execute_command("SENTINEL", "FAILOVER", MASTER)
        except redis.exceptions.ResponseError as error:
            assert re.search("INPROG|NOGOODSLAVE", str(error)), error
        return False

    wait_until(is_done, "a failover that was asked for", pause=0.1)


def ask_for_it(set, old):
    ask(set.sentinels[0], old)


def ask_another_for_it(set, old):
    ask(set.sentinels[1], old)


class Site:
    """Two hosts on one set, with locks of which each has something."""

    def __init__(self, lab, set, lease_ms=LEASE_MS, args=()):
        self.set = set
        self.daemons = [lab.daemon(set, lease_ms=lease_ms, args=["--host", f"h{number}", *args]) for number in range(2)]
        self.witness = Witness()
        a, b, c = self.a, self.b, self.c = [Member(self.witness, self.daemons[host]) for host in (0, 1, 1)]
        a.take("kept")
        a.take("shared", mode="shared")
        b.take("shared", mode="shared")
        b.take("other")
        self.waits = [(c, c.wait("kept"), a, "kept"), (a, a.wait("other"), b, "other")]

    def is_followed(self, count=1):
        for daemon in self.daemons:
            wait_until(lambda: told(daemon)["failovers_total"] >= count, "the failover")
            assert told(daemon)["failovers_total"] <= max(count, self.set.failovers)

    def goes_on(self):
        """Nothing was lost, everybody is served, and what is new is granted after the grace."""
        late = Member(self.witness, self.daemons[1])
        request = late.ask("free", wait_ms=GENEROUS_MS)
        late.served(request)
        late.give("free")
        for waiter, request, holder, name in self.waits:
            holder.give(name)
            waiter.served(request)
            waiter.give(name)
        for member in (self.a, self.b):
            member.give("shared")
        for member in (self.a, self.b, self.c, late):
            member.hear()
        assert self.witness.lost == []


@pytest.fixture
def sentinels(lab):
    return SentinelSet(lab)


# Discovery


def test_the_primary_is_found_and_told(lab, sentinels):
    daemon = lab.daemon(sentinels, lease_ms=LEASE_MS)
    primary = sentinels.servers[0]
    assert daemon.client().acquire("orders") > 0
    assert primary.admin.exists("sidelock:{orders}")
    assert told(daemon) == {
        "master": MASTER, "primary": f"127.0.0.1:{primary.port}", "sentinels": 3, "failovers_total": 0}
    assert re.search(f"Redis connected; .*; {MASTER} at 127.0.0.1:{primary.port}, 3 sentinels, 0 failovers",
                     daemon.notify.lines("STATUS=")[-1])
    assert f"primary=127.0.0.1:{primary.port}" in daemon.log()
    # A small connection of its own, to one of them.
    assert sum(len(sentinel.listeners()) for sentinel in sentinels.sentinels) == 1


def test_one_sentinel_of_the_url_knows_the_others(lab, sentinels):
    first = sentinels.sentinels[0]
    daemon = lab.daemon(At(sentinels.url_of(first)), lease_ms=LEASE_MS)
    member = Member(Witness(), daemon)
    member.take("orders")
    first.kill()
    old = sentinels.primary
    old.end()
    sentinels.wait_for_failover(old, sentinels.sentinels[1:])
    wait_until(lambda: told(daemon)["failovers_total"] == 1, "the failover")
    member.give("orders")


def test_a_name_with_several_addresses_leads_to_its_sentinel(lab):
    """Nobody is at the first, and the second is a Redis."""
    class SentinelPlace(Place):
        @property
        def url(self):
            return f"redis-sentinel://{NAME}:{self.port}?sentinelMasterId={MASTER}"

    place = SentinelPlace(lab)
    lab.redis("--bind", "127.0.0.3", "--port", str(place.port))
    set = SentinelSet(lab, sentinels=1, sentinel_port=place.port)
    place.name("127.0.0.2", "127.0.0.3", "127.0.0.1")
    daemon = place.daemon()
    assert daemon.client().acquire("orders", wait_ms=GENEROUS_MS) > 0
    assert is_at(daemon, set.servers[0])


# What is wrong


def test_what_is_wrong_is_told(lab, sentinels):
    first, second, third = sentinels.sentinels
    for url, words in [
        (f"redis-sentinel://127.0.0.1:{first.port}?sentinelMasterId=other", "it knows no master 'other'"),
        (f"redis-sentinel://127.0.0.1:{sentinels.primary.port}?sentinelMasterId={MASTER}", "this is a Redis, and no Sentinel"),
        (f"redis-sentinel://127.0.0.1:{free_port()}?sentinelMasterId={MASTER}", "no sentinel tells .*cannot connect: Connection refused"),
        (f"redis://127.0.0.1:{first.port}", "this is a Redis Sentinel: write redis-sentinel://"),
        (f"rediss-sentinel://127.0.0.1:{first.port}?sentinelMasterId={MASTER}", f"127.0.0.1:{first.port}: .*speak TLS on this port"),
    ]:
        daemon = lab.daemon(At(url), lease_ms=LEASE_MS)
        reason(daemon, words)
        # It is told once, however often it is tried.
        assert len([line for line in daemon.log().splitlines() if "a sentinel is of no use" in line]) <= 1


def test_fewer_than_most_sentinels_are_not_enough(lab, sentinels):
    first, second, third = sentinels.sentinels
    second.stop()
    third.kill()
    daemon = lab.daemon(sentinels, lease_ms=LEASE_MS, args=["--redis-timeout-ms", "500"])
    # They stand in the order of their addresses.
    why = reason(daemon, "1 of the 3 sentinels of 'locks' has answered, and 2 are needed: .*(refused|no answer)")
    assert f"127.0.0.1:{second.port}: no answer within 500 ms" in why
    assert f"127.0.0.1:{third.port}: cannot connect: Connection refused" in why
    second.resume()
    assert daemon.client().acquire("orders", wait_ms=GENEROUS_MS) > 0


def test_check_names_what_is_wrong_in_the_url(lab):
    check_urls(lab.daemon().command[0], [
        ("redis-sentinel://a,b", "query is missing: write ?sentinelMasterId=NAME"),
        ("redis-sentinel://a,b:x?sentinelMasterId=m", "port is not a number from 1 to 65535 (sentinel 2 of 2)"),
        ("redis-sentinel://u:hunter2@a,b#m", "write what the sentinels call the primary as ?sentinelMasterId=NAME"),
        ("redis-sentinel://u:hunter2@a,?sentinelMasterId=m", "host is missing (sentinel 2 of 2)"),
    ], "redis-sentinel://a?sentinelMasterId=m", "redis-sentinel://a:26379/0?sentinelMasterId=m")


# Logins and TLS


def test_sentinels_may_want_a_password(lab):
    set = SentinelSet(lab, sentinels=2, sentinel_lines=["requirepass hunter2", "sentinel sentinel-pass hunter2"],
                      login={"password": "hunter2"})
    reason(lab.daemon(set, lease_ms=LEASE_MS), "it asks for a password: give it in a file with redis_sentinel_password_file")
    right, wrong = lab.directory / "right", lab.directory / "wrong"
    right.write_text("hunter2\n")
    wrong.write_text("hunter3\n")
    for file in (right, wrong):
        file.chmod(0o600)
    refused = lab.daemon(set, lease_ms=LEASE_MS, args=["--redis-sentinel-password-file", wrong])
    reason(refused, "it refused the password of user 'default'")
    daemon = lab.daemon(set, lease_ms=LEASE_MS, args=["--redis-sentinel-password-file", right])
    assert daemon.client().acquire("orders") > 0
    # A user of its own, with no more than the rights that are named.
    rules = ("+hello +subscribe +sentinel|myid +sentinel|get-master-addr-by-name +sentinel|master +sentinel|sentinels "
             "&+switch-master &+promoted-slave")
    for sentinel in set.sentinels:
        sentinel.admin.execute_command("ACL", "SETUSER", "locks", "reset", "resetchannels", "on", ">hunter2", *rules.split())
    named = lab.daemon(
        set, lease_ms=LEASE_MS, args=["--redis-sentinel-user", "locks", "--redis-sentinel-password-file", right])
    assert named.client().acquire("invoices") > 0
    for sentinel in set.sentinels:
        sentinel.admin.execute_command("ACL", "SETUSER", "locks", "-sentinel|master")
    lesser = lab.daemon(
        set, lease_ms=LEASE_MS, args=["--redis-sentinel-user", "locks", "--redis-sentinel-password-file", right])
    reason(lesser, re.escape(f"ACL SETUSER locks {rules}"))
    assert all("hunter" not in daemon.log() for daemon in lab.daemons)


def test_sentinels_and_servers_speak_tls(lab):
    authority = Authority(lab.directory, "site-ca")
    own = authority.sign("server", "IP:127.0.0.1")
    files = {"cert-file": own.path, "key-file": own.key, "ca-cert-file": authority.path}
    set = SentinelSet(
        lab, replicas=1, sentinels=2, tls_ports=True,
        server_args=[*(word for name, path in files.items() for word in (f"--tls-{name}", str(path))),
                     "--tls-auth-clients", "no", "--tls-replication", "yes"],
        sentinel_lines=[*(f"tls-{name} {path}" for name, path in files.items()), "tls-auth-clients no", "tls-replication yes"],
        login={"ssl": True, "ssl_ca_certs": str(authority.path)})
    daemon = lab.daemon(set, lease_ms=LEASE_MS, args=["--redis-tls-ca", str(authority.path)])
    member = Member(Witness(), daemon)
    member.take("orders")
    old = set.primary
    kill(set, old)
    set.wait_for_failover(old)
    wait_until(lambda: told(daemon)["failovers_total"] == 1, "the failover")
    member.give("orders")
    untrusting = lab.daemon(set, lease_ms=LEASE_MS)
    reason(untrusting, "no sentinel tells where the primary of 'locks' is: .*which is unknown")
    reason(lab.daemon(At(set.url_of(*set.sentinels, scheme="redis-sentinel"))), "speaks TLS here, write rediss-sentinel://")


def test_words_name_the_primary(lab):
    """The URL does not."""
    set = SentinelSet(lab, replicas=0, sentinels=1)
    daemon = lab.daemon(set, lease_ms=LEASE_MS, args=["--redis-timeout-ms", "500"])
    primary = set.primary
    primary.admin.execute_command("ACL", "SETUSER", "default", "on", "resetpass", ">another")
    for connection in primary.daemon_connections():
        primary.admin.client_kill_filter(_id=connection["id"])
    reason(daemon, f"127.0.0.1:{primary.port}: Redis asks for a password")


# Failovers


@pytest.mark.parametrize("way", [kill, stop, ask_for_it, ask_another_for_it], ids=lambda way: way.__name__)
def test_a_failover_is_followed_and_nothing_is_lost(lab, sentinels, measured, way):
    site = Site(lab, sentinels)
    old = sentinels.primary
    began = boot_time()
    way(sentinels, old)
    sentinels.wait_for_failover(old)
    over = boot_time()
    site.is_followed()
    measured("the failover took, and then until it was followed", f"{over - began:.2f} s, {boot_time() - over:.2f} s")
    new = next(server for server in sentinels.servers if server.told_port == sentinels.sentinels[0].primary_port)
    assert all(is_at(daemon, new) for daemon in site.daemons)
    assert told(site.daemons[0])["last_failover_from"] == f"127.0.0.1:{old.port}"
    site.goes_on()
    wait_until(lambda: re.search(r"[1-9]\d* failovers?, the last from 127.0.0.1", site.daemons[0].notify.lines("STATUS=")[-1]), "the status")
    if way is kill:
        old.start()
    old.resume()
    sentinels.settle()
    site.is_followed()


def test_what_a_lagging_replica_has_not_heard_of_is_kept(lab, sentinels):
    """No replica has heard of the last locks when the primary dies."""
    site = Site(lab, sentinels)
    old = sentinels.primary
    for replica in sentinels.servers[1:]:
        wait_until(lambda: replica.admin.exists("sidelock:{other}"), "the locks of before")
        replica.stop()
    late = Member(site.witness, site.daemons[0])
    late.take("late")
    old.end()
    for replica in sentinels.servers[1:]:
        replica.resume()
    sentinels.wait_for_failover(old)
    site.is_followed()
    assert Member(site.witness, site.daemons[1]).attempt("late").reason in ("busy", "unavailable")
    site.goes_on()
    late.give("late")


def test_a_failover_without_the_sentinels_is_followed_when_they_hear_of_it(lab, sentinels):
    """FAILOVER at the primary: the sentinels go on naming the old one, which is a replica, for 20 seconds. The table of
    guarantees has it: what is held is lost as in an outage, and nobody has it twice."""
    site = Site(lab, sentinels, lease_ms=4000)
    old = sentinels.primary
    old.admin.execute_command("FAILOVER")
    wait_until(lambda: re.search("this Redis is a replica", site.daemons[0].log()), "the refusal")
    wait_until(lambda: all(told(daemon)["failovers_total"] == 1 for daemon in site.daemons), "the failover")
    for member in (site.a, site.b, site.c):
        member.hear()
    assert {reason for _, reason in site.witness.lost} <= {"lease_expired"}
    late = Member(site.witness, site.daemons[1])
    late.served(late.ask("free", wait_ms=GENEROUS_MS))


def test_the_sentinel_that_is_listened_to_may_end(lab, sentinels):
    site = Site(lab, sentinels)

    def listener_of(daemon):
        return next((s for s in sentinels.sentinels if s.process.poll() is None
                     and any(c["name"] == f"sidelockd-{daemon}" for c in s.listeners())), None)

    first = wait_until(lambda: listener_of("h0"), "the listener")
    first.kill()
    second = wait_until(lambda: listener_of("h0"), "another listener")
    assert second is not first
    left = [sentinel for sentinel in sentinels.sentinels if sentinel is not first]
    old = sentinels.primary
    # Nothing but a message tells: the old primary goes on until it is told to be a replica.
    ask(left[0], old)
    sentinels.wait_for_failover(old, left)
    site.is_followed()
    site.goes_on()


def test_an_old_primary_that_comes_back_with_its_sentinel_is_refused(lab, sentinels):
    """They were cut off in the failover, and still say and do what they did before. Nobody else can be heard."""
    site = Site(lab, sentinels, lease_ms=40_000)
    old, cut_off = sentinels.primary, sentinels.sentinels[0]
    cut_off.kill()
    old.stop()
    others = sentinels.sentinels[1:]
    sentinels.wait_for_failover(old, others)
    site.is_followed()
    new = next(server for server in sentinels.servers[1:] if server.role == "master")
    for other in [*others, *sentinels.servers[1:]]:
        other.stop()
    old.resume()
    sentinels.restart_sentinel(cut_off)
    wait_until(lambda: cut_off.primary_port == old.port and old.role == "master", "the world of before")
    stranger = lab.daemon(sentinels, lease_ms=LEASE_MS, args=["--redis-timeout-ms", "500"])
    reason(stranger, "1 of the 3 sentinels of 'locks' has answered, and 2 are needed")
    # Who was connected is not led back.
    wait_until(lambda: not any(daemon.client().call("stats")["redis"]["connected"] for daemon in site.daemons), "the cut")
    assert not [c for c in old.admin.client_list() if c["name"].startswith("sidelockd")]
    for other in [*others, *sentinels.servers[1:]]:
        other.resume()
    for daemon in [*site.daemons, stranger]:
        wait_until(lambda: is_at(daemon, new), "the new primary")
    assert not [c for c in old.admin.client_list() if c["name"].startswith("sidelockd")]
    site.goes_on()
    sentinels.settle()
    assert old.role == "slave"


def test_a_sentinel_that_has_lost_its_file_is_not_enough(lab, sentinels):
    """It stands first in the URL, and knows nobody, and the old primary, which has come back."""
    holder = lab.daemon(sentinels, lease_ms=LEASE_MS)
    witness = Witness()
    member = Member(witness, holder)
    member.take("orders")
    old, first, others = sentinels.primary, sentinels.sentinels[0], sentinels.sentinels[1:]
    first.kill()
    old.end()
    sentinels.wait_for_failover(old, others)
    wait_until(lambda: told(holder)["failovers_total"] == 1, "the failover")
    # They would tell it, and make the old primary a replica.
    for other in others:
        other.stop()
    old.start()
    first.path.write_text(
        f"port {first.port}\nbind 127.0.0.1\ndir {first.directory}\nsentinel monitor {MASTER} 127.0.0.1 {old.told_port} 2\n")
    sentinels.restart_sentinel(first)
    assert first.primary_port == old.told_port
    stranger = lab.daemon(sentinels, lease_ms=LEASE_MS, args=["--redis-timeout-ms", "500"])
    reason(stranger, "1 of the 3 sentinels of 'locks' has answered, and 2 are needed")
    for other in others:
        other.resume()
    wait_until(lambda: told(stranger).get("primary") == told(holder)["primary"], "the new primary")
    assert Member(witness, stranger).attempt("orders").reason in ("busy", "unavailable")
    assert not [c for c in old.admin.client_list() if c["name"].startswith("sidelockd")]
    member.give("orders")
    assert witness.lost == []


def test_what_is_kept_over_a_restart_belongs_to_the_name(lab, sentinels):
    """The primary changes while there is no daemon."""
    service = ServiceManager(lab, "--redis", sentinels.url, "--lease-ms", LEASE_MS, "--host", "kept")
    service.start()
    service.socket_path = service.path
    witness = Witness()
    holder, waiter = Member(witness, service), Member(witness, service)
    holder.take("orders")
    request = waiter.wait("orders")
    old = sentinels.primary
    service.stop(hand_over=True)
    kill(sentinels, old)
    sentinels.wait_for_failover(old)
    service.start()
    holder.give("orders")
    waiter.served(request)
    waiter.give("orders")
    assert witness.lost == []
    service.stop(hand_over=False)


@pytest.mark.timeout(300 + 3 * CHAOS_SECONDS)
@pytest.mark.parametrize("seed", seeds())
def test_rounds_with_failovers_of_all_kinds(network, lab, measured, seed):
    """SIDELOCK_TEST_SENTINEL_SECONDS says for how long. Daemons reach a primary that is cut off from the other servers, and may go on
    with it until they hear of the next one."""
    sentinels = SentinelSet(lab, network=network)
    chaos = Chaos(lab, [sentinels, sentinels], 4000, seed)
    chaos.wait_rounds(10)
    counts = {}

    def failover(way):
        old = sentinels.primary
        way(sentinels, old)
        # The first one may be cut off.
        sentinels.wait_for_failover(old, sentinels.sentinels[1:])
        chaos.wait_rounds(chaos.judge.rounds + chaos.random.randrange(5))
        if old.process.poll() is not None:
            old.start()
        old.resume()
        network.mend()

    def cut_off(set, old):
        """Sometimes one of the sentinels is on the side of the old primary."""
        side = [old, *set.sentinels[:chaos.random.randrange(2)]]
        network.cut([one.address for one in side],
                    [one.address for one in [*set.servers, *set.sentinels] if one not in side])

    def lose_a_sentinel():
        sentinel = chaos.random.choice(sentinels.sentinels)
        sentinel.kill()
        chaos.wait_rounds(chaos.judge.rounds + 5)
        sentinels.restart_sentinel(sentinel)

    ways = {
        "killed": lambda: failover(kill), "stopped": lambda: failover(stop), "cut off": lambda: failover(cut_off),
        "asked for": lambda: failover(ask_for_it),
        "sentinel killed": lose_a_sentinel, "holder killed": chaos.kill_holder, "daemon killed": chaos.kill_daemon}
    end = time.monotonic() + CHAOS_SECONDS
    while time.monotonic() < end:
        way = chaos.random.choice(list(ways))
        ways[way]()
        counts[way] = counts.get(way, 0) + 1
        for daemon in chaos.daemons:
            daemon.wait_ready()
        chaos.wait_rounds(chaos.judge.rounds + chaos.random.randrange(5, 25))
        sentinels.settle()
    measured(f"{chaos.judge.rounds} rounds, {counts}, lost: {chaos.judge.lost}", f"{CHAOS_SECONDS} s")
    assert "data_loss" not in chaos.judge.lost
    chaos.everybody_has_a_turn()
