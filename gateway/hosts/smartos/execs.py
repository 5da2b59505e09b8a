"""Further processes in a running zone: zlogin with dockerexec, with the platform's bash, or with the zone's su.

    as the zone's own user            zlogin U dockerexec COMMAND
      with --env or --workdir         zlogin U dockerexec [env K=V] bash WRAPPER COMMAND
    as root                           zlogin U env -i K=V bash WRAPPER COMMAND
    as another user of the zone       zlogin U env -i K=V bash WRAPPER su USER env -i K=V bash WRAPPER COMMAND
    in a zone without dockerinit      zlogin U [env K=V] bash WRAPPER COMMAND

dockerexec and the wrapper tell on standard error when the command itself begins (`EXEC`), or why it does not.
As under dockerd an exec outlives its client.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from functools import partial

from dockerapi.errors import APIError, CommandFailed, NotSupported, StartFailure
from dockerapi.framing import StreamId
from gateway.hosts.smartos.dockerinit import EXEC_PREFIX, exec_failure, fatal, message
from gateway.hosts.smartos.globalzone import GlobalZone, Program
from gateway.hosts.smartos.users import ExecUser, exec_user
from gateway.hosts.smartos.zlogin import (
    accounts_argv,
    as_user,
    command_argv,
    native,
    su_seen,
    wrapped,
)
from gateway.zones.host import Process, Zone

log = logging.getLogger(__name__)

_START_TIMEOUT_S = 60.0
_KILL_TIMEOUT_S = 30.0
_QUEUE = 64
_DEFAULT_SIZE = (24, 80)
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Of a login in images of SmartOS: what pkgsrc installs is in /opt/local.
_FULL_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/opt/local/sbin:/opt/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SAID_LIMIT = 65536
_MACHINES = ("kvm", "bhyve")
_ACCOUNTS = ("", "/etc", "/etc/passwd", "/etc/group")
"""What is mounted there hides the files of the zone's root."""

Chunk = tuple[StreamId, bytes]


