"""Live streams of zone processes: `Stdio` over conmon's attach socket, over pipes, over a terminal.

No copy in between: a chunk goes from the kernel to whoever iterates `output`, and nobody reads ahead of
the consumer (inlet.py).  Who starts processes and connects sockets: conmon.py, execs.py.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
import termios
from collections.abc import AsyncIterator, Awaitable, Callable

from dockerapi.framing import StreamId
from gateway.hosts.inlet import Chunk, Inlet, Outlet, pipe
from gateway.hosts.linux.inlet import packets
from gateway.hosts.linux.replay import Replay
from gateway.zones.host import AttachStreams

# conmon silently cuts packets above 32 KiB: half of a 64 KiB packet never arrives.
_STDIN_PACKET = 32768


class AttachStdio:
    """One client of a zone's first process, made before or after the zone started.

    `connect` gives it conmon's socket, `abandon` ends it without one.  Where stdin stays open for the next
    client (`stdin_once` false), or on a terminal, the client's end of input ends its attach, as under dockerd.
    """

    def __init__(
        self,
        streams: AttachStreams,
        *,
        tty: bool,
        open_stdin: bool,
        stdin_once: bool,
        resize: Callable[[int, int], Awaitable[None]],
        replay: Replay | None = None,
    ) -> None:
        self._streams = streams
        self._replay = replay
        self._tty = tty
        self._takes_input = streams.stdin and open_stdin
        self._passes_eof = stdin_once and not tty
        # Without --leave-stdin-open conmon takes the leaving of *any* client as the end of stdin: a client
        # that has no part in stdin may therefore not leave while the zone runs.
        self._stays = open_stdin and stdin_once and not self._takes_input
        self._resize = resize
        self._socket: socket.socket | None = None
        self._inlet: Inlet | None = None
        self._outlet: Outlet | None = None
        self._decided = asyncio.Event()
        self._closed = False
        self._input_ended = False

    @property
    def tty(self) -> bool:
        """Whether the process runs on a terminal."""
        return self._tty

    @property
    def closed(self) -> bool:
        """Whether the client has left."""
        return self._closed

    @property
    def connected(self) -> bool:
        """Whether it was given a socket."""
        return self._inlet is not None

    def connect(self, sock: socket.socket) -> None:
        """Take conmon's socket, before the process starts, so that nothing is lost."""
        sock.setblocking(False)
        self._socket = sock
        receive = packets(sock) if self._replay is None else self._replay.receive(sock)
        self._inlet = Inlet({sock.fileno(): receive}, lambda _: self._release())
        if self._takes_input:
            self._outlet = Outlet(sock.fileno(), _STDIN_PACKET)
        self._decided.set()
        if self._input_ended:
            self._shut_input()
        if self._closed:  # while it waited for its turn
            self._leave(self._inlet)

    def _release(self) -> None:
        if self._outlet is not None:
            self._outlet.close()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def abandon(self) -> None:
        """There will be no process: output ends."""
        self._decided.set()

    def take_rest(self) -> None:
        """The process has died: read what is under way, whether the client does or not.

        conmon writes its exit file after its clients took everything: a client that stands still would
        hide the exit.
        """
        if self._inlet is not None:
            self._inlet.take_rest()

    async def output(self) -> AsyncIterator[Chunk]:
        """Chunks until the process has ended, or `close`."""
        try:
            if self._replay is not None:
                async for chunk in self._replay.past():
                    if self._closed:
                        return
                    yield chunk
            await self._decided.wait()
            if self._inlet is None:
                return
            while not self._closed and (chunks := await self._inlet.next()):
                for chunk in chunks:
                    data = chunk[1] if self._replay is None else await self._replay.new(chunk)
                    if data and self._wants(chunk[0]):
                        yield chunk[0], data
        finally:
            await self.close()

    def _wants(self, stream: StreamId) -> bool:
        return self._streams.stdout if stream is StreamId.STDOUT else self._streams.stderr

    async def write(self, data: bytes) -> None:
        """To stdin, in packets that conmon takes whole; dropped once the zone has stopped."""
        if not self._takes_input:
            return
        await self._decided.wait()
        if self._outlet is not None and not self._input_ended:
            await self._outlet.write(data)

    async def close_input(self) -> None:
        """The client's end of input: EOF for the process, or the end of this attach."""
        if not self._takes_input or self._input_ended:
            return
        self._input_ended = True
        if self._passes_eof:
            self._shut_input()
        else:
            await self.close()

    def _shut_input(self) -> None:
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_WR)
            except OSError:
                return  # conmon has gone

    async def resize(self, height: int, width: int) -> None:
        """Of the zone's terminal."""
        if self._tty:
            await self._resize(height, width)

    async def close(self) -> None:
        """Leave; the process runs on."""
        if self._closed:
            return
        self._closed = True
        self._decided.set()
        if self._inlet is not None:
            self._leave(self._inlet)

    def _leave(self, inlet: Inlet) -> None:
        if self._stays:
            inlet.discard()
        else:
            inlet.close()


class ProcessStdio:
    """The streams of an exec: pipes, or one terminal's master.

    Owns its descriptors.  `stdin`, `stdout`, `stderr` None = not attached; `terminal` excludes the others.
    """

    def __init__(
        self,
        *,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        terminal: int | None = None,
        takes_input: bool = True,
    ) -> None:
        self._tty = terminal is not None
        self._terminal = terminal
        self._stdin = stdin
        sources = {
            descriptor: pipe(descriptor, stream)
            for descriptor, stream in (
                (stdout, StreamId.STDOUT),
                (stderr, StreamId.STDERR),
                (terminal, StreamId.STDOUT),
            )
            if descriptor is not None
        }
        if stdin is not None:
            os.set_blocking(stdin, False)
        target = stdin if terminal is None else terminal
        self._outlet = Outlet(target) if target is not None and takes_input else None
        self._inlet = Inlet(sources, self._release)
        self._closed = False

    def _release(self, descriptor: int) -> None:
        if descriptor == self._terminal:
            self._terminal = None
            if self._outlet is not None:
                self._outlet.close()
        os.close(descriptor)

    @property
    def tty(self) -> bool:
        """Whether the process runs on a terminal."""
        return self._tty

    async def output(self) -> AsyncIterator[Chunk]:
        """Chunks until the process and all who inherited its streams ended, or `close`."""
        try:
            while not self._closed and (chunks := await self._inlet.next()):
                for chunk in chunks:
                    yield chunk
        finally:
            await self.close()

    async def write(self, data: bytes) -> None:
        """To stdin; dropped once nobody reads it."""
        if self._outlet is not None:
            await self._outlet.write(data)

    async def close_input(self) -> None:
        """EOF on stdin; a terminal stays open: its end is a character that the client types."""
        self._close_stdin()

    def _close_stdin(self) -> None:
        if self._stdin is None:
            return
        if self._outlet is not None:
            self._outlet.close()
        os.close(self._stdin)
        self._stdin = None

    async def resize(self, height: int, width: int) -> None:
        """Of the terminal."""
        if self._terminal is not None:
            size = struct.pack("HHHH", height, width, 0, 0)
            fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, size)

    async def close(self) -> None:
        """The client leaves: what the process still writes is read and forgotten."""
        if self._closed:
            return
        self._closed = True
        await self.close_input()
        self._inlet.discard()

    @property
    def ended(self) -> bool:
        """Whether every stream has ended."""
        return self._inlet.ended

    def end(self) -> None:
        """The process is long dead: let go of streams that its orphans keep open."""
        self._inlet.close()
        self._close_stdin()
