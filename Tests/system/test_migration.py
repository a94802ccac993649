"""protocol/clients/migration.md: each of its programs, as it stands, and that the old and the new ones exclude each other."""

import os
import pathlib
import re
import select
import stat
import subprocess
import sys

import pytest
from harness.daemon import ROOT, binary, clean_environment
from harness.waiting import GENEROUS_SECONDS, wait_until
from test_interop import connect

PAGE = ROOT / "protocol/clients/migration.md"
WORK = "...  # work"
#: The programs of each chapter, by their language, as (when, text).
CHAPTERS = {
    title: [(language, when, text) for language, when, text in re.findall(
        r"^```(python|bash)\n# (\w+)\n(.*?)^```$", body, re.MULTILINE | re.DOTALL)]
    for title, body in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)}
PROGRAMS = {f"{title.split()[0]}-{number}-{when}": (language, text)
            for title, programs in CHAPTERS.items() for number, (language, when, text) in enumerate(programs)}
#: Which exclude each other by what they are called in PROGRAMS; one of each pair at least is the old way, or takes both.
OLD_KEY = {"SET-0-before", "SET-1-before"}
NEW = {"SET-2-after", "SET-3-after", "flock-2-after"}
BOTH = {"SET-4-during", "Redlock-0-during", "flock-1-during", "flock-3-during"}
OLD_FILE = {"flock-0-before"}
#: What the page speaks of without showing it: the old programs beside those that take both locks.
UNSHOWN = {
    "old key of another name": ("python", PROGRAMS["SET-0-before"][1].replace("sidelock:{orders}", "orders-lock")),
    "old Redlock": ("python", f'from redlock import lock_on_most\n\nwith lock_on_most("orders"):\n    {WORK}\n')}
PAIRS = sorted({(one, other) for one in OLD_KEY for other in NEW | BOTH}
               | {(one, "SET-2-after") for one in BOTH}
               | {(one, other) for one in OLD_FILE for other in {"flock-1-during", "flock-3-during"}}
               | {("old key of another name", "SET-4-during"), ("old Redlock", "Redlock-0-during")})

# Says that it has the lock, and works until its input ends. The old programs give up at once where the lock is in use.
LONG_WORK = "import sys; print('has it', flush=True); sys.stdin.read()"
# What the page calls "as the program has it": a lock on most of some primaries.
REDLOCK = """
import contextlib, redis, time, uuid
SERVERS = [redis.Redis(db=number) for number in (1, 2, 3)]
SCRIPT = 'if redis.call("GET", KEYS[1]) == ARGV[1] then return redis.call("DEL", KEYS[1]) else return 0 end'

@contextlib.contextmanager
def lock_on_most(name):
    mine = str(uuid.uuid4())
    while sum(bool(server.set(name, mine, nx=True, px=60_000)) for server in SERVERS) < 2:
        [server.eval(SCRIPT, 1, name, mine) for server in SERVERS]
        time.sleep(0.05)
    try:
        yield
    finally:
        [server.eval(SCRIPT, 1, name, mine) for server in SERVERS]
"""
# redis.Redis() is the test's server.
SITE = """
import redis
plain = redis.Redis.__init__
def here(self, **options):
    plain(self, unix_socket_path={path!r}, **options)
redis.Redis.__init__ = here
"""


