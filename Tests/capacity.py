#!/usr/bin/env python3
"""What hosts cost the Redis that they share, and how many of them it carries.

usage: capacity.py [--hosts LIST] [--seconds S] [--json]

Starts a redis-server, and for each number of hosts as many daemons, each of which is a host of its own with a connection
of its own. What counts is the processor time of the server, which no other process takes part in: on a small machine the
daemons and the clients need most of the time, so that no rate is shown, but the rate at which the server's one thread would
be busy all the time.

  idle       each host holds a lock, and nothing happens: what renewals and signs of life cost
  waiting    each host waits for a lock that another one has: the same, and the looks at the places in the queue
  hand-over  each host always wants the one lock: one grant goes from host to host
  cold       each host takes locks that nobody has had, and gives them back

OF REDIS is the part of one processor that idle and waiting hosts take; A SECOND is how many hand-overs or cycles one server
carries at the most. The daemons are .build/release/sidelockd; $SIDELOCKD names other ones, and $SIDELOCK_TEST_REDIS another
server.
"""

import argparse
import asyncio
import itertools
import json
import os
import pathlib
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
SIDELOCKD = os.environ.get("SIDELOCKD", str(ROOT / ".build/release/sidelockd"))
REDIS_SERVER = os.environ.get("SIDELOCK_TEST_REDIS", "redis-server")
START_SECONDS_MAX = 60
# Cold cycles that a host has under way at a time.
COLD_AT_A_TIME = 4


class Server:
    """A redis-server of its own, and what it has done."""

    def __init__(self, directory):
        self.path = f"{directory}/redis.sock"
        self.process = subprocess.Popen(
            [REDIS_SERVER, "--port", "0", "--unixsocket", self.path, "--save", "", "--appendonly", "no",
             "--dir", directory, "--maxclients", "10000"], stdout=subprocess.DEVNULL)
        wait_until(lambda: os.path.exists(self.path), "redis-server")

    def ask(self, command):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self.path)
            connection.sendall(f"{command}\r\nQUIT\r\n".encode())
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode(errors="replace")

    def queue_length(self, name):
        """How many hosts wait for a lock."""
        return int(self.ask(f"LLEN sidelock:{{{name}}}:queue").splitlines()[0].removeprefix(":"))

    def used(self):
        """Seconds of processor time and commands so far, scripts counted as one."""
        text = self.ask("INFO ALL")
        fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line and not line.startswith("#"))
        seconds = float(fields["used_cpu_user"]) + float(fields["used_cpu_sys"])
        calls = sum(int(value.split("calls=")[1].split(",")[0]) for name, value in fields.items()
                    if name.startswith("cmdstat_") and name[8:] in ("evalsha", "ping"))
        return seconds, calls


def wait_until(holds, what):
    end = time.monotonic() + START_SECONDS_MAX
    while not holds():
        if time.monotonic() > end:
            sys.exit(f"{what} did not start within {START_SECONDS_MAX} s")
        time.sleep(0.02)


class Client:
    """One connection to one host's daemon."""

    def __init__(self, path):
        self.path, self.ids, self.waiting = path, itertools.count(1), {}

    async def connect(self):
        end = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                self.reader, self.writer = await asyncio.open_unix_connection(self.path)
                break
            except OSError:
                if time.monotonic() > end:
                    raise
                await asyncio.sleep(0.05)
        self.listening = asyncio.ensure_future(self.listen())

    async def listen(self):
        while line := await self.reader.readline():
            message = json.loads(line)
            future = self.waiting.pop(message.get("id"), None)
            if future and not future.done():
                future.set_result(message)

    async def call(self, method, **parameters):
        number = next(self.ids)
        self.waiting[number] = asyncio.get_running_loop().create_future()
        self.writer.write(json.dumps({"id": number, "method": method, "params": parameters}).encode() + b"\n")
        message = await self.waiting[number]
        if "result" not in message:
            raise RuntimeError(f"{method}: {message['error']}")
        return message["result"]

    async def acquired(self, name):
        """Takes a lock, also from a daemon that has no connection to Redis yet."""
        return await self.call("acquire", name=name, wait_ms=START_SECONDS_MAX * 1000)


