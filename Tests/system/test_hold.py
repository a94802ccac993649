"""`sidelock hold`: a lock for a part of a script. It is given back with the input, and with the script, however that ends."""

import json
import os
import re
import signal
import subprocess
import time

import pytest
from harness.command import Command, children, is_alive, process_state
from harness.daemon import binary
from harness.waiting import GENEROUS_SECONDS, wait_until
from test_run_job_control import CTRL_Z, Terminal


def holders(daemon, name="orders"):
    return daemon.client().call("inspect", name=name)["holders"]


def is_free(daemon, name="orders"):
    return not holders(daemon, name)


def start(lab, daemon, *arguments, **options):
    """A hold that has its lock, and what its line says."""
    process = Command(lab, daemon).start("hold", *arguments, **{"stdin": subprocess.PIPE, **options})
    return process, json.loads(process.stdout.readline())


# Until its input ends, or a signal comes

def test_it_holds_until_its_input_ends(lab, daemon):
    process, line = start(lab, daemon, "--meta", "a note", "orders")
    [holder] = holders(daemon)
    assert line == {"name": "orders", "token": holder["token"], "mode": "exclusive", "waited_ms": line["waited_ms"],
                    "valid_ms": None, "pid": process.pid}
    assert holder["pid"] == process.pid and holder["meta"] == "a note"
    process.stdin.write("what is in it does not matter\n")
    process.stdin.flush()
    process.stdin.close()
    assert process.wait(GENEROUS_SECONDS) == 0
    wait_until(lambda: is_free(daemon), "the end of the hold")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_it_holds_until_a_signal_comes(lab, daemon, number):
    """Also with the null device as its input, which many shells give to what runs in the background."""
    process, _ = start(lab, daemon, "orders", stdin=subprocess.DEVNULL)
    assert process.poll() is None and not is_free(daemon)
    process.send_signal(number)
    assert process.wait(GENEROUS_SECONDS) == -number
    wait_until(lambda: is_free(daemon), "the end of the hold")


def test_it_ends_when_nobody_reads_its_output(lab, daemon):
    process, _ = start(lab, daemon, "orders")
    process.stdout.close()
    assert process.wait(GENEROUS_SECONDS) == 141
    wait_until(lambda: is_free(daemon), "the end of the hold")


def test_several_locks_and_modes(lab, daemon):
    process, line = start(lab, daemon, "--shared", "b", "--and", "a")
    assert [lock["name"] for lock in line["locks"]] == ["b", "a"]
    assert daemon.client().acquire("a", mode="shared") > 0
    process.stdin.close()
    assert process.wait(GENEROUS_SECONDS) == 0


def test_a_loss_is_told_with_its_status(lab, daemon):
    process, _ = start(lab, daemon, "orders")
    daemon.client().call("break", name="orders", reason="a test")
    assert process.wait(GENEROUS_SECONDS) == 125
    assert "lost orders: an administrator took it away (broken): a test" in process.stderr.read()


def test_a_daemon_that_is_killed_loses_it(lab):
    daemon = lab.daemon(lab.redis())
    process, _ = start(lab, daemon, "orders")
    daemon.kill()
    assert process.wait(GENEROUS_SECONDS) == 125
    assert "lost orders: the connection to the daemon ended" in process.stderr.read()


def test_max_hold_is_kept_to(lab, daemon):
    process, _ = start(lab, daemon, "--max-hold", "200ms", "orders")
    assert process.wait(GENEROUS_SECONDS) == 125
    assert "longer than --max-hold allows" in process.stderr.read()


