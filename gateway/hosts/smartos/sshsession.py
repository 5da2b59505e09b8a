"""A program on the far side of an SSH connection: chunks out, bytes in, its pid, how it ended.

The command line says the program's pid before it becomes the program, since an sshd tells a program without a
terminal nothing when its channel closes: only kill(1) ends it.  Needs asyncssh.
"""

from __future__ import annotations

import asyncio
import re
import shlex
import signal as signals
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

import asyncssh

from dockerapi.errors import CommandFailed, InvalidParameter, Unavailable
from dockerapi.framing import StreamId

_HIGH_WATER = 1 << 20
_PIECE = 1 << 16
_MARK = b"zonegate-pid "
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def command_line(
    argv: Sequence[str], *, path: str, env: Mapping[str, str], stdin: bool = False
) -> str:
    """What the far login shell is told: say the pid, become the program.

    `path` is appended to the PATH there, which an sshd gives in its shortest form.  127 where the program is not.
    `stdin` False: /dev/null.
    """
    for name in env:
        if not _NAME.fullmatch(name):
            raise InvalidParameter(f"{name!r} is no name of a variable")
    exports = [f"{name}={shlex.quote(value)}" for name, value in env.items()]
    source = "" if stdin else " </dev/null"
    script = (
        f'PATH="$PATH":{shlex.quote(path)}; export PATH\n'
        + (f"export {' '.join(exports)}\n" if exports else "")
        + 'command -v "$1" >/dev/null || { echo "$1: not found in $PATH" >&2; exit 127; }\n'
        + f'echo "{_MARK.decode()}$$"\n'
        + f'exec "$@"{source}'
    )
    return f"exec {shlex.join(['/bin/sh', '-c', script, 'sh', *argv])}"


class Session(asyncssh.SSHClientSession[bytes]):
    """A program on the far side, from the channel's opening to its end.

    starting --(its pid)--> running --(exit status)--> ended
        `--(end without a pid)--> ended                connection lost: `lost` says so
    """

    def __init__(self, argv: Sequence[str], *, tty: bool = False, survives: bool = False) -> None:
        self.argv = tuple(argv)
        self.tty = tty
        self.survives = survives
        """Not ended when its connection is lost: what it has begun shall become whole (vmadm create)."""
        self.opened = False
        self.pid = 0
        self.status: int | None = None
        self.lost = False
        self.aborted = False
        self.on_closed: Callable[[], None] = lambda: None
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None
        self._head = bytearray()
        self._chunks: deque[tuple[StreamId, bytes]] = deque()
        self._waiting = 0
        self._output_ended = False
        self._writable = True
        self._event = asyncio.Event()

    def _wake(self) -> None:
        """Everybody who waits looks again."""
        event, self._event = self._event, asyncio.Event()
        event.set()

    # -- the channel's side

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        """The channel is open, the program not yet asked for."""
        self._channel = chan
        self.opened = True

    def data_received(self, data: bytes, datatype: int | None) -> None:
        """Output; before the pid, whatever the login shell has to say."""
        stream = StreamId.STDERR if datatype == asyncssh.EXTENDED_DATA_STDERR else StreamId.STDOUT
        if self.pid == 0 and stream is StreamId.STDOUT:
            data = self._find_pid(data)
        if data:
            self._chunks.append((stream, data))
            self._waiting += len(data)
            if self._waiting > _HIGH_WATER and self._channel is not None:
                self._channel.pause_reading()
        self._wake()

    def _find_pid(self, data: bytes) -> bytes:
        """What follows the line with the pid."""
        self._head += data
        start = self._head.find(_MARK)
        end = self._head.find(b"\n", start)
        if start < 0 or end < 0:
            return b""
        self.pid = int(self._head[start + len(_MARK) : end])
        rest = bytes(self._head[end + 1 :])
        self._head.clear()
        return rest

    def eof_received(self) -> bool:
        """Both streams have ended; the channel stays for the exit status."""
        self._output_ended = True
        self._wake()
        return True

    def exit_status_received(self, status: int) -> None:
        """It ended by itself."""
        self.status = status
        self._wake()

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        """A signal ended it; the number is this platform's."""
        known = signals.Signals.__members__.get(f"SIG{signal.partition('@')[0]}")
        self.status = -int(known or signals.SIGKILL)
        self._wake()

    def pause_writing(self) -> None:
        """The far side reads slowly."""
        self._writable = False

    def resume_writing(self) -> None:
        """And again."""
        self._writable = True
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """The channel is gone; without a status, so is the connection."""
        self._output_ended = True
        self.lost = self.status is None
        self._channel = None
        self._wake()
        self.on_closed()

    # -- the program's side

    @property
    def ended(self) -> bool:
        """Whether it is known how it ended, or that this will never be known."""
        return self.status is not None or self.lost

    @property
    def closed(self) -> bool:
        """Whether the channel is gone."""
        return self._channel is None

    async def started(self) -> None:
        """Its pid is known.  CommandFailed where there is no such program, Unavailable when the line is cut."""
        while not self.pid:
            if self._output_ended and self.ended:
                await self.wait()
                text = bytes(self._head) + b"".join(data for _, data in self._chunks)
                raise CommandFailed(
                    Path(self.argv[0]).name, self.status or 127, text.decode(errors="replace")
                )
            await self._event.wait()

    async def output(self) -> AsyncIterator[tuple[StreamId, bytes]]:
        """Chunks until both streams have ended."""
        while True:
            while self._chunks:
                stream, data = self._chunks.popleft()
                self._waiting -= len(data)
                yield stream, data
            if self._channel is not None:
                self._channel.resume_reading()
            if not self._chunks:
                if self._output_ended:
                    return
                await self._event.wait()

    async def write(self, data: bytes) -> None:
        """With back-pressure; dropped when nobody reads any more."""
        view = memoryview(data)
        while view:
            while not self._writable and self._channel is not None and not self.ended:
                await self._event.wait()
            if self._channel is None or self.ended or self._channel.is_closing():
                return
            self._channel.write(bytes(view[:_PIECE]))
            view = view[_PIECE:]

    def write_eof(self) -> None:
        """Its input ends."""
        if self._channel is not None:
            self._channel.write_eof()

    def resize(self, height: int, width: int) -> None:
        """Of its terminal."""
        if self._channel is not None:
            self._channel.change_terminal_size(width, height)

    async def wait(self) -> int:
        """How it ended; Unavailable if the connection did before."""
        while not self.ended:
            await self._event.wait()
        if self.status is None:
            program = Path(self.argv[0]).name
            raise Unavailable(
                f"{program} was let go of"
                if self.aborted
                else f"lost the connection to the global zone while {program} ran"
            )
        return self.status

    def abort(self) -> None:
        """Let go of the channel; the program is not told."""
        if self._channel is not None:
            self.aborted = True
            self._channel.abort()
