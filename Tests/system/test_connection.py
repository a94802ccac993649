"""What the daemon says to Redis, and over how many connections."""

import collections

from harness.client import Client
from harness.waiting import boot_time, wait_until

CLIENTS = 1000


def watch(seconds, *clients):
    """Lets time pass on the clock of the leases, and serves the clients' sockets meanwhile; nothing may come."""
    end = boot_time() + seconds
    while boot_time() < end:
        for client in clients:
            message = client.receive(0.05)
            assert message is None, f"there came {message}"


def is_look(text, *names):
    """Whether a command is a host's look at its places in the queues of these locks, and in no others."""
    keys = [word for word in text.split('"') if word.startswith("sidelock:{")]
    wanted = [key for name in names for key in (f"sidelock:{{{name}}}", f"sidelock:{{{name}}}:queue")]
    return text.startswith('"EVALSHA"') and sorted(keys) == sorted(wanted)


def test_no_polling_while_waiting(lab, measured):
    """A host that waits says one thing a second, however many of its clients wait for whatever many locks."""
    redis = lab.redis()
    first, second = lab.daemon(redis, lease_ms=60_000), lab.daemon(redis, lease_ms=60_000)
    holder = first.client()
    for index in range(10):
        holder.acquire(f"lock-{index}")
    waiters = [second.client() for _ in range(20)]
    for index, waiter in enumerate(waiters):
        waiter.queue(f"lock-{index % 10}")
    # Each wait stands in Redis, and the holder's host has been told of it.
    wait_until(lambda: all(redis.admin.llen(f"sidelock:{{lock-{index}}}:queue") == 1 for index in range(10)), "the queues")
    monitor = redis.monitor()
    monitor.settle()
    started = boot_time()
    watch(4, waiters[0], holder)
    commands = monitor.commands()
    seconds = boot_time() - started
    monitor.close()
    by_text = collections.Counter(text for _, text in commands)
    # One look at all of its places. The holder has nothing to say in this time at all.
    names = [f"lock-{index}" for index in range(10)]
    assert all(is_look(text, *names) for text in by_text), by_text
    assert 2 <= sum(by_text.values()) <= seconds + 1
    # Redis' own count agrees: a client library could hide nothing from it.
    measured(f"commands in {seconds:.1f} s with 20 clients waiting for 10 locks", sum(by_text.values()))


def test_ten_thousand_waiters_are_one_connection_and_no_traffic(lab, measured):
    """Pitfalls 32 and 33, on one host."""
    redis = lab.redis()
    first, second = lab.daemon(redis, lease_ms=60_000), lab.daemon(redis, lease_ms=60_000)
    holder = first.client()
    tokens = [holder.acquire(f"lock-{index}") for index in range(10)]
    waiters = [second.client(check=False) for _ in range(80)]
    for waiter in waiters:
        for index in range(125):
            waiter.request("acquire", name=f"lock-{index % 10}")
        waiter.ping()
    assert len(redis.daemon_connections()) == 2 and len(redis.admin.pubsub_channels()) == 2
    # A ping is answered without Redis: that everything stands there has to be waited for.
    wait_until(lambda: sum(redis.admin.llen(f"sidelock:{{lock-{index}}}:queue") for index in range(10)) == 10, "the queues")
    monitor = redis.monitor()
    monitor.settle()
    started, before = boot_time(), second.cpu_nanoseconds()
    watch(3, waiters[0], holder)
    share = (second.cpu_nanoseconds() - before) / 1e9 / (boot_time() - started)
    names = [f"lock-{index}" for index in range(10)]
    assert all(is_look(text, *names) for _, text in monitor.commands())
    monitor.close()
    measured("share of a core with 10,000 waiters", f"{share * 100:.4f} %")
    assert share < 0.01
    # They are served in their order: each lock goes to the first one, and to the first one only.
    for index, token in enumerate(tokens):
        holder.release(f"lock-{index}", token)
    granted = [waiters[0].next()["result"]["name"] for _ in range(10)]
    assert sorted(granted) == sorted(f"lock-{index}" for index in range(10))
    assert waiters[0].poll() is None and waiters[1].poll() is None


