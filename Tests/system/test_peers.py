"""The comparison with other locks: it runs, and it would tell if two processes ever held a lock at the same time."""

import json
import subprocess
import sys

from harness.daemon import ROOT, clean_environment
from harness.waiting import GENEROUS_SECONDS

SCRIPT = ROOT / "Tests/peers/peers.py"


def test_sidelock_and_its_peers_exclude(lab):
    """Nothing is said about how fast they are."""
    redis = lab.redis()
    first, second = lab.daemon(redis), lab.daemon(redis)
    peers = ["sidelock", "sidelock, two hosts", "redis-py, polling every ms", "SET NX and script, polling every ms",
             "flock(2)"]
    figures = lab.directory / "figures.json"


    def results(seconds):
        done = subprocess.run(
            [sys.executable, SCRIPT, "--sidelock", first.socket_path, "--other-sidelock", second.socket_path,
             "--redis", redis.url, "--processes", "4", "--seconds", seconds, "--cycle-seconds", "0.1", "--json", figures,
             *(word for peer in peers for word in ("--peer", peer))],
            capture_output=True, text=True, env=clean_environment(), timeout=4 * GENEROUS_SECONDS, check=False)
        assert done.returncode == 0, done.stderr
        found = json.loads(figures.read_text())["results"]
        assert [result["peer"] for result in found] == peers
        assert all(result["overlaps"] == 0 for result in found)
        return found

    # Where nobody was granted anything nothing was tried: on a busy machine it takes longer.
    assert any(all(result["grants_per_second"] > 0 for result in results(seconds)) for seconds in ("0.5", "5", "20"))
