"""The history checker itself: it must find what is wrong and accept what is right."""

import math
import random

import pytest
from harness.history import Call, Lock, explain


def take(start, end, hold, mode="x", token=None):
    return Call(start, end, "take", hold, mode, int(hold.strip("abc")) if token is None else token)


def give(start, end, hold, mode="x"):
    return Call(start, end, "give", hold, mode)


@pytest.mark.parametrize("calls", [
    # One after the other; overlapping calls that can be ordered; a try that meets a holder.
    [take(0, 1, "a1"), give(2, 3, "a1"), take(4, 5, "b2")],
    [take(0, 1, "a1"), give(2, 5, "a1"), take(0, 4, "b2"), Call(2, 3, "busy")],
    # Readers together; a writer after them.
    [take(0, 1, "a1", "s"), take(0, 1, "b2", "s"), give(2, 3, "b2", "s"), give(2, 4, "a1", "s"), take(0, 9, "c3")],
    # The holder was killed: its hold ended some time later.
    [take(0, 1, "a1"), give(2, math.inf, "a1"), take(1, 8, "b2")],
    # A reader's token may be lower than another reader's.
    [take(0, 1, "a5", "s"), take(2, 3, "b4", "s"), give(4, 5, "a5", "s"), give(4, 5, "b4", "s"), take(6, 7, "c6")],
])
def test_what_is_right_is_accepted(calls):
    assert explain(calls, Lock()) is None


@pytest.mark.parametrize("calls", [
    # Two holders; a reader beside a writer; a hold that is given twice.
    [take(0, 1, "a1"), take(2, 3, "b2"), give(4, 5, "a1"), give(4, 5, "b2")],
    [take(0, 1, "a1", "s"), take(2, 3, "b2"), give(4, 5, "a1", "s"), give(6, 7, "b2")],
    [take(0, 1, "a1"), give(2, 3, "a1"), give(4, 5, "a1")],
    # Tokens that go backwards, for a writer after a reader and for a reader after a writer.
    [take(0, 1, "a5"), give(2, 3, "a5"), take(4, 5, "b4")],
    [take(0, 1, "a5", "s"), give(2, 3, "a5", "s"), take(4, 5, "b4")],
    [take(0, 1, "a5"), give(2, 3, "a5"), take(4, 5, "b4", "s")],
    # Busy, and nobody has it.
    [take(0, 1, "a1"), give(2, 3, "a1"), Call(4, 5, "busy"), take(6, 7, "b2")],
    # Killed after the other one had it.
    [take(0, 1, "a1"), take(2, 3, "b2"), give(4, math.inf, "a1")],
])
def test_what_is_wrong_is_found(calls):
    assert explain(calls, Lock()) is not None


def test_permits_are_counted():
    calls = [take(0, 1, f"a{n}", "p") for n in (1, 2)] + [take(2, 3, "b3", "p")]
    assert explain(calls, Lock(capacity=3)) is None
    assert explain(calls, Lock(capacity=2)) is not None
    assert explain(calls + [give(1.5, 2.5, "a1", "p")], Lock(capacity=2)) is None


def test_random_histories_of_a_right_lock_are_accepted_and_of_a_wrong_one_found():
    """A simulated mutex whose calls overlap at random; then the same with one grant too many."""
    random.seed(5)
    for _ in range(30):
        calls, now = [], 0.0
        for token in range(1, 121):
            taken = now + random.random()
            held = 0.1 + random.random()
            given = taken + held
            calls.append(take(taken - random.random() * 3, taken + 0.3 * held * random.random(), f"a{token}"))
            calls.append(give(given - 0.5 * held * random.random(), given + random.random(), f"a{token}"))
            now = given
        assert explain(calls, Lock()) is None
        number = random.randrange(120)
        middle = calls[2 * number].end + 0.001
        wrong = calls + [take(middle, middle, "c999999"), give(now + 9, now + 9, "c999999")]
        assert explain(wrong, Lock()) is not None
