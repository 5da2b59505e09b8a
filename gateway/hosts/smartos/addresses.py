"""Which zone has which address: leases of this instance's networks, and the addresses that are others'.

Others are zones that are not ours, and the global zone itself: nobody gets theirs.  vmadm lets no two zones have one
address, running or not, while dockerd's containers have theirs only while they run.  So an address that was asked for
goes to who starts: a zone that is made beside the holder has no nic yet, and one that does not run loses its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from pathlib import Path

from dockerapi.errors import Forbidden, InvalidParameter
from gateway.hosts.ipam import LeaseBook, Span
from gateway.hosts.networks import of_nic, uuid_of
from gateway.zones.host import AddressRange, Network, NetworkRequest
from gateway.zones.members import ipv4, ipv6
from gateway.zones.spec import Nic, ZoneUUID

Address = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface
AnyNetwork = IPv4Network | IPv6Network


def addresses_of(nics: Iterable[Mapping[str, object]]) -> tuple[Address, ...]:
    """Of nics as `vmadm get` shows them: `ip`, `ips` with prefixes; dhcp and addrconf passed over."""
    found: dict[Address, None] = {}
    for nic in nics:
        several = nic.get("ips")
        texts = [nic.get("ip"), *(several if isinstance(several, list) else [])]
        for text in texts:
            try:
                found[ip_address(str(text).partition("/")[0])] = None
            except ValueError:
                continue
    return tuple(found)


def static(nic: Nic) -> tuple[Interface, ...]:
    """The static addresses of a nic of ours, at most one of each version."""
    return tuple(one for one in (ipv4(nic), ipv6(nic)) if one is not None)


class Addresses:
    """Of one instance.  `networks` is asked when needed."""

    def __init__(self, file: Path, networks: Callable[[], Sequence[Network]]) -> None:
        self._book = LeaseBook(file)
        self._networks = networks
        self._foreign: dict[str, tuple[Address, ...]] = {}
        self.own: tuple[Interface, ...] = ()
        """The global zone's."""
        self.runs: Callable[[ZoneUUID], bool | None] = lambda _: None
        """Whether a zone runs; None: there is no such zone yet."""

    # -- networks ----------------------------------------------------------------------------------

    def open(self, network_id: str, wanted: AddressRange, span: Span | None = None) -> None:
        """Lease from this range; `span`: first and last that are given out by choice, else those of `ip_range`."""
        inner = ip_network(wanted.ip_range) if wanted.ip_range else None
        if span is None and inner is not None:
            span = inner.network_address, inner.broadcast_address
        self._book.add_network(
            network_id,
            ip_network(wanted.subnet),
            ip_address(wanted.gateway) if wanted.gateway else None,
            span,
            [ip_address(text) for text in wanted.aux.values()],
        )
        self.reserve_others()

    def remove(self, network_id: str) -> None:
        """Nothing is leased from it any more."""
        self._book.remove_network(network_id)

    def taken(self) -> Sequence[AnyNetwork]:
        """Where others are: the global zone's networks, and addresses of zones that are not ours."""
        foreign = itertools.chain(*self._foreign.values())
        return [*(one.network for one in self.own), *(ip_network(address) for address in foreign)]

    # -- leases ------------------------------------------------------------------------------------

    def lease(
        self, uuid: ZoneUUID, network: Network, request: NetworkRequest
    ) -> tuple[Interface, ...]:
        """An address of each version that the network has, kept until `release`.

        InvalidParameter, Forbidden in dockerd's words; APIError if none is left.
        """
        wanted = (
            (network.subnet, request.address),
            (network.ipv6.subnet if network.ipv6 else "", request.address6),
        )
        if request.address6 and network.ipv6 is None:
            raise InvalidParameter(f"no configured subnet contains IP address {request.address6}")
        try:
            return tuple(
                self._lease(uuid, network, ip_network(subnet), asked)
                for subnet, asked in wanted
                if subnet
            )
        except BaseException:
            self._book.release(uuid, network.id)
            raise

    def _lease(
        self, uuid: ZoneUUID, network: Network, subnet: AnyNetwork, asked: str | None
    ) -> Interface:
        if asked:
            address: Address = ip_address(asked)
            if not self._may_take(uuid, network, address):
                raise Forbidden("Address already in use")
            self._book.lease_this(uuid, network.id, address)
        elif subnet.version == 4:
            address = self._book.lease(uuid, network.id, network.name)
        else:
            address = self._book.lease(uuid, network.id, network.name, 6)
        return ip_interface(f"{address}/{subnet.prefixlen}")

    def _may_take(self, uuid: ZoneUUID, network: Network, address: Address) -> bool:
        """One that is to be made cannot have what another has; one that is there may, if the others can give it up."""
        others = set(self._book.owners(network.id, address)) - {uuid}
        return not others or (self.runs(uuid) is not None and not any(map(self.runs, others)))

    def rivals(self, uuid: ZoneUUID, nics: Iterable[Nic]) -> Mapping[ZoneUUID, set[str]]:
        """Who else has an address of these nics, and on which networks (network_uuids): to be given up before vmadm
        takes the nics."""
        found: dict[ZoneUUID, set[str]] = {}
        for nic in nics:
            network = of_nic(self._networks(), nic)
            for one in static(nic) if network else ():
                for other in self._book.owners(network.id, one.ip) if network else ():
                    if other != uuid:
                        found.setdefault(other, set()).add(uuid_of(network.id if network else ""))
        return found

    def leased(self, network_id: str) -> Sequence[ZoneUUID]:
        """Zones, running or not, with a lease there."""
        return self._book.zones_on(network_id)

    def release(self, uuid: ZoneUUID, network_id: str | None = None) -> None:
        """Give back a zone's leases, all or of one network; none is fine."""
        self._book.release(uuid, network_id)

    def learn(self, uuid: ZoneUUID, nics: Iterable[Nic]) -> None:
        """A zone of ours that exists has these nics: their addresses are its own."""
        for nic in nics:
            network = of_nic(self._networks(), nic)
            if network is None:
                continue
            subnets = [network.subnet, network.ipv6.subnet if network.ipv6 else ""]
            for one in static(nic):
                if any(subnet and one.ip in ip_network(subnet) for subnet in subnets):
                    self._book.learn(uuid, network.id, one.ip)

    def settle(self) -> None:
        """Every zone has been learned: leases of others are given up."""
        self._book.forget_unlearned()
        # One of them may have been of an address that is somebody else's by now.
        self.reserve_others()

    # -- others ------------------------------------------------------------------------------------

    def reserve_others(self) -> None:
        """Of zones that are not ours, and of the global zone."""
        for address in (*(one.ip for one in self.own), *itertools.chain(*self._foreign.values())):
            self._book.reserve(address)

    def learn_foreign(self, uuid: str, nics: Iterable[Mapping[str, object]]) -> None:
        """A zone that is not ours has these nics (as in `vmadm get`) now: nobody gets their addresses."""
        addresses = addresses_of(nics)
        if self._foreign.get(uuid) == addresses:
            return
        self.forget_foreign(uuid)
        self._foreign[uuid] = addresses
        for address in addresses:
            self._book.reserve(address)

    def forget_foreign(self, uuid: str) -> None:
        """A zone that is not ours is gone; unknown is fine."""
        for address in self._foreign.pop(uuid, ()):
            if not any(address in others for others in self._foreign.values()):
                self._book.unreserve(address)

    def close(self) -> None:
        """Write what is not yet written."""
        self._book.close()
