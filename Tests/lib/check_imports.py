#!/usr/bin/env python3
"""Fails when a Swift target imports what it must not. Usage: check_imports.py [--self-test] [PACKAGE-DIRECTORY]

The pure targets import nothing but the standard library, each other where the design says so, and swift-collections:
they do no I/O. The targets of the daemon import no more of Foundation than FoundationEssentials, because the rest
brings 50 MB of Unicode data. A Sources directory that is in none of the lists is an error, so that nobody forgets it.
"""

import pathlib
import re
import sys
import tempfile

COLLECTIONS = {"Collections", "DequeModule", "HeapModule", "OrderedCollections", "BasicContainers"}
# What each pure target may import, besides the standard library, which needs no import.
PURE = {
    "LockTypes": set(),
    "LockEngine": COLLECTIONS | {"LockTypes", "SystemStrings"},
    "ClientProtocol": COLLECTIONS | {"LockTypes"},
    "AccessPolicy": {"SystemStrings"},
    "SystemStrings": set(),
    "RESP": COLLECTIONS | {"SystemStrings"},
    "RedisLeases": COLLECTIONS | {"LockEngine", "LockTypes", "RESP"},
}
# What only some files of a target may import: those below a folder, or a file.
ONLY_BELOW = {
    # No other part of the driver knows how the store is spoken with.
    ("Sidecar", "RESP"): ["Store/"],
    ("Sidecar", "RedisLeases"): ["Store/"],
    ("Sidecar", "RedisTLS"): ["Store/"],
}
# What one target alone may import, whatever else it is.
ONLY_IN = {"NIOSSL": "RedisTLS"}
DAEMON = {"DaemonSettings", "RedisTLS", "Sidecar", "ProcessSupport", "SystemdSupport", "SidelockSettings", "sidelockd"}
FORBIDDEN_IN_DAEMON = {"Foundation", "FoundationNetworking", "FoundationXML", "FoundationInternationalization"}
# These run in processes of their own.
FREE = {"SidelockClient", "sidelock"}

COMMENTS_AND_STRINGS = re.compile(
    r'//[^\n]*|/\*.*?\*/|#+""".*?"""#+|#+"[^\n]*?"#+|"""(?:\\.|[^\\])*?"""|"(?:\\.|[^"\\\n])*"', re.DOTALL)
IMPORT = re.compile(
    r"(?:^|;)\s*(?:@\w+(?:\([^)]*\))?\s+)*(?:(?:public|package|internal|fileprivate|private)\s+)?"
    r"import\s+(?:(?:typealias|struct|class|enum|protocol|let|var|func)\s+)?`?([A-Za-z_]\w*)`?", re.MULTILINE)


def blank(match):
    """A comment or string without its text but with its lines, so that line numbers stay true."""
    return " " + "\n" * match.group().count("\n")


def imports(text):
    """The modules that Swift code imports, each with its line."""
    code = COMMENTS_AND_STRINGS.sub(blank, text)
    return [(code.count("\n", 0, found.start(1)) + 1, found.group(1)) for found in IMPORT.finditer(code)]


def violations(root):
    """What is wrong in a package, one line each."""
    found = []
    for directory in sorted((root / "Sources").iterdir()):
        target = directory.name
        if not list(directory.rglob("*.swift")):  # C has no such imports
            continue
        if target not in FREE and target not in PURE and target not in DAEMON:
            found.append(f"{directory}: this target is in no list of {pathlib.Path(__file__).name}")
            continue
        for path in sorted(directory.rglob("*.swift")):
            inside = path.relative_to(directory).as_posix()
            for line, module in imports(path.read_text()):
                places = ONLY_BELOW.get((target, module))
                if places and not any(inside.startswith(place) for place in places):
                    found.append(f"{path}:{line}: of {target}, only {' and '.join(places)} may import {module}")
                if module in ONLY_IN and target != ONLY_IN[module]:
                    found.append(f"{path}:{line}: only {ONLY_IN[module]} may import {module}")
                if target in PURE and module not in PURE[target]:
                    found.append(f"{path}:{line}: {target} is pure and must not import {module}")
                if target in DAEMON and module in FORBIDDEN_IN_DAEMON:
                    found.append(f"{path}:{line}: {target} must not import {module} (FoundationEssentials at most)")
    return found


SELF_TEST = [
    # (target, code, whether it is a violation)
    ("LockEngine", "import Foundation", True),
    ("LockEngine", "import FoundationEssentials", True),
    ("LockEngine", "import struct Foundation.Date", True),
    ("LockEngine", "  @preconcurrency  internal  import NIOCore // needed", True),
    ("LockEngine", "import DequeModule; import Glibc", True),
    ("LockEngine", "#if canImport(Glibc)\nimport Glibc\n#endif", True),
    ("LockEngine", "@_spi(Testing) public import Dispatch", True),
    ("LockEngine", "import RedisLeases", True),
    ("LockEngine", "import RESP", True),
    ("RESP", "import LockEngine", True),
    ("RESP", "public import RedisLeases", True),
    ("RESP", "import SystemStrings", False),
    ("LockEngine", "import Synchronization", True),
    ("ClientProtocol", "/* a */ let s = \"\"\nimport Logging", True),
    ("RedisLeases", "import Sidecar", True),
    ("Sidecar", "import Foundation", True),
    ("sidelockd", "public import func Foundation.exit", True),
    ("NewTarget", "", True),
    ("LockEngine", "import DequeModule\npublic import HeapModule", False),
    ("LockEngine", "// import Foundation\n/* import Glibc\nimport NIOCore */\nlet s = \"\"\"\nimport X\n\"\"\"", False),
    ("LockEngine", 'let s = #"say "\\"""#\nimport Glibc', True),
    ("LockEngine", 'let s = #"say "\\"""#  // import Glibc', False),
    ("RedisLeases", "import LockEngine\nimport RESP", False),
    ("Sidecar", "import FoundationEssentials\nimport NIOCore", False),
    ("sidelock", "import Foundation", False),
    ("Sidecar", "import RESP", True),
    ("Sidecar", "import RedisLeases", True),
    ("Sidecar/Store", "import RESP\nimport RedisLeases", False),
    ("Sidecar", "import RedisTLS", True),
    ("Sidecar/Store", "import RedisTLS", False),
    ("Sidecar/Store", "import NIOSSL", True),
    ("SidelockSettings", "internal import NIOSSL", True),
    ("SidelockClient", "import NIOSSL", True),
    ("RedisTLS", "import NIOSSL", False),
    ("RedisTLS", "import Foundation", True),
]


def self_test():
    """Plants violations, one at a time, and harmless code that looks like one."""
    for target, code, expected in SELF_TEST:
        with tempfile.TemporaryDirectory() as name:
            directory = pathlib.Path(name, "Sources", target, "Deeper")
            directory.mkdir(parents=True)
            (directory / "Planted.swift").write_text(code + "\n")
            if bool(violations(pathlib.Path(name))) != expected:
                verdict = "should fail" if expected else "should pass"
                sys.exit(f"check_imports: self-test failed: in {target}, {code!r} {verdict}")
    print(f"self-test: {len(SELF_TEST)} planted cases told apart")


def main(arguments):
    if "--self-test" in arguments:
        return self_test()
    root = pathlib.Path(arguments[0] if arguments else ".")
    missing = [target for target in [*PURE, *DAEMON] if not list((root / "Sources" / target).rglob("*.swift"))]
    found = violations(root) + [f"Sources/{target}: has no Swift code" for target in missing]
    print("\n".join(found) or "every target imports only what it may")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
