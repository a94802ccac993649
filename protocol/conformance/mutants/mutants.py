"""Mistakes of clients, planted into the Python client: each is a function that changes it, and the groups that find it."""

import itertools
import json
import os
import pathlib
import socket
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "clients/python/src"))

import sidelock  # noqa: E402
from sidelock import _errors, _machine, _sync  # noqa: E402

Machine = _machine.Machine


def releases_nothing():
    def release(self):
        self._drop(self._current())
    sidelock.ThreadLock.release = release


def one_owner_for_all_threads():
    _sync._owner = lambda: "everybody"


def no_owner():
    _sync._owner = lambda: None


def errors_without_types():
    _errors._TYPES.clear()


def errors_without_holders():
    _errors.Error.holders = property(lambda self: [])


def cancels_without_telling():
    def abandon(self, request):
        request.is_abandoned = True
    Machine.abandon = abandon


def keeps_late_grants():
    granted = Machine._granted

    def keep(self, request, result):
        request.is_abandoned = False
        granted(self, request, result)
    Machine._granted = keep


def scopes_hide_the_loss():
    leave = sidelock.ThreadLock.__exit__

    def quiet(self, kind, fault, trace):
        try:
            leave(self, kind, fault, trace)
        except sidelock.Lost:
            pass
    sidelock.ThreadLock.__exit__ = quiet


def scopes_of_failing_bodies_keep_the_lock():
    leave = sidelock.ThreadLock.__exit__

    def only_in_peace(self, kind, fault, trace):
        if kind is None:
            leave(self, kind, fault, trace)
    sidelock.ThreadLock.__exit__ = only_in_peace


def events_go_to_all_watches():
    def told(self, params):
        self._tell_watches(params.get("kind"), params)
    Machine._told_event = told


def watches_never_end():
    told = Machine._tell_watches
    Machine._tell_watches = lambda self, kind, params: None if kind == "ended" else told(self, kind, params)


def knows_one_socket():
    def path(explicit=None):
        return explicit or os.environ.get("SIDELOCK_SOCKET", "/run/sidelock/sidelock.sock")
    _machine.socket_path = _sync.socket_path = path


def hears_no_loss():
    Machine._told_lost = lambda self, params: None


def loses_by_name_alone():
    told = Machine._told_lost

    def all_of_that_name(self, params):
        for name, token in list(self.holdings):
            if name == params.get("name"):
                told(self, {**params, "token": token})
    Machine._told_lost = all_of_that_name


def loses_what_was_given_back():
    Machine.forget = lambda self, holding, name, token: None


def counts_from_the_reading():
    granted = Machine._granted

    def late(self, request, result):
        request.sent = _machine.now()
        granted(self, request, {**result, "waited_ms": 0})
    Machine._granted = late


def never_asks_how_long():
    Machine.tick = lambda self: None


def believes_in_holds_past_their_time():
    _machine.Holding.is_over = lambda self: False


def takes_a_piece_for_a_line():
    def feed(self, data):
        for line in data.split(b"\n"):
            try:
                self._heard(json.loads(line))
            except ValueError:
                pass
    Machine.feed = feed


def one_line_a_read():
    feed = Machine.feed

    def first(self, data):
        feed(self, data.split(b"\n")[0] + b"\n" if b"\n" in data else data)
    Machine.feed = first


def believes_any_grant():
    def granted(self, request, result):
        holding = request.holding
        holding.tokens, holding.state = {name: result.get("token") for name in holding.names}, "held"
    Machine._granted = granted


def stumbles_over_nonsense():
    class Nothing(Exception):
        pass
    _machine._NONSENSE = (Nothing,)


def keeps_a_line_for_ever():
    _machine.UNENDED_BYTES_MAX = 1 << 40


def answers_in_order():
    heard = Machine._heard

    def first(self, message):
        if isinstance(message.get("id"), int) and self.requests:
            message = {**message, "id": next(iter(self.requests))}
        heard(self, message)
    Machine._heard = first


def takes_unknown_notifications_for_losses():
    def any_told(self, name):
        return self._told_lost if name.startswith("_told_") else object.__getattribute__(self, name)
    Machine.__getattr__ = any_told


def holds_outlive_the_connection():
    ended = Machine.ended

    def keep(self):
        self.holdings.clear()
        ended(self)
    Machine.ended = keep


def half_a_line_is_an_answer():
    ended = Machine.ended

    def last_words(self):
        for request in list(self.requests.values()):
            if self._buffer:
                self._answer(request, {"token": 1, "mode": "exclusive", "valid_ms": None}, None)
        ended(self)
    Machine.ended = last_words


def waits_for_ever():
    finish = _sync.Connection.finish
    _sync.Connection.finish = lambda self, request, wait=0.0: finish(self, request, None)


def half_closes():
    def close(self):
        self.socket.shutdown(socket.SHUT_WR)
    _sync.Connection.close = close


def children_inherit():
    connect = _sync.Connection.__init__

    def open_to_all(self, *arguments):
        connect(self, *arguments)
        self.socket.set_inheritable(True)
    _sync.Connection.__init__ = open_to_all


def outlived_by_children():
    def plain(accepts):
        return {"protocol": 1}
    _sync.initialization = plain