class Preamble:
    """Takes the lines of dockerexec and the wrapper out of a stream, `stages` times up to `EXEC`."""

    def __init__(self, stages: int) -> None:
        self._stages = stages
        self._rest = b""
        self.said = b""
        """What was taken out, the last 64 KiB of it."""
        self.failure: tuple[int, str] | None = None
        """Code and text, if the command could not be started."""
        self.pid = 0
        """Of the command, where the wrapper told it."""

    @property
    def over(self) -> bool:
        """Whether the command has begun: everything that comes now is its own."""
        return self._stages == 0

    def feed(self, data: bytes) -> bytes:
        """What of `data` is the command's own."""
        if not self._stages:
            return data
        self._rest += data
        while self._stages and b"\n" in self._rest:
            line, _, self._rest = self._rest.partition(b"\n")
            self.said = (self.said + line + b"\n")[-_SAID_LIMIT:]
            self._see(line.decode(errors="replace"))
        if self._stages:
            return b""
        own, self._rest = self._rest, b""
        return own

    def _see(self, line: str) -> None:
        self.failure = fatal(line) or self.failure
        words = (message(line) or "").split(" ")
        if words[0] == "EXEC" and len(words) <= 2:
            self._stages -= 1
            self.pid = int(words[1]) if len(words) == 2 and words[1].isdigit() else 0

    def text(self) -> str:
        """The last line said, for a failure that has no code."""
        lines = (self.said + self._rest).decode(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else ""


class ExecStdio:
    """The streams of an exec; see `dockerapi.framing.Stdio`."""

    def __init__(self, program: Program, process: Process) -> None:
        self._program = program
        self._process = process
        self._chunks: asyncio.Queue[Chunk | None] = asyncio.Queue(_QUEUE)
        self._closed = asyncio.Event()

    @property
    def tty(self) -> bool:
        """Whether the process runs on a terminal."""
        return self._process.tty

    async def put(self, chunk: Chunk | None) -> None:
        """At the reader's pace; None is the end.  Dropped once it has left."""
        if self._closed.is_set() or (chunk is not None and not self._wants(chunk[0])):
            return
        async with asyncio.TaskGroup() as group:
            put = group.create_task(self._chunks.put(chunk))
            left = group.create_task(self._closed.wait())
            await asyncio.wait([put, left], return_when=asyncio.FIRST_COMPLETED)
            put.cancel()
            left.cancel()

    def _wants(self, stream: StreamId) -> bool:
        if self._process.tty:
            return self._process.attach_stdout or self._process.attach_stderr
        if stream is StreamId.STDOUT:
            return self._process.attach_stdout
        return self._process.attach_stderr

    async def output(self) -> AsyncIterator[Chunk]:
        """Chunks until the process ended, or `close`."""
        try:
            while not self._closed.is_set() and (chunk := await self._chunks.get()) is not None:
                yield chunk
        finally:
            await self.close()

    async def write(self, data: bytes) -> None:
        """To stdin."""
        if self._process.attach_stdin:
            await self._program.write(data)

    async def close_input(self) -> None:
        """EOF on stdin; a terminal stays open."""
        if self._process.attach_stdin and not self._process.tty:
            await self._program.close_input()

    async def resize(self, height: int, width: int) -> None:
        """Of the terminal."""
        await self._program.resize(height, width)

    async def close(self) -> None:
        """The client leaves: what the process still writes is read and forgotten."""
        if self._closed.is_set():
            return
        self._closed.set()
        await self.close_input()
        while not self._chunks.empty():
            self._chunks.get_nowait()
        self._chunks.put_nowait(None)


class Exec:
    """A process that runs, or ran; see `gateway.zones.host.ZoneProcess`."""

    def __init__(
        self,
        gz: GlobalZone,
        program: Program,
        process: Process,
        streams: int,
        killer: Callable[[int], Sequence[str]],
    ) -> None:
        self._gz = gz
        self._killer = killer
        self._program = program
        self._process = process
        self._preamble = Preamble(streams)
        self._streams = ExecStdio(program, process)
        self._begun = asyncio.Event()
        self._ended = False

    @property
    def pid(self) -> int:
        """In the global zone, where a wrapper told it; 0 if it is not known, and once it has ended."""
        return 0 if self._ended else self._preamble.pid

    @property
    def stdio(self) -> ExecStdio | None:
        """None when detached."""
        process = self._process
        attached = process.attach_stdin or process.attach_stdout or process.attach_stderr
        return self._streams if attached else None

    async def wait(self) -> int:
        """Its exit code; 128+n for a signal.  Unavailable if the connection to the machine is lost."""
        status = await self._program.wait()
        return 128 - status if status < 0 else status

    async def kill(self) -> None:
        """The process in the zone: zlogin's own end would let it live on."""
        if not self.pid:
            return
        with suppress(CommandFailed):  # it has just ended
            await self._gz.run(self._killer(self.pid), timeout_s=_KILL_TIMEOUT_S)

    async def begin(self, group: asyncio.TaskGroup) -> None:
        """Returns once the command itself runs (or ran).  StartFailure in dockerd's words."""
        group.create_task(self._pump())
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                await self._begun.wait()
        except BaseException as error:
            await self._program.close()
            if isinstance(error, TimeoutError):
                text = f"no answer within {_START_TIMEOUT_S:g} s"
                raise StartFailure(f"{EXEC_PREFIX}{text}", 128) from error
            raise
        if not self._preamble.over:
            raise await self._failure()

    async def _failure(self) -> APIError:
        code = await self.wait()
        if self._preamble.failure is not None:
            return exec_failure(*self._preamble.failure)
        text = self._preamble.text() or f"zlogin ended with {code} before the command began"
        return StartFailure(f"{EXEC_PREFIX}{text}", 126 if code == 126 else 128)

    async def _pump(self) -> None:
        """Everything that the program writes, to its client or to nobody."""
        early: list[Chunk] = []
        marked = StreamId.STDOUT if self._process.tty else StreamId.STDERR
        if self.stdio is None:
            await self._streams.close()
        try:
            async for stream, data in self._program.output():
                own = self._preamble.feed(data) if stream is marked else data
                if not self._preamble.over:
                    early += [(stream, own)] if own else []
                    continue
                for chunk in (*early, (stream, own)):
                    if chunk[1]:
                        self._begun.set()
                        await self._streams.put(chunk)
                early = []
                self._begun.set()
        finally:
            self._begun.set()
        await self._streams.put(None)
        try:
            await self._program.wait()
        except APIError:
            return  # told to whoever waits for it
        finally:
            self._ended = True
            await self._program.close()


async def exec(
    gz: GlobalZone, zone: Zone, process: Process, *, group: asyncio.TaskGroup, root: str = "/"
) -> Exec:
    """Run a further process in a running zone.

    `group` outlives the call: the exec goes on in it.  StartFailure, InvalidParameter in dockerd's words;
    NotSupported where zlogin has no way.
    """
    if zone.spec.brand in _MACHINES:
        raise NotSupported(
            f"exec is not possible in a {zone.spec.brand} zone: it is a machine, not processes of this one"
        )
    if process.privileged:
        raise NotSupported(
            "privileged exec is not supported on SmartOS: the privileges of a zone hold for all of its processes"
        )
    zonepath = zone_path(zone)
    sees_su = await su_seen(gz, zonepath, root)
    command, stages = await _command(gz, zone, zonepath, process, sees_su=sees_su)
    argv = command_argv(zone.uuid, command, tty=process.tty, su=not process.tty and sees_su)
    size = process.console_size or _DEFAULT_SIZE
    program = await gz.spawn(
        argv, stdin=process.attach_stdin, terminal=size if process.tty else None
    )
    run = Exec(gz, program, process, stages, partial(_kill_argv, zone, sees_su))
    await run.begin(group)
    return run


def _kill_argv(zone: Zone, su: bool, pid: int) -> list[str]:
    """Of a program that ends a process from inside the zone: no number can mean anything outside of it."""
    bash = native(zone.spec.brand, "/usr/bin/bash")
    return command_argv(zone.uuid, [bash, "-c", f"kill -KILL {pid}"], tty=False, su=su)


def zone_path(zone: Zone) -> str:
    """Of a zone whose root the host knows."""
    return zone.root.removesuffix("/root")


async def _command(
    gz: GlobalZone, zone: Zone, zonepath: str, process: Process, *, sees_su: bool
) -> tuple[Sequence[str], int]:
    """What zlogin shall execute, and how many times `EXEC` is said before the command's own output."""
    brand, metadata = zone.spec.brand, zone.metadata
    is_docker = bool(getattr(zone.spec, "docker", False))
    is_own = not process.user or (is_docker and process.user == metadata.user)
    if is_own and is_docker:
        dockerexec = native(brand, "/usr/vm/sbin/dockerexec")
        # A process that is to be killed must be known by its pid, which only the wrapper tells.
        if not (process.env or process.workdir or process.killable):
            return [dockerexec, *process.argv], 1
        inner = wrapped(brand, process.argv, env=process.env, workdir=process.workdir)
        return [dockerexec, *inner], 2

    async def inside(entry: str) -> tuple[bytes, bytes]:
        argv = command_argv(zone.uuid, accounts_argv(brand, entry), tty=False, su=sees_su)
        try:
            said = await gz.run(argv, timeout_s=_START_TIMEOUT_S)
        except CommandFailed as failed:  # zlogin's own su finds no root there
            log.warning("zone %s: its accounts: %s", zone.uuid, failed.message)
            return b"", b""
        passwd, _, group = said.partition(b"\0")
        return passwd, group

    covered = any(one.target.rstrip("/") in _ACCOUNTS for one in zone.spec.filesystems)
    user = await exec_user(gz, zonepath, process.user, inside, covered=covered)
    environment = _environment(zone, process, user)
    workdir = process.workdir or (metadata.workdir if is_docker else "")
    inner = wrapped(brand, process.argv, env=environment, workdir=workdir, clear=is_docker)
    if user.uid == 0:
        return inner, 1
    if not user.can_switch:
        raise NotSupported(
            f"exec as {process.user} needs the program su in the zone's own image: SmartOS has no other way"
        )
    outer = as_user(brand, user.name, inner)
    return wrapped(brand, outer, env=[_FULL_PATH], clear=True), 2


def _environment(zone: Zone, process: Process, user: ExecUser) -> list[str]:
    """As dockerexec would make it, for a user that it does not know."""
    if not getattr(zone.spec, "docker", False):
        return [_PATH if zone.spec.brand == "lx" else _FULL_PATH, *process.env]
    values: dict[str, str] = {}
    defaults = [_PATH, f"HOSTNAME={zone.spec.hostname or ''}", "TERM=xterm", f"HOME={user.home}"]
    for entry in (*defaults, *zone.metadata.env, *process.env):
        name, equals, _ = entry.partition("=")
        if equals:
            values[name] = entry
        else:
            values.pop(name, None)
    return list(values.values())


__all__ = ["Exec", "ExecStdio", "Preamble", "exec", "zone_path"]
