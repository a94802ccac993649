"""What locks of threads and of tasks have in common."""

from __future__ import annotations

import functools
import threading
from typing import Any, Callable, Dict, List, Optional, Tuple

from ._errors import Lost, NotHeld, Unavailable
from ._machine import Holding, Machine

#: The owner is the thread or the task that asks.
OWN = "<own>"


def milliseconds(seconds: float) -> int:
    """Rounded up, so that a short wait is no try."""
    return max(0, -int(-seconds * 1000 // 1))


class Attempt:
    """An acquire that is under way; it can be cancelled also before its request is sent."""

    def __init__(self) -> None:
        self.connection: Any = None
        self.request: Any = None
        self.is_cancelled = False


class BaseLock:
    """A name, or several, and how to hold it. One object may be used by many threads or tasks; each sees its own hold."""

    def __init__(
        self, names: Tuple[str, ...], wait: Optional[float] = None, *, shared: bool = False,
        permits: Optional[int] = None, max_hold: Optional[float] = None, owner: Optional[str] = OWN,
        meta: Optional[str] = None, enforce: Optional[str] = None,
        on_lost: Optional[Callable[..., Any]] = None, on_waiting: Optional[Callable[..., Any]] = None,
        on_contended: Optional[Callable[..., Any]] = None, replicas: Optional[int] = None, durability: Optional[str] = None,
    ) -> None:
        if not names:
            raise TypeError("a lock has a name")
        self.names, self.wait, self.owner = names, wait, owner
        self.on_lost, self.on_waiting, self.on_contended = on_lost, on_waiting, on_contended
        self._params: Dict[str, Any] = {"name": names[0]} if len(names) == 1 else {"names": list(names)}
        if shared:
            self._params["mode"] = "shared"
        for key, value in (("permits", permits), ("meta", meta), ("on_lost", enforce), ("replicas", replicas),
                           ("durability", durability)):
            if value is not None:
                self._params[key] = value
        if max_hold is not None:
            self._params["max_hold_ms"] = max(1, milliseconds(max_hold))
        if on_waiting is not None or on_contended is not None:
            self._params["progress"] = True
        self._holdings: List[Holding] = []
        self._attempts: List[Attempt] = []
        self._mutex = threading.Lock()

    def _asking(self) -> Optional[str]:
        raise NotImplementedError

    def _wish(self, wait: Optional[float]) -> Tuple[Holding, Dict[str, Any]]:
        """What to ask for, by whom."""
        owner = self._asking() if self.owner is OWN else self.owner
        params = dict(self._params)
        if wait is not None:
            params["wait_ms"] = milliseconds(wait)
        if owner is not None:
            params["owner"] = owner
        return Holding(self.names, owner, self.on_lost, self.on_waiting, self.on_contended), params

    def _sent(self, attempt: Attempt, connection: Any, request: Any) -> None:
        """The request is on its way: what was cancelled before is withdrawn now."""
        with self._mutex:
            attempt.connection, attempt.request = connection, request
            is_cancelled = attempt.is_cancelled
        if is_cancelled:
            connection.do(functools.partial(Machine.withdraw, request=request))

    def cancel(self) -> None:
        """Withdraws the waits for this lock, which raise :class:`Cancelled`. What is granted meanwhile is given back."""
        for attempt in list(self._attempts):
            with self._mutex:
                attempt.is_cancelled = True
                connection, request = attempt.connection, attempt.request
            if request is not None:
                connection.do(functools.partial(Machine.withdraw, request=request))

    def _current(self) -> Holding:
        """The hold that the caller means: its own last one, else the last one of all."""
        asking, holdings = self._asking(), list(self._holdings)
        for holding in reversed(holdings):
            if holding.owner == asking:
                return holding
        if not holdings:
            raise NotHeld(f"lock {self.names[0]} is not held here", "not_held")
        return holdings[-1]

    def _confirm(self, holding: Holding) -> None:
        """Asks the daemon anew whether a hold is good whose time is over."""
        raise NotImplementedError

    def _looked_at(self) -> Holding:
        """The hold that the caller means; where its time is over, when the daemon was asked."""
        holding = self._current()
        if holding.is_over():
            self._confirm(holding)
        return holding

    def _drop(self, holding: Holding) -> None:
        if holding in self._holdings:
            self._holdings.remove(holding)

    def check(self) -> None:
        """Raises :class:`Lost` if the lock was lost, :class:`NotHeld` if it is not held, and :class:`Unavailable` where its time
        is over and the daemon has not said yet that it is still held."""
        holding = self._looked_at()
        if holding.loss is not None:
            raise Lost(holding.loss)
        if holding.is_over():
            raise Unavailable(f"the time of lock {self.names[0]} is over, and the daemon has not said yet that it is still held",
                              "no_answer")

    @property
    def token(self) -> int:
        """The fencing token: send it along with every write. Raises as :meth:`check` does."""
        return self.tokens[self.names[0]]

    @property
    def tokens(self) -> Dict[str, int]:
        """The token of each name."""
        self.check()
        return dict(self._current().tokens)

    @property
    def mode(self) -> str:
        """`exclusive`, `shared` or `permit`."""
        return self._current().mode

    @property
    def held(self) -> bool:
        """Whether the caller holds the lock, as far as it has been told; no longer than it is good without an answer of the daemon."""
        try:
            holding = self._looked_at()
        except NotHeld:
            return False
        return holding.state == "held" and not holding.is_over()

    @property
    def loss(self) -> Any:
        """How the lock was lost; None if it was not."""
        try:
            return self._current().loss
        except NotHeld:
            return None

    @property
    def valid(self) -> Optional[float]:
        """For how many seconds from now the hold is good for certain, by this process' own clock; None: it does not end by
        itself."""
        try:
            return self._current().valid()
        except NotHeld:
            return 0.0

    def __repr__(self) -> str:
        is_held = any(holding.state == "held" and not holding.is_over() for holding in list(self._holdings))
        return f"<sidelock lock {'+'.join(self.names)}{' held' if is_held else ''}>"
