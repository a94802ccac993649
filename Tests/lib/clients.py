#!/usr/bin/env python3
"""Holds the clients of protocol/clients to the conformance suite: clients.py [NAME…]. Each is built as its README says,
in a folder of its own; the programs of its README are run as they stand, and so are tests of its own, and its types are checked.
What needs the daemon as a service is run under a real systemd, as root. Then it is measured beside the raw scheme, SET NX PX and a
script, in the same language (protocol/conformance/cycles). $SIDELOCKD names the daemon. $CLIENTS_ALONE is a file, if several of
these are to run at a time: nobody else does anything while one measures.

clients.py --cycles [NAME…] measures only. clients.py --table does all for all, and writes the table of protocol/clients/README.md: in
less than 6 minutes, on a machine with two cores that does nothing else. clients.py --table NAME… prints the columns of those."""

import concurrent.futures
import contextlib
import fcntl
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

from booted_service import BootedService

ROOT = pathlib.Path(__file__).resolve().parents[2]
CLIENTS = ROOT / "protocol/clients"
RUN = ROOT / "protocol/conformance/run"
CYCLES = ROOT / "protocol/conformance/cycles"
JOBS = "4"
#: What takes longest: it has several drivers, or is built under sanitizers.
SLOWEST = ("python", "c", "java")
#: For how long each of the two is measured, and how often, in turn; for the table so often.
CYCLES_SECONDS, CYCLES_ROUNDS, TABLE_ROUNDS = 1, 5, 3
PAGE = CLIENTS / "README.md"
BEGIN, END = "<!-- table: Tests/lib/clients.py --table writes it -->\n", "<!-- end of the table -->\n"


class Client:
    """How a client is built, driven, and how the lines of its README are run."""

    #: The language of the README's lines, the files of which the client consists, and the ending of the programs that measure.
    language, sources, ending = "", (), ""

    def __init__(self, name, work):
        self.name, self.source, self.work = name, CLIENTS / name, work
        #: What the program is called that is made next.
        self.stem = "readme"

    def measures(self):
        """The programs that measure: with the client, and with the raw scheme."""
        made = []
        for self.stem in ("client", "raw"):
            made.append([str(word) for word in self.program((CYCLES / f"{self.stem}.{self.ending}").read_text())])
        return made

    def sh(self, *command, **more):
        subprocess.run([str(word) for word in command], check=True, cwd=self.work, **more)

    def copy(self):
        """The client as somebody would have it who takes the folder."""
        self.place = self.work / self.name
        shutil.copytree(self.source, self.place)

    def build(self):
        self.copy()

    def drivers(self):
        """Commands that the suite runs."""
        raise NotImplementedError

    def service_drivers(self):
        """Those that are tried under systemd."""
        return self.drivers()

    #: How the README's lines that install are run as they stand: in the client's folder (or in one that has protocol/clients in it), what
    #: makes a project for them, the file for a program, and what runs it then. None where they need the network.
    install = None

    def tests(self):
        """Commands of the client's own tests, with a daemon at $SIDELOCK_SOCKET; run in its folder."""
        return []

    def check(self):
        """Whatever else is to be seen when the suite has run."""

    def program(self, code):
        """The command for a program with that text."""
        raise NotImplementedError

    def write(self, name, code):
        path = self.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
        return path


class Python(Client):
    language, sources, ending = "python", ["src/sidelock/*.py"], "py"
    install = (False, "", "program.py", "env/bin/python program.py")

    def build(self):
        self.copy()
        self.sh(sys.executable, "-m", "venv", "venv")
        self.sh("venv/bin/pip", "install", "--quiet", "--disable-pip-version-check", f"./{self.name}")

    def tests(self):
        return [[self.work / "venv/bin/python", self.place / "test.py"]]

    def check(self):
        # Without the folder of the sources: what is looked at is what was installed, as for who uses it.
        strict = ["mypy", "--strict", "--cache-dir", self.work / "mypy", "--python-executable", self.work / "venv/bin/python"]
        self.sh(*strict, "--no-incremental", "-p", "sidelock")
        self.sh(*strict, "--no-incremental", self.write("checked_types.py", (self.place / "test_types.py").read_text()))

    def drivers(self):
        return [[self.work / "venv/bin/python", self.source / name] for name in ("driver.py", "driver_aio.py")]

    def program(self, code):
        return [self.work / "venv/bin/python", self.write(f"{self.stem}.py", code)]


