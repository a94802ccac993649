"""One connection to the daemon, without any I/O: bytes in, bytes and calls out. Not for several threads at a time."""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

from ._errors import Error, Loss, error, refusal

LINE_BYTES_MAX = 65536
#: Of a line that has not ended; what is longer comes from no daemon.
UNENDED_BYTES_MAX = 1 << 20
#: Of more holds than these a ping does not say how long they are valid.
HOLDS_TOLD_MAX = 64
SYSTEM_SOCKET = "/run/sidelock/sidelock.sock"
#: What the daemon may say is used in sums: nothing of it is longer than a century.
_MILLISECONDS_MAX = 100 * 366 * 86400 * 1000
#: What comes of members that are not what the protocol says.
_NONSENSE = (AttributeError, KeyError, TypeError, ValueError)


def now() -> float:
    """Seconds on a clock that goes on while the machine is suspended, and that nobody sets."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _time(value: Any) -> Optional[int]:
    """Milliseconds that the daemon told; None where it is no time."""
    return max(0, min(value, _MILLISECONDS_MAX)) if type(value) is int else None


def absent(path: str, fault: BaseException) -> str:
    """What to say where no daemon listens, with the command that starts one."""
    words = f"no daemon at {path}: {getattr(fault, 'strerror', None) or fault}"
    if getattr(fault, "errno", None) not in (errno.ENOENT, errno.ECONNREFUSED):
        return words
    return words + "; start it with: " + (
        "systemctl start sidelockd" if path == SYSTEM_SOCKET else f"sidelockd --redis URL --socket {path}")


def closed(path: str) -> str:
    """What to say where this user may not connect, with what tells the command that mends it."""
    return f"the permissions of {path} keep this user out; what lets it in tells: sidelock doctor --socket {path}"


def socket_path(explicit: Optional[str] = None) -> str:
    """Where the daemon listens: `explicit`, $SIDELOCK_SOCKET, the user's own daemon if there is one, the system's."""
    path = explicit or os.environ.get("SIDELOCK_SOCKET")
    if path:
        return path
    directory = os.environ.get("XDG_RUNTIME_DIR")
    if directory:
        own = directory + "/sidelock/sidelock.sock"
        try:
            os.stat(own)
            return own
        except PermissionError:
            return own
        except OSError:
            pass
    return SYSTEM_SOCKET


def initialization(accepts_transfers: bool) -> Dict[str, Any]:
    """Who this is, for the daemon's logs; and that what is held ends with this process, whoever inherits the connection."""
    name = os.path.basename(sys.argv[0] if sys.argv else "").encode("utf-8", "ignore")[:100].decode("utf-8", "ignore")
    params: Dict[str, Any] = {"client": {"name": name or "python"}, "protocol": 1, "lifetime": "process"}
    if accepts_transfers:
        params["accept_transfers"] = True
    return params


class Holding:
    """One acquire of one or several locks: what it waits for, has, or has lost."""

    def __init__(
        self, names: Tuple[str, ...], owner: Optional[str] = None, on_lost: Optional[Callable[[Loss], Any]] = None,
        on_waiting: Optional[Callable[[Dict[str, Any]], Any]] = None, on_contended: Optional[Callable[[int], Any]] = None,
    ) -> None:
        self.names, self.owner = names, owner
        self.on_lost, self.on_waiting, self.on_contended = on_lost, on_waiting, on_contended
        self.tokens: Dict[str, int] = {}
        self.mode = ""
        self.waited_ms = 0
        #: waiting, held, released or lost.
        self.state = "waiting"
        self.loss: Optional[Loss] = None
        #: Until when the hold is good without any further answer; None: it does not end by itself.
        self.deadline: Optional[float] = None
        self.span = 0.0
        #: Ends the scope in which it is held.
        self.lose_scope: Optional[Callable[[], Any]] = None
        self.connection: Any = None
        #: The acquire that it waits for.
        self.request: Any = None

    def loss_of(self, fault: Error) -> Loss:
        """The loss that only the answer to a request tells of."""
        name, token = next(iter(self.tokens.items()), (self.names[0], 0))
        return Loss(name, token, str(fault.data.get("lost", "")))

    def valid(self) -> Optional[float]:
        """For how many seconds from now the hold is good for certain."""
        if self.state != "held":
            return 0.0
        return None if self.deadline is None else max(0.0, self.deadline - now())

    def is_over(self) -> bool:
        """Whether its time is over: it is not to be believed then until the daemon has answered."""
        return self.state == "held" and self.deadline is not None and self.deadline <= now()

    def answer_time(self) -> float:
        """For how many seconds the daemon may leave unanswered how long it is good."""
        return min(1.0, self.span / 4)


