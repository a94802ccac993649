"""More messages to a daemon's inbox than it has time for, from somebody who may do nothing in Redis but publish."""

import pytest
import redis as redis_client

from harness.waiting import GENEROUS_SECONDS, boot_time

LEASE_MS = 3000
# So many at a time that the daemon finds them all there at once, and not so many that what comes behind them is late.
AT_ONCE = 2000
MESSAGES = {
    "grants that nobody waits for": "1;granted {attempt} 100 10 0;made-up/{number}",
    "waits for what is not held": "1;contended {attempt} {number} 1 b/0123456789abcdef x;made-up/{number}",
    "questions": "1;call {number} b/0123456789abcdef;3:who1:16:orders",
    "nonsense": "nonsense {number}",
}


@pytest.mark.parametrize("kind", MESSAGES)
def test_a_flood_of_messages_costs_nobody_a_lock_or_a_long_wait(lab, kind):
    redis = lab.redis()
    daemon = lab.daemon(redis, lease_ms=LEASE_MS)
    redis.admin.execute_command("ACL", "SETUSER", "loud", "on", ">x", "resetkeys", "resetchannels", "&sidelock:inbox:*", "+publish")
    loud = redis_client.Redis(unix_socket_path=str(redis.socket_path), username="loud", password="x")
    innocent = daemon.client()
    token = innocent.acquire("orders")
    (channel,) = redis.admin.pubsub_channels("sidelock:inbox:*")
    renewals = innocent.call("stats")["redis"]["renewals_total"]
    began = boot_time()
    published, at_once, left_out = 0, AT_ONCE, 0
    while boot_time() < began + 2.5 * LEASE_MS / 1000 or published < 10 * AT_ONCE or not left_out:
        with loud.pipeline(transaction=False) as pipeline:
            for number in range(published, published + at_once):
                pipeline.publish(channel, MESSAGES[kind].format(attempt=(1 << 51) + number, number=number))
            assert set(pipeline.execute()) == {1}
        published += at_once
        left_out = innocent.call("stats")["redis"]["pushes_left_out_total"]
        # What is cheap, or comes slowly on a busy machine, needs more of it.
        if not left_out:
            at_once = min(at_once + AT_ONCE, 20 * AT_ONCE)
            assert boot_time() < began + GENEROUS_SECONDS, "nothing was left out"
        innocent.ping()
        # What asks Redis is answered behind all that came before.
        innocent.ask_redis()
    figures = innocent.call("stats")
    assert figures["redis"]["pushes_total"] >= published
    assert figures["redis"]["pushes_left_out_total"] >= left_out > 0
    assert figures["redis"]["renewals_total"] > renewals
    assert figures["redis"]["connections_total"] == 1
    assert figures["lost_total"] == 0
    # In the time of a processor, which nobody beside this takes away.
    assert figures["turns"]["longest"]["processor_us"] < 100_000, figures["turns"]
    assert innocent.release("orders", token)["token"] == token
    assert "too many messages to the inbox" in daemon.log()
