"""Whether a history of calls can be explained by a lock that does one thing at a time.

Every call happened somewhere between its start and its end. A history is right if the calls can be put into one order
in which each lies within its own span and the lock behaves (Herlihy and Wing's linearizability; the search is Wing and
Gong's, with Lowe's memory of what was tried). It knows nothing of how sidelock works.
"""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Call:
    """`kind` is `take`, `give` or `busy`; `hold` names the hold that is taken or given; `mode` is x, s or p."""
    start: float
    end: float  # math.inf: it may have happened at any time since, or never
    kind: str
    hold: str = ""
    mode: str = ""
    token: int = 0


class Lock:
    """Readers and writers, or a semaphore of `capacity` permits; a mutex is a lock that nobody shares.

    A state is (holds, the highest token, the highest token of a writer): a token must be higher than those of all
    earlier holds that it excludes.
    """

    def __init__(self, capacity=None):
        self.capacity = capacity

    first = (frozenset(), 0, 0)

    def step(self, state, call):
        """The state after `call`; None when the lock could not have answered like that."""
        holds, highest, highest_writer = state
        if call.kind == "give":
            return (holds - {(call.hold, call.mode)}, highest, highest_writer) if (call.hold, call.mode) in holds else None
        if call.kind == "busy":
            return state if holds else None
        if call.mode == "p":
            fits = len(holds) < self.capacity and all(mode == "p" for _, mode in holds)
            floor = 0
        elif call.mode == "s":
            fits, floor = all(mode == "s" for _, mode in holds), highest_writer
        else:
            fits, floor = not holds, highest
        if not fits or call.token <= floor:
            return None
        return (holds | {(call.hold, call.mode)}, max(highest, call.token),
                call.token if call.mode == "x" else highest_writer)


class _Event:
    __slots__ = ("call", "index", "match", "before", "after")

    def __init__(self, call, index):
        self.call, self.index, self.match = call, index, None


def _events(calls):
    """The starts and ends of all calls in a ring, in their order."""
    points = []
    for index, call in enumerate(calls):
        start = _Event(call, index)
        points.append((call.start, 0, index, start))
        if call.end != math.inf:
            start.match = _Event(None, index)
            points.append((call.end, 1, index, start.match))
    head = last = _Event(None, -1)
    for *_, event in sorted(points, key=lambda point: point[:3]):
        last.after, event.before = event, last
        last = event
    last.after = None
    return head


def _unlink(event):
    event.before.after = event.after
    if event.after:
        event.after.before = event.before


def _link(event):
    event.before.after = event
    if event.after:
        event.after.before = event


def explain(calls, lock):
    """None when the history is right; else the calls around the place that cannot be explained."""
    head = _events(calls)
    finite = sum(call.end != math.inf for call in calls)
    state, done, seen, stack = lock.first, 0, set(), []
    best, stuck = -1, None
    event = head.after
    while finite:
        if event is None or event.call is None:
            # An end is reached whose call fits nowhere (or only calls that need not have happened are left).
            if event is not None and len(stack) > best:
                best, stuck = len(stack), event.index
            if not stack:
                return _around(calls, stuck)
            event, state, done = stack.pop()
            if event.match:
                finite += 1
                _link(event.match)
            _link(event)
            event = event.after
            continue
        after = lock.step(state, event.call)
        if after is not None and (done | 1 << event.index, after) not in seen:
            seen.add((done | 1 << event.index, after))
            stack.append((event, state, done))
            state, done = after, done | 1 << event.index
            _unlink(event)
            if event.match:
                finite -= 1
                _unlink(event.match)
            event = head.after
        else:
            event = event.after
    return None


def _around(calls, index):
    if index is None:
        return calls[:10]
    middle = calls[index]
    return sorted((call for call in calls if call.start <= middle.end and call.end >= middle.start),
                  key=lambda call: call.start)


def pieces(calls):
    """Cuts a history where nothing is under way and nothing is held, so that each piece can be looked at by itself."""
    piece, open_until, held = [], -math.inf, set()
    for call in sorted(calls, key=lambda call: call.start):
        if piece and call.start > open_until and not held:
            yield piece
            piece = []
        piece.append(call)
        open_until = max(open_until, call.end)
        if call.kind == "take":
            held.add(call.hold)
        elif call.kind == "give":
            held.discard(call.hold)
    if piece:
        yield piece
