"""Locks for tasks of asyncio: `async with sidelock.aio.lock("orders") as lock:`. Losing the lock cancels the body."""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import weakref
from types import TracebackType
from typing import Any, AsyncIterator, Callable, Dict, Optional, Tuple, Type

from ._base import Attempt, BaseLock, milliseconds
from ._errors import Denied, Error, Lost, NotHeld, Unavailable
from ._machine import Holding, Machine, Request, absent, closed, initialization, socket_path

_tasks: "weakref.WeakKeyDictionary[Any, str]" = weakref.WeakKeyDictionary()
_numbers = itertools.count(1)
_clients: "weakref.WeakKeyDictionary[Any, Client]" = weakref.WeakKeyDictionary()


def _owner() -> str:
    task = asyncio.current_task()
    if task is None:
        return ""  # A callback of the loop, which holds nothing itself.
    if task not in _tasks:
        _tasks[task] = f"task-{next(_numbers)}"
    return _tasks[task]


class _Waiter(Request):
    ready: "asyncio.Event"
    is_unsent: bool


class Connection(asyncio.Protocol):
    """A transport and a machine, on one event loop."""

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.machine = Machine()
        self.loop = asyncio.get_running_loop()
        self.transport: Any = None
        self.timer: Optional[asyncio.TimerHandle] = None
        self.pid = os.getpid()
        self.closed = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.do(lambda machine: machine.feed(data))
        if self.machine.is_flooded:
            self.transport.abort()
        self.tick()

    def connection_lost(self, fault: Optional[Exception]) -> None:
        if self.timer is not None:
            self.timer.cancel()
        if self.pid == os.getpid():
            self.do(Machine.ended)
        self.closed.set()

    def tick(self) -> None:
        """Looks after how long holds are good, and comes again when it is time."""
        if self.timer is not None:
            self.timer.cancel()
        pause = self.do(Machine.tick)
        self.timer = None if pause is None else self.loop.call_later(min(pause, 3600), self.tick)

    def do(self, action: Callable[[Machine], Any]) -> Any:
        result = action(self.machine)
        outgoing, self.machine.outgoing = self.machine.outgoing, bytearray()
        if isinstance(result, _Waiter):
            result.is_unsent = self.transport.is_closing()
        if outgoing and not self.transport.is_closing():
            self.transport.write(bytes(outgoing))
            if isinstance(result, _Waiter):
                # The transport writes at once; it is closing when that failed.
                result.is_unsent = self.transport.is_closing()
        calls, self.machine.calls = self.machine.calls, []
        for call in calls:
            try:
                call()
            except Exception as fault:  # The user's own; nobody here could handle it.
                self.loop.call_exception_handler({"message": "a callback of sidelock failed", "exception": fault})
        return result

    def start(self, method: str, params: Dict[str, Any], **more: Any) -> _Waiter:
        ready = asyncio.Event()

        def begin(machine: Machine) -> _Waiter:
            request: _Waiter = machine.request(method, params, ready.set, kind=_Waiter, **more)
            request.ready = ready
            return request

        result: _Waiter = self.do(begin)
        return result

    async def _is_ready(self, request: _Waiter, limit: Optional[float]) -> bool:
        try:
            await asyncio.wait_for(request.ready.wait(), limit)
        except asyncio.TimeoutError:
            return request.is_answered
        return True

    async def finish(self, request: _Waiter, wait: Optional[float] = 0.0) -> Any:
        limit = None if wait is None else wait + self.patience
        try:
            while not await self._is_ready(request, limit):
                if not await self._is_ready(self.start("ping", {}), self.patience) and not request.is_answered:
                    raise Unavailable("the daemon does not answer; it may hang", "no_answer")
                limit = self.patience
        except BaseException:
            self.do(lambda machine: machine.abandon(request))
            raise
        if request.error is not None:
            raise request.error
        return request.result

    async def call(self, method: str, params: Dict[str, Any], **more: Any) -> Any:
        return await self.finish(self.start(method, params, **more))

    async def close(self) -> None:
        self.transport.abort()
        await self.closed.wait()


