"""The lock of each peer behind one face: `acquire` waits for the lock, `release` gives it up. One object a process."""

import base64
import fcntl
import http.client
import json
import os
import socket
import time
import urllib.parse

NAME = "peers"
LEASE_SECONDS = 10
# What the client of a scheme that polls is told to sleep, in the variants that are named after it.
SHORT_POLL_SECONDS = 0.001


class Places:
    """Where the servers are; None for one that is not there."""

    def __init__(self, sidelock=None, other_sidelock=None, redis=None, etcd=None, directory="/tmp"):
        self.sidelock, self.other_sidelock, self.redis, self.etcd = sidelock, other_sidelock, redis, etcd
        self.directory = directory


class Sidelock:
    """Lines on a plain socket: what any language can do without a library."""

    def __init__(self, places, index):
        self.connect(places.sidelock)

    def connect(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.rest = b""
        self.lines = {method: json.dumps({"id": method, "method": method, "params": {"name": NAME}}).encode() + b"\n"
                      for method in ("acquire", "release")}

    def call(self, method):
        self.socket.sendall(self.lines[method])
        while b"\n" not in self.rest:
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionError("the daemon closed the connection")
            self.rest += data
        line, self.rest = self.rest.split(b"\n", 1)
        if b'"result"' not in line:
            raise RuntimeError(line.decode())

    def acquire(self):
        self.call("acquire")

    def release(self):
        self.call("release")


class SidelockTwoHosts(Sidelock):
    """Every other process at the other daemon."""

    def __init__(self, places, index):
        self.connect(places.other_sidelock if index % 2 else places.sidelock)


class RedisPy:
    """redis-py's Lock. It polls."""

    poll = {}

    def __init__(self, places, index):
        import redis

        self.lock = redis.Redis.from_url(places.redis).lock(f"redis-py:{NAME}", timeout=LEASE_SECONDS, **self.poll)

    def acquire(self):
        if not self.lock.acquire():
            raise RuntimeError("redis-py did not get the lock")

    def release(self):
        self.lock.release()


class RedisPyShort(RedisPy):
    poll = {"sleep": SHORT_POLL_SECONDS}


class PythonRedisLock:
    """python-redis-lock: a waiter blocks in BLPOP."""

    def __init__(self, places, index):
        import redis
        import redis_lock

        self.connection = redis.Redis.from_url(places.redis)
        self.kind = redis_lock.Lock

    def acquire(self):
        # A used one may be acquired again, but this is what its documentation shows.
        self.lock = self.kind(self.connection, NAME, expire=LEASE_SECONDS)
        if not self.lock.acquire():
            raise RuntimeError("python-redis-lock did not get the lock")

    def release(self):
        self.lock.release()


class SetNX:
    """The classic scheme on a raw socket: SET NX PX in a loop, and a script that deletes what is its own."""

    script = b"if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end"

    def __init__(self, places, index):
        url = urllib.parse.urlparse(places.redis)
        if url.scheme == "unix":
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.connect(url.path)
        else:
            self.socket = socket.create_connection((url.hostname, url.port or 6379))
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        token = f"{os.getpid()}-{index}".encode()
        key = f"set-nx:{NAME}".encode()
        self.set = self.command(b"SET", key, token, b"NX", b"PX", b"%d" % (LEASE_SECONDS * 1000))
        digest = self.exchange(self.command(b"SCRIPT", b"LOAD", self.script)).split(b"\r\n")[1]
        self.delete = self.command(b"EVALSHA", digest, b"1", key, token)

    @staticmethod
    def command(*words):
        return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)

    def exchange(self, command):
        self.socket.sendall(command)
        reply = b""
        while not reply.endswith(b"\r\n") or (reply[:1] == b"$" and reply[:3] != b"$-1" and reply.count(b"\r\n") < 2):
            data = self.socket.recv(4096)
            if not data:
                raise ConnectionError("Redis closed the connection")
            reply += data
        if reply[:1] == b"-":
            raise RuntimeError(reply.decode())
        return reply

    def acquire(self):
        while self.exchange(self.set)[:1] != b"+":
            time.sleep(SHORT_POLL_SECONDS)

    def release(self):
        if self.exchange(self.delete) != b":1\r\n":
            raise RuntimeError("the lock was not ours any more")


class FileLock:
    """filelock. It polls."""

    poll = {}

    def __init__(self, places, index):
        import filelock

        self.lock = filelock.FileLock(os.path.join(places.directory, "filelock"))

    def acquire(self):
        self.lock.acquire(**self.poll)

    def release(self):
        self.lock.release()


class FileLockShort(FileLock):
    poll = {"poll_interval": SHORT_POLL_SECONDS}


class Flock:
    """flock(2): the kernel's own queue, one host only."""

    def __init__(self, places, index):
        self.descriptor = os.open(os.path.join(places.directory, "flock"), os.O_RDWR | os.O_CREAT, 0o600)

    def acquire(self):
        fcntl.flock(self.descriptor, fcntl.LOCK_EX)

    def release(self):
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)


class Etcd:
    """etcd's lock service through its JSON gateway, on one connection that is kept."""

    def __init__(self, places, index):
        url = urllib.parse.urlparse(places.etcd)
        self.connection = http.client.HTTPConnection(url.hostname, url.port)
        self.lease = self.call("/v3/lease/grant", TTL=60 + LEASE_SECONDS)["ID"]
        self.name = base64.b64encode(NAME.encode()).decode()

    def call(self, path, **members):
        self.connection.request("POST", path, json.dumps(members))
        # Without this the kernel holds back the body, which goes out behind the head, until the head is confirmed.
        self.connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        response = self.connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise RuntimeError(f"{path}: {response.status} {body.decode()}")
        return json.loads(body)

    def acquire(self):
        self.key = self.call("/v3/lock/lock", name=self.name, lease=self.lease)["key"]

    def release(self):
        self.call("/v3/lock/unlock", key=self.key)


# In the order of the table: the name, the class, and the servers that it needs.
PEERS = {
    "sidelock": (Sidelock, ["sidelock"]),
    "sidelock, two hosts": (SidelockTwoHosts, ["sidelock", "other_sidelock"]),
    "redis-py": (RedisPy, ["redis"]),
    "redis-py, polling every ms": (RedisPyShort, ["redis"]),
    "python-redis-lock": (PythonRedisLock, ["redis"]),
    "SET NX and script, polling every ms": (SetNX, ["redis"]),
    "etcd": (Etcd, ["etcd"]),
    "filelock": (FileLock, []),
    "filelock, polling every ms": (FileLockShort, []),
    "flock(2)": (Flock, []),
}
