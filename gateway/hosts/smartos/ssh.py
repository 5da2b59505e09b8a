"""The global zone of another machine: programs, files and addresses through SSH.

The connections are sshlink.py's, files sshfiles.py's.  They need asyncssh, which is imported when a global zone
is opened and not before, so that everything else runs without it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from dockerapi.errors import CommandFailed, NotSupported
from dockerapi.framing import StreamId
from gateway.hosts.smartos import farlock
from gateway.hosts.smartos.globalzone import FileStatus
from gateway.hosts.smartos.local import PROGRAMS_AT_ONCE, Turns, platform_path
from gateway.settings import SmartOSSettings

if TYPE_CHECKING:
    from gateway.hosts.smartos.sshfiles import Files
    from gateway.hosts.smartos.sshlink import Links
    from gateway.hosts.smartos.sshsession import Session

_MOVE_TIMEOUT_S = 60.0
_FIRST_TIMEOUT_S = 60.0


class SSHProgram:
    """See `globalzone.Program`."""

    def __init__(self, session: Session, links: Links) -> None:
        self._session = session
        self._links = links

    @property
    def tty(self) -> bool:
        """Whether it was started on a terminal."""
        return self._session.tty

    def output(self) -> AsyncIterator[tuple[StreamId, bytes]]:
        """Chunks until the program and all who inherited its streams ended, `close`, or the connection's loss."""
        return self._session.output()

    async def write(self, data: bytes) -> None:
        """To stdin; dropped once nobody reads it."""
        await self._session.write(data)

    async def close_input(self) -> None:
        """EOF on stdin; a terminal stays open."""
        if not self._session.tty:
            self._session.write_eof()

    async def resize(self, height: int, width: int) -> None:
        """Of the terminal."""
        if self._session.tty:
            self._session.resize(height, width)

    async def wait(self) -> int:
        """Its exit code, or the negative number of a signal; Unavailable if the connection is lost before."""
        return await self._session.wait()

    async def kill(self, signal: str = "SIGKILL") -> None:
        """By name, as the machine there knows it; nothing happens once it has ended."""
        await self._links.kill(signal.removeprefix("SIG"), [self._session])

    async def close(self) -> None:
        """End it if it runs, let go of its streams."""
        await self._links.end([self._session])
        self._session.abort()


