"""A Redis Cluster: primaries, each with replicas, made by `redis-cli --cluster`."""

import re
import subprocess

import redis

from .redis_server import ACL_LOGIN, HAS_ACL, free_port, version
from .sentinels import Node
from .waiting import wait_until

SLOTS = 16_384
CELLS = 64
NODE_TIMEOUT_MS = 1500
# What a cluster needs beside what acl_rules() tells; packaging/settings.md has it.
CLUSTER_RULES = ["+cluster|myid", "+cluster|nodes"]


def slot(text):
    total = 0
    for byte in text.encode():
        total ^= byte << 8
        for _ in range(8):
            total = (total << 1 ^ 0x1021 if total & 0x8000 else total << 1) & 0xFFFF
    return total % SLOTS


def cell(name):
    """As protocol/formats.md has it."""
    return slot(name) * CELLS // SLOTS


def tag(of_cell):
    return next(number for number in range(1 << 20) if cell(str(number)) == of_cell)


def key(name):
    return f"sidelock:{{{tag(cell(name))}}}{{{name}}}"


class ClusterNode(Node):
    """One server of a cluster; its nodes.conf outlives it, as those of real ones do."""

    def __init__(self, directory, port, *args, address=None):
        # Older servers take no other one.
        self.bus_port = free_port() if version() >= (7,) else port + 10_000
        # At which the others and daemons reach it; another one where that is by TLS.
        self.cluster_port = port
        if "--tls-cluster" in args:
            self.cluster_port = free_port()
            args = (*args, "--tls-port", str(self.cluster_port))
        super().__init__(directory, port, "--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS),
                         "--repl-diskless-sync-delay", "0", "--repl-timeout", "10",
                         *(["--cluster-port", str(self.bus_port)] if version() >= (7,) else []), *args, address=address)

    def start(self, data=None):
        super().start(data)
        if HAS_ACL:
            self.admin.execute_command("ACL", "SETUSER", self.user, *CLUSTER_RULES)

    @property
    def id(self):
        return self.admin.execute_command("CLUSTER", "MYID").decode()

    @property
    def is_well(self):
        """Whether it takes the cluster for complete."""
        try:
            return b"cluster_state:ok" in self.admin.execute_command("CLUSTER", "INFO")
        except redis.exceptions.ConnectionError:
            return False

    def view(self):
        """What it says of each node: (id, port, flags, id of its primary, slots)."""
        found = []
        for line in self.admin.execute_command("CLUSTER", "NODES").decode().splitlines():
            words = line.split()
            found.append((words[0], int(re.search(r":(\d+)@", words[1])[1]), words[2].split(","), words[3],
                          [word for word in words[8:] if not word.startswith("[")]))
        return found

    @property
    def own_slots(self):
        """The slots that it serves; nothing where it is a replica."""
        own = next((slots for _, _, flags, _, slots in self.view() if "myself" in flags and "master" in flags), [])
        return [range(int(word.split("-")[0]), int(word.split("-")[-1]) + 1) for word in own]

    @property
    def is_primary(self):
        return bool(self.own_slots)

    def serves(self, a_slot):
        return any(a_slot in slots for slots in self.own_slots)


