#!/usr/bin/env python3
"""Holds the pure targets to their budgets of instructions and allocations.

usage: budgets.py check BINARY     compares with Tests/Budgets/budgets.tsv; fails where a budget is exceeded
       budgets.py update BINARY    writes what was counted into Tests/Budgets/budgets.tsv
       budgets.py --self-test      shows that every way of exceeding a budget is told

BINARY is the release build of the target Budgets. Instructions are counted by callgrind, allocations by the program
itself: the same build gives the same figures, however busy the machine is. Both are of one round of a measurement.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROUNDS = 200
# How much a figure may lie above its budget. Another compiler or C library moves it a little, a regression by more.
INSTRUCTIONS_MARGIN = 0.05
ALLOCATIONS_MARGIN = 0.02
# How much more than four times as much four times as many may take.
GROWTH_MARGIN = 0.25
# A figure that is so much lower should become the budget.
SLACK = 0.15
BUDGETS = pathlib.Path(__file__).parent.parent / "Budgets" / "budgets.tsv"
HEADER = """\
# What one round of each measurement in this directory may cost. Tests/run.sh budgets fails beyond it.
# After a change that is worth its price: Tests/lib/budgets.py update .build/release/Budgets
# measurement\tinstructions\tallocations
"""


def count(binary):
    """The instructions and allocations of a round, by the name of the measurement."""
    with tempfile.TemporaryDirectory() as directory:
        # This valgrind cannot read what the compiler writes for debuggers.
        bare = f"{directory}/Budgets"
        subprocess.run(["strip", "--strip-debug", "-o", bare, binary], check=True)
        # A hash table's collisions, and with them the work, differ from process to process otherwise.
        environment = {**os.environ, "SWIFT_DETERMINISTIC_HASHING": "1"}
        command = ["valgrind", "--tool=callgrind", "--dump-before=measurement_boundary", "--compress-strings=no",
                   f"--callgrind-out-file={directory}/out", bare, str(ROUNDS)]
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        if result.returncode != 0:
            sys.exit(f"{' '.join(command)} failed:\n{result.stdout}{result.stderr}")
        # A dump ends at each boundary: the first of a measurement has its preparation, the second the rounds.
        dumps = sorted(pathlib.Path(directory).glob("out.*"), key=lambda path: int(path.suffix[1:]))
        lines = [line.split() for line in result.stdout.splitlines()]
        if len(dumps) < 2 * len(lines):
            sys.exit(f"{len(lines)} measurements, but {len(dumps)} dumps of callgrind")
        figures = {}
        for index, (name, rounds, allocations) in enumerate(lines):
            figures[name] = (instructions(dumps[2 * index + 1]) / int(rounds), int(allocations) / int(rounds))
        return figures


def instructions(dump):
    with open(dump) as file:
        for line in file:
            found = re.match(r"(?:totals|summary): (\d+)", line)
            if found:
                return int(found.group(1))
    sys.exit(f"{dump} has no total")


def read_budgets(text):
    budgets = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, instructions_max, allocations_max = line.split("\t")
            budgets[name] = (float(instructions_max), float(allocations_max))
    return budgets


def compare(figures, budgets):
    """A line for each measurement, those that are too much first, and whether there are any."""
    bad, good = [], []
    for name in budgets.keys() - figures.keys():
        bad.append(f"{name}: has a budget, but is not measured")
    for name, counted in figures.items():
        if name not in budgets:
            bad.append(f"{name}: has no budget; it takes {counted[0]:.0f} instructions and {counted[1]:g} allocations")
            continue
        lines = []
        for what, figure, budget, margin in zip(
                ("instructions", "allocations"), counted, budgets[name], (INSTRUCTIONS_MARGIN, ALLOCATIONS_MARGIN)):
            if figure > budget * (1 + margin) + 0.01:
                rise = f"{figure / budget * 100 - 100:.1f} % more" if budget else "more"
                bad.append(f"{name}: {figure:.6g} {what}, {rise} than its budget of {budget:g}")
            note = ", which can be lowered" if figure < budget * (1 - SLACK) else ""
            lines.append(f"{figure:.6g} {what} of {budget:g}{note}")
        good.append(f"{name}: {'; '.join(lines)}")
    return bad + grow_too_fast(figures), good


def grow_too_fast(figures):
    """A line for each measurement `scale/…-4N` that takes more than four times as much as `scale/…-N`."""
    bad, pairs = [], 0
    for name, (taken, _) in figures.items():
        what, _, count = name.rpartition("-")
        if not name.startswith("scale/") or f"{what}-{4 * int(count)}" not in figures:
            continue
        pairs += 1
        more = figures[f"{what}-{4 * int(count)}"][0]
        if more > 4 * (1 + GROWTH_MARGIN) * taken:
            bad.append(f"{what}: {4 * int(count)} take {more / taken:.1f} times as much as {count}")
    scales = sum(name.startswith("scale/") for name in figures)
    if 2 * pairs != scales:
        bad.append(f"of {scales} measurements of scale only {2 * pairs} have another one to compare with")
    return bad


def self_test():
    budgets = read_budgets("# a comment\n\na\t1000\t10\nb\t2000\t0\n")
    cases = [
        ({"a": (1000, 10), "b": (2000, 0)}, 0),
        ({"a": (1049, 10), "b": (1, 0)}, 0),
        ({"a": (1051, 10), "b": (2000, 0)}, 1),
        ({"a": (1000, 11), "b": (2000, 0)}, 1),
        ({"a": (1000, 10), "b": (2000, 1)}, 1),
        ({"a": (2000, 20), "b": (3000, 1)}, 4),
        ({"a": (1000, 10)}, 1),
        ({"a": (1000, 10), "b": (2000, 0), "c": (1, 1)}, 1),
    ]
    for figures, expected in cases:
        bad, _ = compare(figures, budgets)
        if len(bad) != expected:
            sys.exit(f"self-test failed: {figures} gives {bad}")
    for few, many, expected in ((100, 400, 0), (100, 499, 0), (100, 501, 1), (100, 1600, 1)):
        figures = {"scale/x-10": (few, 0), "scale/x-40": (many, 0), "other-1": (1, 0)}
        if len(grow_too_fast(figures)) != expected:
            sys.exit(f"self-test failed: {few} and {many} give {grow_too_fast(figures)}")
    if not grow_too_fast({"scale/x-10": (1, 0)}):
        sys.exit("self-test failed: a measurement with nothing to compare it with passes")
    print(f"self-test: {len(cases) + 5} cases told apart")


def main(arguments):
    match arguments:
        case ["--self-test"]:
            self_test()
        case ["check", binary]:
            bad, good = compare(count(binary), read_budgets(BUDGETS.read_text()))
            print("\n".join(good))
            if bad:
                sys.exit("\nOver budget:\n" + "\n".join(bad))
        case ["update", binary]:
            lines = [f"{name}\t{figure[0]:.0f}\t{figure[1]:g}\n" for name, figure in count(binary).items()]
            BUDGETS.write_text(HEADER + "".join(lines))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
