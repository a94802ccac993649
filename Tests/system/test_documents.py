"""Everything that the documents and the help show to be typed or copied: each line is run, or it is said where it is."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
from harness.cluster import key
from harness.daemon import ROOT, binary, clean_environment
from harness.schema import PROTOCOL
from harness.waiting import GENEROUS_SECONDS, wait_until

PLACE = "/run/sidelock/sidelock.sock"
# Its lines build the tree and test it; Tests/ProtocolDocumentTests holds what they name.
MAP_OF_THE_TESTS = ROOT / "Tests/README.md"
DOCUMENTS = sorted(path for pattern in ("*.md", "packaging/**/*.md", "protocol/**/*.md", "Tests/**/*.md")
                   for path in ROOT.glob(pattern) if path != MAP_OF_THE_TESTS)
SERVICE_TEST = "Tests/lib/service-test.sh"
RUN = "Tests/run.sh"
# What is run elsewhere: the line, where, and the text that runs it there.
ELSEWHERE = {
    "./packaging/quickstart.sh": (RUN, "packaging/quickstart.sh --once"),
    "./packaging/build-deb.sh": (RUN, "packaging/build-deb.sh --binaries"),
    "apt install ./sidelock_*.deb": (SERVICE_TEST, "apt install ./sidelock_*.deb"),
    # An editor waits for a person; that the file is good is looked at.
    "editor /etc/sidelock/sidelockd.yaml": (SERVICE_TEST, 'sidelockd --config "$settings" --check'),
    "systemctl reload-or-restart sidelockd": (SERVICE_TEST, "inside systemctl reload-or-restart sidelockd"),
    "usermod -aG sidelock alice": (SERVICE_TEST, "inside usermod -aG sidelock alice"),
    "systemctl status sidelockd": (SERVICE_TEST, "inside systemctl status sidelockd"),
    "journalctl -x SIDELOCK_LOCK=orders": (SERVICE_TEST, "inside journalctl -x SIDELOCK_LOCK=orders"),
    "sidelock run nightly -- sleep 600 &": (SERVICE_TEST, "# sidelock run nightly -- sleep 600 &"),
    **{line: ("README.md", f"# {line}\n") for line in (
        "systemctl restart sidelockd", "systemctl kill --signal=KILL sidelockd", "kill -9 %1")},
    "systemctl enable --now sidelock-exporter": (SERVICE_TEST, "inside systemctl enable --now sidelock-exporter"),
    "python3 -m venv .venv && .venv/bin/pip install -r Tests/system/requirements.txt": (
        RUN, ".venv/bin/python -m pip install"),
    "swift build -c release": (RUN, 'swift build "${release_flags[@]}"'),
    ".venv/bin/python -m pytest Tests/system": (RUN, "-m pytest"),
    "Tests/run.sh fuzz                                # a minute in all, as CI does": (RUN, "part_fuzz"),
    "Tests/lib/fuzz.py --seconds 600 engine restore   # longer, and only these": (RUN, "Tests/lib/fuzz.py"),
    "Tests/lib/fuzz.py --runs 5000000 --update        # long, and the corpus takes in what was reached": (
        RUN, "Tests/lib/fuzz.py"),
    # There is no such host.
    "ssh -t -L 9798:127.0.0.1:9798 db1 sidelock dashboard --listen 9798": (
        "Tests/system/test_dashboard.py", 'Dashboard(sidelock, "--listen", str(dashboard.port))'),
    # These measure for minutes.
    "sidelock bench": ("Tests/system/test_bench.py", '"bench"'),
    "sidelock bench --scenario distinct cold --seconds 10 --connections 1,64": ("Tests/system/test_bench.py", '"bench"'),
    "sidelock bench --scenario contended --clients 32 --hold-ms 5 --pause-ms 0": ("Tests/system/test_bench.py", '"bench"'),
    "sidelock bench --scenario all --other-socket /run/other/sidelock.sock --json": ("Tests/system/test_bench.py", '"bench"'),
    "sidelock bench --compare --redis-socket /run/redis/redis-server.sock": (
        "Tests/system/test_bench.py", '"bench", "--compare"'),
}
# The programs that the lines name as examples of what somebody would run; they end with 0 and say that they ran.
# An entry of the journal, where nobody has written one.
JOURNAL = json.dumps({"MESSAGE_ID": "a0edb1c73a0fbe732cb1fa7707e72f33", "__REALTIME_TIMESTAMP": "1764000000000000",
                      "SIDELOCK_LOCK": "deploy", "SIDELOCK_TOKEN": "1764000000000001"})
STUBS = ["xdg-open", "report", "deploy.sh", "read-it", "send-a-batch", "copy", "build", "deploy", "migrate", "rsync"]
# These go on until they are interrupted.
ENDLESS = re.compile(r'sidelock watch\b|sidelock trace --lock|"half_close":"hold"')


def blocks(path):
    """The code of a document: (language, lines)."""
    return [(found[1], found[2].splitlines())
            for found in re.finditer(r"^```(\w*)\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)]


def console_lines():
    """What the documents have typed, line by line."""
    for path in DOCUMENTS:
        for language, lines in blocks(path):
            if language == "console":
                yield from (line[2:] for line in lines if re.match(r"[$#] ", line))
            elif language == "sh":
                # A line that ends with a bar goes on.
                yield from re.sub(r"\|\n\s*", "| ", "\n".join(lines)).splitlines()


def example_lines():
    """What the help of the programs has typed."""
    for name in ("sidelock", "sidelockd"):
        dump = json.loads(subprocess.run([binary(name, name.upper()), "--experimental-dump-help"], check=True,
                                         capture_output=True, text=True).stdout)["command"]
        for command in [dump, *dump.get("subcommands", [])]:
            for found in re.finditer(r"^EXAMPLES?\n((?:  .*\n?)+)", command.get("discussion", ""), re.MULTILINE):
                yield from (line.strip() for line in found[1].splitlines())


LINES = list(dict.fromkeys([*console_lines(), *example_lines()]))


def in_place(daemon):
    """A command that runs another one where the daemon's socket is at the place that the documents name."""
    own_root = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *own_root, "--mount", "sh", "-c",
            f'mount -t tmpfs tmpfs /run && mkdir /run/sidelock && ln -s "$0" {PLACE} && exec "$@"', str(daemon.socket_path)]


