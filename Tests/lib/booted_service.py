"""The daemon as the service that the package installs, beside a Redis, under a systemd of its own (systemd-host.sh)."""

import pathlib
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
HOST = ROOT / "Tests/lib/systemd-host.sh"
UNITS = ROOT / "packaging/systemd"
#: The lease is longer than usual: how long a restart may take on a busy machine is not what is tried.
START = """
set -e
systemd-sysusers /srv/units/sidelock.sysusers
cp /srv/units/sidelockd.service /srv/units/sidelockd.socket /etc/systemd/system/
mkdir -p /etc/sidelock
printf '%s\\n' 'redis: redis://127.0.0.1:6379' 'lease_ms: 60000' >/etc/sidelock/sidelockd.yaml
systemd-run -q --unit=redis-for-test redis-server --bind 127.0.0.1 --port 6379 --save '' --dir /tmp
systemctl daemon-reload
systemctl start sidelockd.socket sidelockd.service
"""


class BootedService:
    """A context: boots, and ends all of it. `seen`: folders that are there at the same place as here, read-only."""

    def __init__(self, daemon, seen):
        self.daemon, self.seen = daemon, seen

    def __enter__(self):
        self.directory = tempfile.TemporaryDirectory(prefix="slv-", dir="/tmp")
        self.state = pathlib.Path(self.directory.name) / "state"
        self.state.mkdir()
        binds = [f"{pathlib.Path(self.daemon).resolve()}:/usr/sbin/sidelockd", f"{UNITS}:/srv/units", *(f"{path}:{path}" for path in self.seen)]
        subprocess.run([HOST, "up", self.state, *binds], check=True)
        try:
            subprocess.run(self.command("sh", "-c", START), check=True)
        except subprocess.CalledProcessError:
            self.__exit__()
            raise
        return self

    def command(self, *command):
        """What runs the command in there."""
        return [str(HOST), "exec", str(self.state), *map(str, command)]

    def log(self):
        done = subprocess.run(self.command("journalctl", "-u", "sidelockd.service", "--no-pager"), capture_output=True, text=True, check=False)
        return done.stdout[-6000:]

    def __exit__(self, *_):
        subprocess.run([HOST, "down", self.state], check=True)
        self.directory.cleanup()
