"""zoneadmd's thread for the standard streams of one running zone: its log, and its one client.

    process --> output --> logs/stdio.log (a record per read of 1 KiB)
                      \\--> the client of `zlogin -I`, if there is one; what it does not take is dropped
    client  --> input -->  process

Modes (zlog_mode): g logs, t has one stream that is a terminal, n has a logger in the zone, which is nothing here.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import socket
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

from dockerapi.framing import Stdio, StreamId

BUFSIZ = 1024
MIN_SIZE = 1 << 20
_ROOM = 64 << 10
# A real zlogin is quicker than zoneadmd's logging; a busy test machine may not be.
_PATIENCE_S = 2.0
_EOF_DELAY_S = 0.25
_WINDOW_S, _WINDOW_STEP_S = 2.0, 0.02
KEEPS_LAST_WORDS = "keeps-last-words"
"""A file in /var/run/zones: what a process writes last is only logged, as when the zone halts at that moment."""
_SOCKETS = ("server_ctl", "server_out", "server_err")


class Busy(Exception):
    """Another client has the streams: the process `pid`."""

    def __init__(self, pid: int) -> None:
        super().__init__(f"in use by {pid}")
        self.pid = pid


class Client:
    """One `zlogin -I`.  `eof`: its end is the end of the process's input."""

    def __init__(self, zoneadmd: Zoneadmd, pid: int, *, eof: bool) -> None:
        self.pid = pid
        self.eof = eof
        self._zoneadmd = zoneadmd
        self._chunks: deque[tuple[StreamId, bytes]] = deque()
        self._size = 0
        self._arrived = asyncio.Event()
        self._taken = asyncio.Event()
        self._gone = False
        self._stalled = False

    async def give(self, stream: StreamId, data: bytes) -> None:
        """Output, if it has room for it."""
        if self._size > _ROOM and not self._stalled:
            with suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE_S):
                    while self._size > _ROOM and not self._gone:
                        self._taken.clear()
                        await self._taken.wait()
        self._stalled = self._size > _ROOM
        if self._stalled or self._gone:
            return
        self._chunks.append((stream, data))
        self._size += len(data)
        self._arrived.set()

    def disconnect(self) -> None:
        """zoneadmd closes its ends; what is in the sockets can still be read."""
        self._gone = True
        self._arrived.set()
        self._taken.set()

    async def output(self) -> AsyncIterator[tuple[StreamId, bytes]]:
        """Until the connection is closed."""
        while self._chunks or not self._gone:
            if not self._chunks:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            chunk = self._chunks.popleft()
            self._size -= len(chunk[1])
            self._taken.set()
            yield chunk

    async def write(self, data: bytes) -> None:
        """To the process's standard input."""
        await self._zoneadmd.input(data)

    async def resize(self, height: int, width: int) -> None:
        """Of the terminal."""
        await self._zoneadmd.resize(height, width)

    def hang_up(self) -> None:
        """It has closed its sockets: zoneadmd lets go of them and listens anew."""
        self.disconnect()
        self._zoneadmd.hung_up(self)


