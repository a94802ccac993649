"""Why a daemon has no connection to Redis."""

import re

import pytest

from .client import RpcError
from .waiting import wait_until


def reason(daemon, words):
    """The reason that the log and the status line give, when it is that; meanwhile a try is told that nobody knows."""
    wait_until(lambda: re.search(words, daemon.log()), words)
    status = wait_until(lambda: [line for line in daemon.notify.lines("STATUS=") if re.search(words, line)], "the status")
    with pytest.raises(RpcError) as refused:
        daemon.client().acquire("orders", wait_ms=0)
    assert refused.value.reason == "unavailable"
    return status[-1]
