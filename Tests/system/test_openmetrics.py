"""`sidelock stats --openmetrics`: all figures of `stats`, as the parser of Prometheus' own client library takes them."""

import re

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from test_stats import documented

from harness.command import Command
from harness.schema import PROTOCOL
from harness.waiting import wait_until


def families(command):
    status, out, err = command.run("stats", "--openmetrics")
    assert (status, err) == (0, "") and out.endswith("\n# EOF\n")
    return {family.name: family for family in text_string_to_metric_families(out)}


def samples(family):
    return {tuple(sample.labels.values()): sample.value for sample in family.samples}


@pytest.mark.parametrize("is_local", [True, False])
def test_all_figures_are_told_with_type_and_unit(lab, is_local):
    daemon = lab.daemon(*([] if is_local else [lab.redis()]))
    command, client = Command(lab, daemon), daemon.client()
    client.acquire("a lock's name")
    found = families(command)
    # One family for each row of the document, and one for the build.
    left_out = ("redis.",) if is_local else ("redis.sentinel.", "redis.cluster.", "redis.down_reason", "redis.refused")
    assert len(found) == len([name for name in documented() if not name.startswith(left_out)]) + 1
    for family in found.values():
        assert family.name.startswith("sidelock_") and family.documentation, family
        assert family.type in ("counter", "gauge", "histogram", "info"), family
        assert family.name.endswith(family.unit)
        assert "a lock" not in str(family.samples)
    rows = re.findall(r"^\| `([^`]+)` \| (\w+)(?:, (\S+))? \|", (PROTOCOL / "README.md").read_text(), re.MULTILINE)
    units = {"ms": "seconds", "µs": "seconds", "bytes": "bytes", "": ""}
    told = sorted((family.type, family.unit) for family in found.values() if family.name != "sidelock_build")
    assert told == sorted(
        ("info" if kind == "text" else kind, units[unit]) for name, kind, unit in rows
        if kind in ("counter", "gauge", "histogram", "text") and not name.startswith(left_out))


def test_numbers_are_those_of_stats(lab):
    redis = lab.redis()
    daemon = lab.daemon(redis, args=["--host", 'h'])
    command, client = Command(lab, daemon), daemon.client()
    client.acquire("a")
    daemon.client().queue("a")
    before, found, after = client.call("stats"), families(command), client.call("stats")
    value = lambda name: samples(found[name])[()]
    assert (value("sidelock_held"), value("sidelock_waiting"), value("sidelock_redis_connected")) == (1, 1, 1)
    assert before["uptime_ms"] <= 1000 * value("sidelock_uptime_seconds") <= after["uptime_ms"]
    assert before["bytes_in_total"] < value("sidelock_in_bytes") <= after["bytes_in_total"]
    assert value("sidelock_grants") == 1
    limits = samples(found["sidelock_limits_met"])
    assert {label for (label,) in limits} == set(before["limits_met_total"])
    assert all(list(sample.labels) == ["limit"] for sample in found["sidelock_limits_met"].samples)
    buckets = {key: value for key, value in samples(found["sidelock_turns_seconds"]).items() if key}
    assert list(buckets)[0] == ("0.0001",) and list(buckets)[-1] == ("+Inf",)
    assert before["turns"]["total"] <= buckets["+Inf",] <= after["turns"]["total"]
    losses = found["sidelock_losses"].samples
    assert {sample.labels["reason"] for sample in losses} == set(before["losses_total"])
    assert all(list(sample.labels) == ["reason"] for sample in losses)
    [build] = found["sidelock_build"].samples
    assert build.labels["host"] == "h" and build.labels["backend"] == "redis"
    assert found["sidelock_turns_longest_work"].samples[0].labels["work"]


def histogram(family):
    told = {sample.name.removeprefix(family.name): sample.value for sample in family.samples if not sample.labels}
    classes = [sample.value for sample in family.samples if sample.labels]
    assert classes == sorted(classes) and classes[-1] == told["_count"]
    return told["_count"], told["_sum"]


def test_times_are_histograms(lab):
    redis = lab.redis()
    daemon = lab.daemon(redis)
    command, client, other = Command(lab, daemon), daemon.client(), daemon.client()
    token = client.acquire("a")
    waiting = other.queue("a")
    wait_until(lambda: client.call("inspect", name="a")["waiters"][0]["waited_ms"] >= 200, "200 ms")
    client.release("a", token)
    other.release("a", other.reply_to(waiting)["token"])
    found = families(command)
    counts = {name: histogram(found[f"sidelock_{name}_seconds"])[0] for name in (
        "acquires", "waits", "holds", "handovers", "redis_answers", "redis_handovers", "turns")}
    assert counts.pop("redis_answers") >= 1 and counts.pop("turns") >= 4
    assert counts == {"acquires": 2, "waits": 1, "holds": 2, "handovers": 1, "redis_handovers": 0}
    assert 0.2 <= histogram(found["sidelock_waits_seconds"])[1] <= histogram(found["sidelock_acquires_seconds"])[1]
    assert 0.2 <= histogram(found["sidelock_holds_seconds"])[1]
    waits = {float(sample.labels["le"]): sample.value
             for sample in found["sidelock_waits_seconds"].samples if sample.labels}
    assert waits[0.1] == 0

    # Another host is given the lock when it is free there.
    neighbour = lab.daemon(redis)
    token = client.acquire("b")
    there = neighbour.client()
    waiting = there.queue("b")
    client.release("b", token)
    there.reply_to(waiting)
    assert histogram(families(Command(lab, neighbour))["sidelock_redis_handovers_seconds"])[0] == 1


def test_a_table_of_json_is_not_meant_at_once(lab):
    command = Command(lab, lab.daemon())
    assert command.run("stats", "--openmetrics", "--json")[0] == 64
