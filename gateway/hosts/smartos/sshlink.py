"""SSH connections to one machine: made, verified, counted, and made anew after a drop.

    Links ---- Link ---- Session, Session ...   programs over there (sshsession.py)
           |        |--- SFTP                   files (sshfiles.py)
           |        `--- TCP forwarded
           `-- Link ...     a further connection where the sshd takes no more sessions (MaxSessions, 10)

What was under way on a lost connection fails with Unavailable; the next use makes another connection.  Needs
asyncssh; `ssh.py` makes a global zone of this.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import asyncssh

from dockerapi.errors import APIError, CommandFailed, Unavailable
from dockerapi.framing import StreamId
from gateway.hosts.smartos.leftovers import PS, is_same, processes
from gateway.hosts.smartos.sshsession import Session, command_line
from gateway.settings import SmartOSSettings

log = logging.getLogger(__name__)
# It tells of every session.
logging.getLogger("asyncssh").setLevel(logging.WARNING)

CONNECT_TIMEOUT_S = 15.0
KEEPALIVE_S = 15
KEEPALIVES_LOST = 3
RETRIES_S = (0.0, 0.2, 0.4, 0.8, 1.6)
"""Waits before each try of a connection that is refused or lost: longer than a restart of the sshd takes."""
IDLE_S = 30.0
"""How long a further connection stays without use."""
FULL_S = 1.0
"""How long none is asked for a session that has refused one."""
END_TIMEOUT_S = 10.0
"""For the end of programs that nobody wants any more."""
_TRIES = 3
_FULL = (
    asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED,
    asyncssh.OPEN_CONNECT_FAILED,
    asyncssh.OPEN_RESOURCE_SHORTAGE,
)
_CLOSED = "SSH connection closed"

_Opened = TypeVar("_Opened")


def _is_refusal(error: Exception) -> bool:
    """Whether that may be one session too many."""
    return isinstance(error, asyncssh.ChannelOpenError) and error.code in _FULL


def _is_loss(error: Exception) -> bool:
    """Whether the connection is over: errors tell some turns of the loop before the connection does."""
    if isinstance(error, asyncssh.ChannelOpenError):
        return error.reason == _CLOSED
    return isinstance(error, (asyncssh.DisconnectError, ConnectionError))


def _not_connected(where: str, error: Exception) -> OSError:
    """As the system's calls would say it."""
    forbidden = asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED
    if isinstance(error, asyncssh.ChannelOpenError) and error.code == forbidden:
        reason = f"{where}: its sshd forbids forwarding (AllowTcpForwarding)"
        return PermissionError(errno.EACCES, reason)
    return ConnectionRefusedError(errno.ECONNREFUSED, f"{where}: {error}")


class Link:
    """One connection.  `full`: its sshd has just refused a session; `served`: it took one before."""

    def __init__(self, connection: asyncssh.SSHClientConnection) -> None:
        self.connection = connection
        self.sessions: set[Session] = set()
        self.others = 0
        """SFTP and forwarded connections."""
        self.full = False
        self.served = False
        self.lost = False

    @property
    def used(self) -> int:
        """What it carries."""
        return len(self.sessions) + self.others

    def refuse(self) -> None:
        """No further session for a while.

        Not until one has ended: an sshd counts a session for some moments after its channel has closed.
        """
        self.full = True
        asyncio.get_running_loop().call_later(FULL_S, self._admit)

    def _admit(self) -> None:
        self.full = False


class _Watcher(asyncssh.SSHClient):
    """Hears of the end of a connection, and of a host key that nobody vouches for."""

    def __init__(self) -> None:
        self.refused: asyncssh.SSHKey | None = None
        self.on_lost: Callable[[], None] = lambda: None

    def connection_lost(self, exc: Exception | None) -> None:
        """However it came."""
        self.on_lost()

    def validate_host_public_key(
        self, host: str, addr: str, port: int, key: asyncssh.SSHKey
    ) -> bool:
        """Asked only for keys that known_hosts does not have."""
        self.refused = key
        return False


