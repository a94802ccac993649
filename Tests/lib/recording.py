#!/usr/bin/env python3
"""Types the recording of a document at a shell, and fails unless it prints what stands there.

usage: recording.py DOCUMENT FIRST COMMAND…

The recording is the code block that begins with the line FIRST. Its lines that begin with "# " are typed, one after the
other, at a terminal of a bash that COMMAND starts; the others are what is printed. Digits stand for any digits, spaces
for any spaces; the name of the host, and what the shell says of its jobs, are left out. "sidelock list" is asked again until
it shows what stands there, for a minute.
"""

import pathlib
import re
import signal
import subprocess
import sys
import time

END = "that was all of it"
SECONDS = 60


def normal(text):
    """What does not differ from one run to another."""
    text = re.sub(r" on \S+", " on host", text)
    text = re.sub(r"\d+(\.\d+)?( ?(ms|s|min|h)\b)?", "0", text)
    return [" ".join(line.split()) for line in text.splitlines() if line.strip() and not line.startswith("[")]


def recording(document, first):
    blocks = re.findall(r"^```\w*\n(.*?)^```$", pathlib.Path(document).read_text(), re.MULTILINE | re.DOTALL)
    [block] = [block for block in blocks if block.startswith(first + "\n")]
    parts = re.split(r"^# (.*)\n", block, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2]))


def main(document, first, *command):
    shell = subprocess.Popen(
        [*command, "env", "TERM=xterm", "LC_ALL=C.UTF-8", "script", "--quiet", "--echo", "never", "--command",
         "stty cols 100; exec bash --norc --noprofile --noediting -i", "/dev/null"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def typed(line):
        """What the terminal shows of it."""
        print(f"{line}\necho '{END}'", file=shell.stdin, flush=True)
        said = ""
        for output in shell.stdout:
            if output.rstrip().endswith(END):
                break
            said += output.replace("\r", "")
        return said

    # A shell that says nothing any more ends this.
    signal.alarm(10 * SECONDS)
    typed("PS1= PS2=")
    differs = False
    for line, expected in recording(document, first):
        end = time.monotonic() + SECONDS
        said = typed(line)
        while line == "sidelock list" and normal(said) != normal(expected) and time.monotonic() < end:
            said = typed(line)
        print(f"# {line}\n{said}", end="", flush=True)
        if normal(said) != normal(expected):
            print(f"--- {document} has:\n{expected}---")
            differs = True
    shell.stdin.close()
    shell.wait()
    sys.exit(1 if differs else 0)


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