class Desk:
    """A directory with what the documents' lines name, and a daemon where they look for it."""

    def __init__(self, lab):
        self.lab = lab
        self.daemon = lab.daemon(lab.redis())
        self.path = lab.directory / "desk"
        self.path.mkdir()
        for name in STUBS:
            script = self.path / name
            script.write_text(f"#!/bin/sh\necho ran {name}\n")
            script.chmod(0o755)
        script = self.path / "journalctl"
        script.write_text(f"#!/bin/sh\necho '{JOURNAL}'\n")
        script.chmod(0o755)
        for name in ("sidelock", "sidelockd"):
            (self.path / name).symlink_to(binary(name, name.upper()))

    def start(self, *command, **options):
        return self.lab.track(subprocess.Popen(
            [*in_place(self.daemon), *map(str, command)], cwd=self.path, text=True, start_new_session=True,
            env=clean_environment(PATH=f"{self.path}:{os.environ['PATH']}", XDG_RUNTIME_DIR=""),
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}))

    def run(self, *command, stdin=None):
        process = self.start(*command, **({} if stdin is None else {"stdin": subprocess.PIPE}))
        out, err = process.communicate(stdin, timeout=GENEROUS_SECONDS)
        return process.returncode, out, err


@pytest.fixture
def desk(lab):
    return Desk(lab)


def test_the_documents_and_their_lines_are_found():
    """Otherwise nothing is tried."""
    names = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
    assert {"README.md", "protocol/README.md", "protocol/clients/README.md", "packaging/settings.md"} <= set(names)
    assert len(LINES) > 40
    assert any(line.startswith("sidelock run") for line in LINES)


