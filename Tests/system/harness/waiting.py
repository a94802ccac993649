"""Waiting for conditions. Nothing here, and no test, sleeps to let something happen."""

import time

# However slow the machine is, what a test waits for has happened by then, or never will.
GENEROUS_SECONDS = 60.0
GENEROUS_MS = int(GENEROUS_SECONDS * 1000)


def boot_time():
    """Seconds on the clock that leases are counted on."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wait_until(condition, what, seconds=GENEROUS_SECONDS, pause=0.005):
    """Returns the first true value that `condition` gives; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s in vain: {what}")
        time.sleep(pause)
