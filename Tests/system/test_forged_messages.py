"""Messages to a daemon's inbox that no daemon has sent."""

import re

import redis as redis_client


def inbox_of(client):
    host = client.call("initialize")
    return f"sidelock:inbox:{host['host']}/{host['instance']}"


def test_a_forged_grant_makes_nobody_a_holder(lab):
    """Its sender may do nothing in Redis but publish to the inboxes, and tries the attempts that a counter would have."""
    redis = lab.redis()
    holder_host, host = lab.daemon(redis), lab.daemon(redis)
    holder, client = holder_host.client(), host.client()
    token = holder.acquire("orders")
    waiting = client.queue("orders")
    redis.admin.execute_command("ACL", "SETUSER", "loud", "on", ">x", "resetkeys", "resetchannels", "&sidelock:inbox:*", "+publish")
    loud = redis_client.Redis(unix_socket_path=str(redis.socket_path), username="loud", password="x")
    channel = inbox_of(client)
    entries = redis.admin.lrange("sidelock:{orders}:queue", 0, -1)
    (attempt,) = (int(re.fullmatch(rb".*/[0-9a-f]+:(\d+):.*", entry)[1]) for entry in entries)
    assert 1 << 51 <= attempt < 1 << 53
    with loud.pipeline(transaction=False) as pipeline:
        for number in range(1, 3000):
            pipeline.publish(channel, f"1;granted {number} {token + 1000} 10 0;orders")
        assert set(pipeline.execute()) == {1}
    loud.close()
    # Behind the messages on the same connection comes what this asks of Redis.
    assert client.call("list", scope="all")["locks"]
    assert client.call("inspect", name="orders")["waiters"]
    assert holder.release("orders", token)["token"] == token
    assert client.reply_to(waiting)["token"] > token


def test_attempts_of_a_host_go_on_in_scripts(lab):
    """All of the scripts compare them; so large a number must come out of each of them as it went in."""
    redis = lab.redis()
    hosts = [lab.daemon(redis) for _ in range(2)]
    first, second = (host.client() for host in hosts)
    token = 0
    for round_ in range(20):
        mine = first.acquire("orders", mode="shared" if round_ % 3 == 0 else "exclusive")
        waiting = second.queue("orders")
        first.release("orders", mine)
        theirs = second.reply_to(waiting)["token"]
        assert token < mine < theirs
        second.release("orders", theirs)
        token = theirs
    value = redis.admin.get("sidelock:{orders}")
    assert value is None or b"e+" not in value
