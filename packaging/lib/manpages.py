#!/usr/bin/env python3
"""Makes the man pages from what the programs and the documents say. Usage: manpages.py SIDELOCKD SIDELOCK OUTPUT-DIR DATE

sidelockd(8), sidelock(1) and a page for each of its commands, such as sidelock-run(1), come from the programs' own description of their
options, sidelockd.yaml(5) from
packaging/settings.md, which comes from the table of settings, and sidelock-protocol(7) from protocol/README.md.
"""

import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Roff is written in raw strings: in a plain one "\f" is a form feed, and roff shows what is left of it as text.
FILES = r"""
.TP
.I /etc/sidelock/sidelockd.yaml
The settings.
.TP
.I /run/sidelock/sidelock.sock
The socket. Members of the group
.B sidelock
may connect.
.TP
.I /etc/credstore/sidelock.redis\-password
The password of Redis, if there is one and it stands nowhere else.
.TP
.I /etc/credstore/sidelock.redis\-tls\-ca\fR, \fIsidelock.redis\-tls\-cert\fR, \fIsidelock.redis\-tls\-key
The files for TLS, if there are any and they stand nowhere else.
.TP
.I /var/lib/sidelock/local\-tokens
How far tokens may have gone without Redis (\fB\-\-local\fR): a daemon that follows begins behind them. See local_state_file in
.BR sidelockd.yaml (5).
.TP
.I /usr/share/doc/sidelock/examples
Drop-ins for other ways to run the service: Redis on another host, by TLS or behind a Unix socket, newer versions of systemd, a
service for one user.
"""
SERVICE = r"""
systemd makes the socket (\fBsidelockd.socket\fR) and starts the daemon at boot, and again when a client connects. While
the daemon restarts, clients that connect wait.
.PP
Over a restart, an upgrade of the package and a crash, clients that hold locks or wait for them stay connected and keep what they
have: systemd keeps their connections, and the memory in which it is written what they have. Once Redis has confirmed a lease,
its locks go on; one that is gone is told
.BR lost .
.PP
\fBsystemctl stop\fR gives everything back and tells every client, and so does a restart with another host, key_prefix or Redis
server. The unit announces a stop to the daemon by SIGRTMIN+2 and a restart by SIGRTMIN+1; a SIGTERM that comes without either, as by
\fBsystemctl kill\fR, is taken for a restart. Where a stop cannot be announced, because of a mistake in the unit or in the middle of
a start or a reload, connections end without a word, and leases by themselves within lease_ms. Who writes a unit of their own with
\fBFileDescriptorStoreMax=\fR takes over its \fBExecStop=\fR, too.
.PP
A restart with a mistake in the settings, and a crash before one is mended, lose nothing either: the daemon goes on with the
settings of before, and its log and the status line say what is wrong until \fBsystemctl reload\fR finds them good. Where there are
none of before, as at the first start and after a stop, it ends with status 78, tells the clients that wait, and is started again
when somebody asks for it or a client connects. So it does where the limit of open files (\fBLimitNOFILE=\fR) is too low to serve with;
the log tells how many are needed. And so it does where the file of the tokens of \fB\-\-local\fR is damaged.
.PP
A mistake in the unit, by which a restart brings no daemon at all (a group or a file that does not exist, a limit of open files that is too low), loses
nothing if it is mended within lease_ms: systemd tries again each 0.5 s, and meanwhile keeps what clients have. After a mistake that
the daemon itself finds it ends with status 75 as long as that is so, and then as at a first start.
.PP
How many clients are kept is set by \fBFileDescriptorStoreMax=\fR in the unit, together with \fBEnvironment=FDSTORE=\fR where
systemd is older than 254; both are 1040, which is 1024 clients and 16 descriptors besides. A client that finds no room is treated as
by a stop, and the journal says so. So are all where systemd keeps less than \fBFDSTORE\fR says, and nothing of it; the journal says that,
too. (systemd before 254 tells nobody how much it keeps. Where it keeps some of it, a restart has those clients disconnected that it did
not keep.) Each one more makes process 1 compare it with all that are there, which makes its work grow with the
square of their number: it takes 0.1 ms to store the 250th, 0.9 ms the 1000th and 4 ms the 4000th.
.PP
.nf
systemctl status sidelockd
systemctl reload sidelockd
journalctl \-x \-u sidelockd
journalctl SIDELOCK_LOCK=orders
.fi
.PP
Of each kind of log message, which is its text, 20 are written at once and then one a second (of losses, and of what
.I audit
wants, 1,000 and then 100 a second for each user; of locks that were broken all); how many were left out is told in a
message of its own. What is only logged at the levels debug and trace is written as often as it comes.
.PP
Each datum of a log message is a journal field of its own, such as SIDELOCK_LOCK, SIDELOCK_TOKEN, SIDELOCK_SESSION and
SIDELOCK_REASON.
"""


