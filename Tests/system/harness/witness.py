"""Who believes to hold what, beside all that daemons and Redis say of it."""

from .client import Client, RpcError
from .waiting import boot_time


class Witness:
    """Hears of each grant when a client has read it, and of each end before the client says it, or when it has read
    `lost`. So two who are in at a time both believe to hold the lock."""

    def __init__(self):
        self.inside = {}  # name -> {who: mode}
        self.highest = {}  # name -> the highest token
        self.highest_writer = {}  # name -> the highest token of who held it alone
        self.lost = []  # (name, reason)
        self.grants = []  # (boot seconds, name, token)

    def enter(self, name, who, mode, token):
        others = self.inside.setdefault(name, {})
        fits = {
            "exclusive": not others,
            "shared": set(others.values()) <= {"shared"},
            "permit": len(others) < mode[1] if isinstance(mode, tuple) else False,
        }["permit" if isinstance(mode, tuple) else mode]
        assert fits, f"{who} has {name} ({mode}), and so have {others}"
        if not isinstance(mode, tuple):
            floor = (self.highest if mode == "exclusive" else self.highest_writer).get(name, 0)
            assert token > floor, f"token {token} of {name} comes after {floor}"
        self.highest[name] = max(self.highest.get(name, 0), token)
        if mode == "exclusive":
            self.highest_writer[name] = token
        others[who] = mode
        self.grants.append((boot_time(), name, token))

    def leave(self, name, who):
        self.inside.get(name, {}).pop(who, None)


class Member:
    """A client whose grants and losses the witness hears of."""

    def __init__(self, witness, daemon):
        self.witness = witness
        self.daemon = daemon
        self.client = Client(daemon.socket_path)
        if hasattr(daemon, "clients"):
            daemon.clients.append(self.client)
        self.held = {}  # name -> token
        self.asked = {}  # request -> (name, mode)

    def ask(self, name, **params):
        """Asks for the lock, and waits for nothing."""
        mode = ("permit", params["permits"]) if "permits" in params else params.get("mode", "exclusive")
        request = self.client.request("acquire", name=name, **params)
        self.asked[request] = (name, mode)
        return request

    def wait(self, name, **params):
        """Asks for it and returns when it stands in the queue."""
        request = self.ask(name, progress=True, **params)
        self.client.wait_for(
            lambda m: m.get("method") == "waiting" and m["params"]["id"] == request, what="its place in the queue")
        return request

    def served(self, request):
        """Waits for the grant, and gives its token."""
        name, mode = self.asked.pop(request)
        token = self.client.reply_to(request)["token"]
        self.witness.enter(name, self, mode, token)
        self.held[name] = token
        return token

    def take(self, name, **params):
        return self.served(self.ask(name, **params))

    def attempt(self, name):
        """A try: the error with which it was refused; None when it was granted."""
        request = self.ask(name, wait_ms=0)
        try:
            self.served(request)
        except RpcError as error:
            return error
        return None

    def give(self, name):
        self.hear()
        assert name in self.held, f"{name} was lost: {self.witness.lost}"
        token = self.held.pop(name)
        self.witness.leave(name, self)
        return self.client.release(name, token)

    def hear(self):
        """Reads all that the daemon has said so far."""
        self.client.ping()
        for message in [m for m in self.client.pending if m.get("method") == "lost"]:
            self.client.pending.remove(message)
            params = message["params"]
            if self.held.get(params["name"]) == params["token"]:
                del self.held[params["name"]]
                self.witness.leave(params["name"], self)
            self.witness.lost.append((params["name"], params["reason"]))

    def is_answered(self, request):
        self.client.ping()
        return any(m.get("id") == request for m in self.client.pending)
