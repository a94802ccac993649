"""Replays the conversations in protocol/transcripts. Its README.md describes the steps and the matchers."""

import json
import signal

from .client import Client
from .waiting import GENEROUS_SECONDS


class Mismatch(AssertionError):
    """What came is not what the transcript says."""


def load(path):
    """The header and the steps."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    return lines[0], lines[1:]


class Replay:
    """Plays the steps of one transcript against `daemon`."""

    def __init__(self, daemon, backend, redis=None):
        self.daemon, self.backend, self.redis = daemon, backend, redis
        self.clients, self.tokens = {}, {}
        self.last_ping = 0

    def play(self, steps):
        for number, step in enumerate(steps, 2):  # the header is line 1
            try:
                self.step(step)
            except Exception as fault:
                raise Mismatch(f"line {number}: {json.dumps(step)[:600]}\n{type(fault).__name__}: {fault}") from fault

    def step(self, step):
        step = {key: value for key, value in step.items() if key != "comment"}
        if step.pop("on", self.backend) != self.backend or not step:
            return
        if "redis" in step:
            self.redis.kill() if step["redis"] == "kill" else self.redis.start()
            return
        if "daemon" in step:
            self.daemon_step(step)
            return
        name = step.pop("client")
        (action, value), = step.items()
        if action == "open":
            assert name not in self.clients
            self.clients[name] = Client(self.daemon.socket_path)
            self.daemon.clients.append(self.clients[name])
            return
        client = self.clients[name]
        if action == "send":
            client.send(self.substituted(value))
        elif action == "send_text":
            client.send_raw(value.encode())
        elif action == "send_hex":
            client.send_raw(bytes.fromhex(value))
        elif action == "send_repeat":
            client.send_raw(value["text"].encode() * value["count"])
        elif action == "expect":
            message = client.next()
            faults = self.faults(message, value, "$")
            assert not faults, f"{faults} in {json.dumps(message)[:2000]}"
        elif action == "expect_unordered":
            self.expect_unordered(client, list(value))
        elif action == "quiet":
            self.last_ping += 1
            client.send({"id": f"quiet-{self.last_ping}", "method": "ping"})
            message = client.next()
            assert message.get("id") == f"quiet-{self.last_ping}", f"there came {message}"
        elif action == "half_close":
            client.half_close()
        elif action == "close":
            client.close()
        elif action == "expect_end":
            messages = client.wait_for_end()
            assert not messages, f"before the end there came {messages}"
        else:
            raise AssertionError(f"there is no such step: {action}")

    def daemon_step(self, step):
        if step["daemon"] == "exit":
            assert self.daemon.process.wait(GENEROUS_SECONDS) == step["status"]
        else:
            self.daemon.signal(getattr(signal, step["daemon"]))

    def expect_unordered(self, client, wanted):
        while wanted:
            message = client.next()
            for one in wanted:
                before = dict(self.tokens)
                if not self.faults(message, one, "$"):
                    wanted.remove(one)
                    break
                self.tokens = before  # what did not match has named no token
            else:
                raise AssertionError(f"{message} matches none of {wanted}")

    def substituted(self, value):
        if isinstance(value, dict):
            if set(value) == {"$token"} or set(value) == {"$text"}:
                (key, name), = value.items()
                return self.tokens[name if key == "$token" else (key, name)]
            return {key: self.substituted(inner) for key, inner in value.items()}
        return [self.substituted(inner) for inner in value] if isinstance(value, list) else value

    def faults(self, value, wanted, where):
        if isinstance(wanted, dict) and len(wanted) == 1 and (key := next(iter(wanted))).startswith("$"):
            return self.matcher_faults(value, key, wanted[key], where)
        if isinstance(wanted, dict):
            if not isinstance(value, dict):
                return [f"{where} is {value!r}"]
            found = []
            for key, inner in wanted.items():
                if inner == {"$absent": True}:
                    found += [f"{where}.{key} is there"] if key in value else []
                elif key not in value:
                    found.append(f"{where}.{key} is missing")
                else:
                    found += self.faults(value[key], inner, f"{where}.{key}")
            return found
        if isinstance(wanted, list):
            if not isinstance(value, list) or len(value) != len(wanted):
                return [f"{where} is not a list of {len(wanted)}: {value!r}"]
            return [fault for i, inner in enumerate(wanted) for fault in self.faults(value[i], inner, f"{where}[{i}]")]
        same = value == wanted and type(value) is type(wanted)
        return [] if same else [f"{where} is {value!r}, not {wanted!r}"]

    def matcher_faults(self, value, key, wanted, where):
        is_integer = isinstance(value, int) and not isinstance(value, bool)
        if key == "$any":
            fits = True
        elif key == "$int":
            fits = is_integer and wanted.get("min", value) <= value <= wanted.get("max", value)
        elif key == "$string":
            fits = isinstance(value, str)
        elif key == "$token":
            fits = is_integer and self.tokens.setdefault(wanted, value) == value
        elif key == "$text":
            fits = isinstance(value, str) and self.tokens.setdefault((key, wanted), value) == value
        elif key == "$above":
            fits = is_integer and value > self.tokens[wanted]
        elif key == "$or":
            fits = any(not self.faults(value, option, where) for option in wanted)
        elif key == "$backend":
            return self.faults(value, wanted[self.backend], where)
        else:
            raise AssertionError(f"there is no such matcher: {key}")
        return [] if fits else [f"{where} is {value!r}, which {key} {wanted!r} does not match"]
