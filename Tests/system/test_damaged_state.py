"""What a daemon left that makes no sense, or that ends whoever takes it up: there is another daemon all the same."""

import os
import struct

import pytest
from harness.client import Ended
from harness.service_manager import ServiceManager
from harness.state_memory import ATTEMPTS_OFFSET, IDENTITY, LEASE, change_records, with_format, with_lease_milliseconds, with_valid_until
from harness.waiting import wait_until

UNUSABLE = "what the daemon before left cannot be used"
CENTURIES = 9_223_372_036_000_000_000


def memory_of(service):
    (descriptor,) = (descriptor for name, descriptor in service.store if name == "sidelock-state")
    return descriptor


def ended(client):
    with pytest.raises((Ended, BrokenPipeError, ConnectionResetError)):
        client.ping()
    return True


def has_begun_well(service):
    """Whether the end of this daemon would not count against what was left to it any more."""
    return struct.unpack("<Q", os.pread(memory_of(service), 8, ATTEMPTS_OFFSET))[0] == 0


@pytest.mark.parametrize("change", [lambda lease: with_lease_milliseconds(lease, 1), lambda lease: with_lease_milliseconds(lease, 3),
                                    lambda lease: with_valid_until(lease, CENTURIES)],
                         ids=["a lease of 1 ms", "a lease of 3 ms", "a lease of centuries"])
def test_a_record_that_makes_no_sense_is_not_taken_up(lab, change):
    """Each of them is whole. A lease that is due for renewal at each moment would keep the loop busy for ever."""
    service = ServiceManager(lab, "--redis", lab.redis().url, "--lease-ms", "1000")
    service.start()
    holder = service.client()
    token = holder.acquire("orders")
    service.crash()
    assert change_records(memory_of(service), LEASE, change) >= 1
    service.start()
    assert UNUSABLE in service.log()
    assert ended(holder)
    # Its lease ends by itself.
    client = service.client()
    assert client.acquire("orders") > token
    for _ in range(20):
        client.ping()
    assert service.stop() == 0


@pytest.mark.parametrize("version, oldest_reader, words", [
    (3, 2, "its records are of format 3"), (1, 2, "its records are of format 1"), (11, 11, "for readers of format 11")])
def test_a_format_that_is_not_read_is_not_taken_up(lab, version, oldest_reader, words):
    """Whoever was connected is told by the end of the connection, and others get the lock when the lease has ended."""
    service = ServiceManager(lab, "--redis", lab.redis().url, "--lease-ms", "1000")
    service.start()
    holder = service.client()
    token = holder.acquire("orders")
    service.crash()
    assert change_records(memory_of(service), IDENTITY, lambda payload: with_format(payload, version, oldest_reader)) >= 1
    service.start()
    assert UNUSABLE in service.log() and words in service.log()
    assert ended(holder)
    assert service.client().acquire("orders") > token
    assert service.stop() == 0


def test_what_ends_two_daemons_is_set_aside(lab):
    """They end while they restore, and not by their own fault as far as this one can know."""
    proxy = lab.proxy(lab.redis())
    service = ServiceManager(lab, "--redis", proxy.url, "--lease-ms", "60000", "--redis-timeout-ms", "20000")
    service.start()
    holder = service.client()
    token = holder.acquire("orders")
    # A daemon that ends later, having begun well, is no sign of anything.
    for _ in range(3):
        service.crash()
        service.start()
        wait_until(lambda: has_begun_well(service), "a good beginning")
        assert holder.call("inspect", name="orders")["holders"][0]["token"] == token
    proxy.set(hold_replies=True)
    for _ in range(2):
        service.crash()
        taken = service.log().count("took over clients")
        service.spawn()
        wait_until(lambda: service.log().count("took over clients") > taken, "a daemon that restores")
        assert UNUSABLE not in service.log()
    service.crash()
    proxy.set(hold_replies=False)
    service.start()
    assert UNUSABLE in service.log() and "has ended 2 times with it" in service.log()
    assert ended(holder)
    assert service.client().acquire("other")
    assert service.stop() == 0

