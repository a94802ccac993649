"""`sidelock` and what surrounds it: output that cannot be written, streams that are closed, texts that are only bytes,
orphans that nobody else buries."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess

import pytest
from harness.daemon import binary, clean_environment
from harness.waiting import GENEROUS_SECONDS, wait_until


def shell(sidelock, script, **more):
    """Runs a line of the shell, in which $S is sidelock; bytes in, bytes out."""
    return subprocess.run(
        ["bash", "-c", script], env={**sidelock.environment, "S": binary("sidelock", "SIDELOCK"), **more},
        capture_output=True, stdin=subprocess.DEVNULL, timeout=GENEROUS_SECONDS, check=False)


# Output that cannot be written

TELLING = [
    "list", "list --json", "clients", "hosts", "health", "inspect orders", "stats", "ping", "call stats", "call acquire '{\"name\":\"orders\"}'",
    "call watch '{\"name\":\"orders\"}'", "--help", "run --help", "--version", "help list",
    "--generate-completion-script bash", "--experimental-dump-help", "break orders",
    "bench --scenario crash --kills 1",
]


@pytest.mark.parametrize("command", TELLING)
def test_a_full_disk_is_told(sidelock, command):
    done = shell(sidelock, f"exec $S {command} > /dev/full")
    assert done.returncode == 74
    assert b"standard output: No space left on device" in done.stderr


@pytest.mark.parametrize("command", TELLING)
def test_a_limit_of_file_sizes_is_told(sidelock, daemon, command):
    done = shell(sidelock, f"ulimit -f 0; exec $S {command} > {daemon.directory / 'out'}")
    assert done.returncode == 74
    assert b"standard output: File too large" in done.stderr


@pytest.mark.parametrize("trap", ["", "trap '' XFSZ; "], ids=["default", "ignored"])
def test_a_limit_of_file_sizes_is_the_commands_own_matter(sidelock, daemon, trap):
    """`run` says what it has to say where it can; its command finds the signal as it was."""
    out, said = daemon.directory / "out", daemon.directory / "said"
    plain = subprocess.run(
        ["bash", "-c", f"{trap}grep SigIgn /proc/self/status"], capture_output=True, text=True, check=True).stdout
    done = shell(sidelock, f"{trap}ulimit -f 0; exec $S run -v orders -- grep SigIgn /proc/self/status 2> {said}")
    assert done.returncode == 0
    assert done.stdout.decode() == plain
    done = shell(sidelock, f"{trap}ulimit -f 0; exec $S run orders -- sh -c 'echo x > {out}; exit 3'")
    assert done.returncode == 3 if trap else done.returncode in (3, -signal.SIGXFSZ, 128 + signal.SIGXFSZ)
    done = shell(
        sidelock, f"{trap}ulimit -f 0; exec $S run --max-hold 0.2 --term-grace 0.2 orders -- sleep 1000 2> {said}")
    assert done.returncode == 124


@pytest.mark.parametrize("command", TELLING)
def test_a_closed_standard_output_is_told(sidelock, command):
    done = shell(sidelock, f"exec $S {command} >&-")
    assert done.returncode == 74
    assert b"standard output: Bad file descriptor" in done.stderr


@pytest.mark.parametrize("command", TELLING)
@pytest.mark.parametrize("trap", ["", "trap '' PIPE; "], ids=["default", "ignored"])
def test_a_pipe_that_nobody_reads_ends_the_command_quietly(sidelock, command, trap):
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run(
        ["bash", "-c", f"{trap}exec $S {command}"], stdout=writer, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
        env={**sidelock.environment, "S": binary("sidelock", "SIDELOCK")}, timeout=GENEROUS_SECONDS, check=False)
    os.close(writer)
    assert process.returncode in (141, -signal.SIGPIPE)
    assert process.stderr == b"" or command.startswith("break")


def test_a_token_that_could_not_be_told_is_given_back(sidelock, daemon):
    with open("/dev/full", "wb") as full:
        process = sidelock.start("call", "acquire", '{"name":"orders"}', stdin=subprocess.PIPE, stdout=full)
        # Its input is still open: only the failure ends it.
        assert process.wait(GENEROUS_SECONDS) == 74
    assert daemon.client().acquire("orders") > 0


@pytest.mark.parametrize("arguments", [["watch"], ["call", "acquire", '{"name":"orders"}']], ids=lambda a: a[0])
def test_who_reads_events_and_goes_ends_the_command(sidelock, daemon, arguments):
    """Nothing happens any more that could be written."""
    process = sidelock.start(*arguments, stdin=subprocess.PIPE)
    client = daemon.client()
    if arguments == ["watch"]:
        wait_until(lambda: client.call("stats")["watches"] > 0, "the watch")
    else:
        process.stdout.readline()
    process.stdout.close()
    assert process.wait(GENEROUS_SECONDS) == 141
    if arguments != ["watch"]:
        client.acquire("orders")


def test_an_output_that_does_not_block_gets_everything(sidelock, daemon):
    client = daemon.client()
    names = [f"{number:04}" + "n" * 500 for number in range(300)]
    for name in names:
        client.acquire(name)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    process = sidelock.start("list", stdout=writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as output:
        text = output.read()
    assert process.wait(GENEROUS_SECONDS) == 0
    assert all(name.encode() in text for name in names)


# Streams that are closed

@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_no_socket_gets_the_number_of_a_closed_stream(sidelock, daemon, closed):
    """Our own messages, and what the command writes, would go to the daemon, which would end the session."""
    left = daemon.directory / "left"
    done = shell(sidelock, f"exec $S run -v orders -- sh -c 'echo out; echo err >&2; sleep 0.05; echo done > {left}' {closed}")
    assert done.returncode == 0, done.stderr
    assert left.read_text() == "done\n"
    assert daemon.client().call("stats")["refused_lines_total"] == 0


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_the_command_finds_the_streams_as_the_user_gave_them(sidelock, daemon, closed):
    found = {}
    for name, prefix in (("alone", ""), ("locked", "$S run orders -- ")):
        path = daemon.directory / name
        done = shell(sidelock, f"{prefix}sh -c 'for n in 0 1 2; do [ -e /proc/$$/fd/$n ] && echo $n; done > {path}; true' {closed}")
        assert done.returncode == 0
        found[name] = path.read_text()
    # The redirection of the loop itself stands in the place of standard output.
    assert found["alone"] == found["locked"]


# Texts that are only bytes

def test_arguments_environment_and_directory_are_kept_byte_for_byte(sidelock, daemon):
    odd = b"caf\xe9 \xff\xc3(\xed\xa0\x80\xf4\x8f\xbc\x80"
    directory = os.fsencode(daemon.directory) + b"/d\xe9"
    os.mkdir(directory)
    environment = {os.fsencode(key): os.fsencode(value) for key, value in sidelock.environment.items()}
    script = b'printf %s "$1"; printf "|%s" "$ODD"; printf "|%s" "${PWD##*/}"; printf "|%s" "$0"'
    done = subprocess.run(
        [binary("sidelock", "SIDELOCK"), "run", "orders", "--", "sh", "-c", script, b"z\xe9ro", odd],
        env={**environment, b"ODD": odd}, cwd=directory, capture_output=True, timeout=GENEROUS_SECONDS, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == odd + b"|" + odd + b"|d\xe9|z\xe9ro"
    done = subprocess.run(
        [binary("sidelock", "SIDELOCK"), "run", "orders", "-c", b"printf %s '" + odd + b"'"], env=environment,
        capture_output=True, timeout=GENEROUS_SECONDS, check=False)
    assert (done.returncode, done.stdout) == (0, odd)


def test_the_program_may_have_any_name(sidelock, daemon):
    program = os.fsencode(daemon.directory) + b"/pro\xe9"
    with open(program, "wb") as file:
        file.write(b"#!/bin/sh\nexit 9\n")
    os.chmod(program, 0o755)
    command = [binary("sidelock", "SIDELOCK"), "run", "orders", "--"]
    done = subprocess.run([*command, program], env=sidelock.environment, timeout=GENEROUS_SECONDS, check=False)
    assert done.returncode == 9
    done = subprocess.run(
        [*command, b"/no/pro\xe9"], env=sidelock.environment, capture_output=True, timeout=GENEROUS_SECONDS, check=False)
    assert done.returncode == 127
    assert b"/no/pro\\xE9: No such file or directory" in done.stderr


@pytest.mark.parametrize("way", ["option", "before", "equals", "variable", "runtime"])
def test_the_socket_may_have_any_path(lab, sidelock, daemon, way):
    directory = os.fsencode(daemon.directory) + b"/r\xe9"
    os.makedirs(directory + b"/sidelock")
    path = directory + b"/sidelock/sidelock.sock"
    os.symlink(daemon.socket_path, path)
    # Where the name would lead if its odd byte were replaced.
    os.makedirs(daemon.directory / "r\ufffd" / "sidelock")
    environment = {os.fsencode(key): os.fsencode(value) for key, value in sidelock.environment.items()}
    del environment[b"SIDELOCK_SOCKET"]
    arguments = ["ping"]
    if way == "option":
        arguments = ["ping", "--socket", path]
    elif way == "before":
        arguments = ["--socket", path, "ping"]
    elif way == "equals":
        arguments = ["ping", b"--socket=" + path]
    elif way == "variable":
        environment[b"SIDELOCK_SOCKET"] = path
    else:
        environment[b"XDG_RUNTIME_DIR"] = directory
    done = subprocess.run(
        [binary("sidelock", "SIDELOCK"), *arguments], env=environment, capture_output=True, timeout=GENEROUS_SECONDS,
        check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [
    ["run", b"caf\xe9", "--", "true"], ["run", "x", "--and", b"caf\xe9", "--", "true"],
    ["run", "--meta", b"caf\xe9", "x", "--", "true"], ["inspect", b"caf\xe9"], ["watch", b"caf\xe9"],
    ["watch", b"caf\xe9*"], ["break", b"caf\xe9"], ["break", "x", "--reason", b"caf\xe9"],
    ["list", "--prefix", b"caf\xe9"], ["call", "inspect", b'{"name":"caf\xe9"}'], ["call", b"caf\xe9"],
], ids=lambda arguments: " ".join(str(word) for word in arguments))
def test_names_and_notes_that_are_no_text_are_refused(sidelock, arguments):
    """Two names would become one lock."""
    done = subprocess.run(
        [binary("sidelock", "SIDELOCK"), *arguments], env=sidelock.environment, capture_output=True,
        timeout=GENEROUS_SECONDS, check=False)
    assert done.returncode == 64
    assert b"must be UTF-8" in done.stderr


def test_a_name_may_hold_every_character(sidelock, daemon):
    name = "\U0010ff41\U0010ffff é"
    process = sidelock.start("run", name, "--", "cat", stdin=subprocess.PIPE)
    wait_until(lambda: daemon.client().call("inspect", name=name)["holders"], "the hold")
    process.stdin.close()
    assert process.wait(GENEROUS_SECONDS) == 0
    out = sidelock.run("run", name, "-c", 'printf %s "$SIDELOCK_NAME"')[1]
    assert out == name


# Process 1

ORPHANS = """
for n in 1 2 3 4 5; do sh -c 'sh -c "exit 0" & exit 0'; done
# Each has ended when its parent, process 1 now, has buried it.
i=0
while [ $i -lt 400 ]; do
  zombies=0
  for stat in /proc/[0-9]*/stat; do
    read -r line < "$stat" 2>/dev/null || continue
    case "${line##*) }" in "Z 1 "*) zombies=$((zombies + 1));; esac
  done
  [ $zombies = 0 ] && exit 7
  i=$((i + 1)); sleep 0.05
