"""A Redis Cluster whose nodes disagree, have other names, or are another one's."""

import re
import socket
import subprocess
import threading
import time

import pytest
from harness.certificates import Authority
from harness.cluster import CELLS, SLOTS, RedisCluster, cell, slot, tag
from harness.daemon import binary, clean_environment
from harness.waiting import GENEROUS_MS, wait_until
from harness.witness import Member, Witness
from test_cluster import At, cluster, is_open, is_served, told  # noqa: F401


class Forwarder:
    """A port that leads to a node; `rewrite` changes what it tells of the others."""

    def __init__(self, node, rewrite=lambda text: text):
        self.target, self.rewrite = node.port, rewrite
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            client, _ = self.socket.accept()
            server = socket.create_connection(("127.0.0.1", self.target))
            for source, target, is_reply in ((client, server, False), (server, client, True)):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self.pump, args=(source, target, is_reply), daemon=True).start()

    def pump(self, source, target, is_reply):
        try:
            while data := source.recv(1 << 16):
                if is_reply and b"myself," in data and (head := re.search(rb"=(\d+)\r\ntxt:", data)):
                    end = head.end() - 4 + int(head[1])
                    while len(data) < end:
                        data += source.recv(1 << 16)
                    text = b"txt:" + self.rewrite(data[head.end():end])
                    data = data[:head.start()] + b"=%d\r\n" % len(text) + text + data[end:]
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def test_nodes_tell_different_addresses_of_one(lab):
    cluster = RedisCluster(lab, primaries=2, replicas=0, by_hand=True)
    a, b = cluster.nodes
    first, second, other = Forwarder(a), Forwarder(a), Forwarder(b)

    def with_a_at(port):
        return lambda text: text.replace(b":%d@" % a.port, b":%d@" % port).replace(b":%d@" % b.port, b":%d@" % other.port)

    first.rewrite = second.rewrite = with_a_at(first.port)
    other.rewrite = with_a_at(second.port)
    daemon = lab.daemon(At(cluster.url_of([]) + f"127.0.0.1:{first.port}"))
    wait_until(lambda: is_open(daemon), "all parts")
    client, name, began = daemon.client(), cluster.name_at(a), time.monotonic()
    # Longer than two questions how things are.
    while time.monotonic() - began < 8:
        client.release(name, client.acquire(name, wait_ms=0))
    assert told(daemon)["connections_total"] <= 4


def test_a_url_with_nodes_of_two_clusters(lab):
    """What the nodes of the other one tell is not believed, and is told of."""
    own, other = (RedisCluster(lab, primaries=1, replicas=0, by_hand=True) for _ in range(2))
    other.nodes[0].admin.execute_command("CLUSTER", "BUMPEPOCH")
    # The second one is asked first.
    daemon = lab.daemon(At(own.url_of([other.nodes[0], own.nodes[0]])))
    wait_until(lambda: "is of another Redis Cluster" in daemon.log(), "the words")
    assert daemon.client().acquire("orders", wait_ms=GENEROUS_MS) > 0
    own.nodes[0].stop()
    wait_until(lambda: told(daemon)["cluster"]["connected"] == 0, "the loss")
    own.nodes[0].resume()
    wait_until(lambda: is_served(daemon), "all parts")
    assert any(b"orders" in found for found in own.nodes[0].keys())
    assert not other.nodes[0].keys()


def test_replicas_are_waited_for_while_another_slot_is_moved(lab, cluster):
    for node in cluster.nodes:
        node.admin.execute_command("ACL", "SETUSER", node.user, "+wait")
    source = cluster.primary_of(0)
    target = cluster.another_primary(source)
    daemon = lab.daemon(cluster)
    wait_until(lambda: is_open(daemon), "all parts")
    first, second = [part for part in range(CELLS) if source.serves(slot(str(tag(part))))][:2]
    a_slot = slot(str(tag(first)))
    target.admin.execute_command("CLUSTER", "SETSLOT", a_slot, "IMPORTING", source.id)
    source.admin.execute_command("CLUSTER", "SETSLOT", a_slot, "MIGRATING", target.id)
    assert daemon.client().acquire(cluster.names(second, 1)[0], replicas=1, wait_ms=GENEROUS_MS) > 0


