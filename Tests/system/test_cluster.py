"""A Redis Cluster: locks in all of its parts, failovers, slots that move, and primaries that come and go.

A witness hears what clients are told, and judges by that alone (harness/witness.py).
"""

import os
import random
import re
import time

import pytest
from harness.certificates import Authority
from harness.cluster import CELLS, RedisCluster, cell, key, slot, tag
from harness.command import check_urls
from harness.reasons import reason
from harness.redis_server import acl_rules
from harness.service_manager import ServiceManager
from harness.waiting import GENEROUS_MS, wait_until
from harness.witness import Member, Witness
from test_chaos import Chaos, seeds

# Longer than a failover takes on a busy machine.
LEASE_MS = 12_000
CHAOS_SECONDS = int(os.environ.get("SIDELOCK_TEST_CLUSTER_SECONDS", 120))


def told(daemon):
    return daemon.client().call("stats")["redis"]


def is_served(daemon):
    cluster = told(daemon)["cluster"]
    return cluster["parts_unserved"] == 0 and cluster["connected"] == cluster["primaries"]


def is_open(daemon):
    """Whether all parts are served, and grant."""
    return is_served(daemon) and told(daemon)["cluster"]["parts_recovering"] == 0


class At:
    """What a daemon is given as its store."""

    def __init__(self, url):
        self.url = url


@pytest.fixture
def cluster(lab):
    return RedisCluster(lab)


class Site:
    """Two hosts on one cluster, with locks at a primary of which each has something, and locks in all other parts."""

    def __init__(self, lab, cluster, at, lease_ms=LEASE_MS):
        self.cluster = cluster
        self.daemons = [lab.daemon(cluster, lease_ms=lease_ms, args=["--host", f"h{number}"]) for number in range(2)]
        for daemon in self.daemons:
            wait_until(lambda: is_open(daemon), "all parts")
        self.witness = Witness()
        self.kept, self.shared, self.other, self.free = (cluster.name_at(at, word) for word in ("kept", "shared", "other", "free"))
        a, b, c = self.a, self.b, self.c = [Member(self.witness, self.daemons[host]) for host in (0, 1, 1)]
        self.all = [cluster.names(part, 1)[0] for part in range(CELLS)]
        for name in self.all:
            a.take(name)
        a.take(self.kept)
        a.take(self.shared, mode="shared")
        b.take(self.shared, mode="shared")
        b.take(self.other)
        self.waits = [(c, c.wait(self.kept), a, self.kept), (a, a.wait(self.other), b, self.other)]

    def is_followed(self):
        for daemon in self.daemons:
            wait_until(lambda: is_served(daemon), "all parts")

    def goes_on(self):
        """Nothing was lost, everybody is served, and what is new is granted after the grace."""
        late = Member(self.witness, self.daemons[1])
        late.served(late.ask(self.free, wait_ms=GENEROUS_MS))
        late.give(self.free)
        for waiter, request, holder, name in self.waits:
            holder.give(name)
            waiter.served(request)
            waiter.give(name)
        for member in (self.a, self.b):
            member.give(self.shared)
        for name in self.all:
            self.a.give(name)
        for member in (self.a, self.b, self.c, late):
            member.hear()
        assert self.witness.lost == []


# All is well


