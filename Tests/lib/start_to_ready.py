#!/usr/bin/env python3
"""Measures how long a daemon takes from its start to READY=1. Usage: start_to_ready.py SIDELOCKD LIMIT-MS

What the process waits for a processor is left out, and the best of several starts counts: a busy machine makes each one
slower, and none of them faster.
"""

import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

STARTS = 10


def waited_for_processor(pid):
    """How long the threads of a process could have run and did not, in milliseconds, as the kernel counts it."""
    total = 0
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        try:
            total += int((task / "schedstat").read_text().split()[1])
        except FileNotFoundError:
            pass
    return total / 1e6


def start(binary, directory):
    """Milliseconds from the start of the process to its READY=1, in all and without its waits for a processor."""
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.settimeout(0.5)
    path = pathlib.Path(directory, "notify")
    path.unlink(missing_ok=True)
    notify.bind(str(path))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SIDELOCK_")}
    begin = time.monotonic()
    process = subprocess.Popen([binary, "--local", "--socket", f"{directory}/sock"], stdin=subprocess.DEVNULL,
                               env={**environment, "NOTIFY_SOCKET": str(path)})
    try:
        while True:
            try:
                if "READY=1" in notify.recv(4096).decode().splitlines():
                    taken = (time.monotonic() - begin) * 1000
                    return max(0, taken - waited_for_processor(process.pid)), taken
            except TimeoutError:
                if process.poll() is not None or time.monotonic() > begin + 120:
                    sys.exit(f"{binary} does not become ready")
    finally:
        process.terminate()
        process.wait()
        notify.close()


def main(binary, limit):
    with tempfile.TemporaryDirectory() as directory:
        starts = [start(binary, directory) for _ in range(STARTS)]
    own, whole = (sorted(times) for times in zip(*starts))
    print(f"start to READY=1: best {own[0]:.1f} ms, with waits for a processor {whole[0]:.1f} ms, median "
          f"{whole[len(whole) // 2]:.1f} ms; limit {limit} ms")
    return 0 if own[0] < float(limit) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
