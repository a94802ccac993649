#!/usr/bin/env python3
"""Makes the Debian changelog from packaging/NEWS.md. Usage: changelog.py VERSION REVISION MAINTAINER SECONDS

VERSION is what the daemon says, and must be the newest entry; the entries before it are written with the revision 1.
SECONDS since 1970 are the date of an entry that has no day yet.
"""

import datetime
import email.utils
import pathlib
import re
import sys
import textwrap

NEWS = pathlib.Path(__file__).resolve().parents[1] / "NEWS.md"
HEADING = re.compile(r"^## (\d+\.\d+\.\d+) \((unreleased|\d{4}-\d\d-\d\d)\)$", re.MULTILINE)
WIDTH = 78


def entries(text):
    """The entries, newest first: (version, day or "unreleased", what changed)."""
    parts = HEADING.split(text)[1:]
    for version, day, body in zip(parts[::3], parts[1::3], parts[2::3]):
        yield version, day, items(body.split("\n## ")[0])


def items(body):
    """The items of an entry's list, each in one line, as plain text."""
    found = re.findall(r"^\* (.*(?:\n  +\S.*)*)", body, re.MULTILINE)
    return [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"\s+", " ", item)).replace("`", "").replace("**", "")
            for item in found]


def changelog(text, version, revision, maintainer, seconds):
    """The whole changelog."""
    all_entries = list(entries(text))
    if not all_entries or all_entries[0][0] != version:
        newest = all_entries[0][0] if all_entries else "nothing"
        raise SystemExit(f"changelog: {NEWS.name} begins with {newest}, and the daemon is {version}")
    written = []
    for number, (its_version, day, changes) in enumerate(all_entries):
        if not changes:
            raise SystemExit(f"changelog: {its_version} has no list of changes")
        if day == "unreleased" and number > 0:
            raise SystemExit(f"changelog: {its_version} has a later version and no day")
        date = (datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc) if day == "unreleased"
                else datetime.datetime.fromisoformat(day).replace(hour=12, tzinfo=datetime.timezone.utc))
        full = f"{its_version}-{revision if number == 0 else 1}"
        lines = [textwrap.fill(item, WIDTH, initial_indent="  * ", subsequent_indent="    ", break_long_words=False,
                               break_on_hyphens=False) for item in changes]
        written.append(f"sidelock ({full}) unstable; urgency=medium\n\n" + "\n".join(lines)
                       + f"\n\n -- {maintainer}  {email.utils.format_datetime(date)}\n")
    return "\n".join(written)


def main(arguments):
    if len(arguments) != 4:
        sys.exit(__doc__)
    version, revision, maintainer, seconds = arguments
    sys.stdout.reconfigure(encoding="utf-8")
    print(changelog(NEWS.read_text(encoding="utf-8"), version, revision, maintainer, int(seconds)), end="")


if __name__ == "__main__":
    main(sys.argv[1:])