class Workshop:
    """A folder with what the programs name, a daemon, and a Redis where they look for it."""

    def __init__(self, lab):
        self.lab, self.redis = lab, lab.redis()
        # As the page says for hosts that take the lock again and again.
        self.daemon = lab.daemon(self.redis, args=["--linger-ms", "0"])
        self.path = lab.directory / "workshop"
        self.path.mkdir()
        (self.path / "redlock.py").write_text(REDLOCK)
        (self.path / "sitecustomize.py").write_text(SITE.format(path=str(self.redis.socket_path)))
        report = self.path / "report"
        report.write_text("#!/bin/sh\necho has it\nexec cat\n")
        report.chmod(report.stat().st_mode | stat.S_IXUSR)
        (self.path / "sidelock").symlink_to(binary("sidelock", "SIDELOCK"))

    def start(self, name, work=LONG_WORK):
        language, text = {**PROGRAMS, **UNSHOWN}[name]
        command = ["bash", "-c", text] if language == "bash" else [sys.executable, "-c", text.replace(WORK, work)]
        return self.lab.track(subprocess.Popen(
            command, cwd=self.path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=clean_environment(
                SIDELOCK_SOCKET=str(self.daemon.socket_path), PATH=f"{self.path}:/usr/bin:/bin",
                PYTHONPATH=f"{self.path}:{ROOT}/protocol/clients/python/src")))


@pytest.fixture
def workshop(lab):
    return Workshop(lab)


def test_the_programs_of_the_page_are_all_known():
    assert set(PROGRAMS) == OLD_KEY | NEW | BOTH | OLD_FILE | {"Redisson-0-wrong"}
    shown = len(re.findall(r"^```\w", PAGE.read_text(), re.MULTILINE))
    assert shown == len(PROGRAMS), "a program does not say when it is for"


@pytest.mark.parametrize("name", sorted(OLD_KEY | NEW | BOTH | OLD_FILE))
def test_each_program_runs_as_it_stands(workshop, name):
    process = workshop.start(name, work=WORK)
    out, err = process.communicate("", timeout=GENEROUS_SECONDS)
    assert (process.returncode, err) == (0, ""), err


@pytest.mark.parametrize("one, other", PAIRS)
def test_the_old_and_the_new_exclude_each_other(workshop, one, other):
    """In both directions, whoever comes first."""
    for first, second in dict.fromkeys([(one, other), (other, one)]):
        holder = workshop.start(first)
        assert holder.stdout.readline() == "has it\n", holder.stderr.read()
        rival = workshop.start(second)
        if second == "SET-1-before":
            # It tries once.
            assert rival.communicate("", timeout=GENEROUS_SECONDS) == ("", "")
            holder.stdin.close()
            assert holder.wait(GENEROUS_SECONDS) == 0, holder.stderr.read()
            continue
        wait_until(lambda: waits(workshop, rival, second) or rival.poll() is not None, "its wait")
        holder.stdin.close()
        assert holder.wait(GENEROUS_SECONDS) == 0, holder.stderr.read()
        assert rival.stdout.readline() == "has it\n", rival.stderr.read()
        rival.stdin.close()
        assert rival.wait(GENEROUS_SECONDS) == 0, rival.stderr.read()


def waits(workshop, process, name):
    """Whether a program waits for its lock, which it does not have: at the daemon, at a file, or again and again at Redis."""
    assert not select.select([process.stdout], [], [], 0)[0], f"{name} has it, too: {process.stdout.readline()}"
    if workshop.daemon.client().call("inspect", name="orders")["waiting"]:
        return True
    blocked = re.findall(r"-> \w+ +\w+ +\w+ +(\d+)", pathlib.Path("/proc/locks").read_text())
    if any(os.path.realpath(f"/proc/{pid}/cwd") == str(workshop.path) for pid in blocked):
        return True
    stats = connect(workshop.redis).info("commandstats")
    return stats.get("cmdstat_set", {}).get("calls", 0) > 3


def test_a_hash_of_redisson_is_no_lock_and_an_error(workshop):
    process = workshop.start("Redisson-0-wrong")
    assert process.communicate("", timeout=GENEROUS_SECONDS)[0] == "wrong_type\n"


def test_the_key_prefix_makes_another_key_fit(lab):
    redis = lab.redis()
    client = lab.daemon(redis, args=["--key-prefix", "shop:"]).client()
    assert connect(redis).set("shop:{orders}", "mine", nx=True, px=60_000)
    assert client.try_acquire("orders") is None
