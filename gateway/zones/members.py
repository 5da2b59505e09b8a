"""Who is on a network: running zones with the names and addresses that they have there.  Pure; name servers ask it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface

from gateway.zones.host import Network, Zone
from gateway.zones.metadata import Endpoint
from gateway.zones.spec import Nic

_NO_ENDPOINT = Endpoint()


@dataclass(frozen=True, slots=True)
class Member:
    """A zone on a network.  `names` as inspect's DNSNames: its name, aliases, short id, host name."""

    zone: Zone
    nic: Nic
    endpoint: Endpoint
    names: tuple[str, ...]

    @property
    def addresses(self) -> tuple[IPv4Interface | IPv6Interface, ...]:
        """IPv4 first."""
        found = (ipv4(self.nic), ipv6(self.nic))
        return tuple(address for address in found if address is not None)


def network_uuid(network_id: str) -> str:
    """The network_uuid that nics on this network carry."""
    digits = network_id[:32]
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def nic_on(zone: Zone, network: Network) -> Nic | None:
    """Its nic there."""
    uuid = network_uuid(network.id)
    return next((nic for nic in zone.spec.nics if nic.network_uuid == uuid), None)


def endpoint_on(zone: Zone, network: Network) -> Endpoint:
    """What it asked for there."""
    return zone.metadata.runtime.endpoints.get(network_uuid(network.id), _NO_ENDPOINT)


def dns_names(zone: Zone, aliases: Iterable[str]) -> tuple[str, ...]:
    """In dockerd's order, each once."""
    names = [zone.spec.alias, *aliases, zone.metadata.id[:12], zone.spec.hostname or ""]
    return tuple(dict.fromkeys(name for name in names if name))


def members(network: Network, zones: Iterable[Zone]) -> Iterator[Member]:
    """Running zones with a nic there."""
    for zone in zones:
        nic = nic_on(zone, network) if zone.is_running else None
        if nic is not None:
            endpoint = endpoint_on(zone, network)
            yield Member(zone, nic, endpoint, dns_names(zone, endpoint.aliases))


def ipv4(nic: Nic) -> IPv4Interface | None:
    """Its first IPv4 address: of `ip` and `netmask`, else of `ips`."""
    if nic.ip and nic.ip[:1].isdigit() and ":" not in nic.ip:
        return IPv4Interface(f"{nic.ip}/{nic.netmask or 32}")
    texts = [text for text in nic.ips or () if text[:1].isdigit() and ":" not in text]
    return IPv4Interface(texts[0]) if texts else None


def ipv6(nic: Nic) -> IPv6Interface | None:
    """Its first IPv6 address: of `ips`."""
    texts = [text for text in nic.ips or () if ":" in text]
    return IPv6Interface(texts[0]) if texts else None