def test_what_is_run_elsewhere_is_run_there():
    for line, (path, text) in ELSEWHERE.items():
        assert line in LINES, f"no document shows {line!r} any more"
        assert text in (ROOT / path).read_text(), f"{path} does not run {line!r}"


@pytest.mark.parametrize("shell", [["bash", "-c"], ["zsh", "-f", "-c"]], ids=["bash", "zsh"])
@pytest.mark.parametrize("line", [line for line in LINES if line not in ELSEWHERE])
def test_each_line_runs(desk, line, shell):
    if line.startswith("sidelockd "):
        # The settings are judged; daemons are started by all the other tests.
        status, out, err = desk.run(*shell, line.replace(
            "/etc/sidelock/sidelockd.yaml", str(ROOT / "packaging/sidelockd.yaml")) + (" --check" if "--check" not in line else ""))
        assert (status, err) == (0, "") and json.loads(out).get("problems", []) == []
    elif ENDLESS.search(line):
        process = desk.start(*shell, line)
        witness = desk.daemon.client()
        wait_until(lambda: witness.call("stats")["sessions"] == 2 or process.poll() is not None, "its session")
        assert process.poll() is None, process.communicate()
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=GENEROUS_SECONDS)
    elif line.startswith("sidelock dashboard"):
        process = desk.start(*shell, line)
        told = json.loads(process.stdout.readline())
        assert re.fullmatch(r"http://[\w.:]+/[0-9a-f]{32}/", told["url"])
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=GENEROUS_SECONDS)
        assert process.returncode == 0
    elif line.startswith("socat "):
        converse(desk, line)
    elif line.startswith(("sidelock exporter", "curl http://127.0.0.1:9797/")):
        process = desk.start(*shell, line if line.startswith("sidelock") else "sidelock exporter")
        address = process.stdout.readline().strip()
        assert address in ("127.0.0.1:9797", "unix:exporter.sock"), process.communicate(timeout=GENEROUS_SECONDS)
        if line.startswith("curl"):
            status, out, _ = desk.run(*shell, line)
            assert status == 0 and "\nsidelock_up 1\n" in out
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=GENEROUS_SECONDS)
    else:
        # Where nobody has the lock that the line breaks, or the session that it ends or shows, there is nothing to break.
        is_break = line.startswith(("sidelock break", "sidelock kill", "sidelock trace"))
        status, out, err = desk.run(*shell, line)
        assert status == (1 if is_break else 0) and (is_break or err == ""), (status, out, err)
        if line.startswith("sidelock run") and "somebody else" not in line:
            assert re.search(r"^ran [\w.-]+$", out, re.MULTILINE), out
        elif "socat" in line or "sidelock call" in line:
            assert out and all(not json.loads(part).get("error") for part in out.splitlines() if part.startswith("{"))
    assert not desk.daemon.client().call("list")["locks"] or all(
        not lock["holders"] for lock in desk.daemon.client().call("list")["locks"])


def converse(desk, line):
    """A conversation with socat: what stands behind `>` is typed, the other lines are the answers' shape."""
    [lines] = [lines for path in DOCUMENTS for language, lines in blocks(path) if "$ " + line in lines]
    process = desk.start("bash", "-c", line, stdin=subprocess.PIPE)
    for shown in lines[1:]:
        if shown.startswith("> "):
            process.stdin.write(shown[2:] + "\n")
            process.stdin.flush()
        else:
            came, wanted = json.loads(process.stdout.readline()), json.loads(shown)
            assert came.keys() == wanted.keys() and came["result"].keys() == wanted["result"].keys()
    process.communicate(timeout=GENEROUS_SECONDS)


