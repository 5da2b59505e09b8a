"""The name server of user networks: queries in, answers out; what is not ours goes to the machine's resolvers.

    name of the asker's networks       A, AAAA (none there: an empty answer); PTR of its addresses
    one word that nobody there has     NXDOMAIN at once: nobody outside knows it better
    anything else                      forwarded by the protocol it came by; SERVFAIL if nobody answers
    asker on internal networks only    SERVFAIL: nothing leaves

Names are names.py's; sockets are the host's, which knows who asks by them.  A host imports this module when the
first zone on a user network starts: dnspython takes some MB that a gateway without such zones does not carry.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address

import dns.exception
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from gateway.hosts.names import Address, NameBook
from gateway.hosts.upstream import Upstream
from gateway.zones.spec import ZoneUUID

log = logging.getLogger(__name__)

_TTL_S = 600
"""As dockerd's.  Clients that keep answers so long ask again when a connection fails."""
_PLAIN_UDP = 512
_MAX_UDP = 65535
_BATCH = 32
"""Datagrams answered before others of the loop have their turn."""
_TCP_IDLE_S = 10.0
_MAX_TCP = 64
"""Connections at a time, of one socket."""

Asker = Callable[[str], ZoneUUID | None]
"""Which zone has this address; a socket inside of a zone's namespace knows without looking."""


class NameServer:
    """Answers for one host.  `group` outlives it."""

    def __init__(self, book: NameBook, upstream: Upstream, group: asyncio.TaskGroup) -> None:
        self._book = book
        self._upstream = upstream
        self._group = group

    def answer(self, asker: ZoneUUID, wire: bytes, *, tcp: bool = False) -> bytes | None:
        """The whole answer, or None where only others can know.  ValueError for what is no query."""
        query = _parse(wire)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True)
        kind = question.rdtype
        found = self._known(asker, name, kind)
        if found is None:
            if self._book.resolvers(asker) is None:
                return _refusal(query, "SERVFAIL")
            if name and self._book.is_single(asker, name):
                return _refusal(query, "NXDOMAIN")
            return None
        return _answer(query, found, tcp=tcp)

    def _known(
        self, asker: ZoneUUID, name: str, kind: dns.rdatatype.RdataType
    ) -> Sequence[str | Address] | None:
        """Data of the answer's records; () = the name is ours and has none of this kind."""
        if kind == _PTR:
            address = _address_of(name)
            back = self._book.reverse(asker, address) if address else None
            return None if back is None else (f"{back}.",)
        found = self._book.find(asker, name)
        if found is None:
            return None
        version = _VERSION.get(kind)
        # Several take turns: dnspython shuffles what it writes.
        return [address for address in found if address.version == version]

    async def resolve(self, asker: ZoneUUID, wire: bytes, *, tcp: bool = False) -> bytes:
        """The answer, ours or somebody's; b"" to what is no query."""
        try:
            found = self.answer(asker, wire, tcp=tcp)
        except ValueError:
            return b""
        if found is not None:
            return found
        return await self._forward(asker, wire, tcp=tcp)

    async def _forward(self, asker: ZoneUUID, wire: bytes, *, tcp: bool) -> bytes:
        resolvers = self._book.resolvers(asker)
        found = None
        if resolvers is not None:
            found = await self._upstream.ask(wire, resolvers, tcp=tcp)
        return found if found is not None else _refusal(_parse(wire), "SERVFAIL")

    # -- sockets ---------------------------------------------------------------------------------

    def serve(self, udp: socket.socket, tcp: socket.socket, asker: Asker) -> Served:
        """Answer what comes by these, bound and listening, until the result is closed; they are its own."""
        served = Served(udp, tcp)
        loop = asyncio.get_running_loop()
        loop.add_reader(udp, self._datagrams, udp, asker)
        loop.add_reader(tcp, self._connections, served, asker)
        return served

    def _datagrams(self, udp: socket.socket, asker: Asker) -> None:
        for _ in range(_BATCH):
            try:
                wire, client = udp.recvfrom(4096)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:  # an answer that nobody took comes back as an error
                log.debug("name server: %s", error)
                return
            uuid = asker(client[0])
            if uuid is None:
                continue
            try:
                found = self.answer(uuid, wire)
            except ValueError:
                continue
            if found is not None:
                _send(udp, found, client)
            else:
                work = self._forward_datagram(udp, uuid, wire, client)
                self._group.create_task(_logged(work))

    async def _forward_datagram(
        self, udp: socket.socket, uuid: ZoneUUID, wire: bytes, client: tuple[str, int]
    ) -> None:
        found = await self._forward(uuid, wire, tcp=False)
        if udp.fileno() >= 0:
            _send(udp, found, client)

    def _connections(self, served: Served, asker: Asker) -> None:
        try:
            sock, client = served.tcp.accept()
        except OSError:
            return
        sock.setblocking(False)
        uuid = asker(client[0])
        if uuid is None or len(served.connections) >= _MAX_TCP:
            sock.close()
            return
        task = self._group.create_task(_logged(self._converse(sock, uuid)))
        served.connections.add(task)
        task.add_done_callback(served.connections.discard)

    async def _converse(self, sock: socket.socket, uuid: ZoneUUID) -> None:
        """Queries of one connection, each with its length in front."""
        loop = asyncio.get_running_loop()
        with sock, suppress(OSError, TimeoutError, EOFError):
            while True:
                async with asyncio.timeout(_TCP_IDLE_S):
                    length = int.from_bytes(await _read(loop, sock, 2))
                    wire = await _read(loop, sock, length)
                found = await self.resolve(uuid, wire, tcp=True)
                if not found:
                    return
                async with asyncio.timeout(_TCP_IDLE_S):
                    await loop.sock_sendall(sock, len(found).to_bytes(2) + found)


