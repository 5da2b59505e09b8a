"""Etherstubs that carry traffic: each is a network of the Linux host, a bridge, and a zone's nic on it a veth.

The global zone's own address on a stub is the bridge's: what listens there is reached by the zones, and reaches them.
A stub without one has its bridge from the first boot of a zone on it.  Nothing leads out of any of them.
"""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Interface
from typing import TYPE_CHECKING, Any

from dockerapi.errors import APIError, NotFound
from gateway.zones.host import AddressRange, Network, NetworkPlan
from tests.fakes.globalzone import datalinks
from tests.fakes.globalzone.call import Failed

if TYPE_CHECKING:
    from tests.fakes.globalzone.gz import GZ


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
                for address in found.addresses.values() if found else ():
                    await self._ensure(stub, IPv4Interface(address))

    async def join(self, vm: dict[str, Any]) -> None:
        """Every stub that a machine has a nic on has its bridge."""
        async with self._lock:
            known, stubs = self.all(), datalinks.of(self._gz).etherstubs
            for nic in vm.get("nics", []):
                if nic["nic_tag"] in stubs and nic["nic_tag"] not in known:
                    subnet = IPv4Interface(f"{nic['ip']}/{nic['netmask']}").network
                    gateway = next(one for one in reversed(list(subnet)[:-1]))
                    await self._make(nic["nic_tag"], str(subnet), str(gateway))

    async def _ensure(self, stub: str, own: IPv4Interface) -> None:
        known = self.all().get(stub)
        if known is not None and known.gateway == str(own.ip):
            return
        if known is not None:
            await self._remove(stub)
        await self._make(stub, str(own.network), str(own.ip))

    async def _make(self, stub: str, subnet: str, gateway: str) -> None:
        plan = NetworkPlan(stub, ipv4=AddressRange(subnet, gateway), internal=True)
        try:
            await self._gz.host.networks.create(plan)
        except APIError as error:
            raise Failed(f"fake global zone: {stub}: {error.message}", 99) from error

    async def _remove(self, stub: str) -> None:
        try:
            await self._gz.host.networks.remove(stub)
        except NotFound:
            return