done
exit 99
"""


@pytest.mark.parametrize("mounted", [["--mount-proc"], []], ids=["own-proc", "host-proc"])
def test_process_1_buries_orphans_and_keeps_the_status(sidelock, mounted):
    if mounted:
        script = ORPHANS
    else:
        # /proc tells of other processes there, so only the status is looked at.
        script = "for n in 1 2 3; do sh -c 'sh -c \"exit 0\" & exit 0'; done; exit 7"
    done = subprocess.run(
        ["unshare", "-pf", *mounted, binary("sidelock", "SIDELOCK"), "run", "orders", "--", "sh", "-c", script],
        env=sidelock.environment, capture_output=True, timeout=GENEROUS_SECONDS, check=False)
    assert done.returncode == 7, done.stderr


# The leader of the group ends at once, and a member of it only when there is the file.
LINGERING = """
(trap '' TERM; until [ -e "$1" ]; do sleep 0.05; done) &
echo $! > "$2"
"""
ORPHANED = "for n in 1 2 3; do sh -c 'sleep 0.01 & exit 0'; done"


def test_process_1_buries_orphans_while_the_group_of_its_command_ends(sidelock, lab):
    """The command's leader has ended and stays unburied until the last of its group has ended."""
    end, ready = lab.directory / "end", lab.directory / "ready"
    unshare = lab.track(subprocess.Popen(
        ["unshare", "-pf", "--mount-proc", binary("sidelock", "SIDELOCK"), "run", "--max-hold", "0.3", "--term-grace",
         "1000", "orders", "--", "sh", "-c", f"trap 'exit 0' TERM; {LINGERING} wait", "sh", end, ready],
        env=sidelock.environment))
    wait_until(ready.exists, "the command")

    def children():
        """The namespace's processes that process 1 has, by their state and name."""
        found = []
        for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                name, rest = path.read_text(errors="replace").split("(", 1)[1].rsplit(")", 1)
                state, parent = rest.split()[:2]
                found.append((int(path.parent.name), int(parent), state, name))
        [process_1] = [pid for pid, parent, *_ in found if parent == unshare.pid]
        return process_1, [(state, name) for _, parent, state, name in found if parent == process_1]

    wait_until(lambda: ("Z", "sh") in children()[1], "the end of the leader")
    leader = [one for one in children()[1] if one[0] == "Z"]
    assert len(leader) == 1
    subprocess.run(
        ["nsenter", "-t", str(children()[0]), "-p", "-m", "sh", "-c", ORPHANED], check=True, timeout=GENEROUS_SECONDS)
    wait_until(lambda: all(name != "sleep" for _, name in children()[1]), "the burial")
    assert ("Z", "sh") in children()[1]
    end.touch()
    assert unshare.wait(GENEROUS_SECONDS) == 124


