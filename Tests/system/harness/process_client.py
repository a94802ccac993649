"""A client that is a process of its own: another user's, in another unit, or with a child that has its connection.

Run as a program, `process_client.py SOCKET`, it serves lines of standard input: `send REQUEST` sends a line and writes
the next line of the connection; `next` writes the next line; `half` closes this half of the connection and writes
`done`; `fork` goes on in a child and writes `PARENT CHILD`, and the parent stays behind, with the connection, and does
nothing more, or becomes the program whose words follow; `run` becomes a program at once, which has the connection. `end`
stands for the end of the connection.
"""

import json
import os
import pathlib
import shlex
import signal
import socket
import subprocess
import sys


class ProcessClient:
    """The process, seen from the test. Requests are answered one after the other."""

    def __init__(self, lab, daemon, user=None, group=None, groups=(), command=()):
        options = {}
        if user is not None:
            # Everybody may connect; who may do what is another matter.
            os.chmod(daemon.socket_path, 0o666)
            for directory in (lab.directory, daemon.directory):
                os.chmod(directory, 0o755)
            options = {"user": user, "group": user if group is None else group, "extra_groups": list(groups)}
        # As text, because another user cannot read the file.
        program = pathlib.Path(__file__).read_text()
        self.process = lab.track(subprocess.Popen(
            [*command, "/usr/bin/python3", "-c", program, str(daemon.socket_path)], text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, start_new_session=True, **options))
        self.child = None
        self.last_id = 0

    @property
    def pid(self):
        return self.process.pid

    def _say(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def next(self):
        """The next message; None at the end of the connection."""
        line = self._say("next")
        return None if line == "end" else json.loads(line)

    def message(self, method, **params):
        """Asks, and gives the whole answer; None at the end of the connection."""
        self.last_id += 1
        line = self._say("send " + json.dumps({"id": self.last_id, "method": method, "params": params}))
        return None if line == "end" else json.loads(line)

    def call(self, method, **params):
        return self.message(method, **params)["result"]

    def error(self, method, **params):
        return self.message(method, **params)["error"]

    def fork(self, *program):
        """From now on a child asks, which has inherited the connection. The process itself becomes `program`."""
        self.child = int(self._say("fork " + shlex.join(program)).split()[1])

    def run(self, *program):
        """It becomes another program, and asks nothing more."""
        self.process.stdin.write("run " + shlex.join(program) + "\n")
        self.process.stdin.flush()

    def half_close(self):
        self._say("half")

    def kill(self):
        """Kills the process that connected."""
        self.process.kill()
        self.process.wait()

    def kill_child(self):
        os.kill(self.child, signal.SIGKILL)


def serve(path):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    stream = sock.makefile("rb")
    for line in sys.stdin:
        verb, _, rest = line.strip().partition(" ")
        if verb == "fork":
            parent = os.getpid()
            child = os.fork()
            if child:
                if rest:
                    os.execv(shlex.split(rest)[0], shlex.split(rest))
                while True:
                    signal.pause()
            print(parent, os.getpid(), flush=True)
            continue
        if verb == "run":
            os.set_inheritable(sock.fileno(), True)
            os.execv(shlex.split(rest)[0], shlex.split(rest))
        try:
            if verb == "half":
                sock.shutdown(socket.SHUT_WR)
                print("done", flush=True)
                continue
            if verb == "send":
                sock.sendall(rest.encode() + b"\n")
            print(stream.readline().decode().strip() or "end", flush=True)
        except OSError:
            print("end", flush=True)


if __name__ == "__main__":
    serve(sys.argv[1])
