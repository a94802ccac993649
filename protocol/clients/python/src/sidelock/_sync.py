"""Locks for threads: one connection, one thread that reads it."""

from __future__ import annotations

import functools
import itertools
import os
import queue
import select
import socket
import sys
import threading
import weakref
from types import TracebackType
from typing import Any, Callable, Dict, Iterator, Optional, Type, cast

from ._base import Attempt, BaseLock, milliseconds
from ._errors import Denied, Error, Lost, NotHeld, Unavailable
from ._machine import Holding, Machine, Request, absent, closed, initialization, socket_path

_thread = threading.local()
_threads = itertools.count(1)
_clients: "weakref.WeakSet[Client]" = weakref.WeakSet()


def _owner() -> str:
    """The name of this thread, which no other thread of this process has or had."""
    if not hasattr(_thread, "name"):
        _thread.name = f"thread-{next(_threads)}"
    return str(_thread.name)


class _Ready:
    """An event for one thread that waits. That of `threading` is left locked where a handler of a signal raises at a bad moment, and
    then keeps the thread that sets it for ever."""

    def __init__(self) -> None:
        self._is_set = False
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        if not self._is_set:
            self._is_set = True
            self._lock.release()

    def wait(self, limit: Optional[float] = None) -> bool:
        if not self._is_set:
            self._lock.acquire(timeout=-1 if limit is None else min(max(0.0, limit), threading.TIMEOUT_MAX))
        return self._is_set


class _Waiter(Request):
    ready: _Ready
    #: The daemon had closed the connection before, so that it has not seen the request.
    is_unsent: bool


