"""The log as a weapon: whoever may take locks, or publish to an inbox, must not be able to fill it."""

import re

from harness.waiting import boot_time, wait_until


def lines_and_count(daemon, message):
    """Lines with a message, and how many more a line of another kind tells of."""
    log = daemon.log()
    left_out = [one or other for one, other in re.findall(
        rf'log messages left out (?:kind="{message}" count=(\d+)|count=(\d+) kind="{message}"(?: uid=\d+)?)', log)]
    return len(re.findall(rf"(?:info|notice|warning|error) +{message}", log)), sum(map(int, left_out)), len(left_out)


def test_locks_that_are_lost_in_a_loop(lab):
    daemon = lab.daemon()
    client = daemon.client()
    began = boot_time()
    total = 0
    while boot_time() < began + 3 or total < 1000:
        requests = [client.request("acquire", name=f"lock-{index}", max_hold_ms=1) for index in range(50)]
        for request in requests:
            client.reply_to(request)
        total += len(requests)
    wait_until(lambda: client.call("stats")["lost_total"] == total, "the losses")
    assert daemon.terminate() == 0
    seconds = boot_time() - began
    lines, counted, summaries = lines_and_count(daemon, "lock lost")
    assert min(total, 1000) <= lines <= 1002 + 100 * seconds and lines + counted == total
    assert summaries <= 2 + seconds / 10


def test_messages_that_make_no_sense(lab):
    redis = lab.redis()
    daemon = lab.daemon(redis)
    client = daemon.client()
    began = boot_time()
    (channel,) = redis.admin.pubsub_channels("sidelock:inbox:*")
    total = 5000
    with redis.admin.pipeline(transaction=False) as pipeline:
        for number in range(total):
            pipeline.publish(channel, f"nonsense {number}")
        pipeline.execute()
    client.acquire("orders")
    wait_until(lambda: client.call("stats")["redis"]["pushes_total"] >= total, "the messages")
    left_out = client.call("stats")["redis"]["pushes_left_out_total"]
    assert daemon.terminate() == 0
    lines, counted, summaries = lines_and_count(daemon, "a message to the inbox was not understood")
    assert 20 <= lines <= 22 + boot_time() - began and lines + counted + left_out == total