class Zoneadmd:
    """For one run of a zone; `group` runs its work."""

    def __init__(
        self,
        zonepath: Path,
        *,
        log_format: str,
        mode: str,
        max_size: int,
        group: asyncio.TaskGroup,
    ) -> None:
        self.mode = mode
        self._group = group
        self._log = StdioLog(zonepath / "logs/stdio.log", log_format, max_size)
        self._sockets = zonepath.parents[1] / "var/run/zones"
        self._name = zonepath.name
        self._client: Client | None = None
        self._stdio: Stdio | None = None
        self._settled = asyncio.Event()
        self._window: tuple[int, int] | None = None
        self._silent = True

    @property
    def is_terminal(self) -> bool:
        """Whether the letter t is set."""
        return self.mode[-2:-1] == "t" or self.mode in ("int", "nlint")

    def serve(self, stdio: Stdio) -> None:
        """The streams of a zone that is about to start."""
        self._stdio = stdio
        self._sockets.mkdir(parents=True, exist_ok=True)
        for name in _SOCKETS:
            (self._sockets / f"{self._name}.{name}").touch()
        if self.mode.startswith("g"):
            self._log.open()
        self._group.create_task(self._run(stdio))
        if self.is_terminal:
            self._group.create_task(self._keep_window(stdio))

    async def settled(self) -> None:
        """The process has ended and its output was handled."""
        await self._settled.wait()

    def attach(self, pid: int, *, eof: bool) -> Client:
        """The one client; Busy if there is one."""
        if self._client is not None:
            raise Busy(self._client.pid)
        self._client = Client(self, pid, eof=eof)
        return self._client

    async def _run(self, stdio: Stdio) -> None:
        try:
            keeps = (self._sockets / KEEPS_LAST_WORDS).exists()
            last: list[tuple[StreamId, bytes]] = []
            async for stream, data in stdio.output():
                self._silent = False
                for start in range(0, len(data), BUFSIZ):
                    piece = data[start : start + BUFSIZ]
                    self._log.write(stream.name.lower(), piece)
                    last.append((stream, piece))
                    if not keeps or len(last) > 1:
                        await self._pass_on(*last.pop(0))
        finally:
            for name in _SOCKETS:
                (self._sockets / f"{self._name}.{name}").unlink(missing_ok=True)
            if self._client is not None:
                self._client.disconnect()
            self._client = None
            self._stdio = None
            self._log.close()
            self._settled.set()

    async def _pass_on(self, stream: StreamId, data: bytes) -> None:
        if self._client is not None:
            await self._client.give(stream, data)

    async def input(self, data: bytes) -> None:
        """Dropped where nobody reads it any more."""
        if self._stdio is not None:
            await self._stdio.write(data)

    async def resize(self, height: int, width: int) -> None:
        """TIOCSWINSZ.  The device keeps the size, whether a process has it open or not."""
        self._window = (height, width)
        if self._stdio is not None:
            await self._stdio.resize(height, width)

    async def _keep_window(self, stdio: Stdio) -> None:
        """The Linux host forgets the size of a terminal that is not there yet."""
        begun_s = time.monotonic()
        while self._stdio is stdio and (self._silent or time.monotonic() < begun_s + _WINDOW_S):
            if self._window is not None:
                await stdio.resize(*self._window)
            await asyncio.sleep(_WINDOW_STEP_S)

    def hung_up(self, client: Client) -> None:
        """POLLHUP."""
        if self._client is client:
            self._client = None
            if client.eof and not self.is_terminal:
                self._group.create_task(self._end_input())

    async def _end_input(self) -> None:
        await asyncio.sleep(_EOF_DELAY_S)
        if self._stdio is not None:
            await self._stdio.close_input()


class StdioLog:
    """stdio.log and its rotation; writes nothing unless `open`."""

    def __init__(self, path: Path, log_format: str, max_size: int) -> None:
        self._path = path
        self._format = log_format
        self._max_size = max(max_size, MIN_SIZE) if max_size else 0
        self._descriptor = -1
        self._size = 0

    def open(self, why: str = "open") -> None:
        """Append to what is there."""
        self._path.parent.mkdir(exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o600)
        self._size = os.fstat(self._descriptor).st_size
        self._own(why)

    def close(self, why: str = "close") -> None:
        """Not open is fine."""
        if self._descriptor >= 0:
            self._own(why)
            os.close(self._descriptor)
            self._descriptor = -1

    def _own(self, why: str) -> None:
        """A record about the file itself: newer platforms only."""
        if self._format == "new":
            self._append(self._record("logfile", why))

    def write(self, stream: str, data: bytes) -> None:
        """One read's worth."""
        if self._descriptor < 0:
            return
        # Each byte a character: those beyond ASCII become \\u00XX.
        self._append(self._record(stream, data.decode("latin-1")))
        if self._max_size and self._size > self._max_size:
            self._rotate()

    def _append(self, record: bytes) -> None:
        self._size += os.write(self._descriptor, record)

    def _record(self, stream: str, text: str) -> bytes:
        seconds, rest = divmod(time.time_ns() // 1000, 1_000_000)
        day = datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")
        told = json.dumps(text).replace("\x7f", "\\u007f")
        if self._format == "old":
            return f'{{"log":{told},"stream":"{stream}","time":"{day}.{rest * 1000}Z"}}\n'.encode()
        return (
            f'{{ "time": "{day}.{rest * 1000:09d}Z", "v": 0, "hostname": "{socket.gethostname()}", '
            f'"name": "zoneadmd","pid": {os.getpid()}, "level": 30, "msg":{told}, "stream":"{stream}" }}\n'
        ).encode()

    def _rotate(self) -> None:
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
        self._path.rename(self._path.with_name(f"{self._path.name}.{stamp}"))
        self.close("close-rotate")
        self.open("open-rotate")
