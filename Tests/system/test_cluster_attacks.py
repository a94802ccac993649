"""What a Redis Cluster may do beside failovers."""
import subprocess, time, re, os
import pytest
from harness.certificates import Authority
from harness.cluster import CELLS, RedisCluster, cell, key, slot, tag
from harness.reasons import reason
from harness.waiting import GENEROUS_MS, wait_until
from test_cluster import At, is_open, is_served, told, LEASE_MS, cluster


def first_cell(cluster, node):
    return next(part for part in range(CELLS) if node.serves(slot(str(tag(part)))))


def test_replicas_are_waited_for_while_a_slot_is_moved(lab, cluster):
    for node in cluster.nodes:
        node.admin.execute_command("ACL", "SETUSER", node.user, "+wait")
    source = cluster.primary_of(0)
    target = cluster.another_primary(source)
    daemon = lab.daemon(cluster)
    wait_until(lambda: is_open(daemon), "all parts")
    parts = [part for part in range(CELLS) if source.serves(slot(str(tag(part))))]
    client = daemon.client()
    a_slot = slot(str(tag(parts[0])))
    target.admin.execute_command("CLUSTER", "SETSLOT", a_slot, "IMPORTING", source.id)
    source.admin.execute_command("CLUSTER", "SETSLOT", a_slot, "MIGRATING", target.id)
    assert client.acquire(cluster.names(parts[1], 1, "z")[0], replicas=1, wait_ms=5000) > 0


def test_a_daemon_starts_while_a_slot_is_moved(lab, cluster):
    source = cluster.primary_of(0)
    target = cluster.another_primary(source)
    parts = [part for part in range(CELLS) if source.serves(slot(str(tag(part))))]
    a_slot = slot(str(tag(parts[0])))
    target.admin.execute_command("CLUSTER", "SETSLOT", a_slot, "IMPORTING", source.id)
    source.admin.execute_command("CLUSTER", "SETSLOT", a_slot, "MIGRATING", target.id)
    daemon = lab.daemon(cluster)
    client = daemon.client()
    assert client.acquire(cluster.names(parts[1], 1)[0], wait_ms=5000) > 0


def test_prefix_with_braces(lab, cluster):
    daemon = lab.daemon(cluster, args=["--key-prefix", "a{b}:"])
    client = daemon.client()
    for part in (0, 30, 60):
        assert client.acquire(cluster.names(part, 1)[0], wait_ms=5000) > 0


def test_nodes_are_asked_by_the_names_of_their_certificates(lab):
    authority = Authority(lab.directory, "site-ca")
    own = authority.sign("server", "DNS:localhost")
    files = {"cert-file": own.path, "key-file": own.key, "ca-cert-file": authority.path}
    cluster = RedisCluster(lab, replicas=0, args=[
        *(word for name, path in files.items() for word in (f"--tls-{name}", str(path))), "--tls-auth-clients", "no",
        "--tls-cluster", "yes", "--tls-replication", "yes", "--cluster-announce-hostname", "localhost"], by_hand=True)
    cluster.scheme = "rediss-cluster"
    first, second, third = cluster.nodes
    replica = cluster.node()
    cluster.nodes.append(replica)
    first.admin.execute_command("CLUSTER", "MEET", "127.0.0.1", replica.cluster_port, replica.bus_port)
    wait_until(lambda: all(len(node.view()) == 4 for node in cluster.living), "the replica")
    replica.admin.execute_command("CLUSTER", "REPLICATE", first.id)
    cluster.settle()
    wait_until(lambda: first.admin.execute_command("CLUSTER", "NODES").count(b"localhost") == 4, "names")
    print(first.admin.execute_command("CLUSTER", "NODES").decode())
    daemon = lab.daemon(At(f"rediss-cluster://localhost:{first.cluster_port}"), args=["--redis-tls-ca", str(authority.path)])
    wait_until(lambda: is_open(daemon), "all parts")
    first.end()
    wait_until(lambda: replica.is_primary and replica.is_well, "the failover")
    began = time.monotonic()
    try:
        wait_until(lambda: is_served(daemon) or time.monotonic() - began > 20, "served")
        assert is_served(daemon)
    finally:
        print(time.monotonic() - began, daemon.log()[-3000:], daemon.notify.lines("STATUS=")[-1])
