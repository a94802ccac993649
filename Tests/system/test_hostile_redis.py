"""A Redis server may send anything: pitfall 44. No bytes end or block the daemon, and it connects again."""

import random
import socket
import threading

import pytest
from harness.client import RpcError
from harness.waiting import boot_time, wait_until

SOON = 50  # below what a client waits for an answer
MEGABYTE = 1 << 20

POISON = {
    "a huge bulk string": b"$9223372036854775807\r\n",
    "a huge array": b"*9223372036854775807\r\n",
    "a huge map": b"%4611686018427387904\r\n",
    "a huge push": b">2147483647\r\n",
    "a length beyond 64 bits": b"$99999999999999999999999999\r\n",
    "a negative length": b"*-9223372036854775808\r\n$-2\r\n",
    "deep nesting": b"*1\r\n" * 200_000,
    "an endless line": b"+" + b"x" * 2 * MEGABYTE,
    "replies to nothing": b"+OK\r\n:1\r\n$2\r\nhi\r\n_\r\n" * 1000,
    "errors to nothing": b"-ERR out of the blue\r\n",
    "unknown pushes": b">2\r\n+invalidate\r\n*1\r\n+x\r\n>1\r\n+what\r\n>0\r\n" * 100,
    "a push that is no message": b">3\r\n+message\r\n:1\r\n%1\r\n+a\r\n+b\r\n",
    "a message of nonsense": b">3\r\n$7\r\nmessage\r\n$1\r\nx\r\n$12\r\n1;granted 1;\r\n",
    "attributes without a value": b"|1\r\n+a\r\n+b\r\n" * 100,
    "streamed strings": b"$?\r\n;4\r\nabcd\r\n;0\r\n",
    "an unknown type": b"@1\r\nx\r\n",
    "a bare line feed": b"+OK\n",
    "zeros": b"\x00" * 10_000,
    "not a number": b":abc\r\n,nan\r\n(12x\r\n#z\r\n",
    "HTTP": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "half a value": b"*2\r\n$5\r\nhel",
}


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON)
def test_poison_in_the_middle_of_a_healthy_link(lab, poison):
    redis = lab.redis()
    proxy = lab.proxy(redis)
    daemon = lab.daemon(proxy, lease_ms=20_000)
    client = daemon.client()
    token = client.acquire("held")
    before = daemon.resident_bytes()
    proxy.send_down(poison)
    for _ in range(20):
        client.ping()

    # Whether it took the bytes for harmless or hung up: it works, and has kept what it held. What could be taken for
    # the reply to an acquire makes that one fail.
    def works():
        try:
            return client.acquire("orders", wait_ms=SOON * 1000)
        except RpcError as error:
            assert error.reason == "unavailable"

    wait_until(works, "an acquire that works")
    assert client.release("held", token)["token"] == token
    assert daemon.resident_bytes() - before < 64 * MEGABYTE


