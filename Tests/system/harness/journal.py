"""A journal that a test can read: the socket to which a daemon writes, and what journalctl would make of it."""

import json
import os
import socket
import struct
import threading
import time


class Journal:
    """Stands in for journald's socket. The entries are as the daemon has sent them, field by field."""

    def __init__(self, directory):
        self.path = directory / "journal.sock"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.entries = []
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def prefix(self):
        """Runs a daemon where this is the journal of the host, to which its standard error leads."""
        return ["unshare", "--mount", "sh", "-c",
                'mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal && ln -s "$0" /run/systemd/journal/socket && '
                'export JOURNAL_STREAM="$(stat -Lc %d:%i /proc/self/fd/2)" && exec "$@"', str(self.path)]

    def _run(self):
        while True:
            data, descriptors, _, _ = socket.recv_fds(self.socket, 1 << 18, 1)
            # What is too long for a datagram comes as a file.
            for descriptor in descriptors:
                data = os.pread(descriptor, 1 << 20, 0)
                os.close(descriptor)
            if not data:
                return
            self.entries.append((time.time_ns() // 1000, self._fields(data)))

    @staticmethod
    def _fields(data):
        """The fields of the journal's protocol: `NAME=value`, or the name, the length, and the value behind it."""
        fields = {}
        while data:
            line, _, rest = data.partition(b"\n")
            name, equals, value = line.partition(b"=")
            if not equals:
                (length,) = struct.unpack_from("<Q", rest)
                value, rest = rest[8:8 + length], rest[9 + length:]
            fields[name.decode()] = value
            data = rest
        return fields

    def lines(self):
        """The entries as journalctl -o json writes them."""
        def shown(value):
            text = value.decode(errors="replace")
            return text if text.encode() == value and (text.isprintable()) else list(value)

        return "".join(json.dumps({
            "__REALTIME_TIMESTAMP": str(at), "_HOSTNAME": "here", **{name: shown(value) for name, value in fields.items()}}) + "\n"
            for at, fields in list(self.entries))

    def close(self):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
            own.sendto(b"", str(self.path))
        self.thread.join()
        self.socket.close()