def test_locks_of_all_parts_pass_between_hosts(lab, cluster, measured):
    one, other = (lab.daemon(cluster, args=["--host", host]) for host in ("one", "other"))
    for daemon in (one, other):
        wait_until(lambda: is_open(daemon), "all parts")
    assert re.search(r"Redis connected; .*; 3 of 3 primaries$", one.notify.lines("STATUS=")[-1])
    witness = Witness()
    a, b = Member(witness, one), Member(witness, other)
    names = [cluster.names(part, 1)[0] for part in range(CELLS)]
    began = time.monotonic()
    for name in names:
        a.take(name)
        assert b.attempt(name).reason == "busy"
        assert cluster.primary_for(name).admin.exists(key(name))
    requests = [b.wait(name) for name in names]
    for name in names:
        a.give(name)
    for request in requests:
        b.served(request)
    measured("64 locks, one in each part, taken, tried, waited for and handed over", f"{time.monotonic() - began:.2f} s")
    assert list(told(one)["cluster"]) == ["primaries", "connected", "parts_unserved", "parts_recovering", "moves_total"]
    # Nothing is heard of another primary's connection.
    assert told(one)["pushes_left_out_total"] == 0 and told(other)["errors_total"] == 0
    # A list goes from primary to primary.
    client, found, cursor = one.client(), [], None
    while True:
        page = client.call("list", scope="all", limit=10, **({"cursor": cursor} if cursor else {}))
        found += [lock["name"] for lock in page["locks"]]
        cursor = page.get("cursor")
        if not cursor:
            break
    assert sorted(found) == sorted(names)
    assert [lock["name"] for lock in client.call("list", scope="all", prefix=names[7])["locks"]] == [names[7]]
    holder, = client.call("inspect", name=names[0])["holders"]
    assert holder["host"] == "other" and holder["token"] == b.held[names[0]]
    # Another host's hold is broken.
    assert client.call("break", name=names[0])["broken"] == [b.held[names[0]]]
    wait_until(lambda: b.hear() or witness.lost == [(names[0], "broken")], "the loss")


def test_several_locks_of_several_primaries(lab, cluster):
    one, other = (lab.daemon(cluster, args=["--host", host]) for host in ("one", "other"))
    client, another = one.client(), other.client()
    names = [cluster.names(part, 1)[0] for part in (0, 20, 40, 60)]
    assert len({cluster.primary_for(name).port for name in names}) == 3
    locks = client.call("acquire", names=names, wait_ms=GENEROUS_MS)["locks"]
    assert [lock["name"] for lock in locks] == names
    request = another.request("acquire", names=names[::-1], wait_ms=GENEROUS_MS)
    for lock in locks:
        client.release(lock["name"], lock["token"])
    assert [lock["name"] for lock in another.reply_to(request)["locks"]] == names[::-1]


def test_modes_that_share(lab, cluster):
    one, other = (lab.daemon(cluster, args=["--host", host]) for host in ("one", "other"))
    witness = Witness()
    a, b = Member(witness, one), Member(witness, other)
    for number in range(6):
        a.take(f"s{number}", mode="shared")
        b.take(f"s{number}", mode="shared")
        a.take(f"p{number}", permits=2)
        b.take(f"p{number}", permits=2)
        waiting = a.wait(f"s{number}")
        a.give(f"s{number}")
        b.give(f"s{number}")
        a.served(waiting)


def test_a_grant_waits_for_replicas_of_its_primary(lab, cluster):
    for node in cluster.nodes:
        node.admin.execute_command("ACL", "SETUSER", node.user, "+wait")
    daemon = lab.daemon(cluster)
    client = daemon.client()
    for part in (0, 30, 60):
        assert client.acquire(cluster.names(part, 1)[0], replicas=1, wait_ms=GENEROUS_MS) > 0
    name = cluster.names(10, 1)[0]
    refused = client.error_of(client.request("acquire", name=name, replicas=2, wait_ms=3000))
    assert refused.reason == "under_replicated" and refused.data["acknowledged"] == 1


def test_what_a_host_has_that_is_gone_passes_on_before_its_leases_end(lab, cluster):
    gone, other = (lab.daemon(cluster, lease_ms=60_000, args=["--host", host, "--dead-host-ms", "4000"]) for host in ("gone", "other"))
    for daemon in (gone, other):
        wait_until(lambda: is_open(daemon), "all parts")
    names = [cluster.names(part, 1)[0] for part in range(0, CELLS, 5)]
    for name in names:
        gone.client().acquire(name)
    client = other.client()
    requests = [client.queue(name, wait_ms=GENEROUS_MS) for name in names]
    began = time.monotonic()
    gone.kill()
    for request in requests:
        assert client.reply_to(request)["token"] > 0
    assert time.monotonic() - began < 40