def test_the_deploy_line_speaks_of_somebody_else_only_then(desk):
    [line] = [line for line in LINES if "somebody else deploys" in line]
    assert desk.run("bash", "-c", line)[:2] == (0, "ran deploy.sh\n")
    for status in (1, 7, 127):
        (desk.path / "deploy.sh").write_text(f"#!/bin/sh\nexit {status}\n")
        assert "somebody else" not in desk.run("bash", "-c", line)[1]
    holder = desk.daemon.client()
    holder.acquire("deploy")
    assert desk.run("bash", "-c", line)[1] == "somebody else deploys\n"
    # Neither when there is no daemon.
    desk.daemon.terminate()
    assert "somebody else" not in desk.run("bash", "-c", line)[1]


def test_no_document_takes_any_failure_for_a_lock_in_use():
    for line in LINES:
        assert not re.search(r"sidelock run [^;]*(-n|-w)\b[^;]*\|\|", line), line


def test_the_requests_that_the_documents_show_are_taken(lab):
    """Each JSON line of them, on a connection of its own."""
    daemon = lab.daemon(lab.redis())
    shown = [line for path in DOCUMENTS for language, lines in blocks(path) if language == "json" for line in lines]
    assert len(shown) >= 5
    for line in shown:
        client, request = daemon.client(), json.loads(line)
        client.send(request)
        assert client.reply_to(request["id"]) is not None
        client.close()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_sample_settings_are_good(lab, number):
    text = [lines for language, lines in blocks(ROOT / "packaging/settings.md") if language == "yaml"][number]
    path = lab.directory / "settings.yaml"
    # These accounts are not everywhere; without them the daemon says that they are missing.
    text = "\n".join(text).replace("group:shop", "group:root").replace("user:anna", "user:root")
    path.write_text(text + ("\n" if "redis:" in text else "\nlocal: true\n"))
    done = subprocess.run([binary("sidelockd", "SIDELOCKD"), "--config", str(path), "--check"], capture_output=True,
                          text=True, env=clean_environment())
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


def test_the_lines_for_redis_work(lab):
    """What processes that do not use sidelock are told to do; the samples stand in protocol/README.md."""
    redis = lab.redis()
    client = lab.daemon(redis).client()
    samples = blocks(PROTOCOL / "README.md")
    [take] = [lines[0] for language, lines in samples if lines[0].startswith("SET ")]
    [give] = [lines for language, lines in samples if language == "lua"]
    # What computes the key in a cluster comes behind it.
    [code, lock_key] = [lines for language, lines in samples if language == "python"]
    exec("\n".join(lock_key), in_cluster := {})  # noqa: S102 - the document's own lines
    for name in ("orders", *(f"n{number}" for number in range(200))):
        assert in_cluster["lock_key"](name) == key(name)
    command = [word if word != "VALUE" else "mine" for word in take.replace("<a value of your own>", "VALUE").split()]
    assert redis.admin.execute_command(*command)
    assert client.try_acquire("orders") is None
    assert redis.admin.execute_command(*command) is None
    assert redis.admin.eval("\n".join(give), 1, "sidelock:{orders}", "theirs") == 0
    assert redis.admin.eval("\n".join(give), 1, "sidelock:{orders}", "mine") == 1

    class Library:
        Redis = staticmethod(lambda: redis.admin)

    names = {"redis": Library}
    exec("\n".join(code), names)  # noqa: S102 - the document's own lines
    with names["lock"]:
        assert client.try_acquire("orders") is None
    client.acquire("orders", wait_ms=int(GENEROUS_SECONDS * 1000))


# The README's Python

WORK = "        ...  # work; pass lock.token along with your writes\n"
# It says when it has the lock, and works until its input ends.
LONG_WORK = "        import sys; print(lock.token, flush=True); sys.stdin.read(); print('done', flush=True)\n"


def readme_python():
    [code] = ["\n".join(lines) + "\n" for language, lines in blocks(ROOT / "README.md") if language == "python"]
    assert code.count(WORK) == 1
    return code


class Snippet:
    """The README's Python as a program."""

    def __init__(self, desk, code):
        (desk.path / "snippet.py").write_text(code)
        self.process = desk.start("env", f"PYTHONPATH={PROTOCOL}/clients/python/src", sys.executable, "snippet.py", stdin=subprocess.PIPE)

    def token(self):
        return int(self.process.stdout.readline())

    def end(self):
        """Its status, what else it said, and its errors, without further input."""
        out, err = self.process.communicate(timeout=GENEROUS_SECONDS)
        return self.process.returncode, out, err


