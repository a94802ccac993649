"""Locks over processes and hosts, from the sidelockd of this host.

    with sidelock.lock("orders", wait=5) as lock:
        write(lock.token)
"""

from __future__ import annotations

from typing import Any, Optional

from ._base import BaseLock
from ._errors import Busy, Cancelled, Deadlock, Denied, Error, Loss, Lost, NotHeld, Timeout, Unavailable, UnderReplicated
from ._sync import Client, Watch
from ._sync import Lock as ThreadLock
from . import aio
from .bindings import FileLock, Lock, LockError, LockNotOwnedError, single_run

__all__ = [
    "BaseLock", "Busy", "Cancelled", "Client", "Deadlock", "Denied", "Error", "FileLock", "Lock", "LockError",
    "LockNotOwnedError", "Loss", "Lost", "NotHeld", "ThreadLock", "Timeout", "Unavailable", "UnderReplicated", "Watch", "aio",
    "client", "lock", "single_run", "watch",
]

_client = Client()


def client() -> Client:
    """The client that the functions of this module use: one connection for all threads."""
    return _client


def lock(*names: str, wait: Optional[float] = None, **options: Any) -> ThreadLock:
    """A lock, or several that are taken all or none, for `with`; or to be acquired and released.

    `wait`: for how many seconds to wait; None: without limit; 0: a try. Options: `shared=True`; `permits=N` for a
    semaphore of N; `max_hold`: seconds after which the hold ends; `meta`: a note that others see; `owner`: who asks, the
    thread unless told, None for nobody, who waits for himself; `enforce`: "terminate" or "kill" this process when the lock
    is lost; `on_lost`, `on_waiting`, `on_contended`: called in the thread that reads, which they must not keep; `replicas`:
    how many replicas of Redis have to have the lease, else :class:`UnderReplicated`; `durability`: "memory", or "disk" for
    the primary and those replicas to have it there; None: as the daemon's settings say.
    """
    return _client.lock(*names, wait=wait, **options)


def watch(name: Optional[str] = None, *, prefix: Optional[str] = None) -> Watch:
    """What happens to a lock, or to all whose name begins alike, as an iterator of events."""
    return _client.watch(name, prefix=prefix)