def test_a_deadlock_through_hosts_and_primaries_is_found(lab, cluster):
    one, other = (lab.daemon(cluster, args=["--host", host]) for host in ("one", "other"))
    a, b = one.client(), other.client()
    first, second = (cluster.names(part, 1)[0] for part in (1, 62))
    a.acquire(first, wait_ms=GENEROUS_MS, owner="o")
    b.acquire(second, wait_ms=GENEROUS_MS, owner="o")
    a.queue(second, wait_ms=GENEROUS_MS, owner="o")
    request = b.request("acquire", name=first, wait_ms=GENEROUS_MS, owner="o")
    assert b.error_of(request).reason == "deadlock"


def test_a_key_that_a_foreign_process_has_set(lab, cluster):
    """As protocol/formats.md tells it."""
    daemon = lab.daemon(cluster)
    client = daemon.client()
    primary = cluster.primary_for("job")
    assert primary.admin.set(key("job"), "mine", nx=True, px=60_000)
    assert client.try_acquire("job") is None
    request = client.queue("job", wait_ms=GENEROUS_MS)
    primary.admin.delete(key("job"))
    assert client.reply_to(request)["token"] > 0


# What is wrong


def test_what_is_wrong_is_told(lab, cluster):
    plain = lab.redis()
    node = cluster.nodes[0]
    for url, words in [
        (f"redis://127.0.0.1:{node.port}", "this is a node of a Redis Cluster: write redis-cluster://"),
        (f"redis-cluster://127.0.0.1:{plain.port}", "this is a Redis that is in no Cluster: write redis://"),
        ("redis-cluster://127.0.0.1:1", "Connection refused"),
        (f"rediss-cluster://127.0.0.1:{node.port}", f"127.0.0.1:{node.port}: .*speak TLS on this port"),
    ]:
        reason(lab.daemon(At(url)), words)


def test_check_names_what_is_wrong_in_the_url(lab):
    check_urls(lab.daemon().command[0], [
        ("redis-cluster://a,b:x", "port is not a number from 1 to 65535 (node 2 of 2)"),
        ("redis-cluster://u:hunter2@a/1", "database must be 0"),
        ("redis-cluster://u:hunter2@a,u:hunter2@b", "the login stands once, before the first one"),
        ("redis-cluster://a?db=0", "query is not supported with a cluster"),
    ], "rediss-cluster://a,b:1", "rediss-cluster://a:6379,b:1")


def test_a_user_needs_the_rights_that_are_named(lab, cluster):
    for node in cluster.nodes:
        node.admin.execute_command("ACL", "SETUSER", "lesser", "on", ">pw", *acl_rules().split())
    url = cluster.url_of(cluster.nodes).replace("://", "://lesser:pw@") if "@" not in cluster.url else cluster.url.replace(
        cluster.url.split("://")[1].split("@")[0], "lesser:pw")
    daemon = lab.daemon(At(url))
    reason(daemon, r"may not use CLUSTER NODES: allow it with \+cluster\|nodes")
    for node in cluster.nodes:
        node.admin.execute_command("ACL", "SETUSER", "lesser", "+cluster|nodes")
    reason(daemon, r"allow it with ACL SETUSER lesser \+cluster\|myid")
    for node in cluster.nodes:
        node.admin.execute_command("ACL", "SETUSER", "lesser", "+cluster|myid")
    assert daemon.client().acquire("orders", wait_ms=GENEROUS_MS) > 0


def test_one_node_of_the_url_is_enough(lab, cluster):
    """A replica, too."""
    replica = cluster.replicas_of(cluster.primary_of(0))[0]
    dead = f"127.0.0.1:1,127.0.0.1:{replica.port}"
    daemon = lab.daemon(At(cluster.url_of([]) + dead))
    assert daemon.client().acquire("orders", wait_ms=GENEROUS_MS) > 0
    wait_until(lambda: is_open(daemon), "all parts")


