"""Signals to the daemon and to `sidelock run`: crashes, stops that come twice, those that mean nothing; and what stands
for standard streams that are closed."""

import os
import pathlib
import resource
import signal
import socket
import subprocess

import pytest
from harness.client import Ended
from harness.command import Command, is_alive
from harness.daemon import binary, clean_environment
from harness.service_manager import HAND_OVER, STOP, ServiceManager
from harness.waiting import boot_time, wait_until

CRASHES = [signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGTRAP, signal.SIGQUIT,
           signal.SIGSYS]
# What stands for "at once". It takes milliseconds, on a busy machine more; the runtime's backtrace takes half a minute.
AT_ONCE_SECONDS = 20
BACKTRACES = ["enable=yes", "enable=no", "enable=yes,interactive=no,threads=all"]


def ignoring(number):
    """For a process that starts with a signal ignored, as the background of some shells does."""
    return ["bash", "-c", f"trap '' {int(number)}; exec \"$@\"", "bash"]


# Crashes

@pytest.mark.parametrize("backtrace", BACKTRACES)
@pytest.mark.parametrize("number", CRASHES)
def test_a_crash_ends_the_daemon_at_once(lab, number, backtrace):
    daemon = lab.daemon(env={"SWIFT_BACKTRACE": backtrace})
    holder, waiter = daemon.client(), daemon.client()
    holder.acquire("orders")
    waiter.queue("orders")
    daemon.may_fail = True
    daemon.signal(number)
    assert daemon.process.wait(AT_ONCE_SECONDS) == -number
    for client in (holder, waiter):
        with pytest.raises(Ended):
            client.next(AT_ONCE_SECONDS)


def test_an_abort_tells_what_the_daemon_was_busy_with(lab):
    """So systemd ends it when it does not answer."""

    def told(*lines):
        daemon = lab.daemon()
        client = daemon.client()
        client.ping()
        for line in lines:
            client.send_raw(line)
            client.next()
        daemon.may_fail = True
        daemon.signal(signal.SIGABRT)
        assert daemon.process.wait(AT_ONCE_SECONDS) == -signal.SIGABRT
        begin, words = daemon.log().splitlines()[-1].rsplit(": ", 1)
        assert begin == "sidelockd: ended by SIGABRT, as by a watchdog; its event loop was busy with"
        return words

    wait_until(lambda: told() == "nothing, it was waiting", "a daemon that is caught when it waits")
    wait_until(lambda: told(b'{"id":1,"method":"list"}\n' * 5000) in ("query", "input", "send"),
               "a daemon that is caught at work")


def test_a_crash_ends_the_daemon_also_when_it_started_with_the_signal_ignored(lab):
    daemon = lab.daemon(prefix=ignoring(signal.SIGQUIT))
    daemon.may_fail = True
    daemon.signal(signal.SIGQUIT)
    assert daemon.process.wait(AT_ONCE_SECONDS) == -signal.SIGQUIT


def test_a_core_dump_leaves_the_kept_state_out(lab):
    """It is eight gibibytes of which nearly all was never written; a dump would have the kernel make all of it."""
    daemon = lab.daemon(
        env={"FDSTORE": "64"}, prefix=["bash", "-c", f"cd {lab.directory}; exec \"$@\"", "bash"])
    daemon.client().acquire("orders")
    mappings = pathlib.Path(f"/proc/{daemon.pid}/smaps").read_text().split("\nVmFlags:")
    flags = [after.split("\n")[0] for before, after in zip(mappings, mappings[1:]) if "memfd:" in before]
    assert flags, "no memory for what is kept"
    assert all(" dd" in line for line in flags)
    limit = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.prlimit(daemon.pid, resource.RLIMIT_CORE, limit)
    daemon.may_fail = True
    daemon.signal(signal.SIGSEGV)
    assert daemon.process.wait(AT_ONCE_SECONDS) == -signal.SIGSEGV


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGILL])
def test_a_crash_of_run_ends_its_command_and_frees_the_lock(lab, number):
    daemon = lab.daemon()
    command = Command(lab, daemon)
    run = command.start("run", "orders", "--", "sh", "-c", "echo $$; exec sleep 1000")
    child = int(run.stdout.readline())
    waiter = daemon.client()
    request = waiter.queue("orders")
    run.send_signal(number)
    assert run.wait(AT_ONCE_SECONDS) == -number
    assert waiter.reply_to(request, AT_ONCE_SECONDS)["token"]
    wait_until(lambda: not is_alive(child), "the end of the command")


# Signals that mean nothing

