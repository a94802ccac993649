"""What the package brings to read: man pages, completions, --help, the journal's catalogue, and the news."""

import json
import os
import pty
import re
import shlex
import subprocess

import pytest
from harness.daemon import ROOT, binary, clean_environment
from harness.waiting import wait_until

CATALOGUE = ROOT / "packaging/systemd/sidelock.catalog"
EXAMPLES = ROOT / "packaging/systemd/examples"
CHANGELOG = ROOT / "packaging/lib/changelog.py"
# A line end is the only control character that a text for people may hold.
CONTROL = re.compile(r"[^\n -~\u00a0-\U0010ffff]")


def output(*command, **options):
    """What a program says; it must say nothing on standard error, and succeed."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=clean_environment(), **options)
    assert (done.returncode, done.stderr) == (0, ""), f"{command}: {done.returncode} {done.stderr}{done.stdout}"
    return done.stdout


def program(name):
    return binary(name, name.upper())


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The pages, made as the package makes them."""
    directory = tmp_path_factory.mktemp("man")
    output("python3", ROOT / "packaging/lib/manpages.py", program("sidelockd"), program("sidelock"), directory, "2026-01-01")
    assert sorted(os.listdir(directory)) == sorted(PAGES)
    return {name: directory / name for name in PAGES}


def rendered(path, width=100):
    return output("groff", "-man", "-Tutf8", "-P-cbou", f"-rLL={width}n", path)


def words(text):
    return {word.casefold() for word in re.findall(r"[A-Za-z][A-Za-z0-9]*", text)}


def described(command):
    """Every command of a program with what it says of itself, as (words of the command line, description)."""
    yield [], command
    for sub in command.get("subcommands", []):
        for line, inner in described(sub):
            yield [sub["commandName"], *line], inner


def commands(name):
    return list(described(json.loads(output(program(name), "--experimental-dump-help"))["command"]))


SHOWN = [(line, command) for line, command in commands("sidelock") if line and "help" not in line and command.get("shouldDisplay", True)]
PAGES = ["sidelockd.8", "sidelock.1", "sidelockd.yaml.5", "sidelock-protocol.7", *(f"sidelock-{line[0]}.1" for line, _ in SHOWN)]


def strings(value):
    """All texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings(inner)


def known_words():
    """The words of all that the pages are made from; roff's changes of the font are not part of a word."""
    source = (ROOT / "packaging/lib/manpages.py").read_text()
    texts = [re.sub(r"\\+f[BIRP]", " ", source), (ROOT / "protocol/README.md").read_text(),
             (ROOT / "packaging/settings.md").read_text()]
    for name in ("sidelockd", "sidelock"):
        texts += strings(json.loads(output(program(name), "--experimental-dump-help")))
    return set().union(*map(words, texts))


@pytest.mark.parametrize("name", PAGES)
def test_a_man_page_is_made_without_a_warning(pages, name):
    text = pages[name].read_text()
    assert text.isascii() and not CONTROL.search(text)
    for width in (60, 100):
        assert output("groff", "-ww", "-z", "-man", "-Tutf8", f"-rLL={width}n", pages[name]) == ""
    assert output("mandoc", "-Tlint", "-Wwarning", pages[name]) == ""


@pytest.mark.parametrize("name", PAGES)
def test_a_man_page_shows_words_and_nothing_else(pages, name):
    """What is left of roff that was written wrongly sticks to a word, as in "Bsystemctl stopR"."""
    known = known_words()
    for text in (rendered(pages[name]), output("mandoc", "-Tutf8", "-Owidth=100", pages[name]).replace("_\b", "")):
        text = re.sub(r".\x08", "", text)
        assert not CONTROL.search(text), repr(CONTROL.search(text))
        assert words(text) - known == set()
        for left in ("\\f", "\\e", "\\(", "\\[", "**", "```", "](", ".SH", ".PP"):
            assert left not in text, [line for line in text.split("\n") if left in line]


