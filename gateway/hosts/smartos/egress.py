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
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, ip_interface

from dockerapi.errors import APIError, CommandFailed
from gateway.hosts.smartos.globalzone import GlobalZone

log = logging.getLogger(__name__)
Interface = IPv4Interface | IPv6Interface

_TIMEOUT_S = 60.0
_OBJECT, _OBJECT6, _LINK_LOCAL = "v4", "v6", "ll"
"""Names of addresses on their interface, as ipadm wants them: INTERFACE/v4."""


@dataclass(frozen=True, slots=True)
class StubNic:
    """The global zone's own nic on an etherstub."""

    name: str
    stub: str
    address: IPv4Interface
    address6: IPv6Interface | None = None


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


def addresses(listing: str) -> dict[str, Interface]:
    """Output of `ipadm show-addr -p -o addrobj,addr` -> addresses with their prefix; what is none is passed over,
    and so are link-local ones, which say nothing outside of their link."""
    found: dict[str, Interface] = {}
    for line in listing.splitlines():
        name, _, text = line.partition(":")
        text = text.replace("\\:", ":")
        if "%" in text or "/" not in text:
            continue
        with suppress(ValueError):
            found[name] = ip_interface(text)
    return found


class Egress:
    """The global zone's side of etherstub networks.  `nic` "": no way out."""

    def __init__(self, gz: GlobalZone, nic: str) -> None:
        self._gz = gz
        self.nic = nic

    async def addresses(self) -> dict[str, Interface]:
        """Addresses of the global zone, by address object."""
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
        wanted: dict[str, Interface] = {f"{own.name}/{_OBJECT}": own.address}
        if own.address6 is not None:
            wanted[f"{own.name}/{_OBJECT6}"] = own.address6
        there = {name: one for name, one in known.items() if name.startswith(f"{own.name}/")}
        if there != wanted:
            await self._address(own, wanted, plumbed=bool(there))
        # A machine that forwards as a rule would connect even internal networks.
        await self._forward(own.name, on=False)
        if own.address6 is not None:
            await self._forward(own.name, on=False, version=6)

    async def _address(
        self, own: StubNic, wanted: Mapping[str, Interface], *, plumbed: bool
    ) -> None:
        """The interface, anew, with these addresses."""
        if plumbed:
            await self._run("ipadm", "delete-if", own.name)
        try:
            await self._run("ipadm", "create-if", "-t", own.name)
        except CommandFailed as error:
            if "already exists" not in error.stderr:
                raise
        for name, address in wanted.items():
            if address.version == 6:
                # illumos wants the link-local address first, which only addrconf makes.
                link_local = f"{own.name}/{_LINK_LOCAL}"
                try:
                    await self._run("ipadm", "create-addr", "-t", "-T", "addrconf", link_local)
                except CommandFailed as error:
                    if "already" not in error.stderr.lower():
                        raise
            await self._run("ipadm", "create-addr", "-t", "-T", "static", "-a", str(address), name)

    async def unplumb(self, name: str) -> None:
        """The vnic is gone; none is fine."""
        if name not in await self.vnics():
            return
        try:
            await self._run("ipadm", "delete-if", name)
        except CommandFailed as error:
            log.debug("%s was not plumbed: %s", name, error.message)
        await self._run("dladm", "delete-vnic", "-t", name)

    async def open(self, own: StubNic) -> None:
        """Let the network out by the egress nic, which forwards then.  APIError that says what the machine lacks."""
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
        if not await self.forwards():
            await self._forward(self.nic, on=True)
        await self._forward(own.name, on=True)

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

    async def forwards(self) -> bool:
        """Whether the egress nic does already: if not, `open` begins it."""
        listing = await self._run(
            "ipadm", "show-ifprop", "-c", "-o", "current", "-p", "forwarding", "-m", "ipv4", self.nic
        )  # fmt: skip
        return listing.decode().strip() == "on"

    async def _forward(self, nic: str, *, on: bool, version: int = 4) -> None:
        await self._run(
            "ipadm", "set-ifprop", "-t", "-p", f"forwarding={'on' if on else 'off'}",
            "-m", f"ipv{version}", nic,
        )  # fmt: skip

    async def _run(self, *argv: str, stdin: bytes = b"") -> bytes:
        return await self._gz.run(list(argv), timeout_s=_TIMEOUT_S, stdin=stdin)
