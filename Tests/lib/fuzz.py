#!/usr/bin/env python3
"""Coverage-guided fuzzing of whatever reads bytes that others wrote.

usage: fuzz.py [--runs N | --seconds S] [--update] [TARGET…]
       fuzz.py --build | --self-test

Builds Tests/Fuzz with libFuzzer and the address sanitizer, then runs each target (or those named): first the inputs
in Tests/Fuzz/found, each of which was a fault once, then the corpus, then new inputs, for S seconds in all (60) or for
N runs each. --update puts what reaches new code into Tests/Fuzz/corpus. --build only builds;
--self-test plants a fault and has it found.

An input that fails stays in .build-fuzz/failed; give its path to the program that is named beside it to see it again.
"""

import argparse
import base64
import hashlib
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRATCH = ROOT / ".build-fuzz"
CORPUS = ROOT / "Tests/Fuzz/corpus"
FOUND = ROOT / "Tests/Fuzz/found"
PLANTED = "planted"
INPUT_BYTES_MAX = 1024
CORPUS_BYTES_MAX = 16 * 1024
FLAGS = ["-c", "release", "--product", "Fuzz", "--scratch-path", str(SCRATCH), "-Xswiftc", "-enable-testing",
         "-Xswiftc", "-sanitize=fuzzer,address", "-Xswiftc", "-parse-as-library"]
# A trap must end the process at once, and not after a search for line numbers.
ENVIRONMENT = os.environ | {"SIDELOCK_FUZZ": "1", "SWIFT_BACKTRACE": "enable=no"}


def build():
    subprocess.run(["swift", "build", *FLAGS], cwd=ROOT, env=ENVIRONMENT, check=True)
    shown = subprocess.run(["swift", "build", *FLAGS, "--show-bin-path"], cwd=ROOT, env=ENVIRONMENT, check=True,
                           stdout=subprocess.PIPE, text=True)
    return shown.stdout.strip() + "/Fuzz"


def unpack(target):
    """The folder that libFuzzer works in: what is in the tree, and what earlier runs here found."""
    folder = SCRATCH / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    packed = CORPUS / f"{target}.txt"
    for line in packed.read_text().split() if packed.exists() else []:
        content = base64.b64decode(line)
        (folder / hashlib.sha1(content).hexdigest()).write_bytes(content)
    return folder


def pack(program, target, folder):
    """Keeps the smallest inputs that reach everything the folder reaches."""
    smallest = SCRATCH / "smallest" / target
    subprocess.run(["rm", "-rf", str(smallest)], check=True)
    smallest.mkdir(parents=True)
    subprocess.run([program, target, "-merge=1", f"-max_len={INPUT_BYTES_MAX}", str(smallest), str(folder)],
                   env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    inputs = sorted((path.read_bytes() for path in smallest.iterdir()), key=lambda content: (len(content), content))
    kept, size = [], 0
    for content in inputs:
        size += len(content)
        if size > CORPUS_BYTES_MAX:
            break
        kept.append(base64.b64encode(content).decode())
    CORPUS.mkdir(exist_ok=True)
    (CORPUS / f"{target}.txt").write_text("".join(line + "\n" for line in kept))
    print(f"{target}: kept {len(kept)} of {len(inputs)} inputs", flush=True)


def fuzz(program, target, options):
    """Runs one target; whether nothing failed."""
    failed = SCRATCH / "failed"
    failed.mkdir(parents=True, exist_ok=True)
    log = SCRATCH / f"{target}.log"
    old = sorted(map(str, (FOUND / target).glob("*")))
    with open(log, "wb") as output:
        again = subprocess.run([program, target, *old], env=ENVIRONMENT, stdout=output, stderr=output).returncode if old else 0
        new = again or subprocess.run(
            [program, target, f"-max_len={INPUT_BYTES_MAX}", "-timeout=10", "-rss_limit_mb=4096",
             f"-artifact_prefix={failed}/{target}-", *options, str(unpack(target))],
            env=ENVIRONMENT, stdout=output, stderr=output).returncode
    text = log.read_text(errors="replace")
    done = re.findall(r"Done (\d+) runs? in (\d+)", text)
    coverage = re.findall(r"cov: (\d+) ft: (\d+)", text)
    runs = int(done[-1][0]) if done else 0
    if new == 0 and runs > 0 and coverage:
        print(f"{target}: {runs} runs, {coverage[-1][0]} places and {coverage[-1][1]} features reached, "
              f"{len(old)} old faults tried", flush=True)
        return True
    print(f"{target}: FAILED; {log} ends so:\n" + "\n".join(text.splitlines()[-40:]), flush=True)
    for path in re.findall(r"Test unit written to (\S+)", text):
        print(f"again: {program} {target} {path}", flush=True)
    return False


def self_test(program):
    """A fault behind four steps is found, which no blind search would do in its time."""
    result = subprocess.run([program, PLANTED, "-max_total_time=120", "-artifact_prefix=/dev/null"], env=ENVIRONMENT,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if result.returncode == 0 or "violated: planted" not in result.stdout:
        print(f"the planted fault was not found:\n{result.stdout[-2000:]}")
        return False
    print("the planted fault was found")
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument("--runs", type=int)
    limit.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--self-test", action="store_true")
    parser.add_argument("--build", action="store_true")
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    arguments = parser.parse_args()
    program = build()
    if arguments.build:
        return 0
    if arguments.self_test:
        return 0 if self_test(program) else 1
    known = subprocess.run([program, "--list"], env=ENVIRONMENT, check=True, stdout=subprocess.PIPE, text=True)
    targets = arguments.targets or known.stdout.split()
    each = max(1, arguments.seconds // max(1, len(targets)))
    options = [f"-runs={arguments.runs}"] if arguments.runs else [f"-max_total_time={each}"]
    good = [fuzz(program, target, options) for target in targets]
    if arguments.update and all(good):
        for target in targets:
            pack(program, target, SCRATCH / "corpus" / target)
    return 0 if good and all(good) else 1


sys.exit(main())