def test_the_python_of_the_readme_runs_as_it_stands(desk):
    assert Snippet(desk, readme_python()).end() == (0, "", "")
    assert desk.daemon.client().acquire("orders", wait_ms=0) > 0


def test_the_python_of_the_readme_holds_the_lock_while_it_works(desk):
    witness = desk.daemon.client()
    snippet = Snippet(desk, readme_python().replace(WORK, LONG_WORK))
    token = snippet.token()
    assert [holder["token"] for holder in witness.call("inspect", name="orders")["holders"]] == [token]
    waiting = witness.queue("orders")
    assert snippet.end() == (0, "done\n", "")
    assert witness.reply_to(waiting)["token"] > token


def test_the_python_of_the_readme_says_who_has_the_lock(desk):
    token = desk.daemon.client().acquire("orders")
    status, out, err = Snippet(desk, readme_python().replace("wait=5", "wait=0.3")).end()
    assert (status, err) == (0, "") and out.startswith("in use by [{") and f"'token': {token}" in out and f"'pid': {os.getpid()}" in out


@pytest.mark.parametrize("trouble, kind, words", [
    ("redis", "Unavailable", "Redis"), ("limit", "Error", "connections_max"), ("denied", "Denied", "right to use")])
def test_the_python_of_the_readme_raises_what_the_daemon_refuses(desk, trouble, kind, words):
    code = readme_python().replace(WORK, LONG_WORK).replace("wait=5", "wait=0.3")
    if trouble == "redis":
        desk.lab.servers[0].kill()
    else:
        desk.daemon.terminate()
        desk.daemon.command += (["--connections-max", "1"] if trouble == "limit" else ["--rule", "deny use orders to everyone"])
        desk.daemon.start()
        if trouble == "limit":
            desk.daemon.client().ping()
    status, out, err = Snippet(desk, code).end()
    assert (status, out) == (1, "")
    assert re.match(rf"sidelock\.(\w+\.)?{kind}: ", err.splitlines()[-1]) and words in err.splitlines()[-1], err


@pytest.mark.parametrize("trouble, words", [
    ("break", "is lost: broken"), ("stop", "is lost: shutdown"), ("kill", "is lost: connection_ended")])
@pytest.mark.parametrize("use", ["", """
        import time
        while lock.held: time.sleep(0.01)
        print('written', lock.token)
"""], ids=["end", "token"])
def test_the_python_of_the_readme_does_not_take_a_lost_lock_for_held(desk, trouble, words, use):
    snippet = Snippet(desk, readme_python().replace(WORK, LONG_WORK.replace("; print('done', flush=True)", "") + use))
    assert snippet.token() > 0
    if trouble == "break":
        assert desk.daemon.client().call("break", name="orders")["broken"]
    elif trouble == "stop":
        desk.daemon.terminate()
    else:
        desk.daemon.kill()
    status, out, err = snippet.end()
    assert (status, out) == (1, "") and re.match(r"sidelock\.(\w+\.)?Lost: ", err.splitlines()[-1]) and words in err.splitlines()[-1], err


def test_the_python_of_the_readme_gives_back_what_fails(desk):
    code = readme_python().replace(WORK, "        raise ValueError('bad work')\n")
    status, out, err = Snippet(desk, code).end()
    assert (status, out) == (1, "") and err.endswith("ValueError: bad work\n")
    # It said so before it ended.
    code = readme_python().replace(WORK, "        pass\n").replace("    with ", "    for _ in range(50):\n     with ")
    assert Snippet(desk, code).end() == (0, "", "")
    assert desk.daemon.client().acquire("orders", wait_ms=0) > 0


def test_shells_of_this_test_are_there():
    assert shutil.which("zsh") and shutil.which("bash")