class Connection:
    """A socket, a machine, and the thread that reads."""

    def __init__(self, path: str, patience: float) -> None:
        self.patience = patience
        self.machine = Machine()
        self.mutex = threading.Lock()
        # CPython opens both with close-on-exec.
        self.socket = socket.socket(socket.AF_UNIX)
        try:
            self.socket.settimeout(patience)
            self.socket.connect(path)
            self.socket.setblocking(False)
        except PermissionError:
            self.socket.close()
            raise Denied(closed(path), "permission") from None
        except (socket.timeout, BlockingIOError):
            self.socket.close()
            raise Unavailable(f"the daemon at {path} does not take connections; it may hang", "no_answer") from None
        except (OSError, ValueError) as fault:
            self.socket.close()
            raise Unavailable(absent(path, fault), "no_daemon") from None
        self.wake_out, self.wake_in = os.pipe()
        os.set_blocking(self.wake_in, False)
        self.is_closing = False
        self.is_broken = False
        self.reader = threading.Thread(target=self._run, name="sidelock", daemon=True)
        self.reader.start()

    def _flush(self) -> None:
        """Sends what can be sent now; with the mutex held."""
        outgoing = self.machine.outgoing
        while outgoing and not self.is_broken:
            sent = [0]
            try:
                # In one call: a handler of a signal, as that of Ctrl-C, may raise behind it, and what was sent has to be known.
                sent.extend(map(self.socket.send, (outgoing,), (socket.MSG_NOSIGNAL,)))
            except BlockingIOError:
                try:
                    os.write(self.wake_in, b"!")  # The reader goes on as soon as there is room.
                except BlockingIOError:
                    pass
                return
            except OSError:
                self.is_broken = True  # What the daemon said before it closed the connection can still be read.
            finally:
                del outgoing[:sent[-1]]  # Without a call: behind one the next handler is called.

    def do(self, action: Callable[[Machine], Any]) -> Any:
        """Has the machine do something, and sends what it says."""
        with self.mutex:
            result = action(self.machine)
            self._flush()
            if isinstance(result, _Waiter):
                result.is_unsent = self.is_broken and bool(self.machine.outgoing)
            calls, self.machine.calls = self.machine.calls, []
        for call in calls:
            try:
                call()
            except Exception:  # The user's own; nobody here could handle it.
                threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))
        return result

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self.wake_out, select.POLLIN)
        pause: Optional[float] = None
        while not self.is_closing:
            wish = select.POLLIN | (select.POLLOUT if self.machine.outgoing and not self.is_broken else 0)
            poll.register(self.socket, wish)
            ready = dict(poll.poll(None if pause is None else min(pause, 3600) * 1000 + 1))
            if self.is_closing:
                break
            if self.wake_out in ready:
                os.read(self.wake_out, 4096)
            data: Optional[bytes] = None
            if ready.get(self.socket.fileno(), 0) & ~select.POLLOUT:
                try:
                    data = self.socket.recv(65536)
                except BlockingIOError:
                    pass
                except OSError:
                    data = b""
            if data == b"":
                break
            pause = self.do(lambda machine: self._turn(machine, data))
            if self.machine.is_flooded:
                break
        self.do(Machine.ended)
        with self.mutex:
            self.is_broken = True
            self.socket.close()
            os.close(self.wake_out)
            os.close(self.wake_in)

    @staticmethod
    def _turn(machine: Machine, data: Optional[bytes]) -> Optional[float]:
        if data:
            machine.feed(data)
        return machine.tick()

    def start(self, method: str, params: Dict[str, Any], **more: Any) -> "_Waiter":
        """Sends a request."""
        ready = _Ready()
        if method == "acquire" and more.get("holding") is not None:
            more["holding"].connection = self

        def begin(machine: Machine) -> _Waiter:
            request: _Waiter = machine.request(method, params, ready.set, kind=_Waiter, **more)
            request.ready = ready
            return request

        return cast(_Waiter, self.do(begin))

    def confirm(self, holding: Holding) -> None:
        """Of a hold whose time is over: waits until the daemon has said how long it is good, or it is lost. Not in a callback, for
        which nothing is read."""
        if threading.current_thread() is self.reader:
            return
        self.do(Machine.tick)
        self.start("ping", {}).ready.wait(holding.answer_time())
        self.do(Machine.tick)

    def is_alive(self) -> bool:
        """Whether the daemon answers; it answers a ping at once."""
        return self.start("ping", {}).ready.wait(self.patience)

    def finish(self, request: "_Waiter", wait: Optional[float] = 0.0) -> Any:
        """The result of a request that may take `wait` and what the daemon needs to answer."""
        limit = None if wait is None else wait + self.patience
        try:
            while not request.ready.wait(limit):
                # `wait_ms` has long passed; a daemon that waits for Redis is waited for, one that hangs is not.
                if not self.is_alive() and not request.is_answered:
                    raise Unavailable("the daemon does not answer; it may hang", "no_answer")
                limit = self.patience
        except BaseException:
            self.do(lambda machine: machine.abandon(request))
            raise
        if request.error is not None:
            raise request.error
        return request.result

    def call(self, method: str, params: Dict[str, Any], **more: Any) -> Any:
        return self.finish(self.start(method, params, **more))

    def initialize(self, accepts: bool) -> None:
        params = initialization(accepts)
        try:
            self.call("initialize", params)
        except Error as fault:
            if fault.data.get("field") != "lifetime":
                raise
            # The daemon cannot see this process, as from a container.
            del params["lifetime"]
            self.call("initialize", params)

    def close(self) -> None:
        with self.mutex:
            self.is_closing = True
            if self.is_broken:
                return
            try:
                os.write(self.wake_in, b"!")
            except BlockingIOError:
                pass
        if threading.current_thread() is not self.reader:
            self.reader.join()

    def forget(self) -> None:
        """In a forked child: the connection is the parent's, which goes on using it."""
        if not self.is_broken:
            for descriptor in (self.socket.detach(), self.wake_in, self.wake_out):
                try:
                    os.close(descriptor)
                except OSError:
                    pass
        self.is_broken = self.is_closing = True
        self.mutex = threading.Lock()
        try:
            self.machine.ended()
        except RuntimeError:
            pass  # Another thread of the parent was in the middle of it.
        self.machine.outgoing.clear()
        self.machine.calls.clear()