# Failovers: each begins one


def kill(cluster, old):
    old.end()


def stop(cluster, old):
    old.stop()


def ask(cluster, old):
    replica = cluster.replicas_of(old)[0]
    replica.admin.execute_command("CLUSTER", "FAILOVER")


def takeover(cluster, old):
    """Nobody else is asked, and the others hear of it later."""
    replica = cluster.replicas_of(old)[0]
    replica.admin.execute_command("CLUSTER", "FAILOVER", "TAKEOVER")


@pytest.mark.parametrize("way", [kill, stop, ask, takeover], ids=lambda way: way.__name__)
def test_a_failover_is_followed_and_nothing_is_lost(lab, cluster, measured, way):
    a_slot = 0
    old = cluster.primary_of(a_slot)
    replica, = cluster.replicas_of(old)
    site = Site(lab, cluster, old)
    began = time.monotonic()
    way(cluster, old)
    wait_until(lambda: replica.serves(a_slot) and replica.is_well, "the failover")
    over = time.monotonic()
    for daemon in site.daemons:
        wait_until(lambda: is_served(daemon) and told(daemon)["cluster"]["moves_total"] > 0, "all parts")
    measured("the failover took, and then until it was followed", f"{over - began:.2f} s, {time.monotonic() - over:.2f} s")
    site.goes_on()
    if way is kill:
        old.start()
    old.resume()
    cluster.settle()
    site.is_followed()


def test_a_flushed_primary_is_noticed(lab, cluster):
    """The others go on granting."""
    one = cluster.primary_of(0)
    site = Site(lab, cluster, one)
    one.admin.flushall()
    late = Member(site.witness, site.daemons[1])
    assert late.attempt(site.kept).reason in ("busy", "unavailable")
    elsewhere = cluster.name_at(cluster.another_primary(one), "elsewhere")
    assert late.attempt(elsewhere) is None
    site.goes_on()


# Slots that move


def test_a_slot_that_comes_without_its_keys_is_reclaimed(lab, cluster):
    """It is told from one that has never had any: nothing is granted before whoever held has it again."""
    part = 5
    a_slot = slot(str(tag(part)))
    source = cluster.primary_of(a_slot)
    target = cluster.another_primary(source)
    daemons = [lab.daemon(cluster, lease_ms=LEASE_MS, args=["--host", f"h{number}"]) for number in range(2)]
    for daemon in daemons:
        wait_until(lambda: is_open(daemon), "all parts")
    witness = Witness()
    holder, waiter, other = (Member(witness, daemons[host]) for host in (0, 1, 1))
    held, free = cluster.names(part, 2)
    holder.take(held)
    request = waiter.wait(held)
    # Its claim is the later one, and the other primary throws away what it has.
    target.admin.execute_command("CLUSTER", "SETSLOT", a_slot, "IMPORTING", source.id)
    target.admin.execute_command("CLUSTER", "SETSLOT", a_slot, "NODE", target.id)
    wait_until(lambda: not source.serves(a_slot), "the move")
    for daemon in daemons:
        wait_until(lambda: told(daemon)["cluster"]["moves_total"] == 1 and is_served(daemon), "the new home")
    assert other.attempt(held).reason in ("busy", "unavailable") and other.attempt(free).reason == "unavailable"
    wait_until(lambda: target.admin.exists(key(held)), "the lock in its new place")
    holder.give(held)
    waiter.served(request)
    other.served(other.ask(free, wait_ms=GENEROUS_MS))
    assert not waiter.hear() and witness.lost == []


