"""Runs one scenario: its steps, one after the other."""

import contextlib
import copy
import json
import os
import signal
import time

from .driver import Driver
from .fake import Fake
from .real import Daemon, Service, Witness, clean_environment
from .words import Mismatch, filled, match

# What a step is called by, and the other members that it may have.
STEPS = {
    "ask": {"args", "ok", "error", "client", "soon_ms", "until"}, "start": {"as", "args", "client"},
    "answer": {"ok", "error", "soon_ms", "patience"}, "unanswered": set(), "event": {"see", "client"}, "no_event": {"client"},
    "fake": {"method", "see", "message", "messages", "pieces", "line", "result", "count", "begin", "repeat", "times", "end"}, "daemon": set(),
    "witness": {"params", "result", "error", "until", "later", "by"}, "witness_answer": {"result", "error", "by"},
    "witness_told": {"see", "by"}, "witness_close": set(), "process": {"client", "status"}, "wait_ms": set(),
    "check": {"pid", "file", "text"}, "kill": set(), "note": set(), "directory": set(),
}
MEMBERS = {"name", "group", "about", "daemon", "arguments", "fake", "needs", "unless", "environment", "socket", "each", "steps"}


def load(directory):
    """All scenarios, one for each value of what they have to be run for `each`."""
    found = []
    for name in sorted(os.listdir(directory)):
        if not name.endswith(".json"):
            continue
        with open(os.path.join(directory, name), encoding="utf-8") as file:
            for scenario in json.load(file):
                _check(name, scenario)
                scenario.setdefault("group", name[:-5])
                variable, values = scenario.get("each", [None, [None]])
                for value in values:
                    one = copy.deepcopy(scenario)
                    one["variables"] = {} if variable is None else {variable: value}
                    one["id"] = f"{one['group']}/{one['name']}" + (f"[{value}]" if variable is not None else "")
                    found.append(one)
    names = [one["id"] for one in found]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"scenarios of one name: {twice}")
    return found


def _check(file, scenario):
    where = f"{file}: {scenario.get('name')}"
    unknown = set(scenario) - MEMBERS
    if unknown or "name" not in scenario or "about" not in scenario or "steps" not in scenario:
        raise ValueError(f"{where}: a scenario has name, about and steps, and not {unknown}")
    for step in scenario["steps"]:
        kinds = [key for key in step if key in STEPS and not any(key in STEPS[other] for other in step if other in STEPS)]
        if len(kinds) != 1 or set(step) - {kinds[0]} - STEPS[kinds[0]]:
            raise ValueError(f"{where}: no step: {step}")