def escape(text):
    """Text as it is, whatever it holds."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    text = text.replace("^", "\\(ha").replace("~", "\\(ti")
    # A word that is longer than a line of a narrow terminal may be broken behind what separates its parts.
    text = re.sub(r"\S{50,}", lambda word: re.sub(r"(?<=[],/?])(?=.)", r"\\:", word[0]), text)
    # What is no ASCII is written so that roff shows it whatever encoding it takes the page to be in.
    text = re.sub(r"[^\x00-\x7f]", lambda found: f"\\[u{ord(found[0]):04X}]", text)
    return re.sub(r"^\.", r"\\&.", text, flags=re.MULTILINE)


def quoted(text):
    """Text as the argument of a macro."""
    return '"' + escape(text).replace('"', "\\(dq") + '"'


INLINE = re.compile(r"`([^`]*)`|\*\*(.+?)\*\*|\[([^\]]*)\]\(([^)]*)\)|(?<!\w)\*([^*\s][^*]*)\*(?!\w)")


def inline(text):
    """A line of Markdown in roff."""
    result, end = "", 0
    for found in INLINE.finditer(text):
        result += escape(text[end:found.start()])
        code, strong, label, address, emphasis = found.groups()
        if code is not None:
            result += f"\\fB{escape(code)}\\fR"
        elif strong is not None:
            result += f"\\fB{inline(strong)}\\fR"
        elif emphasis is not None:
            result += f"\\fI{escape(emphasis)}\\fR"
        else:
            result += inline(label) + (f" <{escape(address)}>" if address.startswith("http") else "")
        end = found.end()
    return result + escape(text[end:])


def cells(line):
    """The cells of a row of a table; a bar in code is written with a backslash."""
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def table(rows):
    """A table as a list: the first cell of each row, then the others, named where there are several."""
    head, lines = rows[0], []
    for row in rows[2:]:
        lines += [".TP", "\\fB" + re.sub(r"\\f[BIR]", "", inline(row[0])) + "\\fR"]
        if len(row) == 2:
            lines.append(inline(row[1]) or "\\&")
        else:
            parts = [(inline(name) + ": " if name else "") + inline(value)
                     for name, value in zip(head[1:], row[1:]) if value]
            lines.append("\n.br\n".join(parts) or "\\&")
    return lines + [".PP"]


def markdown(text, level=2):
    """Markdown, as far as this project's documents use it, in roff. Headings of `level` become sections."""
    out, lines, index = [], text.split("\n"), 0
    paragraph = []

    def flush():
        if paragraph:
            out.append(inline(" ".join(paragraph)))
            paragraph.clear()

    while index < len(lines):
        line = lines[index]
        heading = re.match(r"(#+) (.*)", line)
        if heading:
            flush()
            depth = len(heading[1])
            if depth >= level:
                title = heading[2].replace("`", "")
                out.append(f".SH {quoted(title.upper())}" if depth == level else f".SS {quoted(title)}")
        elif line.startswith("```"):
            flush()
            index += 1
            code = []
            while not lines[index].startswith("```"):
                code.append(escape(lines[index]) or "\\&")
                index += 1
            out += [".PP", ".in +4", ".nf", *code, ".fi", ".in", ".PP"]
        elif line.startswith("|"):
            flush()
            rows = []
            while index < len(lines) and lines[index].startswith("|"):
                rows.append(cells(lines[index]))
                index += 1
            out += table(rows)
            continue
        elif re.match(r"[*-] |\d+\. ", line):
            flush()
            mark, rest = line.split(" ", 1)
            item = [rest]
            while index + 1 < len(lines) and re.match(r" +\S", lines[index + 1]):
                index += 1
                item.append(lines[index].strip())
            out += [f".IP {quoted('•' if mark in '*-' else mark)} 4", inline(" ".join(item))]
            if index + 1 < len(lines) and not re.match(r"[*-] |\d+\. ", lines[index + 1]):
                out.append(".PP")
        elif not line.strip():
            flush()
            if out and out[-1] != ".PP" and not out[-1].startswith(".S"):
                out.append(".PP")
        else:
            paragraph.append(line.strip())
        index += 1
    flush()
    tidy = []
    for number, line in enumerate(out):
        follows = next((later for later in out[number + 1:] if later), ".SH")
        if line == ".PP" and (follows == ".PP" or follows.startswith((".SH", ".SS", ".TP", ".IP"))):
            continue
        if line == ".PP" and tidy and tidy[-1].startswith((".SH", ".SS")):
            continue
        tidy.append(line)
    return "\n".join(tidy)


