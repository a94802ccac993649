"""How long the daemon's loop is busy at a time, as `stats` and the journal tell."""

import os
import pathlib
import signal
import time

from harness.waiting import wait_until


def test_turns_are_counted_and_the_longest_is_told_with_its_cause(lab):
    client = lab.daemon(lab.redis()).client()
    for _ in range(200):
        client.release("a", client.acquire("a"))
    turns = client.call("stats")["turns"]
    assert turns["total"] == sum(count for name, count in turns["by_microseconds"].items() if name != "sum") >= 400
    assert list(turns["by_microseconds"]) == [
        "100", "300", "1000", "3000", "10000", "30000", "100000", "300000", "1000000", "more", "sum"]
    longest = turns["longest"]
    assert 0 < longest["processor_us"] <= longest["us"]
    assert 0 <= longest["work_us"] <= longest["us"]
    assert longest["work"] in {
        "acquire", "release", "query", "input", "connect", "disconnect", "timer", "redis", "send", "service"}


def test_a_loop_that_stood_still_is_told_in_the_log(lab):
    """Stopped in the middle of its work, as by a debugger or a host that is out of memory."""
    daemon = lab.daemon()
    clients = [daemon.client() for _ in range(4)]

    def is_at_work():
        tasks = [path.read_text() for path in pathlib.Path(f"/proc/{daemon.pid}/task").glob("*/stat")]
        return any(stat.rpartition(")")[2].split()[0] == "R" for stat in tasks)

    def was_caught():
        for client in clients:
            client.send_raw(b'{"id":1,"method":"list"}\n' * 500)
        # Stopped before it has begun, it would find nothing in its way. A look takes less than a turn.
        for _ in range(1000):
            if is_at_work():
                break
        os.kill(daemon.pid, signal.SIGSTOP)
        since = time.monotonic()
        wait_until(lambda: time.monotonic() - since > 0.06, "a time that is long for a turn")
        os.kill(daemon.pid, signal.SIGCONT)
        for client in clients:
            for _ in range(500):
                client.next()
        return "a turn of the event loop took long" in daemon.log()

    wait_until(was_caught, "the daemon to be stopped inside a turn")
