"""`sidelockd` and what surrounds it: output that cannot be written, texts that are only bytes, orphans that nobody else
buries, and files that belong to others."""

import os
import pathlib
import signal
import socket
import stat
import subprocess

import pytest
from harness.client import Client
from harness.command import process_stat
from harness.daemon import binary, clean_environment
from harness.waiting import GENEROUS_SECONDS, wait_until


def run(*arguments, **environment):
    """Runs the daemon to its end; bytes in, bytes out."""
    variables = {os.fsencode(key): value if isinstance(value, bytes) else os.fsencode(value)
                 for key, value in clean_environment(**environment).items()}
    return subprocess.run(
        [binary("sidelockd", "SIDELOCKD"), *arguments], env=variables, capture_output=True, stdin=subprocess.DEVNULL,
        timeout=GENEROUS_SECONDS, check=False)


# Output that cannot be written

TELLING = ["--local --check", "--help", "help", "--version", "--generate-completion-script bash", "--experimental-dump-help"]


def shell(script):
    return subprocess.run(
        ["bash", "-c", script], env=clean_environment(D=binary("sidelockd", "SIDELOCKD")), capture_output=True,
        stdin=subprocess.DEVNULL, timeout=GENEROUS_SECONDS, check=False)


@pytest.mark.parametrize("command", TELLING)
@pytest.mark.parametrize("where, words", [(">/dev/full", b"No space left on device"), (">&-", b"Bad file descriptor")])
def test_an_output_that_cannot_be_written_is_told(command, where, words):
    done = shell(f"exec $D {command} {where}")
    assert done.returncode == 74
    assert b"standard output: " + words in done.stderr


@pytest.mark.parametrize("command", TELLING)
def test_a_limit_of_file_sizes_is_told(lab, command):
    done = shell(f"ulimit -f 0; exec $D {command} > {lab.directory / 'out'}")
    assert done.returncode == 74
    assert b"standard output: File too large" in done.stderr