@pytest.mark.parametrize("arguments, status", [
    ([], 64), (["orders", "--", "true"], 64), (["--pid", "0", "orders"], 64), (["--on-lost", "kill", "orders"], 64),
    (["--pid", str(2**22 + 1), "orders"], 64), (["-w", "1x", "orders"], 64), (["--socket", "/nonexistent/s", "orders"], 69),
    (["--pid", "1", "--socket", "/nonexistent/s", "orders"], 69),
], ids=lambda words: " ".join(words) if isinstance(words, list) else "")
def test_what_fails_has_its_status_and_a_reason(sidelock, arguments, status):
    found, out, err = sidelock.run("hold", *arguments)
    assert (found, out) == (status, "") and err


# In the background, until a process ends

@pytest.fixture
def script():
    """A process that stands for a script."""
    process = subprocess.Popen(["sleep", "1000"])
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("how", ["kill", "term", "the holder"])
def test_it_lasts_until_the_process_ends_however_it_does(lab, sidelock, daemon, script, how):
    status, out, err = sidelock.run("hold", "--pid", script.pid, "orders")
    assert (status, err) == (0, "")
    line = json.loads(out)
    [holder] = holders(daemon)
    assert (holder["pid"], holder["token"]) == (line["pid"], line["token"])
    assert is_alive(line["pid"])
    if how == "the holder":
        os.kill(line["pid"], signal.SIGTERM)
    else:
        script.send_signal(signal.SIGKILL if how == "kill" else signal.SIGTERM)
        script.wait()
    wait_until(lambda: is_free(daemon) and not is_alive(line["pid"]), "the end of the hold")
    assert (script.poll() is None) == (how == "the holder")


@pytest.mark.parametrize("reaction, number", [(None, signal.SIGTERM), ("terminate", signal.SIGTERM), ("kill", signal.SIGKILL)])
def test_a_loss_ends_the_process(sidelock, daemon, script, reaction, number):
    sidelock.run("hold", *(["--on-lost", reaction] if reaction else []), "--pid", script.pid, "orders")
    daemon.client().call("break", name="orders")
    assert script.wait(GENEROUS_SECONDS) in (-number, -signal.SIGKILL)


def test_a_loss_that_is_only_told(lab, daemon, script):
    log = lab.directory / "err"
    with log.open("w") as err:
        process = Command(lab, daemon).start("hold", "--on-lost", "notify", "--pid", script.pid, "orders", stderr=err)
    assert process.wait(GENEROUS_SECONDS) == 0
    daemon.client().call("break", name="orders")
    wait_until(lambda: "lost orders: an administrator took it away" in log.read_text(), "the words")
    assert script.poll() is None


def test_a_script_is_told_of_the_loss_on_its_own_standard_error(lab, daemon):
    """Also where that is a pipe; and whoever captures what the command says does not wait for the end of the hold."""
    process = shell(lab, daemon, "sh", "said=$(sidelock hold --pid $$ orders 2>&1); sidelock hold --pid $$ other; echo $said; exec cat")
    assert '"name":"other"' in process.stdout.readline() and '"name":"orders"' in process.stdout.readline()
    daemon.client().call("break", name="other")
    assert process.wait(GENEROUS_SECONDS) in (-signal.SIGTERM, -signal.SIGKILL)
    assert "lost other: an administrator took it away" in process.stderr.read()


def test_a_process_that_ignores_the_end_is_killed_in_time(lab):
    lease_ms = 10_000
    redis = lab.redis()
    daemon, other = lab.daemon(redis, lease_ms=lease_ms), lab.daemon(redis, lease_ms=lease_ms)
    script = lab.track(subprocess.Popen(["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"]))
    assert Command(lab, daemon).run("hold", "--pid", script.pid, "orders")[0] == 0
    waiter = other.client()
    request = waiter.queue("orders")
    daemon.stop()
    assert waiter.reply_to(request)["token"] > 0
    assert script.poll() == -signal.SIGKILL
    daemon.resume()


