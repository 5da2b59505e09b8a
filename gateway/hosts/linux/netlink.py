"""Routing netlink by hand: the few messages that bridges, veth pairs and namespaces need.

    nlmsghdr  length:u32 type:u16 flags:u16 seq:u32 port:u32 | fixed header | attributes (length:u16 type:u16 value, padded to 4)

The builders are pure; `RouteSocket` sends a batch in one call and reads one acknowledgement each.  A
namespace with veth, address and route costs 2-3 ms this way; a netlink library took 7-70 ms, mostly
for making sockets and looking up indexes.  What to send when is network.py's.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_interface,
    ip_network,
)

_ACK, _REQUEST, _DUMP = 0x4, 0x1, 0x300
_REPLACE, _EXCLUSIVE, _CREATE = 0x100, 0x200, 0x400
_ERROR, _DONE = 2, 3
_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _DELROUTE, _GETROUTE, _NEWNEIGH = 24, 25, 26, 28
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER, _IFLA_LINKINFO = (
    1,
    3,
    4,
    5,
    10,
    18,
)
_IFLA_IFALIAS, _IFLA_AF_SPEC, _IFLA_NET_NS_FD = 20, 26, 28
_KIND, _DATA, _SLAVE_KIND, _SLAVE_DATA = 1, 2, 4, 5
_VETH_PEER, _BRPORT_MODE, _BRPORT_ISOLATED, _VLAN_ID, _NODAD = 1, 4, 33, 1, 0x02
_INET6_ADDR_GEN_MODE, _ADDR_GEN_NONE = 8, 1
_INET_CONF, _ROUTE_LOCALNET = 1, 26
_IFF_UP = 1
SOL_NETLINK, CAP_ACK, _EXT_ACK, _STRICT = 270, 10, 11, 12
_TABLE_MAIN = 254
MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}
IPVLAN_FLAGS = {"bridge": 0, "private": 1, "vepa": 2}

Interface = IPv4Interface | IPv6Interface


class NetlinkError(OSError):
    """The kernel refused a message; `errno` and what was asked for."""

    def __init__(self, number: int, what: str, explanation: str = "") -> None:
        super().__init__(number, f"{what}: {explanation or os.strerror(number)}")


@dataclass(frozen=True, slots=True)
class Message:
    """One request.  `what` names it in errors."""

    kind: int
    flags: int
    body: bytes
    what: str


@dataclass(frozen=True, slots=True)
class Link:
    """An interface as the kernel lists it; `alias` is free text, by which we know our own."""

    index: int
    name: str
    kind: str
    alias: str
    up: bool
    mtu: int


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded; of every family of netlink."""
    return struct.pack("HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("I", value))


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _link_header(index: int = 0, *, up: bool = False) -> bytes:
    flags = _IFF_UP if up else 0
    return struct.pack("BxHiII", socket.AF_UNSPEC, 0, index, flags, flags)


def new_bridge(name: str, mac: str) -> Message:
    """A bridge that is down.  With a MAC of its own: else it takes the lowest of its ports', and
    every zone that comes or goes would invalidate the neighbours' caches."""
    body = _link_header() + _text(_IFLA_IFNAME, name) + attribute(_IFLA_ADDRESS, _mac(mac))
    body += attribute(_IFLA_LINKINFO, _text(_KIND, "bridge"))
    return Message(_NEWLINK, _CREATE | _EXCLUSIVE, body, f"create bridge {name}")


def new_veth(
    name: str, *, index: int, bridge: int, netns_fd: int, peer: str, peer_index: int, mac: str,
    mtu: int | None,
) -> Message:  # fmt: skip
    """A pair: `name` here as a port of `bridge` (0: of none), `peer` in the other namespace.

    The indexes are ours to choose, which saves looking them up; the kernel honours the peer's only if
    it was given both.
    """
    size = _number(_IFLA_MTU, mtu) if mtu else b""
    inner = _link_header(peer_index) + _text(_IFLA_IFNAME, peer)
    inner += attribute(_IFLA_ADDRESS, _mac(mac)) + _number(_IFLA_NET_NS_FD, netns_fd) + size
    info = _text(_KIND, "veth") + attribute(_DATA, attribute(_VETH_PEER, inner))
    body = _link_header(index) + _text(_IFLA_IFNAME, name) + _number(_IFLA_MASTER, bridge) + size
    body += attribute(_IFLA_LINKINFO, info)
    return Message(_NEWLINK, _CREATE | _EXCLUSIVE, body, f"create veth {name}")


def new_on_parent(
    kind: str, mode: int, flags: int, *, parent: int, name: str, index: int, netns_fd: int,
    mac: str, mtu: int | None,
) -> Message:  # fmt: skip
    """A macvlan or ipvlan of `parent`, which is here, in the other namespace.  `flags` are ipvlan's.

    An ipvlan has its parent's MAC: `mac` is passed over.
    """
    body = _link_header(index) + _text(_IFLA_IFNAME, name) + _number(_IFLA_LINK, parent)
    body += _number(_IFLA_NET_NS_FD, netns_fd) + (_number(_IFLA_MTU, mtu) if mtu else b"")
    if kind == "macvlan":
        body += attribute(_IFLA_ADDRESS, _mac(mac))
        data = _number(1, mode)
    else:
        data = attribute(1, struct.pack("H", mode)) + attribute(2, struct.pack("H", flags))
    body += attribute(_IFLA_LINKINFO, _text(_KIND, kind) + attribute(_DATA, data))
    return Message(_NEWLINK, _CREATE | _EXCLUSIVE, body, f"create {kind} {name}")


def new_vlan(name: str, parent: int, vlan: int) -> Message:
    """NAME.N: the packets of one VLAN of `parent`."""
    body = _link_header() + _text(_IFLA_IFNAME, name) + _number(_IFLA_LINK, parent)
    data = attribute(_VLAN_ID, struct.pack("H", vlan))
    body += attribute(_IFLA_LINKINFO, _text(_KIND, "vlan") + attribute(_DATA, data))
    return Message(_NEWLINK, _CREATE | _EXCLUSIVE, body, f"create vlan {name}")


def new_dummy(name: str) -> Message:
    """An interface that leads nowhere, for zones that are to reach each other alone."""
    body = _link_header() + _text(_IFLA_IFNAME, name)
    body += attribute(_IFLA_LINKINFO, _text(_KIND, "dummy"))
    return Message(_NEWLINK, _CREATE | _EXCLUSIVE, body, f"create dummy {name}")


def set_mtu(index: int, mtu: int) -> Message:
    """Of an interface that is there."""
    body = _link_header(index) + _number(_IFLA_MTU, mtu)
    return Message(_NEWLINK, 0, body, f"set mtu {mtu}")


def bridge_port_up(index: int, *, alias: str, ipv6: bool, isolated: bool = False) -> Message:
    """Bring a port up: hairpin on, so that a zone reaches itself by its published port even where bridged
    packets pass netfilter; no link-local address, which would only make noise on the bridge.

    Isolated ports reach the bridge's own address and not each other.
    """
    slave = attribute(_BRPORT_MODE, b"\1")
    if isolated:
        slave += attribute(_BRPORT_ISOLATED, b"\1")
    body = _link_header(index, up=True) + _text(_IFLA_IFALIAS, alias)
    info = _text(_SLAVE_KIND, "bridge") + attribute(_SLAVE_DATA, slave)
    body += attribute(_IFLA_LINKINFO, info)
    if ipv6:
        mode = attribute(_INET6_ADDR_GEN_MODE, bytes([_ADDR_GEN_NONE]))
        body += attribute(_IFLA_AF_SPEC, attribute(socket.AF_INET6, mode))
    return Message(_NEWLINK, 0, body, f"set up bridge port {index}")


def link_up(index: int) -> Message:
    """Bring an interface up."""
    return Message(_NEWLINK, 0, _link_header(index, up=True), f"bring up interface {index}")


def let_localnet_in(index: int) -> Message:
    """Else the machine drops what 127.0.0.1 sends to a zone by a published port: sysctl route_localnet of the interface.

    By its path in /proc/sys it is looked up among the same names of all network namespaces there are.
    """
    settings = attribute(_INET_CONF, _number(_ROUTE_LOCALNET, 1))
    body = _link_header(index) + attribute(_IFLA_AF_SPEC, attribute(socket.AF_INET, settings))
    return Message(_NEWLINK, 0, body, f"set route_localnet of interface {index}")


def set_alias(index: int, alias: str) -> Message:
    """Write our mark on an interface."""
    body = _link_header(index) + _text(_IFLA_IFALIAS, alias)
    return Message(_NEWLINK, 0, body, f"mark interface {index}")


def delete_link(index: int) -> Message:
    """Remove an interface.  Waits for an RCU grace period (15-20 ms for a veth): not for the hot path."""
    return Message(_DELLINK, 0, _link_header(index), f"delete interface {index}")


def add_address(index: int, address: Interface) -> Message:
    """An address with its prefix and broadcast address; of IPv6 at once, nobody else can have it."""
    body = _address(index, address)
    if address.version == 4:
        body += attribute(4, address.network.broadcast_address.packed)
    return Message(_NEWADDR, _CREATE | _EXCLUSIVE, body, f"add address {address}")


def delete_address(index: int, address: Interface) -> Message:
    """Take an address away."""
    return Message(_DELADDR, 0, _address(index, address), f"delete address {address}")


def _address(index: int, address: Interface) -> bytes:
    raw, flags = address.ip.packed, 0 if address.version == 4 else _NODAD
    head = struct.pack("BBBBI", _family(address), address.network.prefixlen, flags, 0, index)
    return head + attribute(2, raw) + attribute(1, raw)


def _family(address: Interface | IPv4Address | IPv6Address) -> int:
    return int(socket.AF_INET if address.version == 4 else socket.AF_INET6)


def default_route(
    gateway: IPv4Address | IPv6Address | None, index: int, family: int = 4
) -> Message:
    """Everything else by `gateway`; None: straight from the interface, in the version of IP `family`.

    It takes the place of the one before.
    """
    number = (
        _family(gateway) if gateway else int(socket.AF_INET if family == 4 else socket.AF_INET6)
    )
    scope = 0 if gateway else 253
    head = struct.pack("BBBBBBBBI", number, 0, 0, 0, _TABLE_MAIN, 3, scope, 1, 0)
    body = head + (attribute(5, gateway.packed) if gateway else b"") + _number(4, index)
    return Message(_NEWROUTE, _CREATE | _REPLACE, body, f"add default route by {gateway}")


def no_default_route(version: int) -> Message:
    """Nothing else is reached any more."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    head = struct.pack("BBBBBBBBI", family, 0, 0, 0, _TABLE_MAIN, 0, 255, 0, 0)
    return Message(_DELROUTE, 0, head, "delete default route")


def forwarding_entry(port: int, mac: str) -> Message:
    """Tell the bridge behind which port a MAC is, at once.

    A zone that was restarted keeps its MAC while its former port lives on for up to 0.3 s: without
    this the first packets to it go to the dead port, and a TCP client waits a second for its retry.
    """
    head = struct.pack("BxxxiHBB", socket.AF_BRIDGE, port, 0x40, 0x04, 0)
    body = head + attribute(2, _mac(mac))
    return Message(_NEWNEIGH, _CREATE | _REPLACE, body, f"add forwarding entry {mac}")


class RouteSocket:
    """NETLINK_ROUTE of the namespace in which it was made.  Blocking; for one thread at a time."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.setsockopt(SOL_NETLINK, CAP_ACK, 1)
        self._socket.setsockopt(SOL_NETLINK, _EXT_ACK, 1)
        self._socket.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        """Let go of the socket, and of its namespace with it."""
        self._socket.close()

    def execute(self, *messages: Message) -> None:
        """Send all at once; the kernel works through all of them.  NetlinkError of the first that failed."""
        first = self._sequence + 1
        self._socket.send(b"".join(self._pack(m, _REQUEST | _ACK | m.flags) for m in messages))
        failure: NetlinkError | None = None
        missing = set(range(first, first + len(messages)))
        while missing:
            for kind, sequence, flags, body in split(self._socket.recv(65536)):
                if kind != _ERROR or sequence not in missing:
                    continue
                missing.discard(sequence)
                code = -struct.unpack_from("i", body)[0]
                if code and failure is None:
                    failure = NetlinkError(
                        code, messages[sequence - first].what, _explanation(flags, body)
                    )
        if failure is not None:
            raise failure

    def _pack(self, message: Message, flags: int) -> bytes:
        self._sequence += 1
        length = 16 + len(message.body)
        head = struct.pack("IHHII", length, message.kind, flags, self._sequence, 0)
        return head + message.body + b"\0" * (-length % 4)

    def _dump(self, kind: int, header: bytes) -> Iterator[bytes]:
        self._socket.send(self._pack(Message(kind, 0, header, "dump"), _REQUEST | _DUMP))
        while True:
            for answer, sequence, _, body in split(self._socket.recv(1 << 18)):
                if sequence != self._sequence:
                    continue
                if answer == _DONE:
                    return
                if answer == _ERROR:
                    raise NetlinkError(-struct.unpack_from("i", body)[0], "dump")
                yield body

    def links(self) -> list[Link]:
        """All interfaces."""
        return [_link(body) for body in self._dump(_GETLINK, _link_header())]

    def addresses(self) -> list[tuple[int, IPv4Interface]]:
        """Interface index and IPv4 address of every interface."""
        found = self._addresses(socket.AF_INET)
        return [(index, one) for index, one in found if isinstance(one, IPv4Interface)]

    def addresses6(self) -> list[tuple[int, IPv6Interface]]:
        """Of IPv6, link-local ones included."""
        found = self._addresses(socket.AF_INET6)
        return [(index, one) for index, one in found if isinstance(one, IPv6Interface)]

    def _addresses(self, family: int) -> list[tuple[int, Interface]]:
        found: list[tuple[int, Interface]] = []
        for body in self._dump(_GETADDR, struct.pack("BBBBI", family, 0, 0, 0, 0)):
            prefix, index = body[1], struct.unpack_from("I", body, 4)[0]
            values = dict(attributes(body[8:]))
            if raw := values.get(2) or values.get(1):
                found.append((index, _interface(raw, prefix)))
        return found

    def link(self, name: str) -> Link | None:
        """One interface by name, without a look at the others."""
        body = _link_header() + _text(_IFLA_IFNAME, name)
        self._socket.send(self._pack(Message(_GETLINK, 0, body, f"look up {name}"), _REQUEST))
        while True:
            for kind, sequence, _, answer in split(self._socket.recv(65536)):
                if sequence != self._sequence:
                    continue
                if kind == _NEWLINK:
                    return _link(answer)
                if kind == _ERROR:
                    number = -struct.unpack_from("i", answer)[0]
                    if number == errno.ENODEV:
                        return None
                    raise NetlinkError(number, f"look up {name}")

    def index_of(self, name: str) -> int:
        """Of an interface of this socket's namespace; 0 if there is none."""
        link = self.link(name)
        return link.index if link else 0

    def routes(self) -> list[tuple[int, IPv4Network]]:
        """Interface index and destination of every IPv4 route of the main table, default routes left out."""
        found = self._routes(socket.AF_INET)
        return [(index, one) for index, one in found if isinstance(one, IPv4Network)]

    def routes6(self) -> list[tuple[int, IPv6Network]]:
        """Of IPv6."""
        found = self._routes(socket.AF_INET6)
        return [(index, one) for index, one in found if isinstance(one, IPv6Network)]

    def _routes(self, family: int) -> list[tuple[int, IPv4Network | IPv6Network]]:
        found: list[tuple[int, IPv4Network | IPv6Network]] = []
        for body in self._main_routes(family):
            length, table = body[1], body[4]
            if table != _TABLE_MAIN or not length:
                continue
            values = dict(attributes(body[12:]))
            if raw := values.get(1):
                index = struct.unpack("I", values[4])[0] if 4 in values else 0
                found.append((index, _destination(raw, length)))
        return found

    def _main_routes(self, family: int) -> list[bytes]:
        """Of the main table alone where the kernel can tell (since 4.20): each address has three in another."""
        head = struct.pack("BBBBBBBBI", family, 0, 0, 0, _TABLE_MAIN, 0, 0, 0, 0)
        with suppress(OSError):
            self._socket.setsockopt(SOL_NETLINK, _STRICT, 1)
        try:
            return list(self._dump(_GETROUTE, head))
        except NetlinkError as error:
            if error.errno == errno.ENOENT:
                return []  # no route was ever made: there is no such table
            raise
        finally:
            with suppress(OSError):
                self._socket.setsockopt(SOL_NETLINK, _STRICT, 0)


# With a hundred networks the same ones are read again and again: to make one of these takes longer than to read it.
@lru_cache(maxsize=4096)
def _interface(raw: bytes, prefix: int) -> Interface:
    return ip_interface((raw, prefix))


@lru_cache(maxsize=4096)
def _destination(raw: bytes, prefix: int) -> IPv4Network | IPv6Network:
    return ip_network((raw, prefix), strict=False)


def split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(type, sequence, flags, body) of every message that came in one read."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind, flags, sequence = struct.unpack_from("IHHI", data, offset)
        yield kind, sequence, flags, data[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def attributes(data: bytes) -> Iterable[tuple[int, bytes]]:
    """(type, value) of one attribute after the other; nested ones are taken apart by another call."""
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("HH", data, offset)
        if length < 4:
            return
        yield kind & 0x3FFF, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def _explanation(flags: int, body: bytes) -> str:
    """The kernel's own sentence (NLMSGERR_ATTR_MSG), if it gave one."""
    if not flags & 0x200:
        return ""
    return _string(dict(attributes(body[20:])).get(1, b""))


def _string(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")


def _link(body: bytes) -> Link:
    index, flags = struct.unpack_from("iI", body, 4)
    values = dict(attributes(body[16:]))
    info = dict(attributes(values.get(_IFLA_LINKINFO, b"")))
    return Link(
        index=index,
        name=_string(values.get(_IFLA_IFNAME, b"")),
        kind=_string(info.get(_KIND, b"")),
        alias=_string(values.get(_IFLA_IFALIAS, b"")),
        up=bool(flags & _IFF_UP),
        mtu=int.from_bytes(values.get(_IFLA_MTU, b""), sys.byteorder),
    )


def is_no_route(error: OSError) -> bool:
    """Whether there was no route to delete, or no such version of IP."""
    return error.errno in (errno.ESRCH, errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.ENOENT)


def first_by_name(links: Sequence[Link], name: str) -> Link | None:
    """The interface of that name."""
    return next((link for link in links if link.name == name), None)
