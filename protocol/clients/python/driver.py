#!/usr/bin/env python3
"""The conformance suite's driver of the client for threads. See protocol/conformance/README.md."""

import os
import queue
import signal
import subprocess
import sys
import threading
from urllib.parse import quote, unquote

import sidelock
from sidelock._machine import socket_path

TYPES = [(sidelock.Busy, "busy"), (sidelock.Timeout, "timeout"), (sidelock.Cancelled, "cancelled"), (sidelock.Lost, "lost"),
         (sidelock.Denied, "denied"), (sidelock.Unavailable, "unavailable"), (sidelock.Deadlock, "deadlock"),
         (sidelock.UnderReplicated, "under_replicated")]
output = threading.Lock()


def say(*words, **fields):
    text = " ".join([*map(str, words), *(f"{key}={quote(str(value), safe='/:,.-_')}" for key, value in fields.items())])
    with output:
        os.write(1, text.encode() + b"\n")


def describe(fault):
    if isinstance(fault, BodyFailed):
        return ["body"], {}
    kind = next((name for cls, name in TYPES if isinstance(fault, cls)), "error")
    fields = {"type": kind, "message": str(fault)}
    if isinstance(fault, (sidelock.Busy, sidelock.Timeout)):
        fields["holders"] = len(fault.holders)
    if isinstance(fault, sidelock.UnderReplicated):
        fields["acknowledged"] = fault.acknowledged
    if isinstance(fault, sidelock.Lost):
        fields["lost"] = fault.loss.reason
    return [fault.reason or "unknown"], fields


def valid_ms(lock):
    return "none" if lock.valid is None else int(lock.valid * 1000)


class BodyFailed(Exception):
    """What a scope's body fails with."""


def parse(line):
    """A line: tag, verb, fields; `name` is a list."""
    tag, verb, *words = line.split()
    fields = {}
    for word in words:
        key, _, value = word.partition("=")
        if key == "name":
            fields.setdefault("name", []).append(unquote(value))
        else:
            fields[key] = unquote(value)
    return tag, verb, fields


def options(args, label):
    """What a lock is made with."""
    made = {"wait": int(args["wait"]) / 1000 if "wait" in args else None, "shared": args.get("mode") == "shared",
            "permits": int(args["permits"]) if "permits" in args else None,
            "max_hold": int(args["max_hold"]) / 1000 if "max_hold" in args else None, "meta": args.get("meta"),
            "replicas": int(args["replicas"]) if "replicas" in args else None, "durability": args.get("durability"),
            "on_lost": lambda loss: say("event", "lost", lock=label, name=loss.name, token=loss.token, reason=loss.reason,
                                        grace_ms=loss.grace_ms)}
    if "meta_bytes" in args:
        made["meta"] = "x" * int(args["meta_bytes"])
    if "progress" in args:
        made["on_waiting"] = lambda told: say("event", "waiting", lock=label, position=told["position"])
        made["on_contended"] = lambda waiters: say("event", "contended", lock=label, waiters=waiters)
    return made