class Run:
    """One scenario with one driver command."""

    def __init__(self, scenario, command, program, directory, patience, shared=None, service=None):
        self.scenario, self.command, self.program, self.patience = scenario, command, program, patience
        self.directory = directory
        self.variables = {"dir": directory, **scenario["variables"]}
        self.clients, self.witnesses, self.started, self.later = {}, {}, {}, {}
        self.fake = self.daemon = None
        self.shared, self.service = shared, service
        self.path = os.path.join(directory, scenario.get("socket", "s.sock"))
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        self.at = ""

    # The parts

    def open(self):
        kind = self.scenario.get("daemon", "shared")
        if kind == "fake":
            self.fake = Fake(self.path, self.patience, self.scenario.get("fake"))
        elif kind == "shared" and self.shared is not None:
            self.path = self.shared.path
        elif kind == "service":
            self.daemon = Service(*self.service, self.patience)
            self.path = self.daemon.path
        elif kind != "none":
            self.daemon = Daemon(self.program, self.path, self.directory, self.patience, self.scenario.get("arguments", ()))

    def client(self, step):
        name = step.get("client", "a")
        if name not in self.clients:
            wishes = filled(self.scenario.get("environment", {}), self.variables)
            environment = clean_environment(**{"SIDELOCK_SOCKET": self.path, **wishes})
            self.clients[name] = Driver(self.command, environment, self.directory, self.patience)
        return self.clients[name]

    def witness(self, step):
        name = step.get("by", "w")
        if name not in self.witnesses:
            self.witnesses[name] = Witness(self.path, self.patience)
        return self.witnesses[name]

    def fits(self, expected):
        """Whether something is as expected; only what fits gives variables their values."""
        def judge(found):
            trial = dict(self.variables)
            try:
                match(expected, found, trial)
            except Mismatch:
                return False
            self.variables.update(trial)
            return True
        return judge

    def judge(self, step, kind, found, where):
        """Holds an answer against `ok` and `error` of a step; either will do where both are there."""
        if kind not in step and ("ok" in step or "error" in step or kind == "error"):
            raise Mismatch(f"{where} is {kind} {found}, expected {'ok' if 'ok' in step or kind == 'error' else 'error'}")
        match(step.get(kind, {}), found, self.variables, where)

    # The steps

    def run(self):
        """Whether it was run: not where the driver lacks what it needs."""
        self.open()
        needs = set(self.scenario.get("needs", []))
        if needs - self.client({}).features or self.client({}).features & set(self.scenario.get("unless", [])):
            return False
        for number, step in enumerate(self.scenario["steps"], 1):
            self.at = f"step {number}: {json.dumps(step, ensure_ascii=False)}"
            kind = next(key for key in STEPS if key in step)
            getattr(self, f"step_{kind}")(step)
        self.at = "the end"
        faults = [fault for client in self.clients.values() for fault in client.faults()]
        if faults:
            raise Mismatch("; ".join(faults))
        return True

    def step_note(self, step):
        """For readers."""

    def step_ask(self, step):
        began = time.monotonic()
        client = self.client(step)
        while True:
            tag = client.send(step["ask"], filled(step.get("args", {}), self.variables))
            before = dict(self.variables)
            try:
                self.judge(step, *client.answer(tag), "the answer")
                break
            except Mismatch:
                if not step.get("until") or time.monotonic() > began + self.patience:
                    raise
                self.variables = before
                time.sleep(0.02)
        self.soon(step, began)

    def step_start(self, step):
        client = self.client(step)
        tag = client.send(step["start"], filled(step.get("args", {}), self.variables))
        self.started[step["as"]] = (client, tag, time.monotonic())
        self.variables[f"tag_{step['as']}"] = tag

    def step_answer(self, step):
        client, tag, _ = self.started[step["answer"]]
        began = time.monotonic()
        # Ten thousand cycles are many turns on a machine that has other things to do.
        self.judge(step, *client.answer(tag, step.get("patience", 1)), "the answer")
        self.soon(step, began)

    @staticmethod
    def soon(step, began):
        took = (time.monotonic() - began) * 1000
        if took > step.get("soon_ms", float("inf")):
            raise Mismatch(f"it took {took:.0f} ms")

    def step_unanswered(self, step):
        client, tag, _ = self.started[step["unanswered"]]
        if client.is_answered(tag):
            raise Mismatch(f"it is answered: {client.answer(tag)}")

    def step_event(self, step):
        self.client(step).event(step["event"], self.fits(step.get("see", {})))

    def step_no_event(self, step):
        client = self.client(step)
        client.answer(client.send("noop", {}))
        found = client.has_event(step["no_event"])
        if found:
            raise Mismatch(f"there was an event {step['no_event']}: {found}")

    def step_fake(self, step):
        what, fake = step["fake"], self.fake
        if what == "expect":
            fake.expect(step["method"], self.fits(step.get("see", {})))
        elif what == "unexpected":
            found = fake.unexpected(step["method"])
            if found:
                raise Mismatch(f"there was a request: {found}")
        elif what == "send":
            messages = step["messages"] if "messages" in step else [step["message"]]
            fake.send(filled(messages, self.variables), int(filled(step.get("pieces", 0), self.variables)))
        elif what == "long":
            fake.send([step["begin"] + step["repeat"] * step["times"] + step["end"]])
        elif what == "answers":
            fake.automatic[step["method"]] = step["result"]
        elif what == "close":
            fake.close_connection()
        elif what in ("refuse", "refuse at once"):
            fake.listens_first = what == "refuse"
            fake.greeting = json.dumps({"jsonrpc": "2.0", **step["message"]}) + "\n"
        elif what in ("deaf", "hears"):
            fake.deaf = what == "deaf"
        elif what == "connections":
            fake.wait(lambda: len(fake.connections) >= step["count"], "the connections")
            match(step["count"], len(fake.connections), self.variables, "the number of connections")
        elif what == "closed":
            fake.client_closed()
        elif what == "gone":
            fake.gone()
        elif what == "back":
            fake.listen()
        else:
            raise ValueError(f"no such fake: {what}")

    def step_daemon(self, step):
        self.daemon.do(step["daemon"])

    def step_witness(self, step):
        params = filled(step.get("params", {}), self.variables)
        deadline = time.monotonic() + self.patience
        while True:
            witness = self.witness(step)
            number = witness.request(step["witness"], params)
            if "later" in step:
                self.later[step["later"]] = number
                return
            before = dict(self.variables)
            try:
                self.judge_witness(step, witness.reply(number))
                return
            except Mismatch:
                if not step.get("until") or time.monotonic() > deadline:
                    raise
                self.variables = before
                time.sleep(0.005)

    def judge_witness(self, step, reply):
        kind, found = ("error", reply["error"]) if "error" in reply else ("ok", reply["result"])
        expected = {"ok": step["result"]} if "result" in step else {"error": step["error"]} if "error" in step else {}
        self.judge(expected, kind, found, "the witness' answer")

    def step_witness_answer(self, step):
        self.judge_witness(step, self.witness(step).reply(self.later[step["witness_answer"]]))

    def step_witness_told(self, step):
        self.witness(step).notification(step["witness_told"], self.fits(step.get("see", {})))

    def step_witness_close(self, step):
        self.witnesses.pop(step["witness_close"]).close()

    def step_process(self, step):
        client, what = self.client(step), step["process"]
        if what == "end_input":
            client.process.stdin.close()
        elif what == "exited":
            match(step["status"], client.process.wait(self.patience), self.variables, "the exit status")
        else:
            client.process.send_signal(getattr(signal, what))

    def step_wait_ms(self, step):
        time.sleep(step["wait_ms"] / 1000)

    def step_kill(self, step):
        os.kill(int(filled(step["kill"], self.variables)), signal.SIGKILL)

    def step_directory(self, step):
        os.makedirs(filled(step["directory"], self.variables), exist_ok=True)

    def step_check(self, step):
        if step["check"] == "no_sockets":
            process = f"/proc/{filled(step['pid'], self.variables)}"
            deadline = time.monotonic() + self.patience
            while not os.readlink(f"{process}/exe").endswith(("/sleep", "/coreutils", "/busybox")):
                if time.monotonic() > deadline:
                    raise Mismatch("the driver has started no sleep")
                time.sleep(0.005)
            directory = f"{process}/fd"
            found = []
            for name in os.listdir(directory):
                with contextlib.suppress(FileNotFoundError):  # It opens and closes what it needs itself meanwhile.
                    found.append(os.readlink(os.path.join(directory, name)))
            if any(target.startswith("socket:") for target in found):
                raise Mismatch(f"the program inherited a socket: {found}")
        elif step["check"] == "file":
            with open(filled(step["file"], self.variables), encoding="utf-8") as file:
                match(step["text"], file.read().strip(), self.variables, "the file")
        else:
            raise ValueError(f"no such check: {step['check']}")

    # The end

    def told(self):
        """What went over the wires, for who has to find out what is wrong."""
        lines = [f"  {self.at}"]
        for name, client in self.clients.items():
            lines.append(f"  driver {name}: {' '.join(client.process.args)}")
            lines += [f"    {line}" for line in client.history[-30:]]
            text = client.error_text().strip()
            lines += [f"    ! {line}" for line in text.splitlines()[-25:]]
        if self.fake:
            lines += ["  the client, as the daemon heard it (>), and what it was told (<):"]
            lines += [f"    {line}" for line in self.fake.history[-20:]]
        return "\n".join(lines)

    def close(self):
        for pid in (self.variables.get("pid"), self.variables.get("child")):
            if pid is not None:
                try:
                    os.kill(int(pid), signal.SIGKILL)
                except ProcessLookupError:
                    pass
        for client in self.clients.values():
            if not client.ended:
                try:
                    client.process.send_signal(signal.SIGCONT)
                except ProcessLookupError:
                    pass
            client.close()
        for part in (*self.witnesses.values(), self.fake, self.daemon):
            if part is not None:
                part.close()
