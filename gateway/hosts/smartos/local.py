"""The global zone that this process runs in: programs by hosts/command.py, files by the system's own calls.

A program with a terminal is started by way of `_ON_TERMINAL`: posix_spawn alone can make no session with a
controlling terminal on every platform.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import signal as signals
import stat
import struct
import sys
import termios
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Self

from dockerapi.errors import (
    APIError,
    CommandFailed,
    Conflict,
    Forbidden,
    NotFound,
    Unavailable,
)
from dockerapi.framing import StreamId
from gateway.hosts.command import Child, Spawner, run
from gateway.hosts.inlet import Inlet, Outlet, pipe, widen
from gateway.hosts.smartos.globalzone import FileStatus

PLATFORM_PATH = (
    "/usr/bin",
    "/usr/sbin",
    "/sbin",
    "/usr/img/sbin",
    "/usr/node/bin",
    "/opt/local/bin",
    "/smartdc/bin",
)
"""Where the platform's programs are.  SMF and sshd give their children less."""
PROGRAMS_AT_ONCE = 32
"""Of those that `run` waits for: most are node's, with some 60 MB and a second of a CPU each."""

_LOCK_TIMEOUT_S = 30.0
_LOCK_POLL_S = 0.02

# Python leaves SIGPIPE and SIGXFSZ ignored; a program must not inherit that.
_ON_TERMINAL = (
    "import os, signal, sys\n"
    "os.login_tty(0)\n"
    "for n in (signal.SIGPIPE, signal.SIGXFSZ): signal.signal(n, signal.SIG_DFL)\n"
    "try: os.execv(sys.argv[1], sys.argv[2:])\n"
    "except OSError as e: print(sys.argv[2], e.strerror, sep=': '), sys.stdout.flush(), os._exit(127)\n"
)


def platform_path(root: str) -> list[str]:
    """Folders of the platform's programs, below `root` first where it is not /."""
    below = [root.rstrip("/") + folder for folder in PLATFORM_PATH] if root != "/" else []
    return [*below, *PLATFORM_PATH]


def terminal_size(descriptor: int, height: int, width: int) -> None:
    """Of a terminal, by its master; SIGWINCH follows."""
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))


class LocalProgram:
    """See `globalzone.Program`.  Owns its descriptors, by number in the child."""

    def __init__(self, child: Child, ours: Mapping[int, int], master: int | None) -> None:
        self._child = child
        self._master = master
        self._stdin = ours.get(0)
        streams = {1: StreamId.STDOUT, 2: StreamId.STDERR}
        sources = {fd: pipe(fd, streams[n]) for n, fd in ours.items() if n in streams}
        if master is not None:
            sources[master] = pipe(master, StreamId.STDOUT)
        if self._stdin is not None:
            os.set_blocking(self._stdin, False)
        target = self._stdin if master is None else master
        self._outlet = Outlet(target) if target is not None else None
        self._inlet = Inlet(sources, self._release)

    def _release(self, descriptor: int) -> None:
        if descriptor == self._master:
            self._master = None
            if self._outlet is not None:
                self._outlet.close()
        os.close(descriptor)

    @property
    def tty(self) -> bool:
        """Whether it was started on a terminal."""
        return self._stdin is None and self._outlet is not None

    @property
    def ended(self) -> bool:
        """Whether it has been reaped."""
        return self._child.ended

    async def output(self) -> AsyncIterator[tuple[StreamId, bytes]]:
        """Chunks until the program and all who inherited its streams ended, or `close`."""
        while chunks := await self._inlet.next():
            for chunk in chunks:
                yield chunk

    async def write(self, data: bytes) -> None:
        """To stdin; dropped once nobody reads it."""
        if self._outlet is not None:
            await self._outlet.write(data)

    async def close_input(self) -> None:
        """EOF on stdin; a terminal stays open."""
        if self._stdin is None:
            return
        if self._outlet is not None:
            self._outlet.close()
        os.close(self._stdin)
        self._stdin = None

    async def resize(self, height: int, width: int) -> None:
        """Of the terminal, while it is there."""
        if self._master is not None:
            terminal_size(self._master, height, width)

    async def wait(self) -> int:
        """Its exit code, or the negative number of a signal."""
        return await self._child.wait()

    async def kill(self, signal: str = "SIGKILL") -> None:
        """By name; nothing happens once it has ended."""
        self._child.kill(signals.Signals[signal])

    async def close(self) -> None:
        """End it if it runs, let go of its streams."""
        self._child.kill()
        self._inlet.close()
        await self.close_input()
        await self._child.wait()


