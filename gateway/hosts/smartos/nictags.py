"""Nic tags of the global zone: what nictagadm lists, and etherstubs of ours made and removed.

An etherstub is a switch without a wire.  nictagadm keeps its name in the machine's configuration, so it outlives
a reboot; what is plumbed on it (egress.py) does not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dockerapi.errors import CommandFailed, Conflict
from gateway.hosts.smartos.globalzone import GlobalZone

_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class NicTag:
    """One tag: `mac` and `link` of the physical nic, "-" without one; `type` normal, aggr, etherstub, overlay."""

    name: str
    mac: str
    link: str
    type: str


def parse(text: str) -> dict[str, NicTag]:
    """Output of `nictagadm list -p -d ,`.  Old platforms do not print the type."""
    tags: dict[str, NicTag] = {}
    for line in text.splitlines():
        name, mac, link, *more = line.split(",")
        kind = more[0] if more else ("etherstub" if mac == link == "-" else "normal")
        tags[name] = NicTag(name, mac, link, kind)
    return tags


def stub_name(instance: str, network_id: str) -> str:
    """The etherstub of a network: nictagadm wants letters, digits and _, a digit at the end, 31 characters at most.

    The digit is a 0 by itself: illumos reads the digits at the end as a number and refuses 007.
    """
    return f"{instance}_{network_id[:8]}_0"


def is_ours(instance: str, tag: str) -> bool:
    """Whether `stub_name` of this instance made it."""
    return re.fullmatch(rf"{re.escape(instance)}_[0-9a-f]{{8}}_0", tag) is not None


class NicTags:
    """nictagadm of one global zone."""

    def __init__(self, gz: GlobalZone) -> None:
        self._gz = gz

    async def list(self) -> dict[str, NicTag]:
        """All tags, by name."""
        return parse((await self._run("list", "-p", "-d", ",")).decode())

    async def add_etherstub(self, name: str) -> None:
        """A new etherstub; there already is fine."""
        try:
            await self._run("add", "-l", name)
        except CommandFailed as error:
            if "already exists" not in error.stderr:
                raise

    async def zones(self, name: str) -> tuple[str, ...]:
        """UUIDs of all zones, ours or not, running or not, that have a nic on it."""
        return tuple((await self._run("vms", name)).decode().split())

    async def delete(self, name: str) -> None:
        """None is fine.  Conflict while a zone, running or not, has a nic on it."""
        try:
            await self._run("delete", name)
        except CommandFailed as error:
            if "is in use" in error.stderr:
                raise Conflict(f"nic tag {name} is in use by a zone") from error
            if "does not exist" not in error.stderr:
                raise

    async def _run(self, *arguments: str) -> bytes:
        return await self._gz.run(["nictagadm", *arguments], timeout_s=_TIMEOUT_S)
