"""A network namespace for this process and all that it starts, so that the machine's own network stays as it is."""

from __future__ import annotations

import ctypes
import os
import subprocess

_CLONE_NEWNET = 0x40000000


def own_network() -> None:
    """Leave the machine's network for one with loopback and one outside address; never back.  Root only."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(_CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    for command in (
        "link set lo up",
        "link add outside type veth peer name beyond",
        "addr add 192.0.2.1/24 dev outside",
        "link set outside up",
        "link set beyond up",
        "route add default dev outside",
    ):
        subprocess.run(["ip", *command.split()], check=True)