def listens(path):
    """Whether a daemon listens there: its socket is there a moment before."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(os.fspath(path))
        except OSError:
            return False
    return True


@pytest.mark.parametrize("kibibytes", [0, 1])
def test_a_log_that_has_reached_the_limit_of_file_sizes_takes_no_locks(lab, kibibytes):
    log, path = lab.directory / "log", lab.directory / "socket"
    process = lab.track(subprocess.Popen(
        ["bash", "-c", f"ulimit -f {kibibytes}; exec $D --local --log-level trace --socket {path} 2> {log}"],
        env=clean_environment(D=binary("sidelockd", "SIDELOCKD")), stdin=subprocess.DEVNULL))
    wait_until(lambda: listens(path), "the daemon")
    holder = Client(path)
    token = holder.acquire("orders")

    def speak():
        """Adds to the log, and tells whether it is full."""
        other = Client(path)
        one = other.acquire("spoken of")
        other.call("break", name="spoken of", token=one, reason="x" * 200)
        other.close()
        return log.stat().st_size == 1024 * kibibytes

    wait_until(speak, "the limit")
    assert speak()
    assert holder.call("release", name="orders", token=token)["remaining"] == 0
    process.terminate()
    assert process.wait(GENEROUS_SECONDS) == 0


@pytest.mark.parametrize("limit, log", [("ulimit -f 0; ", "log"), ("", "/dev/full")])
def test_a_stop_right_after_a_client_came_is_a_stop_although_nothing_can_be_logged(lab, limit, log):
    """What another thread finds out about a client may come when the event loop does nothing any more."""
    path = lab.directory / "socket"
    for _ in range(3):
        lab.track(subprocess.Popen(["sh", "-c", "while :; do :; done"]))
    for _ in range(40):
        process = lab.track(subprocess.Popen(
            ["bash", "-c", f"{limit}exec $D --local --log-level trace --socket {path} 2> {lab.directory / log}"],
            env=clean_environment(D=binary("sidelockd", "SIDELOCKD")), stdin=subprocess.DEVNULL))
        wait_until(lambda: listens(path), "the daemon")
        Client(path).acquire("orders")
        process.terminate()
        assert process.wait(GENEROUS_SECONDS) == 0


@pytest.mark.parametrize("command", TELLING)
@pytest.mark.parametrize("trap", ["", "trap '' PIPE; "], ids=["default", "ignored"])
def test_a_pipe_that_nobody_reads_ends_it_quietly(command, trap):
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run(
        ["bash", "-c", f"{trap}exec $D {command}"], stdout=writer, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
        env=clean_environment(D=binary("sidelockd", "SIDELOCKD")), timeout=GENEROUS_SECONDS, check=False)
    os.close(writer)
    assert process.returncode in (141, -signal.SIGPIPE)
    assert process.stderr == b""


def test_wrong_settings_stay_wrong_settings_when_that_cannot_be_written():
    done = shell("exec $D --check --lease-ms soon > /dev/full")
    assert done.returncode == 78
    assert b"soon" in done.stderr and b"No space left on device" in done.stderr


# Texts that are only bytes

@pytest.mark.parametrize("way", ["flag", "equals", "variable", "runtime"])
def test_the_socket_is_made_at_any_path(lab, way):
    directory = os.fsencode(lab.directory) + b"/r\xe9"
    os.makedirs(directory + b"/sidelock")
    # Where the name would lead if its odd byte were replaced.
    wrong = lab.directory / "r\ufffd" / "sidelock"
    wrong.mkdir(parents=True)
    path = directory + b"/sidelock/sidelock.sock"
    arguments, environment, prefix = [b"--local"], {}, []
    if way == "flag":
        arguments += [b"--socket", path]
    elif way == "equals":
        arguments += [b"--socket=" + path]
    elif way == "variable":
        environment = {b"SIDELOCK_SOCKET": path}
    else:
        # Only who is not root has it from there.
        environment = {b"XDG_RUNTIME_DIR": directory}
        for each in (lab.directory, directory, directory + b"/sidelock"):
            os.chmod(each, 0o777)
        prefix = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    variables = {**{os.fsencode(key): os.fsencode(value) for key, value in clean_environment().items()}, **environment}
    process = lab.track(subprocess.Popen(
        [*prefix, binary("sidelockd", "SIDELOCKD"), *arguments], env=variables, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
    wait_until(lambda: listens(path) or process.poll() is not None, "the daemon")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(GENEROUS_SECONDS)
        client.connect(path)
        client.sendall(b'{"id":1,"method":"ping"}\n')
        assert client.recv(1 << 16) == b'{"jsonrpc":"2.0","id":1,"result":{}}\n'
    # What it says of the path is text, and tells it.
    process.terminate()
    _, err = process.communicate(timeout=GENEROUS_SECONDS)
    assert process.returncode == 0
    assert b"r\\xE9/sidelock/sidelock.sock" in err
    assert not os.path.exists(path) and not list(wrong.iterdir())


@pytest.mark.parametrize("way", ["flag", "variable"])
def test_the_file_of_settings_may_have_any_name(lab, way):
    path = os.fsencode(lab.directory) + b"/conf\xe9.yaml"
    with open(path, "wb") as file:
        file.write(b"local: true\nhost: caf\nlease_ms: 4000\n")
    done = run("--check", "--config", path) if way == "flag" else run("--check", SIDELOCK_CONFIG=path)
    assert done.returncode == 0, done.stdout
    assert b'"lease_ms":{"value":4000,"source":"' in done.stdout and b"conf\\\\xE9.yaml:3" in done.stdout
    done.stdout.decode()


@pytest.mark.parametrize("way", ["flag", "variable", "credential"])
def test_the_password_may_stand_in_a_file_of_any_name(lab, way):
    directory = os.fsencode(lab.directory) + b"/cr\xe9d"
    os.mkdir(directory)
    path = directory + b"/sidelock.redis-password"
    with open(path, "wb") as file:
        file.write(b"secret\n")
    arguments, environment = [], {}
    if way == "flag":
        arguments = ["--redis-password-file", path]
    elif way == "variable":
        environment = {"SIDELOCK_REDIS_PASSWORD_FILE": path}
    else:
        environment = {"CREDENTIALS_DIRECTORY": directory}
    done = run("--check", "--redis", "redis://localhost", *arguments, **environment)
    assert done.returncode == 0, done.stdout
    assert b"cr\\\\xE9d/sidelock.redis-password" in done.stdout


@pytest.mark.parametrize("odd", [b"\xe9", b"%E9"])
def test_redis_may_have_its_socket_at_any_path(lab, odd):
    redis = lab.redis()
    os.symlink(redis.socket_path, os.fsencode(lab.directory) + b"/r\xe9dis")

    class Store:
        url = os.fsdecode(b"unix://" + os.fsencode(lab.directory) + b"/r" + odd + b"dis")

    assert lab.daemon(Store, lease_ms=4000).client().acquire("orders") > 0
    assert redis.admin.exists("sidelock:{orders}")


@pytest.mark.parametrize("setting, value", [
    ("--rule", b"allow use caf\xe9 to everyone"), ("--host", b"h\xe9"), ("--key-prefix", b"k\xe9"),
    ("--log-level", b"inf\xf8"), ("--lease-ms", b"10\xe9"), ("--redis-user", b"us\xe9r"),
])
@pytest.mark.parametrize("way", ["flag", "variable"])
def test_a_setting_that_is_a_text_must_be_utf_8(setting, value, way):
    variable = "SIDELOCK_" + ("rules" if setting == "--rule" else setting[2:]).replace("-", "_").upper()
    arguments = [setting, value] if way == "flag" else []
    done = run("--local", "--check", *arguments, **({variable: value} if way == "variable" else {}))
    assert done.returncode == 78
    text = done.stderr.decode()
    assert "not UTF-8" in text and (setting if way == "flag" else variable) in text and "\ufffd" not in text


def test_a_file_of_settings_must_be_utf_8(lab):
    path = lab.directory / "conf.yaml"
    path.write_bytes("# ünicode before it\nlocal: true\nhost: a\nrules:\n  - allow use caf".encode() + b"\xe9 to everyone\n")
    done = run("--check", "--config", path)
    assert done.returncode == 78
    text = done.stderr.decode()
    assert "conf.yaml:5" in text and "UTF-8" in text


# Secrets in sight

def test_a_password_on_the_command_line_is_warned_of_and_not_repeated(lab):
    redis = lab.redis()
    redis.admin.execute_command("ACL", "SETUSER", "locks", "on", ">hunter2", "~*", "&*", "+@all")

    class Store:
        url = f"unix://locks:hunter2@{redis.socket_path}"

    daemon = lab.daemon(Store)
    wait_until(lambda: "every user of this host can read the password" in daemon.log(), "the warning")
    assert "redis_password_file" in daemon.log() and "hunter2" not in daemon.log()
    done = run("--check", "--redis", Store.url)
    assert done.returncode == 0 and b"redis_password_file" in done.stdout and b"hunter2" not in done.stdout


def test_a_password_in_a_variable_or_a_file_is_not_warned_of(lab):
    (lab.directory / "conf.yaml").write_text("redis: redis://:hunter2@localhost\n")
    for done in (run("--check", SIDELOCK_REDIS="redis://:hunter2@localhost"), run("--check", "--config", lab.directory / "conf.yaml")):
        assert done.returncode == 0 and b'"warnings":[]' in done.stdout and b"hunter2" not in done.stdout


@pytest.mark.parametrize("arguments", [
    ["--local=hunter2"], ["--check=hunter2"], ["--redis-pasword=hunter2"], ["--local", "--redis-pasword", "hunter2"],
    ["--host", "redis://:hunter2@h"], ["--redis", "redis:hunter2@h"], ["--redis", "redis://h", "--redis-password-file", "hunter2hunter2"],
], ids=lambda arguments: arguments[-2 if len(arguments) > 1 else 0].split("=")[0])
def test_a_secret_in_the_wrong_place_is_not_repeated(arguments):
    done = run(*arguments)
    assert done.returncode == 78
    assert b"hunter2" not in done.stdout + done.stderr and done.stderr


# Process 1

PROCESS_1 = ["unshare", "-pf", "--mount-proc", "--kill-child"]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces can only be made as root")


def inner_process(unshare):
    """The id, out here, of the process that is number 1 in there."""
    return wait_until(lambda: next((
        int(path.name) for path in pathlib.Path("/proc").glob("[0-9]*")
        if (stat := process_stat(path.name)) and stat[1] == str(unshare.pid)), None), "process 1")


def joined(pid, script):
    """Runs a script of the shell among the processes of that one."""
    return subprocess.run(
        ["nsenter", "-t", str(pid), "-p", "-m", "sh", "-c", script], capture_output=True, timeout=GENEROUS_SECONDS, check=False)


def zombies(pid):
    """How many children of that process have ended and are not buried."""
    return sum(1 for path in pathlib.Path("/proc").glob("[0-9]*")
               if (stat := process_stat(path.name)) and stat[1] == str(pid) and stat[0] == "Z")


def orphans_are_buried(pid, lab):
    """Leaves processes to process 1, which have ended when they have written their names."""
    done = lab.directory / "orphan"
    assert joined(pid, f"for n in 1 2 3; do sh -c 'sh -c \"exec echo x >> {done}\" & exit 0'; done").returncode == 0
    wait_until(lambda: done.exists() and done.read_text().count("x") == 3, "the orphans")
    wait_until(lambda: zombies(pid) == 0, "their burial")


@needs_root
def test_the_daemon_as_process_1_buries_orphans(lab):
    path = lab.directory / "s"
    unshare = lab.track(subprocess.Popen(
        [*PROCESS_1, binary("sidelockd", "SIDELOCKD"), "--local", "--socket", path], env=clean_environment(),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    wait_until(path.exists, "the socket")
    daemon = inner_process(unshare)
    orphans_are_buried(daemon, lab)
    os.kill(daemon, signal.SIGTERM)
    assert unshare.wait(GENEROUS_SECONDS) == 0


@needs_root
def test_children_that_were_there_before_the_daemon_are_buried(lab):
    path, pid_file = lab.directory / "s", lab.directory / "pid"
    process = lab.track(subprocess.Popen(
        ["bash", "-c", f"sleep 0.01 & echo $! > {pid_file}; exec $D --local --socket {path}"], stdin=subprocess.DEVNULL,
        env=clean_environment(D=binary("sidelockd", "SIDELOCKD")), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    wait_until(path.exists, "the socket")
    child = pathlib.Path("/proc") / pid_file.read_text().strip()
    wait_until(lambda: not child.exists(), "the burial")
    process.terminate()
    assert process.wait(GENEROUS_SECONDS) == 0


LONG = {
    "watch": ["watch"], "call": ["call", "acquire", '{"name":"orders"}'], "call watch": ["call", "watch", '{"name":"a"}'],
    "waiting call": ["call", "acquire", '{"name":"taken"}'], "run": ["run", "orders", "--", "sleep", "1000"],
    "waiting run": ["run", "taken", "--", "true"],
    "bench": ["bench", "--scenario", "contended", "--clients", "2", "--hold-ms", "200", "--seconds", "1000"],
}


@needs_root
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("command", LONG)
def test_a_command_as_process_1_buries_orphans_and_ends_by_signals(lab, daemon, sidelock, command, number):
    client = daemon.client()
    client.acquire("taken")
    before = client.call("stats")
    unshare = lab.track(subprocess.Popen(
        [*PROCESS_1, binary("sidelock", "SIDELOCK"), *LONG[command]], env=sidelock.environment, stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    def is_under_way():
        now = client.call("stats")
        return any(now[what] > before[what] for what in ("watches", "held", "waiting"))

    wait_until(is_under_way, "the request")
    process = inner_process(unshare)
    orphans_are_buried(process, lab)
    os.kill(process, number)
    assert unshare.wait(GENEROUS_SECONDS) == 128 + number
    wait_until(lambda: not is_under_way(), "the end of the session")


# Files that belong to others

@needs_root
@pytest.mark.parametrize("left", ["s.lock", "s"])
def test_whose_the_file_in_the_way_is_is_told(lab, left):
    """In a directory that is everybody's, such as /tmp."""
    shared = lab.directory / "shared"
    shared.mkdir()
    os.chmod(lab.directory, 0o755)
    os.chmod(shared, 0o1777)
    path = shared / left
    if left == "s":
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
        os.chmod(path, 0o666)
    else:
        path.touch(0o600)
    os.chown(path, 1, 1)
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", binary("sidelockd", "SIDELOCKD"), "--local",
         "--socket", shared / "s"], env=clean_environment(), capture_output=True, stdin=subprocess.DEVNULL, text=True,
        timeout=GENEROUS_SECONDS, check=False)
    assert done.returncode == 1
    text = done.stdout + done.stderr
    assert str(path) in text and "belongs to daemon (user id 1)" in text and "remove it" in text and "--socket" in text
    assert "must be writable" not in text