def test_children_that_were_there_before_are_buried(sidelock, daemon):
    """`exec sidelock` in a shell with jobs in the background."""
    pid_file = daemon.directory / "pid"
    process = subprocess.Popen(
        ["bash", "-c", f"sleep 0.01 & echo $! > {pid_file}; exec $S run orders -- cat"], stdin=subprocess.PIPE,
        env={**sidelock.environment, "S": binary("sidelock", "SIDELOCK")})
    wait_until(lambda: daemon.client().call("inspect", name="orders")["holders"], "the hold")
    child = pathlib.Path("/proc") / pid_file.read_text().strip()
    wait_until(lambda: not child.exists(), "the burial")
    process.stdin.close()
    assert process.wait(GENEROUS_SECONDS) == 0


def test_the_group_ends_in_a_namespace_of_its_own(sidelock):
    """--max-hold waits until the group is empty; what /proc shows may be of another namespace."""
    done = subprocess.run(
        ["unshare", "-pf", binary("sidelock", "SIDELOCK"), "run", "--max-hold", "0.2", "--term-grace", "0.2", "orders",
         "--", "sh", "-c", "trap '' TERM; while :; do sleep 0.02; done"],
        env=sidelock.environment, capture_output=True, timeout=GENEROUS_SECONDS, check=False)
    assert done.returncode == 124


