#!/usr/bin/env python3
"""Clients that live through restarts of the daemon, run inside a booted systemd. Usage: restart_clients.py COMMAND…

Some hold locks, some wait for them, one works all the time. Whatever happens to the daemon, no connection may be closed, no
lock lost or granted twice, no waiter forgotten, and the order kept. What stands in Redis is looked at beside.

  restart    restarts by systemctl, of a daemon that serves and of one that starts
  kill       five times SIGKILL, a watchdog kill, and one SIGKILL with clients that die meanwhile
  upgrade    the package /srv/files/next.deb is installed
  count      a restart at which nobody comes or goes, so that the journal's numbers are known
  stop       a plain stop: everybody is told, and no lock is left in Redis
"""

import json
import os
import select
import socket
import subprocess
import sys
import threading
import time

SOCKET = "/run/sidelock/sidelock.sock"
HOLDERS, WAITERS, QUEUES = 200, 200, 20
# However busy the machine is, what is waited for has happened by then, or never will.
PATIENCE_SECONDS = 120


def fail(text):
    print(f"FAILED: {text}", flush=True)
    os._exit(1)


def ok(text):
    print(f"ok: {text}", flush=True)


class Client:
    """A connection that must never end."""

    poll = select.poll()
    by_descriptor = {}

    def __init__(self, name):
        self.name, self.last, self.buffer = name, 0, b""
        self.replies, self.notes, self.answered, self.is_over = {}, [], set(), False
        self.repeated = 0
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(SOCKET)
        self.socket.setblocking(False)
        Client.poll.register(self.socket, select.POLLIN)
        Client.by_descriptor[self.socket.fileno()] = self

    def send(self, method, **params):
        self.last += 1
        self.write(json.dumps({"id": self.last, "method": method, "params": params}) + "\n")
        return self.last

    def write(self, text):
        self.socket.sendall(text.encode())

    def close(self):
        Client.poll.unregister(self.socket)
        del Client.by_descriptor[self.socket.fileno()]
        self.socket.close()
        self.is_over = True

    def readable(self):
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return
        if not data:
            self.is_over = True
            Client.poll.unregister(self.socket)
            return
        self.buffer += data
        *lines, self.buffer = self.buffer.split(b"\n")
        for line in lines:
            self.take(json.loads(line))

    def take(self, message):
        if "method" in message:
            self.notes.append(message)
        elif message["id"] in self.answered:
            # Allowed once after a crash: the same reply again.
            self.repeated += 1
        else:
            self.answered.add(message["id"])
            self.replies[message["id"]] = message

    def result(self, request, seconds=PATIENCE_SECONDS):
        """Waits for the reply and gives its result."""
        end = time.monotonic() + seconds
        while request not in self.replies:
            if self.is_over:
                fail(f"{self.name}: the connection was closed")
            if time.monotonic() > end:
                fail(f"{self.name}: request {request} was not answered")
            pump(0.05)
        reply = self.replies.pop(request)
        if "result" not in reply:
            fail(f"{self.name}: {reply}")
        return reply["result"]

    def call(self, method, **params):
        return self.result(self.send(method, **params))


def pump(seconds):
    for descriptor, _ in Client.poll.poll(seconds * 1000):
        Client.by_descriptor[descriptor].readable()


class Redis:
    def __init__(self, password):
        self.socket = socket.create_connection(("127.0.0.1", 6379))
        self.file = self.socket.makefile("rb")
        self.call("AUTH", password)

    def call(self, *words):
        parts = [word.encode() for word in words]
        self.socket.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))
        return self.read()

    def read(self):
        line = self.file.readline().rstrip()
        kind, rest = line[:1], line[1:]
        if kind == b"$":
            return None if rest == b"-1" else self.file.read(int(rest) + 2)[:-2].decode()
        if kind == b"*":
            return [self.read() for _ in range(int(rest))]
        if kind == b"-":
            fail(f"Redis: {rest}")
        return rest.decode()