@needs_root
def test_a_daemon_of_another_user_in_a_shared_directory_has_its_socket(lab):
    shared = lab.directory / "shared"
    shared.mkdir()
    os.chmod(lab.directory, 0o755)
    os.chmod(shared, 0o1777)
    daemon = lab.daemon(socket_path=shared / "s", args=["--socket-mode", "0666"])
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", binary("sidelockd", "SIDELOCKD"), "--local",
         "--socket", shared / "s"], env=clean_environment(), capture_output=True, stdin=subprocess.DEVNULL, text=True,
        timeout=GENEROUS_SECONDS, check=False)
    assert done.returncode == 75, done.stderr
    assert f"process {daemon.pid}" in done.stderr, done.stderr


# Paths that lead elsewhere

def other_file(kind, path, spare):
    """Puts something that is no socket at the path. What the words are to name."""
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    else:
        spare.write_text("precious")
        os.symlink({"link": spare, "dangling link": spare.with_name("nothing")}[kind], path)
    return {"file": "a regular file", "directory": "a directory", "pipe": "a named pipe", "device": "a device"}.get(
        kind, "a symbolic link")


def everything_in(directory):
    return sorted((str(path), path.lstat().st_mode, path.lstat().st_size) for path in directory.rglob("*"))


@pytest.mark.parametrize("kind", ["file", "directory", "pipe", "device", "link", "dangling link"])
def test_a_path_of_something_else_is_left_as_it_is(lab, kind):
    place = lab.directory / "place"
    place.mkdir()
    path = place / "s"
    words = other_file(kind, path, place / "spare")
    before = everything_in(place)
    done = run("--local", "--socket", path)
    assert done.returncode != 0
    told = done.stderr.decode()
    assert f"{path} is {words} and not a socket" in told and "choose another --socket, or " in told, told
    assert everything_in(place) == before


