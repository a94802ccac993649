"""What other libraries look like: redis-py's Lock, filelock's FileLock, and a decorator for jobs that run once at a time."""

from __future__ import annotations

import functools
import itertools
import os
import sys
import threading
from typing import Any, Callable, Dict, Optional, Type, TypeVar, Union, cast

from ._errors import Busy, Error, Lost, NotHeld, Timeout
from ._machine import now
from ._sync import Client, _owner
from ._sync import Lock as ThreadLock

Function = TypeVar("Function", bound=Callable[..., Any])


def _client(given: Optional[Client]) -> Client:
    from . import client
    return given or client()


class LockError(Error):
    """What redis-py calls a LockError."""


class LockNotOwnedError(LockError):
    """The lock is not held any more."""


_kinds: Dict[str, Type[Error]] = {}


def _fault(kind: Type[Error], message: str) -> Error:
    """An error that is one of redis-py's, too, where the program uses redis-py, and so catches those."""
    theirs = getattr(sys.modules.get("redis.exceptions"), kind.__name__, None)
    if theirs is not None and kind.__name__ not in _kinds:
        _kinds[kind.__name__] = type(kind.__name__, (kind, theirs), {})
    return _kinds.get(kind.__name__, kind)(message)


class Lock:
    """redis-py's Lock: `timeout` is after how many seconds the hold ends, `blocking_timeout` for how long to wait."""

    def __init__(
        self, name: str, timeout: Optional[float] = None, sleep: float = 0.1, blocking: bool = True,
        blocking_timeout: Optional[float] = None, thread_local: bool = True, raise_on_release_error: bool = True, *,
        client: Optional[Client] = None,
    ) -> None:
        # 0 is no time, as there.
        self.name, self.timeout, self.sleep = name, timeout or None, sleep
        self.blocking, self.blocking_timeout, self.thread_local = blocking, blocking_timeout, thread_local
        self.raise_on_release_error = raise_on_release_error
        self._client = _client(client)
        self.local: Any = threading.local() if thread_local else type("dummy", (), {})()
        self.local.lock = None
        self.local.ends = 0.0

    @property
    def _lock(self) -> Optional[ThreadLock]:
        return cast(Optional[ThreadLock], getattr(self.local, "lock", None))

    def acquire(
        self, sleep: Optional[float] = None, blocking: Optional[bool] = None, blocking_timeout: Optional[float] = None,
        token: Any = None,
    ) -> bool:
        """Whether the lock could be had. `sleep` and `token` are taken, and not needed."""
        blocking = self.blocking if blocking is None else blocking
        limit = self.blocking_timeout if blocking_timeout is None else blocking_timeout
        # Without an owner, as with Redis: who has it already waits for himself.
        lock = self._client.lock(self.name, wait=limit if blocking else 0, max_hold=self.timeout, owner=None)
        try:
            lock.acquire()
        except (Busy, Timeout):
            return False
        self.local.lock, self.local.ends = lock, now() + (self.timeout or 0)
        return True

    def locked(self) -> bool:
        """Whether anybody holds it."""
        return bool(self._client.call("inspect", name=self.name)["holders"])

    def owned(self) -> bool:
        """Whether this object holds it."""
        return self._lock is not None and self._lock.held

    @property
    def token(self) -> int:
        """The fencing token, which redis-py does not have."""
        return self._held().token

    def _held(self) -> ThreadLock:
        lock = self._lock
        if lock is None:
            raise _fault(LockError, "Cannot use an unlocked lock")
        return lock

    def release(self) -> None:
        lock = self._lock
        if lock is None:
            raise _fault(LockError, "Cannot release an unlocked lock")
        self.local.lock = None
        try:
            lock.release()
        except (Lost, NotHeld) as fault:
            raise _fault(LockNotOwnedError, f"Cannot release a lock that's no longer owned: {fault}") from fault

    def extend(self, additional_time: float, replace_ttl: bool = False) -> bool:
        """The hold ends `additional_time` seconds later than it would have, or from now with `replace_ttl`."""
        lock = self._held()
        if self.timeout is None:
            raise _fault(LockError, "Cannot extend a lock with no timeout")
        ends = (now() if replace_ttl else max(self.local.ends, now())) + additional_time
        try:
            lock.extend(ends - now())
        except (Lost, NotHeld) as fault:
            raise _fault(LockNotOwnedError, f"Cannot extend a lock that's no longer owned: {fault}") from fault
        self.local.ends = ends
        return True

    def reacquire(self) -> bool:
        """The hold ends `timeout` seconds from now."""
        if self.timeout is None:
            raise _fault(LockError, "Cannot reacquire a lock with no timeout")
        return self.extend(self.timeout, replace_ttl=True)

    def __enter__(self) -> "Lock":
        if not self.acquire():
            raise _fault(LockError, "Unable to acquire lock within the time specified")
        return self

    def __exit__(self, *_: Any) -> None:
        try:
            self.release()
        except LockError:
            if self.raise_on_release_error:
                raise


