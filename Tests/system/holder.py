"""A client process for tests that kill it: holder.py SOCKET NAME.

It takes the lock, writes `held TOKEN` to its output, and goes on reading its socket until it is killed.
"""

import json
import socket
import sys

sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
sock.sendall(json.dumps({"id": 1, "method": "acquire", "params": {"name": sys.argv[2]}}).encode() + b"\n")
for line in sock.makefile("rb"):
    message = json.loads(line)
    if message.get("id") == 1:
        print("held", message["result"]["token"], flush=True)
