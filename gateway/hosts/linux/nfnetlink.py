"""nftables by netlink: elements of sets and maps, put in and taken out as one transaction, whatever else there is.

    nlmsghdr | nfgenmsg  family:u8 version:u8 resource:be16 | attributes
    batch begin, one message for each set with all its elements, batch end

libnftables asks the kernel for all there is before it changes anything, 0.7 ms and more as the machine's rules grow; this
takes 0.05.  It also waits by select(), and ends the process where its socket has a number above 1023.  The kernel works through a batch while it is sent, and commits all of it or nothing: what it has to say lies
ready then, an answer for each message.  No generation is named, so that other people's changes come in nobody's way.
Which elements there are is nft.py's; what else may be sent in a batch is its sender's.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from gateway.hosts.linux.netlink import CAP_ACK, SOL_NETLINK, attribute, split

_NETFILTER, _SUBSYSTEM = 12, 10
_BATCH_BEGIN, _BATCH_END = 16, 17
_NEW_ELEMENTS, _DELETE_ELEMENTS = 12, 14
_REQUEST, _ACK, CREATE, EXCLUSIVE = 0x1, 0x4, 0x400, 0x200
_ERROR = 2
NESTED = 0x8000
_TABLE, _SET, _ELEMENTS = 1, 2, 3
_ELEMENT, _KEY, _DATA, _FLAGS, _VALUE = 1, 1, 2, 3, 1
_INTERVAL_END = 1
FAMILIES = {"inet": 1, "ip": 2, "bridge": 7}
_IFNAME = 16
# An attribute has a length of 16 bits; an element takes 100 bytes at most.
_IN_ONE_MESSAGE = 400
# A send buffer takes as much in one piece, and the kernel one batch in one send.
_SEND_BUFFER, _SEND_BUFFER_FORCE = 4 << 20, 32


class Protocol(IntEnum):
    """Of IP, by the kernel's numbers."""

    TCP = 6
    UDP = 17


@dataclass(frozen=True, slots=True)
class Interface:
    """By name."""

    name: str


@dataclass(frozen=True, slots=True)
class Port:
    """Of TCP or UDP."""

    number: int


@dataclass(frozen=True, slots=True)
class Mac:
    """As 02:42:ac:11:00:02."""

    text: str


Field = Interface | Port | Mac | Protocol | IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Element:
    """Of the set or map `place`.  `key`: its fields in order, or all of a network; `value` of a map's."""

    family: str
    table: str
    place: str
    key: tuple[Field, ...] | Network
    value: tuple[Field, ...] = ()


class BatchError(OSError):
    """The kernel refused a batch: `errno` of the first message that failed, and what that was."""

    def __init__(self, number: int, what: str) -> None:
        super().__init__(number, f"{what}: {os.strerror(number)}")


def packed(fields: Iterable[Field]) -> bytes:
    """A concatenation as the kernel's registers have it: each field padded to four bytes."""
    return b"".join(map(_packed, fields))


def _packed(field: Field) -> bytes:
    match field:
        case Interface():
            return field.name.encode().ljust(_IFNAME, b"\0")
        case Mac():
            return bytes.fromhex(field.text.replace(":", "")).ljust(8, b"\0")
        case Port():
            return struct.pack(">Hxx", field.number)
        case Protocol():
            return struct.pack("Bxxx", field)
        case _:
            return field.packed