class RedisCluster:
    """`network`: in which each node has an address of its own."""

    # Of its URL.
    scheme = "redis-cluster"

    def __init__(self, lab, primaries=3, replicas=1, args=(), by_hand=False, network=None):
        self.lab, self.args, self.network = lab, args, network
        self.nodes = [self.node() for _ in range(primaries * (1 + replicas))]
        if by_hand:
            self.meet()
            return
        self.cli("create", *[self.place(node) for node in self.nodes], "--cluster-replicas", str(replicas))
        self.settle()

    def meet(self):
        """Makes primaries know each other, and gives each its slots."""
        first, *others = self.nodes
        for number, node in enumerate(self.nodes):
            begin, end = (SLOTS * count // len(self.nodes) for count in (number, number + 1))
            node.admin.execute_command("CLUSTER", "ADDSLOTS", *range(begin, end))
            node.admin.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in others:
            first.admin.execute_command("CLUSTER", "MEET", node.address, node.cluster_port, node.bus_port)
        self.settle()

    def node(self):
        directory = self.lab.directory / f"c{len(self.lab.servers)}"
        directory.mkdir()
        port = wait_until(lambda: next((port for port in [free_port()] if port + 10_000 < 65_536 or version() >= (7,)), None), "a port")
        node = ClusterNode(directory, port, *self.args, address=self.network and self.network.address())
        self.lab.servers.append(node)
        return node

    @staticmethod
    def place(node):
        return f"{node.address}:{node.port}"

    def cli(self, *command):
        done = subprocess.run(["redis-cli", "--cluster", *command, "--cluster-yes"], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def url(self):
        return self.url_of(self.nodes)

    def url_of(self, nodes):
        login = f"{ACL_LOGIN}@" if HAS_ACL else ""
        return f"{self.scheme}://{login}{','.join(f'{node.address}:{node.cluster_port}' for node in nodes)}"

    @property
    def living(self):
        return [node for node in self.nodes if node.process.poll() is None]

    def settle(self):
        """Waits until all nodes that live know of each other, and each primary has its replicas."""
        def is_settled():
            views = [[(id, tuple(slots), primary, "fail" in flags or "fail?" in flags)
                      for id, _, flags, primary, slots in sorted(node.view())] for node in self.living]
            return all(node.is_well for node in self.living) and all(view == views[0] for view in views) and all(
                node.admin.info("replication").get("master_link_status", "up") == "up" for node in self.living)

        wait_until(is_settled, "a cluster that is complete", pause=0.05)

    def primary_of(self, a_slot):
        """The server that serves a slot, once there is one, and all others know it."""
        def found():
            serving = [node for node in self.living if node.is_well and node.serves(a_slot)]
            return serving[0] if len(serving) == 1 else None

        return wait_until(found, f"a primary of slot {a_slot}", pause=0.02)

    def primary_for(self, name):
        return self.primary_of(slot(str(tag(cell(name)))))

    def another_primary(self, primary):
        return next(node for node in self.living if node is not primary and node.is_primary)

    def replicas_of(self, primary):
        id = primary.id
        ports = [port for _, port, flags, of, _ in primary.view() if of == id and "fail" not in flags]
        return [node for node in self.living if node.port in ports]

    def names(self, of_cell, count, prefix="n"):
        """So many names of one part."""
        found, number = [], 0
        while len(found) < count:
            if cell(f"{prefix}{number}") == of_cell:
                found.append(f"{prefix}{number}")
            number += 1
        return found

    def name_at(self, primary, prefix="at"):
        """A name whose part a primary serves."""
        return next(name for name in (f"{prefix}{number}" for number in range(10_000))
                    if primary.serves(slot(str(tag(cell(name))))))

    def move(self, a_slot, source, target, pause=lambda: None):
        """Moves a slot with its keys, step by step as redis-cli does; `pause` is called when half of the keys are moved."""
        target.admin.execute_command("CLUSTER", "SETSLOT", a_slot, "IMPORTING", source.id)
        source.admin.execute_command("CLUSTER", "SETSLOT", a_slot, "MIGRATING", target.id)
        total, moved, has_paused = source.admin.execute_command("CLUSTER", "COUNTKEYSINSLOT", a_slot), 0, False
        while keys := source.admin.execute_command("CLUSTER", "GETKEYSINSLOT", a_slot, 10):
            source.admin.execute_command("MIGRATE", target.address, target.port, "", 0, 5000, "REPLACE", "KEYS", *keys)
            moved += len(keys)
            if not has_paused and moved * 2 >= total:
                has_paused = True
                pause()
        id = target.id
        for node in [target, source, *[node for node in self.living if node not in (source, target)]]:
            if node is target or node.is_primary:
                node.admin.execute_command("CLUSTER", "SETSLOT", a_slot, "NODE", id)
        return total
