#!/usr/bin/env python3
"""Measures how long a daemon takes from its start to READY=1. Usage: start_to_ready.py SIDELOCKD LIMIT-MS

The best of several starts counts: a busy machine makes each one slower, and none of them faster.
"""

import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

STARTS = 10


def start(binary, directory):
    """Milliseconds from the start of the process to its READY=1."""
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
                    return (time.monotonic() - begin) * 1000
            except TimeoutError:
                if process.poll() is not None or time.monotonic() > begin + 20:
                    sys.exit(f"{binary} does not become ready")
    finally:
        process.terminate()
        process.wait()
        notify.close()


def main(binary, limit):
    with tempfile.TemporaryDirectory() as directory:
        times = sorted(start(binary, directory) for _ in range(STARTS))
    print(f"start to READY=1: best {times[0]:.1f} ms, median {times[len(times) // 2]:.1f} ms; limit {limit} ms")
    return 0 if times[0] < float(limit) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
