"""The global zone as the host sees it, by protocol: programs to run, files to read and write, addresses to reach.

    local.py   on the machine itself, by hosts/command.py
    ssh.py     another machine's, by one multiplexed SSH connection that comes back after a drop

Everything of this host goes through here, so no other module knows where the platform is.  Paths are the
global zone's, absolute.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dockerapi.framing import StreamId


class Program(Protocol):
    """A program under way.  Its output is read at the reader's pace.

    On a terminal all output is `StreamId.STDOUT`.  When the connection to the machine is lost, `output`
    ends and `wait` raises Unavailable.
    """

    @property
    def tty(self) -> bool:
        """Whether it runs on a terminal of its own."""
        ...

    def output(self) -> AsyncIterator[tuple[StreamId, bytes]]:
        """Chunks of both streams until both have ended; to be iterated once."""
        ...

    async def write(self, data: bytes) -> None:
        """To its standard input, with back-pressure.  What it does not want any more is dropped."""
        ...

    async def close_input(self) -> None:
        """Standard input ends.  Nothing happens on a terminal."""
        ...

    async def resize(self, height: int, width: int) -> None:
        """Terminal size in characters; nothing happens without a terminal."""
        ...

    async def wait(self) -> int:
        """Its exit code, or the negative number of a signal.  For any number of callers."""
        ...

    async def kill(self, signal: str = "SIGKILL") -> None:
        """Signal it by name; nothing happens once it has ended."""
        ...

    async def close(self) -> None:
        """End it if it runs (SIGKILL), end `output`, let go of every descriptor.  May be called twice."""
        ...


@dataclass(frozen=True, slots=True)
class FileStatus:
    """What lstat(2) says.  `mtime_ns` since the epoch; `mode` with the type bits; `link` of a symlink, else ""."""

    size: int
    mode: int
    mtime_ns: int
    inode: int = 0
    link: str = ""


class GlobalZone(Protocol):
    """One SmartOS machine.  Unavailable is raised where it cannot be reached."""

    @property
    def name(self) -> str:
        """For messages and /info: `local`, or ssh://root@gz."""
        ...

    async def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
    ) -> bytes:
        """Standard output of a program that must succeed; `argv[0]` is looked up in the platform's PATH.

        CommandFailed (with the program's last line on standard error) if it does not, or takes longer: it is
        killed then, and when the caller is cancelled.
        """
        ...

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        stdin: bool = False,
        terminal: tuple[int, int] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Program:
        """Start a program whose streams are wanted as they come.

        `stdin` False: /dev/null.  `terminal` (height, width): all three streams are a terminal of that size.
        """
        ...

    async def read(
        self, path: str, *, offset: int = 0, size: int = -1, regular_only: bool = False
    ) -> bytes:
        """Bytes of a file from `offset` on, at most `size`.  NotFound.

        `regular_only` is for files that a running zone can change: a link, a fifo or a device in the place of the
        file is NotFound and blocks nothing.  Folders on the way are the caller's to look at.
        """
        ...

    async def write(self, path: str, data: bytes, *, mode: int = 0o600) -> None:
        """Replace a file atomically; its folder must be there (NotFound)."""
        ...

    async def upload(self, source: Path, path: str) -> None:
        """Copy a file of this machine into a new file there, mode 0600.  A failed copy leaves nothing."""
        ...

    async def status(self, path: str) -> FileStatus | None:
        """lstat; None if there is nothing."""
        ...

    async def names(self, folder: str) -> list[str]:
        """What a folder holds; NotFound."""
        ...

    async def make_folder(self, path: str) -> None:
        """With its parents; there already is fine."""
        ...

    async def remove(self, path: str) -> None:
        """A file; none is fine."""
        ...

    def locked(self, path: str) -> AbstractAsyncContextManager[None]:
        """Hold the lock of a lock file, which is made if it is not there, against programs of that machine.

        Unavailable if somebody else holds it for long.  Over SSH a program of that machine holds it (farlock.py).
        """
        ...

    async def connect(
        self, host: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A TCP connection as made from the global zone: straight, or through the SSH connection.  OSError."""
        ...

    @property
    def is_local(self) -> bool:
        """Whether files and addresses there are this machine's own."""
        ...

    async def close(self) -> None:
        """Let go; programs started here are ended."""
        ...