def test_the_man_pages_tell_everything(pages):
    settings, protocol = rendered(pages["sidelockd.yaml.5"]), rendered(pages["sidelock-protocol.7"])
    for page, path in ((settings, "packaging/settings.md"), (protocol, "protocol/README.md")):
        document = (ROOT / path).read_text()
        for heading in re.findall(r"^##+ (.*)$", re.sub(r"```.*?```", "", document, flags=re.DOTALL), re.MULTILINE):
            assert heading.replace("`", "").casefold() in page.casefold(), heading
        for code in re.findall(r"`([^`\n|]+)`", re.sub(r"```.*?```", "", document, flags=re.DOTALL)):
            assert re.sub(r"\s+", "", code) in re.sub(r"\s+", "", page), code
    overview = rendered(pages["sidelock.1"])
    described = [("sidelockd.8", ["sidelockd"], commands("sidelockd")[0][1])]
    for line, command in SHOWN:
        assert f"sidelock-{line[0]}(1)" in overview
        described.append((f"sidelock-{line[0]}.1", ["sidelock", *line], command))
    for page, line, command in described:
        text = rendered(pages[page])
        assert " ".join(line) in text
        for argument in command.get("arguments", []):
            for spelling in argument.get("names", []) if argument.get("shouldDisplay", True) else []:
                assert ("-" if spelling["kind"] == "short" else "--") + spelling["name"] in text


@pytest.mark.parametrize("name", ["sidelockd", "sidelock"])
def test_every_help_can_be_read(name):
    for line, command in commands(name):
        text = output(program(name), *line, *([] if "help" in line else ["--help"]))
        assert not CONTROL.search(text), (line, repr(CONTROL.search(text)))
        assert "USAGE: " + name in text
        for left in ("Optional(", "nil", "\\(", "\\n", "\\f", "**", "``"):
            assert left not in text, (line, left)


@pytest.mark.parametrize("name", ["sidelockd", "sidelock"])
def test_completions_are_read_by_their_shells(name, tmp_path):
    known = {"sidelock": ("sidelock ru", "run"), "sidelockd": ("sidelockd --lea", "--lease-ms")}[name]
    for shell, check in (("bash", ["-n"]), ("zsh", ["-f", "-n"]), ("fish", ["-N", "-n"])):
        script = tmp_path / f"{name}.{shell}"
        script.write_text(output(program(name), "--generate-completion-script", shell))
        assert not re.search(r"[^\n\t -~\u00a0-\U0010ffff]", script.read_text())
        output(shell, *check, script)
    # The shell's own idea of what comes next.
    found = output("fish", "-N", "-c", f"source {tmp_path / name}.fish; complete -C '{known[0]}'", cwd=tmp_path)
    assert [line.split("\t")[0] for line in found.splitlines()] == [known[1]]
    line = known[0]
    found = output("bash", "-c", f"""
        source {tmp_path / name}.bash
        COMP_WORDS=({line}) COMP_CWORD=1 COMP_LINE='{line}' COMP_POINT={len(line)}
        function=$(complete -p {name} | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        $function {name} '{line.split()[1]}' {name}
        printf '%s\\n' "${{COMPREPLY[@]}}" """)
    assert found.split() == [known[1]]


BASH_WORDS = ROOT / "packaging/lib/sidelock.bash"


@pytest.fixture(scope="module")
def offered(tmp_path_factory):
    """What bash offers for the last word of a command line, and what the scripts of zsh and fish are told."""
    folder = tmp_path_factory.mktemp("completions")
    (folder / "bash").write_text(output(program("sidelock"), "--generate-completion-script", "bash") + BASH_WORDS.read_text())
    (folder / "bin").mkdir()
    (folder / "bin/sidelock").symlink_to(program("sidelock"))

    def offers(line):
        environment = ("env", f"PATH={folder}/bin:{os.environ['PATH']}", "LC_ALL=C.UTF-8")
        words = line.split(" ")
        bash = output(*environment, "bash", "-c", f"""
            source {folder}/bash
            COMP_WORDS=({' '.join(map(shlex.quote, words))}) COMP_CWORD={len(words) - 1} COMP_LINE={shlex.quote(line)} COMP_POINT={len(line)}
            $(complete -p sidelock | sed 's/.*-F \\([^ ]*\\).*/\\1/') sidelock {shlex.quote(words[-1])} {shlex.quote(words[-2])}
            printf '%s\\n' "${{COMPREPLY[@]}}" """).split("\n")
        asked = ["sidelock", "---completion", words[1], "--", "positional@0", len(words) - 1, len(words[-1]), *words]
        others = [output(*environment, f"SAP_SHELL={shell}", *asked).split("\n") for shell in ("zsh", "fish")]
        return [{word for word in found if word.strip()} for found in (bash, *others)]

    return offers