def option_name(argument):
    """An option as it is given, such as `-w, --wait SECONDS`."""
    names = [("-" if name["kind"] == "short" else "--") + name["name"] for name in argument.get("names", [])]
    # Short names first, as people expect them.
    text = ", ".join(sorted(names, key=lambda name: name.startswith("--")))
    value = argument.get("valueName", "")
    if argument["kind"] == "positional":
        return f"\\fI{escape(value)}\\fR"
    return f"\\fB{escape(text)}\\fR" + (f" \\fI{escape(value)}\\fR" if argument["kind"] == "option" else "")


def options(command):
    """The options of a command, as a list."""
    lines = []
    for argument in command.get("arguments", []):
        if not argument.get("shouldDisplay", True):
            continue
        abstract = " ".join(filter(None, [argument.get("abstract"), argument.get("discussion")]))
        if argument.get("defaultValue") and "default" not in abstract:
            abstract += f" (default: {argument['defaultValue']})"
        lines += [".TP", option_name(argument), escape(abstract) or "\\&"]
    return "\n".join(lines)


def preformatted(text):
    """Prose with its line breaks, for the parts of a help text that are laid out by hand."""
    out = []
    for part in text.strip().split("\n\n"):
        if any(line.startswith(" ") for line in part.split("\n")):
            head, _, rest = part.partition("\n") if not part.startswith(" ") else ("", "", part)
            if head:
                out.append(f'.SH {quoted(head.rstrip(":").upper())}')
            elif out and out[-1] == ".fi":
                out.append(".PP")
            out += [".nf", escape(rest), ".fi"]
        else:
            out += [".PP", escape(part)]
    return "\n".join(out)


def described(binary):
    """What a program says of itself."""
    text = subprocess.run([binary, "--experimental-dump-help"], check=True, capture_output=True, text=True).stdout
    return json.loads(text)["command"]


def title(name, section, what, version, date):
    return (f'.TH {name} {section} "{date}" "sidelock {version}" "sidelock"\n.nh\n.ad l\n'
            f".SH NAME\n{escape(name)} \\- {escape(what)}\n")


def lowered(abstract):
    what = abstract.rstrip(".")
    return what[0].lower() + what[1:]


def daemon_page(binary, version, date):
    command = described(binary)
    return (title("sidelockd", 8, lowered(command["abstract"]), version, date)
            + ".SH SYNOPSIS\n.B sidelockd\n(\\fB\\-\\-redis\\fR \\fIURL\\fR | \\fB\\-\\-local\\fR) [\\fIOPTION\\fR]...\n"
            + ".SH DESCRIPTION\n" + preformatted(command.get("discussion", "")).removeprefix(".PP\n")
            + "\n.SH OPTIONS\n" + options(command) + "\n.SH SERVICE" + SERVICE + ".SH FILES" + FILES
            + ".SH SEE ALSO\n\\fBsidelock\\fR(1), \\fBsidelockd.yaml\\fR(5), \\fBsidelock\\-protocol\\fR(7), "
            "\\fBsystemctl\\fR(1), \\fBjournalctl\\fR(1)\n")


