"""A process that holds something until it is killed: mode_holder.py SOCKET acquire|cycle NAME[,NAME…] [PARAM=VALUE…]

`acquire` takes it once; `cycle` takes it and gives it back again and again. It says "held" when it first has it.
"""

import json
import socket
import sys

path, action, names, *options = sys.argv[1:]
params = {key: int(value) if value.isdigit() else value for key, value in (option.split("=", 1) for option in options)}
params |= {"names": names.split(",")} if "," in names else {"name": names}

connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
connection.connect(path)
lines = connection.makefile("r")


def call(method, params):
    connection.sendall(json.dumps({"id": 1, "method": method, "params": params}).encode() + b"\n")
    while True:
        message = json.loads(lines.readline())
        if message.get("id") == 1:
            return message["result"]


said = False
while True:
    result = call("acquire", params)
    if not said:
        print("held", flush=True)
        said = True
    if action == "acquire":
        lines.readline()
    for lock in result.get("locks", [result]):
        call("release", {"name": lock.get("name", names), "token": lock["token"]})