def test_names_of_locks_are_offered(lab, offered):
    daemon = lab.daemon()
    client = daemon.client()
    for name in ("deploy/web", "deploy/db", "backup", "jobs:1"):
        client.acquire(name)
    for command in ("inspect", "break", "run", "hold", "watch"):
        found = offered(f"sidelock {command} --socket {daemon.socket_path} deploy/")
        assert found == [{"deploy/web", "deploy/db"}] * 3, (command, found)
    assert offered(f"sidelock inspect --socket={daemon.socket_path} jo") == [{"jobs:1"}, {"jobs\\:1"}, {"jobs:1"}]


def test_bash_completes_whole_names_where_it_breaks_words(lab, tmp_path):
    """At a real prompt, in a directory that has entries of the same names."""
    daemon = lab.daemon()
    client = daemon.client()
    for name in ("deploy", "app:db", "app:cache", "shard=1", "shard=2", "mail@host"):
        client.acquire(name)
    (tmp_path / "deploy").mkdir()
    (tmp_path / "job.sh").touch()
    script = tmp_path / "script"
    script.write_text(output(program("sidelock"), "--generate-completion-script", "bash") + BASH_WORDS.read_text())
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sidelock").symlink_to(program("sidelock"))
    expected = {
        "dep": "deploy", "app": "app:", "app:d": "app:db", "shard=": "shard=", "mail@": "mail@host", "app:db --js": "app:db --json",
    }
    lines = {**{f"sidelock inspect {typed}": f"sidelock inspect {whole}" for typed, whole in expected.items()},
             "sidelock run app:db -- ./jo": "sidelock run app:db -- ./job.sh", "sidelock run dep": "sidelock run deploy"}
    terminal, side = pty.openpty()
    shell = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"], stdin=side, stdout=side, stderr=side, cwd=tmp_path, start_new_session=True,
        env=clean_environment(PATH=f"{tmp_path}/bin:{os.environ['PATH']}", SIDELOCK_SOCKET=str(daemon.socket_path), TERM="dumb",
                              LC_ALL="C.UTF-8", INPUTRC="/dev/null", HOME=str(tmp_path)))
    os.close(side)
    try:
        os.write(terminal, b"source ./script\n")
        for number, typed in enumerate(lines):
            # From the beginning of the line: what is to be written is the line as it was completed.
            os.write(terminal, f"{typed}\t\x01echo \x05 >>said\n".encode())
            wait_until(lambda: (tmp_path / "said").exists() and len((tmp_path / "said").read_text().splitlines()) > number, typed)
        assert [" ".join(line.split()) for line in (tmp_path / "said").read_text().splitlines()] == list(lines.values())
    finally:
        shell.kill()
        shell.wait()
        os.close(terminal)


def test_a_name_that_a_shell_would_carry_out_is_not_offered(lab, offered, tmp_path):
    """bash expands what it is offered, and anybody who may connect chooses names."""
    daemon = lab.daemon()
    client = daemon.client()
    proof = tmp_path / "proof"
    for name in (f"d$(touch {proof})", f"d`touch {proof}`", f"d;touch {proof}", "d e", "d\nx", "d'", 'd"', "d\x1b[31m", "d*", "d\u202e", "dear"):
        client.acquire(name)
    found = offered(f"sidelock inspect --socket {daemon.socket_path} d")
    assert found == [{"dear"}] * 3
    assert not proof.exists()


def test_programs_are_offered_behind_the_dashes(offered):
    assert "sed" in offered("sidelock run x -- se")[0]
    assert offered("sidelock run x -- sed se")[0] == set()


def test_without_a_daemon_no_name_is_offered(offered, tmp_path):
    assert offered(f"sidelock inspect --socket {tmp_path}/none ") == [set()] * 3


# The catalogue

def entries():
    """The catalogue's entries: identifier to (headers, text)."""
    found = {}
    for part in re.split(r"^-- (?=[0-9a-f]{32}$)", CATALOGUE.read_text(), flags=re.MULTILINE)[1:]:
        identifier, rest = part.split("\n", 1)
        head, text = rest.split("\n\n", 1)
        assert identifier not in found
        found[identifier] = (dict(line.split(": ", 1) for line in head.splitlines()), text.strip())
    return found


