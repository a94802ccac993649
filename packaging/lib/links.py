#!/usr/bin/env python3
"""Makes the links of installed documents lead to what is installed.

usage: links.py ROOT TREE PLACED
       links.py --check DIRECTORY

PLACED is a file with the lines "SOURCE<tab>TARGET": SOURCE, relative to ROOT, stands in TREE as TARGET. In every Markdown
file among them a link to another file that is installed leads there, and a link to one that is not becomes its words.
--check says which links of the installed documents in DIRECTORY lead nowhere.
"""

import os
import pathlib
import re
import sys

LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")


def installed(source, placed):
    """Where a file or a folder of the project is installed; None where it is not."""
    if source in placed:
        return placed[source]
    for name, target in placed.items():
        rest = name.removeprefix(source + "/")
        if rest != name and target.endswith("/" + rest):
            return target.removesuffix("/" + rest)
    return None


def rewritten(text, source, placed):
    """The text of the document that is `source` in the project, for where it is installed."""
    here = os.path.dirname(placed[source])

    def link(found):
        words, (path, _, anchor) = found[1], found[2].partition("#")
        if not path or "://" in path:
            return found[0]
        target = installed(os.path.normpath(os.path.join(os.path.dirname(source), path)), placed)
        if target is None:
            return words
        return f"[{words}]({os.path.relpath(target, here)}{'#' * bool(anchor)}{anchor})"

    return LINK.sub(link, text)


def check(directory):
    """The links of the documents in a directory that lead nowhere."""
    links = [(path, found[2].partition("#")[0]) for path in sorted(directory.rglob("*.md"))
             for found in LINK.finditer(path.read_text()) if "://" not in found[2]]
    if not links:
        sys.exit(f"links: no document in {directory} has a link")
    return [f"{path.relative_to(directory)}: {target}" for path, target in links if not (path.parent / target).exists()]


def main():
    if sys.argv[1:2] == ["--check"]:
        sys.exit("\n".join(check(pathlib.Path(sys.argv[2]))) or 0)
    root, tree, lines = map(pathlib.Path, sys.argv[1:])
    placed = dict(line.split("\t") for line in lines.read_text().splitlines())
    for source, target in placed.items():
        if source.endswith(".md"):
            (tree / target).write_text(rewritten((root / source).read_text(), source, placed))


if __name__ == "__main__":
    main()