class Client:
    """A connection that all tasks of one event loop share."""

    def __init__(self, path: Optional[str] = None, *, patience: float = 5.0) -> None:
        self.path, self.patience = path, patience
        self._mutex: Optional[asyncio.Lock] = None
        self._connection: Optional[Connection] = None
        self._accept: Optional[Callable[[Lock], Any]] = None

    async def _connected(self) -> Connection:
        if self._connection is not None and self._connection.pid != os.getpid():
            # In a forked child the connection is the parent's, which goes on using it.
            _forget(self._connection)
            self._connection, self._mutex = None, None
        if self._mutex is None:
            self._mutex = asyncio.Lock()
        async with self._mutex:
            connection = self._connection
            if connection is None or connection.machine.has_ended or connection.transport.is_closing():
                connection = await self._connect()
                self._connection = connection
            return connection

    async def _connect(self) -> Connection:
        path = socket_path(self.path)
        loop = asyncio.get_running_loop()
        try:
            _, connection = await asyncio.wait_for(
                loop.create_unix_connection(functools.partial(Connection, self.patience), path), self.patience)
        except PermissionError:
            raise Denied(closed(path), "permission") from None
        except asyncio.TimeoutError:
            raise Unavailable(f"the daemon at {path} does not take connections; it may hang", "no_answer") from None
        except (OSError, ValueError) as fault:
            raise Unavailable(absent(path, fault), "no_daemon") from None
        params = initialization(self._accept is not None)
        if self._accept is not None:
            connection.machine.on_transferred = functools.partial(self._transferred, connection)
        try:
            try:
                await connection.call("initialize", params)
            except Error as fault:
                if fault.data.get("field") != "lifetime":
                    raise
                # The daemon cannot see this process, as from a container.
                del params["lifetime"]
                await connection.call("initialize", params)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _start(self, method: str, params: Dict[str, Any], **more: Any) -> Tuple[Connection, _Waiter]:
        connection = await self._connected()
        request = connection.start(method, params, **more)
        if request.is_unsent:
            connection = await self._connected()
            request = connection.start(method, params, **more)
        return connection, request

    async def call(self, method: str, **params: Any) -> Any:
        """Any method of the protocol, and its result."""
        connection, request = await self._start(method, params)
        return await connection.finish(request)

    def lock(self, *names: str, wait: Optional[float] = None, **options: Any) -> "Lock":
        """A lock for `async with`, or to be acquired and released. See :func:`sidelock.lock`."""
        return Lock(self, names, wait, **options)

    def watch(self, name: Optional[str] = None, *, prefix: Optional[str] = None) -> "Watch":
        """What happens to a lock, or to all whose name begins alike: `async with client.watch("orders") as events:`."""
        return Watch(self, {"name": name} if name is not None else {"prefix": prefix or ""})

    async def session(self) -> str:
        """The daemon's name for this client; others transfer locks to it."""
        return (await self._connected()).machine.session

    async def accept_transfers(self, callback: "Callable[[Lock], Any]") -> None:
        """From now on others may hand over locks; the callback gets each, held."""
        self._accept = callback
        connection = await self._connected()
        connection.machine.on_transferred = functools.partial(self._transferred, connection)
        await connection.call("initialize", {"accept_transfers": True})

    def _transferred(self, connection: Connection, holding: Holding) -> None:
        lock = Lock(self, holding.names)
        holding.connection = connection
        holding.on_lost = lambda loss: lock.on_lost(loss) if lock.on_lost else None
        lock._holdings.append(holding)
        if self._accept is not None:
            self._accept(lock)
        connection.tick()

    async def close(self) -> None:
        """Gives everything back. The client may be used again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self.close()


def _forget(connection: Connection) -> None:
    descriptor = connection.transport.get_extra_info("socket")
    if descriptor is not None and descriptor.fileno() >= 0:
        os.close(descriptor.fileno())
    connection.machine.ended()
    connection.machine.calls.clear()


class Lock(BaseLock):
    """A lock for tasks. `cancel_on_loss`: whether losing it cancels the body of `async with`; it does unless told."""

    def __init__(
        self, client: Client, names: Any, wait: Optional[float] = None, *, cancel_on_loss: bool = True, **options: Any,
    ) -> None:
        super().__init__(tuple(names), wait, **options)
        self._client, self._cancel_on_loss = client, cancel_on_loss

    def _asking(self) -> Optional[str]:
        return _owner()

    def _confirm(self, holding: Holding) -> None:
        holding.connection.tick()  # It asks; the answer comes when the caller waits for something.

    async def acquire(self, wait: Any = BaseLock) -> "Lock":
        """Takes the lock, and gives itself."""
        await self._acquire(wait)
        return self

    async def _acquire(self, wait: Any = BaseLock) -> Holding:
        wait = self.wait if wait is BaseLock else wait
        holding, params = self._wish(wait)
        attempt = Attempt()
        self._attempts.append(attempt)
        try:
            connection, request = await self._client._start("acquire", params, holding=holding)
            holding.connection = connection
            self._sent(attempt, connection, request)
            await connection.finish(request, wait)
        finally:
            self._attempts.remove(attempt)
        self._holdings.append(holding)
        return holding

    async def release(self) -> None:
        """Gives the lock back. Raises :class:`Lost` if it was lost before."""
        holding = self._current()
        self._drop(holding)
        await self._release(holding)

    async def _release(self, holding: Holding) -> None:
        connection: Connection = holding.connection
        requests = [connection.start("release", {"name": name, "token": token}, holding=holding)
                    for name, token in list(holding.tokens.items()) if not connection.machine.has_ended]
        failure: Optional[Error] = None
        for request in requests:
            try:
                await connection.finish(request)
            except Error as fault:
                failure = failure or fault
        connection.machine.drop(holding)
        if holding.loss is not None:
            raise Lost(holding.loss)
        if failure is not None and failure.reason == "lost":
            raise Lost(holding.loss_of(failure)) from None
        if failure is not None:
            raise failure

    async def downgrade(self) -> None:
        """Shares from now on what was held alone."""
        await self._of_one("downgrade")
        self._current().mode = "shared"

    async def extend(self, max_hold: Optional[float]) -> None:
        """Sets anew after how many seconds from now the hold ends; None: it does not."""
        await self._of_one("extend", max_hold_ms=None if max_hold is None else max(1, milliseconds(max_hold)))

    async def transfer(self, session: str) -> None:
        """Hands the lock to another session of this host, which must have asked for it."""
        holding = self._current()
        name, token = await self._of_one("transfer", session=session)
        holding.connection.machine.drop(holding)
        self._drop(holding)

    async def _of_one(self, method: str, **more: Any) -> Any:
        self.check()
        holding = self._current()
        if len(self.names) != 1:
            raise Error(f"{method} is for one lock at a time", "invalid_params")
        name, token = next(iter(holding.tokens.items()))
        try:
            await holding.connection.call(method, {"name": name, "token": token, **more})
        except Error as fault:
            if holding.loss is not None:
                raise Lost(holding.loss) from None
            raise fault
        return name, token

    async def __aenter__(self) -> "Lock":
        holding = await self._acquire()
        task = asyncio.current_task()
        if self._cancel_on_loss and task is not None:
            cancel = task.cancel
            holding.lose_scope = cancel
            if holding.loss is not None:
                cancel()  # It is lost already; the body is cancelled where it waits first.
        return self

    async def __aexit__(
        self, kind: Optional[Type[BaseException]], fault: Optional[BaseException], trace: Optional[TracebackType],
    ) -> None:
        try:
            holding = self._current()
        except NotHeld:
            return  # The body has released it itself, or handed it on.
        has_cancelled = holding.lose_scope is not None and holding.loss is not None
        holding.lose_scope = None
        self._drop(holding)
        task: Any = asyncio.current_task()
        if has_cancelled and hasattr(task, "uncancel"):
            task.uncancel()
        is_ours = has_cancelled and kind is asyncio.CancelledError and not (
            hasattr(task, "cancelling") and task.cancelling())
        try:
            await self._release(holding)
        except Error:
            # What went wrong in the body is worth more than what followed from it.
            if kind is None or is_ours:
                raise


class Watch:
    """Events of a watch, one after the other; the last one has the kind `ended`."""

    def __init__(self, client: Client, params: Dict[str, Any]) -> None:
        self._client, self._params = client, params
        self._events: "asyncio.Queue[Optional[Dict[str, Any]]]" = asyncio.Queue()
        self._connection: Optional[Connection] = None
        self._number = 0

    async def __aenter__(self) -> "Watch":
        connection, request = await self._client._start("watch", self._params, on_event=self._events.put_nowait)
        self._number = (await connection.finish(request))["watch"]
        self._connection = connection
        return self

    async def __aiter__(self) -> AsyncIterator[Dict[str, Any]]:
        while True:
            event = await self._events.get()
            if event is None:
                return
            yield event
            if event.get("kind") == "ended":
                return

    async def __aexit__(self, *_: Any) -> None:
        connection = self._connection
        if connection is not None and connection.machine.watches.pop(self._number, None) is not None:
            self._events.put_nowait(None)
            await connection.call("unwatch", {"watch": self._number})


def client() -> Client:
    """The client of this event loop."""
    loop = asyncio.get_running_loop()
    if loop not in _clients:
        _clients[loop] = Client()
    return _clients[loop]


def lock(*names: str, wait: Optional[float] = None, **options: Any) -> Lock:
    """A lock for `async with`. The options are those of :func:`sidelock.lock`, and `cancel_on_loss`."""
    return client().lock(*names, wait=wait, **options)


def watch(name: Optional[str] = None, *, prefix: Optional[str] = None) -> Watch:
    """What happens to a lock, or to all whose name begins alike."""
    return client().watch(name, prefix=prefix)