class FileLock:
    """filelock's FileLock: the lock is called as the file, whose folder need not be there. Over hosts, too. Each thread has its
    own hold and count, unless `thread_local=False`: then all that use the object share one."""

    _objects = itertools.count(1)

    def __init__(
        self, lock_file: Union[str, "os.PathLike[str]"], timeout: float = -1, mode: int = 0o644, thread_local: bool = True, *,
        blocking: bool = True, is_singleton: bool = False, client: Optional[Client] = None, **_: Any,
    ) -> None:
        self.lock_file, self.timeout, self.blocking = os.fspath(lock_file), timeout, blocking
        self._client = _client(client)
        self._name = os.path.abspath(self.lock_file)
        # What filelock has as one object per path is here one owner; of others each has a number that none had before.
        self._owner = f"file-{'one' if is_singleton else next(FileLock._objects)}"
        self._thread_local = thread_local
        self._mutex = threading.Lock()
        self._local: Any = threading.local() if thread_local else type("dummy", (), {})()

    @property
    def _lock(self) -> ThreadLock:
        with self._mutex:
            if not hasattr(self._local, "lock"):
                owner = f"{self._owner}-{_owner()}" if self._thread_local else self._owner
                self._local.lock = self._client.lock(self._name, owner=owner)
            return cast(ThreadLock, self._local.lock)

    @property
    def lock_counter(self) -> int:
        return cast(int, getattr(self._local, "counter", 0))

    def _count(self, change: int) -> None:
        with self._mutex:
            self._local.counter = self.lock_counter + change

    @property
    def is_locked(self) -> bool:
        return self.lock_counter > 0 and self._lock.held

    def acquire(
        self, timeout: Optional[float] = None, poll_interval: float = 0.05, *, blocking: Optional[bool] = None, **_: Any,
    ) -> Any:
        limit = self.timeout if timeout is None else timeout
        blocking = self.blocking if blocking is None else blocking
        try:
            self._lock.acquire(0 if not blocking else None if limit < 0 else limit)
        except Busy as fault:
            raise Timeout(str(fault), "timeout", fault.data) from None
        self._count(1)
        return _Proxy(self)

    def release(self, force: bool = False) -> None:
        while self.lock_counter > 0:
            self._count(-1)
            self._lock.release()
            if not force:
                return

    def __enter__(self) -> "FileLock":
        self.acquire()
        return self

    def __exit__(self, *_: Any) -> None:
        self.release()


class _Proxy:
    """What `with lock.acquire():` needs."""

    def __init__(self, lock: FileLock) -> None:
        self.lock = lock

    def __enter__(self) -> FileLock:
        return self.lock

    def __exit__(self, *_: Any) -> None:
        self.lock.release()


def single_run(
    name: Optional[str] = None, wait: Optional[float] = 0, *, skipped: Any = None, client: Optional[Client] = None,
    **options: Any,
) -> Callable[[Function], Function]:
    """A decorator: of all processes and hosts one runs the function at a time. Where another one does, `skipped` is given
    instead; with wait=None it waits. Put it below `@app.task`. The name may use the arguments: "report-{0}", "{user}"."""
    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def run(*arguments: Any, **named: Any) -> Any:
            full = (name or f"{function.__module__}.{function.__qualname__}").format(*arguments, **named)
            lock = _client(client).lock(full, wait=wait, **options)
            try:
                lock.acquire()
            except (Busy, Timeout):
                return skipped
            with _Entered(lock):
                return function(*arguments, **named)
        return cast(Function, run)
    return decorate


class _Entered:
    def __init__(self, lock: ThreadLock) -> None:
        self.lock = lock

    def __enter__(self) -> ThreadLock:
        return self.lock

    def __exit__(self, *exit: Any) -> None:
        self.lock.__exit__(*exit)