@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, HAND_OVER])
def test_a_signal_that_means_nothing_changes_nothing(lab, number):
    """Where nobody keeps clients and locks there is nobody to leave them to either."""
    daemon = lab.daemon()
    client = daemon.client()
    token = client.acquire("orders")
    daemon.signal(number)
    wait_until(lambda: "signal that means nothing" in daemon.log() or "cannot be left" in daemon.log(), "a word of it")
    assert client.release("orders", token)["token"] == token
    # Nor does it use up anything: the stop is as ever.
    assert daemon.terminate() == 0
    assert not daemon.socket_path.exists()


# Stops that come twice

def send_at_once(daemon, *numbers):
    """Signals that are all there before the daemon looks at the first."""
    daemon.stop()
    for number in numbers:
        daemon.signal(number)
    daemon.resume()


def test_a_stop_that_comes_twice_is_one(lab):
    redis = lab.redis()
    daemon = lab.daemon(redis)
    client = daemon.client()
    token = client.acquire("orders")
    send_at_once(daemon, signal.SIGTERM, signal.SIGINT)
    lost = [message["params"] for message in client.wait_for_end() if message.get("method") == "lost"]
    assert [(loss["token"], loss["reason"]) for loss in lost] == [(token, "shutdown")]
    assert daemon.process.wait(AT_ONCE_SECONDS) == 0
    assert not daemon.socket_path.exists()
    assert redis.admin.exists("sidelock:{orders}") == 0


def test_a_stop_again_after_half_a_second_ends_at_once(lab):
    """A stop that hangs, because Redis does, need not be waited for."""
    redis = lab.redis()
    daemon = lab.daemon(redis)
    daemon.client().acquire("orders")
    redis.stop()
    daemon.signal(signal.SIGTERM)
    wait_until(lambda: daemon.notify.lines("STOPPING=1"), "the beginning of the stop")
    began = boot_time()
    wait_until(lambda: boot_time() > began + 0.6, "half a second")
    daemon.may_fail = True
    daemon.signal(signal.SIGTERM)
    assert daemon.process.wait(AT_ONCE_SECONDS) == 1


def send_all_at_once(service, *numbers):
    service.process.send_signal(signal.SIGSTOP)
    for number in numbers:
        service.process.send_signal(number)
    service.process.send_signal(signal.SIGCONT)
    assert service.process.wait(AT_ONCE_SECONDS) == 0, service.log()


@pytest.mark.parametrize("numbers", [
    [signal.SIGTERM], [signal.SIGINT], [signal.SIGTERM, signal.SIGINT], [HAND_OVER, signal.SIGTERM],
    [HAND_OVER, signal.SIGTERM, signal.SIGINT], [signal.SIGTERM, HAND_OVER]], ids=str)
def test_where_somebody_keeps_them_clients_are_left_to_the_next_daemon(lab, numbers):
    """Also where nobody has announced that one follows."""
    redis = lab.redis()
    service = ServiceManager(lab, "--redis", redis.url, "--lease-ms", "60000")
    service.start()
    holder, waiter = service.client(), service.client()
    token = holder.acquire("orders")
    request = waiter.queue("orders")
    send_all_at_once(service, *numbers)
    assert "STATUS=Restarting" in service.lines
    service.start()
    assert holder.release("orders", token)["token"] == token
    assert waiter.reply_to(request)["token"] > token
    assert service.stop() == 0


@pytest.mark.parametrize("numbers", [
    [STOP], [STOP, signal.SIGTERM], [STOP, signal.SIGTERM, signal.SIGINT], [signal.SIGTERM, STOP]], ids=str)
def test_a_stop_that_is_announced_gives_everything_back(lab, numbers):
    redis = lab.redis()
    service = ServiceManager(lab, "--redis", redis.url, "--lease-ms", "60000")
    service.start()
    holder, waiter = service.client(), service.client()
    token = holder.acquire("orders")
    request = waiter.queue("orders")
    send_all_at_once(service, *numbers)
    lost = [message["params"] for message in holder.wait_for_end() if message.get("method") == "lost"]
    assert [(loss["token"], loss["reason"]) for loss in lost] == [(token, "shutdown")]
    refused = [message["error"]["data"]["reason"] for message in waiter.wait_for_end() if message.get("id") == request]
    assert refused == ["shutting_down"]
    assert redis.admin.exists("sidelock:{orders}") == 0


def test_a_stop_that_nobody_announced_leaves_nothing_but_leases(lab):
    """The service manager lets go of what it kept, and clients see the end of their connections."""
    redis = lab.redis()
    service = ServiceManager(lab, "--redis", redis.url, "--lease-ms", "2000")
    service.start()
    holder = service.client()
    holder.acquire("orders")
    assert service.stop(announced=False) == 0
    assert [message for message in holder.wait_for_end() if "method" in message] == []
    wait_until(lambda: redis.admin.exists("sidelock:{orders}") == 0, "the end of the lease")


