#!/usr/bin/env python3
"""The same work with different locks, side by side: several processes want one lock, hold it for some time, and come
back a little later. And what it costs to take and release a lock that nobody else wants.

It is checked that no two processes ever held the lock at the same time; the exit status is 1 if they did.
Tests/peers/run.sh starts all that is needed.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time

import locks

WARM_UP_SECONDS = 0.2
GENEROUS_SECONDS = 60


def contend(kind, places, index, start, end, hold, pause, results):
    """One process: (when it asked, got, and gave up the lock), for each time, in nanoseconds on a common clock."""
    lock = kind(places, index)
    rounds = []
    time.sleep(max(0, start - time.monotonic()))
    while time.monotonic() < end:
        asked = time.monotonic_ns()
        lock.acquire()
        got = time.monotonic_ns()
        time.sleep(hold)
        rounds.append((asked, got, time.monotonic_ns()))
        lock.release()
        time.sleep(pause)
    results.send(rounds)


def cycle(kind, places, index, seconds, results):
    """One process alone: how long each acquire with its release took, in nanoseconds."""
    lock = kind(places, index)
    for _ in range(20):
        lock.acquire()
        lock.release()
    times = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        begun = time.monotonic_ns()
        lock.acquire()
        lock.release()
        times.append(time.monotonic_ns() - begun)
    results.send(times)


def run_all(calls, seconds):
    """Runs each of (function, arguments), which takes about that long, in a process of its own; gives what they sent."""
    context = multiprocessing.get_context("fork")
    running = []
    for function, arguments in calls:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=function, args=(*arguments, theirs))
        process.start()
        theirs.close()
        running.append((process, ours))
    results = []
    try:
        for process, pipe in running:
            if not pipe.poll(GENEROUS_SECONDS + seconds):
                raise RuntimeError("a process did not come to its end")
            try:
                results.append(pipe.recv())
            except EOFError:
                raise RuntimeError("a process failed; its message is above") from None
    finally:
        for process, _ in running:
            if process.is_alive() and len(results) < len(running):
                process.kill()
            process.join()
    return results


def percentile(ordered, share):
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0


def overlaps(rounds):
    """How often somebody had the lock while another one had it, too."""
    count, last_end = 0, 0
    for _, got, gave_up in sorted(rounds, key=lambda entry: entry[1]):
        count += got < last_end
        last_end = max(last_end, gave_up)
    return count


def measure(name, places, options):
    kind = locks.PEERS[name][0]
    cycles = sorted(run_all([(cycle, (kind, places, 0, options.cycle_seconds))], options.cycle_seconds)[0])
    start = time.monotonic() + 0.5
    begin, end = start + WARM_UP_SECONDS, start + WARM_UP_SECONDS + options.seconds
    processes = run_all([
        (contend, (kind, places, index, start, end, options.hold_ms / 1000, options.pause_ms / 1000))
        for index in range(options.processes)], options.seconds)
    begin_ns, end_ns = int(begin * 1e9), int(end * 1e9)
    everything = [entry for rounds in processes for entry in rounds]
    # Only what lies within the window counts.
    held = sum(max(0, min(gave_up, end_ns) - max(got, begin_ns)) for _, got, gave_up in everything)
    served = [sum(begin_ns <= got < end_ns for _, got, _ in rounds) for rounds in processes]
    waits = sorted(got - asked for asked, got, _ in everything if begin_ns <= got < end_ns)
    return {
        "peer": name,
        "share_held": held / (end_ns - begin_ns),
        "fairness": min(served) / max(1, max(served)),
        "grants_per_second": sum(served) / options.seconds,
        "wait_p50_ms": percentile(waits, 0.5) / 1e6,
        "wait_p99_ms": percentile(waits, 0.99) / 1e6,
        "uncontended_cycle_p50_us": percentile(cycles, 0.5) / 1e3,
        "overlaps": overlaps(everything),
    }


def table(results):
    """As it may stand in a README."""
    lines = ["| lock | time held | fairness | wait p50 | wait p99 | uncontended cycle |",
             "|---|---:|---:|---:|---:|---:|"]
    for result in results:
        lines.append(
            f"| {result['peer']} | {result['share_held'] * 100:.1f} % | {result['fairness']:.2f} "
            f"| {result['wait_p50_ms']:.1f} ms | {result['wait_p99_ms']:.1f} ms "
            f"| {result['uncontended_cycle_p50_us']:.0f} µs |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sidelock", metavar="SOCKET", help="a sidelock daemon's socket")
    parser.add_argument("--other-sidelock", metavar="SOCKET", help="the socket of another one, on the same Redis")
    parser.add_argument("--redis", metavar="URL", help="redis://host:port or unix:///path")
    parser.add_argument("--etcd", metavar="URL", help="http://host:port of an etcd server")
    parser.add_argument("--peer", action="append", metavar="NAME", dest="peers",
                        help="only this one (may be repeated): " + "; ".join(locks.PEERS))
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--hold-ms", type=float, default=1)
    parser.add_argument("--pause-ms", type=float, default=1)
    parser.add_argument("--seconds", type=float, default=5, help="how long the processes contend")
    parser.add_argument("--cycle-seconds", type=float, default=1, help="how long the lone process runs")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    options = parser.parse_args()
    for name in options.peers or []:
        if name not in locks.PEERS:
            parser.error(f"there is no peer {name!r}; there are: " + "; ".join(locks.PEERS))

    results = []
    with tempfile.TemporaryDirectory(prefix="sidelock-peers-") as directory:
        places = locks.Places(options.sidelock, options.other_sidelock, options.redis, options.etcd, directory)
        for name, (_, needs) in locks.PEERS.items():
            if options.peers and name not in options.peers:
                continue
            missing = [need for need in needs if getattr(places, need) is None]
            if missing:
                if options.peers:
                    parser.error(f"{name} needs --{missing[0].replace('_', '-')}")
                continue
            print(f"{name} …", file=sys.stderr, flush=True)
            results.append(measure(name, places, options))
    print(table(results))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"processes": options.processes, "hold_ms": options.hold_ms, "pause_ms": options.pause_ms,
                       "seconds": options.seconds, "results": results}, file, indent=2)
            file.write("\n")
    broken = [result["peer"] for result in results if result["overlaps"]]
    for name in broken:
        print(f"{name}: two processes held the lock at the same time", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