class Driver:
    def __init__(self):
        self.client = sidelock.Client()
        self.locks, self.tags, self.leaves, self.watches, self.workers = {}, {}, {}, {}, {}

    def run(self, verb, args):
        return getattr(self, "do_" + verb)(args) or {}

    def serve(self):
        for line in sys.stdin:
            tag, verb, args = parse(line)
            if verb in ("noop", "held", "cancel", "leave", "path"):
                self.answer(tag, verb, args)
            else:
                worker = args.get("worker", "0") if verb not in ("session", "watch", "unwatch", "open", "close") else "control"
                if worker not in self.workers:
                    self.workers[worker] = queue.SimpleQueue()
                    threading.Thread(target=self.work, args=[self.workers[worker]], daemon=True).start()
                self.workers[worker].put((tag, verb, args))
        self.client.close()

    def work(self, jobs):
        while True:
            self.answer(*jobs.get())

    def answer(self, tag, verb, args):
        try:
            if "lock" in args and verb in ("acquire", "scope"):
                label = args["lock"]
                lock = self.client.lock(*args["name"], **options(args, label))
                self.tags[tag] = lock
                say(tag, "ok", **(self.acquire(lock, label) if verb == "acquire" else self.scope(lock, label)))
            else:
                say(tag, "ok", **self.run(verb, args))
        except (sidelock.Error, BodyFailed) as fault:
            words, fields = describe(fault)
            say(tag, "error", *words, **fields)

    def acquire(self, lock, label):
        lock.acquire()
        self.locks[label] = lock
        holding = lock._current()
        tokens = [holding.tokens.get(name, holding.loss and holding.loss.token) for name in lock.names]
        return {"token": ",".join(map(str, tokens)), "mode": lock.mode, "valid_ms": valid_ms(lock)}

    def scope(self, lock, label):
        leave = self.leaves.setdefault(label, [threading.Event(), None])
        with lock:
            self.locks[label] = lock
            if lock.held:
                say("event", "entered", lock=label, token=lock.token)
            leave[0].wait()
            if leave[1]:
                raise BodyFailed
        return {}

    def do_noop(self, args):
        pass

    def do_path(self, args):
        return {"path": socket_path(self.client.path)}

    def do_open(self, args):
        self.client = sidelock.Client(args.get("path"), patience=int(args.get("answer_ms", 5000)) / 1000)

    def do_close(self, args):
        self.client.close()

    def do_session(self, args):
        return {"session": self.client.session}

    def do_release(self, args):
        lock = self.locks.get(args["lock"])
        lock.release()

    def do_held(self, args):
        lock = self.locks.get(args["lock"])
        if lock is None:
            return {"held": 0}
        fields = {"held": int(lock.held), "valid_ms": valid_ms(lock)}
        return {**fields, "lost": lock.loss.reason} if lock.loss else fields

    def do_cancel(self, args):
        self.tags[args["target"]].cancel()

    def do_leave(self, args):
        leave = self.leaves.setdefault(args["lock"], [threading.Event(), None])
        leave[1] = "fail" in args
        leave[0].set()

    def do_downgrade(self, args):
        self.locks[args["lock"]].downgrade()

    def do_extend(self, args):
        self.locks[args["lock"]].extend(None if args["max_hold"] == "none" else int(args["max_hold"]) / 1000)

    def do_transfer(self, args):
        self.locks[args["lock"]].transfer(args["session"])

    def do_accept(self, args):
        def transferred(lock):
            self.locks[args["lock"]] = lock
            lock.on_lost = options({}, args["lock"])["on_lost"]
            say("event", "transferred", lock=args["lock"], name=lock.names[0], token=lock._current().loss.token
                if lock.loss else lock.token)
        self.client.accept_transfers(transferred)

    def do_watch(self, args):
        name = args.get("watch")
        watch = self.client.watch(args["name"][0] if "name" in args else None, prefix=args.get("prefix"))
        self.watches[name] = watch

        def follow():
            for event in watch:
                say("event", "watch", **{**{k: v for k, v in event.items() if not isinstance(v, (list, dict))}, "watch": name})
        threading.Thread(target=follow, daemon=True).start()

    def do_unwatch(self, args):
        self.watches[args["watch"]].close()

    def do_cycles(self, args):
        tokens, rising = [0], [1]
        with open(args["file"], "w") as file:
            file.write("0")

        def work():
            lock = self.client.lock(*args["name"])
            for _ in range(int(args["cycles"])):
                with lock:
                    with open(args["file"], "r+") as file:
                        count = int(file.read())
                        file.seek(0)
                        file.write(str(count + 1))
                    rising[0] &= lock.token > tokens[0]
                    tokens[0] = lock.token
        threads = [threading.Thread(target=work) for _ in range(int(args["workers"]))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {"rising": int(rising[0])}

    def do_spawn(self, args):
        process = subprocess.Popen(["sleep", "60"], close_fds=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        return {"pid": process.pid}

    def do_fork(self, args):
        pid = os.fork()
        if pid:
            return {"pid": pid}
        lock = self.locks[args["lock"]]
        fields = {"held": int(lock.held)}
        try:
            lock.release()
            fields["release"] = "ok"
        except sidelock.Error as fault:
            fields["release"] = fault.reason
        own = self.client.lock(*args["name"]).acquire(0)
        fields["acquired"] = int(own.held)
        try:
            self.client.lock(*lock.names).acquire(0)
            fields["again"] = 1
        except sidelock.Busy:
            fields["again"] = 0
        say("event", "child", **fields)
        if "exit" in args:
            os._exit(0)
        while True:
            signal.pause()


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, lambda *_: None)
    say("driver", 1, language="python", features="fork,connects")
    Driver().serve()