def test_a_restart_that_is_announced_while_the_daemon_starts_costs_nobody_a_lock(lab):
    """The announcement comes too early for a hand-over. The signal behind it comes when the daemon serves."""
    redis = lab.redis()
    service = ServiceManager(lab, "--redis", redis.url, "--lease-ms", "60000")
    os.kill(redis.process.pid, signal.SIGSTOP)
    service.spawn()
    wait_until(lambda: "FDNAME=sidelock-state-witness" in service.lines, "the beginning of the start")
    service.process.send_signal(HAND_OVER)
    wait_until(lambda: "this one does not serve" in service.log(), "the announcement to be heard")
    os.kill(redis.process.pid, signal.SIGCONT)
    wait_until(lambda: "READY=1" in service.lines, "READY=1")
    holder = service.client()
    token = holder.acquire("orders")
    service.process.terminate()
    assert service.process.wait(AT_ONCE_SECONDS) == 0, service.log()
    service.start()
    assert holder.release("orders", token)["token"] == token
    assert service.stop() == 0


def test_settings_that_make_other_locks_are_found_at_an_end_that_nobody_announced(lab):
    """They could not be taken over: who holds them is told, and nobody has to wait for a lease."""
    redis = lab.redis()
    config = lab.directory / "sidelockd.yaml"
    config.write_text(f"redis: {redis.url}\nlease_ms: 60000\n")
    service = ServiceManager(lab, "--config", config)
    service.start()
    holder = service.client()
    token = holder.acquire("orders")
    config.write_text(config.read_text() + "key_prefix: 'other:'\n")
    assert service.stop(announced=False) == 0
    lost = [message["params"] for message in holder.wait_for_end() if message.get("method") == "lost"]
    assert [(loss["token"], loss["reason"]) for loss in lost] == [(token, "shutdown")]
    assert redis.admin.exists("sidelock:{orders}") == 0


@pytest.mark.parametrize("numbers", [[signal.SIGTERM], [HAND_OVER, signal.SIGTERM]], ids=str)
@pytest.mark.parametrize("when", ["from the start", "later"])
def test_where_the_service_manager_keeps_nothing_everything_is_given_back(lab, when, numbers):
    """It may offer less room than the environment says, and tells nobody."""
    redis = lab.redis()
    service = ServiceManager(lab, "--redis", redis.url, "--lease-ms", "60000")
    service.keeps = when == "later"
    service.start()
    holder = service.client()
    token = holder.acquire("orders")
    if when == "later":
        wait_until(lambda: any(name.startswith("client-") for name, _ in service.store), "the client to be kept")
        service.drop()
    else:
        wait_until(lambda: "the service manager keeps nothing" in service.log(), "a word of it")
    send_all_at_once(service, *numbers)
    lost = [message["params"] for message in holder.wait_for_end() if message.get("method") == "lost"]
    assert [(loss["token"], loss["reason"]) for loss in lost] == [(token, "shutdown")]
    assert redis.admin.exists("sidelock:{orders}") == 0


# Standard streams that are closed

def descriptors(pid):
    found = {}
    for path in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        found[int(path.name)] = os.readlink(path)
    return found


@pytest.mark.parametrize("closed", [[0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]])
def test_closed_standard_streams_lead_nowhere(lab, closed):
    closing = " ".join(f"{number}>&-" for number in closed)
    daemon = lab.daemon(args=["--log-level", "trace"], prefix=["bash", "-c", f"exec \"$@\" {closing}", "bash"])
    client = daemon.client()
    client.acquire("orders")
    open_now = descriptors(daemon.pid)
    assert [open_now[number] for number in closed] == ["/dev/null"] * len(closed)
    assert daemon.client().call("list")["locks"]


def test_handed_over_sockets_stay_where_they_are(lab):
    path = str(lab.directory / "handed-over.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        process = lab.track(subprocess.Popen(
            ["bash", "-c", f"exec 3<&{listener.fileno()} 0<&- 1>&- 2>&-; LISTEN_PID=$$ exec \"$@\"", "bash",
             binary("sidelockd", "SIDELOCKD"), "--local", "--log-level", "trace"],
            env=clean_environment(LISTEN_FDS="1", LISTEN_FDNAMES="sidelock"), pass_fds=[listener.fileno()],
            stderr=subprocess.PIPE))
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(path)
        client.sendall(b'{"id":1,"method":"ping"}\n')
        assert client.recv(1 << 16) == b'{"jsonrpc":"2.0","id":1,"result":{}}\n'
    found = descriptors(process.pid)
    assert [found[number] for number in range(3)] == ["/dev/null"] * 3
    process.terminate()
    assert process.wait(30) == 0
