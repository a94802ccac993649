"""Tokens of --local: they rise over restarts whatever the clock shows, or the daemon says why they might not.

A file that says that tokens have gone further than the clock is what a daemon finds whose clock was set back."""

import fcntl
import os
import pathlib
import signal
import socket
import subprocess
import time

import pytest

from harness.client import Client
from harness.daemon import ROOT, binary, clean_environment
from harness.waiting import GENEROUS_SECONDS, wait_until

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


# Other users

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="other users can only be tried as root")
STRANGER = 1


@needs_root
@pytest.mark.parametrize("is_chosen", [True, False])
@pytest.mark.parametrize("owner, group, mode, words", [
    (STRANGER, 0, 0o600, "another user (user id 1)"), (STRANGER, 0, 0o644, "another user (user id 1)"),
    (0, 0, 0o666, "written by other users"), (0, STRANGER, 0o664, "written by other users")])
def test_a_file_that_others_could_set_back_is_refused(lab, owner, group, mode, words, is_chosen):
    path = lab.directory / ("tokens" if is_chosen else "refused.tokens")
    what = content(microseconds() + DAY)
    path.write_text(what)
    os.chown(path, owner, group)
    os.chmod(path, mode)
    # Who has it open has not only this to say of it.
    with open(path, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        status, told = refused(lab, *(["--local-state-file", path] if is_chosen else []))
    assert status == 78 and str(path) in told and words in told and "chown" in told and "--local-state-file" in told
    assert path.read_text() == what


@needs_root
@pytest.mark.parametrize("owner, mode, words", [(STRANGER, 0o755, "belongs to another user"), (0, 0o777, "every user")])
def test_a_chosen_file_in_a_directory_of_others_is_refused(lab, owner, mode, words):
    """They could put a file of before in its place."""
    place = lab.directory / "place"
    place.mkdir()
    os.chown(place, owner, 0)
    os.chmod(place, mode)
    status, told = refused(lab, "--local-state-file", place / "tokens")
    assert status == 78 and words in told and str(place) in told and "--local-state-file" in told
    assert list(place.iterdir()) == []


@needs_root
def test_beside_a_socket_in_a_directory_of_others_it_is_said(lab):
    place = lab.directory / "place"
    place.mkdir()
    os.chmod(place, 0o777)
    daemon = lab.daemon(socket_path=place / "s")
    assert "only as far as other users let them" in daemon.log() and "--local-state-file" in daemon.log()


def listens(path):
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def leave_file(path):
    path.write_text("whatever")
    os.chmod(path, 0o666)


def leave_locked(path):
    leave_file(path)
    descriptor = os.open(path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def leave_socket(path):
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))


IN_THE_WAY = {
    "file": leave_file, "locked": leave_locked, "link": lambda path: path.symlink_to("/etc/hostname"), "pipe": os.mkfifo,
    "directory": os.mkdir, "socket": leave_socket}


@needs_root
@pytest.mark.parametrize("what", list(IN_THE_WAY))
@pytest.mark.parametrize("has_file", [True, False], ids=["with a file", "at first"])
def test_what_others_put_beside_it_is_in_nobodys_way(lab, what, has_file):
    """In a directory that all share, such as /tmp, the daemon of another user cannot even remove it."""
    place = lab.directory / "place"
    place.mkdir()
    os.chmod(lab.directory, 0o755)
    os.chmod(place, 0o1777)
    path = place / "tokens"
    last = microseconds() + DAY
    if has_file:
        path.write_text(content(last))
        os.chown(path, 65534, 65534)
        os.chmod(path, 0o600)
    way = place / "tokens.new"
    descriptor = IN_THE_WAY[what](way)
    os.chown(way, STRANGER, STRANGER, follow_symlinks=False)
    daemon = lab.track(subprocess.Popen(
        [binary("sidelockd", "SIDELOCKD"), "--local", "--socket", place / "s", "--local-state-file", path],
        env=clean_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        user=65534, group=65534, extra_groups=[]))
    wait_until(lambda: listens(place / "s") or daemon.poll() is not None, "the daemon")
    assert daemon.poll() is None, daemon.stderr.read()
    token = Client(place / "s").acquire("a")
    assert token <= last_in(path) and (token > last or not has_file)
    status = path.lstat()
    assert (status.st_uid, status.st_mode & 0o777, status.st_nlink) == (65534, 0o600, 1)
    assert sorted(each.name for each in place.glob("tokens*")) == ["tokens", "tokens.new"]
    assert way.lstat().st_uid == STRANGER
    if descriptor is not None:
        os.close(descriptor)


def test_another_name_of_a_file_of_worth_is_not_written_to(lab):
    """Where the kernel lets users make links to what is not theirs, or whoever can write to that file."""
    path = lab.directory / "tokens"
    worth = lab.directory / "worth"
    worth.write_text("precious")
    os.link(worth, lab.directory / "tokens.new")
    daemon = lab.daemon(args=["--local-state-file", path])
    assert daemon.client().acquire("a") <= last_in(path)
    assert worth.read_text() == "precious"
    assert sorted(each.name for each in lab.directory.glob("tokens*")) == ["tokens"]


def test_a_crash_behind_the_link_leaves_a_good_file(lab):
    path = lab.directory / "tokens"
    last = microseconds() + DAY
    path.write_text(content(last))
    os.link(path, lab.directory / "tokens.new")
    daemon = lab.daemon(args=["--local-state-file", path])
    assert last < daemon.client().acquire("a") <= last_in(path)
    assert sorted(each.name for each in lab.directory.glob("tokens*")) == ["tokens"]


@pytest.mark.parametrize("what, words", [
    ("tokens.new/", "remove what stands at"), ("tokens/", "must be a file"), ("t" * 252, "must be shorter")])
def test_what_to_do_is_said(lab, what, words):
    path = lab.directory / ("tokens" if what.endswith("/") else what)
    if what.endswith("/"):
        (lab.directory / what).mkdir()
    status, told = refused(lab, "--local-state-file", path)
    assert status in (1, 78) and words in told and str(path) in told