class Client:
    """A connection that all threads share, made when it is needed, and again when it has ended."""

    def __init__(self, path: Optional[str] = None, *, patience: float = 5.0) -> None:
        """`patience`: for how many seconds the daemon may leave a request unanswered, beyond what was to be waited."""
        self.path, self.patience = path, patience
        self._mutex = threading.Lock()
        self._connection: Optional[Connection] = None
        self._accept: Optional[Callable[[Lock], Any]] = None
        _clients.add(self)

    def _connected(self) -> Connection:
        with self._mutex:
            connection = self._connection
            if connection is not None and connection.is_broken and not connection.is_closing:
                connection.reader.join(self.patience)  # It reads what the daemon said last.
            if connection is None or connection.is_broken or connection.machine.has_ended:
                connection = Connection(socket_path(self.path), self.patience)
                try:
                    if self._accept is not None:
                        connection.machine.on_transferred = functools.partial(self._transferred, connection)
                    connection.initialize(self._accept is not None)
                except BaseException:
                    connection.close()
                    raise
                self._connection = connection
            return connection

    def _start(self, method: str, params: Dict[str, Any], **more: Any) -> Any:
        """Sends a request, over a new connection where the daemon had closed the old one before; gives both."""
        connection = self._connected()
        request = connection.start(method, params, **more)
        if request.is_unsent:
            request.ready.wait(self.patience)
            connection = self._connected()
            request = connection.start(method, params, **more)
        return connection, request

    def call(self, method: str, **params: Any) -> Any:
        """Any method of the protocol, and its result."""
        connection, request = self._start(method, params)
        return connection.finish(request)

    def lock(self, *names: str, wait: Optional[float] = None, **options: Any) -> "Lock":
        """A lock for `with`, or to be acquired and released. See :func:`sidelock.lock`."""
        return Lock(self, names, wait, **options)

    def watch(self, name: Optional[str] = None, *, prefix: Optional[str] = None) -> "Watch":
        """What happens to a lock, or to all whose name begins alike, as an iterator of events."""
        return Watch(self, {"name": name} if name is not None else {"prefix": prefix or ""})

    @property
    def session(self) -> str:
        """The daemon's name for this client; others transfer locks to it."""
        return self._connected().machine.session

    def accept_transfers(self, callback: "Callable[[Lock], Any]") -> None:
        """From now on others may hand over locks; the callback gets each, held, in the thread that reads."""
        self._accept = callback
        connection = self._connected()
        connection.machine.on_transferred = functools.partial(self._transferred, connection)
        connection.call("initialize", {"accept_transfers": True})

    def _transferred(self, connection: Connection, holding: Holding) -> None:
        lock = Lock(self, holding.names)
        holding.connection = connection
        holding.on_lost = lambda loss: lock.on_lost(loss) if lock.on_lost else None
        lock._holdings.append(holding)
        if self._accept is not None:
            self._accept(lock)

    def close(self) -> None:
        """Gives everything back. The client may be used again."""
        with self._mutex:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _forked(self) -> None:
        self._mutex = threading.Lock()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.forget()


def _after_fork() -> None:
    for client in list(_clients):
        client._forked()


os.register_at_fork(after_in_child=_after_fork)


