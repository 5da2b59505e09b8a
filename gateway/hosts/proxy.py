"""Published ports where the platform's NAT does not reach: bytes go through this process.

On Linux that is IPv6, where a zone has IPv4 addresses only: no rule turns one into the other; and ::1, whose packets cannot
leave the machine.  On SmartOS it is every published port.  A client of `[::]:8080` is served from here and the zone sees the host's own address, as
with dockerd's userland proxy.
Which socket is listening is for others to say; it stays theirs, a proxy works on a copy.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Protocol

from dockerapi.errors import APIError

log = logging.getLogger(__name__)

_READ_SIZE = 1 << 16
_CONNECT_TIMEOUT_S = 10.0
_UDP_IDLE_S = 90.0
_UDP_CLIENTS = 1024


class PortProxy(Protocol):
    """A port being served."""

    def close(self) -> None:
        """No more clients; those that are there are cut off."""
        ...


Connect = Callable[[str, int], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
"""How a zone's address and port are reached."""


class TCPProxy:
    """Relays every connection to one address, each direction closed on its own.

    `connect` reaches the zone; None = straight from here.
    """

    def __init__(
        self, to: IPv4Address | IPv6Address, port: int, connect: Connect | None = None
    ) -> None:
        self._to = str(to)
        self._port = port
        self._connect = connect or asyncio.open_connection
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[Any]] = set()

    async def start(self, listening: socket.socket) -> None:
        """Serve the clients of a listening socket."""
        copy = listening.dup()
        copy.setblocking(False)
        try:
            self._server = await asyncio.start_server(self._serve, sock=copy)
        except BaseException:
            copy.close()
            raise

    def close(self) -> None:
        """No more clients; those that are there are cut off."""
        if self._server is not None:
            self._server.close()
        for client in self._clients:
            client.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with self._counted(), contextlib.closing(writer):
            try:
                async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                    zone_reader, zone_writer = await self._connect(self._to, self._port)
            except (OSError, TimeoutError, APIError) as error:
                log.debug("no connection to %s:%d: %s", self._to, self._port, error)
                return
            with contextlib.closing(zone_writer), contextlib.suppress(asyncio.CancelledError):
                async with asyncio.TaskGroup() as group:
                    group.create_task(_pump(reader, zone_writer))
                    group.create_task(_pump(zone_reader, writer))

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a connection is served outside of a task")
        self._clients.add(task)
        try:
            yield
        finally:
            self._clients.discard(task)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    # A reset of one side ends its direction; the other may still have something to say.
    with contextlib.suppress(OSError):
        while data := await reader.read(_READ_SIZE):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()


class UDPProxy:
    """Relays datagrams; each client has a socket towards the zone, for as long as something is said."""

    def __init__(self, to: IPv4Address | IPv6Address, port: int) -> None:
        self._to = (str(to), port)
        self._family = socket.AF_INET if to.version == 4 else socket.AF_INET6
        self._clients: dict[Any, _UDPClient] = {}
        self._listening: socket.socket | None = None

    async def start(self, bound: socket.socket) -> None:
        """Serve the clients of a bound socket."""
        self._listening = copy = bound.dup()
        copy.setblocking(False)
        asyncio.get_running_loop().add_reader(copy, self._from_clients, copy)

    def close(self) -> None:
        """No more clients."""
        if self._listening is not None:
            asyncio.get_running_loop().remove_reader(self._listening)
            self._listening.close()
            self._listening = None
        for peer in tuple(self._clients):
            self._forget(peer)

    def _from_clients(self, listening: socket.socket) -> None:
        try:
            data, peer = listening.recvfrom(_READ_SIZE)
        except OSError:
            return
        client = self._clients.get(peer) or self._greet(peer, listening)
        if client is not None:
            client.touch()
            # A zone that does not listen answers by ICMP, which is an error of the next call: as good as lost.
            with contextlib.suppress(OSError):
                client.socket.send(data)

    def _greet(self, peer: Any, listening: socket.socket) -> _UDPClient | None:
        if len(self._clients) >= _UDP_CLIENTS:
            log.warning("more than %d UDP clients of %s:%d at once", _UDP_CLIENTS, *self._to)
            return None
        upstream = socket.socket(self._family, socket.SOCK_DGRAM)
        upstream.setblocking(False)
        try:
            upstream.connect(self._to)
        except OSError as error:
            upstream.close()
            log.debug("no way to %s:%d: %s", *self._to, error)
            return None
        client = self._clients[peer] = _UDPClient(upstream, lambda: self._forget(peer))
        asyncio.get_running_loop().add_reader(upstream, self._from_zone, client, peer, listening)
        return client

    def _from_zone(self, client: _UDPClient, peer: Any, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            listening.sendto(client.socket.recv(_READ_SIZE), peer)
        client.touch()

    def _forget(self, peer: Any) -> None:
        client = self._clients.pop(peer)
        client.idle.cancel()
        asyncio.get_running_loop().remove_reader(client.socket)
        client.socket.close()


class _UDPClient:
    def __init__(self, upstream: socket.socket, forget: Any) -> None:
        self.socket = upstream
        self._forget = forget
        self._loop = asyncio.get_running_loop()
        self.idle = self._loop.call_later(_UDP_IDLE_S, forget)

    def touch(self) -> None:
        """Something was said."""
        self.idle.cancel()
        self.idle = self._loop.call_later(_UDP_IDLE_S, self._forget)
