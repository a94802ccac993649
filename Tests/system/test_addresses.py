"""A name with several addresses: whichever of them cannot be used, the daemon comes to the one that can.

The name is known to the daemon alone: it runs in a mount namespace with a file of hosts of its own.
"""

import errno
import os
import pathlib
import re
import socket
import subprocess

import pytest
from harness.client import RpcError
from harness.redis_server import free_port
from harness.waiting import GENEROUS_SECONDS, wait_until

LEASE_MS = 60_000
NAME = "redis.sidelock.test"


class Place:
    """Servers of one port on loopback addresses of their own, and a name for some of them."""

    def __init__(self, lab):
        self.lab = lab
        self.port = free_port()
        self.hosts = lab.directory / "hosts"

    def server(self, address, *args):
        return self.lab.redis("--bind", address, "--port", str(self.port), *args)

    def name(self, *addresses):
        # Written over, not replaced: what is mounted is the file and not its name.
        with open(self.hosts, "w") as file:
            file.write("".join(f"{address} {NAME}\n" for address in addresses))
        return self

    def hang_lookups(self, daemon=None):
        """From now on a lookup waits until `end_lookups`, in the daemon that runs or in the next one."""
        pipe = self.lab.directory / "pipe" if daemon else self.hosts
        os.mkfifo(pipe)
        if daemon:
            enter = ["nsenter", "--mount", "--target", str(daemon.process.pid)]
            subprocess.run([*enter, "mount", "--bind", pipe, "/etc/hosts"], check=True)
        self.pipe = pipe

    def end_lookups(self):
        """Ends a lookup that hangs. Whether there was one."""
        try:
            os.close(os.open(self.pipe, os.O_WRONLY | os.O_NONBLOCK))
        except OSError as error:
            assert error.errno == errno.ENXIO
            return False
        return True

    def daemon(self, **options):
        lookup = self.lab.directory / "nsswitch.conf"
        lookup.write_text("hosts: files\n")
        several = self.lab.directory / "host.conf"
        several.write_text("multi on\n")
        mounts = " && ".join(f"mount --bind {ours} /etc/{ours.name}" for ours in (self.hosts, lookup, several))
        prefix = ["unshare", "-m", "--propagation", "private", "sh", "-c", mounts + ' && exec "$@"', "sh"]
        return self.lab.daemon(self, prefix=prefix, **{"lease_ms": LEASE_MS, **options})

    @property
    def url(self):
        return f"redis://{NAME}:{self.port}"


@pytest.fixture
def place(lab):
    return Place(lab)


def replicate(replica, address, port):
    replica.admin.execute_command("REPLICAOF", address, port)
    wait_until(lambda: replica.admin.info("replication")["role"] == "slave", "the replica")


def works(daemon, seconds=GENEROUS_SECONDS):
    client = daemon.client()
    return client.ask_redis(wait_ms=int(seconds * 1000))


def is_back(daemon, seconds=GENEROUS_SECONDS):
    """It has a Redis again, which grants nothing for as long as a lease where its data may be others, and says so."""
    client = daemon.client()

    def answers():
        try:
            return client.ask_redis(wait_ms=0)
        except RpcError as error:
            return "retry_ms" in error.data

    wait_until(answers, "an answer of Redis", seconds)


@pytest.mark.parametrize("order", [("127.0.0.2", "127.0.0.3"), ("127.0.0.3", "127.0.0.2")], ids=["first", "second"])
def test_a_replica_is_left_for_the_primary(place, order):
    replica, primary = (place.server(address) for address in order)
    replicate(replica, order[1], place.port)
    daemon = place.name(*order).daemon()
    works(daemon)
    assert len(primary.daemon_connections()) >= 1
    # A connection that breaks off says nothing against the address.
    for _ in range(3):
        before = daemon.client().call("stats")["redis"]["connections_total"]
        for connection in primary.admin.client_list():
            if connection["name"].startswith("sidelockd"):
                primary.admin.client_kill_filter(_id=connection["id"])
        wait_until(lambda: daemon.client().call("stats")["redis"]["connections_total"] > before, "a new connection")
    assert not [c for c in replica.admin.client_list() if c["name"].startswith("sidelockd")]