def test_slots_of_a_dead_primary_are_given_away_by_hand(lab):
    """No config epoch rises by that."""
    cluster = RedisCluster(lab, replicas=0, by_hand=True)
    a, b, dead = cluster.nodes
    daemon = lab.daemon(cluster)
    wait_until(lambda: is_open(daemon), "all parts")
    dead.end()
    wait_until(lambda: all(b"fail " in node.admin.execute_command("CLUSTER", "NODES") for node in (a, b)), "the loss")
    lost = range(SLOTS * 2 // 3, SLOTS)
    for node in (a, b):
        node.admin.execute_command("CLUSTER", "DELSLOTS", *lost)
    a.admin.execute_command("CLUSTER", "ADDSLOTS", *lost)
    wait_until(lambda: a.is_well and b.is_well, "a cluster that is complete")
    wait_until(lambda: is_open(daemon), "all parts")


def test_a_part_that_nobody_serves_shows(lab):
    """To who asks for all locks, and to who asks whether all is well."""
    cluster = RedisCluster(lab, replicas=0, args=["--cluster-require-full-coverage", "no"])
    daemon = lab.daemon(cluster)
    wait_until(lambda: is_open(daemon), "all parts")
    client = daemon.client()
    lost = cluster.primary_of(SLOTS // 2)
    names = [cluster.names(part, 1)[0] for part in range(CELLS)]
    for name in names:
        client.acquire(name)
    served = [name for name in names if not lost.serves(slot(str(tag(cell(name)))))]
    lost.end()
    wait_until(lambda: told(daemon)["cluster"]["parts_unserved"] == CELLS - len(served), "the loss of a primary")
    found, cursor = [], None
    while True:
        request = client.request("list", scope="all", **({"cursor": cursor} if cursor else {}))
        reply = client.reply_to(request) if len(found) < len(served) else client.error_of(request)
        if len(found) == len(served):
            break
        found += [lock["name"] for lock in reply["locks"]]
        cursor = reply["cursor"]
    assert sorted(found) == sorted(served) and reply.reason == "unavailable"
    done = subprocess.run([binary("sidelock", "SIDELOCK"), "health", "--ready", "--socket", daemon.socket_path],
                          capture_output=True, text=True, env=clean_environment())
    assert done.returncode == 1 and f"WARNING: {CELLS - len(served)} of 64 parts" in done.stdout


def test_a_cluster_that_is_down_shows(lab):
    """Its primaries are there, and refuse everything: it needs all slots, and one has nobody."""
    cluster = RedisCluster(lab, replicas=0)
    daemon = lab.daemon(cluster)
    wait_until(lambda: is_open(daemon), "all parts")
    client, lost = daemon.client(), cluster.primary_of(0)
    names = [cluster.name_at(node) for node in cluster.nodes if node is not lost]
    lost.end()

    def is_told():
        for name in names:
            client.error_of(client.request("acquire", name=name, wait_ms=0))
        return told(daemon)["cluster"]["parts_unserved"] == CELLS

    wait_until(lambda: not any(node.is_well for node in cluster.living), "the end of the cluster")
    wait_until(is_told, "that nothing is served")
    assert told(daemon)["connected"] == 1 and told(daemon)["cluster"]["connected"] == 2
    # What they say, and which one is away.
    wait_until(lambda: re.search(rf"127.0.0.1:\d+: CLUSTERDOWN .*; cannot connect to 127.0.0.1:{lost.port}: ",
                                 told(daemon)["cluster"]["unserved_reason"]), "both reasons")
    wait_until(lambda: re.search(rf"{CELLS} of {CELLS} parts unserved \(.+\)", daemon.notify.lines("STATUS=")[-1]), "the status")
    done = subprocess.run([binary("sidelock", "SIDELOCK"), "health", "--ready", "--socket", daemon.socket_path],
                          capture_output=True, text=True, env=clean_environment())
    assert done.returncode == 2 and re.search(f"{CELLS} of {CELLS} parts .*: .+", done.stdout)
    # It is the first one of the URL.
    done = subprocess.run([binary("sidelock", "SIDELOCK"), "doctor", "--socket", daemon.socket_path],
                          capture_output=True, text=True, env=clean_environment())
    asked = re.search(r"--cluster call 127.0.0.1:(\d+) CLUSTER NODES", done.stdout)
    assert asked and int(asked[1]) in [node.port for node in cluster.living]
    lost.start()
    # By itself, as nobody asks for anything.
    wait_until(lambda: is_served(daemon), "all parts")
    assert "unserved_reason" not in told(daemon)["cluster"]
    assert client.acquire(names[0], wait_ms=GENEROUS_MS) > 0


def test_a_grace_of_some_parts_shows_as_one_of_some(lab, cluster):
    daemon = lab.daemon(cluster, lease_ms=20_000)
    wait_until(lambda: is_open(daemon), "all parts")
    old = cluster.primary_of(0)
    other = cluster.name_at(cluster.another_primary(old))
    old.end()
    wait_until(lambda: is_served(daemon) and 0 < told(daemon)["cluster"]["parts_recovering"] < CELLS, "the grace")
    done = subprocess.run([binary("sidelock", "SIDELOCK"), "health", "--ready", "--socket", daemon.socket_path],
                          capture_output=True, text=True, env=clean_environment())
    assert done.returncode == 1 and re.search(r"WARNING: .* in \d+ of 64 parts .*granted there", done.stdout)
    assert daemon.client().acquire(other, wait_ms=0) > 0
    wait_until(lambda: re.search(r"recovering in \d+ of 64 parts: .*granted there", daemon.notify.lines("STATUS=")[-1]), "the status")


def test_words_name_the_node(lab):
    cluster = RedisCluster(lab, replicas=0, by_hand=True)
    silent, other, _ = cluster.nodes
    for node in cluster.nodes:
        password = ">other" if node is other else ">word"
        node.admin.execute_command("ACL", "SETUSER", "anna", "on", password, "~*", "&*", "+@all")
    places = ",".join(f"127.0.0.1:{node.port}" for node in cluster.nodes)
    daemon = lab.daemon(At(f"redis-cluster://anna:word@{places}"), args=["--redis-timeout-ms", "500"])

    def says(node, words):
        """In the figures, the status line and what `health` says."""
        why = rf"127.0.0.1:{node.port}: {words}"
        wait_until(lambda: re.search(why, told(daemon)["cluster"].get("unserved_reason", "")), why)
        wait_until(lambda: re.search(why, daemon.notify.lines("STATUS=")[-1]), "the status")
        done = subprocess.run([binary("sidelock", "SIDELOCK"), "health", "--socket", daemon.socket_path, "--redis"],
                              capture_output=True, text=True, env=clean_environment())
        assert re.search(why, done.stdout)

    wait_until(lambda: told(daemon)["cluster"]["connected"] == 2, "the links to the others")
    says(other, "Redis refused the password of user 'anna'")
    assert re.search(rf"no connection to Redis .*url=\S*127.0.0.1:{other.port}", daemon.log())
    silent.stop()
    says(silent, "no answer .*within 500 ms")
    silent.resume()
    wait_until(lambda: told(daemon)["cluster"]["connected"] == 2, "the links to the others")
    # Each line about a node tells which one.
    told_of = [line for line in daemon.log().splitlines() if "does not tell how things are" in line]
    assert all(re.search(r"node=127.0.0.1:\d+", line) for line in told_of), told_of


def test_nodes_that_send_a_part_to_each_other(lab):
    """Nobody mends that by itself: the daemon tries it now and then, and says what to do."""
    cluster = RedisCluster(lab, primaries=2, replicas=0, by_hand=True)
    slots = {slot(str(tag(part))): next(node for node in cluster.nodes if node.serves(slot(str(tag(part))))) for part in range(CELLS)}
    for a_slot, owner in slots.items():
        other = cluster.another_primary(owner)
        owner.admin.execute_command("CLUSTER", "SETSLOT", a_slot, "NODE", other.id)
    daemon = lab.daemon(cluster)
    wait_until(lambda: "to each other" in daemon.log(), "the words")
    assert re.search(r"CLUSTER SETSLOT \d+ NODE", told(daemon)["cluster"]["unserved_reason"])

    def connections():
        return sum(node.admin.info("stats")["total_connections_received"] for node in cluster.nodes)

    before, began = connections(), time.monotonic()
    wait_until(lambda: connections() >= before + 60, "some connections", pause=0.1)
    assert time.monotonic() - began > 5, "the first tries come soon, and later ones twice a second, with three connections each"
    assert daemon.log().count("to each other") == 1
    assert daemon.log().count("parts of the locks are at other primaries") < 10
    for a_slot, owner in slots.items():
        for node in cluster.nodes:
            node.admin.execute_command("CLUSTER", "SETSLOT", a_slot, "NODE", owner.id)
    wait_until(lambda: is_open(daemon), "all parts")
    assert daemon.client().acquire("orders", wait_ms=GENEROUS_MS) > 0


def fails_over_in_time(lab, cluster, url, args=(), before=lambda: None):
    """A primary is killed: what it had is had by the same holder when its replica is the primary, and both daemons serve it."""
    daemons = [lab.daemon(At(url), lease_ms=10_000, args=["--host", f"h{number}", *args]) for number in range(2)]
    for daemon in daemons:
        wait_until(lambda: is_open(daemon), "all parts")
    witness = Witness()
    holder, waiter = Member(witness, daemons[0]), Member(witness, daemons[1])
    old = cluster.primary_of(0)
    name = cluster.name_at(old)
    holder.take(name)
    request = waiter.wait(name)
    before()
    replicas = cluster.replicas_of(old)
    old.end()
    wait_until(lambda: any(replica.is_primary and replica.is_well for replica in replicas), "the failover")
    for daemon in daemons:
        wait_until(lambda: is_served(daemon), "all parts")
    holder.hear()
    assert witness.lost == []
    holder.give(name)
    waiter.served(request)
    waiter.give(name)


def test_addresses_that_are_silent_keep_nobody_from_hearing_of_a_failover(lab, cluster):
    """Each is waited for as long as Redis may take to answer; the primaries that are left know where everything is."""
    silent = [socket.create_server(("127.0.0.1", 0)) for _ in range(8)]
    fails_over_in_time(
        lab, cluster, cluster.url + "".join(f",127.0.0.1:{one.getsockname()[1]}" for one in silent))


@pytest.mark.parametrize("what", ["fails", "hangs"])
def test_a_program_for_credentials_that_is_no_use_keeps_no_link_from_being_made(lab, cluster, what):
    """The login of before is good, also for a link to a primary to which there was none."""
    program, is_broken = lab.directory / "credentials", lab.directory / "is-broken"
    program.write_text(f"#!/bin/sh\n[ ! -e {is_broken} ] || {'exit 1' if what == 'fails' else 'exec sleep 60'}\necho word\n")
    program.chmod(0o755)
    for node in cluster.nodes:
        node.admin.execute_command("ACL", "SETUSER", "default", "on", ">word")
    fails_over_in_time(
        lab, cluster, cluster.url, ["--redis-credentials-command", str(program)], before=is_broken.touch)


def test_nodes_are_asked_by_the_names_of_their_certificates(lab):
    authority = Authority(lab.directory, "site-ca")
    own = authority.sign("server", "DNS:localhost")
    files = {"cert-file": own.path, "key-file": own.key, "ca-cert-file": authority.path}
    cluster = RedisCluster(lab, replicas=0, by_hand=True, args=[
        *(word for name, path in files.items() for word in (f"--tls-{name}", str(path))), "--tls-auth-clients", "no",
        "--tls-cluster", "yes", "--tls-replication", "yes", "--cluster-announce-hostname", "localhost"])
    first = cluster.nodes[0]
    replica = cluster.node()
    cluster.nodes.append(replica)
    first.admin.execute_command("CLUSTER", "MEET", "127.0.0.1", replica.cluster_port, replica.bus_port)
    wait_until(lambda: all(len(node.view()) == 4 for node in cluster.living), "the replica")
    replica.admin.execute_command("CLUSTER", "REPLICATE", first.id)
    cluster.settle()
    wait_until(lambda: all(node.admin.execute_command("CLUSTER", "NODES").count(b"localhost") == 4 for node in cluster.nodes), "names")
    daemon = lab.daemon(At(f"rediss-cluster://localhost:{first.cluster_port}"), args=["--redis-tls-ca", str(authority.path)])
    wait_until(lambda: is_open(daemon), "all parts")
    first.end()
    wait_until(lambda: replica.is_primary and replica.is_well, "the failover")
    wait_until(lambda: is_served(daemon), "all parts")
