#!/usr/bin/env python3
"""Takes the pictures of the dashboard that packaging/operations.md shows. Usage: dashboard_pictures.py [DIRECTORY]

Starts a Redis, three daemons and clients of its own, has them lock and wait, opens the page in Debian's chromium, and writes
dashboard-light.png, dashboard-dark.png and dashboard-lock.png (default: to packaging/pictures). SIDELOCKD and SIDELOCK name the programs.
"""

import collections
import itertools
import json
import pathlib
import random
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "Tests/system"))

from harness.browser import Browser  # noqa: E402
from harness.command import Command  # noqa: E402
from harness.daemon import binary  # noqa: E402
from harness.dashboard import Dashboard  # noqa: E402
from harness.lab import Lab  # noqa: E402
from harness.waiting import wait_until  # noqa: E402

BYTES_MAX = 100_000
COLOURS_MAX = 64
# Colours that are nearer to each other are taken for one (the sum of the squares).
NEAR = 150
# For so long the plots have something to show before the pictures are taken.
SECONDS = 100


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def pixels(png):
    """The size of a PNG as browsers write it (8 bits, RGB or RGBA, not interlaced), and its lines of (red, green, blue)."""
    width, height, depth, kind, _, _, interlace = struct.unpack(">IIBBBBB", png[16:29])
    assert (depth, interlace) == (8, 0) and kind in (2, 6)
    data, place = b"", 8
    while place < len(png):
        length = struct.unpack(">I", png[place:place + 4])[0]
        if png[place + 4:place + 8] == b"IDAT":
            data += png[place + 8:place + 8 + length]
        place += 12 + length
    data, step = zlib.decompress(data), 3 if kind == 2 else 4
    before, lines = bytearray(width * step), []
    for number in range(height):
        start = number * (width * step + 1)
        line = bytearray(data[start + 1:start + 1 + width * step])
        unfilter(data[start], line, before, step)
        before = line
        lines.append(list(zip(line[0::step], line[1::step], line[2::step])))
    return width, height, lines


def unfilter(kind, line, before, step):
    for index in range(len(line)):
        left, above = line[index - step] if index >= step else 0, before[index]
        if kind == 1:
            line[index] = line[index] + left & 255
        elif kind == 2:
            line[index] = line[index] + above & 255
        elif kind == 3:
            line[index] = line[index] + (left + above) // 2 & 255
        elif kind == 4:
            corner = before[index - step] if index >= step else 0
            guess = left + above - corner
            line[index] = line[index] + min((left, above, corner), key=lambda one: abs(guess - one)) & 255


def distance(one, other):
    return sum((a - b) ** 2 for a, b in zip(one, other))


def smaller(png):
    """The picture with few colours: the most frequent ones that differ, and the nearest of them for each other one."""
    width, height, lines = pixels(png)
    palette = []
    for colour, _ in collections.Counter(itertools.chain(*lines)).most_common():
        # Of the frequent ones, which fill areas, each stays.
        if len(palette) < 16 or all(distance(one, colour) > NEAR for one in palette):
            palette.append(colour)
        if len(palette) == COLOURS_MAX:
            break
    places = {colour: place for place, colour in enumerate(palette)}

    def place(colour):
        if colour not in places:
            places[colour] = places[min(palette, key=lambda one: distance(one, colour))]
        return places[colour]

    data = b"".join(b"\0" + bytes(map(place, line)) for line in lines)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
            + chunk(b"PLTE", bytes(itertools.chain(*palette))) + chunk(b"IDAT", zlib.compress(data, 9)) + chunk(b"IEND", b""))


class Program:
    """A client whose process has that command line. Both have its connection; what it is told is asked from here."""

    CODE = ("import os, socket, sys; own = socket.socket(fileno=int(sys.argv[1])); own.connect(sys.argv[2]); "
            "os.execv('/bin/cat', [sys.argv[3]])")

    def __init__(self, lab, daemon, line):
        self.socket = socket.socket(socket.AF_UNIX)
        self.process = lab.track(subprocess.Popen(
            [sys.executable, "-c", self.CODE, str(self.socket.fileno()), str(daemon.socket_path), line],
            pass_fds=[self.socket.fileno()], stdin=subprocess.PIPE))
        wait_until(lambda: pathlib.Path(f"/proc/{self.process.pid}/cmdline").read_text() == line + "\0", line)
        self.lines = self.socket.makefile("rb")

    def ask(self, method, **params):
        self.socket.sendall(json.dumps({"id": 1, "method": method, "params": params}).encode() + b"\n")

    def answer(self):
        answer = json.loads(self.lines.readline())
        assert "result" in answer, answer

    def wait(self, name):
        """Asks for a lock that somebody has."""
        self.ask("acquire", name=name)

    def take(self, name, **params):
        """Has a lock when it returns."""
        self.ask("acquire", name=name, **params)
        self.answer()


