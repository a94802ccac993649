"""A network of this process's own, in which addresses can be cut off from each other."""

import ctypes
import os
import subprocess

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class PrivateNetwork:
    """Seen by this thread, and by the processes that it starts from now on. Addresses of this host are all that it has."""

    def __init__(self):
        self._outside = os.open("/proc/self/ns/net", os.O_RDONLY)
        _check(_libc.unshare(CLONE_NEWNET))
        self._ip(
            "link set lo up",
            # What goes into one end of this pair, nobody takes from the other one.
            "link add nowhere type veth peer name nobody", "link set nowhere arp off up", "link set nobody arp off up",
            "route add default dev nowhere table 50",
            # Addresses of this host are looked up first, so there is room for rules before that.
            "rule add pref 100 lookup local", "rule del pref 0")
        self._addresses = 0
        self._cuts = []

    @staticmethod
    def _ip(*lines):
        subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), check=True, text=True)

    def address(self):
        """Another one."""
        self._addresses += 1
        address = f"10.0.0.{self._addresses}"
        self._ip(f"addr add {address}/32 dev lo")
        return address

    def cut(self, addresses, others):
        """Lets nothing pass between one of `addresses` and one of `others`, and tells neither."""
        cuts = [f"from {a} to {b} pref 10 lookup 50" for one in addresses for other in others
                for a, b in ((one, other), (other, one))]
        self._ip(*[f"rule add {cut}" for cut in cuts])
        self._cuts += cuts

    def mend(self):
        """Everything reaches everything again."""
        self._ip(*[f"rule del {cut}" for cut in self._cuts])
        self._cuts = []

    def close(self):
        """Back to the network of before."""
        _check(_libc.setns(self._outside, CLONE_NEWNET))
        os.close(self._outside)