class Served:
    """Two sockets that are answered."""

    def __init__(self, udp: socket.socket, tcp: socket.socket) -> None:
        self.udp = udp
        self.tcp = tcp
        self.connections: set[asyncio.Task[None]] = set()

    def close(self) -> None:
        """Nobody is answered any more, and the sockets are gone."""
        loop = asyncio.get_running_loop()
        for sock in (self.udp, self.tcp):
            if sock.fileno() >= 0:
                loop.remove_reader(sock)
                sock.close()
        for task in tuple(self.connections):
            task.cancel()


async def _logged(work: Coroutine[None, None, None]) -> None:
    """What a container makes us stumble over must not end the group."""
    try:
        await work
    except Exception:
        log.exception("name server")


async def _read(loop: asyncio.AbstractEventLoop, sock: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        more = await loop.sock_recv(sock, count - len(found))
        if not more:
            raise EOFError
        found += more
    return found


def _send(udp: socket.socket, wire: bytes, client: tuple[str, int]) -> None:
    # A client that does not read, or is gone, asks again if it still wants to know.
    with suppress(OSError):
        udp.sendto(wire, client)


# -- messages ------------------------------------------------------------------------------------

_A, _PTR, _AAAA = dns.rdatatype.A, dns.rdatatype.PTR, dns.rdatatype.AAAA
_VERSION = {_A: 4, _AAAA: 6}


def _parse(wire: bytes) -> dns.message.QueryMessage:
    """ValueError for what is no query of one question."""

    try:
        query = dns.message.from_wire(wire, ignore_trailing=True)
    except (dns.exception.DNSException, ValueError) as error:
        raise ValueError("no DNS message") from error
    if query.flags & 0x8000 or query.opcode() != dns.opcode.QUERY or len(query.question) != 1:
        raise ValueError("no query of one question")
    return query  # type: ignore[return-value]  # by its opcode


def _reply(query: dns.message.QueryMessage) -> dns.message.Message:

    return dns.message.make_response(query, recursion_available=True, our_payload=1232)


def _refusal(query: dns.message.QueryMessage, word: str) -> bytes:

    reply = _reply(query)
    reply.set_rcode(dns.rcode.from_text(word))
    return reply.to_wire()


def _answer(query: dns.message.QueryMessage, found: Sequence[str | Address], *, tcp: bool) -> bytes:

    reply = _reply(query)
    question = query.question[0]
    if found:
        rows = dns.rrset.from_text_list(
            question.name, _TTL_S, dns.rdataclass.IN, question.rdtype, [str(one) for one in found]
        )
        reply.answer.append(rows)
    limit = _MAX_UDP if tcp else max(_PLAIN_UDP, min(query.payload, _MAX_UDP))
    return reply.to_wire(max_size=limit, prefer_truncation=True)


def _address_of(name: str) -> Address | None:
    """Of a name below in-addr.arpa or ip6.arpa."""
    labels = name.lower().split(".")
    if labels[-2:] == ["in-addr", "arpa"]:
        text = ".".join(reversed(labels[:-2]))
    elif labels[-2:] == ["ip6", "arpa"]:
        digits = "".join(reversed(labels[:-2]))
        text = ":".join(digits[i : i + 4] for i in range(0, len(digits), 4))
    else:
        return None
    try:
        found: IPv4Address | IPv6Address = ip_address(text)
    except ValueError:
        return None
    return found