class _Stream(asyncssh.SSHTCPSession[bytes]):
    """A forwarded connection as asyncio's streams: the channel has a transport's methods."""

    def __init__(self) -> None:
        self._reader = asyncio.StreamReader()
        self._protocol = asyncio.StreamReaderProtocol(self._reader)
        self._channel: asyncssh.SSHTCPChannel[bytes] | None = None
        self._on_lost: Callable[[], None] = lambda: None

    def connection_made(self, chan: asyncssh.SSHTCPChannel[bytes]) -> None:
        """Open."""
        self._channel = chan
        self._protocol.connection_made(cast("asyncio.Transport", chan))

    def data_received(self, data: bytes, datatype: int | None) -> None:
        """From the far side."""
        self._protocol.data_received(data)

    def eof_received(self) -> bool:
        """Its half is closed; ours stays open."""
        self._protocol.eof_received()
        return True

    def pause_writing(self) -> None:
        """The far side reads slowly."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """And again."""
        self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Closed, or lost: whoever reads knows the errors of sockets only."""
        if exc is not None and not isinstance(exc, OSError):
            exc = ConnectionResetError(errno.ECONNRESET, str(exc))
        self._protocol.connection_lost(exc)
        self._on_lost()

    def opened(
        self, link: Link, leave: Callable[[Link], None]
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Its two streams; the link carries it until it is lost."""
        transport = cast("asyncio.Transport", self._channel)

        def lost() -> None:
            link.others -= 1
            leave(link)

        link.others += 1
        self._on_lost = lost
        loop = asyncio.get_running_loop()
        return self._reader, asyncio.StreamWriter(transport, self._protocol, self._reader, loop)


class Links:
    """Connections to one machine, made as they are needed."""

    def __init__(self, settings: SmartOSSettings) -> None:
        parts = urlsplit(settings.host)
        self.name = settings.host
        self._host = parts.hostname or ""
        self._port = parts.port
        self._user = parts.username
        self._identity_file = settings.identity_file
        self._known_hosts = (settings.known_hosts or Path("~/.ssh/known_hosts")).expanduser()
        self._links: list[Link] = []
        self._lock = asyncio.Lock()
        self._sweeping = asyncio.Lock()
        self._failed: tuple[float, Unavailable] | None = None
        self._closed = False
        self._orphans: list[Session] = []

    # -- sessions

    async def session(
        self,
        session: Session,
        command: str,
        *,
        terminal: tuple[int, int] | None = None,
        sweep: bool = True,
    ) -> None:
        """Start a program; on return its pid is known.  CommandFailed, Unavailable.

        When the caller is cancelled meanwhile, what has begun is ended.
        """

        async def open_on(link: Link) -> None:
            link.sessions.add(session)
            session.on_closed = lambda: self._session_closed(link, session)
            try:
                await link.connection.create_session(
                    lambda: session,
                    command,
                    encoding=None,
                    request_pty="force" if terminal else False,
                    term_type="xterm" if terminal else None,
                    term_size=(terminal[1], terminal[0]) if terminal else (),
                )
            except BaseException:
                link.sessions.discard(session)
                self._leave(link)
                raise

        async def start() -> None:
            await self.channel(open_on, may_repeat=lambda: not session.opened, sweep=sweep)
            await session.started()

        starting = asyncio.get_running_loop().create_task(start())
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            with contextlib.suppress(APIError, TimeoutError):
                async with asyncio.timeout(END_TIMEOUT_S):
                    await starting
                await self.end([session])
            session.abort()
            raise

    def _session_closed(self, link: Link, session: Session) -> None:
        link.sessions.discard(session)
        if session.lost and session.pid and not session.aborted and not session.survives:
            self._orphans.append(session)
        self._leave(link)

    async def end(self, sessions: Sequence[Session]) -> None:
        """Kill the programs of these sessions that still run; on return they have ended, or are out of reach."""
        running = [session for session in sessions if session.pid and not session.ended]
        if not running:
            return
        try:
            async with asyncio.timeout(END_TIMEOUT_S):
                await self.kill("KILL", running)
                for session in running:
                    with contextlib.suppress(Unavailable):
                        await session.wait()
        except (TimeoutError, APIError) as error:
            log.warning("programs on %s may run on: %s", self.name, error)

    async def kill(self, signal: str, sessions: Sequence[Session]) -> None:
        """Send a signal, by its name without SIG; a program that has just ended is fine."""
        pids = [str(session.pid) for session in sessions if session.pid and not session.ended]
        if pids:
            with contextlib.suppress(CommandFailed):
                await self._read(["kill", f"-{signal}", *pids])

    async def _read(self, argv: Sequence[str]) -> str:
        """Output of a short program of ours."""
        session = Session(argv)
        command = command_line(argv, path="/usr/bin:/bin", env={})
        await self.session(session, command, sweep=False)
        text = [data async for stream, data in session.output() if stream is StreamId.STDOUT]
        if status := await session.wait():
            raise CommandFailed(argv[0], status, "")
        return b"".join(text).decode(errors="replace")

    async def _end_orphans(self) -> None:
        """What ran on a lost connection runs on, and a `zlogin -I` keeps its successor out."""
        orphans, self._orphans = self._orphans, []
        try:
            pids = ",".join(str(session.pid) for session in orphans)
            listed = await self._read([PS, "-o", "pid=", "-o", "args=", "-p", pids])
            shown = processes(listed)
            left = [str(s.pid) for s in orphans if is_same(shown.get(s.pid, ""), s.argv)]
            if left:
                log.info("ending %d programs of a lost connection", len(left))
                await self._read(["kill", "-KILL", *left])
        except CommandFailed:
            return  # so ps says that none of them runs, and kill that the last has just ended
        except BaseException:
            self._orphans += orphans
            raise

    # -- channels

    async def channel(
        self,
        open_on: Callable[[Link], Awaitable[_Opened]],
        *,
        may_repeat: Callable[[], bool] = lambda: True,
        sweep: bool = True,
    ) -> _Opened:
        """Open a channel on a connection that has room for it; Unavailable.

        A connection may turn out to be long lost: then on another one, if `may_repeat`.
        """
        losses = 0
        while True:
            if sweep:
                async with self._sweeping:
                    if self._orphans:
                        await self._end_orphans()
            link = self._with_room() or await self._more()
            proven = link.served or link.used > 0
            try:
                opened = await open_on(link)
            except (asyncssh.Error, OSError) as error:
                if link.lost or _is_loss(error):
                    self._lost(link)
                    losses += 1
                    if losses == _TRIES or not may_repeat():
                        raise self._unreachable("the connection was lost") from error
                elif _is_refusal(error) and proven:
                    link.refuse()
                else:
                    raise self._unreachable(f"its sshd refuses: {error}") from error
            else:
                link.served = True
                return opened

    async def connect(
        self, host: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A TCP connection as made from the far side.  OSError with the sshd's reason, Unavailable."""
        for _ in range(_TRIES):
            link = self._first() or await self._more()
            try:
                _, stream = await link.connection.create_connection(
                    _Stream, host, port, encoding=None
                )
            except (asyncssh.Error, OSError) as error:
                if not link.lost and not _is_loss(error):
                    raise _not_connected(f"{host}:{port} from {self.name}", error) from error
                self._lost(link)
            else:
                return cast("_Stream", stream).opened(link, self._leave)
        raise self._unreachable("the connection was lost")

    # -- connections

    def _first(self) -> Link | None:
        return next((link for link in self._links if not link.lost), None)

    def _with_room(self) -> Link | None:
        return next((link for link in self._links if not link.lost and not link.full), None)

    async def _more(self) -> Link:
        """A further connection, or one that has got room when it is our turn."""
        asked = time.monotonic()
        async with (
            self._lock
        ):  # one at a time: an sshd drops newcomers when there are many (MaxStartups)
            if link := self._with_room():
                return link
            if self._failed is not None and self._failed[0] > asked:
                raise self._failed[1]  # somebody has tried while we waited
            try:
                return await self._connect()
            except Unavailable as error:
                self._failed = (time.monotonic(), error)
                raise

    async def _connect(self) -> Link:
        reason = ""
        for delay_s in RETRIES_S:
            await asyncio.sleep(delay_s)
            if self._closed:
                break
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    return await self._connect_once()
            except TimeoutError:
                raise self._unreachable(f"no answer within {CONNECT_TIMEOUT_S:g} s") from None
            except (asyncssh.ConnectionLost, ConnectionError) as error:
                reason = str(error)
                log.debug("%s: %s", self.name, reason)
            except (
                asyncssh.Error,
                OSError,
                ValueError,
            ) as error:  # ValueError: keys and ~/.ssh/config
                raise self._unreachable(str(error)) from error
        raise self._unreachable(reason or "closed")

    def _unreachable(self, reason: str) -> Unavailable:
        return Unavailable(f"cannot reach the global zone {self.name}: {reason}")

    async def _connect_once(self) -> Link:
        watcher = _Watcher()
        given: dict[str, Any] = {}  # what is not said is for ~/.ssh/config to say
        if self._port is not None:
            given["port"] = self._port
        if self._user is not None:
            given["username"] = self._user
        if self._identity_file is not None:
            given["client_keys"] = [str(self._identity_file)]
        try:
            connection, _ = await asyncssh.create_connection(
                lambda: watcher,
                self._host,
                # Said in any case: `UserKnownHostsFile none` in ~/.ssh/config would trust every key.
                known_hosts=str(self._known_hosts) if self._known_hosts.exists() else b"",
                preferred_auth="publickey",
                agent_forwarding=False,
                keepalive_interval=KEEPALIVE_S,
                keepalive_count_max=KEEPALIVES_LOST,
                **given,
            )
        except asyncssh.HostKeyNotVerifiable as error:
            raise self._distrusted(watcher.refused, str(error)) from error
        except asyncssh.PermissionDenied as error:
            keys = self._identity_file or "~/.ssh"
            raise self._unreachable(f"it takes none of our keys ({keys}): {error}") from error
        link = Link(connection)
        watcher.on_lost = lambda: self._lost(link)
        self._links.append(link)
        log.info("connected to %s (%d)", self.name, len(self._links))
        return link

    def _distrusted(self, key: asyncssh.SSHKey | None, reason: str) -> Unavailable:
        if key is None:
            return self._unreachable(reason)
        shown = f"{key.get_algorithm()} {key.get_fingerprint()}"
        return self._unreachable(
            f"its host key ({shown}) is not in {self._known_hosts}, or another one is: compare the "
            "fingerprint with the machine's own before you put the key into that file"
        )

    def _lost(self, link: Link) -> None:
        link.lost = True
        if link in self._links:
            self._links.remove(link)
            if not self._closed:
                log.warning("lost a connection to %s", self.name)

    def _leave(self, link: Link) -> None:
        """A further connection that nothing uses is closed after a while."""
        if not link.used and link is not self._first() and not self._closed:
            asyncio.get_running_loop().call_later(IDLE_S, self._close_unused, link)

    def _close_unused(self, link: Link) -> None:
        if not link.used and not link.lost and link is not self._first():
            self._links.remove(link)
            link.lost = True
            link.connection.close()

    async def close(self) -> None:
        """End every program, then every connection."""
        await self.end([session for link in self._links for session in link.sessions])
        self._closed = True
        links, self._links = self._links, []
        for link in links:
            link.lost = True
            link.connection.close()
        for link in links:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_TIMEOUT_S):
                    await link.connection.wait_closed()