def unusable(kind, place):
    """A path at which no socket can be made, and words of what is wrong with it."""
    if kind == "two directories missing":
        return place / "a" / "b" / "s", "cannot make the directory"
    if kind == "file on the way":
        (place / "file").write_text("")
        return place / "file" / "s", "is not a directory"
    if kind == "link on the way that leads nowhere":
        os.symlink("nothing", place / "link")
        return place / "link" / "s", "leads nowhere"
    if kind == "slash at its end":
        return f"{place}/new/", "names a directory"
    if kind == "no files there":
        return "/proc/self/s", "no file can be made in that directory"
    return f"{place}/{'d' * 20}/{'s' * 100}", "a path of at most 107 bytes"


@pytest.mark.parametrize("kind", [
    "two directories missing", "file on the way", "link on the way that leads nowhere", "slash at its end",
    "no files there", "too long"])
def test_a_path_that_cannot_be_used_leaves_nothing(lab, kind):
    place = lab.directory / "place"
    place.mkdir()
    path, words = unusable(kind, place)
    before = everything_in(place)
    done = run("--local", "--socket", path)
    assert done.returncode != 0
    told = done.stderr.decode()
    assert words in told and "--socket" in told, told
    assert everything_in(place) == before


def test_a_directory_that_is_read_only_is_told(lab):
    place = lab.directory / "place"
    place.mkdir()
    script = f"mount --bind {place} {place} && mount -o remount,ro,bind {place} && exec $D --local --socket {place}/s"
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", script], env=clean_environment(D=binary("sidelockd", "SIDELOCKD")),
        capture_output=True, stdin=subprocess.DEVNULL, text=True, timeout=GENEROUS_SECONDS, check=False)
    assert done.returncode != 0
    assert "Read-only file system; the directory of the socket must be writable" in done.stderr, done.stderr
    assert everything_in(place) == []