class Worker(threading.Thread):
    """Acquires and releases without a pause, on a connection of its own, and notes how long an answer takes."""

    def __init__(self):
        super().__init__(daemon=True)
        self.must_stop, self.cycles, self.longest, self.repeated, self.problem = False, 0, 0.0, 0, None
        self.start()

    def run(self):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(SOCKET)
        lines, last, token = connection.makefile(), 0, 0

        def call(method, **params):
            nonlocal last
            last += 1
            connection.sendall(json.dumps({"id": last, "method": method, "params": params}).encode() + b"\n")
            began = time.monotonic()
            while True:
                line = lines.readline()
                if not line:
                    raise RuntimeError("the connection was closed")
                message = json.loads(line)
                if message.get("id") == last:
                    self.longest = max(self.longest, time.monotonic() - began)
                    return message["result"]
                if "id" not in message or message["id"] != last - 1:
                    raise RuntimeError(f"unexpected: {message}")
                self.repeated += 1

        try:
            while not self.must_stop:
                fresh = call("acquire", name="work")["token"]
                if fresh <= token:
                    raise RuntimeError(f"token {fresh} after {token}")
                token = fresh
                call("release", name="work", token=token)
                self.cycles += 1
                time.sleep(0.0005)
        except Exception as error:  # noqa: BLE001 - told by the main thread
            self.problem = error


class Newcomers(threading.Thread):
    """Connects without a pause, each time for one question, until it is stopped."""

    def __init__(self):
        super().__init__(daemon=True)
        self.must_stop, self.count, self.problem = False, 0, None
        self.start()

    def run(self):
        try:
            while not self.must_stop:
                with socket.socket(socket.AF_UNIX) as connection:
                    connection.settimeout(PATIENCE_SECONDS)
                    connection.connect(SOCKET)
                    connection.sendall(b'{"id":1,"method":"ping"}\n')
                    answer = connection.makefile().readline()
                    if '"result"' not in answer:
                        raise RuntimeError(f"a client that had just connected was told {answer!r}")
                self.count += 1
        except Exception as error:  # noqa: BLE001 - told by the main thread
            self.problem = error

    def end(self):
        self.must_stop = True
        self.join()
        if self.problem:
            fail(self.problem)


def systemctl(*words):
    return subprocess.run(["systemctl", *words], check=True, capture_output=True, text=True).stdout.strip()


def main_pid():
    return int(systemctl("show", "-P", "MainPID", "sidelockd.service"))


def wait_for(what, condition, seconds=PATIENCE_SECONDS):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            fail(f"{what}: did not happen")
        pump(0.02)