class Node(Client):
    language, sources, ending = "js", ["sidelock.js"], "js"

    def tests(self):
        return [["node", self.place / "test.js"]]

    def check(self):
        self.program("")
        self.sh("tsc", "--strict", "--noEmit", "--target", "es2022", "--module", "commonjs", "--lib", "es2022,dom",
                self.write("types.ts", (self.place / "test_types.ts").read_text()))

    def drivers(self):
        return [["node", self.place / "driver.js"]]

    def program(self, code):
        # As npm would have put it.
        (self.work / "node_modules").mkdir(exist_ok=True)
        (self.work / "node_modules/sidelock").exists() or (self.work / "node_modules/sidelock").symlink_to(self.place)
        return ["node", self.write(f"{self.stem}.js", code)]


class Go(Client):
    language, sources, ending = "go", ["*.go"], "go"
    install = (False, "go mod init readme", "main.go", "go run .")

    def build(self):
        self.copy()
        self.environment = {**os.environ, "GOFLAGS": "-mod=mod", "GOPROXY": "off", "GOTOOLCHAIN": "local"}
        for command in (["vet", "./..."], ["build", "-o", self.work / "driver", "./driver"]):
            subprocess.run(["go", *command], check=True, cwd=self.place, env=self.environment)

    def tests(self):
        return [["env", "GOFLAGS=-mod=mod", "GOPROXY=off", "GOTOOLCHAIN=local", "go", "test", "."]]

    def drivers(self):
        return [[self.work / "driver"]]

    def program(self, code):
        main = self.write(f"{self.stem}/main.go", code)
        self.write(f"{self.stem}/go.mod", "module readme\n\ngo 1.19\n\nrequire sidelock v0.0.0\n\nreplace sidelock => ../go\n")
        subprocess.run(["go", "build", "-o", main.parent / "program", "."], check=True, cwd=main.parent, env=self.environment)
        return [main.parent / "program"]


class Ruby(Client):
    language, sources, ending = "ruby", ["lib/*.rb", "lib/*/*.rb"], "rb"
    install = (True, "", "program.rb", "ruby program.rb")

    def tests(self):
        return [["env", f"GEM_PATH={self.work}/gems", "ruby", "-w", self.place / "test.rb"]]

    def build(self):
        self.copy()
        subprocess.run(["gem", "build", "--quiet", "sidelock.gemspec"], check=True, cwd=self.place)
        self.gems = {**os.environ, "GEM_HOME": str(self.work / "gems"), "GEM_PATH": str(self.work / "gems")}
        subprocess.run(["gem", "install", "--quiet", "--local", "--no-document", "sidelock-0.1.0.gem"], check=True, cwd=self.place,
                       env=self.gems)

    def drivers(self):
        return [["ruby", self.place / "driver.rb"]]

    def program(self, code):
        return ["env", f"GEM_PATH={self.work}/gems", "ruby", self.write(f"{self.stem}.rb", code)]


class Perl(Client):
    language, sources, ending = "perl", ["lib/*.pm"], "pl"
    install = (True, "", "program.pl", "perl program.pl")

    def build(self):
        self.copy()
        for command in (["perl", "Makefile.PL", f"INSTALL_BASE={self.work}/installed"], ["make"], ["make", "install"]):
            subprocess.run(command, check=True, cwd=self.place, stdout=subprocess.DEVNULL)

    def drivers(self):
        return [["perl", self.place / "driver.pl"]]

    def tests(self):
        return [["perl", f"-I{self.work}/installed/lib/perl5", self.place / "test.pl"]]

    def program(self, code):
        return ["perl", f"-I{self.work}/installed/lib/perl5", self.write(f"{self.stem}.pl", code)]


class PHP(Client):
    language, sources, ending = "php", ["src/*.php"], "php"

    def drivers(self):
        return [["php", self.place / "driver.php"]]

    def tests(self):
        return [["php", self.place / "test.php"]]

    def program(self, code):
        # As composer's autoload would have it.
        return ["php", "-d", f"auto_prepend_file={self.place}/src/Sidelock.php", self.write(f"{self.stem}.php", code)]