def test_a_socket_of_somebody_else_is_left_without_a_lock_beside_it(lab):
    place = lab.directory / "place"
    place.mkdir()
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(place / "s"))
        theirs.listen()
        before = everything_in(place)
        done = run("--local", "--socket", place / "s")
        assert done.returncode != 0 and b"another daemon has the socket" in done.stderr
        assert everything_in(place) == before


def test_of_many_that_start_at_a_path_in_vain_or_not_one_has_it(lab):
    """Those that fail take their lock's file away, and not that of the one that has the path."""
    place = lab.directory / "place"
    place.mkdir()
    path = place / "s"
    daemons = [lab.track(subprocess.Popen(
        [binary("sidelockd", "SIDELOCKD"), "--local", "--socket", path], env=clean_environment(),
        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)) for _ in range(8)]
    wait_until(lambda: sum(daemon.poll() is None for daemon in daemons) == 1 and path.exists(), "one that is left")
    left = next(daemon for daemon in daemons if daemon.poll() is None)
    assert Client(path).acquire("orders")
    assert (place / "s.lock").read_text() == f"{left.pid}\n"
    for daemon in daemons:
        if daemon is not left:
            assert b"another daemon has the socket" in daemon.stderr.read()
    left.terminate()
    assert left.wait(GENEROUS_SECONDS) == 0