class Scene:
    def __init__(self):
        self.redis = Redis(sys.argv[1])
        self.holders = [Client(f"holder {index}") for index in range(HOLDERS)]
        self.tokens = {}
        for client, index in [(client, client.send("acquire", name=f"l{index}"))
                              for index, client in enumerate(self.holders)]:
            grant = client.result(index)
            self.tokens[grant["name"]] = grant["token"]
        self.waiters = [Client(f"waiter {index}") for index in range(WAITERS)]
        self.waits = []
        # One queue is filled round by round, so that its order is known.
        for index, client in enumerate(self.waiters):
            self.waits.append(client.send("acquire", name=f"l{index % QUEUES}", owner=f"o{index}", meta=f"m{index}"))
            client.call("ping")
        self.asker = Client("asker")
        self.asker.call("acquire", name="asker")
        self.instance = self.asker.call("initialize")["instance"]
        self.values = self.read_redis()
        self.worker = Worker()
        self.half = Client("half a line")
        self.half.call("acquire", name="half")

    def read_redis(self):
        names = [f"l{index}" for index in range(HOLDERS)]
        return dict(zip(names, self.redis.call("MGET", *[f"sidelock:{{{name}}}" for name in names])))

    def check(self, what):
        """Everybody has what they had, by the daemon's word and by Redis'."""
        wait_for("the link to Redis", lambda: self.asker.call("stats")["redis"]["connected"] == 1)
        if self.asker.call("initialize")["instance"] != self.instance:
            fail("the instance is another one")
        locks, cursor = {}, None
        while True:
            page = self.asker.call("list", prefix="l", limit=100, **({"cursor": cursor} if cursor else {}))
            locks.update({lock["name"]: lock for lock in page["locks"]})
            cursor = page["cursor"]
            if cursor is None:
                break
        for name, token in self.tokens.items():
            lock = locks.get(name)
            if lock is None or [holder.get("token") for holder in lock["holders"]] != [token]:
                fail(f"{what}: {name} is held as {lock}, and was under {token}")
        waiting = sum(lock["waiting"] for lock in locks.values())
        if waiting != WAITERS:
            fail(f"{what}: {waiting} wait")
        values = self.read_redis()
        if values != self.values:
            changed = {name: (self.values[name], value) for name, value in values.items() if value != self.values[name]}
            fail(f"{what}: in Redis is something else now: {dict(list(changed.items())[:3])}")
        self.check_quiet(what)

    def check_quiet(self, what):
        pump(0.05)
        for client in self.holders + self.waiters:
            if client.is_over:
                fail(f"{what}: {client.name} was disconnected")
            if client.notes or client.replies:
                fail(f"{what}: {client.name} was told {client.notes} {client.replies}")
        if self.worker.problem:
            fail(f"{what}: the worker: {self.worker.problem}")

    def disturb(self, what, action):
        """Does something to the daemon, with half a line on its way, and checks everything."""
        text = json.dumps({"id": f"{what}", "method": "inspect", "params": {"name": "half"}}) + "\n"
        self.half.write(text[:30])
        pump(0.02)
        pid, before = main_pid(), time.monotonic()
        self.worker.longest = 0.0
        action()
        wait_for(f"{what}: another process serves", lambda: main_pid() not in (0, pid)
                 and systemctl("show", "-P", "ActiveState", "sidelockd.service") == "active")
        self.half.write(text[30:])
        if self.half.result(what)["holders"][0].get("token") is None:
            fail(f"{what}: half a line")
        self.check(what)
        cycles = self.worker.cycles
        wait_for(f"{what}: the worker goes on", lambda: self.worker.cycles > cycles + 1 or self.worker.problem)
        return self.worker.longest * 1000

    # What is done to the daemon

    def restart(self):
        newcomers = Newcomers()
        outages = [self.disturb(f"restart {round}", lambda: systemctl("restart", "sidelockd.service"))
                   for round in range(10)]
        ok(f"ten restarts; the longest answer took {sorted(round(outage) for outage in outages)} ms")
        for count in range(20):
            self.disturb(f"restart {count} of what starts", lambda: self.restart_twice(count * 0.005))
        ok("20 restarts of a daemon that was starting")
        newcomers.end()
        ok(f"{newcomers.count} clients connected meanwhile, and all were answered")
        # A restart of the socket restarts the service, too.
        self.disturb("restart of the socket", lambda: systemctl("restart", "sidelockd.socket"))
        ok("a restart of the socket unit")
        self.pass_on("over restarts", 3)

    @staticmethod
    def restart_twice(seconds):
        """While a service starts, nothing announces that it is restarted: the manager just ends it."""
        systemctl("restart", "--no-block", "sidelockd.service")
        time.sleep(seconds)
        systemctl("restart", "sidelockd.service")

    def kill(self):
        def kill():
            os.kill(main_pid(), 9)
        outages = [self.disturb(f"kill {round}", kill) for round in range(5)]
        ok(f"five times SIGKILL; the longest answer took {sorted(round(outage) for outage in outages)} ms")
        self.pass_on("over SIGKILL", 3)

        def wedge():
            subprocess.Popen(["python3", "/srv/files/freeze_thread.py", str(main_pid()), "NIO-ELT-"],
                             stdout=subprocess.DEVNULL)
        outage = self.disturb("watchdog", wedge)
        ok(f"a loop that hung, and was ended by the watchdog; an answer took {outage:.0f} ms")
        self.die_meanwhile()

    def die_meanwhile(self):
        gone = [self.holders[150], self.holders[151]]
        waiter = self.waiters[QUEUES - 1]
        pid = main_pid()
        os.kill(pid, 9)
        for client in gone:
            client.close()
        waiter.close()
        wait_for("another process serves", lambda: main_pid() not in (0, pid))
        taker = Client("taker")
        for name in ("l150", "l151"):
            if taker.call("acquire", name=name, wait_ms=60_000)["token"] <= self.tokens[name]:
                fail("a token went back")
        wait_for("the end of the wait of the waiter that died",
                 lambda: self.asker.call("inspect", name=f"l{QUEUES - 1}")["waiting"] == WAITERS // QUEUES - 1)
        taker.close()
        ok("clients that died while there was no daemon are noticed")
        for name, client in zip(("l150", "l151"), gone):
            place = self.holders.index(client)
            client = self.holders[place] = Client(f"holder {place}")
            self.tokens[name] = client.call("acquire", name=name)["token"]
        place = self.waiters.index(waiter)
        waiter = self.waiters[place] = Client(f"waiter {place}")
        self.waits[place] = waiter.send("acquire", name=f"l{QUEUES - 1}", owner=f"o{place}", meta=f"m{place}")
        waiter.call("ping")
        self.queue_moved(QUEUES - 1, place)
        self.values = self.read_redis()

    orders = None

    def order(self, queue):
        if self.orders is None:
            self.orders = {q: list(range(q, WAITERS, QUEUES)) for q in range(QUEUES)}
        return self.orders[queue]

    def queue_moved(self, queue, place):
        self.order(queue).remove(place)
        self.order(queue).append(place)

    def pass_on(self, what, count):
        """The first locks go to whoever waits first, and their old holders wait last."""
        for queue in range(count):
            name = f"l{queue}"
            holder = self.holders[queue]
            holder.call("release", name=name, token=self.tokens[name])
            place = self.order(queue).pop(0)
            waiter = self.waiters[place]
            grant = waiter.result(self.waits[place])
            if grant["token"] <= self.tokens[name]:
                fail(f"{what}: token {grant['token']} after {self.tokens[name]}")
            self.tokens[name] = grant["token"]
            self.holders[queue], self.waiters[place] = waiter, holder
            self.waits[place] = holder.send("acquire", name=name, owner=f"o{place}", meta=f"m{place}")
            holder.call("ping")
            self.order(queue).append(place)
        self.check_quiet(what)
        self.values = self.read_redis()
        ok(f"{what}, locks go to who waits first")

    def upgrade(self):
        outage = self.disturb("upgrade", lambda: subprocess.run(
            ["dpkg", "--force-confold", "-i", "/srv/files/next.deb"], check=True, capture_output=True,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}))
        ok(f"an upgrade of the package; an answer took {outage:.0f} ms")

    def count(self):
        self.worker.must_stop = True
        self.worker.join()
        if self.worker.problem:
            fail(f"the worker: {self.worker.problem}")
        wait_for("the end of the worker's session", lambda: self.asker.call("stats")["sessions"] == HOLDERS + WAITERS + 2)
        pid = main_pid()
        systemctl("restart", "sidelockd.service")
        wait_for("another process serves", lambda: main_pid() not in (0, pid))
        self.check("count")
        ok(f"a restart with {HOLDERS + WAITERS + 2} clients and nobody that comes or goes")

    def drain(self):
        """Everything is passed on to its end: nobody was forgotten, and everybody's turn comes in order."""
        for queue in range(QUEUES):
            name = f"l{queue}"
            holder, token = self.holders[queue], self.tokens[name]
            for place in self.order(queue):
                holder.call("release", name=name, token=token)
                holder = self.waiters[place]
                grant = holder.result(self.waits[place])
                if grant["token"] <= token:
                    fail(f"token {grant['token']} of {name} after {token}")
                token = grant["token"]
            others = [place for place in self.order(queue) if self.waits[place] in self.waiters[place].replies]
            if others:
                fail(f"{name} was granted twice: {others}")
        ok("every waiter was served, in order, under increasing tokens")

    def stop(self):
        self.worker.must_stop = True
        self.worker.join()
        if self.worker.problem:
            fail(f"the worker: {self.worker.problem}")
        repeated = sum(client.repeated for client in self.holders + self.waiters) + self.worker.repeated
        ok(f"the worker took and gave back its lock {self.worker.cycles} times; {repeated} replies came twice")
        held = self.holders[QUEUES:]
        systemctl("stop", "sidelockd.service")
        wait_for("the end of the connections", lambda: all(client.is_over for client in held))
        for client in held:
            if [note["method"] for note in client.notes] != ["draining", "lost"] or \
                    client.notes[1]["params"]["reason"] != "shutdown":
                fail(f"{client.name} was told {client.notes}")
        # The epoch is of the data, and not of a lock.
        left = [key for key in self.redis.call("KEYS", "sidelock:*")
                if not key.endswith(":fence") and key != "sidelock:epoch"]
        if left:
            fail(f"left in Redis: {left[:5]}")
        ok("a plain stop tells everybody, closes the connections and leaves no lock in Redis")


def main():
    scene = Scene()
    ok(f"{HOLDERS} hold, {WAITERS} wait")
    for command in sys.argv[2:]:
        getattr(scene, command)()


if __name__ == "__main__":
    main()
