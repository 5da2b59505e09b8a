"""A zone's nics in its namespace: a veth to a bridge, a macvlan or ipvlan of a parent; addresses and routes inside.

Works on one namespace at a time, for the worker thread.  Which nics a zone is to have is network.py's.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface, ip_network
from pathlib import Path

from dockerapi.errors import APIError, InvalidParameter, NotSupported
from gateway.hosts.ipam import mac_of
from gateway.hosts.linux import netlink, nft
from gateway.hosts.linux.bridges import random_mac
from gateway.hosts.linux.netns import Namespace, write_sysctls
from gateway.hosts.linux.rules import Rules
from gateway.hosts.linux.usernetworks import Way
from gateway.zones.members import ipv4, ipv6
from gateway.zones.metadata import Endpoint
from gateway.zones.spec import Nic, ZoneUUID

# A namespace may come with fallback tunnel devices (tunl0, sit0, gre0...) at 2, 3, ...: stay above them.
_FIRST_INDEX = 32
# Of our ends: drawn far above those the kernel gives out, so that two instances do not meet.
_LOWEST_OUTER_INDEX = 1 << 29
_SYSCTLS = "com.docker.network.endpoint.sysctls"
_NO_ENDPOINT = Endpoint()


@dataclass(frozen=True, slots=True)
class Plug:
    """A nic to be plugged in, with the network it is for."""

    nic: Nic
    way: Way
    endpoint: Endpoint = _NO_ENDPOINT


class Plugs:
    """Plugs nics in and out; remembers which port of a bridge is whose."""

    def __init__(self, route: netlink.RouteSocket, rules: Rules, mark: str) -> None:
        self._route = route
        self._rules = rules
        self._mark = mark
        self._ipv6 = Path("/proc/sys/net/ipv6").exists()
        self._ports: dict[ZoneUUID, dict[str, str]] = {}
        """Zone -> network_uuid -> name of our end."""

    def plug(self, uuid: ZoneUUID, plugs: Sequence[Plug], namespace: Namespace) -> None:
        """All of them or none."""
        senders: list[nft.Sender] = []
        done: list[Nic] = []
        try:
            for plug in plugs:
                senders += self._plug(uuid, plug, namespace)
                done.append(plug.nic)
            if senders:
                self._rules.add_senders(senders)
        except BaseException:
            self.unplug(uuid, done, namespace)
            raise

    def _plug(self, uuid: ZoneUUID, plug: Plug, namespace: Namespace) -> Sequence[nft.Sender]:
        addresses = (*check(plug), *link_local(plug))
        nic, way = plug.nic, plug.way
        mac = nic.mac or next((mac_of(a.ip) for a in addresses if a.version == 4), random_mac())
        inner = _known_index(nic.interface) or _FIRST_INDEX + 1000 + secrets.randbelow(1 << 20)
        port = ""
        if way.is_bridge:
            port = self._new_veth(uuid, plug, mac, inner, namespace)
        else:
            self._new_on_parent(plug, mac, inner, namespace)
        try:
            self._settle(plug, inner, addresses, namespace)
        except BaseException:
            self.unplug(uuid, [nic], namespace)
            raise
        if not port or not way.options.guarded:
            return ()
        return [nft.Sender(port, mac, tuple(a.ip for a in addresses))]

    def _settle(
        self, plug: Plug, inner: int, addresses: Sequence[netlink.Interface], namespace: Namespace
    ) -> None:
        """Up, with its addresses and sysctls."""
        nic = plug.nic
        if any(address.version == 6 for address in addresses):
            conf = f"ipv6/conf/{nic.interface}"
            write_sysctls(namespace.fd, {f"{conf}/disable_ipv6": "0", f"{conf}/accept_ra": "0"})
        namespace.route.execute(
            netlink.link_up(inner), *(netlink.add_address(inner, a) for a in addresses)
        )
        if sysctls := asked_sysctls(plug):
            try:
                write_sysctls(namespace.fd, sysctls)
            except OSError as error:
                raise InvalidParameter(f"cannot set sysctl: {error}") from error

    def _new_veth(
        self, uuid: ZoneUUID, plug: Plug, mac: str, inner: int, namespace: Namespace
    ) -> str:
        nic, way = plug.nic, plug.way
        outer = _LOWEST_OUTER_INDEX + secrets.randbelow(1 << 29)
        name = f"zg{outer:x}"
        messages = (
            netlink.new_veth(
                name, index=outer, bridge=way.index, netns_fd=namespace.fd, peer=nic.interface,
                peer_index=inner, mac=mac, mtu=nic.mtu or way.options.mtu,
            ),
            netlink.bridge_port_up(
                outer, alias=f"{self._mark} {uuid} {nic.network_uuid}", ipv6=self._ipv6,
                isolated=not way.options.connects,
            ),
            netlink.forwarding_entry(outer, mac),
        )  # fmt: skip
        try:
            self._route.execute(*messages)
        except netlink.NetlinkError:
            if self._route.link(name) is not None:
                self._route.execute(netlink.delete_link(outer))
            raise
        self._ports.setdefault(uuid, {})[nic.network_uuid or ""] = name
        return name

    def _new_on_parent(self, plug: Plug, mac: str, inner: int, namespace: Namespace) -> None:
        nic, way = plug.nic, plug.way
        parent = self._route.index_of(way.interface)
        if not parent:
            raise APIError(f"parent interface {way.interface} of {way.network.name} is not there")
        options = way.options
        self._route.execute(
            netlink.new_on_parent(
                options.driver, options.mode, options.flags, parent=parent, name=nic.interface,
                index=inner, netns_fd=namespace.fd, mac=mac, mtu=nic.mtu or options.mtu,
            )
        )  # fmt: skip

    def unplug(self, uuid: ZoneUUID, nics: Sequence[Nic], namespace: Namespace) -> None:
        """Out of a namespace that lives on; one that is not there is fine."""
        ports = self._ports.get(uuid, {})
        self._rules.remove_senders(
            [port for nic in nics if (port := ports.pop(nic.network_uuid or "", ""))]
        )
        for nic in nics:
            index = namespace.route.index_of(nic.interface)
            if index:
                namespace.route.execute(netlink.delete_link(index))

    def forget(self, uuid: ZoneUUID) -> None:
        """The namespace ends, and its nics with it."""
        ports = self._ports.pop(uuid, {})
        if ports:
            self._rules.remove_senders(ports.values())

    def take_over(self, uuid: ZoneUUID, plugs: Sequence[Plug], links: Mapping[str, str]) -> None:
        """Of a zone that lives since before this process; `links`: alias -> name.  Rules come by `Rules.make`."""
        for plug in plugs:
            nic = plug.nic
            name = links.get(f"{self._mark} {uuid} {nic.network_uuid}")
            if name is None or not plug.way.is_bridge:
                continue
            self._ports.setdefault(uuid, {})[nic.network_uuid or ""] = name
            settled = [a for a in (ipv4(nic), ipv6(nic)) if a is not None]
            found = tuple(a.ip for a in (*settled, *link_local(plug)))
            mac = nic.mac or next((mac_of(a) for a in found if isinstance(a, IPv4Address)), "")
            if plug.way.options.guarded and mac:
                self._rules.know_senders([nft.Sender(name, mac, found)])


def _known_index(interface: str) -> int:
    """In the zone: eth1 after eth0; 0 for other names."""
    digits = interface.removeprefix("eth")
    fits = interface != digits and digits.isdecimal() and len(digits) < 4
    return _FIRST_INDEX + int(digits) if fits else 0


def check(plug: Plug) -> tuple[netlink.Interface, ...]:
    """Addresses of a nic in its network.  NotSupported, InvalidParameter if it cannot be plugged in."""
    nic, network = plug.nic, plug.way.network
    if nic.vlan_id:
        raise NotSupported("vlan_id is not supported on a Linux host")
    found: list[netlink.Interface] = [a for a in (ipv4(nic), ipv6(nic)) if a is not None]
    if not found:
        raise InvalidParameter(f"nic {nic.interface} has no address")
    subnets = [network.subnet, network.ipv6.subnet if network.ipv6 else ""]
    placed = []
    for address in found:
        subnet = next((ip_network(s) for s in subnets if s and address.ip in ip_network(s)), None)
        if subnet is None:
            raise InvalidParameter(
                f"address {address.ip} is not in subnet {' '.join(filter(None, subnets))} of network"
                f" {network.name}, which has changed: create the container anew"
            )
        placed.append(type(address)((address.ip, subnet.prefixlen)))
    return tuple(placed)


def link_local(plug: Plug) -> tuple[netlink.Interface, ...]:
    """Addresses that the client gave the nic besides, which no network hands out.  InvalidParameter in dockerd's words."""
    found = []
    for text in plug.endpoint.link_local:
        address = ip_address(text)
        if not address.is_link_local:
            raise InvalidParameter(f"invalid link local IP address: {text}")
        found.append(ip_interface(f"{address}/{16 if address.version == 4 else 64}"))
    return tuple(found)


