"""Takes the connection over for attach and exec start; joins frames into large writes.

    client --> Hijack.read --> Stdio.write        EOF --> Stdio.close_input
    client <-- Hijack.write <-- Joiner <-- Stdio.output

Either direction may end first.  The client's EOF ends its input only; the end of the output ends the
connection; the loss of the connection cancels the request's task and so everything here.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import select
import socket
import sys
import termios
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from dockerapi import web
from dockerapi.connection import Connection
from dockerapi.errors import APIError
from dockerapi.framing import StreamId, frame_header

if TYPE_CHECKING:
    from dockerapi.framing import Stdio

log = logging.getLogger(__name__)

JOIN_LIMIT = 128 * 1024
INPUT_HIGH = 256 * 1024
LINGER_S = 2.0
HEAD_WAIT_S = 0.5
HANGUP_LOOK_S = 1.0
EPOLLS_NEST = sys.platform == "linux"
"""Whether the loop can wait for another epoll.  illumos has epoll as well, but not that."""


class Taken(web.StreamResponse):
    """What a handler returns that has answered on the raw connection: aiohttp shall write nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> None:
        """Nothing to send."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing to send."""


class Hijack(asyncio.Protocol):
    """The connection as two byte streams, from the moment HTTP ends on it."""

    def __init__(self, connection: Connection) -> None:
        transport = connection.transport
        if transport is None:
            raise ConnectionResetError("the client is gone")
        self._connection = connection
        self._transport: asyncio.Transport = transport
        self._loop = asyncio.get_running_loop()
        self._inbox: deque[bytes] = deque()
        self._inbox_size = 0
        self._arrived = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._ended = False
        self._reading_paused = False
        self._lost = False
        self._head_unread = False
        self._hangup: select.epoll | None = None
        self._look: asyncio.TimerHandle | None = None
        early, connection.early = connection.early, None
        transport.set_protocol(self)
        if early:
            self.data_received(bytes(early))
        if connection.ended:
            self.eof_received()
        elif not self._reading_paused:
            # aiohttp may have paused it, or the early bytes were many.
            with contextlib.suppress(RuntimeError):
                transport.resume_reading()

    # -- events of the transport

    def data_received(self, data: bytes) -> None:
        """Kept until read; the socket is left alone while too much is kept."""
        self._inbox.append(data)
        self._inbox_size += len(data)
        self._arrived.set()
        if self._inbox_size > INPUT_HIGH and not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """True: our sending half stays open."""
        self._ended = True
        self._arrived.set()
        self._watch_hangup()
        return True

    def pause_writing(self) -> None:
        """The client reads slower than the process writes."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """And again."""
        self._writable.set()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Aiohttp's own clean-up cancels the request's task."""
        self._lost = self._ended = True
        self._arrived.set()
        self._writable.set()
        self._stop_watching()
        self._connection.connection_lost(exc)

    # After EOF the loop no longer looks at the socket, so a client that then goes away while the
    # process is silent would never be noticed.  An epoll with no events asked still reports HUP.
    def _watch_hangup(self) -> None:
        sock = self._transport.get_extra_info("socket")
        if self._hangup is not None or sock is None or sock.fileno() < 0:
            return
        if not EPOLLS_NEST:
            self._look_for_hangup(sock)
            return
        self._hangup = select.epoll()
        self._hangup.register(sock.fileno(), 0)
        self._loop.add_reader(self._hangup.fileno(), self._hung_up)

    def _look_for_hangup(self, sock: socket.socket) -> None:
        poll = select.poll()
        if sock.fileno() < 0:
            return
        poll.register(sock.fileno(), 0)
        if poll.poll(0):
            self._hung_up()
        else:
            self._look = self._loop.call_later(HANGUP_LOOK_S, self._look_for_hangup, sock)

    def _hung_up(self) -> None:
        self._stop_watching()
        self._transport.abort()

    def _stop_watching(self) -> None:
        if self._look is not None:
            self._look.cancel()
            self._look = None
        if self._hangup is not None:
            self._loop.remove_reader(self._hangup.fileno())
            self._hangup.close()
            self._hangup = None

    # -- for the pump

    async def read(self) -> bytes:
        """What the client sent, b"" after it ended its input."""
        while not self._inbox:
            if self._ended:
                return b""
            self._arrived.clear()
            await self._arrived.wait()
        data = b"".join(self._inbox)
        self._inbox.clear()
        self._inbox_size = 0
        if self._reading_paused:
            self._reading_paused = False
            self._transport.resume_reading()
        return data

    async def write_head(self, data: bytes) -> None:
        """The head of the answer, which must not share a segment with what follows.

        docker-py reads it through a buffer, then goes on with the bare socket: bytes that came along
        would be lost to it.
        """
        await self.write(data)
        self._head_unread = True

    async def _until_head_is_read(self) -> None:
        """A unix socket tells what its peer has not read yet; for at most a moment."""
        self._head_unread = False
        sock = self._transport.get_extra_info("socket")
        if sock is None or sock.family != socket.AF_UNIX:
            return
        end = self._loop.time() + HEAD_WAIT_S
        # The kernel has no event for it.
        while not self._lost and self._loop.time() < end and _unread(sock.fileno()):  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    async def write(self, data: bytes) -> None:
        """Returns when the client has taken enough; ConnectionResetError when it is gone."""
        if self._head_unread:
            await self._until_head_is_read()
        if self._lost or self._transport.is_closing():
            raise ConnectionResetError("the client is gone")
        self._transport.write(data)
        await self._writable.wait()

    async def close(self, linger_s: float = LINGER_S) -> None:
        """Everything written reaches the client, then the connection ends.

        Closing a socket with unread input makes the kernel reset it, and the client may lose the
        last output: so end our half, and give the client a moment to end its own.
        """
        self._stop_watching()
        if self._lost or self._transport.is_closing():
            return
        try:
            if not self._ended and self._transport.can_write_eof():
                self._transport.write_eof()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(linger_s):
                        while await self.read():
                            pass
        finally:
            self._transport.close()