def test_a_wait_that_is_given_up_leaves_nothing_behind(lab, daemon, script):
    client = daemon.client()
    token = client.acquire("orders")
    process = Command(lab, daemon).start("hold", "--pid", script.pid, "orders")
    wait_until(lambda: client.call("inspect", name="orders")["waiting"] == 1, "the wait")
    [(child, _)] = children(process.pid)
    process.send_signal(signal.SIGINT)
    assert process.wait(GENEROUS_SECONDS) == -signal.SIGINT
    wait_until(lambda: not is_alive(child) and client.call("inspect", name="orders")["waiting"] == 0, "the end of the wait")
    client.release("orders", token)
    assert client.acquire("orders") > token


def test_the_wait_ends_with_the_process_that_it_is_for(lab, daemon, script):
    client = daemon.client()
    client.acquire("orders")
    process = Command(lab, daemon).start("hold", "--pid", script.pid, "orders")
    wait_until(lambda: client.call("inspect", name="orders")["waiting"] == 1, "the wait")
    [(child, _)] = children(process.pid)
    script.kill()
    script.wait()
    assert process.wait(GENEROUS_SECONDS) == 64
    assert f"process {script.pid} has ended" in process.stderr.read()
    wait_until(lambda: not is_alive(child) and client.call("inspect", name="orders")["waiting"] == 0, "the end of the wait")


def test_who_waits_in_the_background_is_told_and_refused_like_others(lab, daemon, script):
    client = daemon.client()
    client.acquire("orders", meta="a client")
    status, out, err = Command(lab, daemon).run("hold", "-E", "9", "-w", "1500ms", "--pid", script.pid, "orders")
    assert (status, out) == (9, "")
    assert "waiting for orders: held by" in err and "not free within 1.5 s; held by" in err and '"a client"' in err


# With a standard error that nobody reads

