"""Tokens of --local: they rise over restarts whatever the clock shows, or the daemon says why they might not.

A file that says that tokens have gone further than the clock is what a daemon finds whose clock was set back."""

import pathlib
import signal
import subprocess
import time

import pytest

from harness.daemon import ROOT, binary, clean_environment
from harness.waiting import GENEROUS_SECONDS

DAY = 86_400_000_000
HIGHEST = (1 << 53) - 1


def content(last, version=1):
    text = f"sidelock-local-tokens {version} {last}"
    check = 0xCBF29CE484222325
    for byte in text.encode():
        check = (check ^ byte) * 0x100000001B3 % (1 << 64)
    return f"{text} {check:x}\n"


def last_in(path):
    text = path.read_text()
    last = int(text.split()[2])
    assert text == content(last)
    return last


def microseconds():
    return time.time_ns() // 1000


def refused(lab, *args, prefix=(), **environment):
    """A daemon that must not start: its status and its words."""
    done = subprocess.run(
        [*prefix, binary("sidelockd", "SIDELOCKD"), "--local", "--socket", lab.directory / "refused", *args],
        env=clean_environment(**environment), capture_output=True, stdin=subprocess.DEVNULL, text=True,
        timeout=GENEROUS_SECONDS, check=False)
    assert not (lab.directory / "refused").exists()
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("ahead", [0, 3_600_000_000, DAY])
def test_tokens_rise_over_restarts_whatever_the_clock_shows(lab, end, ahead):
    path = lab.directory / "tokens"
    last = microseconds() + ahead
    if ahead:
        path.write_text(content(last))
    daemon = lab.daemon(args=["--local-state-file", path])
    for _ in range(4):
        for name in ("a", "b", "a"):
            client = daemon.client()
            token = client.acquire(name)
            client.release(name)
            assert last < token <= last_in(path)
            last = token
        reserved = last_in(path)
        daemon.may_fail = True
        daemon.signal(end)
        daemon.process.wait(GENEROUS_SECONDS)
        assert last_in(path) == reserved
        last = reserved
        daemon.start()
    assert sorted(p.name for p in lab.directory.glob("tokens*")) == ["tokens"]


def test_without_a_setting_the_file_is_beside_the_socket(lab):
    daemon = lab.daemon()
    path = pathlib.Path(f"{daemon.socket_path}.tokens")
    token = daemon.client().acquire("a")
    assert microseconds() - DAY < token <= last_in(path)
    assert path.stat().st_mode & 0o777 == 0o600
    daemon.terminate()
    path.write_text(content(token + DAY))
    daemon.start()
    assert daemon.client().acquire("a") == token + DAY + 1


def test_under_systemd_the_file_is_in_the_directory_for_state(lab):
    directory = lab.directory / "state"
    directory.mkdir()
    daemon = lab.daemon(env={"STATE_DIRECTORY": f"{directory}:/nowhere"})
    assert daemon.client().acquire("a") <= last_in(directory / "local-tokens")
    assert not pathlib.Path(f"{daemon.socket_path}.tokens").exists()


@pytest.mark.parametrize("unit", ["sidelockd.service", "examples/user.service"])
def test_the_units_have_a_directory_for_state(unit):
    lines = (ROOT / "packaging/systemd" / unit).read_text().splitlines()
    assert "StateDirectory=sidelock" in lines


def test_redis_needs_no_file(lab, redis):
    daemon = lab.daemon(redis, args=["--local-state-file", "/nowhere/tokens"])
    daemon.client().acquire("a")


@pytest.mark.parametrize("what", ["", "garbage", content(5)[:-1], content(5).replace("5", "6", 1), content(0),
                                  content(HIGHEST + 1)])
@pytest.mark.parametrize("is_chosen", [True, False])
def test_a_damaged_file_is_refused_and_left_as_it_is(lab, what, is_chosen):
    path = lab.directory / ("tokens" if is_chosen else "refused.tokens")
    path.write_text(what)
    status, words = refused(lab, *(["--local-state-file", path] if is_chosen else []))
    assert status == 78
    assert str(path) in words and "damaged" in words and "remove it" in words
    assert path.read_text() == what