def asked_sysctls(plug: Plug) -> dict[str, str]:
    """Paths below net -> values, of an endpoint's net.ipv4.conf.IFNAME.key=value,..."""
    found = {}
    for text in filter(None, plug.endpoint.options.get(_SYSCTLS, "").split(",")):
        name, _, value = text.partition("=")
        words = name.strip().split(".", 4)
        if len(words) == 5:
            found[f"{words[1]}/{words[2]}/{plug.nic.interface}/{words[4]}"] = value
    return found


def routes(namespace: Namespace, plug: Plug | None, *, fresh: bool = False) -> None:
    """All else is reached by this nic's gateways; None: nothing is.  `fresh`: the namespace has no route yet."""
    if fresh and plug is None:
        return
    network = plug.way.network if plug else None
    index = (_known_index(plug.nic.interface) if fresh else 0) if plug else 0
    if plug and not index:
        index = namespace.route.index_of(plug.nic.interface)
    _route(
        namespace, 4, index, network.gateway if network and plug and ipv4(plug.nic) else "", plug
    )
    if fresh and (network is None or network.ipv6 is None):
        return
    six = network.ipv6 if network and plug and ipv6(plug.nic) else None
    _route(namespace, 6, index, six.gateway if six else "", plug)


def _route(namespace: Namespace, version: int, index: int, gateway: str, plug: Plug | None) -> None:
    on_link = plug is not None and plug.way.options.on_link
    try:
        if index and (gateway or (on_link and version == 4)):
            to: IPv4Address | IPv6Address | None = None if on_link else ip_address(gateway)
            namespace.route.execute(netlink.default_route(to, index, version))
        else:
            namespace.route.execute(netlink.no_default_route(version))
    except netlink.NetlinkError as error:
        if not netlink.is_no_route(error):
            raise