async def measured(server, seconds, work=None):
    """Processor time, commands and time that passed, and how often `work` was done by all together."""
    done, stopping = [0], [False]
    tasks = [asyncio.ensure_future(worker(done, stopping)) for worker in work or []]
    before, began = server.used(), time.monotonic()
    counted = done[0]
    await asyncio.sleep(seconds)
    after, passed = server.used(), time.monotonic() - began
    counted = done[0] - counted
    stopping[0] = True
    await asyncio.gather(*tasks)
    return after[0] - before[0], after[1] - before[1], passed, counted


def steady(figures):
    used, calls, passed, _ = figures
    return {"of_redis": used / passed, "commands_per_second": calls / passed}


def each(figures):
    used, calls, _, done = figures
    if done == 0:
        sys.exit("nothing was done in the time: give more --seconds")
    return {"redis_microseconds": 1e6 * used / done, "commands": calls / done, "per_second_at_most": done / used}


async def figures_of(server, clients, seconds):
    rows = {}
    await asyncio.gather(*(client.acquired(f"idle-{index}") for index, client in enumerate(clients)))
    rows["idle"] = steady(await measured(server, seconds))

    async def once(client):
        await client.call("acquire", name="waiting")
        await client.call("release", name="waiting")

    await clients[0].acquired("waiting")
    waits = [asyncio.ensure_future(once(client)) for client in clients[1:]]
    while server.queue_length("waiting") < len(waits):
        await asyncio.sleep(0.05)
    rows["waiting"] = steady(await measured(server, seconds))
    await clients[0].call("release", name="waiting")
    await asyncio.gather(*waits)

    def hand_over(client):
        async def work(done, stopping):
            while not stopping[0]:
                await client.call("acquire", name="one")
                done[0] += 1
                await client.call("release", name="one")
        return work

    def cold(index, client):
        async def work(done, stopping):
            for number in itertools.count():
                if stopping[0]:
                    return
                name = f"cold-{index}-{number}"
                await client.call("acquire", name=name)
                await client.call("release", name=name)
                done[0] += 1
        return work

    rows["hand-over"] = each(await measured(server, seconds, [hand_over(client) for client in clients]))
    rows["cold"] = each(await measured(
        server, seconds, [cold(f"{index}-{k}", client) for index, client in enumerate(clients) for k in range(COLD_AT_A_TIME)]))
    return rows


async def with_hosts(count, seconds):
    directory = tempfile.mkdtemp(prefix="sidelock-capacity.")
    children, environment = [], {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
    try:
        server = Server(directory)
        children.append(server.process)
        for index in range(count):
            with open(f"{directory}/{index}.log", "wb") as log:
                children.append(subprocess.Popen(
                    [SIDELOCKD, "--redis", f"unix://{server.path}", "--socket", f"{directory}/{index}.sock",
                     "--host", f"host-{index}"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment))
        clients = [Client(f"{directory}/{index}.sock") for index in range(count)]
        await asyncio.gather(*(client.connect() for client in clients))
        rows = await figures_of(server, clients, seconds)
        for client in clients:
            client.listening.cancel()
            client.writer.close()
        return rows
    finally:
        for child in reversed(children):
            child.terminate()
        for child in reversed(children):
            child.wait()
        shutil.rmtree(directory)


def text_of(count, name, row):
    if "of_redis" in row:
        return f"{count:5}  {name:9}  {100 * row['of_redis']:8.2f} %  {row['commands_per_second']:8.1f} commands a second"
    return (f"{count:5}  {name:9}  {row['redis_microseconds']:8.1f} µs  {row['commands']:8.1f} commands"
            f"  {row['per_second_at_most']:9,.0f} a second")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", default="2,10,50,200", metavar="LIST", help="how many, with commas between them (2,10,50,200)")
    parser.add_argument("--seconds", type=float, default=10, metavar="S", help="how long each figure is measured (10)")
    parser.add_argument("--json", action="store_true", help="print JSON on a terminal, too; in a pipe it is always JSON")
    arguments = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    as_json = arguments.json or not sys.stdout.isatty()
    if not as_json:
        print("HOSTS  SCENARIO    OF REDIS, OR REDIS' TIME FOR EACH")
    for count in map(int, arguments.hosts.split(",")):
        if count < 2:
            parser.error("--hosts: at least 2")
        for name, row in asyncio.run(with_hosts(count, arguments.seconds)).items():
            print(json.dumps({"hosts": count, "scenario": name, **row}) if as_json else text_of(count, name, row), flush=True)


main()
