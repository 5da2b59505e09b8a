"""Standard streams of a zone's first process: one `zlogin -I`, fanned out to everybody who is attached.

    clients   --write-->  ZoneStreams  --stdin-->  zlogin -I  --socket-->  zoneadmd  -->  the process
    clients  <--queues--  ZoneStreams  <--stdout, stderr--  zlogin -I  <---  zoneadmd  --->  logs/stdio.log

zoneadmd has one client at most, does not wait for it (what it does not take at once is dropped), and lets it go when
its input ends.  So this side reads whatever comes, and what came while there was no connection is taken from the
log, which has everything (`LogTail`): the first moments, the time after the end of input, a reconnection, the last words
before the zone was down.  Without a log (driver none) these are lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from typing import Any

from dockerapi.errors import APIError, Conflict, Unavailable
from dockerapi.framing import StreamId
from gateway.hosts.smartos import attached
from gateway.hosts.smartos.attached import AttachStdio
from gateway.hosts.smartos.dockerinit import let_start, let_start_for_good
from gateway.hosts.smartos.globalzone import GlobalZone, Program
from gateway.hosts.smartos.logtail import Chunk, LogTail, Passed, joined, past
from gateway.hosts.smartos.zlogin import attach_argv, busy_process, server_socket
from gateway.zones.host import AttachStreams

__all__ = ["AttachStdio", "ZoneStreams"]

log = logging.getLogger(__name__)

_SOCKET_POLL_S = 0.1
_BOOT_S = 120.0
# zlogin tells nobody that it is connected, only (by its end) that it is not.
_CONFIRM_S = 0.15
_LOG_POLL_S = 0.15
_RECONNECT_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_BUSY_TRIES = 3
# At the end of input zoneadmd takes one more read of it, whatever there is: give it time to take what may be on its
# way.  zlogin writes byte by byte.
_DRAIN_S = 0.3
_DRAIN_BYTES_PER_S = 512 << 10
_ON_THE_WAY = {True: 256 << 10, False: 2 << 20}
"""By whether the global zone is this machine's: pipes, or pipes and the windows of an SSH channel."""
_DEFAULT_SIZE = (24, 80)
# How long a piece of the log waits for the slowest client.
_PATIENCE_S = 10.0
# zlogin looks for last output for 100 ms itself.
_LAST_WORDS_S = 1.0