def closing(text, start):
    """The end of the parenthesis that opens at `start`; texts are passed over."""
    depth, index = 0, start
    while True:
        character = text[index]
        if character == '"':
            index += 1
            while text[index] != '"':
                # An interpolation may hold texts of its own.
                index = closing(text, index + 1) + 1 if text.startswith("\\(", index) else index + (2 if text[index] == "\\" else 1)
        elif character in "([":
            depth += 1
        elif character in ")]":
            depth -= 1
            if depth == 0:
                return index
        index += 1


def keys(call, before):
    """The names of the data in a call of the logger; where they stand in a variable, those of its value."""
    more = ""
    if variable := re.search(r"(?:metadata: |of: client, |peer: peer, )(\w+)[).]", call):
        start = before.rindex(f"{variable[1]}: Logger.Metadata = [") if f"{variable[1]}: Logger.Metadata = [" in before \
            else before.rindex(f"{variable[1]} = [")
        # Those that were added behind the first.
        added = before[start:].split("switch ", 1)[0] + before[start:].rsplit("case .", 1)[-1]
        more = "".join(f'["{key}",' for key in re.findall(rf'{variable[1]}\["(\w+)"\] = ', added))
        start = before.index("= [", start) + 2
        call = before[start:closing(before, start) + 1] + more
    return set(re.findall(r'[\[,(]\s*"([a-z_-]+)"(?::|,)', call))


OF_A_CLIENT = set(re.findall(r'"([a-z]+)"', re.search(
    r"func who\(.*?\n  \}\n", (ROOT / "Sources/Sidecar/Clients/AuditTrail.swift").read_text(), re.DOTALL)[0]))


def logged():
    """Where each message that has an identifier is logged: identifier to the fields of each such place."""
    source = (ROOT / "Sources/SystemdSupport/JournalMessage.swift").read_text()
    texts = dict(re.findall(r'case (\w+) = "(.*)"', source))
    identifiers = {case: identifier for case, identifier in re.findall(r'case \.(\w+): "([0-9a-f]{32})"', source)}
    assert texts and texts.keys() == identifiers.keys()
    code = [path.read_text() for target in ("Sidecar", "SystemdSupport", "sidelockd")
            for path in sorted((ROOT / "Sources" / target).rglob("*.swift")) if path.name != "JournalMessage.swift"]
    found = {identifier: [] for identifier in identifiers.values()}
    for case, text in texts.items():
        for content in code:
            for match in re.finditer(rf'(?:(?<!admits\()"{re.escape(text)}"|JournalMessage\.{case}\b)', content):
                # It is asked for before it is logged.
                if re.search(r"\((?:\.\w+|nil), $", content[:match.start()]):
                    continue
                opening = max(content.rfind(opener, 0, match.start()) for opener in ("logger.", "LogEntry(", "log("))
                start = content.index("(", opening)
                call = content[start:closing(content, start) + 1]
                found_keys = keys(call, content[:opening])
                # What is told of the client beside the entry's own fields.
                if re.search(r"\bof: |who\(", call):
                    found_keys |= OF_A_CLIENT
                fields = {"SIDELOCK_" + key.upper().replace("-", "_") for key in found_keys}
                found[identifiers[case]].append(fields)
    return found


def test_the_catalogue_names_fields_that_its_messages_have():
    places = logged()
    assert places.keys() == entries().keys()
    for identifier, (headers, text) in entries().items():
        assert places[identifier], f"{identifier} is logged nowhere"
        named = set(re.findall(r"@([^@\s]*)@", headers["Subject"] + "\n" + text))
        for fields in places[identifier]:
            assert named <= fields, (identifier, headers["Subject"], named - fields)
        filled = re.sub(r"@[A-Z_]+@", "", headers["Subject"] + text)
        assert "@" not in filled, (identifier, filled)


def test_an_entry_of_the_catalogue_says_something_of_its_own():
    """A paragraph that stands in two entries is in the wrong place in one of them."""
    seen = {}
    for identifier, (headers, text) in entries().items():
        assert not CONTROL.search(text) and text
        for paragraph in text.split("\n\n"):
            if re.fullmatch(r"@[A-Z_]+@", paragraph):
                continue
            assert paragraph not in seen, (identifier, seen[paragraph], paragraph)
            seen[paragraph] = identifier


