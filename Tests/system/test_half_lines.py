"""A restart of the daemon in the middle of a line: its client goes on writing, and no byte of it is missing."""

import json
import os
import struct

import pytest
from harness.service_manager import ServiceManager
from harness.state_memory import ATTEMPTS_OFFSET
from harness.waiting import wait_until


def has_begun_well(service):
    """Whether the end of this daemon would not count against what was left to it any more."""
    (memory,) = (descriptor for name, descriptor in service.store if name == "sidelock-state")
    return struct.unpack("<Q", os.pread(memory, 8, ATTEMPTS_OFFSET))[0] == 0


@pytest.mark.parametrize("how", ["hand-over", "crash"])
def test_a_long_line_goes_on_at_the_daemon_that_follows(lab, how):
    service = ServiceManager(lab, "--local")
    service.start()
    clients = [service.client() for _ in range(3)]
    # As long as a line may be, and each byte of it counts: the names are unlike each other.
    names = [f"{number:04d}" + "x" * 500 for number in range(64)]
    lines = []
    for index, client in enumerate(clients):
        client.acquire(f"of {index}")
        request = {"id": "all", "method": "acquire", "params": {"names": [f"{index}{name}" for name in names]}}
        lines.append(json.dumps(request).encode() + b"\n")
    # In four parts: in the middle of a piece, a byte more, as much as makes some pieces more, and the rest.
    ends = [0, 20_500, 20_501, 25_000, None]
    for part in range(4):
        for client, line in zip(clients, lines):
            client.send_raw(line[ends[part]:ends[part + 1]])
        # They were read before what this one says now.
        witness = service.client()
        witness.ping()
        witness.close()
        if part == 3:
            break
        if how == "crash":
            service.crash()
            service.start()
            wait_until(lambda: has_begun_well(service), "the daemon to have begun well")
        else:
            service.restart()
    for index, client in enumerate(clients):
        assert [lock["name"] for lock in client.reply_to("all")["locks"]] == [f"{index}{name}" for name in names]
    service.stop()
