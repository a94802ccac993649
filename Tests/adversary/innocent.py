"""A client of another user: it holds a lock, pings every 4 ms and tries another lock every 40 ms, until its input ends.
Then it tells how that went, in a line of JSON. Standard library only, because another user cannot read the tests."""

import json
import select
import socket
import sys
import time


def main():
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(sys.argv[1])
    reader, worst, counts, lost = sock.makefile("r"), {"ping": 0.0, "try": 0.0}, {"ping": 0, "try": 0}, []

    def call(method, **params):
        call.last += 1
        sock.sendall(json.dumps({"id": call.last, "method": method, "params": params}).encode() + b"\n")
        while True:
            line = reader.readline()
            if not line:
                raise SystemExit("the daemon closed the innocent client's connection")
            message = json.loads(line)
            if message.get("id") == call.last:
                return message
            if message.get("method") == "lost":
                lost.append(message["params"])

    def timed(kind, method, **params):
        began = time.monotonic()
        message = call(method, **params)
        worst[kind] = max(worst[kind], time.monotonic() - began)
        counts[kind] += 1
        return message

    call.last = 0
    token = call("acquire", name="innocent")["result"]["token"]
    print(call("initialize")["result"]["session"], flush=True)
    refused, next_try = [], time.monotonic()
    while not select.select([sys.stdin], [], [], 0.004)[0]:
        timed("ping", "ping")
        if time.monotonic() >= next_try:
            next_try = time.monotonic() + 0.04
            answer = timed("try", "acquire", name=f"innocent {counts['try']}", wait_ms=0)
            if "error" in answer:
                refused.append(answer["error"])
            else:
                call("release", name=answer["result"]["name"])
    released = call("release", name="innocent")
    print(json.dumps({
        "worst_ping_ms": worst["ping"] * 1000, "worst_try_ms": worst["try"] * 1000, "pings": counts["ping"],
        "tries": counts["try"], "refused": refused, "lost": lost,
        "still_held": released.get("result", {}).get("token") == token}), flush=True)


main()
