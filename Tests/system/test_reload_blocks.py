"""A reload that blocks, for a file or for who a user is: signals are heard all the same, and nothing is lost by it.

Who users are is asked in a pipe in the place of /etc/passwd, in a mount namespace of the daemon's own.
"""

import errno
import os
import pathlib
import signal
import socket
import subprocess

import pytest
from harness.daemon import binary, clean_environment
from harness.service_manager import ServiceManager
from harness.waiting import GENEROUS_SECONDS, wait_until

GOOD = "connections_max: 100\nrules: [deny use secret to user:nobody]\n"
KEY = "sidelock:{orders}"


class Accounts:
    """The host's users, as the daemon finds them."""

    def __init__(self, lab):
        self.lab = lab
        self.file, self.pipe = lab.directory / "passwd", lab.directory / "users"
        self.lookup = lab.directory / "nsswitch.conf"
        self.file.write_bytes(pathlib.Path("/etc/passwd").read_bytes())
        self.lookup.write_text("passwd: files\ngroup: files\nhosts: files\n")
        os.mkfifo(self.pipe)

    @property
    def prefix(self):
        mounts = f"mount --bind {self.file} /etc/passwd && mount --bind {self.lookup} /etc/nsswitch.conf"
        return ["unshare", "-m", "--propagation", "private", "sh", "-c", mounts + ' && exec "$@"', "sh"]

    def hang(self, daemon):
        """From now on who asks waits until `end`."""
        self._mount(daemon, "mount", "--bind", self.pipe, "/etc/passwd")

    def end(self, daemon):
        """Who asks from now on is told; who waits is, too, that it cannot be known."""
        self._mount(daemon, "umount", "--lazy", "/etc/passwd")
        self.release()

    def release(self):
        try:
            os.close(os.open(self.pipe, os.O_WRONLY | os.O_NONBLOCK))
        except OSError as error:
            assert error.errno == errno.ENXIO

    @staticmethod
    def _mount(daemon, *command):
        subprocess.run(["nsenter", "--mount", "--target", str(daemon.process.pid), *command], check=True)


@pytest.fixture
def accounts(lab):
    return Accounts(lab)


@pytest.fixture
def config(lab):
    path = lab.directory / "sidelockd.yaml"
    path.write_text(GOOD)
    return path


def put(path, kind):
    """Puts something into the file's place. What the daemon says of it."""
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
        return "Is a directory"
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(str(path))
    else:
        path.symlink_to("/dev/zero")
    return f"it is a {kind}, and no regular file"