def subcommands(command):
    return [sub for sub in command.get("subcommands", [])
            if sub["commandName"] != "help" and sub.get("shouldDisplay", True)]


def command_page(command, version, date):
    out = (title("sidelock", 1, lowered(command["abstract"]), version, date)
           + ".SH SYNOPSIS\n.B sidelock\n\\fICOMMAND\\fR [\\fIOPTION\\fR]...\n.SH COMMANDS\n")
    for sub in subcommands(command):
        out += f'.TP\n.BR {quoted("sidelock-" + sub["commandName"])} (1)\n{escape(sub["abstract"])}\n'
    return (out + ".SH DESCRIPTION\n" + preformatted(command.get("discussion", "")).removeprefix(".PP\n")
            + "\n.SH SEE ALSO\n\\fBsidelockd\\fR(8), \\fBsidelock\\-protocol\\fR(7), \\fBflock\\fR(1)\n")


def usages(binary, name):
    """The ways in which a command is called, as its help has them."""
    text = subprocess.run([binary, name, "--help"], check=True, capture_output=True, text=True).stdout
    call = " ".join(text[text.index("USAGE: "):].split("\n\n")[0].removeprefix("USAGE: ").split())
    return [part.strip() for part in re.split(rf"\bsidelock {name}\b", call)[1:]]


def subcommand_page(binary, sub, version, date):
    name = sub["commandName"]
    out = (title(f"sidelock-{name}", 1, lowered(sub["abstract"]), version, date)
           + ".SH SYNOPSIS\n"
           + ".br\n".join(f".B sidelock {escape(name)}\n{escape(call)}\n" for call in usages(binary, name)) + ".SH DESCRIPTION\n")
    discussion = preformatted(sub.get("discussion", "")).removeprefix(".PP\n")
    # A text that begins with a heading has the sentence of the list in front.
    if not discussion or discussion.startswith(".SH"):
        out += escape(sub["abstract"]) + "\n"
    return (out + discussion + "\n.SH OPTIONS\n" + options(sub)
            + "\n.SH SEE ALSO\n\\fBsidelock\\fR(1), \\fBsidelockd\\fR(8)\n")


def document_page(name, section, what, path, version, date, see_also):
    text = (ROOT / path).read_text()
    body = text.split("\n", 1)[1]
    return (title(name, section, what, version, date) + ".SH DESCRIPTION\n" + markdown(body).removeprefix(".PP\n")
            + f"\n.SH SEE ALSO\n{see_also}\n")


def checked(name, text):
    """The page, if every character of it can be shown."""
    found = re.search(r"[^\n -~]", text)
    if found:
        line = text.count("\n", 0, found.start()) + 1
        raise SystemExit(f"manpages: {name}:{line}: the character {found[0]!r} has no place in a page")
    return text


def main(daemon, command, output, date):
    version = subprocess.run([daemon, "--version"], check=True, capture_output=True, text=True).stdout.strip()
    description = described(command)
    pages = {
        "sidelockd.8": daemon_page(daemon, version, date),
        "sidelock.1": command_page(description, version, date),
        **{f"sidelock-{sub['commandName']}.1": subcommand_page(command, sub, version, date) for sub in subcommands(description)},
        "sidelockd.yaml.5": document_page(
            "sidelockd.yaml", 5, "settings of sidelockd", "packaging/settings.md", version, date, "\\fBsidelockd\\fR(8)"),
        "sidelock-protocol.7": document_page(
            "sidelock-protocol", 7, "how programs talk to sidelockd", "protocol/README.md", version, date,
            "\\fBsidelock\\fR(1), \\fBsidelockd\\fR(8), \\fBunix\\fR(7)"),
    }
    directory = pathlib.Path(output)
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        (directory / name).write_text(checked(name, text))


if __name__ == "__main__":
    main(*sys.argv[1:])