class Lock(BaseLock):
    """A lock for threads."""

    def __init__(self, client: Client, names: Any, wait: Optional[float] = None, **options: Any) -> None:
        super().__init__(tuple(names), wait, **options)
        self._client = client

    def _asking(self) -> Optional[str]:
        return _owner()

    def _confirm(self, holding: Holding) -> None:
        holding.connection.confirm(holding)

    def acquire(self, wait: Any = BaseLock) -> "Lock":
        """Takes the lock, and gives itself. `wait`: seconds; None: without limit; 0: a try; otherwise what the lock was made
        with."""
        wait = self.wait if wait is BaseLock else wait
        holding, params = self._wish(wait)
        try:
            return self._take(wait, holding, params)
        except BaseException:
            self._forgo(holding)
            raise

    def _take(self, wait: Optional[float], holding: Holding, params: Dict[str, Any]) -> "Lock":
        attempt = Attempt()
        self._attempts.append(attempt)
        try:
            connection, request = self._client._start("acquire", params, holding=holding)
            self._sent(attempt, connection, request)
            connection.finish(request, wait)
        finally:
            self._attempts.remove(attempt)
        self._holdings.append(holding)
        return self

    def _forgo(self, holding: Holding) -> None:
        """Gives up what was asked for: it failed, or a handler of a signal raised, as that of Ctrl-C, maybe behind the grant."""
        self._drop(holding)
        if holding.request is not None:
            holding.connection.do(lambda machine: machine.abandon(holding.request))

    def release(self) -> None:
        """Gives the lock back. Raises :class:`Lost` if it was lost before."""
        holding = self._current()
        self._drop(holding)
        self._release(holding)

    def _release(self, holding: Holding) -> None:
        connection = holding.connection
        requests = [connection.start("release", {"name": name, "token": token}, holding=holding)
                    for name, token in list(holding.tokens.items()) if not connection.machine.has_ended]
        failure: Optional[Error] = None
        for request in requests:
            try:
                connection.finish(request)
            except Error as fault:
                failure = failure or fault
        with connection.mutex:
            connection.machine.drop(holding)
        if holding.loss is not None:
            raise Lost(holding.loss)
        if failure is not None and failure.reason == "lost":
            raise Lost(holding.loss_of(failure)) from None
        if failure is not None:
            raise failure

    def downgrade(self) -> None:
        """Shares from now on what was held alone."""
        self._of_one("downgrade")
        self._current().mode = "shared"

    def extend(self, max_hold: Optional[float]) -> None:
        """Sets anew after how many seconds from now the hold ends; None: it does not."""
        self._of_one("extend", max_hold_ms=None if max_hold is None else max(1, milliseconds(max_hold)))

    def transfer(self, session: str) -> None:
        """Hands the lock to another session of this host, which must have asked for it."""
        holding = self._current()
        name, token = self._of_one("transfer", session=session)
        with holding.connection.mutex:
            holding.connection.machine.drop(holding)
        self._drop(holding)

    def _of_one(self, method: str, **more: Any) -> Any:
        self.check()
        holding = self._current()
        if len(self.names) != 1:
            raise Error(f"{method} is for one lock at a time", "invalid_params")
        name, token = next(iter(holding.tokens.items()))
        try:
            holding.connection.call(method, {"name": name, "token": token, **more})
        except Error as fault:
            if holding.loss is not None:
                raise Lost(holding.loss) from None
            raise fault
        return name, token

    def __enter__(self) -> "Lock":
        # Not by way of `acquire`: a handler of a signal may raise between its end and the body.
        holding, params = self._wish(self.wait)
        try:
            return self._take(self.wait, holding, params)
        except BaseException:
            self._forgo(holding)
            raise

    def __exit__(
        self, kind: Optional[Type[BaseException]], fault: Optional[BaseException], trace: Optional[TracebackType],
    ) -> None:
        try:
            holding = self._current()
        except NotHeld:
            return  # The body has released it itself, or handed it on.
        self._drop(holding)
        try:
            self._release(holding)
        except Error:
            # What went wrong in the body is worth more than what followed from it.
            if kind is None:
                raise


class Watch:
    """Events of a watch, one after the other; the last one has the kind `ended`."""

    def __init__(self, client: Client, params: Dict[str, Any]) -> None:
        self._events: "queue.SimpleQueue[Optional[Dict[str, Any]]]" = queue.SimpleQueue()
        self._connection, request = client._start("watch", params, on_event=self._events.put)
        self._number = self._connection.finish(request)["watch"]

    def __iter__(self) -> Iterator[Dict[str, Any]]:
        while True:
            event = self._events.get()
            if event is None:
                return
            yield event
            if event.get("kind") == "ended":
                return

    def close(self) -> None:
        """No more events come."""
        with self._connection.mutex:
            is_watched = self._connection.machine.watches.pop(self._number, None) is not None
        if is_watched:
            self._events.put(None)
            self._connection.call("unwatch", {"watch": self._number})

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