class ZoneStreams:
    """The streams of one zone, over all its runs.

    `zonepath` as vmadm has it; `logged`: zoneadmd keeps a log (the letter g of zlog_mode); `root`: where the
    platform's own files are.  Life of a zone: `attach` as often as wanted, `connect` at each start and whenever an
    attach was made to a running zone (`begin` first, where that is not at once), `ended` at each stop, `close` when the zone is gone or the gateway ends.
    """

    def __init__(
        self,
        gz: GlobalZone,
        uuid: str,
        zonepath: str,
        *,
        tty: bool,
        group: asyncio.TaskGroup,
        open_stdin: bool = False,
        stdin_once: bool = False,
        logged: bool = True,
        root: str = "/",
        size: tuple[int, int] | None = None,
    ) -> None:
        self._gz = gz
        self._uuid = uuid
        self._zonepath = zonepath
        self._group = group
        self._root = root
        self.tty = tty
        self.open_stdin = open_stdin
        self.passes_eof = open_stdin and stdin_once and not tty
        """Whether the end of a client's input is one for the process."""
        self._size = size or _DEFAULT_SIZE
        self._clients: list[AttachStdio] = []
        self._log = LogTail(gz, zonepath) if logged else None
        # Whether the log's place is where the clients' output stands.
        self._placed = False
        self._place: Passed | None = None
        self._program: Program | None = None
        self._held: list[Chunk] | None = None
        self._logged: list[Chunk] = []
        self._eof_flag = False
        self._written = 0
        self._wrote_at = 0.0
        self._input_over = False
        self._keeper: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()
        self._connected = asyncio.Event()
        self._ended = asyncio.Event()
        self._ended.set()
        self._told_of_runs = False
        self._failure: APIError | None = None
        self._closed = False

    # -- for the host ----------------------------------------------------------------------------

    def attach(self, streams: AttachStreams, *, is_up: bool = False) -> AttachStdio:
        """One more client: output from now on, or from the next start.  `is_up`: `connect` follows."""
        client = AttachStdio(self, streams)
        if self._placed and self._log is not None:
            # What waits for a connection to be sure was taken from the log, but nobody had it yet.
            client.begins(self._log.passed() if self._held is None else self._place)
        elif not is_up:
            client.begins(None)
        self._clients.append(client)
        return client

    async def past(self, passed: Passed | None) -> AsyncIterator[Chunk]:
        """What the log has before a client's live output."""
        if self._log is not None:
            async for stream, data in past(self._gz, self._zonepath, passed):
                yield (StreamId.STDOUT if self.tty else stream), data

    @property
    def has_clients(self) -> bool:
        """Whether anybody is attached."""
        return bool(self._clients)

    def begin(self) -> None:
        """A run begins, or is seen: to be called before `connect` where that is left to a task of its own.

        Without it a `connect` that comes late would take an ended run for a new one.
        """
        self._told_of_runs = True
        self._new_run()

    def _new_run(self) -> None:
        self._ended.clear()
        self._input_over = False

    async def connect(self) -> None:
        """Streams flow when this returns, or nobody is attached; a zone that waits for it (`hold_start`) goes on.

        To be called when the zone is about to start, beside `vmadm start`, or while it runs.  Conflict if
        another process has the streams; Unavailable if the machine or zoneadmd cannot be reached: clients
        are let go then.
        """
        async with self._lock:
            if self._ended.is_set() and not self._told_of_runs:
                self._new_run()
            is_up = not self._ended.is_set() and not self._closed
            if self._clients and is_up:
                await self._open()
        if self._clients and is_up:
            await self._connected.wait()
        failure, self._failure = self._failure, None
        if held := await let_start(self._gz, self._zonepath):
            self._group.create_task(let_start_for_good(self._gz, self._zonepath, held, self._pause))
        if failure is not None:
            raise failure

    async def _open(self) -> None:
        if self._keeper is None or self._keeper.done():
            if self._log is not None and not self._placed:
                await self._log.start()
                self._placed = True
                for client in self._clients:
                    client.begins(self._log.passed())
            self._failure = None
            self._connected.clear()
            self._keeper = self._group.create_task(self._guarded(self._keep()))
        elif self._wants_eof() and not self._eof_flag and self._program is not None:
            # The connection was made for others: now the end of input must be one for the process.
            self._connected.clear()
            await self._program.close()

    def ended(self) -> None:
        """The zone has stopped: clients get the rest of its output, then their end.

        As under dockerd also where it is about to be started again.
        """
        self._ended.set()
        if not self._clients:
            self._placed = False
        elif self._keeper is None or self._keeper.done():
            self._keeper = self._group.create_task(self._guarded(self._finish()))

    async def resize(self, height: int, width: int) -> None:
        """At once where there is a connection, else with the next one."""
        self._size = (height, width)
        if self.tty and self._program is not None:
            await self._program.resize(height, width)

    async def close(self) -> None:
        """Clients are let go, the zone runs on."""
        self._closed = True
        self._let_go()
        self._ended.set()
        if self._program is not None:
            await self._program.close()
        self._connected.set()

    # -- for clients -----------------------------------------------------------------------------

    async def write(self, data: bytes) -> None:
        """To stdin, once there is a connection; dropped when there will be none."""
        while not self._closed and not self._input_over:
            await self._connected.wait()
            program = self._program
            if program is not None:
                self._written += len(data)
                await program.write(data)
                self._wrote_at = asyncio.get_running_loop().time()
                return
            if self._ended.is_set():
                return
            await self._pause(_SOCKET_POLL_S)

    async def end_input(self) -> None:
        """EOF for the process."""
        await self._connected.wait()
        if self._input_over:
            return
        queued = min(self._written, _ON_THE_WAY[self._gz.is_local])
        await self._pause(_DRAIN_S + queued / _DRAIN_BYTES_PER_S)
        self._input_over = True
        if self._program is not None:
            await self._program.close_input()

    async def left(self, client: AttachStdio) -> None:
        """A client has gone; the last one ends the connection, so that an admin's own zlogin finds it free."""
        with suppress(ValueError):
            self._clients.remove(client)
        if self._program is None:
            return
        # Under dockerd too a stdin that is opened once ends with the client that had it.
        orphaned = client.takes_input and self._eof_flag and not self._wants_eof()
        if orphaned:
            self._input_over = True
        if orphaned or not self._clients:
            # Who attaches meanwhile waits for the next connection.
            program, self._program = self._program, None
            self._connected.clear()
            try:
                await self._sent_on()
            finally:
                await program.close()

    async def _sent_on(self) -> None:
        """What somebody typed just before he left is in zlogin's terminal or pipe: ended now, it would lose that."""
        passed_s = asyncio.get_running_loop().time() - self._wrote_at
        if passed_s < _DRAIN_S:
            await self._pause(_DRAIN_S - passed_s)

    def _wants_eof(self) -> bool:
        return self.passes_eof and any(client.takes_input for client in self._clients)

    # -- the one connection ----------------------------------------------------------------------

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """Whatever is wrong with one zone's streams ends these, and not the gateway."""
        try:
            await work
        except Exception as error:
            log.exception("zone %s: its streams are lost", self._uuid)
            self._failure = APIError(f"the streams of zone {self._uuid} are lost: {error}")
            self._let_go()
            self._connected.set()

    async def _keep(self) -> None:
        """Connect, and connect again, while the zone runs and anybody is attached."""
        tries, ever = 0, False
        try:
            while self._clients and not self._ended.is_set():
                if self._input_over and self._log is not None:
                    self._connected.set()
                    await self._follow_log()
                    continue
                try:
                    connected = await self._session()
                except (Unavailable, Conflict) as error:
                    self._check(error, tries, ever=ever)
                    connected = False
                tries, ever = (0, True) if connected else (tries + 1, ever)
                await self._pause(_RECONNECT_S[min(tries, len(_RECONNECT_S) - 1)])
        except APIError as error:
            self._failure = error
            self._let_go()
        await self._finish()
        self._connected.set()

    def _check(self, error: Unavailable | Conflict, tries: int, *, ever: bool) -> None:
        """Whether to try again: raises if not."""
        # Who has the streams may be a zlogin of ours whose connection was lost, and that is about to end.
        if tries < (_BUSY_TRIES if isinstance(error, Conflict) else len(_RECONNECT_S)):
            return
        if not ever or (isinstance(error, Conflict) and self._log is None):
            raise error
        log.warning("zone %s: attach is interrupted: %s", self._uuid, error.message)
        if isinstance(error, Conflict):
            self._input_over = True  # the log still tells what it writes

    async def _pause(self, seconds: float) -> bool:
        """Until the zone has ended, at most so long; whether it has."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        return self._ended.is_set()

    async def _follow_log(self) -> None:
        """Output without a connection: zoneadmd has none for who has no more input."""
        while self._clients and not self._ended.is_set():
            await self._catch_up()
            await self._pause(_LOG_POLL_S)

    async def _finish(self) -> None:
        """The rest of the output, then the end, if the zone has ended."""
        if self._ended.is_set():
            try:
                if self._clients:
                    await self._catch_up()
            except APIError as error:
                log.warning("zone %s: its last output is not known: %s", self._uuid, error.message)
            self._let_go()
        if not self._clients:
            self._placed = False

    async def _catch_up(self) -> None:
        """By the log, which waits for its readers: but for none of them for ever."""
        while self._log is not None and self._placed and (chunks := await self._log.missing()):
            for stream, data in chunks:
                self._deliver(stream, data)
            self._place = self._log.passed()
            with suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE_S):
                    for client in tuple(self._clients):
                        await client.taken(attached.BEHIND_LIMIT // 4)

    def _let_go(self) -> None:
        clients, self._clients = self._clients, []
        for client in clients:
            client.end()

    def _deliver(self, stream: StreamId, data: bytes) -> None:
        stream = StreamId.STDOUT if self.tty else stream
        for client in tuple(self._clients):
            if not client.give(stream, data):
                log.warning("zone %s: an attached client reads too slowly: let go", self._uuid)
                self._clients.remove(client)

    async def _session(self) -> bool:
        """One connection from its beginning to its end; whether there was one.  Conflict, Unavailable."""
        if not await self._served():
            return False
        self._eof_flag = self._wants_eof() and not self._input_over
        self._written = 0
        program = await self._gz.spawn(
            attach_argv(self._uuid, eof=self._eof_flag),
            # Never /dev/null: zlogin would take its end for the end of everything.
            stdin=not self.tty,
            terminal=self._size if self.tty else None,
        )
        if self._log is not None and not self._logged:
            self._place = self._log.passed()
        self._held = []
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(self._confirm(program))
                async for stream, data in program.output():
                    self._received(stream, data)
                    await asyncio.sleep(0)  # where there is always more, clients get their turn too
                watch.cancel()
            return await self._over(program)
        finally:
            self._program = None
            if not self._input_over:
                self._connected.clear()  # who writes waits for the next one
            await program.close()

    def _received(self, stream: StreamId, data: bytes) -> None:
        if self._held is not None:
            self._held.append((stream, data))
            return
        if self._log is not None:
            self._log.had(StreamId.STDOUT if self.tty else stream, data)
        self._deliver(stream, data)

    async def _served(self) -> bool:
        """Wait for zoneadmd; False if the zone ends first."""
        path = server_socket(self._uuid, self._root)
        try:
            async with asyncio.timeout(_BOOT_S):
                while await self._gz.status(path) is None:
                    await self._pause(_SOCKET_POLL_S)
                    if self._ended.is_set():
                        return False
        except TimeoutError as error:
            raise Unavailable(f"zone {self._uuid}: zoneadmd does not serve its streams") from error
        return True

    async def _confirm(self, program: Program) -> None:
        """After a moment without refusal it is connected; and once the zone has ended it must not stay."""
        await self._pause(_CONFIRM_S)
        try:
            await self._release()
        except APIError as error:
            log.warning("zone %s: its log cannot be read: %s", self._uuid, error.message)
            await program.close()
            return
        self._program = program
        self._connected.set()
        await self._ended.wait()
        await asyncio.sleep(_LAST_WORDS_S)
        await program.close()

    async def _release(self) -> None:
        """Deliver what was held back, after what the log has before it."""
        # Kept outside: who is cancelled here loses nothing of it.
        while self._log is not None and (chunks := await self._log.missing()):
            self._logged += chunks
        held, self._held = self._held or [], None
        whole, beyond = joined(self._logged, held)
        self._logged = []
        for stream, data in beyond.items():
            if self._log is not None:
                self._log.had(stream, data)
        for stream, data in whole:
            self._deliver(stream, data)

    async def _over(self, program: Program) -> bool:
        """zlogin has ended: by the zone's end, by ours, or it never was connected (False)."""
        held = self._held
        code = await program.wait()
        if held is None:
            return True
        said = b"".join(data for _, data in held)
        if process := busy_process(said):
            raise Conflict(
                f"cannot attach to zone {self._uuid}: process {process} of the global zone has its standard streams"
            )
        if code > 0 and not self._ended.is_set():
            text = said.decode(errors="replace").strip() or f"exit status {code}"
            raise Unavailable(f"cannot attach to zone {self._uuid}: {text}")
        await self._release()
        return False