class Java(Client):
    language, sources, ending = "java", ["src/main/java/sidelock/*.java"], "java"
    install = (False, "", "Main.java", "java -cp classes Main.java")

    def build(self):
        self.copy()
        sources = sorted(self.place.glob("src/main/java/sidelock/*.java"))
        self.sh("javac", "-Xlint:all", "-Werror", "--release", "17", "-d", "classes", *sources)
        # Only the JDK's own class hears of a signal, of which the compiler warns.
        self.sh("javac", "-nowarn", "-cp", "classes", "-d", "classes", self.place / "driver/Driver.java", stderr=subprocess.DEVNULL)
        self.sh("javac", "-Xlint:all", "-Werror", "--release", "17", "-cp", "classes", "-d", "classes", self.place / "driver/Tests.java")

    def tests(self):
        return [["java", "-cp", self.work / "classes", "Tests"]]

    def drivers(self):
        return [["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", self.work / "classes", "Driver"]]

    def program(self, code):
        return ["java", "-cp", self.work / "classes", self.write(f"{self.stem}/Main.java", code)]


class Rust(Client):
    language, sources, ending = "rust", ["src/*.rs"], "rs"
    install = (False, "cargo init --quiet --name readme", "src/main.rs", "cargo run --quiet")

    def cargo(self, *arguments, directory):
        subprocess.run(["cargo", *arguments, "--offline", "--quiet", "--target-dir", self.work / "target"], check=True,
                       cwd=directory, env={**os.environ, "RUSTFLAGS": "-D warnings"})

    def build(self):
        self.copy()
        self.cargo("build", "--release", "--examples", directory=self.place)

    def drivers(self):
        return [[self.work / "target/release/examples/driver"]]

    def program(self, code):
        main = self.write(f"{self.stem}/src/main.rs", code)
        self.write(f"{self.stem}/Cargo.toml", f'[package]\nname = "{self.stem}"\nversion = "0.0.0"\nedition = "2021"\n'
                   '[dependencies]\nsidelock = { path = "../rust" }\n')
        self.cargo("build", "--release", directory=main.parents[1])
        return [self.work / "target/release" / self.stem]


class C(Client):
    """Also under the sanitizers, which must have nothing to say."""

    language, sources, ending = "c", ["*.h", "sidelock.c"], "c"
    install = (True, "", "program.c", "./a.out")
    SANITIZERS = {"address": "-fsanitize=address,undefined -fno-sanitize-recover=all", "thread": "-fsanitize=thread"}

    def build(self):
        self.copy()
        self.sh("make", "--silent", "-C", self.place, "driver", "test", "install", f"PREFIX={self.work}/installed")
        for name, flags in self.SANITIZERS.items():
            shutil.copytree(self.source, self.work / name)
            self.sh("make", "--silent", "-C", self.work / name, "driver", "test", f"CFLAGS=-O1 -g {flags}")

    def programs(self, name):
        log = f"log_path={self.work}/report"
        return [[self.place / name], ["env", f"ASAN_OPTIONS={log}", f"UBSAN_OPTIONS={log}", self.work / "address" / name],
                # The child of a fork makes a thread of its own.
                ["env", f"TSAN_OPTIONS={log}:die_after_fork=0", self.work / "thread" / name]]

    def drivers(self):
        return self.programs("driver")

    def service_drivers(self):
        return self.drivers()[:1]

    def tests(self):
        return self.programs("test")

    def check(self):
        reports = [path.read_text(errors="replace") for path in sorted(self.work.glob("report*"))]
        if reports:
            raise AssertionError(f"c: a sanitizer has found something:\n{reports[0][:8000]}")

    def program(self, code):
        flags = subprocess.run(["pkg-config", "--cflags", "--libs", "sidelock"], check=True, text=True, capture_output=True,
                               env={**os.environ, "PKG_CONFIG_PATH": f"{self.work}/installed/lib/pkgconfig"}).stdout.split()
        self.sh("cc", "-std=c11", "-Wall", "-Wextra", "-Werror", self.write(f"{self.stem}.c", code), *flags, "-o", self.stem)
        return [self.work / self.stem]


