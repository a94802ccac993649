"""Errors as types."""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional


class Loss(NamedTuple):
    """How a hold ended without a release."""

    name: str
    token: int
    #: `lease_expired`, `broken`, `max_hold`, `shutdown`, `data_loss`, …; `connection_ended` when the daemon has gone.
    reason: str
    #: For so many milliseconds from then on nobody else could be granted the lock.
    grace_ms: int = 0
    detail: Optional[str] = None


class Error(Exception):
    """Whatever goes wrong with a lock. `reason` is the stable name of errors.json, or one that this client found."""

    def __init__(self, message: str, reason: str = "", data: Optional[Dict[str, Any]] = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.data: Dict[str, Any] = data or {}

    @property
    def holders(self) -> List[Dict[str, Any]]:
        """Who has the lock, as far as the daemon tells."""
        holders = self.data.get("holders")
        return holders if isinstance(holders, list) else []


class Busy(Error):
    """A try met a lock in use."""


class Timeout(Error, TimeoutError):
    """The lock did not become free in time."""


class Cancelled(Error):
    """The wait was withdrawn."""


class NotHeld(Error):
    """The lock is not held."""


class Denied(Error):
    """The rules, or the permissions of the socket, keep this program out."""


class Unavailable(Error):
    """Redis or the daemon cannot be reached now. The same call may succeed later."""


class Deadlock(Error):
    """The wait would never have ended, because owners wait for each other."""

    @property
    def cycle(self) -> List[Dict[str, Any]]:
        """The waits of the circle, this one first."""
        cycle = self.data.get("cycle")
        return cycle if isinstance(cycle, list) else []


class UnderReplicated(Error):
    """Too few replicas of Redis had the lease in time, so the lock was given back."""

    @property
    def acknowledged(self) -> int:
        """How many had it; 0 also where the daemon does not tell."""
        count = self.data.get("acknowledged")
        return count if isinstance(count, int) else 0


class Lost(Error):
    """The lock was lost: stop what it guarded. `loss` says how."""

    def __init__(self, loss: Loss) -> None:
        super().__init__(f"lock {loss.name} is lost: {loss.detail or loss.reason}", "lost", {"lost": loss.reason})
        self.loss = loss


_TYPES = {
    "busy": Busy, "timeout": Timeout, "cancelled": Cancelled, "not_held": NotHeld, "denied": Denied, "permission": Denied,
    "unavailable": Unavailable, "shutting_down": Unavailable, "no_daemon": Unavailable, "no_answer": Unavailable,
    "connection_lost": Unavailable, "deadlock": Deadlock, "under_replicated": UnderReplicated,
}


def error(reason: str, message: str, data: Optional[Dict[str, Any]] = None) -> Error:
    """The error of a reason."""
    return _TYPES.get(reason, Error)(message, reason, data)


def refusal(reply: Any) -> Error:
    """The error that the `error` member of a reply describes."""
    reply = reply if isinstance(reply, dict) else {}
    data = reply.get("data")
    data = data if isinstance(data, dict) else {}
    message, detail = str(reply.get("message", "the daemon gave no message")), data.get("detail")
    return error(str(data.get("reason", "")), f"{message}: {detail}" if detail else message, data)
