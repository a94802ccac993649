#!/usr/bin/env python3
"""The conformance suite's driver of the client for asyncio."""

import asyncio
import os
import signal
import subprocess
import sys

import sidelock
from driver import BodyFailed, describe, options, parse, say, valid_ms
from sidelock._machine import socket_path


class Driver:
    def __init__(self):
        self.client = sidelock.aio.Client()
        self.locks, self.tags, self.leaves, self.watches, self.workers = {}, {}, {}, {}, {}
        self.tasks = set()

    async def serve(self):
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, lambda: None)
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            tag, verb, args = parse(line.decode())
            if verb in ("noop", "held", "cancel", "leave", "path"):
                await self.answer(tag, verb, args)
            else:
                worker = args.get("worker", "0") if verb not in ("session", "watch", "unwatch", "open", "close") else "control"
                if worker not in self.workers:
                    self.workers[worker] = asyncio.Queue()
                    self.spawn(self.work(self.workers[worker]))
                self.workers[worker].put_nowait((tag, verb, args))
        await self.client.close()
        os._exit(0)

    def spawn(self, coroutine):
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)
        return task

    async def work(self, jobs):
        while True:
            await self.answer(*await jobs.get())

    async def answer(self, tag, verb, args):
        try:
            if "lock" in args and verb in ("acquire", "scope"):
                label = args["lock"]
                lock = self.client.lock(*args["name"], cancel_on_loss="shield" not in args, **options(args, label))
                self.tags[tag] = lock
                say(tag, "ok", **(await (self.acquire(lock, label) if verb == "acquire" else self.scope(lock, label))))
            else:
                say(tag, "ok", **(await getattr(self, "do_" + verb)(args) or {}))
        except (sidelock.Error, BodyFailed) as fault:
            words, fields = describe(fault)
            say(tag, "error", *words, **fields)

    async def acquire(self, lock, label):
        await lock.acquire()
        self.locks[label] = lock
        holding = lock._current()
        tokens = [holding.tokens.get(name, holding.loss and holding.loss.token) for name in lock.names]
        return {"token": ",".join(map(str, tokens)), "mode": lock.mode, "valid_ms": valid_ms(lock)}

    async def scope(self, lock, label):
        leave = self.leaves.setdefault(label, [asyncio.Event(), None])
        async with lock:
            self.locks[label] = lock
            try:
                if lock.held:
                    say("event", "entered", lock=label, token=lock.token)
                await leave[0].wait()
            except asyncio.CancelledError:
                say("event", "cancelled", lock=label)
                raise
            if leave[1]:
                raise BodyFailed
        return {}

    async def do_noop(self, args):
        pass

    async def do_path(self, args):
        return {"path": socket_path(self.client.path)}

    async def do_open(self, args):
        self.client = sidelock.aio.Client(args.get("path"), patience=int(args.get("answer_ms", 5000)) / 1000)

    async def do_close(self, args):
        await self.client.close()

    async def do_session(self, args):
        return {"session": await self.client.session()}

    async def do_release(self, args):
        await self.locks.get(args["lock"]).release()

    async def do_held(self, args):
        lock = self.locks.get(args["lock"])
        if lock is None:
            return {"held": 0}
        fields = {"held": int(lock.held), "valid_ms": valid_ms(lock)}
        return {**fields, "lost": lock.loss.reason} if lock.loss else fields

    async def do_cancel(self, args):
        self.tags[args["target"]].cancel()

    async def do_leave(self, args):
        leave = self.leaves.setdefault(args["lock"], [asyncio.Event(), None])
        leave[1] = "fail" in args
        leave[0].set()

    async def do_downgrade(self, args):
        await self.locks[args["lock"]].downgrade()

    async def do_extend(self, args):
        await self.locks[args["lock"]].extend(None if args["max_hold"] == "none" else int(args["max_hold"]) / 1000)

    async def do_transfer(self, args):
        await self.locks[args["lock"]].transfer(args["session"])

    async def do_accept(self, args):
        def transferred(lock):
            self.locks[args["lock"]] = lock
            lock.on_lost = options({}, args["lock"])["on_lost"]
            say("event", "transferred", lock=args["lock"], name=lock.names[0], token=lock._current().loss.token
                if lock.loss else lock.token)
        await self.client.accept_transfers(transferred)

    async def do_watch(self, args):
        watch = self.client.watch(args["name"][0] if "name" in args else None, prefix=args.get("prefix"))
        self.watches[args["watch"]] = watch
        await watch.__aenter__()

        async def follow():
            async for event in watch:
                told = {key: value for key, value in event.items() if not isinstance(value, (list, dict))}
                say("event", "watch", **{**told, "watch": args["watch"]})
        self.spawn(follow())

    async def do_unwatch(self, args):
        await self.watches[args["watch"]].__aexit__()

    async def do_cycles(self, args):
        tokens, rising = [0], [1]
        with open(args["file"], "w") as file:
            file.write("0")

        async def work():
            lock = self.client.lock(*args["name"])
            for _ in range(int(args["cycles"])):
                async with lock:
                    with open(args["file"]) as file:
                        count = int(file.read())
                    await asyncio.sleep(0)
                    with open(args["file"], "w") as file:
                        file.write(str(count + 1))
                    rising[0] &= lock.token > tokens[0]
                    tokens[0] = lock.token
        await asyncio.gather(*(work() for _ in range(int(args["workers"]))))
        return {"rising": int(rising[0])}

    async def do_spawn(self, args):
        process = subprocess.Popen(["sleep", "60"], close_fds=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        return {"pid": process.pid}


if __name__ == "__main__":
    say("driver", 1, language="python-aio", features="cancels")
    asyncio.run(Driver().serve())