def test_what_the_catalogue_refers_to_is_there():
    for identifier, (headers, text) in entries().items():
        assert set(headers) == {"Subject", "Defined-By", "Support", "Documentation"}, identifier
        for name, section in re.findall(r"man:([\w.-]+)\((\d)\)", headers["Support"] + headers["Documentation"]):
            assert f"{name}.{section}" in PAGES, (identifier, name)
        for name in re.findall(r"[\w-]+\.conf\b", text):
            assert (EXAMPLES / name).exists(), (identifier, name)


def raw_values(path, name):
    """The texts that the cases of an enum in Swift stand for."""
    body = re.search(rf"^( *)(?:public )?enum {name}: String[^{{]*\{{(.*?)\n\1\}}", (ROOT / path).read_text(),
                     re.DOTALL | re.MULTILINE)[2]
    return {value or case for case, value in re.findall(r'case (\w+)(?: = "(\w+)")?', body)}


def test_reasons_that_the_catalogue_explains_are_the_daemons():
    _, lost = entries()["144505c4199e459b96609fdc0c50649f"]
    assert set(re.findall(r"^    (\w+)  ", lost, re.MULTILINE)) == \
        raw_values("Sources/LockTypes/Losses.swift", "LostReason")
    _, ended = entries()["df896c7dd44345f3b9faa5c7fd37a52d"]
    explained = ", ".join(re.findall(r"^([a-z_, ]+): ", ended, re.MULTILINE)).split(", ")
    assert set(explained) == raw_values("Sources/Sidecar/Clients/SessionLifetimes.swift", "EndReason")


def test_the_changelog_is_made_from_the_news(tmp_path):
    version = output(program("sidelockd"), "--version").strip()
    changelog = tmp_path / "changelog"
    changelog.write_text(output("python3", CHANGELOG, version, "3", "Somebody <somebody@sidelock.example>", 1_790_000_000))
    told = output("dpkg-parsechangelog", "-l", changelog, "--format", "rfc822")
    assert f"\nVersion: {version}-3\n" in told
    assert "\nMaintainer: Somebody <somebody@sidelock.example>\n" in told
    assert all(len(line) <= 80 for line in changelog.read_text().splitlines())
    news = (ROOT / "packaging/NEWS.md").read_text().split(f"\n## {version} (")[1].split("\n## ")[0]
    assert len(re.findall(r"^\* ", news, re.MULTILINE)) == len(re.findall(r"^  \* ", changelog.read_text(), re.MULTILINE))


NEWS = "# News\n\n## 0.2.0 (unreleased)\n\n* B `b`,\n  [more](x).\n\n## 0.1.0 (2026-01-02)\n\n* A.\n\n## Versions\n\n* No change.\n"


def make_changelog(tmp_path, news, version="0.2.0"):
    (tmp_path / "lib").mkdir()
    (tmp_path / "NEWS.md").write_text(news)
    (tmp_path / "lib/changelog.py").write_text(CHANGELOG.read_text())
    return subprocess.run(["python3", str(tmp_path / "lib/changelog.py"), version, "3", "S <s@x>", "86400"],
                          capture_output=True, text=True, check=False)


def test_a_changelog_has_every_version_with_its_day(tmp_path):
    done = make_changelog(tmp_path, NEWS)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "sidelock (0.2.0-3) unstable; urgency=medium\n\n  * B b, more.\n\n -- S <s@x>  Fri, 02 Jan 1970 00:00:00 +0000\n\n"
        "sidelock (0.1.0-1) unstable; urgency=medium\n\n  * A.\n\n -- S <s@x>  Fri, 02 Jan 2026 12:00:00 +0000\n")


@pytest.mark.parametrize("news, words", [
    (NEWS.replace("0.2.0", "0.3.0"), "begins with 0.3.0, and the daemon is 0.2.0"),
    (NEWS.replace("* B", "B"), "0.2.0 has no list of changes"),
    (NEWS.replace("2026-01-02", "unreleased"), "0.1.0 has a later version and no day"),
    ("# News\n", "begins with nothing, and the daemon is 0.2.0"),
])
def test_news_of_which_no_changelog_can_be_made_are_refused(tmp_path, news, words):
    done = make_changelog(tmp_path, news)
    assert done.returncode == 1 and words in done.stderr and done.stdout == ""
