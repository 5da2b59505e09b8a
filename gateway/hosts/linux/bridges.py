"""The bridge of a network: found or made, with an address that collides with nothing on the machine.

A bridge that we made carries our mark as its alias; only such a one is removed again.
"""

from __future__ import annotations

import errno
import logging
import secrets
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network, IPv6Network
from pathlib import Path

from dockerapi.errors import InvalidParameter, Unavailable
from gateway.hosts.ipam import choose_subnet, mac_of, parse_bip
from gateway.hosts.linux import netlink
from gateway.settings import AddressPool

log = logging.getLogger(__name__)

_LOCK = "\0zonegate/address-pools"
_LOCK_TIMEOUT_S = 10.0
_NAME_MAX = 15


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge that is up; `address` is the gateway of its zones."""

    name: str
    index: int
    address: IPv4Interface
    mtu: int


def open_bridge(
    route: netlink.RouteSocket, *, name: str, mark: str, bip: str, pools: Sequence[AddressPool],
    former: IPv4Interface | None,
) -> Bridge:  # fmt: skip
    """The bridge, up and with an address: `bip`, else its own, else `former`, else free one of the pools.

    InvalidParameter: `name` is no bridge, or has another address than `bip`.
    """
    if len(name) > _NAME_MAX or "/" in name or any(c.isspace() or c == '"' for c in name):
        raise InvalidParameter(f"invalid bridge name {name}")
    wanted = parse_bip(bip) if bip else None
    with _choosing():
        link = netlink.first_by_name(route.links(), name)
        if link is not None and link.kind != "bridge":
            raise InvalidParameter(f"interface {name} is there and is no bridge")
        present = [a for i, a in route.addresses() if link is not None and i == link.index]
        if link is None and former is not None and _collides(former, taken(route)):
            log.warning(
                "subnet %s of bridge %s was taken by others meanwhile", former.network, name
            )
            former = None
        address = _address(name, wanted, present, former, ours=bool(link and link.alias == mark))
        if address is None:
            network = choose_subnet(pools, taken(route))
            address = IPv4Interface((next(network.hosts()), network.prefixlen))
        if link is None:
            route.execute(netlink.new_bridge(name, mac_of(address.ip)))
        index = socket.if_nametoindex(name)
        try:
            if link is None:
                route.execute(netlink.set_alias(index, mark))
            if address not in present:
                # Only our own bridge gets this far with addresses: those of another bip.
                for old in present:
                    route.execute(netlink.delete_address(index, old))
                route.execute(netlink.add_address(index, address))
            route.execute(netlink.link_up(index))
            # Else the machine drops what 127.0.0.1 sends to a zone by a published port.
            write_sysctl(f"net/ipv4/conf/{name}/route_localnet", "1")
        except BaseException:
            if link is None:
                route.execute(netlink.delete_link(index))
            raise
    return Bridge(name, index, address, link.mtu if link is not None else 1500)


def raise_bridge(
    route: netlink.RouteSocket, *, name: str, mark: str, addresses: Sequence[netlink.Interface],
    mtu: int | None,
) -> int:  # fmt: skip
    """A user network's bridge is there and up with these addresses; its index.

    Somebody's own bridge is taken as it is, and gets the addresses.  InvalidParameter if `name` is no bridge.
    """
    if (
        len(name) > _NAME_MAX
        or not name
        or "/" in name
        or any(c.isspace() or c == '"' for c in name)
    ):
        raise InvalidParameter(f"invalid bridge name {name}")
    link = route.link(name)
    if link is not None and link.kind != "bridge":
        raise InvalidParameter(f"interface {name} is there and is no bridge")
    if link is None:
        first = next((a.ip for a in addresses if isinstance(a, IPv4Interface)), None)
        route.execute(netlink.new_bridge(name, mac_of(first) if first else random_mac()))
    index = link.index if link else socket.if_nametoindex(name)
    try:
        is_ours = link is None or link.alias == mark
        _furnish(route, name, index, addresses, mtu if is_ours else None, is_old=link is not None)
        if link is None:
            route.execute(netlink.set_alias(index, mark))
        route.execute(netlink.link_up(index))
    except BaseException:
        if link is None:
            route.execute(netlink.delete_link(index))
        raise
    return index


def _furnish(
    route: netlink.RouteSocket, name: str, index: int, addresses: Sequence[netlink.Interface],
    mtu: int | None, *, is_old: bool,
) -> None:  # fmt: skip
    if mtu is not None:
        route.execute(netlink.set_mtu(index, mtu))
    present = [*route.addresses(), *route.addresses6()] if is_old else []
    if any(a.version == 6 for a in addresses):
        write_sysctl(f"net/ipv6/conf/{name}/accept_ra", "0")
        # Else the bridge has no link-local address for two seconds, and looks for no neighbours: nobody is forwarded to.
        write_sysctl(f"net/ipv6/conf/{name}/accept_dad", "0")
        write_sysctl(f"net/ipv6/conf/{name}/disable_ipv6", "0")
        write_sysctl("net/ipv6/conf/all/forwarding", "1")
    for address in addresses:
        if (index, address) not in present:
            route.execute(netlink.add_address(index, address))
    route.execute(netlink.let_localnet_in(index))


def random_mac() -> str:
    """Locally administered."""
    return "02:42:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(4))


def taken6(route: netlink.RouteSocket) -> list[IPv6Network]:
    """IPv6 networks that the machine knows a way to, link-local ones left out."""
    found = [n for _, n in route.routes6()] + [a.network for _, a in route.addresses6()]
    return [network for network in found if not network.is_link_local and not network.is_multicast]


def taken(route: netlink.RouteSocket) -> list[IPv4Network]:
    """Networks that the machine knows a way to."""
    return [n for _, n in route.routes()] + [a.network for _, a in route.addresses()]


def _collides(address: IPv4Interface, taken: Sequence[IPv4Network]) -> bool:
    return any(address.network.overlaps(network) for network in taken)


def _address(
    name: str, wanted: IPv4Interface | None, present: Sequence[IPv4Interface],
    former: IPv4Interface | None, *, ours: bool,
) -> IPv4Interface | None:  # fmt: skip
    """Which address the bridge is to have; None = choose."""
    if wanted is not None:
        if present and wanted not in present and not ours:
            raise InvalidParameter(f"bridge {name} has address {present[0]}, and bip is {wanted}")
        return wanted
    if present:
        return former if former in present else present[0]
    return former


@contextmanager
def _choosing() -> Iterator[None]:
    """One instance at a time looks for a free subnet.  An abstract socket is per network
    namespace, as addresses are, and cannot be left behind."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as lock:
        deadline = time.monotonic() + _LOCK_TIMEOUT_S
        while True:
            try:
                lock.bind(_LOCK)
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                if time.monotonic() > deadline:
                    raise Unavailable(
                        "another instance has been choosing its subnet for ten seconds"
                    ) from error
                time.sleep(0.01)
        yield


def remove_bridge(route: netlink.RouteSocket, bridge: Bridge, mark: str) -> None:
    """Remove it if we made it."""
    link = netlink.first_by_name(route.links(), bridge.name)
    if link is not None and link.alias == mark:
        route.execute(netlink.delete_link(link.index))


def write_sysctl(name: str, value: str) -> None:
    """Set a sysctl (as a path) unless it has the value already: /proc/sys may be read-only then."""
    file = Path("/proc/sys") / name
    if file.read_text().strip() != value:
        file.write_text(value)