@pytest.fixture
def full():
    """The end for writing of a pipe that is full."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(writing, bytes(4096))
    os.set_blocking(writing, True)
    yield writing
    os.close(reading)
    os.close(writing)


def test_a_wait_ends_in_time_though_nobody_reads_of_it(lab, daemon, full):
    daemon.client().acquire("orders")
    process = Command(lab, daemon).start("hold", "-w", "1500ms", "orders", stderr=full)
    assert process.wait(GENEROUS_SECONDS) == 1


@pytest.mark.parametrize("reaction", ["terminate", "kill"])
def test_a_loss_ends_the_process_though_nobody_reads_of_it(lab, daemon, full, reaction):
    # The standard error of the process itself, as otherwise it is let go.
    script = lab.track(subprocess.Popen(
        ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"], stdout=subprocess.PIPE, stderr=full))
    assert script.stdout.readline() == b"ready\n"
    process = Command(lab, daemon).start("hold", "--on-lost", reaction, "--pid", script.pid, "orders", stderr=full)
    assert process.wait(GENEROUS_SECONDS) == 0
    daemon.client().call("break", name="orders")
    assert script.wait(GENEROUS_SECONDS) == -signal.SIGKILL


# In shells

def environment(lab, daemon, rsync="echo copied"):
    """PATH has the command under its own name, and an rsync that is none."""
    directory = lab.directory / "bin"
    directory.mkdir(exist_ok=True)
    if not (directory / "sidelock").exists():
        (directory / "sidelock").symlink_to(binary("sidelock", "SIDELOCK"))
    (directory / "rsync").write_text(f"#!/bin/sh\n{rsync}\n")
    (directory / "rsync").chmod(0o755)
    return {**Command(lab, daemon).environment, "PATH": f"{directory}:{os.environ['PATH']}"}


def example(sidelock, title):
    """An example of the help, as somebody copies it."""
    text = sidelock.run("hold", "--help")[1].split("IN SCRIPTS")[1]
    found = re.search(rf"{title}.*?:\n((?: {{4}}.*\n)+)", text)
    assert found, text
    return "\n".join(line.strip() for line in found[1].splitlines()) + "\n"


def shell(lab, daemon, program, script, **options):
    return lab.track(subprocess.Popen(
        [program, "-c", script], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=environment(lab, daemon, **options)))


CASES = [("The rest of a script", "sh"), ("The rest of a script", "bash"), ("A part of a script", "bash")]


@pytest.mark.parametrize(
    "title, program", [*CASES, ("A part of a script with a descriptor", "bash")], ids=lambda words: words.replace(" ", "-"))
def test_the_examples_of_the_help_do_what_they_say(lab, sidelock, daemon, title, program):
    script = example(sidelock, title)
    assert "rsync" in script
    process = shell(lab, daemon, program, script + "echo end; cat\n", rsync=r"sidelock list --json; echo copied")
    text = ""
    while not text.endswith("end\n"):
        line = process.stdout.readline()
        assert line, process.stderr.read()
        text += line
    assert '"name":"backup"' in text and "copied\n" in text
    if title.startswith("The rest"):
        assert not is_free(daemon, "backup")
    else:
        wait_until(lambda: is_free(daemon, "backup"), "the end of the part")
    process.stdin.close()
    assert process.wait(GENEROUS_SECONDS) == 0, process.stderr.read()
    wait_until(lambda: is_free(daemon, "backup"), "the end of the hold")


@pytest.mark.parametrize("title, program", CASES, ids=lambda words: words.replace(" ", "-"))
def test_a_script_that_is_killed_gives_the_lock_back(lab, sidelock, daemon, title, program):
    process = shell(lab, daemon, program, example(sidelock, title) + ":\n", rsync="echo copying; exec sleep 1000 >/dev/null")
    assert process.stdout.readline() == "copying\n"
    assert not is_free(daemon, "backup")
    [copying] = wait_until(lambda: [pid for pid, name in children(process.pid) if name == "sleep"], "the copying")
    process.kill()
    process.wait()
    try:
        wait_until(lambda: is_free(daemon, "backup"), "the end of the hold")
    finally:
        os.kill(copying, signal.SIGKILL)


@pytest.mark.parametrize("title, program", CASES, ids=lambda words: words.replace(" ", "-"))
def test_a_script_that_does_not_get_the_lock_stops(lab, sidelock, daemon, title, program):
    daemon.client().acquire("backup")
    script = example(sidelock, title).replace("sidelock hold", "sidelock hold -n")
    process = shell(lab, daemon, program, script)
    out, err = process.communicate(timeout=GENEROUS_SECONDS)
    assert process.returncode == 1 and out == "" and "busy: held by" in err


def test_on_a_terminal_a_line_for_people_until_ctrl_d(lab, daemon):
    terminal = Terminal(environment(lab, daemon))
    try:
        terminal.wait_for("ready> ")
        terminal.type("sidelock hold orders\n")
        terminal.wait_for("holds orders (token ")
        terminal.wait_for(") until its input ends (Ctrl-D)")
        assert not is_free(daemon)
        terminal.type("\x04")
        terminal.wait_for("ready> ")
        wait_until(lambda: is_free(daemon), "the end of the hold")
    finally:
        terminal.close()


@pytest.mark.parametrize("options", [[], ["--pid", "$$"]], ids=["here", "background"])
def test_ctrl_z_gives_the_place_up_and_fg_queues_again(lab, daemon, options):
    client = daemon.client()
    token = client.acquire("orders")

    def waiting():
        return client.call("inspect", name="orders")["waiting"]

    terminal = Terminal(environment(lab, daemon))
    try:
        terminal.wait_for("ready> ")
        terminal.type(f"sidelock hold {' '.join(options)} orders\n")
        wait_until(lambda: waiting() == 1, "the wait")
        [(process, _)] = children(terminal.shell)
        terminal.type(CTRL_Z)
        terminal.wait_for("Stopped")
        wait_until(lambda: waiting() == 0 and process_state(process) == "T", "the stop")
        terminal.type("fg\n")
        wait_until(lambda: waiting() == 1, "the wait, again")
        client.release("orders", token)
        terminal.wait_for("holds orders")
    finally:
        terminal.close()
    wait_until(lambda: is_free(daemon), "the end of the hold, with the terminal")


# Until a descriptor is closed

@pytest.fixture
def bash(lab, daemon):
    """A bash that says what it did, and goes on when it is told to."""
    def start(*lines):
        program = [binary("sidelock", "SIDELOCK")]
        return lab.track(subprocess.Popen(
            ["bash", "-c", "\n".join(lines), *program], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, env=Command(lab, daemon).environment, start_new_session=True))
    return start


HOLD_9 = ("exec 9> >(:)", '"$0" hold --fd 9 orders || exit')


def test_it_lasts_until_the_descriptor_is_closed(daemon, bash):
    script = bash(*HOLD_9, "read", "exec 9>&-", "echo closed", "read")
    line = json.loads(script.stdout.readline())
    [holder] = holders(daemon)
    assert line["pid"] == holder["pid"] and is_alive(line["pid"])
    script.stdin.write("\n")
    script.stdin.flush()
    assert script.stdout.readline() == "closed\n"
    wait_until(lambda: is_free(daemon), "the end of the hold")
    assert is_alive(script.pid)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_the_last_that_has_the_descriptor(daemon, bash, number):
    script = bash(*HOLD_9, "sleep 1000 >/dev/null 2>&1 & echo $!", "echo data >&9", "read")
    json.loads(script.stdout.readline())
    child = int(script.stdout.readline())
    script.send_signal(number)
    script.wait(GENEROUS_SECONDS)
    # As with flock(1), what was started has it, too.
    assert not is_free(daemon)
    os.kill(child, signal.SIGKILL)
    wait_until(lambda: is_free(daemon), "the end of the hold")


@pytest.mark.skipif(os.geteuid() != 0, reason="other users can only be tried as root")
def test_a_pipe_of_another_user_is_told_of(daemon, bash):
    os.chmod(daemon.socket_path, 0o666)
    hold = "setpriv --reuid 65534 --clear-groups /proc/self/fd/8 hold --pid $$ --fd 9 orders"
    script = bash("exec 9> >(:)", 'exec 8<"$0"', hold, 'echo "status $?"')
    assert script.stdout.readline() == "status 64\n"
    assert "cannot read the pipe of descriptor 9: Permission denied" in script.stderr.read()


# One that is broken leaves no time between the two.
ENDED = (-signal.SIGTERM, -signal.SIGKILL)


def test_a_loss_ends_the_process_that_has_asked(daemon, bash):
    script = bash(*HOLD_9, "sleep 1000 9>&- >/dev/null 2>&1 & wait")
    json.loads(script.stdout.readline())
    daemon.client().call("break", name="orders", reason="a test")
    assert script.wait(GENEROUS_SECONDS) in ENDED


@pytest.mark.parametrize("asks", [
    'line=$("$0" hold --fd 9 orders 2>&1) || exit; echo "$line"', 'f() { "$0" hold --fd 9 orders; return $?; }; line=$(f) || exit; echo "$line"',
    'sh -c "\'$0\' hold --fd 9 orders; true"', '( exec 7>&9; "$0" hold --fd 7 orders )', '"$0" hold --fd 7 orders 7>&9'],
    ids=["substitution", "function", "shell", "another number", "another number of the command"])
def test_a_loss_ends_the_script_where_a_subshell_has_asked(daemon, bash, asks):
    script = bash("exec 9> >(:)", asks, "sleep 1000 9>&- >/dev/null 2>&1 & wait")
    json.loads(script.stdout.readline())
    daemon.client().call("break", name="orders", reason="a test")
    assert script.wait(GENEROUS_SECONDS) in ENDED


def test_a_subshell_that_works_under_the_lock_ends_at_once(daemon, bash):
    """Without the moment that one is given which has only asked. A busy machine takes its time: once in twenty is enough."""
    def ends_at_once(number):
        script = bash("exec 9> >(:)", f'( "$0" hold --fd 9 n{number}; exec sleep 1000 >/dev/null 2>&1 ) & echo $!; wait')
        _, held = sorted((script.stdout.readline() for _ in range(2)), key=lambda line: line.startswith("{"))
        granted = time.monotonic()
        wait_until(lambda: time.monotonic() - granted > 0.5, "longer than one may take that has only asked")
        broken = time.monotonic()
        daemon.client().call("break", name=json.loads(held)["name"], reason="a test")
        script.wait(GENEROUS_SECONDS)
        return time.monotonic() - broken < 0.25
    assert any(ends_at_once(number) for number in range(20))


@pytest.mark.parametrize("first, second", [("--fd 8", "--fd 9"), ("--fd 8", "--pid $$")])
def test_two_of_one_script_end_each_by_itself(daemon, bash, first, second):
    script = bash("exec 8> >(:) 9> >(:)", f'"$0" hold {first} a', f'"$0" hold {second} b', "read", "exec 8>&-", "read")
    for _ in range(2):
        json.loads(script.stdout.readline())
    script.stdin.write("\n")
    script.stdin.flush()
    wait_until(lambda: is_free(daemon, "a"), "the end of the first hold")
    assert not is_free(daemon, "b")
    script.kill()
    wait_until(lambda: is_free(daemon, "b"), "the end of the second hold")


def test_a_second_descriptor_of_the_pipe_does_not_keep_it(daemon, bash):
    script = bash("exec {more}> >(:)", "exec 9>&$more", '"$0" hold --fd 9 orders', "read", "exec 9>&- {more}>&-", "read")
    json.loads(script.stdout.readline())
    script.stdin.write("\n")
    script.stdin.flush()
    wait_until(lambda: is_free(daemon), "the end of the hold")


def test_who_reads_the_errors_of_a_script_does_not_wait_for_the_hold(daemon, bash):
    script = bash(*HOLD_9, "sleep 1000 >/dev/null 2>&1 & echo $!")
    json.loads(script.stdout.readline())
    child = int(script.stdout.readline())
    try:
        assert script.communicate(timeout=GENEROUS_SECONDS)[1] == ""
        assert not is_free(daemon)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_wait_for_a_descriptor_ends_when_it_is_closed(daemon, bash):
    holder = daemon.client()
    holder.acquire("orders")
    script = bash("exec 9> >(:)", '"$0" hold -q --fd 9 orders &', "read", "exec 9>&-", 'wait $!; echo "status $?"')
    wait_until(lambda: holder.call("inspect", name="orders")["waiting"] == 1, "the wait")
    script.stdin.write("\n")
    script.stdin.flush()
    assert script.stdout.readline() == "status 64\n"
    assert "descriptor 9 was closed" in script.stderr.read()


def test_whoever_has_adopted_it_is_not_ended(daemon, bash, tmp_path):
    errors = tmp_path / "errors"
    orphan = ('while [ "$(cut -d" " -f4 /proc/$$/stat)" = "$1" ]; do :; done; '
              f'exec "$0" hold --fd 9 orders >/dev/null 2>>{errors}')
    bash("exec 9> >(:)", f"bash -c '{orphan}' \"$0\" $$ &", "exit").wait(GENEROUS_SECONDS)
    wait_until(lambda: errors.exists() and "say with --pid which one a loss ends" in errors.read_text(), "the refusal")
    assert is_free(daemon)


@pytest.mark.parametrize("opened", ["", "exec 9>/dev/null", "exec 9< <(:)"], ids=["closed", "file", "reader"])
def test_what_is_no_pipe_to_write_to_is_refused(bash, opened):
    script = bash(opened, '"$0" hold --fd 9 orders', 'echo "status $?"')
    assert script.stdout.readline() == "status 64\n"
    assert "exec 9> >(:)" in script.stderr.read()
