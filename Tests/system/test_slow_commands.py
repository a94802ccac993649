"""`sidelock` beside a daemon that lives and has to wait: for Redis over a slow link, or for a host that does not answer.

What is asserted is what happens, and never how long it takes.
"""

import subprocess

import pytest
from harness.command import Command
from harness.waiting import GENEROUS_SECONDS

LEASE_MS = 120_000  # so long that nothing in a test can be due to its end, however busy the machine is
QUERIES = [["inspect", "orders"], ["list", "--all"], ["call", "inspect", '{"name":"orders"}'],
           ["call", "list", '{"scope":"all"}']]
TRIES = [["run", "-n", "orders", "--", "true"], ["run", "-w", "0.5", "orders", "--", "true"],
         ["call", "acquire", '{"name":"orders","wait_ms":0}']]


def all_end(command, several, status):
    """They run beside each other, since each takes its time. What they have printed."""
    started = [(arguments, command.start(*arguments, stdin=subprocess.PIPE)) for arguments in several]
    printed = []
    for arguments, process in started:
        found, out, err = process.wait(GENEROUS_SECONDS), process.stdout.read(), process.stderr.read()
        assert found == status, (arguments, out, err)
        printed.append(out)
    return printed


def test_every_command_succeeds_over_a_link_of_a_second_each_way(lab):
    redis = lab.redis()
    proxies = [lab.proxy(redis) for _ in range(2)]
    holding, asking = (
        lab.daemon(proxy, lease_ms=LEASE_MS, args=["--redis-timeout-ms", "6000"]) for proxy in proxies)
    holder = holding.client()
    asking.client().ping()
    for proxy in proxies:
        proxy.set(delay_seconds=1)
    token = holder.acquire("orders", meta="nightly")
    command = Command(lab, asking)
    for out in all_end(command, QUERIES, 0):
        assert "nightly" in out
    all_end(command, TRIES, 1)
    status, out, err = command.run("break", "orders")
    assert (status, err) == (0, "") and str(token) in out
    assert holder.notification("lost")["reason"] == "broken"
    assert command.run("run", "-w", "60", "orders", "--", "true")[0] == 0


def test_every_command_waits_for_what_the_daemon_waits_for(lab):
    """A host that holds the lock is silent, and by the settings it may be so for longer than an answer may take."""
    redis = lab.redis()
    holding, asking = (lab.daemon(redis, lease_ms=LEASE_MS, args=["--redis-timeout-ms", "7000"]) for _ in range(2))
    holding.client().acquire("orders")
    holding.stop()
    command = Command(lab, asking)
    for out in all_end(command, QUERIES, 0):
        assert '"orders"' in out
    all_end(command, TRIES, 1)
    status, out, err = command.run("break", "orders")
    assert status == 0 and "host_silent" in out
    assert "whoever held it there was not told" in err
    holding.resume()


@pytest.mark.parametrize("arguments", [["break", "orders"], ["call", "break", '{"name":"orders"}']], ids=lambda words: words[0])
def test_an_order_that_may_be_carried_out_is_not_said_to_have_failed(lab, arguments):
    """It lies in the socket of a daemon that is stopped."""
    daemon = lab.daemon()
    client = daemon.client()
    client.acquire("orders")
    daemon.stop()
    status, _, err = Command(lab, daemon).run(*arguments)
    assert status == 69 and "not answered" in err
    assert "the lock may be broken all the same, now or later" in err
    daemon.resume()
    assert client.notification("lost")["reason"] == "broken"


def test_a_query_does_not_speak_of_orders(lab):
    daemon = lab.daemon()
    daemon.stop()
    status, _, err = Command(lab, daemon).run("inspect", "orders")
    assert status == 69 and "not answered" in err and "broken" not in err
    daemon.resume()