KINDS = ["pipe", "directory", "socket", "device"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("setting", ["config", "password"])
def test_a_start_refuses_what_is_no_regular_file(lab, config, kind, setting):
    words = put(lab.directory / "other", kind)
    arguments = {"config": ["--local", "--config"], "password": ["--redis", "redis://h", "--redis-password-file"]}
    done = subprocess.run(
        [binary("sidelockd", "SIDELOCKD"), "--socket", lab.directory / "s", *arguments[setting], lab.directory / "other"],
        env=clean_environment(), capture_output=True, text=True, timeout=GENEROUS_SECONDS, check=False)
    assert done.returncode == 78
    assert words in done.stderr


@pytest.mark.parametrize("how", ["{D} --check --config <(cat {C})", "cat {C} | {D} --check --config /dev/stdin",
                                 "{D} --check --config /dev/stdin < {C}", "{D} --check --config /proc/self/fd/7 7< <(cat {C})",
                                 "ln -s {C} {C}.link; {D} --check --config {C}.link"])
def test_a_start_reads_what_was_opened_for_it(config, how):
    config.write_text("local: true\nconnections_max: 77\n")
    done = subprocess.run(
        ["bash", "-c", how.format(D=binary("sidelockd", "SIDELOCKD"), C=config)], env=clean_environment(),
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=GENEROUS_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    assert '"connections_max":{"value":77' in done.stdout.replace(" ", "")


def test_a_device_that_is_always_empty_is_a_file_without_settings(lab):
    daemon = lab.daemon(args=["--config", "/dev/null"])
    daemon.signal(signal.SIGHUP)
    wait_until(lambda: "settings reloaded" in daemon.log(), "the reload")


def test_a_daemon_whose_settings_came_by_a_pipe_goes_on_with_them(lab):
    """They cannot be read again."""
    script = 'exec "$@" --config <(echo "connections_max: 77")'
    daemon = lab.daemon(prefix=["bash", "-c", script, "bash"])
    client = daemon.client()
    token = client.acquire("orders")
    daemon.signal(signal.SIGHUP)
    wait_until(lambda: "settings not reloaded" in daemon.log(), "the refusal")
    assert "it is a pipe, which can be read only once, at the start" in daemon.log()
    assert client.release("orders", token)["token"] == token


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("kind", KINDS)
def test_a_reload_refuses_what_is_no_regular_file_and_stops_are_heard(lab, config, kind, number):
    redis = lab.redis()
    daemon = lab.daemon(redis, lease_ms=600_000, args=["--config", config])
    client = daemon.client()
    client.acquire("orders")
    words = put(config, kind)
    daemon.signal(signal.SIGHUP)
    wait_until(lambda: "settings not reloaded" in daemon.log(), "the refusal")
    assert words in daemon.log()
    client.ping()
    daemon.signal(number)
    assert daemon.process.wait(GENEROUS_SECONDS) == 0
    assert client.notification("lost")["reason"] == "shutdown"
    assert not redis.admin.exists(KEY)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_heard_while_a_reload_blocks(lab, config, accounts, number):
    redis = lab.redis()
    daemon = lab.daemon(redis, lease_ms=600_000, args=["--config", config], prefix=accounts.prefix)
    client = daemon.client()
    client.acquire("orders")
    accounts.hang(daemon)
    daemon.signal(signal.SIGHUP)
    wait_until(lambda: daemon.notify.lines("RELOADING=1"), "the reading")
    client.ping()
    daemon.signal(number)
    assert daemon.process.wait(GENEROUS_SECONDS) == 0
    assert client.notification("lost")["reason"] == "shutdown"
    assert not redis.admin.exists(KEY)


def test_a_reload_that_is_asked_for_meanwhile_comes_afterwards(lab, config, accounts):
    daemon = lab.daemon(lab.redis(), args=["--config", config], prefix=accounts.prefix)
    accounts.hang(daemon)
    daemon.signal(signal.SIGHUP)
    wait_until(lambda: daemon.notify.lines("RELOADING=1"), "the reading")
    # In one step: the daemon may be about to read it.
    new = config.with_name("new")
    new.write_text(GOOD.replace("100", "1"))
    new.replace(config)
    daemon.signal(signal.SIGHUP)
    wait_until(lambda: "are read again afterwards" in daemon.log(), "the daemon to have heard it")
    for _ in range(3):
        daemon.signal(signal.SIGHUP)

    client = daemon.client()
    client.ping()
    accounts.end(daemon)

    def is_in_force():
        accounts.release()
        another, said = daemon.knock()
        another.close()
        return said.get("error", {}).get("data", {}).get("limit") == "connections"

    wait_until(is_in_force, "the settings of the file as it is now")
    wait_until(lambda: "settings reloaded" in daemon.log(), "the log")
    assert daemon.log().count("setting changed") == 1


@pytest.fixture
def service(lab, config, accounts, monkeypatch):
    """A service whose daemons find users as `accounts` says."""
    real = binary("sidelockd", "SIDELOCKD")
    wrapper = lab.directory / "sidelockd"
    words = " ".join(f"'{word}'" for word in accounts.prefix[:-2])
    script = accounts.prefix[-2]
    wrapper.write_text(f"#!/bin/sh\nexec {words} '{script}' sh {real} \"$@\"\n")
    wrapper.chmod(0o755)
    monkeypatch.setenv("SIDELOCKD", str(wrapper))
    config.write_text(f"redis: {lab.redis().url}\nlease_ms: 600000\n{GOOD}")
    service = ServiceManager(lab, "--config", config)
    service.start()
    return service


@pytest.mark.parametrize("is_reloading", [False, True], ids=["alone", "behind a reload"])
def test_a_hand_over_does_not_wait_for_settings_that_cannot_be_read(service, accounts, is_reloading):
    holder, waiter = service.client(), service.client()
    token = holder.acquire("orders")
    waiting = waiter.queue("orders")
    accounts.hang(service)
    if is_reloading:
        service.process.send_signal(signal.SIGHUP)
        wait_until(lambda: any(line.startswith("RELOADING=1") for line in service.lines), "the reading")
    # The daemon that follows finds the users again.
    service.restart()
    assert "the settings cannot be read in time" in service.log()
    assert holder.release("orders", token)["token"] == token
    assert waiter.reply_to(waiting)["token"] > token
    assert service.stop() == 0


def test_a_second_order_to_end_while_the_settings_cannot_be_read_is_the_same(service, accounts):
    """As `timeout` and some service managers send it: nothing is lost by it."""
    holder = service.client()
    token = holder.acquire("orders")
    accounts.hang(service)
    service.process.terminate()
    wait_until(lambda: "stopping" in service.log(), "the first")
    service.process.terminate()
    assert service.process.wait(GENEROUS_SECONDS) == 0
    service.start()
    assert holder.release("orders", token)["token"] == token
    assert service.stop() == 0