class Request:
    """A request that is not answered yet."""

    def __init__(self, number: int, method: str, params: Dict[str, Any], done: Callable[[], Any]) -> None:
        self.number, self.method, self.params, self.done = number, method, params, done
        self.sent = now()
        self.holding: Optional[Holding] = None
        self.on_event: Optional[Callable[[Dict[str, Any]], Any]] = None
        self.is_answered = False
        self.is_abandoned = False
        self.result: Any = None
        self.error: Optional[Error] = None


def _nothing() -> None:
    pass


class Machine:
    """Requests that wait for their answers, holds that can be lost, and watches, of one connection."""

    def __init__(self) -> None:
        self.requests: Dict[int, Request] = {}
        self.holdings: Dict[Tuple[str, int], List[Holding]] = {}
        self.watches: Dict[int, Callable[[Dict[str, Any]], Any]] = {}
        self.on_transferred: Optional[Callable[[Holding], Any]] = None
        self.outgoing = bytearray()
        #: What is to be called of the user's code, when no lock of ours is held.
        self.calls: List[Callable[[], Any]] = []
        self.has_ended = False
        #: A line came that no daemon sends: the connection is to be closed.
        self.is_flooded = False
        self.session = ""
        self.lease_ms: Optional[int] = None
        self._buffer = bytearray()
        self._last = 0
        self._fault: Optional[Error] = None
        self._ping: Optional[Request] = None
        self._no_ping_before = 0.0

    # Requests

    def request(
        self, method: str, params: Dict[str, Any], done: Callable[[], Any] = _nothing, holding: Optional[Holding] = None,
        on_event: Optional[Callable[[Dict[str, Any]], Any]] = None, kind: Any = Request,
    ) -> Any:
        """Writes a request; `done` is called when its answer is in it."""
        self._last += 1
        request = kind(self._last, method, params, done)
        request.holding, request.on_event = holding, on_event
        if holding is not None and method == "acquire":
            holding.request = request
        if self.has_ended:
            self._answer(request, None, self._end())
            return request
        text = json.dumps({"id": request.number, "method": method, "params": params}, separators=(",", ":"), ensure_ascii=False)
        try:
            line = text.encode() + b"\n"
        except UnicodeEncodeError:
            # The daemon could not say which request it was, as of a path that os.fsdecode could not decode.
            self._answer(request, None, error("invalid_params", "text for the daemon is UTF-8"))
            return request
        if len(line) > LINE_BYTES_MAX + 1:
            self._answer(request, None, error("limit", "the request is longer than a line of the daemon"))
            return request
        self.requests[request.number] = request
        self.outgoing += line
        return request

    def abandon(self, request: Request) -> None:
        """Nobody waits for the answer any more: a wait is withdrawn, and a lock that is granted all the same given back."""
        if request.is_answered:
            if request.holding is not None and request.error is None and request.method == "acquire":
                self.give_back(request.holding)
        elif not request.is_abandoned:
            request.is_abandoned = True
            if request.method == "acquire" and request.number in self.requests:
                line = json.dumps({"method": "cancel", "params": {"id": request.number}}, separators=(",", ":"))
                self.outgoing += line.encode() + b"\n"

    def withdraw(self, request: Request) -> None:
        """Ends a wait as cancelled."""
        if not request.is_answered:
            self.abandon(request)
            request.error, request.is_answered = error("cancelled", "the wait was withdrawn"), True
            request.done()

    def give_back(self, holding: Holding) -> None:
        """Releases what is held, and waits for no answer."""
        # Once: an owner who has it twice has it under one token.
        tokens, holding.tokens = holding.tokens, {}
        for name, token in tokens.items():
            self.forget(holding, name, token)
            self.request("release", {"name": name, "token": token})
        if holding.state == "held":
            holding.state = "released"

    def forget(self, holding: Holding, name: str, token: int) -> None:
        """A hold that nobody is to be told the loss of any more."""
        sharing = self.holdings.get((name, token), [])
        if holding in sharing:
            sharing.remove(holding)
        if not sharing:
            self.holdings.pop((name, token), None)

    def drop(self, holding: Holding) -> None:
        """Whatever becomes of it, nobody is to be told any more."""
        for name, token in holding.tokens.items():
            self.forget(holding, name, token)
        if holding.state == "held":
            holding.state = "released"

    # What the daemon says

    def feed(self, data: bytes) -> None:
        """Takes what was read."""
        self._buffer += data
        end = self._buffer.rfind(b"\n")
        lines = bytes(self._buffer[:max(end, 0)]).split(b"\n")
        del self._buffer[:end + 1]
        self.is_flooded = len(self._buffer) > UNENDED_BYTES_MAX
        for line in lines:
            if line.strip():
                try:
                    message = json.loads(line)
                    if isinstance(message, dict):
                        self._heard(message)
                except (RecursionError, *_NONSENSE):
                    pass  # No message of this protocol.

    def _heard(self, message: Dict[str, Any]) -> None:
        if "method" in message and "id" not in message:
            params = message.get("params")
            told = getattr(self, "_told_" + str(message["method"]), None)
            if told is not None and isinstance(params, dict):
                told(params)
            return
        number = message.get("id")
        if number is None and "error" in message:
            # It is about the connection, or about a line that the daemon could not read.
            self._fault = refusal(message["error"])
        request = self.requests.pop(number, None) if isinstance(number, int) else None
        if request is not None:
            self._answer(request, message.get("result"), refusal(message["error"]) if "error" in message else None)

    def _answer(self, request: Request, result: Any, fault: Optional[Error]) -> None:
        if fault is None:
            try:
                self._answered(request, result)
            except _NONSENSE:
                fault = error("protocol_violation", "the daemon gave an answer that is none")
        if request.is_answered:
            return
        request.result, request.error, request.is_answered = result, fault, True
        if request is self._ping:
            self._ping = None
        if request.method == "ping" and fault is None:
            self._ping_answered(request)
        request.done()

    def _answered(self, request: Request, result: Any) -> None:
        """What a request that was not refused brings about; raises one of _NONSENSE where the answer is none."""
        if request.holding is not None and request.method == "acquire":
            self._granted(request, result)
        elif request.holding is not None:
            # A loss that is told from now on is nobody's.
            self.forget(request.holding, request.params["name"], request.params["token"])
            if all(pair not in self.holdings for pair in request.holding.tokens.items()) and request.holding.state == "held":
                request.holding.state = "released"
        elif request.method == "initialize":
            self.session, self.lease_ms = str(result.get("session", "")), _time(result.get("lease_ms"))
        elif request.method == "watch" and request.on_event is not None:
            if type(result["watch"]) is not int:
                raise ValueError
            # Events may stand right behind this answer.
            self.watches[result["watch"]] = request.on_event

    def _granted(self, request: Request, result: Dict[str, Any]) -> None:
        holding = request.holding
        assert holding is not None
        tokens = {lock["name"]: lock["token"] for lock in result["locks"]} if "locks" in result else {holding.names[0]: result["token"]}
        if any(type(tokens[name]) is not int for name in holding.names):
            raise ValueError
        holding.tokens = {name: tokens[name] for name in holding.names}
        holding.mode, holding.waited_ms = str(result.get("mode", "")), _time(result.get("waited_ms")) or 0
        holding.state = "held"
        valid = _time(result.get("valid_ms"))
        if valid is not None:
            # From the grant on, however late this is read: it was no earlier than when the wait that began at the daemon
            # after the sending was over.
            holding.span = valid / 1000
            holding.deadline = request.sent + holding.waited_ms / 1000 + holding.span
        for pair in holding.tokens.items():
            self.holdings.setdefault(pair, []).append(holding)
        if request.is_abandoned:
            self.give_back(holding)

    def _told_lost(self, params: Dict[str, Any]) -> None:
        name, token = params.get("name"), params.get("token")
        grace = params.get("grace_ms")
        loss = Loss(str(name), token or 0, str(params.get("reason", "")), grace if isinstance(grace, int) else 0,
                    params.get("detail"))
        for holding in self.holdings.pop((str(name), token or 0), []):
            self._lose(holding, loss)

    def _lose(self, holding: Holding, loss: Loss) -> None:
        holding.tokens.pop(loss.name, None)
        if holding.state != "held":
            return
        holding.state, holding.loss = "lost", loss
        if holding.lose_scope is not None:
            self.calls.append(holding.lose_scope)
        # Looked up when it is called: of a hold that was transferred the user may set it only then.
        self.calls.append(lambda: holding.on_lost and holding.on_lost(loss))

    def _told_waiting(self, params: Dict[str, Any]) -> None:
        request = self.requests.get(params.get("id"))  # type: ignore[arg-type]
        call = request.holding.on_waiting if request is not None and request.holding is not None else None
        if call is not None:
            told = call
            self.calls.append(lambda: told(params))

    def _told_contended(self, params: Dict[str, Any]) -> None:
        for holding in self.holdings.get((str(params.get("name")), params.get("token") or 0), []):
            call = holding.on_contended
            if call is not None:
                told = call
                self.calls.append(lambda: told(params.get("waiters", 0)))

    def _told_transferred(self, params: Dict[str, Any]) -> None:
        call, name, token = self.on_transferred, params.get("name"), params.get("token")
        if call is None or not isinstance(name, str) or not isinstance(token, int):
            return
        holding = Holding((name,))
        holding.tokens, holding.mode, holding.state = {name: token}, str(params.get("mode", "")), "held"
        if self.lease_ms is not None:
            # Nothing is known of how long it is good: that is asked at once, and meanwhile it counts for what an answer may take.
            holding.span = self.lease_ms / 1000
            holding.deadline = now() + holding.answer_time()
        self.holdings.setdefault((name, token), []).append(holding)
        accept = call
        self.calls.append(lambda: accept(holding))

    def _told_event(self, params: Dict[str, Any]) -> None:
        call = self.watches.get(params.get("watch"))  # type: ignore[arg-type]
        if call is not None:
            told = call
            self.calls.append(lambda: told(params))

    def _tell_watches(self, kind: str, params: Dict[str, Any]) -> None:
        for call in list(self.watches.values()):
            self.calls.append(lambda call=call: call({**params, "kind": kind}))  # type: ignore[misc]

    def _told_backend(self, params: Dict[str, Any]) -> None:
        self._tell_watches("backend", params)

    def _told_missed(self, params: Dict[str, Any]) -> None:
        self._tell_watches("missed", params)

    def ended(self) -> None:
        """The connection has ended: whoever waits is told, and what was held is lost."""
        if self.has_ended:
            return
        self.has_ended = True
        requests, self.requests = self.requests, {}
        for (name, token), sharing in list(self.holdings.items()):
            for holding in sharing:
                self._lose(holding, Loss(name, token, "connection_ended"))
        self.holdings.clear()
        self._tell_watches("ended", {})
        self.watches.clear()
        for request in requests.values():
            self._answer(request, None, self._end())

    def _end(self) -> Error:
        return self._fault or error("connection_lost", "the connection to the daemon has ended")

    # How long holds are good

    def _timed(self) -> Iterable[Holding]:
        return [holding for sharing in self.holdings.values() for holding in sharing if holding.deadline is not None]

    def _ping_answered(self, ping: Request) -> None:
        valid = _time(ping.result.get("valid_ms")) if isinstance(ping.result, dict) else None
        self._no_ping_before = now() + 0.1
        for holding in self._timed():
            if valid is not None:
                # This counts for all that was held when it was answered, from when it was asked.
                holding.span = valid / 1000
                holding.deadline = max(holding.deadline or 0.0, ping.sent + holding.span)
            elif len(self.holdings) > HOLDS_TOLD_MAX:
                holding.deadline = None

    def tick(self) -> Optional[float]:
        """Asks how long holds are good, before that time is over, and finds those whose time is. Gives the seconds until
        it has to be called again."""
        time_now, timed = now(), self._timed()
        if not timed or self.has_ended:
            return None
        ask_at = max(min((holding.deadline or 0.0) - holding.span / 2 for holding in timed), self._no_ping_before)
        if self._ping is None and time_now >= ask_at:
            self._ping = self.request("ping", {})
        if self._ping is None:
            return ask_at - time_now
        for holding in timed:
            # A process that was stopped itself asks before it judges.
            if time_now >= self._judge_at(holding) and holding.state == "held":
                name, token = next(iter(holding.tokens.items()))
                self._lose(holding, Loss(name, token, "lease_expired"))
                holding.tokens[name] = token
                self.give_back(holding)
        times = [self._judge_at(holding) for holding in self._timed()]
        return max(0.0, min(times) - time_now) if times else None

    def _judge_at(self, holding: Holding) -> float:
        asked = self._ping.sent if self._ping is not None else now()
        return max(holding.deadline or 0.0, asked + holding.answer_time())