def test_a_file_of_another_version_is_refused(lab):
    path = lab.directory / "tokens"
    path.write_text("sidelock-local-tokens 2 1 2 3\n")
    status, words = refused(lab, "--local-state-file", path)
    assert status == 78 and "another version" in words


def test_tokens_that_have_come_to_their_end_are_refused(lab):
    path = lab.directory / "tokens"
    path.write_text(content(HIGHEST - 5))
    status, words = refused(lab, "--local-state-file", path)
    assert status == 78 and "2^53" in words and last_in(path) == HIGHEST - 5


def test_two_daemons_do_not_share_a_file(lab):
    path = lab.directory / "tokens"
    daemon = lab.daemon(args=["--local-state-file", path])
    status, words = refused(lab, "--local-state-file", path)
    assert status == 75 and str(path) in words and "another daemon" in words and "--local-state-file" in words
    daemon.client().acquire("a")
    daemon.terminate()
    daemon.start()


@pytest.mark.parametrize("name, help", [("missing/tokens", "make its directory"), ("file/tokens", "a file in a directory")])
def test_a_chosen_file_that_cannot_be_made_is_refused(lab, name, help):
    (lab.directory / "file").touch()
    status, words = refused(lab, "--local-state-file", lab.directory / name)
    assert status == 1 and help in words and str(lab.directory / name) in words


def mounted(directory, options, more="true"):
    """Runs a command where a file system of its own stands at that directory."""
    script = f'mount -t tmpfs -o {options} none "{directory}" && {more} && exec "$@"'
    return ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh"]


FULL = ("size=64k,nr_inodes=1", "true", "No space left on device", "make room")
READ_ONLY = ("size=64k", 'mount -o remount,ro "{}"', "Read-only file system", "must be writable")


@pytest.mark.parametrize("options, more, reason, help", [FULL, READ_ONLY], ids=["full", "read only"])
def test_a_disk_that_takes_nothing(lab, options, more, reason, help):
    place = lab.directory / "place"
    place.mkdir()
    path = place / "tokens"
    prefix = mounted(place, options, more.format(place))
    status, words = refused(lab, "--local-state-file", path, prefix=prefix)
    assert status == 1 and reason in words and help in words and str(path) in words


def test_a_file_that_cannot_be_written_any_more_is_refused(lab):
    place = lab.directory / "place"
    place.mkdir()
    path = place / "tokens"
    more = f'echo "{content(microseconds() - DAY).strip()}" >"{path}" && mount -o remount,ro "{place}"'
    status, words = refused(lab, "--local-state-file", path, prefix=mounted(place, "size=64k", more))
    assert status == 1 and "Read-only file system" in words


def test_without_a_place_beside_the_socket_tokens_go_by_the_clock_with_a_word(lab):
    place = lab.directory / "place"
    place.mkdir()
    # Room for the directory, the socket, its claim, and no more.
    prefix = mounted(place, "size=64k,nr_inodes=3")
    before = microseconds()
    daemon = lab.daemon(socket_path=place / "s", prefix=prefix)
    log = daemon.log()
    assert "only as the clock" in log and "No space left on device" in log and "--local-state-file" in log
    # The socket is in a mount namespace of the daemon's own.
    client = subprocess.run(
        ["nsenter", f"--mount=/proc/{daemon.pid}/ns/mnt", binary("sidelock", "SIDELOCK"), "--socket", place / "s", "call",
         "acquire", '{"name":"a"}'], env=clean_environment(), capture_output=True, text=True, stdin=subprocess.DEVNULL,
        timeout=GENEROUS_SECONDS, check=False)
    assert client.returncode == 0, client.stderr
    token = int(client.stdout.split('"token":')[1].split(",")[0])
    assert before <= token <= microseconds() + 1
