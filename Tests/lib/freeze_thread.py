#!/usr/bin/env python3
"""Stops one thread of a process, by the start of its name, and leaves the others running: a loop that hangs, as it were.
Usage: freeze_thread.py PID NAME

Prints "frozen" once the thread has stopped, and ends with the process. A debugger's system call does it (ptrace), so that
the program under test needs no way to be wedged.
"""

import ctypes
import os
import pathlib
import sys

PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207
WALL = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


def ptrace(request, thread):
    if libc.ptrace(request, thread, None, None) != 0:
        raise OSError(ctypes.get_errno(), f"ptrace {request:#x}")


def main(pid, prefix):
    threads = [int(entry.name) for entry in pathlib.Path("/proc", pid, "task").iterdir()
               if (entry / "comm").read_text().startswith(prefix)]
    if len(threads) != 1:
        names = [(entry / "comm").read_text().strip() for entry in pathlib.Path("/proc", pid, "task").iterdir()]
        sys.exit(f"{len(threads)} threads have a name with {prefix!r}; there are {names}")
    ptrace(PTRACE_SEIZE, threads[0])
    ptrace(PTRACE_INTERRUPT, threads[0])
    while True:
        _, status = os.waitpid(threads[0], WALL)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            return
        print("frozen", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