def test_a_failover_is_followed_and_holders_keep_their_locks(place):
    """The roles change under the daemon; the key goes along, and so does the lock."""
    one, two = place.server("127.0.0.2"), place.server("127.0.0.3")
    replicate(two, "127.0.0.2", place.port)
    daemon = place.name("127.0.0.2", "127.0.0.3").daemon(lease_ms=15_000)
    client = daemon.client()
    token = client.acquire("orders")
    wait_until(lambda: two.admin.exists("sidelock:{orders}"), "the lock on the replica")
    two.admin.execute_command("REPLICAOF", "NO", "ONE")
    one.admin.execute_command("REPLICAOF", "127.0.0.3", place.port)
    # Nothing is granted for as long as a lease. Whatever it asks next meets a server that is no primary any more.
    assert daemon.client().acquire("other", wait_ms=int(GENEROUS_SECONDS * 1000)) > 0
    assert two.admin.exists("sidelock:{other}")
    assert client.poll() is None
    assert client.release("orders", token)["token"] == token
    wait_until(lambda: not two.admin.exists("sidelock:{orders}"), "the release at the new primary")


def test_a_waiter_leaves_a_primary_that_has_become_a_replica(place):
    """Its host holds nothing that it would renew, and the server answers all that reads. It cannot reach its own primary,
    so that nothing changes in it, and the lock that is free elsewhere looks held there."""
    one, two = place.server("127.0.0.2"), place.server("127.0.0.3")
    replicate(two, "127.0.0.2", place.port)
    place.name("127.0.0.2", "127.0.0.3")
    # With such a lease nothing but the look at the places asks anything for as long as the test waits.
    holder, waiter = (place.daemon(lease_ms=600_000).client() for _ in range(2))
    holder.acquire("orders")
    waiter.request("acquire", name="orders", wait_ms=600_000)
    wait_until(lambda: one.admin.llen("sidelock:{orders}:queue") == 1, "the wait at the old primary")
    wait_until(lambda: two.admin.llen("sidelock:{orders}:queue") == 1, "the wait at the replica")
    two.admin.execute_command("REPLICAOF", "NO", "ONE")
    two.admin.delete("sidelock:{orders}")
    one.admin.execute_command("REPLICAOF", "127.0.0.3", free_port())
    wait_until(lambda: two.daemon_connections(), "the waiter at the new primary")


@pytest.mark.parametrize("order", [("127.0.0.2", "127.0.0.3"), ("127.0.0.3", "127.0.0.2")], ids=["first", "second"])
def test_an_address_at_which_nobody_listens_is_passed_over(place, order):
    place.server(order[1])
    works(place.name(*order).daemon())


def test_addresses_of_both_families_are_tried(place):
    """localhost is ::1 first, and a Redis that listens on 127.0.0.1 alone is the usual one."""
    place.server("127.0.0.1")
    works(place.name("::1", "127.0.0.1").daemon())


@pytest.mark.parametrize("order", [("127.0.0.2", "127.0.0.3"), ("127.0.0.3", "127.0.0.2")], ids=["first", "second"])
def test_an_address_that_swallows_everything_costs_the_others_little(place, order):
    """Its connect never ends. With the time that one has to connect it could not be waited for here."""
    with socket.socket() as full:
        full.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        full.bind((order[0], place.port))
        full.listen(0)
        # With its queue full the kernel drops what comes.
        fillers = []
        for _ in range(8):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex((order[0], place.port))
            fillers.append(filler)
        wait_until(lambda: connections_that_wait(order[0], place.port) > 0, "a full queue")
        server = place.server(order[1])
        daemon = place.name(*order).daemon(args=["--redis-timeout-ms", "25000"])
        works(daemon, 20)
        for _ in range(2):
            server.restart()
            is_back(daemon, 20)
            # An answer proves that the address is of use: a connection that ends before has failed, and the silent one
            # is next.
            daemon.client().call("list", scope="all")
        for filler in fillers:
            filler.close()