def _unread(descriptor: int) -> bool:
    """SIOCOUTQ: whether bytes that we sent are still in the socket."""
    if descriptor < 0:
        return False
    with contextlib.suppress(OSError, AttributeError):  # not every platform has it
        answer = fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4))
        return any(answer)
    return False


class Joiner:
    """Turns many small chunks into few large pieces without holding any back.

    `fill` runs beside the consumer; whatever came in while the consumer was writing is the next
    piece, at most about `JOIN_LIMIT` bytes.
    """

    def __init__(self, *, framed: bool) -> None:
        self._framed = framed
        self._pending: list[bytes] = []
        self._size = 0
        self._ready = asyncio.Event()
        self._room = asyncio.Event()
        self._done = False
        self._error: Exception | None = None

    async def fill(self, chunks: AsyncIterator[tuple[StreamId, bytes]]) -> None:
        """Until `chunks` ends; its error is raised in the consumer, behind what came before."""
        try:
            async for stream, data in chunks:
                await self._add(stream, data)
        except Exception as error:  # noqa: BLE001 - handed over, not swallowed
            self._error = error
        finally:
            self._done = True
            self._ready.set()

    async def _add(self, stream: StreamId, data: bytes) -> None:
        if not data:
            return
        if self._framed:
            self._pending.append(frame_header(stream, len(data)))
        self._pending.append(data)
        self._size += len(data)
        self._ready.set()
        if self._size >= JOIN_LIMIT:
            self._room.clear()
            await self._room.wait()

    async def pieces(self) -> AsyncIterator[bytes]:
        """Never empty ones."""
        while True:
            await self._ready.wait()
            self._ready.clear()
            if self._pending:
                piece = b"".join(self._pending)
                self._pending.clear()
                self._size = 0
                self._room.set()
                if self._done:
                    self._ready.set()
                yield piece
            elif self._done:
                if self._error is not None:
                    raise self._error
                return


def head(status: str, headers: Mapping[str, str]) -> bytes:
    """A raw answer's head."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode()


async def deliver(
    chunks: AsyncIterator[tuple[StreamId, bytes]],
    write: Callable[[bytes], Awaitable[None]],
    *,
    framed: bool,
) -> None:
    """Writes all of `chunks`, in large pieces; raises what either side raises."""
    joiner = Joiner(framed=framed)
    failure: Exception | None = None
    async with asyncio.TaskGroup() as group:
        filling = group.create_task(joiner.fill(chunks))
        try:
            async for piece in joiner.pieces():
                await write(piece)
        except Exception as error:  # noqa: BLE001 - raised below, outside the group's wrapping
            failure = error
        filling.cancel()
    if failure is not None:
        raise failure


async def serve(hijack: Hijack, stdio: Stdio, *, framed: bool, accepts_input: bool) -> None:
    """Until the output ends or the client is gone; closes both."""
    linger_s = 0.0
    try:
        async with asyncio.TaskGroup() as group:
            feeding = group.create_task(_feed(hijack, stdio, accepts_input=accepts_input))
            await _drain(hijack, stdio, framed=framed)
            feeding.cancel()
        linger_s = LINGER_S
    finally:
        try:
            await stdio.close()
        finally:
            await hijack.close(linger_s)


async def _drain(hijack: Hijack, stdio: Stdio, *, framed: bool) -> None:
    try:
        await deliver(stdio.output(), hijack.write, framed=framed)
    except ConnectionResetError:
        log.debug("the client left while output was on its way")
    except (APIError, OSError) as error:
        # The head is out: nothing can be said in words any more.
        log.warning("a stream ended early: %s", error)


async def _feed(hijack: Hijack, stdio: Stdio, *, accepts_input: bool) -> None:
    if accepts_input:
        try:
            while data := await hijack.read():
                await stdio.write(data)
            await stdio.close_input()
        except (APIError, OSError) as error:
            log.debug("the process takes no input: %s", error)
    # Keep reading what nobody wants: a full inbox would hide the client's going.
    while await hijack.read():
        pass


async def refuse(request: web.BaseRequest, status: int, message: str, content_type: str) -> Taken:
    """An error of attach: raw, plain text, and the connection ends (dockerd has hijacked by then)."""
    hijack = Hijack(connection_of(request))
    phrase = web.StreamResponse(status=status).reason
    start = head(f"{status} {phrase}", {"Content-Type": content_type})
    await hijack.write(start + message.encode() + b"\r\n")
    await hijack.close()
    return Taken()


def connection_of(request: web.BaseRequest) -> Connection:
    """The protocol that the request came in by."""
    connection = request.protocol
    if not isinstance(connection, Connection):
        raise TypeError("the request came in by another server")
    return connection