def test_an_epoch_that_is_evicted_is_missed(lab, cluster):
    """Of one part; the others go on."""
    daemons = [lab.daemon(cluster, lease_ms=LEASE_MS, args=["--host", f"h{number}"]) for number in range(2)]
    for daemon in daemons:
        wait_until(lambda: is_open(daemon), "all parts")
    witness = Witness()
    holder, other = (Member(witness, daemon) for daemon in daemons)
    name, free = cluster.names(9, 2)
    holder.take(name)
    primary = cluster.primary_for(name)
    assert primary.admin.delete(key(name), f"sidelock:{{{tag(9)}}}epoch") == 2
    assert other.attempt(name).reason == "unavailable" and other.attempt(free).reason == "unavailable"
    assert other.attempt(cluster.names(10, 1)[0]) is None
    wait_until(lambda: primary.admin.exists(key(name)), "the lock, taken again")
    other.served(other.ask(free, wait_ms=GENEROUS_MS))
    holder.give(name)
    assert other.attempt(name) is None
    assert witness.lost == []


@pytest.mark.parametrize("load", [False, True], ids=["at rest", "under load"])
def test_a_slot_moves_with_a_thousand_locks_held(lab, cluster, measured, load):
    part = 5
    a_slot = slot(str(tag(part)))
    source = cluster.primary_of(a_slot)
    target = cluster.another_primary(source)
    daemons = [lab.daemon(cluster, lease_ms=LEASE_MS, args=["--host", f"h{number}"]) for number in range(2)]
    witness = Witness()
    names = cluster.names(part, 1000)
    members = [Member(witness, daemon) for daemon in daemons]
    for member, mine in zip(members, (names[::2], names[1::2])):
        for request in [member.ask(name, wait_ms=GENEROUS_MS) for name in mine[:100]]:
            member.served(request)
        for name in mine[100:]:
            member.take(name)
    waits = [(Member(witness, daemons[1]), name) for name in names[:20:2]]
    requests = [member.wait(name) for member, name in waits]
    busy, busy_names = Member(witness, daemons[0]), cluster.names(part, 50, "busy")

    def traffic():
        """Some cycles of other locks of the part: they may be refused while the slot moves."""
        for name in busy_names if load else []:
            if busy.attempt(name) is None:
                busy.give(name)

    began = time.monotonic()
    traffic()
    moved = cluster.move(a_slot, source, target, traffic)
    over = time.monotonic()
    traffic()
    for daemon in daemons:
        wait_until(lambda: told(daemon)["cluster"]["moves_total"] > 0 and is_served(daemon), "the new home")
    measured(f"a slot with {moved} keys moved in {over - began:.2f} s, and was followed in", f"{time.monotonic() - over:.2f} s")
    assert moved >= 1000 and source.admin.execute_command("CLUSTER", "COUNTKEYSINSLOT", a_slot) == 0
    for (member, name), request in zip(waits, requests):
        members[0].give(name)
        member.served(request)
    for daemon in daemons:
        wait_until(lambda: is_open(daemon), "the end of the grace")
    fresh = cluster.names(part, 1, "fresh")[0]
    members[0].take(fresh)
    assert target.admin.exists(key(fresh))
    for member in members:
        member.hear()
    assert witness.lost == []
    assert sum(len(member.held) for member in members) == 1000 - len(waits) + 1


def test_a_slot_that_is_left_halfway_costs_its_locks_and_doubles_none(lab, cluster):
    """Some of its keys are at one primary and some at another, for longer than leases last."""
    part = 5
    a_slot = slot(str(tag(part)))
    source = cluster.primary_of(a_slot)
    target = cluster.another_primary(source)
    daemons = [lab.daemon(cluster, lease_ms=3000, args=["--host", f"h{number}"]) for number in range(2)]
    for daemon in daemons:
        wait_until(lambda: is_open(daemon), "all parts")
    witness = Witness()
    holder, other = (Member(witness, daemon) for daemon in daemons)
    names = cluster.names(part, 20)
    elsewhere = cluster.names(part + 1, 1)[0]
    for name in [*names, elsewhere]:
        holder.take(name)

    def halfway():
        def is_lost():
            for name in names:
                error = other.attempt(name)
                assert error is None or error.reason in ("busy", "unavailable")
            holder.hear()
            return len(witness.lost) == len(names)

        for daemon in daemons:
            wait_until(lambda: other.attempt(names[0]) and told(daemon)["cluster"]["parts_unserved"] == 1, "the move")
        assert f"slot {a_slot} is being moved" in told(daemons[1])["cluster"]["unserved_reason"]
        wait_until(is_lost, "the loss")

    cluster.move(a_slot, source, target, halfway)
    assert {reason for _, reason in witness.lost} == {"lease_expired"}
    for daemon in daemons:
        wait_until(lambda: is_open(daemon), "the new home")
    for name in names:
        other.served(other.ask(name, wait_ms=GENEROUS_MS))
    holder.give(elsewhere)
    assert len(witness.lost) == len(names)


