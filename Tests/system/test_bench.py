"""`sidelock bench`: every scenario runs and tells what it should. How fast anything is is not judged here."""

import json

from harness.command import Command
from harness.waiting import wait_until

SMALL = ["--seconds", "0.05", "--connections", "1,3", "--clients", "3", "--kills", "4", "--idle", "20", "--locks", "300"]


def test_every_scenario_tells_its_figures(lab):
    redis = lab.redis()
    first, second = (lab.daemon(redis) for _ in range(2))
    status, out, err = Command(lab, first).run(
        "bench", "--scenario", "all", "--other-socket", second.socket_path, "--redis-socket", redis.socket_path, *SMALL)
    assert (status, err) == (0, "")
    results = json.loads(out)["results"]
    assert {result["scenario"] for result in results} == {
        "echo", "redis", "distinct", "cold", "one", "contended", "crash", "cross-host", "many-clients", "many-locks"}
    for result in results:
        if "count" in result:
            assert result["count"] > 0, result
            assert 0 < result["microseconds"]["p50"] <= result["microseconds"]["max"], result
    cold = next(result for result in results if result["scenario"] == "cold")
    # A new name cannot be had without Redis.
    assert cold["redis_commands_per_cycle"] >= 1
    assert cold["daemon_cpu_microseconds_per_request"] > 0
    figures = {}
    for result in results:
        figures.update(result)
    assert 0 < figures["share_held"] <= 1 and 0 <= figures["fairness"] <= 1
    assert figures["locks_lost"] == 0
    assert figures["resident_mb"] > 0
    # Nothing stays behind.
    client = first.client()
    wait_until(lambda: all(client.call("stats")[gauge] == 0 for gauge in ("held", "waiting")), "the end of all holds")


def test_without_redis_the_figures_about_it_are_absent(lab):
    daemon = lab.daemon()
    status, out, err = Command(lab, daemon).run("bench", "--scenario", "distinct", *SMALL)
    assert (status, err) == (0, "")
    results = json.loads(out)["results"]
    assert [result["scenario"] for result in results] == ["echo", "distinct"] * 2
    assert not any("redis_commands_per_cycle" in result for result in results)


def test_no_daemon_is_told_at_once(lab):
    status, out, err = Command(lab, lab.daemon()).run("bench", "--socket", lab.directory / "none")
    assert (status, out) == (69, "")
    assert "no daemon listens" in err
