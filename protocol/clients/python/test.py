"""What Python has beside the conformance suite, with a daemon at $SIDELOCK_SOCKET: the bindings to what programs already use."""

import asyncio
import itertools
import os
import random
import signal
import socket
import sys
import tempfile
import threading
import time

import sidelock


def raises(kind, call, *arguments, **named):
    try:
        call(*arguments, **named)
    except kind:
        return True
    return False


def beside(call):
    """What it gives in another thread."""
    found = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    thread.join()
    return found[0]


def test_the_error_says_what_mends_it():
    path = "/nonexistent/sidelock.sock"
    for fault in (told(lambda: sidelock.Client(path).lock("x").acquire()), told(lambda: asyncio.run(acquire_at(path)))):
        assert fault.reason == "no_daemon" and fault.args[0].endswith(f"start it with: sidelockd --redis URL --socket {path}"), fault
    if os.geteuid() != 0:
        with tempfile.TemporaryDirectory() as directory:
            path = directory + "/closed"
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path)
                os.chmod(path, 0)
                fault = told(lambda: sidelock.Client(path).lock("x").acquire())
                assert fault.reason == "permission" and fault.args[0].endswith(f"sidelock doctor --socket {path}"), fault


async def acquire_at(path):
    await sidelock.aio.Client(path).lock("x").acquire()


def told(call):
    """The error that it raises."""
    try:
        call()
    except sidelock.Error as fault:
        return fault
    raise AssertionError("it raised nothing")


def test_redis_lock():
    lock, other = sidelock.Lock("redis", timeout=60, blocking_timeout=0.05), sidelock.Lock("redis", timeout=60)
    assert lock.acquire() and lock.owned() and lock.locked() and other.locked() and not other.owned()
    assert not other.acquire(blocking=False) and not lock.acquire(blocking_timeout=0.05)
    assert lock.extend(90) and lock.reacquire() and isinstance(lock.token, int)
    assert beside(lambda: raises(sidelock.LockError, lock.release)), "a lock belongs to its thread"
    lock.release()
    assert raises(sidelock.LockError, lock.release) and not other.locked()
    with sidelock.Lock("redis", timeout=0.05) as short:
        while short.owned():
            time.sleep(0.005)
        assert raises(sidelock.LockNotOwnedError, short.extend, 5) or not short.owned()
        short.raise_on_release_error = False
    with other:
        assert raises(sidelock.LockError, lock.__enter__)


def test_redis_lock_is_extended_by_what_it_is_told():
    lock = sidelock.Lock("extended", timeout=60)
    with lock:
        assert lock.extend(0.01) and (time.sleep(0.2), lock.owned())[1], "later than it would have ended"
        assert lock.extend(0.05, replace_ttl=True)
        while lock.owned():
            time.sleep(0.005)
        lock.raise_on_release_error = False
    with sidelock.Lock("extended", timeout=0) as endless:
        time.sleep(0.1)
        assert endless.owned() and raises(sidelock.LockError, endless.extend, 1)


def test_text_that_is_none_is_refused():
    for call in (sidelock.lock("\ud800", wait=5).acquire, sidelock.lock("fine", wait=5, meta="\udcff").acquire,
                 sidelock.FileLock(os.fsdecode(b"/tmp/\xff"), timeout=5).acquire):
        assert told(call).reason == "invalid_params"
    with sidelock.lock("\u00e9\u2603\U0001f600\u2028\x01", wait=5):
        pass


def test_file_lock_excludes_the_threads_that_share_it():
    one = sidelock.FileLock("/nowhere/shared.lock", timeout=0.05)
    with one:
        assert beside(lambda: not one.is_locked and raises(TimeoutError, one.acquire))
    all_threads = sidelock.FileLock("/nowhere/shared.lock", 0.05, thread_local=False)
    with all_threads:
        assert beside(lambda: all_threads.is_locked and all_threads.acquire() and (all_threads.release(), True)[1])
        impatient = sidelock.FileLock("/nowhere/shared.lock", blocking=False)
        assert raises(TimeoutError, impatient.acquire)
    singleton, again = (sidelock.FileLock("/nowhere/shared.lock", is_singleton=True, timeout=0.05) for _ in range(2))
    with singleton, again:
        assert beside(lambda: raises(TimeoutError, again.acquire))


def test_file_lock():
    one, other = sidelock.FileLock("/nowhere/orders.lock"), sidelock.FileLock("/nowhere/orders.lock", timeout=0.05)
    with one:
        with one.acquire():
            assert one.lock_counter == 2 and one.is_locked
        assert one.is_locked and raises(TimeoutError, other.acquire) and raises(sidelock.Timeout, other.acquire, blocking=False)
    assert not one.is_locked
    with other:
        one_more = raises(sidelock.Timeout, one.acquire, 0)
        assert one_more
    one.acquire()
    one.acquire()
    one.release(force=True)
    with other:
        pass


def test_single_run():
    runs = []

    @sidelock.single_run("nightly-{0}", skipped="skipped")
    def nightly(shop, deeper=False):
        runs.append(shop)
        return beside(lambda: (nightly(shop), nightly("south"))) if deeper else shop

    assert nightly("north", deeper=True) == ("skipped", "south") and runs == ["north", "south"]
    assert nightly("north") == "north"

    @sidelock.single_run()
    def failing():
        raise ValueError

    assert raises(ValueError, failing) and raises(ValueError, failing)


def test_interrupts_leave_no_hold_behind():
    """As Ctrl-C, at any moment. What is told in the body, or behind it, is the program's own."""
    class Interrupt(BaseException):
        pass

    armed, hits = [False], 0

    def interrupt(*_):
        if armed[0]:
            armed[0] = False
            raise Interrupt

    signal.signal(signal.SIGALRM, interrupt)
    # One may come in a callback of the interpreter's own, which tells of it and goes on.
    sys.unraisablehook = lambda told: None
    client, other = sidelock.Client(), sidelock.Client()
    end = time.monotonic() + 3
    for round in itertools.count():
        if time.monotonic() > end:
            break
        name, lock = f"storm-{round % 3}", None
        try:
            armed[0] = True
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00002, 0.0006))
            if round % 2:
                with client.lock(name):
                    armed[0] = False
            else:
                lock = client.lock(name)
                lock.acquire()
                armed[0] = False
                lock.release()
        except (Interrupt, RuntimeError):  # of a Condition of Python's own that was interrupted
            hits += 1
            if lock is not None and lock.held:
                lock.release()
        finally:
            armed[0] = False
            signal.setitimer(signal.ITIMER_REAL, 0)
    assert hits > 0
    for number in range(3):
        other.lock(f"storm-{number}", wait=10).acquire().release()
    # An owner who had it before has it still.
    with client.lock("outer") as outer:
        for _ in range(50):
            try:
                armed[0] = True
                signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00002, 0.0006))
                with client.lock("outer"):
                    armed[0] = False
            except (Interrupt, RuntimeError):
                pass
            finally:
                armed[0] = False
                signal.setitimer(signal.ITIMER_REAL, 0)
            client.call("ping")
            assert outer.held and raises(sidelock.Busy, other.lock("outer").acquire, 0)
    other.lock("outer", wait=10).acquire().release()


if __name__ == "__main__":
    test_interrupts_leave_no_hold_behind()
    test_the_error_says_what_mends_it()
    test_redis_lock()
    test_redis_lock_is_extended_by_what_it_is_told()
    test_text_that_is_none_is_refused()
    test_file_lock()
    test_file_lock_excludes_the_threads_that_share_it()
    test_single_run()