def test_one_connection_for_a_thousand_clients(lab, measured):
    """Pitfall 33: one connection and one subscription a host, whatever its clients do."""
    redis = lab.redis()
    first, second = lab.daemon(redis), lab.daemon(redis)
    holder = first.client()
    tokens = {index: holder.acquire(f"lock-{index}") for index in range(20)}
    waiters = [second.client() for _ in range(CLIENTS)]
    requests = {}
    for index, waiter in enumerate(waiters):
        requests[waiter] = waiter.request("acquire", name=f"lock-{index % 20}")
        # What several connections send at once has no order among them.
        waiter.ping()
    assert len(redis.daemon_connections()) == 2
    channels = redis.admin.pubsub_channels()
    assert len(channels) == 2
    # The queue in Redis knows hosts, not clients.
    wait_until(lambda: all(redis.admin.llen(f"sidelock:{{lock-{index}}}:queue") == 1 for index in range(20)), "the queues")
    assert second.client().call("inspect", name="lock-0")["waiting"] == CLIENTS // 20
    for index, token in tokens.items():
        holder.release(f"lock-{index}", token)
    # Everybody has a turn, in the order in which they came.
    for waiter in waiters:
        index = waiters.index(waiter) % 20
        token = waiter.reply_to(requests[waiter])["token"]
        assert token > tokens[index]
        tokens[index] = token
        waiter.release(f"lock-{index}", token)
    assert len(redis.daemon_connections()) == 2
    measured(f"connections to Redis of two hosts with {CLIENTS} clients", 2)


def test_no_clock_of_ours_is_sent_to_redis(lab):
    """Pitfall 13: no command carries a moment in time; what is sent are lengths of time."""
    redis = lab.redis()
    monitor = redis.monitor()
    daemon, other = lab.daemon(redis, lease_ms=4000), lab.daemon(redis, lease_ms=4000)
    client, waiter = daemon.client(), other.client()
    token = client.acquire("orders")
    request = waiter.queue("orders")
    # Long enough for a renewal to be among them.
    watch(2.0, waiter)
    client.release("orders", token)
    waiter.reply_to(request)
    text = "\n".join(text for _, text in monitor.commands()).upper()
    monitor.close()
    for word in ("PXAT", "EXAT", "EXPIREAT"):
        assert word not in text


def test_a_release_leaves_nothing_in_redis(lab):
    """Pitfall 26: neither the lock's key nor its queue stay; what stays goes by itself."""
    redis = lab.redis()
    clients = [lab.daemon(redis).client() for _ in range(2)]
    for name in ("orders", "a{b}c", "with space"):
        token = clients[0].acquire(name)
        request = clients[1].queue(name)
        clients[0].release(name, token)
        clients[1].release(name, clients[1].reply_to(request)["token"])
    clients[0].request("acquire", name="dropped")
    clients[0].ping()  # it has been read, and may be on its way to Redis
    clients[0].close()

    def only_fences():
        return all(key.endswith(b":fence") for key in redis.keys())

    wait_until(only_fences, "the end of all locks")
    # -1 would be a key that stays for ever; one may also have gone since it was listed.
    assert all(redis.admin.pttl(key) != -1 for key in redis.keys())


def test_the_same_state_here_and_there(lab):
    """Pitfall 26: what the hosts believe to hold, and what stands in Redis, are the same."""
    redis = lab.redis()
    hosts = ["one", "two"]
    clients = [lab.daemon(redis, args=["--host", host]).client() for host in hosts]
    names = [f"lock-{index}" for index in range(10)]
    for index, name in enumerate(names):
        clients[index % 2].acquire(name)
    for client, host in zip(clients, hosts):
        listed = {lock["name"]: lock for lock in list_all(client, scope="all")}
        assert set(listed) == set(names)
        assert all(len(lock["holders"]) == 1 for lock in listed.values())
        own = {lock["name"] for lock in list_all(client, scope="host")}
        assert own == {name for name, lock in listed.items() if lock["holders"][0]["host"] == host}
        assert len(own) == 5
    keys = {key.decode() for key in redis.keys() if key.endswith(b"}")}
    assert keys == {f"sidelock:{{{name}}}" for name in names}


