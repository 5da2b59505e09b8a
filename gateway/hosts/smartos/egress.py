"""How an etherstub network reaches the global zone, and outside by it: a vnic, its address, forwarding, ipnat.

    zone --etherstub-- NAME_ID_gw0 (gateway address) --forwarding, ipnat-- egress nic

The vnic alone lets the gateway's proxy reach the zones.  Forwarding and ipnat come with a nic that the admin named
(smartos.egress_nic); without it the network is internal.  All of it is temporary (-t): a reboot of the machine
takes it away, and the gateway puts it back when it starts.  What is there is looked at first, so every act may be
repeated.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network

from dockerapi.errors import APIError, CommandFailed
from gateway.hosts.smartos.globalzone import GlobalZone

log = logging.getLogger(__name__)

_TIMEOUT_S = 60.0
_OBJECT = "v4"
"""Name of the address on its interface, as ipadm wants one: INTERFACE/v4."""


@dataclass(frozen=True, slots=True)
class StubNic:
    """The global zone's own nic on an etherstub."""

    name: str
    stub: str
    address: IPv4Interface


def vnic_name(instance: str, network_id: str) -> str:
    """Of a network's vnic: a link name has letters, digits, _ and a number at its end, 31 characters at most."""
    return f"{instance}_{network_id[:8]}_gw0"


def map_lines(egress: str, subnet: IPv4Network) -> str:
    """Rules of ipnat: the first for what has ports, the second for the rest (ping)."""
    return f"map {egress} {subnet} -> 0/32 portmap tcp/udp auto\nmap {egress} {subnet} -> 0/32\n"


def mapped(listing: str) -> set[tuple[str, IPv4Network]]:
    """Interface and source of every map rule that `ipnat -l` shows."""
    found = re.findall(r"^map (\S+) (?:from )?(\d+\.\d+\.\d+\.\d+/\d+)\s", listing, re.MULTILINE)
    return {(nic, IPv4Network(source, strict=False)) for nic, source in found}


def addresses(listing: str) -> dict[str, IPv4Interface]:
    """Output of `ipadm show-addr -p -o addrobj,addr` -> IPv4 addresses with their prefix; others are passed over."""
    found: dict[str, IPv4Interface] = {}
    for line in listing.splitlines():
        name, _, text = line.partition(":")
        if re.fullmatch(r"[\d.]+/\d+", text):
            found[name] = IPv4Interface(text)
    return found


class Egress:
    """The global zone's side of etherstub networks.  `nic` "": no way out."""

    def __init__(self, gz: GlobalZone, nic: str) -> None:
        self._gz = gz
        self.nic = nic

    async def addresses(self) -> dict[str, IPv4Interface]:
        """IPv4 addresses of the global zone, by address object."""
        listing = await self._run("ipadm", "show-addr", "-p", "-o", "addrobj,addr")
        return addresses(listing.decode())

    async def vnics(self) -> dict[str, str]:
        """All vnics that the global zone lists, with the link below."""
        listing = await self._run("dladm", "show-vnic", "-p", "-o", "link,over")
        rows = (line.partition(":") for line in listing.decode().splitlines())
        return {link: over for link, _, over in rows}

    async def plugged(self, own: StubNic) -> bool:
        """Whether a zone that runs has a nic on the etherstub: links of zones have names like net0, each its own."""
        listing = await self._run("dladm", "show-vnic", "-p", "-o", "link,over")
        rows = (line.partition(":") for line in listing.decode().splitlines())
        return any(over == own.stub and link != own.name for link, _, over in rows)

    async def plumb(self, own: StubNic) -> None:
        """The vnic is there and has its address, without forwarding.  CommandFailed; what was made then stays."""
        if own.name not in await self.vnics():
            await self._run("dladm", "create-vnic", "-t", "-l", own.stub, own.name)
        known = await self.addresses()
        if known.get(f"{own.name}/{_OBJECT}") != own.address:
            if any(name.startswith(f"{own.name}/") for name in known):
                await self._run("ipadm", "delete-if", own.name)
            try:
                await self._run("ipadm", "create-if", "-t", own.name)
            except CommandFailed as error:
                if "already exists" not in error.stderr:
                    raise
            await self._run(
                "ipadm", "create-addr", "-t", "-T", "static", "-a", str(own.address),
                f"{own.name}/{_OBJECT}",
            )  # fmt: skip
        # A machine that forwards as a rule would connect even internal networks.
        await self._forward(own.name, on=False)

    async def unplumb(self, name: str) -> None:
        """The vnic is gone; none is fine."""
        if name not in await self.vnics():
            return
        try:
            await self._run("ipadm", "delete-if", name)
        except CommandFailed as error:
            log.debug("%s was not plumbed: %s", name, error.message)
        await self._run("dladm", "delete-vnic", "-t", name)

    async def open(self, own: StubNic) -> bool:
        """Let the network out by the egress nic.  True: forwarding was off on that nic, and is on now.

        APIError that says what the machine lacks.
        """
        subnet = own.address.network
        try:
            if (self.nic, subnet) not in await self._mapped():
                await self._run("ipnat", "-f", "-", stdin=map_lines(self.nic, subnet).encode())
        except CommandFailed as error:
            raise APIError(
                f"network cannot reach outside: {error.message}"
                " (in the global zone: svcadm enable network/ipfilter)",
                detail=error.stderr,
            ) from error
        was_off = await self._forwards(self.nic) is False
        if was_off:
            await self._forward(self.nic, on=True)
        await self._forward(own.name, on=True)
        return was_off

    async def shut(self, subnet: IPv4Network, but: str = "") -> None:
        """No way out any more, except by the nic `but`; the vnic stays."""
        try:
            found = await self._mapped()
        except CommandFailed as error:
            # Where ipfilter does not run there is nothing to take away.
            log.debug("ipnat has no rules: %s", error.message)
            return
        for nic, source in found:
            if source == subnet and nic != but:
                await self._run("ipnat", "-r", "-f", "-", stdin=map_lines(nic, subnet).encode())

    async def stop_forwarding(self, nic: str) -> None:
        """On a nic where `open` had begun it and no network needs it any more."""
        await self._forward(nic, on=False)

    async def _mapped(self) -> set[tuple[str, IPv4Network]]:
        return mapped((await self._run("ipnat", "-l")).decode())

    async def _forwards(self, nic: str) -> bool:
        listing = await self._run(
            "ipadm", "show-ifprop", "-c", "-o", "current", "-p", "forwarding", "-m", "ipv4", nic
        )
        return listing.decode().strip() == "on"

    async def _forward(self, nic: str, *, on: bool) -> None:
        value = "on" if on else "off"
        await self._run("ipadm", "set-ifprop", "-t", "-p", f"forwarding={value}", "-m", "ipv4", nic)

    async def _run(self, *argv: str, stdin: bytes = b"") -> bytes:
        return await self._gz.run(list(argv), timeout_s=_TIMEOUT_S, stdin=stdin)