class Bash(Client):
    language, sources, ending = "bash", ["sidelock.bash"], "bash"
    install = (False, "", "program.bash", "bash program.bash")

    def drivers(self):
        return [["bash", self.place / "driver.bash"]]

    def program(self, code):
        self.write("sidelock.bash", (self.place / "sidelock.bash").read_text())
        return ["bash", self.write(f"{self.stem}.sh", code)]


KINDS = {"bash": Bash, "c": C, "python": Python, "node": Node, "go": Go, "ruby": Ruby, "perl": Perl, "php": PHP, "java": Java, "rust": Rust}


def readme_lines(client):
    """The programs that the README shows."""
    text = (client.source / "README.md").read_text()
    found = re.findall(rf"^```{client.language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    if not found:
        raise AssertionError(f"{client.name}: the README shows no {client.language}")
    return found


#: What is installed for all is seen by nobody else.
PRIVATELY = """
set -e
mount -t tmpfs tmpfs "$1"
for directory in /usr/local /var/lib; do
  mkdir -p "$1$directory/upper" "$1$directory/work"
  mount -t overlay overlay -o "lowerdir=$directory,upperdir=$1$directory/upper,workdir=$1$directory/work" "$directory"
done
cd "$2"
exec sh -ec "$3"
"""


def run_as_installed(client, environment):
    """The README's lines that install, as they stand, and its first program with what they have installed."""
    text = (client.source / "README.md").read_text()
    lines = re.search(r"^```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    if not lines:
        raise AssertionError(f"{client.name}: the README does not say how to install it")
    is_inside, prepare, program, run = client.install
    root = client.work / "as-installed"
    shutil.copytree(client.source, root / "protocol/clients" / client.name)
    folder, scratch = root / "protocol/clients" / client.name if is_inside else root, client.work / "private"
    scratch.mkdir()
    code = client.work / "as-installed.txt"
    code.write_text(readme_lines(client)[0])
    words = [word for word in (prepare, f"mkdir -p {os.path.dirname(program) or '.'}", f"cp {code} {program}", lines[1], run) if word]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", PRIVATELY, "sh", scratch, folder, "\n".join(words)], timeout=600, text=True, capture_output=True,
        env={**environment, "GOPROXY": "off", "GOTOOLCHAIN": "local", "CARGO_NET_OFFLINE": "true"})
    if done.returncode != 0:
        raise AssertionError(f"{client.name}: what the README says of installing ends with {done.returncode}:\n{lines[1]}\n"
                             f"{done.stdout[-2000:]}{done.stderr[-4000:]}")


@contextlib.contextmanager
def local_daemon(daemon_program):
    """A daemon of its own; gives the environment for who uses it."""
    directory = tempfile.mkdtemp(prefix="slr-", dir="/tmp")
    socket = os.path.join(directory, "s.sock")
    daemon = subprocess.Popen([daemon_program, "--local", "--socket", socket], stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not os.path.exists(socket) and time.monotonic() < deadline:
            time.sleep(0.01)
        yield {**os.environ, "SIDELOCK_SOCKET": socket}
    finally:
        daemon.kill()
        daemon.wait()
        shutil.rmtree(directory, ignore_errors=True)


def run_programs(client, daemon_program):
    """Each program of the README, and each test of the client's own, ends in peace."""
    if client.install:
        with local_daemon(daemon_program) as environment:
            run_as_installed(client, environment)
    programs = [(client.program(code), client.work, code) for code in readme_lines(client)]
    programs += [(command, client.place, " ".join(map(str, command))) for command in client.tests()]
    for command, folder, what in programs:
        with local_daemon(daemon_program) as environment:
            done = subprocess.run([str(word) for word in command], cwd=folder, timeout=600, text=True, env=environment, capture_output=True)
            if done.returncode != 0 or "Traceback" in done.stderr:
                raise AssertionError(f"{client.name}: this ends with {done.returncode}:\n{what}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")


@contextlib.contextmanager
def turn(kind):
    """Beside others of the same kind of lock, or with an exclusive one beside nobody."""
    path = os.environ.get("CLIENTS_ALONE")
    if not path:
        yield
        return
    with open(path, "a", encoding="utf-8") as file:
        fcntl.flock(file, kind)
        yield


def cycles(client, daemon_program, rounds):
    """Cycles a second of one program that takes and gives back one lock, that nobody else wants: with the client, by a daemon beside
    a Redis, and with the raw scheme at that Redis. What is told is the median of rounds in turn."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix="slr-", dir="/tmp"))
    redis, socket = directory / "redis.sock", directory / "s.sock"
    programs = client.measures()
    servers = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for command in (
        ["redis-server", "--port", "0", "--unixsocket", redis, "--save", "", "--dir", directory],
        [daemon_program, "--redis", f"unix://{redis}", "--socket", socket])]
    try:
        deadline = time.monotonic() + 60
        while not (redis.exists() and socket.exists()) and time.monotonic() < deadline:
            time.sleep(0.01)
        environment = {**os.environ, "SIDELOCK_SOCKET": str(socket), "CYCLES_REDIS": str(redis), "CYCLES_SECONDS": str(CYCLES_SECONDS)}
        rates = [[], []]
        for _ in range(rounds):
            for program, found in zip(programs, rates):
                done = subprocess.run(program, env=environment, check=True, capture_output=True, text=True, timeout=120,
                                      cwd=client.work)
                found.append(int(done.stdout) / CYCLES_SECONDS)
        ours, raw = (sorted(found)[len(found) // 2] for found in rates)
        return ours, raw
    finally:
        for server in servers:
            server.kill()
            server.wait()
        shutil.rmtree(directory, ignore_errors=True)


def lines_of_code(client):
    """Lines that are neither empty nor a comment of their own."""
    comment = re.compile(r"^\s*(#|//|/?\*|$)")
    return sum(not comment.match(line) for pattern in client.sources for path in sorted(client.source.glob(pattern))
               for line in path.read_text().splitlines())


class Found:
    """What the suite said of a client, of all of its drivers."""

    def __init__(self):
        self.passed = self.tried = 0
        self.is_fine = True
        #: By group, how many scenarios passed, failed, and are not for it; of the first driver.
        self.groups = {}

    def hear(self, name, command):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace")
        groups = {}
        for line in process.stdout:
            one = re.match(r"(passed|failed|not for this client): ([^/]+)/", line)
            if one:
                groups.setdefault(one[2], dict.fromkeys(("passed", "failed", "not for this client"), 0))[one[1]] += 1
            if not one or one[1] == "failed":
                print(f"{name}: {line}", end="", flush=True)
            sums = re.match(r"(\d+) passed, (\d+) failed, ", line)
            if sums:
                self.passed, self.tried = self.passed + int(sums[1]), self.tried + int(sums[1]) + int(sums[2])
        self.is_fine = process.wait() == 0 and self.is_fine
        for group, counts in groups.items():
            self.groups.setdefault(group, counts)


def hold_to_the_suite(client, daemon):
    found = Found()
    for driver in client.drivers():
        found.hear(client.name, [sys.executable, str(RUN), "--verbose", "--sidelockd", daemon, "--jobs", JOBS, "--", *map(str, driver)])
    with BootedService(daemon, [client.work, ROOT]) as service:
        for driver in client.service_drivers():
            found.hear(client.name, service.command("/usr/bin/python3", RUN, "--verbose", "--service", "sidelockd.service", "--", *driver))
        if not found.is_fine:
            print(service.log())
    return found


def table(rows):
    """The table of the page: scenarios by their groups, and clients."""
    groups = list(dict.fromkeys(group for row in rows for group in sorted(row["groups"])))
    lines = [["", *(row["name"] for row in rows)], ["---", *("--:" for _ in rows)]]
    for group in groups:
        cells = []
        for row in rows:
            counts = row["groups"].get(group, {})
            passed, failed, other = (counts.get(key, 0) for key in ("passed", "failed", "not for this client"))
            cells.append(f"{passed}" + (f", {failed} FAILED" if failed else "") + (f" ({other} not)" if other else ""))
        lines.append([f"`{group}`", *cells])
    lines.append(["lines of code", *(f"{row['lines']:,}" for row in rows)])
    lines.append(["cycles/s", *(f"{row['ours']:,.0f}" for row in rows)])
    lines.append(["of the raw scheme", *(f"{row['raw']:,.0f}" for row in rows)])
    lines.append(["ratio", *(f"{row['ours'] / row['raw']:.2f}" for row in rows)])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def write_table(text):
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    if not after:
        raise ValueError(f"{PAGE} has no place for the table")
    PAGE.write_text(before + BEGIN + "\n" + text + "\n" + END + after)


class Try:
    """One client, in a folder of its own: what was found, and what failed."""

    def __init__(self, name):
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="slb-", dir="/tmp"))
        self.client = KINDS[name](name, self.work)
        self.row = {"name": name, "lines": lines_of_code(self.client), "groups": {}}
        self.has_failed = False

    @contextlib.contextmanager
    def judged(self):
        try:
            yield
        except (AssertionError, OSError, ValueError, subprocess.SubprocessError) as fault:
            print(f"{self.client.name}: {fault}", flush=True)
            self.has_failed = True

    def build(self):
        with self.judged():
            self.client.build()

    def hold(self, daemon):
        """To the suite, its README and its own tests."""
        with self.judged():
            found = hold_to_the_suite(self.client, daemon)
            self.has_failed = not found.is_fine
            run_programs(self.client, daemon)
            self.client.check()
            self.row.update(groups=found.groups, suite=f"{found.passed} of {found.tried} scenarios, ")

    def measure(self, daemon, rounds=CYCLES_ROUNDS):
        with self.judged():
            row = self.row
            row["ours"], row["raw"] = cycles(self.client, daemon, rounds)
            print(f"{row['name']}: {row.get('suite', '')}{row['lines']} lines of code, {row['ours']:,.0f} cycles/s, "
                  f"{row['ours'] / row['raw']:.2f} times the raw scheme's {row['raw']:,.0f}", flush=True)

    def close(self):
        subprocess.run(["chmod", "-R", "u+w", str(self.work)], check=False)
        shutil.rmtree(self.work, ignore_errors=True)


def one_by_one(names, daemon, with_suite):
    """Each is built, held to the suite and measured before the next one."""
    for name in names:
        one = Try(name)
        try:
            with turn(fcntl.LOCK_SH):
                one.build()
                if with_suite and not one.has_failed:
                    one.hold(daemon)
            with turn(fcntl.LOCK_EX):
                if one.row["groups"] if with_suite else not one.has_failed:
                    one.measure(daemon)
        finally:
            one.close()
        yield one


def for_the_table(names, daemon):
    """Two at a time are built and held to the suite, which waits for timers and servers most of the time; then one after the other
    is measured, beside nothing else."""
    tries = []
    try:
        tries += [Try(name) for name in names]

        def hold(one):
            one.build()
            if not one.has_failed:
                one.hold(daemon)

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            # Those that take longest first.
            list(pool.map(hold, sorted(tries, key=lambda one: one.client.name not in SLOWEST)))
        for one in tries:
            if not one.has_failed:
                one.measure(daemon, TABLE_ROUNDS)
        return tries
    finally:
        for one in tries:
            one.close()


def main():
    there = sorted(path.name for path in CLIENTS.iterdir() if (path / "README.md").exists())
    unknown = set(there) ^ set(KINDS)
    if unknown:
        sys.exit(f"protocol/clients and {__file__} do not have the same clients: {', '.join(sorted(unknown))}")
    options = {argument for argument in sys.argv[1:] if argument.startswith("--")}
    if options - {"--cycles", "--table"} or len(options) > 1:
        sys.exit(__doc__)
    names = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    if set(names) - set(KINDS):
        sys.exit(f"there is no client {', '.join(sorted(set(names) - set(KINDS)))}; there are {', '.join(there)}")
    daemon, began = os.environ.get("SIDELOCKD"), time.monotonic()
    if not daemon:
        sys.exit("SIDELOCKD names the daemon, as .build/release/sidelockd")
    if "--table" in options:
        tries = for_the_table(names or there, daemon)
    else:
        tries = list(one_by_one(names or there, daemon, "--cycles" not in options))
    failed = [one.client.name for one in tries if one.has_failed]
    if "--table" in options:
        text = table([one.row for one in tries]) if not failed else ""
        if text and not names:
            write_table(text)
        print(f"{text}{time.monotonic() - began:.0f} s", flush=True)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
