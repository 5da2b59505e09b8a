"""ipadm as it runs inside a zone: create-addr of static IPv6 addresses on the zone's nics.

It asks ipmgmtd, which dockerinit ends after its own plumbing where `docker:noipmgmtd` is true.
"""

from __future__ import annotations

import getopt
import shlex
from collections.abc import Sequence
from ipaddress import IPv6Interface
from typing import TYPE_CHECKING

from tests.fakes.globalzone.call import Failed
from tests.fakes.globalzone.machine import Machine

if TYPE_CHECKING:
    from tests.fakes.globalzone.gz import GZ

PATH = "/native/usr/sbin/ipadm"


def called(words: Sequence[str]) -> list[str]:
    """Its arguments, where a command of zlogin's is this program; else nothing.  With a su the command is one word."""
    argv = shlex.split(words[0]) if len(words) == 1 else list(words)
    return argv[1:] if argv[:1] == [PATH] else []


async def main(gz: GZ, machine: Machine, arguments: Sequence[str]) -> int:
    """See the module."""
    if str(machine.vm["internal_metadata"].get("docker:noipmgmtd", False)).lower() == "true":
        raise Failed("ipadm: cannot initialise: IP interface management daemon is not running")
    command, *rest = arguments
    options, names = getopt.getopt(rest, "tT:a:d")
    told = dict(options)
    if command != "create-addr" or told.get("-T") != "static" or "-t" not in told or not names:
        raise Failed("usage: ipadm <subcommand> <args> ...")
    interface, _, name = names[0].partition("/")
    if interface not in [nic["interface"] for nic in machine.plugged] or not name:
        raise Failed(f"ipadm: Could not create address: {interface}: No such interface")
    try:
        address = str(IPv6Interface(told.get("-a", "")))
    except ValueError:
        raise Failed(f"ipadm: Invalid address '{told.get('-a', '')}'") from None
    if machine.addresses6.get(interface):
        raise Failed("ipadm: Could not create address: Address object already exists")
    await gz.machines.boots.add_address(machine, interface, address)
    return 0