def test_a_primary_comes_and_goes(lab, cluster):
    """It is given slots by redis-cli, and gives them back."""
    first = cluster.primary_of(0)
    site = Site(lab, cluster, first)
    new = cluster.node()
    cluster.cli("add-node", cluster.place(new), cluster.place(first))
    cluster.nodes.append(new)
    wait_until(lambda: all(len(node.view()) == len(cluster.nodes) for node in cluster.living), "the new node")
    cluster.settle()
    cluster.cli("reshard", cluster.place(first), "--cluster-from", first.id, "--cluster-to", new.id, "--cluster-slots", "1200")
    assert new.serves(slot(str(tag(0))))
    for daemon in site.daemons:
        wait_until(lambda: is_served(daemon) and told(daemon)["cluster"]["primaries"] == 4, "the new primary")
    cluster.settle()
    cluster.cli("reshard", cluster.place(first), "--cluster-from", new.id, "--cluster-to", first.id, "--cluster-slots", "1200")
    for daemon in site.daemons:
        wait_until(lambda: is_served(daemon) and told(daemon)["cluster"]["primaries"] == 3, "the end of the new primary")
    new.end()
    site.goes_on()


def test_a_part_that_nobody_serves_leaves_the_others_alone(lab):
    cluster = RedisCluster(lab, replicas=0, args=["--cluster-require-full-coverage", "no"])
    lost = cluster.primary_of(0)
    daemon = lab.daemon(cluster, lease_ms=LEASE_MS)
    wait_until(lambda: is_open(daemon), "all parts")
    witness = Witness()
    member = Member(witness, daemon)
    others = [name for name in (cluster.names(part, 1)[0] for part in range(CELLS))
              if not lost.serves(slot(str(tag(cell(name)))))]
    for name in others:
        member.take(name)
    at_lost = cluster.name_at(lost)
    lost.end()
    wait_until(lambda: told(daemon)["cluster"]["parts_unserved"] == CELLS - len(others), "the loss of a primary")
    assert member.attempt(at_lost).reason == "unavailable"
    wait_until(lambda: re.search(rf"2 of 3 primaries, {CELLS - len(others)} of {CELLS} parts unserved",
                                 daemon.notify.lines("STATUS=")[-1]), "the status")
    for name in others:
        member.give(name)
        assert member.attempt(name) is None
    lost.start()
    wait_until(lambda: is_served(daemon), "the primary that is back")
    member.served(member.ask(at_lost, wait_ms=GENEROUS_MS))
    member.hear()
    assert witness.lost == []


# Over a restart


def test_locks_are_kept_over_a_restart_and_a_failover(lab, cluster):
    old = cluster.primary_of(0)
    replica, = cluster.replicas_of(old)
    manager = ServiceManager(lab, "--redis", cluster.url, "--host", "kept", "--lease-ms", str(LEASE_MS))
    manager.start()
    try:
        client = manager.client()
        names = [cluster.names(part, 1)[0] for part in range(CELLS)]
        tokens = {name: client.acquire(name, wait_ms=GENEROUS_MS) for name in names}
        old.end()
        manager.restart()
        wait_until(lambda: replica.serves(0) and replica.is_well, "the failover")
        wait_until(lambda: client.call("stats")["redis"]["cluster"]["parts_unserved"] == 0, "all parts")
        for name, token in tokens.items():
            client.release(name, token)
        assert not [m for m in client.pending if m.get("method") == "lost"]
    finally:
        manager.drop()


