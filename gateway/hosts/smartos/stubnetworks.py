"""User networks in the global zone: an etherstub each, the zone's own nic on it, rules; all of it or nothing.

    make     record -> etherstub -> vnic and address -> ipnat -> rules -> record ready
    unmake   record not ready -> the same backwards -> no record
    sweep    at start: what is half made or half gone goes, what a reboot took away comes back

Which addresses zones have there is network.py's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Literal

from dockerapi.errors import APIError, Forbidden, InvalidParameter
from gateway.hosts.ipam import Ranges, choose_subnet
from gateway.hosts.networks import uuid_of
from gateway.hosts.smartos.addresses import AnyNetwork
from gateway.hosts.smartos.egress import Egress
from gateway.hosts.smartos.firewall import Firewall, network_rules
from gateway.hosts.smartos.networkrecords import NetworkRecords, Record
from gateway.hosts.smartos.nictags import NicTags, is_ours
from gateway.settings import AddressPool
from gateway.zones.host import AddressRange

log = logging.getLogger(__name__)


def place(
    wanted: AddressRange,
    *,
    pools: Sequence[AddressPool],
    taken: Iterable[AnyNetwork],
    version: Literal[4, 6] = 4,
) -> AddressRange:
    """Subnet and gateway of a new network, from what the client said ("" = choose).

    InvalidParameter, or Forbidden if it overlaps one of `taken`, in dockerd's words.
    """
    used = list(taken)
    if wanted.subnet:
        network = _subnet(wanted.subnet, [one for one in used if one.version == version])
    elif version == 4:
        network = choose_subnet(pools, [one for one in used if isinstance(one, IPv4Network)])
    else:
        network = choose_subnet(pools, [one for one in used if isinstance(one, IPv6Network)], 6)
    try:
        router = ip_address(wanted.gateway) if wanted.gateway else network.network_address + 1
    except ValueError as error:
        raise InvalidParameter(
            f"invalid network config:\ninvalid gateway {wanted.gateway}"
        ) from error
    if router not in network:
        raise InvalidParameter(f"no matching subnet for gateway {router}")
    inner = _range(wanted.ip_range, network)
    return AddressRange(str(network), str(router), inner, wanted.aux)


def _subnet(text: str, used: Sequence[AnyNetwork]) -> AnyNetwork:
    try:
        network = ip_network(text, strict=False)
    except ValueError as error:
        raise InvalidParameter(f"invalid network config:\ninvalid subnet {text}") from error
    # The translation has let IPv6 pass in any of its spellings.
    if network.version == 4 and str(network) != text:
        raise InvalidParameter(
            f"invalid network config:\ninvalid subnet {text}: it should be {network}"
        )
    if network.prefixlen > network.max_prefixlen - 2:
        raise InvalidParameter(
            f"invalid network config:\ninvalid subnet {text}: no room for a gateway and a zone"
        )
    first, last = int(network.network_address), int(network.broadcast_address)
    if Ranges(used).end_of_overlap(first, last) is not None:
        raise Forbidden("invalid pool request: Pool overlaps with other one on this address space")
    return network


def _range(text: str, network: AnyNetwork) -> str:
    if not text:
        return ""
    try:
        inner = ip_network(text, strict=False)
    except ValueError as error:
        raise InvalidParameter(f"invalid network config:\ninvalid ip-range {text}") from error
    within = inner.version == network.version and (
        inner.network_address in network and inner.broadcast_address in network
    )
    if not within:
        raise InvalidParameter(
            f"invalid network config:\ninvalid ip-range {text}: parent subnet is {network}"
        )
    return str(inner)


class StubNetworks:
    """Makes and unmakes them.  One call at a time: the caller's lock."""

    def __init__(
        self,
        instance: str,
        *,
        tags: NicTags,
        egress: Egress,
        firewall: Firewall,
        records: NetworkRecords,
    ) -> None:
        self._instance = instance
        self._tags = tags
        self._egress = egress
        self._firewall = firewall
        self._records = records

    def leads_out(self, record: Record) -> bool:
        """Whether zones on it reach outside."""
        return bool(record.stub and self._egress.nic) and not record.asked_internal

    async def make(self, record: Record) -> Record:
        """Everything is there on return; on failure nothing of it is, also after a kill and `sweep`."""
        self._records.put(record, ready=False)
        try:
            await self._raise(record)
        except BaseException:
            # If this fails as well, the record stays as it is and the next start tries again.
            await self._fell(record)
            raise
        return self._records.put(record, ready=True)

    async def unmake(self, record: Record) -> None:
        """Nothing of it is there on return.  Forbidden while a zone, running or not, has a nic on it."""
        # Whoever has a nic on a tag that was there before may keep it.
        zones = await self._tags.zones(record.stub) if record.stub else ()
        if zones:
            raise Forbidden(
                f"error while removing network: network {record.name} id {record.id} has active endpoints",
                detail=f"zones {', '.join(zones)}",
            )
        if record.stub and await self._egress.plugged(record.own):
            raise Forbidden(
                f"error while removing network: network {record.name} id {record.id} has active endpoints"
                " (a container that has left it has its nic until its next start)"
            )
        await self._fell(self._records.put(record, ready=False))

    async def sweep(self) -> list[str]:
        """At start.  What could not be put right, for the admin; the rest works."""
        problems: list[str] = []
        known = {record.stub for record in self._records.all()}
        try:
            # Of a nic that is the egress nic no more: before another takes its place in the records.
            await self._settle_forwarding()
        except APIError as error:
            problems.append(f"forwarding: {error.message}")
        for record in self._records.all():
            if record.is_configuration:
                continue
            try:
                if record.ready:
                    await self._raise(record)
                else:
                    await self._fell(record)
            except APIError as error:
                problems.append(f"network {record.name}: {error.message}")
        try:
            for tag in await self._tags.list():
                if is_ours(self._instance, tag) and tag not in known:
                    await self._remove_stray(tag)
        except APIError as error:
            problems.append(f"etherstubs of networks that are gone: {error.message}")
        return problems

    async def _remove_stray(self, tag: str) -> None:
        log.warning("etherstub %s belongs to no network that is known and is removed", tag)
        for name, over in (await self._egress.vnics()).items():
            # Vnics of zones are their own business: nictagadm refuses then.
            if over == tag and name == tag.removesuffix("_0") + "_gw0":
                await self._egress.unplumb(name)
        await self._tags.delete(tag)

    async def _raise(self, record: Record) -> None:
        if record.stub:
            await self._plumb(record)
        await self._firewall.ensure(network_rules(self._instance, uuid_of(record.id)))

    async def _plumb(self, record: Record) -> None:
        await self._tags.add_etherstub(record.stub)
        if not record.asked_internal:
            await self._egress.plumb(record.own)
        leads_out = self.leads_out(record)
        await self._egress.shut(record.network, but=self._egress.nic if leads_out else "")
        if leads_out:
            await self._note_forwarding()
            try:
                await self._egress.open(record.own)
            except APIError:
                await self._forget_forwarding()
                raise

    async def _note_forwarding(self) -> None:
        """Before it begins: after a kill in between it would be nobody's to end."""
        if self._records.forwarding != self._egress.nic and not await self._egress.forwards():
            self._records.forwarding = self._egress.nic
            self._records.write()

    async def _forget_forwarding(self) -> None:
        """It did not begin: should the administrator turn it on himself, it is not ours to end."""
        if not await self._egress.forwards():
            self._records.forwarding = ""
            self._records.write()

    async def _fell(self, record: Record) -> None:
        if record.is_configuration:
            self._records.drop(record)
            return
        await self._firewall.remove(network_rules(self._instance, uuid_of(record.id)))
        if record.stub:
            await self._egress.shut(record.network)
            await self._egress.unplumb(record.vnic)
            await self._tags.delete(record.stub)
        self._records.drop(record)
        await self._settle_forwarding()

    async def _settle_forwarding(self) -> None:
        """Forwarding that we began on a nic ends when no network leaves by it any more."""
        begun = self._records.forwarding
        leaving = any(self.leads_out(record) for record in self._records.ready())
        if begun and (begun != self._egress.nic or not leaving):
            await self._egress.stop_forwarding(begun)
            self._records.forwarding = ""
            self._records.write()