class Traffic:
    """Clients that take locks in turns, until it ends."""

    def __init__(self, lab, daemons, names):
        self.ended = threading.Event()
        programs = [Program(lab, daemons[number % len(daemons)], f"order-worker {number}") for number in range(8)]
        self.threads = [threading.Thread(target=self.play, args=(program, names, random.Random(number)))
                        for number, program in enumerate(programs)]
        for thread in self.threads:
            thread.start()

    def play(self, program, names, chance):
        while not self.ended.is_set():
            name = chance.choice(names)
            program.take(name)
            self.ended.wait(chance.choice([0.002, 0.01, 0.05, 0.3]))
            program.ask("release", name=name)
            program.answer()
            self.ended.wait(chance.random() * 0.4 * (1.2 + chance.choice([0, 0, 2])))

    def end(self):
        self.ended.set()
        for thread in self.threads:
            thread.join()


def scene(lab):
    """What there is to be seen. Gives the daemons; the first one is looked at."""
    redis = lab.redis()
    web1, web2, db1 = daemons = [lab.daemon(redis, args=["--host", host]) for host in ("web1", "web2", "db1")]
    holders = {name: Program(lab, daemon, line) for name, daemon, line in [
        ("backup/orders", web1, "pg_dump -Fc orders"), ("deploy", web1, "./deploy.sh production"), ("reports/daily", web1, "report --day"),
        ("cache/rebuild", web2, "rebuild-cache"), ("ledger", web1, "booking-worker"), ("invoices", web1, "billing-worker")]}
    for name, one in holders.items():
        one.take(name, **({"meta": "nightly"} if name == "backup/orders" else {}))
    for number in range(9):
        Program(lab, daemons[number % 3], f"shard-reader {number}").take(f"shards/{number:02}", mode="shared")
    # Each has what the other one wants. They name no owner, so they may be threads of which another one gives way, and the daemon
    # refuses neither.
    holders["ledger"].wait("invoices")
    holders["invoices"].wait("ledger")
    for name, line in [("backup/orders", "vacuumdb orders"), ("backup/orders", "export --all"), ("deploy", "./rollback.sh"),
                       ("cache/rebuild", "warm-up")]:
        Program(lab, web1, line).wait(name)
    holders["reports/daily"].wait("backup/orders")
    Program(lab, web1, "mail-report").wait("reports/daily")
    return daemons


def main(directory):
    lab = Lab()
    try:
        daemons = scene(lab)
        traffic = Traffic(lab, daemons, [f"orders/{number}" for number in range(6)])
        dashboard = Dashboard(Command(lab, daemons[0]))
        browser = Browser(lab)
        page = browser.page(1240, 900)
        page.theme("light")
        page.open(dashboard.url)
        time.sleep(SECONDS)
        page.wait("document.querySelectorAll('#hosts tbody tr').length === 3")
        pages = [("light", "light"), ("dark", "dark")]
        for name, theme in pages:
            page.theme(theme)
            page.picture(directory / f"dashboard-{name}.png")
        page.theme("light")
        page.click("#locks .name", "backup/orders")
        page.wait("document.querySelectorAll('#inspected .people li').length >= 4")
        page.picture(directory / "dashboard-lock.png", height=700)
        traffic.end()
        browser.close()
        dashboard.end()
    finally:
        lab.close()
    for path in directory.glob("dashboard-*.png"):
        path.write_bytes(smaller(path.read_bytes()))
        print(path, path.stat().st_size)
        assert path.stat().st_size < BYTES_MAX, f"{path} has more than {BYTES_MAX} bytes"


if __name__ == "__main__":
    binary("sidelockd", "SIDELOCKD")
    place = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "packaging/pictures"
    place.mkdir(parents=True, exist_ok=True)
    main(place)