def test_a_loss_is_of_a_lock_by_name_and_token(lab):
    """Tokens rise for each name by itself, so locks of two names may have the same one."""
    path = lab.directory / "fake.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        call = subprocess.Popen(
            [binary("sidelock", "SIDELOCK"), "--socket", path, "call", "acquire", '{"name":"ours"}'], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_environment())
        lab.track(call)
        connection, _ = listener.accept()
        connection.settimeout(GENEROUS_SECONDS)
        # Of a text file for both, a write would forget the lines that were read ahead.
        with connection, connection.makefile() as stream:
            def say(**message):
                connection.sendall(json.dumps(message).encode() + b"\n")

            def answer():
                request = json.loads(stream.readline())
                granted = {"name": "ours", "token": 5, "mode": "exclusive", "waited_ms": 0, "valid_ms": None}
                say(id=request["id"], result=granted if request["method"] == "acquire" else {})
                return request["method"]

            def lose(name):
                say(method="lost", params={"name": name, "token": 5, "reason": "broken", "grace_ms": 0})

            # Up to the question that the grant is confirmed by.
            while answer() != "acquire":
                pass
            while answer() != "ping":
                pass
            assert json.loads(call.stdout.readline())["token"] == 5
            lose("theirs")
            assert json.loads(call.stdout.readline())["params"]["name"] == "theirs"
            assert call.poll() is None
            lose("ours")
            assert json.loads(call.stdout.readline())["params"]["name"] == "ours"
            assert call.wait(GENEROUS_SECONDS) == 125
