"""Etherstubs that carry traffic: each is a network of the Linux host, a bridge, and a zone's nic on it a veth.

The global zone's own address on a stub is the bridge's: what listens there is reached by the zones, and reaches them.
A stub without one has its bridge from the first boot of a zone on it.  Nothing leads out of any of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from typing import TYPE_CHECKING, Any

from dockerapi.errors import APIError, NotFound
from gateway.zones.host import AddressRange, Network, NetworkPlan
from tests.fakes.globalzone import datalinks
from tests.fakes.globalzone.call import Failed

if TYPE_CHECKING:
    from tests.fakes.globalzone.gz import GZ


Interface = IPv4Interface | IPv6Interface


class Stubs:
    """Those of one global zone."""

    def __init__(self, gz: GZ) -> None:
        self._gz = gz
        self._lock = asyncio.Lock()

    def all(self) -> dict[str, Network]:
        """By the etherstub's name."""
        return {one.name: one for one in self._gz.host.networks.list() if one.plan is not None}

    async def settle(self) -> None:
        """As datalinks has them: bridges of stubs with an address are there, those of stubs that are gone are not."""
        async with self._lock:
            links = datalinks.of(self._gz)
            for name in self.all().keys() - set(links.etherstubs):
                await self._remove(name)
            for vnic, stub in links.vnics.items():
                found = links.interfaces.get(vnic)
                own = [ip_interface(one) for one in found.addresses.values()] if found else []
                if any(one.version == 4 for one in own):
                    await self._ensure(stub, *ranges(own))

    async def join(self, vm: dict[str, Any]) -> None:
        """Every stub that a machine has a nic on has its bridge."""
        async with self._lock:
            known, stubs = self.all(), datalinks.of(self._gz).etherstubs
            for nic in vm.get("nics", []):
                if nic["nic_tag"] in stubs and nic["nic_tag"] not in known:
                    last = [_last(ip_interface(text)) for text in nic["ips"]]
                    await self._make(nic["nic_tag"], *ranges(last))

    async def _ensure(self, stub: str, four: AddressRange, six: AddressRange | None) -> None:
        known = self.all().get(stub)
        if known is not None:
            if known.plan is not None and (known.plan.ipv4, known.plan.ipv6) == (four, six):
                return
            await self._remove(stub)
        await self._make(stub, four, six)

    async def _make(self, stub: str, four: AddressRange, six: AddressRange | None) -> None:
        try:
            await self._gz.host.networks.create(
                NetworkPlan(stub, ipv4=four, ipv6=six, internal=True)
            )
        except APIError as error:
            raise Failed(f"fake global zone: {stub}: {error.message}", 99) from error

    async def _remove(self, stub: str) -> None:
        try:
            await self._gz.host.networks.remove(stub)
        except NotFound:
            return


def ranges(own: Sequence[Interface]) -> tuple[AddressRange, AddressRange | None]:
    """The networks of these addresses, which are the gateways; link-local ones are no network."""
    found = {
        one.version: AddressRange(str(one.network), str(one.ip))
        for one in own
        if not one.ip.is_link_local
    }
    return found[4], found.get(6)


def _last(address: Interface) -> Interface:
    """Of the same network, the last that a zone could have."""
    network = address.network
    number = int(network.broadcast_address) - (network.version == 4)
    return ip_interface(f"{type(address.ip)(number)}/{network.prefixlen}")