def list_all(client, page=3, **params):
    """All pages of `list`."""
    locks, cursor = [], None
    while True:
        more = {} if cursor is None else {"cursor": cursor}
        answer = client.call("list", limit=page, **more, **params)
        assert len(answer["locks"]) <= page
        locks += answer["locks"]
        cursor = answer["cursor"]
        if cursor is None:
            return locks


def test_list_gives_every_lock_once_page_by_page(lab):
    redis = lab.redis()
    daemon = lab.daemon(redis)
    client = daemon.client()
    names = [f"{group}-{index:03}" for group in ("a", "b{}") for index in range(100)]
    for name in names:
        client.acquire(name, meta="m" * 1000)
    for scope in ("host", "all"):
        listed = [lock["name"] for lock in list_all(client, page=7, scope=scope)]
        assert sorted(listed) == sorted(names)
        # A page never exceeds a line, however much it is asked for.
        assert sorted(lock["name"] for lock in list_all(client, page=1000, scope=scope)) == sorted(names)
        some = [lock["name"] for lock in list_all(client, page=7, scope=scope, prefix="b{}-0")]
        assert sorted(some) == [name for name in names if name.startswith("b{}-0")]
    for cursor in ("", "nonsense", "0", "\u0000", "x" * 2000):
        answer = client.request("list", cursor=cursor)
        try:
            client.reply_to(answer)
        except Exception as error:  # noqa: BLE001 - a refusal is as good as a page
            assert error.reason == "invalid_params"


def test_closing_a_client_frees_only_its_own(lab):
    """Pitfall 27: two clients, one daemon; the end of one is nothing to the other's hold or wait."""
    redis = lab.redis()
    daemon, other = lab.daemon(redis), lab.daemon(redis)
    keeper, waiter = daemon.client(), other.client()
    token = keeper.acquire("orders")
    request = waiter.queue("orders")
    for _ in range(20):
        passing = Client(daemon.socket_path)
        passing.queue("orders")
        passing.acquire("own")
        passing.close()
    witness = daemon.client()
    wait_until(lambda: witness.call("inspect", name="orders")["waiting"] == 0, "the end of those who left")
    assert [h["token"] for h in witness.call("inspect", name="orders")["holders"]] == [token]
    assert waiter.poll() is None
    witness.acquire("own")
    keeper.release("orders", token)
    assert waiter.reply_to(request)["token"] > token


def test_key_prefixes_and_databases_are_worlds_apart(lab):
    redis = lab.redis()
    daemons = [lab.daemon(redis), lab.daemon(redis, args=["--key-prefix", "other:"])]
    for daemon in daemons:
        assert daemon.client().acquire("orders", wait_ms=0) > 0
    keys = {key for key in redis.keys() if key.endswith(b"}")}
    assert keys == {b"sidelock:{orders}", b"other:{orders}"}
    assert [lock["name"] for lock in list_all(daemons[0].client(), scope="all")] == ["orders"]


def test_the_holds_of_a_session_are_limited_and_freed_together(lab, measured):
    """At the limit, one past it, and the end of it all, which nobody else notices."""
    limit = 65_536
    daemon = lab.daemon()
    greedy, bystander = daemon.client(check=False), daemon.client()
    for start in range(0, limit, 64):
        for index in range(start, start + 64):
            greedy.request("acquire", name=f"lock-{index}", wait_ms=0)
        for _ in range(64):
            assert "result" in greedy.next()
    error = greedy.error_of(greedy.request("acquire", name="one too many", wait_ms=0))
    assert (error.reason, error.data["limit"]) == ("limit", "holds_per_session")
    greedy.release("lock-0")
    assert greedy.acquire("one too many", wait_ms=0) > 0
    greedy.close()
    asked = boot_time()
    token = bystander.acquire(f"lock-{limit - 1}")
    measured("an acquire of the last of 65,536 locks after their session's end", f"{(boot_time() - asked) * 1000:.1f} ms")
    assert token > 0
    wait_until(lambda: len(bystander.call("list")["locks"]) == 1, "the end of the others")
