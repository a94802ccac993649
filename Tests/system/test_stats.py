"""The figures of `stats` are those of the protocol's document, and the command prints them."""

import json
import re

import pytest
from harness.command import Command, terminal_output
from harness.schema import PROTOCOL


LABELS = {"limits_met_total": "LIMIT", "losses_total": "REASON"}


def documented():
    """The names of the table, each with the pattern of what stands for a label in it."""
    text = (PROTOCOL / "README.md").read_text()
    table = text.split("| name | kind | what it tells |\n|---|---|---|\n")[1].split("\n\n")[0]
    return [re.match(r"\| `([^`]+)`", row)[1] for row in table.splitlines()]


def flat(figures, path=""):
    """The figures without their groups, by dotted names, in their order."""
    for name, value in figures.items():
        if isinstance(value, dict):
            yield from flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


@pytest.mark.parametrize("is_local", [True, False])
def test_the_figures_are_those_of_the_document(lab, is_local):
    daemon = lab.daemon(*([] if is_local else [lab.redis()]))
    stats = daemon.client().call("stats")
    told = []
    for name, value in flat(stats):
        label = re.match(r"(limits_met_total|losses_total|.*by_microseconds)\.", name)
        told.append(f"{label[1]}.{LABELS.get(label[1], 'CLASS')}" if label else name)
        assert isinstance(value, str if name == "turns.longest.work" else int), name
    # Those of Sentinels and of a Cluster are told where a URL names some (test_sentinel.py, test_cluster.py).
    # And why Redis is away or refuses, where it does (test_health.py).
    left_out = "redis." if is_local else ("redis.sentinel.", "redis.cluster.", "redis.down_reason", "redis.refused")
    expected = [name for name in documented() if not name.startswith(left_out)]
    assert list(dict.fromkeys(told)) == expected

    command = Command(lab, daemon)
    status, out, _ = command.run("stats")
    assert status == 0 and [name for name, _ in flat(json.loads(out))] == [name for name, _ in flat(stats)]
    status, lines = terminal_output(command, "stats")
    assert status == 0
    assert lines[0].split() == ["NAME", "VALUE"]
    # A histogram is a line for people.
    names = [re.sub(r"(by_microseconds)\..*", r"\1", name) for name, _ in flat(stats)]
    assert [line.split()[0] for line in lines[1:]] == list(dict.fromkeys(names))