class Turns:
    """Tasks of this process, one at a time for a path."""

    def __init__(self) -> None:
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    def of(self, path: str) -> asyncio.Lock:
        """The lock of a path, as long as somebody has it or waits for it."""
        return self._locks.setdefault(path, asyncio.Lock())


class LocalGlobalZone:
    """See `globalzone.GlobalZone`.  `root`: below it the platform's programs are looked for, too."""

    def __init__(self, root: str = "/") -> None:
        inherited = filter(None, os.environ.get("PATH", "").split(":"))
        self._path = ":".join(dict.fromkeys([*inherited, *platform_path(root)]))
        self._spawner = Spawner()
        self._places = asyncio.Semaphore(PROGRAMS_AT_ONCE)
        self._programs: set[LocalProgram] = set()
        self._turns = Turns()

    @property
    def name(self) -> str:
        """For messages."""
        return "local"

    @property
    def is_local(self) -> bool:
        """It is."""
        return True

    def _resolve(self, argv: Sequence[str]) -> list[str]:
        found = shutil.which(argv[0], path=self._path)
        if found is None:
            raise CommandFailed(Path(argv[0]).name, 127, f"{argv[0]}: not found in {self._path}")
        return [found, *argv[1:]]

    def _environment(self, env: Mapping[str, str] | None) -> dict[str, str]:
        return {**os.environ, "PATH": self._path, **(env or {})}

    async def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
    ) -> bytes:
        """Standard output of a program that must succeed; `env` is added to ours.  CommandFailed."""
        async with self._places:
            return await run(
                self._resolve(argv),
                timeout_s=timeout_s,
                stdin=stdin,
                env=self._environment(env),
                spawner=self._spawner,
            )

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        stdin: bool = False,
        terminal: tuple[int, int] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> LocalProgram:
        """Start a program; CommandFailed (127) if it cannot be."""
        command = self._resolve(argv)
        ours: dict[int, int] = {}
        theirs: dict[int, int] = {}
        master = None
        if terminal is None:
            ours, theirs = _pipes(stdin)
        else:
            master, slave = os.openpty()
            theirs = {0: slave}
            terminal_size(master, *terminal)
            command = [sys.executable, "-ISc", _ON_TERMINAL, command[0], *command]
        opened = [*ours.values(), *([master] if master is not None else [])]
        try:
            fds = theirs if terminal is None else dict.fromkeys(range(3), theirs[0])
            child = await self._spawner.spawn(command, env=self._environment(env), fds=fds)
        except BaseException as error:
            for descriptor in opened:
                os.close(descriptor)
            if isinstance(error, OSError):
                name = Path(argv[0]).name
                raise CommandFailed(name, 127, f"{argv[0]}: {error.strerror}") from error
            raise
        finally:
            for descriptor in theirs.values():
                os.close(descriptor)
        program = LocalProgram(child, ours, master)
        self._programs = {other for other in self._programs if not other.ended} | {program}
        return program

    async def read(
        self, path: str, *, offset: int = 0, size: int = -1, regular_only: bool = False
    ) -> bytes:
        """Bytes of a file.  NotFound; with `regular_only` also for what is there and no file."""
        return await asyncio.to_thread(_read, path, offset, size, regular_only)

    async def write(self, path: str, data: bytes, *, mode: int = 0o600) -> None:
        """Written aside, then renamed."""
        await _finished(lambda: _write(path, data, mode))

    async def upload(self, source: Path, path: str) -> None:
        """A copy, whole or not there; Conflict if `path` is."""
        await _finished(lambda: _copy(source, path), lambda: Path(path).unlink(missing_ok=True))

    async def status(self, path: str) -> FileStatus | None:
        """lstat; None if there is nothing."""
        return await asyncio.to_thread(_status, path)

    async def names(self, folder: str) -> list[str]:
        """What a folder holds; NotFound."""
        with worded(folder):
            return await asyncio.to_thread(os.listdir, folder)

    async def make_folder(self, path: str) -> None:
        """With its parents."""
        with worded(path):
            await asyncio.to_thread(os.makedirs, path, 0o755, True)

    async def remove(self, path: str) -> None:
        """A file; none is fine."""
        with worded(path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            await asyncio.to_thread(os.unlink, path)

    @contextlib.asynccontextmanager
    async def locked(self, path: str) -> AsyncIterator[None]:
        """By fcntl(2), which keeps other processes out; other tasks of this one wait for their turn."""
        async with self._turns.of(path):
            deadline = time.monotonic() + _LOCK_TIMEOUT_S
            while (descriptor := _try_lock(path)) is None:
                if time.monotonic() > deadline:
                    raise Unavailable(f"{path}: another program holds this lock")
                await asyncio.sleep(_LOCK_POLL_S)
            try:
                yield
            finally:
                os.close(descriptor)

    async def connect(
        self, host: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Straight."""
        return await asyncio.open_connection(host, port)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Programs started here are ended."""
        programs, self._programs = self._programs, set()
        for program in programs:
            await program.close()
        self._spawner.close()


def _pipes(stdin: bool) -> tuple[dict[int, int], dict[int, int]]:
    """Our ends and the program's, by its descriptor numbers."""
    ours: dict[int, int] = {}
    theirs: dict[int, int] = {}
    if stdin:
        theirs[0], ours[0] = os.pipe()
    for number in (1, 2):
        ours[number], theirs[number] = os.pipe()
    for descriptor in ours.values():
        widen(descriptor)
    return ours, theirs


@contextlib.contextmanager
def worded(path: str) -> Iterator[None]:
    """The system's errors as ours, with the path."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"{path}: {error.strerror}") from error
    except FileExistsError as error:
        raise Conflict(f"{path}: {error.strerror}") from error
    except PermissionError as error:
        raise Forbidden(f"{path}: {error.strerror}") from error
    except OSError as error:
        raise APIError(f"{path}: {error.strerror or error}") from error


def _read(path: str, offset: int, size: int, regular_only: bool) -> bytes:
    with worded(path), _opened(path, regular_only) as file:
        file.seek(offset)
        return file.read(size)


def _opened(path: str, regular_only: bool) -> IO[bytes]:
    if not regular_only:
        return Path(path).open("rb")
    # A fifo does not wait for its writer with O_NONBLOCK; a file does not mind it.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EOPNOTSUPP):  # a link, a socket
            raise NotFound(f"{path}: no regular file") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotFound(f"{path}: no regular file")
    return os.fdopen(descriptor, "rb")


def _try_lock(path: str) -> int | None:
    """A descriptor that holds the lock until it is closed; None if somebody else has it."""
    with worded(path):
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who had it before may have taken the file away: then this is nobody's lock any more.
            if os.path.samestat(os.fstat(descriptor), Path(path).stat()):
                return descriptor
        except (BlockingIOError, PermissionError, FileNotFoundError):
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None


def _write(path: str, data: bytes, mode: int) -> None:
    aside = f"{path}.{secrets.token_hex(4)}"
    with worded(path):
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(file.fileno(), mode)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(aside).rename(path)
        except BaseException:
            Path(aside).unlink(missing_ok=True)
            raise


def _copy(source: Path, path: str) -> None:
    with worded(str(source)):
        original = source.open("rb")
    with original, worded(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                shutil.copyfileobj(original, file, 1 << 20)
        except BaseException:
            Path(path).unlink(missing_ok=True)
            raise


def _status(path: str) -> FileStatus | None:
    try:
        with worded(path):
            found = os.lstat(path)
            link = str(Path(path).readlink()) if stat.S_ISLNK(found.st_mode) else ""
    except NotFound:
        return None
    return FileStatus(found.st_size, found.st_mode, found.st_mtime_ns, found.st_ino, link)


async def _finished(act: Callable[[], None], undo: Callable[[], None] = lambda: None) -> None:
    """Runs `act` in a thread to its end, also when the caller is cancelled meanwhile: `undo` follows then."""
    work = asyncio.get_running_loop().run_in_executor(None, act)
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        if work.exception() is None:
            undo()
        raise