class SSHGlobalZone:
    """See `globalzone.GlobalZone`.  Made by `open`."""

    def __init__(self, settings: SmartOSSettings, links: Links, files: type[Files]) -> None:
        self._name = settings.host
        self._path = ":".join(platform_path(settings.root))
        self._links = links
        self._files = files(links, self._move)
        self._places = asyncio.Semaphore(PROGRAMS_AT_ONCE)
        self._turns = Turns()

    @classmethod
    async def open(cls, settings: SmartOSSettings) -> Self:
        """Connected.  NotSupported without the extra `ssh`; Unavailable says what is wrong with the connection."""
        try:
            from gateway.hosts.smartos.sshfiles import Files  # noqa: PLC0415
            from gateway.hosts.smartos.sshlink import Links  # noqa: PLC0415
        except ModuleNotFoundError as error:
            if error.name != "asyncssh":
                raise
            raise NotSupported(
                "a global zone over SSH needs asyncssh: pip install 'zonegate[ssh]'"
            ) from error
        links = Links(settings)
        gz = cls(settings, links, Files)
        try:
            await gz.run(["true"], timeout_s=_FIRST_TIMEOUT_S)
        except BaseException:
            await links.close()
            raise
        return gz

    @property
    def name(self) -> str:
        """ssh://root@gz."""
        return self._name

    @property
    def is_local(self) -> bool:
        """It is not."""
        return False

    async def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
    ) -> bytes:
        """Standard output of a program that must succeed; `env` is added to that of the login there.

        CommandFailed, Unavailable.  A program that takes too long, or that nobody waits for any more, is killed;
        one whose connection is lost goes on to its end.
        """
        async with self._places:
            try:
                async with asyncio.timeout(timeout_s):
                    return await self._run(argv, stdin, env or {})
            except TimeoutError as error:
                raise CommandFailed(
                    Path(argv[0]).name, -1, f"no end within {timeout_s:g} s"
                ) from error

    async def _run(self, argv: Sequence[str], stdin: bytes, env: Mapping[str, str]) -> bytes:
        session = await self._start(argv, stdin=bool(stdin), terminal=None, env=env, survives=True)
        found: dict[StreamId, list[bytes]] = {StreamId.STDOUT: [], StreamId.STDERR: []}
        try:
            async with asyncio.TaskGroup() as group:
                if stdin:
                    group.create_task(_feed(session, stdin))
                async for stream, data in session.output():
                    found[stream].append(data)
                status = await session.wait()
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        finally:
            await self._links.end([session])
            session.abort()
        if status:
            errors = b"".join(found[StreamId.STDERR]).decode(errors="replace")
            raise CommandFailed(Path(argv[0]).name, status, errors)
        return b"".join(found[StreamId.STDOUT])

    async def _start(
        self,
        argv: Sequence[str],
        *,
        stdin: bool,
        terminal: tuple[int, int] | None,
        env: Mapping[str, str],
        survives: bool = False,
    ) -> Session:
        from gateway.hosts.smartos.sshsession import Session, command_line  # noqa: PLC0415

        session = Session(argv, tty=terminal is not None, survives=survives)
        command = command_line(argv, path=self._path, env=env, stdin=stdin or terminal is not None)
        await self._links.session(session, command, terminal=terminal)
        return session

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        stdin: bool = False,
        terminal: tuple[int, int] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> SSHProgram:
        """Start a program; CommandFailed (127) if there is none, Unavailable.

        It counts against the sshd's sessions as long as it runs; further connections are made for more.
        """
        session = await self._start(argv, stdin=stdin, terminal=terminal, env=env or {})
        return SSHProgram(session, self._links)

    async def _move(self, source: str, target: str) -> None:
        await self.run(["mv", "-f", source, target], timeout_s=_MOVE_TIMEOUT_S)

    async def read(
        self, path: str, *, offset: int = 0, size: int = -1, regular_only: bool = False
    ) -> bytes:
        """Bytes of a file.  NotFound; `regular_only` as far as SFTP allows, see sshfiles.py."""
        return await self._files.read(path, offset, size, regular_only=regular_only)

    async def write(self, path: str, data: bytes, *, mode: int = 0o600) -> None:
        """Written aside, then renamed."""
        await self._files.write(path, data, mode)

    async def upload(self, source: Path, path: str) -> None:
        """A copy, whole or not there; Conflict if `path` is."""
        await self._files.upload(source, path)

    async def status(self, path: str) -> FileStatus | None:
        """lstat, as much of it as SFTP knows: whole seconds, no inode.  None if there is nothing."""
        return await self._files.status(path)

    async def names(self, folder: str) -> list[str]:
        """What a folder holds; NotFound."""
        return await self._files.names(folder)

    async def make_folder(self, path: str) -> None:
        """With its parents."""
        await self._files.make_folder(path)

    async def remove(self, path: str) -> None:
        """A file; none is fine."""
        await self._files.remove(path)

    @contextlib.asynccontextmanager
    async def locked(self, path: str) -> AsyncIterator[None]:
        """By a program there, see farlock.py; other tasks of this process wait for their turn."""
        async with self._turns.of(path), farlock.held(self, path):
            yield

    async def connect(
        self, host: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Through the SSH connection.  OSError with the sshd's reason."""
        return await self._links.connect(host, port)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Programs started here are ended, connections closed."""
        await self._links.close()


async def _feed(session: Session, data: bytes) -> None:
    await session.write(data)
    session.write_eof()
