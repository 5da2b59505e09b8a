"""Forgetting tracked UDP flows of a published port.

A UDP flow keeps the translation of its first packet: a client that spoke to the port before it was
published, or to the zone that had it before, would go on to nowhere until the entry times out.
"""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Set

log = logging.getLogger(__name__)

_NETLINK_NETFILTER = 12
_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2
_DUMP, _REQUEST, _ACK = 0x300, 0x1, 0x4
_ERROR, _DONE = 2, 3
_TUPLE_ORIG, _TUPLE_PROTO, _PROTO_NUM, _PROTO_DST_PORT = 1, 2, 1, 3
_UDP = 17


def forget_udp(ports: Set[int]) -> int:
    """Delete the flows whose original destination port is one of these; how many there were.  Blocking."""
    found = 0
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as link:
            link.bind((0, 0))
            for family in (socket.AF_INET, socket.AF_INET6):
                flows = [one for one in _flows(link, family) if _udp_port(one) in ports]
                for number, original in enumerate(flows):
                    _delete(link, family, original, number)
                found += len(flows)
    except OSError as error:
        log.warning("tracked UDP flows could not be looked through: %s", error)
    return found


def _message(kind: int, flags: int, sequence: int, family: int, body: bytes) -> bytes:
    head = struct.pack("BBH", family, 0, 0)
    return struct.pack("IHHII", 20 + len(body), kind, flags, sequence, 0) + head + body


def _flows(link: socket.socket, family: int) -> list[bytes]:
    """The original tuple of every flow, as the attribute it came in."""
    link.send(_message(_GET, _REQUEST | _DUMP, 1, family, b""))
    found: list[bytes] = []
    while True:
        data = link.recv(1 << 18)
        offset = 0
        while offset + 16 <= len(data):
            length, kind = struct.unpack_from("IH", data, offset)
            if kind == _DONE:
                return found
            if kind == _ERROR:
                number = -struct.unpack_from("i", data, offset + 16)[0]
                raise OSError(number, "conntrack dump")
            original = _attributes(data[offset + 20 : offset + length]).get(_TUPLE_ORIG)
            if original is not None:
                found.append(original)
            offset += (length + 3) & ~3


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("HH", data, offset)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def _udp_port(original: bytes) -> int:
    """Destination port of a UDP tuple, -1 for other protocols."""
    proto = _attributes(_attributes(original).get(_TUPLE_PROTO, b""))
    if proto.get(_PROTO_NUM, b"\0")[0] != _UDP or _PROTO_DST_PORT not in proto:
        return -1
    return int.from_bytes(proto[_PROTO_DST_PORT][:2], "big")


def _delete(link: socket.socket, family: int, original: bytes, number: int) -> None:
    nested = struct.pack("HH", 4 + len(original), _TUPLE_ORIG | 0x8000) + original
    link.send(_message(_DELETE, _REQUEST | _ACK, number + 2, family, nested))
    link.recv(65536)  # gone meanwhile is as good
