"""The packet rules of a zone's own namespace: port 53 of 127.0.0.11 is wherever its name server listens.

By netlink and not as text: there is one such table for each zone, and what libnftables does (nfnetlink.py) would be done
each time.

    table ip zonegate_dns { chain output { type nat hook output priority -100;
      ip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.11:PORT
      ip daddr 127.0.0.11 tcp dport 53 dnat to 127.0.0.11:PORT } }
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator, Sequence

from gateway.hosts.linux.netlink import attribute
from gateway.hosts.linux.nfnetlink import (
    CREATE,
    EXCLUSIVE,
    NESTED,
    BatchError,
    FilterSocket,
    Message,
    Protocol,
    text,
)

ADDRESS = "127.0.0.11"
_TABLE, _CHAIN = "zonegate_dns", "output"
_APPEND = 0x800
_NEW_TABLE, _DELETE_TABLE, _NEW_CHAIN, _NEW_RULE = 0, 2, 3, 6
_OUTPUT, _PRIORITY = 3, -100
_NETWORK_HEADER, _TRANSPORT_HEADER, _L4PROTO, _DNAT = 1, 2, 16, 1
# Of sixteen bytes each.
_FIRST, _SECOND = 1, 2


def lead(rules: FilterSocket, udp: int, tcp: int) -> None:
    """These ports of 127.0.0.11 are its port 53, in the namespace of the socket.  OSError."""
    made = list(_messages(udp, tcp))
    try:
        rules.commit([_table(CREATE | EXCLUSIVE), *made])
    except BatchError as error:
        if error.errno != errno.EEXIST:
            raise
        # From an earlier process.  Not always deleted first: closing the socket would then take 15 ms.
        delete = Message(_DELETE_TABLE, 0, "ip", text(1, _TABLE), f"delete table {_TABLE}")
        rules.commit([delete, _table(CREATE), *made])


def _table(flags: int) -> Message:
    return Message(_NEW_TABLE, flags, "ip", text(1, _TABLE), f"make table {_TABLE}")


def _messages(udp: int, tcp: int) -> Iterator[Message]:
    hook = attribute(1, struct.pack(">I", _OUTPUT)) + attribute(2, struct.pack(">i", _PRIORITY))
    chain = text(1, _TABLE) + text(3, _CHAIN) + attribute(4 | NESTED, hook) + text(7, "nat")
    yield Message(_NEW_CHAIN, CREATE, "ip", chain, f"make chain {_CHAIN}")
    for protocol, port in ((Protocol.UDP, udp), (Protocol.TCP, tcp)):
        listed = b"".join(attribute(1 | NESTED, one) for one in _rule(protocol, port))
        rule = text(1, _TABLE) + text(2, _CHAIN) + attribute(4 | NESTED, listed)
        yield Message(_NEW_RULE, CREATE | _APPEND, "ip", rule, f"make rule for {protocol.name}")


def _rule(protocol: Protocol, port: int) -> Sequence[bytes]:
    """Expressions: what is compared is loaded into a register first."""
    address = socket.inet_aton(ADDRESS)
    return (
        _payload(_NETWORK_HEADER, offset=16, length=4),
        _equals(address),
        _expression("meta", _number(1, _FIRST), _number(2, _L4PROTO)),
        _equals(bytes([protocol])),
        _payload(_TRANSPORT_HEADER, offset=2, length=2),
        _equals(struct.pack(">H", 53)),
        _immediate(_FIRST, address),
        _immediate(_SECOND, struct.pack(">H", port)),
        _expression(
            "nat", _number(1, _DNAT), _number(2, socket.AF_INET), _number(3, _FIRST), _number(5, _SECOND)
        ),
    )  # fmt: skip


def _payload(header: int, *, offset: int, length: int) -> bytes:
    place = _number(2, header), _number(3, offset), _number(4, length)
    return _expression("payload", _number(1, _FIRST), *place)


def _equals(value: bytes) -> bytes:
    return _expression("cmp", _number(1, _FIRST), _number(2, 0), _value(3, value))


def _immediate(register: int, value: bytes) -> bytes:
    return _expression("immediate", _number(1, register), _value(2, value))


def _value(kind: int, value: bytes) -> bytes:
    return attribute(kind | NESTED, attribute(1, value))


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">I", value))


def _expression(name: str, *attributes: bytes) -> bytes:
    return text(1, name) + attribute(2 | NESTED, b"".join(attributes))