def forks_share_the_connection():
    sidelock.Client._forked = lambda self: None


def takes_no_lock():
    numbers = itertools.count(1)

    def take(self, wait, holding, params):
        holding.state, holding.tokens = "held", {name: next(numbers) for name in self.names}
        holding.connection = self._client._connected()
        self._holdings.append(holding)
        return self
    sidelock.ThreadLock._take = take


def asks_for_no_replicas():
    make = sidelock.BaseLock.__init__

    def forgetful(self, *arguments, replicas=None, durability=None, **options):
        make(self, *arguments, **options)
    sidelock.BaseLock.__init__ = forgetful


def asks_for_replicas_unasked():
    make = sidelock.BaseLock.__init__

    def eager(self, *arguments, replicas=None, durability=None, **options):
        make(self, *arguments, replicas=replicas or 0, durability=durability or "memory", **options)
    sidelock.BaseLock.__init__ = eager


def asks_for_replicas_in_words():
    make = sidelock.BaseLock.__init__

    def wordy(self, *arguments, replicas=None, **options):
        make(self, *arguments, replicas=None if replicas is None else str(replicas), **options)
    sidelock.BaseLock.__init__ = wordy


def under_replicated_is_nothing_special():
    del _errors._TYPES["under_replicated"]


def counts_the_replicas_asked_for():
    sidelock.UnderReplicated.acknowledged = property(lambda self: self.data.get("replicas", 0))


def all_are_under_replicated():
    _errors._TYPES.update(busy=sidelock.UnderReplicated, timeout=sidelock.UnderReplicated)


def holds_what_is_under_replicated():
    answer = Machine._answer

    def bold(self, request, result, fault):
        if request.method == "acquire" and isinstance(fault, sidelock.UnderReplicated):
            request.holding.tokens, request.holding.state = {name: 1 for name in request.holding.names}, "held"
            request.is_answered = True
            request.done()
        else:
            answer(self, request, result, fault)
    Machine._answer = bold


def gives_back_what_is_under_replicated():
    answer = Machine._answer

    def twice(self, request, result, fault):
        if request.method == "acquire" and isinstance(fault, sidelock.UnderReplicated):
            for name in request.holding.names:
                self.request("release", {"name": name, "token": 0})
        answer(self, request, result, fault)
    Machine._answer = twice


def too_few_replicas_end_the_connection():
    finish = _sync.Connection.finish

    def rash(self, request, wait=0.0):
        try:
            return finish(self, request, wait)
        except sidelock.UnderReplicated:
            self.close()
            raise
    _sync.Connection.finish = rash


def tries_again_with_fewer_replicas():
    start, tried = sidelock.Client._start, []

    def humble(self, method, params, **more):
        if method == "acquire" and params.get("name") in tried:
            params = {key: value for key, value in params.items() if key not in ("replicas", "durability")}
        tried.append(params.get("name"))
        return start(self, method, params, **more)
    sidelock.Client._start = humble


#: The mistake, and the groups of scenarios that must find it.
MUTANTS = {function.__name__: groups for function, groups in {
    releases_nothing: ["locks"], one_owner_for_all_threads: ["locks", "workers"], no_owner: ["errors"],
    errors_without_types: ["errors"], errors_without_holders: ["errors"], cancels_without_telling: ["cancel"],
    keeps_late_grants: ["cancel", "faults"], scopes_hide_the_loss: ["scope", "lost"],
    scopes_of_failing_bodies_keep_the_lock: ["scope"], events_go_to_all_watches: ["watch"], watches_never_end: ["watch"],
    knows_one_socket: ["find"], hears_no_loss: ["lost", "scope"], loses_by_name_alone: ["lost"],
    loses_what_was_given_back: ["lost"], counts_from_the_reading: ["validity"], never_asks_how_long: ["validity"], believes_in_holds_past_their_time: ["validity"],
    takes_a_piece_for_a_line: ["wire"], one_line_a_read: ["wire", "lost"], believes_any_grant: ["wire", "lost"],
    stumbles_over_nonsense: ["wire"], keeps_a_line_for_ever: ["wire"], answers_in_order: ["wire"],
    takes_unknown_notifications_for_losses: ["wire"], holds_outlive_the_connection: ["faults", "scope"],
    half_a_line_is_an_answer: ["faults"], waits_for_ever: ["faults"], half_closes: ["process"], children_inherit: ["process"],
    outlived_by_children: ["process"], forks_share_the_connection: ["process"], takes_no_lock: ["workers", "locks"],
    asks_for_no_replicas: ["replicas"], asks_for_replicas_unasked: ["replicas"], asks_for_replicas_in_words: ["replicas"],
    under_replicated_is_nothing_special: ["replicas"], counts_the_replicas_asked_for: ["replicas"],
    all_are_under_replicated: ["replicas", "errors"], holds_what_is_under_replicated: ["replicas"],
    gives_back_what_is_under_replicated: ["replicas"], too_few_replicas_end_the_connection: ["replicas"],
    tries_again_with_fewer_replicas: ["replicas"],
}.items()}


def plant(name):
    """Makes the client wrong."""
    globals()[name]()