def test_random_and_mutated_bytes(lab):
    """The seed is fixed. Locks come and go meanwhile; each acquire has an answer."""
    rng = random.Random(44)
    redis = lab.redis()
    proxy = lab.proxy(redis)
    daemon = lab.daemon(proxy, lease_ms=20_000)
    client = daemon.client()
    seeds = [b"*2\r\n$3\r\nfoo\r\n:1\r\n", b">3\r\n$7\r\nmessage\r\n$3\r\nabc\r\n$12\r\n1;granted 1;\r\n", b"-ERR x\r\n",
             b"%1\r\n+a\r\n~1\r\n,1.5\r\n", b"$-1\r\n", b"=15\r\ntxt:Some string\r\n", b"(3492890328409238509324850943850\r\n"]
    for round_ in range(150):
        data = bytearray(rng.choice(seeds) * rng.randrange(1, 4)) if round_ % 2 else bytearray(rng.randbytes(40))
        for _ in range(rng.randrange(4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        proxy.send_down(bytes(data))
        try:
            token = client.acquire("orders", wait_ms=0)
            client.release("orders", token)
        except RpcError as error:
            assert error.reason in ("unavailable", "busy", "internal_error", "lost", "not_held", "wrong_type"), error
        client.ping()
    assert client.acquire("after all that", wait_ms=SOON * 1000) > 0


class FakeRedis:
    """Listens where a Redis server should be, and answers each connection with the next of `scripts`, for ever."""

    def __init__(self, path, scripts):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(16)
        self.scripts = scripts
        self.served = 0
        self.open = []
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                connection, _ = self.listener.accept()
                connection.settimeout(5)
                script = self.scripts[self.served % len(self.scripts)]
                self.open.append(connection)
                connection.recv(65536)
                if script is not None:
                    connection.sendall(script)
                    connection.close()
                self.served += 1
            except TimeoutError:
                continue
            except OSError:
                if self.listener.fileno() < 0:
                    return
                self.served += 1

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self.open:
            connection.close()


def test_a_server_that_is_no_redis(lab):
    """Each of these is all that the daemon ever hears. It serves its clients and says `unavailable`."""
    place = lab.directory / "fake"
    place.mkdir()
    fake = FakeRedis(place / "proxy.sock", [None, b"", *POISON.values()])

    class Store:
        url = f"unix://{place}/proxy.sock"

    daemon = lab.daemon(Store, lease_ms=1000, args=["--redis-timeout-ms", "100"], wait=False)
    daemon.wait_ready()
    client = daemon.client()
    try:
        def all_served():
            error = client.error_of(client.request("acquire", name="orders", wait_ms=0))
            assert error.reason == "unavailable"
            return fake.served > 6

        wait_until(all_served, "some of them")
        before = daemon.resident_bytes()
        assert before < 128 * MEGABYTE
    finally:
        fake.close()


def test_an_old_server_without_resp3_is_told_plainly(lab):
    place = lab.directory / "old"
    place.mkdir()
    fake = FakeRedis(place / "proxy.sock", [b"-ERR unknown command `HELLO`\r\n" * 10])

    class Store:
        url = f"unix://{place}/proxy.sock"

    daemon = lab.daemon(Store, lease_ms=1000, args=["--redis-timeout-ms", "100"], wait=False)
    daemon.wait_ready()
    try:
        wait_until(lambda: "HELLO" in daemon.log() or "RESP3" in daemon.log() or "6.0" in daemon.log(), "the reason")
    finally:
        fake.close()


def test_a_wrong_password_is_told_and_not_tried_for_ever_at_once(lab):
    redis = lab.redis()
    redis.admin.config_set("requirepass", "right")
    redis.admin.execute_command("AUTH", "right")
    daemon = lab.daemon(redis, lease_ms=1000, wait=False)
    daemon.wait_ready()
    client = daemon.client()
    error = client.error_of(client.request("acquire", name="orders", wait_ms=0))
    assert error.reason == "unavailable"
    wait_until(lambda: "password" in daemon.log(), "the reason in the log")
    redis.admin.config_set("requirepass", "")
    assert client.acquire("orders", wait_ms=SOON * 1000) > 0


def is_command(words):
    return words and words[0] in (b"EVALSHA", b"PING")


@pytest.mark.parametrize("push", [b">2\r\n+invalidate\r\n*1\r\n+x\r\n", POISON["a message of nonsense"]],
                         ids=["unknown", "message"])
def test_a_server_that_pushes_and_answers_nothing_is_found_dead(lab, push):
    """Its pushes prove that it has a connection. Who asks is told, and the next connection works."""
    redis = lab.redis()
    proxy = lab.proxy(redis)
    daemon = lab.daemon(proxy, lease_ms=20_000, args=["--redis-timeout-ms", "500"])
    client = daemon.client()
    token = client.acquire("held")
    proxy.set(hold_replies=True)
    connections = proxy.connections
    stop = threading.Event()

    def chatter():
        while not stop.wait(0.02):
            proxy.send_down(push)

    thread = threading.Thread(target=chatter)
    thread.start()
    try:
        error = client.error_of(client.request("acquire", name="orders", wait_ms=0))
        assert error.reason == "unavailable"
        wait_until(lambda: "no answer within" in daemon.log(), "the end of the connection")
        wait_until(lambda: proxy.connections > connections, "another connection")
        # Nor is one taken for good that says things, and nothing of the handshake.
        wait_until(lambda: "no answer to the handshake within" in daemon.log(), "the end of the handshake")
    finally:
        stop.set()
        thread.join()
    proxy.set(hold_replies=False)
    assert client.acquire("orders", wait_ms=SOON * 1000)
    assert client.release("held", token)["token"] == token


@pytest.mark.parametrize("how", ["hangs up", "refuses"])
def test_a_server_that_ends_behind_each_handshake_is_not_asked_again_and_again(lab, how):
    """The pause between connections grows until a command is answered, not until a handshake is."""
    redis = lab.redis()
    proxy = lab.proxy(redis)
    daemon = lab.daemon(proxy)
    client = daemon.client()
    token = client.acquire("held")

    def starts_commands(words):
        # The handshake's own scripts are loaded, and its rights are tried with a script of their own.
        return is_command(words) and (words[0] == b"PING" or b"held" in b" ".join(words))

    forever = dict(times=1 << 30)
    if how == "hangs up":
        rule = proxy.cut_before(starts_commands, **forever)
    else:
        rule = proxy.answer(starts_commands, b"-READONLY You can't write against a read only replica.\r\n", **forever)
    connected = lambda: daemon.log().count("connected to Redis")
    proxy.cut()
    # 50, 100, 200, 400, 800, 1600 and 2000 ms at the most, and at the least half of them.
    wait_until(lambda: rule.done >= 2, "two connections that came to nothing")
    began, before = boot_time(), connected()
    wait_until(lambda: boot_time() > began + 4, "four seconds")
    assert connected() - before <= 12, "4 s have room for 50 connections without a pause that grows"
    rule.times = 0
    assert client.acquire("orders", wait_ms=SOON * 1000)
    assert client.release("held", token)["token"] == token
