"""Who is called what on which user network, as the zones that run there say: the memory of the name server.

    name -> addresses     of a zone's own networks only; links of the asking zone first
    address -> name       with the name of the network behind it, as dockerd answers reverse queries

No I/O; whoever starts, stops, renames or connects a zone puts it in anew.  Wire format: dns.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from gateway.hosts.networks import of_nic
from gateway.zones import members
from gateway.zones.host import Network, Zone
from gateway.zones.spec import Nic, ZoneUUID

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Place:
    """A zone on a user network: `names` its own there, the container's first; `links` alias -> name, for it alone."""

    network: str
    """The network's id."""
    network_name: str
    addresses: tuple[Address, ...]
    names: tuple[str, ...]
    links: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    """What one zone that runs has: its places, and whom names of the world are asked for.

    `resolvers` () = the machine's; None = nobody: it is on internal networks only.  `domain` is what its own resolver
    puts behind a name first, where that cannot be kept from doing so.
    """

    places: tuple[Place, ...]
    resolvers: tuple[str, ...] | None = ()
    domain: str = ""


def is_named(network: Network) -> bool:
    """Whether containers have names on it: not on the default network, as in dockerd."""
    return network.plan is not None and bool(network.subnet or network.ipv6)


def entry_of(zone: Zone, networks: Sequence[Network]) -> Entry | None:
    """Of a zone as it is now; None if it does not run, or is on no user network."""
    if not zone.is_running:
        return None
    joined = [(nic, of_nic(networks, nic)) for nic in zone.spec.nics]
    places = tuple(
        _place(zone, nic, network) for nic, network in joined if network and is_named(network)
    )
    if not places:
        return None
    shut_in = all(network is None or network.internal for _, network in joined)
    return Entry(places, None if shut_in else tuple(zone.spec.resolvers or ()))


def _place(zone: Zone, nic: Nic, network: Network) -> Place:
    endpoint = members.endpoint_on(zone, network)
    found = (members.ipv4(nic), members.ipv6(nic))
    links = (link.partition(":") for link in endpoint.links)
    return Place(
        network=network.id,
        network_name=network.name,
        addresses=tuple(address.ip for address in found if address is not None),
        names=members.dns_names(zone, endpoint.aliases),
        links={(alias or name).lower(): name for name, _, alias in links},
    )


class NameBook:
    """All zones with names, by network.  For one thread."""

    def __init__(self) -> None:
        self._entries: dict[ZoneUUID, Entry] = {}
        self._names: dict[str, dict[str, dict[ZoneUUID, tuple[Address, ...]]]] = {}
        """Network -> lower-case name -> zone -> its addresses there."""
        self._reverse: dict[str, dict[Address, str]] = {}
        self._owners: dict[tuple[str, Address], ZoneUUID] = {}

    def __contains__(self, uuid: object) -> bool:
        return uuid in self._entries

    def put(self, uuid: ZoneUUID, entry: Entry) -> None:
        """What is known of a zone from now on."""
        if self._entries.get(uuid) == entry:
            return
        self.drop(uuid)
        self._entries[uuid] = entry
        for place in entry.places:
            names = self._names.setdefault(place.network, {})
            for name in place.names:
                names.setdefault(name.lower(), {})[uuid] = place.addresses
            self._owners |= {(place.network, address): uuid for address in place.addresses}
            back = self._reverse.setdefault(place.network, {})
            if place.names:
                whole = f"{place.names[0]}.{place.network_name}"
                back.update(dict.fromkeys(place.addresses, whole))

    def drop(self, uuid: ZoneUUID) -> None:
        """It has no names any more; none is fine."""
        entry = self._entries.pop(uuid, None)
        for place in entry.places if entry else ():
            names = self._names[place.network]
            for name in {name.lower() for name in place.names}:
                names[name].pop(uuid, None)
                if not names[name]:
                    del names[name]
            back = self._reverse[place.network]
            for address in place.addresses:
                # An address that was asked for may be another's by now.
                if self._owners.get((place.network, address)) == uuid:
                    del self._owners[place.network, address]
                    back.pop(address, None)
            if not names and not back:
                del self._names[place.network], self._reverse[place.network]

    def entry(self, uuid: ZoneUUID) -> Entry | None:
        """What was put last."""
        return self._entries.get(uuid)

    def owner(self, network: str, address: Address) -> ZoneUUID | None:
        """Who has this address on a network."""
        return self._owners.get((network, address))

    def resolvers(self, uuid: ZoneUUID) -> tuple[str, ...] | None:
        """See `Entry`; None for a zone that is not known."""
        entry = self._entries.get(uuid)
        return entry.resolvers if entry else None

    def is_single(self, asker: ZoneUUID, name: str) -> bool:
        """Whether a name is one word, with no more than the asker's domain behind it where that is `local`."""
        entry = self._entries.get(asker)
        if entry is not None and entry.domain == "local":
            name = name.lower().removesuffix(".local")
        return "." not in name

    def find(self, asker: ZoneUUID, name: str) -> Sequence[Address] | None:
        """Addresses of a name as this zone sees it, of all that share it; None = no such name here.

        `name` may have the network's behind it (db.backend), and both may have dots.
        """
        entry = self._entries.get(asker)
        if entry is None:
            return None
        name = name.lower()
        if entry.domain:
            name = name.removesuffix(f".{entry.domain.lower()}")
        for place in entry.places:
            found = self._on(place, name)
            if found is not None:
                return found
        for place in entry.places:
            own, _, _ = name.rpartition(f".{place.network_name.lower()}")
            if own and name == f"{own}.{place.network_name.lower()}":
                found = self._on(place, own)
                if found is not None:
                    return found
        return None

    def _on(self, place: Place, name: str) -> Sequence[Address] | None:
        names = self._names.get(place.network, {})
        linked = place.links.get(name)
        zones = names.get(linked.lower()) if linked else None
        zones = zones or names.get(name)
        if zones is None:
            return None
        return [address for addresses in zones.values() for address in addresses]

    def reverse(self, asker: ZoneUUID, address: Address) -> str | None:
        """`NAME.NETWORK` of an address on one of its networks."""
        entry = self._entries.get(asker)
        for place in entry.places if entry else ():
            found = self._reverse.get(place.network, {}).get(address)
            if found is not None:
                return found
        return None
