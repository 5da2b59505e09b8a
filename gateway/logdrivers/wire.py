"""Connections of log drivers: datagrams and streams, and what Go says of those that cannot be made."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable, Sequence, Sized
from typing import Generic, Protocol, TypeVar

from dockerapi.errors import APIError
from gateway.logdrivers import Message
from gateway.translate.log_options import Address

_CONNECT_TIMEOUT_S = 10.0
_SEND_TIMEOUT_S = 30.0
_HIGH_WATER = 256 << 10


def dial_words(address: Address, error: BaseException) -> str:
    """As Go's net.Dial words it."""
    scheme = address.scheme.removesuffix("+tls")
    where = address.path or f"{address.host}:{address.port}"
    if isinstance(error, socket.gaierror):
        return f"dial {scheme}: lookup {address.host}: no such host"
    if isinstance(error, TimeoutError):
        return f"dial {scheme} {where}: i/o timeout"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"tls: failed to verify certificate: x509: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"tls: {error.reason or error}"
    number = _first_number(error)
    return f"dial {scheme} {where}: connect: {os.strerror(number).lower() if number else error}"


def _first_number(error: BaseException) -> int:
    """errno; asyncio joins the failures of several addresses in one error without any."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    for inner in getattr(error, "exceptions", ()):
        if number := _first_number(inner):
            return number
    return 0


class Stream:
    """A byte stream to a far end, made anew by `connect` after it broke."""

    def __init__(self, address: Address, tls: ssl.SSLContext | None = None) -> None:
        self._address = address
        self._tls = tls
        self._writer: asyncio.StreamWriter | None = None
        self._reader: asyncio.StreamReader | None = None

    async def connect(self) -> None:
        """OSError, TimeoutError."""
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            if self._address.path:
                opened = await asyncio.open_unix_connection(self._address.path)
            else:
                opened = await asyncio.open_connection(
                    self._address.host,
                    self._address.port,
                    ssl=self._tls,
                    server_hostname=self._address.host if self._tls else None,
                )
        self._reader, self._writer = opened
        self._writer.transport.set_write_buffer_limits(_HIGH_WATER)

    async def dial(self) -> None:
        """`connect`; APIError in Go's words."""
        try:
            await self.connect()
        except (OSError, ExceptionGroup) as error:
            raise APIError(dial_words(self._address, error)) from error

    async def send(self, data: bytes) -> None:
        """Connects where it must.  OSError; then the connection is gone, and the next call makes another."""
        if self._writer is None or self._is_over():
            await self.close()
            await self.connect()
        writer = self._writer
        if writer is None:
            raise ConnectionError("not connected")
        try:
            writer.write(data)
            async with asyncio.timeout(_SEND_TIMEOUT_S):
                await writer.drain()
        except BaseException:
            await self.close()
            raise

    def _is_over(self) -> bool:
        """The far end has said that it reads no more: what is written now would be lost."""
        closing = self._writer is not None and self._writer.is_closing()
        return closing or (self._reader is not None and self._reader.at_eof())

    async def receive(self, timeout_s: float) -> bytes:
        """Some bytes; ConnectionError at the end."""
        if self._reader is None:
            raise ConnectionError("not connected")
        async with asyncio.timeout(timeout_s):
            data = await self._reader.read(65536)
        if not data:
            await self.close()
            raise ConnectionError("the far end has closed the connection")
        return data

    async def close(self) -> None:
        """What was written goes out first, for a moment."""
        writer, self._writer, self._reader = self._writer, None, None
        if writer is None:
            return
        writer.close()
        try:
            async with asyncio.timeout(2):
                await writer.wait_closed()
        except (OSError, TimeoutError):
            writer.transport.abort()


class Datagrams:
    """Messages of one datagram each: UDP, or a unix socket of that kind.

    Nobody says whether a UDP datagram arrived: those that are refused are lost, as under dockerd.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._socket: socket.socket | None = None

    async def dial(self) -> None:
        """APIError in Go's words."""
        try:
            await self.connect()
        except OSError as error:
            raise APIError(dial_words(self._address, error)) from error

    async def connect(self) -> None:
        """OSError, for instance of a name that nobody knows."""
        loop = asyncio.get_running_loop()
        if self._address.path:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            target: object = self._address.path
        else:
            found = await loop.getaddrinfo(
                self._address.host, self._address.port, type=socket.SOCK_DGRAM
            )
            family, kind, protocol, _, target = found[0]
            sock = socket.socket(family, kind, protocol)
        sock.setblocking(False)
        try:
            sock.connect(target)  # type: ignore[arg-type]  # of this family
        except OSError:
            sock.close()
            raise
        self._socket = sock

    async def send(self, datagrams: Sequence[bytes]) -> None:
        """OSError for a unix socket that is not there; UDP takes what it can."""
        if self._socket is None:
            await self.connect()
        sock = self._socket
        if sock is None:
            raise ConnectionError("not connected")
        loop = asyncio.get_running_loop()
        for datagram in datagrams:
            try:
                await loop.sock_sendall(sock, datagram)
            except OSError:
                if self._address.path:
                    await self.close()
                    raise

    async def close(self) -> None:
        """No datagram after this."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


Data = TypeVar("Data", bound=Sized)
_Data_contra = TypeVar("_Data_contra", contravariant=True)


class Line(Protocol[_Data_contra]):
    """A connection: Datagrams takes a list, Stream bytes."""

    async def dial(self) -> None:
        """APIError in Go's words."""
        ...

    async def send(self, data: _Data_contra, /) -> None:
        """Connects where it must.  OSError."""
        ...

    async def close(self) -> None:
        """Nothing is sent after this."""
        ...


class LineSink(Generic[Data]):
    """A Sink: what `pack` makes of messages goes by `line`; where that is empty, nothing does."""

    def __init__(self, line: Line[Data], pack: Callable[[Sequence[Message]], Data]) -> None:
        self._line = line
        self._pack = pack

    async def dial(self) -> None:
        """APIError in Go's words."""
        await self._line.dial()

    async def send(self, messages: Sequence[Message]) -> None:
        """As `Sink` says."""
        if data := self._pack(messages):
            await self._line.send(data)

    async def close(self) -> None:
        """As `Sink` says."""
        await self._line.close()