# TLS


def test_nodes_speak_tls(lab):
    authority = Authority(lab.directory, "site-ca")
    own = authority.sign("server", "IP:127.0.0.1")
    files = {"cert-file": own.path, "key-file": own.key, "ca-cert-file": authority.path}
    cluster = RedisCluster(lab, replicas=0, by_hand=True, args=[
        *(word for name, path in files.items() for word in (f"--tls-{name}", str(path))), "--tls-auth-clients", "no",
        "--tls-cluster", "yes"])
    cluster.scheme = "rediss-cluster"
    daemon = lab.daemon(cluster, args=["--redis-tls-ca", str(authority.path)])
    wait_until(lambda: is_open(daemon), "all parts")
    for part in range(CELLS):
        assert daemon.client().acquire(cluster.names(part, 1)[0]) > 0
    for node in cluster.nodes:
        assert any("sidelockd" in c["name"] for c in node.admin.client_list())
    reason(lab.daemon(cluster), "which is unknown")
    reason(lab.daemon(At(cluster.url.replace("rediss-", "redis-"))), "speaks TLS here, write rediss-cluster://")


# Chaos


@pytest.mark.timeout(300 + 2 * CHAOS_SECONDS)
@pytest.mark.parametrize("seed", seeds())
def test_rounds_with_failovers_and_moves(network, lab, measured, seed):
    """Primaries are killed, stopped, cut off from the other nodes, and made replicas, the slot of the lock moves, and daemons and clients are killed. Nobody has it twice, and everybody has it
    again in the end."""
    cluster = RedisCluster(lab, network=network)
    a_slot = slot(str(tag(cell("orders"))))

    def cut_off(cluster, old):
        network.cut([old.address], [node.address for node in cluster.nodes if node is not old])

    chaos = Chaos(lab, [cluster, cluster], 4000, seed)
    chaos.wait_rounds(10)
    dice, done, daemon_kills, began = random.Random(seed), {}, 0, time.monotonic()
    while time.monotonic() - began < CHAOS_SECONDS or len(done) < 6:
        old = cluster.primary_of(a_slot)
        replicas = cluster.replicas_of(old)
        others = [node for node in cluster.living if node is not old and node.is_primary]
        ways = ["kill", "stop", "ask", "takeover", "cut off"] if replicas else []
        way = dice.choice([way for way in [*ways, "move"] if done.get(way, 0) <= min(done.get(w, 0) for w in [*ways, "move"])])
        done[way] = done.get(way, 0) + 1
        if way == "move":
            cluster.move(a_slot, old, dice.choice(others))
        else:
            {"kill": kill, "stop": stop, "ask": ask, "takeover": takeover, "cut off": cut_off}[way](cluster, old)
            wait_until(lambda: any(replica.serves(a_slot) and replica.is_well for replica in replicas), f"the failover: {way}")
            if way == "kill":
                old.start()
            old.resume()
            network.mend()
        cluster.settle()
        chaos.wait_rounds(chaos.judge.rounds + dice.randrange(5, 30))
        if dice.random() < 0.3:
            chaos.kill_holder()
        elif dice.random() < 0.3:
            # A part may be without its locks only as long as somebody remembers.
            chaos.kill_daemon()
            for daemon in chaos.daemons:
                daemon.wait_ready()
            daemon_kills += 1
            chaos.wait_rounds(chaos.judge.rounds + 5)
    measured(f"{chaos.judge.rounds} rounds, {done}, {daemon_kills} daemons killed, lost: {chaos.judge.lost}", f"{time.monotonic() - began:.1f} s")
    # A failover may take longer than what is left of a lease.
    assert "data_loss" not in chaos.judge.lost
    chaos.everybody_has_a_turn()