def _rows(element: Element) -> Iterator[bytes]:
    """One row, or two: of an interval its first key and the first one beyond."""
    if isinstance(element.key, tuple):
        yield _row(packed(element.key), packed(element.value))
        return
    network = element.key
    yield _row(network.network_address.packed)
    beyond = int(network.broadcast_address) + 1
    if beyond < 1 << network.max_prefixlen:
        yield _row(beyond.to_bytes(network.max_prefixlen // 8, "big"), flags=_INTERVAL_END)


def _row(key: bytes, value: bytes = b"", flags: int = 0) -> bytes:
    row = attribute(_KEY | NESTED, attribute(_VALUE, key))
    if value:
        row += attribute(_DATA | NESTED, attribute(_VALUE, value))
    if flags:
        row += attribute(_FLAGS, struct.pack(">I", flags))
    return attribute(_ELEMENT | NESTED, row)


@dataclass(frozen=True, slots=True)
class Message:
    """One of a batch: NFT_MSG_* and the attributes, for a family of tables.  `what` names it in errors."""

    kind: int
    flags: int
    family: str
    attributes: bytes
    what: str


def text(kind: int, value: str) -> bytes:
    """An attribute with a name in it."""
    return attribute(kind, value.encode() + b"\0")


def _messages(kind: int, flags: int, elements: Iterable[Element]) -> Iterator[Message]:
    """One for each set, in the order in which the sets are named first."""
    sets: dict[tuple[str, str, str], list[bytes]] = {}
    for element in elements:
        rows = sets.setdefault((element.family, element.table, element.place), [])
        rows.extend(_rows(element))
    verb = "add to" if kind == _NEW_ELEMENTS else "delete from"
    for (family, table, place), rows in sets.items():
        head = text(_TABLE, table) + text(_SET, place)
        for first in range(0, len(rows), _IN_ONE_MESSAGE):
            some = b"".join(rows[first : first + _IN_ONE_MESSAGE])
            attributes = head + attribute(_ELEMENTS | NESTED, some)
            yield Message(kind, flags, family, attributes, f"{verb} {family} {table} {place}")


def changes(gone: Sequence[Element], new: Sequence[Element]) -> Sequence[Message]:
    """These elements go, those come: a message for each set."""
    return [*_messages(_DELETE_ELEMENTS, 0, gone), *_messages(_NEW_ELEMENTS, CREATE, new)]


def batch(messages: Sequence[Message], first: int = 0) -> bytes:
    """Numbered from `first` on, which is the beginning's number; the end has the one after the last message's."""
    mark = struct.pack(">BBH", 0, 0, _SUBSYSTEM)
    parts = [_packet(_BATCH_BEGIN, _REQUEST, first, mark)]
    for number, message in enumerate(messages, first + 1):
        head = struct.pack(">BBH", FAMILIES[message.family], 0, 0)
        kind, flags = _SUBSYSTEM << 8 | message.kind, _REQUEST | _ACK | message.flags
        parts.append(_packet(kind, flags, number, head + message.attributes))
    parts.append(_packet(_BATCH_END, _REQUEST, first + len(messages) + 1, mark))
    return b"".join(parts)


def _packet(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return struct.pack("IHHII", 16 + len(body), kind, flags, sequence, 0) + body


class FilterSocket:
    """NETLINK_NETFILTER of the namespace in which it was made.  For one thread at a time."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER)
        # Else each answer brings its message back, and many of them do not fit into the receive buffer.
        self._socket.setsockopt(SOL_NETLINK, CAP_ACK, 1)
        self._sequence = 1

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.close()

    def change(self, gone: Sequence[Element], new: Sequence[Element]) -> None:
        """These elements go, those come: all of it or nothing.

        An element that is there already is fine; a key of a map with another value is not (EEXIST), nor is one that is to go and is
        not there, nor a set or table that is missing (ENOENT).  BatchError of the first message that the kernel refused.
        """
        self.commit(changes(gone, new))

    def commit(self, messages: Sequence[Message]) -> None:
        """All of them or nothing.  BatchError of the first that the kernel refused."""
        names = ["begin a batch", *(message.what for message in messages), "end a batch"]
        first, self._sequence = self._sequence, self._sequence + len(names)
        self._send(batch(messages, first))
        answered = 0
        failure: BatchError | None = None
        for sequence, code in self._answers():
            if not first <= sequence < first + len(names):
                continue
            answered += 1
            if code and failure is None:
                failure = BatchError(code, names[sequence - first])
        if failure is not None:
            raise failure
        if answered < len(messages):
            raise BatchError(errno.ENOBUFS, "the kernel's answers are not all there")

    def _send(self, data: bytes) -> None:
        try:
            self._socket.send(data)
        except OSError as error:
            if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                raise
            # FORCE: beyond the limit for programs without rights.
            self._socket.setsockopt(socket.SOL_SOCKET, _SEND_BUFFER_FORCE, _SEND_BUFFER)
            self._socket.send(data)

    def _answers(self) -> Iterator[tuple[int, int]]:
        """(sequence, errno) of all that was said; nothing more comes later."""
        while True:
            try:
                data = self._socket.recv(1 << 17, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            for kind, sequence, _, body in split(data):
                if kind == _ERROR:
                    yield sequence, -struct.unpack_from("i", body)[0]