def connections_that_wait(address, port):
    """For how many connections nobody has called accept yet, as the kernel counts them."""
    own = f"{int.from_bytes(socket.inet_aton(address), 'little'):08X}:{port:04X}"
    rows = (line.split() for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:])
    return sum(int(row[4].split(":")[1], 16) for row in rows if row[1] == own and row[3] == "0A")


@pytest.mark.parametrize("order", [("127.0.0.2", "127.0.0.3"), ("127.0.0.3", "127.0.0.2")], ids=["first", "second"])
def test_a_server_that_hangs_is_left_for_the_other(place, order):
    """It takes connections, and says nothing: the handshake ends, and the other address is next."""
    hanging, server = (place.server(address) for address in order)
    hanging.stop()
    works(place.name(*order).daemon(args=["--redis-timeout-ms", "1000"]))
    assert len(server.daemon_connections()) >= 1


@pytest.mark.parametrize("order", [("127.0.0.2", "127.0.0.3"), ("127.0.0.3", "127.0.0.2")], ids=["first", "second"])
def test_a_server_that_refuses_the_handshake_is_left_for_the_other(place, order):
    place.server(order[0], "--requirepass", "other")
    server = place.server(order[1])
    works(place.name(*order).daemon())
    assert len(server.daemon_connections()) >= 1


def test_when_the_good_one_ends_the_other_is_tried_and_the_good_one_again(place):
    one, two = place.server("127.0.0.2"), place.server("127.0.0.3")
    replicate(two, "127.0.0.2", place.port)
    daemon = place.name("127.0.0.2", "127.0.0.3").daemon()
    works(daemon)
    one.kill()
    two.admin.execute_command("REPLICAOF", "NO", "ONE")
    is_back(daemon)
    two.kill()
    wait_until(lambda: daemon.client().call("stats")["redis"]["connected"] == 0, "the end of the link")
    client = daemon.client()
    detail = wait_until(
        lambda: (lambda d: d if "127.0.0.2" in d and "127.0.0.3" in d else None)(
            client.error_of(client.request("acquire", name="orders", wait_ms=0)).data["detail"]),
        "both addresses in the words")
    assert re.search(rf"cannot connect to {NAME}:{place.port} \(127\.0\.0\.2\): Connection refused", detail)
    # An outage is told once, and not each time that an address is tried.
    assert daemon.log().count("no connection to Redis") <= 2
    one.start()
    is_back(daemon)


def test_a_name_that_changes_is_looked_up_again(place):
    one = place.server("127.0.0.2")
    daemon = place.name("127.0.0.2").daemon()
    works(daemon)
    two = place.server("127.0.0.3")
    place.name("127.0.0.3")
    one.kill()
    is_back(daemon)
    assert len(two.daemon_connections()) >= 1


def test_a_name_that_cannot_be_looked_up_any_more_means_what_it_meant(place):
    server = place.server("127.0.0.2")
    daemon = place.name("127.0.0.2").daemon()
    works(daemon)
    place.name()
    server.restart()
    is_back(daemon)


def test_a_lookup_that_hangs_keeps_nobody_from_addresses_that_are_known(place):
    """A name server that does not answer is asked for longer than a lease lasts."""
    server = place.server("127.0.0.2")
    daemon = place.name("127.0.0.2").daemon()
    works(daemon)
    place.hang_lookups(daemon)
    # Not the test's own connection, which is of the same type: Redis is as well as it was.
    for connection in server.daemon_connections():
        server.admin.client_kill_filter(_id=connection["id"])
    works(daemon)
    assert place.end_lookups()


def test_a_lookup_that_hangs_from_the_start_is_told(place):
    place.hang_lookups()
    client = place.daemon().client()

    def told():
        return client.error_of(client.request("acquire", name="orders", wait_ms=0)).data["detail"]

    wait_until(lambda: f"{NAME} has not been looked up within" in told(), "the words")
    assert place.end_lookups()


def test_a_name_that_nobody_knows_is_told(place):
    daemon = place.name().daemon()
    client = daemon.client()
    error = client.error_of(client.request("acquire", name="orders", wait_ms=0))
    assert f"cannot find the address of {NAME}" in error.data["detail"]
    place.name("127.0.0.2")
    place.server("127.0.0.2")
    works(daemon)
