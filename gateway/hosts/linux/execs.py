"""Further processes in a running zone: the runtime's `exec` with pipes or a terminal of our own.

The runtime stays as the waiting parent, so its exit status is the process's (but for runc with a terminal: we are the
subreaper, and wait for the process itself).  conmon is not needed here:
as under dockerd an exec does not outlive the gateway's streams (and `conmon -e` takes 61 ms instead of 9).

    TOKEN.json   what to run          TOKEN.pid   written only if the process started: tells a failure of
    TOKEN.log    the runtime's words              the runtime (255) from a program's own 255
    TOKEN.sock   where the runtime hands over the terminal's master
    PID.mark     of a process that nobody but the gateway would end (a health check), as long as it runs
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import signal
import socket
from collections.abc import Iterable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dockerapi.errors import StartFailure
from gateway.hosts.command import Child, Spawner
from gateway.hosts.inlet import widen
from gateway.hosts.linux.conmon import EXEC_PREFIX, Runtime, reworded
from gateway.hosts.linux.reaper import awaited, keep_orphans, reap_strays
from gateway.hosts.linux.records import process_start
from gateway.hosts.linux.stdio import ProcessStdio
from gateway.hosts.linux.watch import FolderWatch
from gateway.zones.host import Process

log = logging.getLogger(__name__)

_START_TIMEOUT_S = 60.0
# How long streams may outlive the process, held by orphans of its: dockerd's own grace.
_LINGER_S = 2.0


class Exec:
    """A process that runs, or ran; see `gateway.zones.host.ZoneProcess`."""

    def __init__(
        self, child: Child, pid: int, stdio: ProcessStdio | None, *, attached: bool
    ) -> None:
        self._child = child
        self._pid = pid
        self._streams = stdio
        self._attached = attached

    @property
    def pid(self) -> int:
        """On the host; 0 once it has ended."""
        return 0 if self._child.ended else self._pid

    @property
    def stdio(self) -> ProcessStdio | None:
        """None when detached."""
        return self._streams if self._attached else None

    async def wait(self) -> int:
        """Its exit code; 128+n for a signal."""
        status = await self._child.wait()
        return 128 - status if status < 0 else status

    async def kill(self) -> None:
        """The process itself, not the runtime that waits for it."""
        with suppress(ProcessLookupError):
            descriptor = os.pidfd_open(self._pid)
            try:
                # While the runtime waits for it, its number is nobody else's.
                if not self._child.ended:
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            finally:
                os.close(descriptor)


@dataclass(slots=True)
class _Files:
    """The files of one exec; gone once it runs."""

    folder: Path
    token: str

    def path(self, suffix: str) -> Path:
        return self.folder / f"{self.token}.{suffix}"

    def read(self, suffix: str) -> str:
        try:
            return self.path(suffix).read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def remove(self) -> None:
        for suffix in ("json", "pid", "log", "sock"):
            self.path(suffix).unlink(missing_ok=True)


class _Console:
    """Takes the terminal's master from the runtime, whenever it connects."""

    def __init__(self, folder: int, token: str) -> None:
        # By way of the descriptor: a socket's path may have 107 bytes, a folder's more.
        self.path = f"/proc/{os.getpid()}/fd/{folder}/{token}.sock"
        self.master: int | None = None
        self._decided: asyncio.Event | None = None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._peer: socket.socket | None = None
        self._listener.bind(self.path)
        self._listener.listen(1)
        asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)

    def notify(self, event: asyncio.Event) -> None:
        self._decided = event

    def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._peer, _ = self._listener.accept()
        except BlockingIOError:
            return
        loop.remove_reader(self._listener.fileno())
        self._peer.setblocking(False)
        loop.add_reader(self._peer.fileno(), self.take)

    def take(self) -> None:
        """The master, if it is there."""
        if self._peer is None:
            self._accept()
        if self._peer is None or self.master is not None:
            return
        try:
            _, descriptors, _, _ = socket.recv_fds(self._peer, 4096, 1)
        except BlockingIOError:
            return
        if descriptors:
            self.master = descriptors[0]
            os.set_inheritable(self.master, False)
        asyncio.get_running_loop().remove_reader(self._peer.fileno())
        if self._decided is not None:
            self._decided.set()

    def close(self) -> None:
        loop = asyncio.get_running_loop()
        for sock in (self._listener, self._peer):
            if sock is not None:
                loop.remove_reader(sock.fileno())
                sock.close()


class Execs:
    """Starts processes in zones.  `folder` is emptied: what is in it is of an earlier life."""

    def __init__(
        self,
        spawner: Spawner,
        runtime: Runtime,
        folder: Path,
        watch: FolderWatch,
        group: asyncio.TaskGroup,
    ) -> None:
        self._spawner = spawner
        self._runtime = runtime
        self._folder = folder
        self._group = group
        self._waiting: dict[str, asyncio.Event] = {}
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in folder.iterdir():
            if path.suffix == ".mark":
                _end_marked(path)
            path.unlink()
        self._descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        watch.add(folder, self._appeared)

    def _appeared(self, name: str) -> None:
        token, _, suffix = name.partition(".")
        if suffix == "pid" and (event := self._waiting.get(token)):
            event.set()

    async def start(self, zone: str, process: Process, document: Mapping[str, Any]) -> Exec:
        """Run OCI `document` in the zone of that runtime name; StartFailure in dockerd's words."""
        files = _Files(self._folder, secrets.token_hex(8))
        event = self._waiting[files.token] = asyncio.Event()
        console = _Console(self._descriptor, files.token) if process.tty else None
        orphans = keep_orphans() if self._orphans(process) else nullcontext()
        try:
            _write(files.path("json"), json.dumps(document))
            argv = self._argv(zone, files, console, detach=self._orphans(process))
            ours, theirs = _pipes(process)
            try:
                child = await self._spawner.spawn(argv, fds=theirs)
            except BaseException:
                _close_all(ours.values())
                raise
            finally:
                _close_all(theirs.values())
            with orphans:
                return await self._started(process, files, child, event, ours, console)
        finally:
            del self._waiting[files.token]
            if console is not None:
                console.close()
            files.remove()

    def _orphans(self, process: Process) -> bool:
        """runc hands a terminal over only if it need not stay: then the process becomes our own child."""
        return process.tty and self._runtime.name == "runc"

    def _argv(
        self, zone: str, files: _Files, console: _Console | None, *, detach: bool
    ) -> list[str]:
        # runc takes the log's path bare; crun wants to be told that it is a file.
        log = str(files.path("log"))
        if self._runtime.name == "crun":
            log = f"file:{log}"
        argv = self._runtime.argv("--log", log, "exec", "--process", str(files.path("json")))
        argv += ["--pid-file", str(files.path("pid"))]
        if console is not None:
            argv += ["--console-socket", console.path]
        if detach:
            argv.append("--detach")
        return [*argv, zone]

    async def _started(
        self,
        process: Process,
        files: _Files,
        child: Child,
        event: asyncio.Event,
        ours: dict[int, int],
        console: _Console | None,
    ) -> Exec:
        self._group.create_task(_tell(child, event))
        if console is not None:
            console.notify(event)
        pid = 0
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                while not child.ended:
                    await event.wait()
                    event.clear()
                    pid = int(files.read("pid") or 0)
                    if pid and (console is None or console.master is not None):
                        break
            pid = pid or int(files.read("pid") or 0)
        except BaseException as error:
            child.kill()
            await child.wait()
            _close_all(ours.values())
            self._group.create_task(reap_strays())
            if isinstance(error, TimeoutError):
                raise _failure(f"no answer within {_START_TIMEOUT_S:g} s", process) from error
            raise
        if not pid:
            _close_all(ours.values())
            # The runtime does not wait for the child whose exec failed.
            self._group.create_task(reap_strays())
            raise _failure(files.read("log"), process)
        if console is not None:
            console.take()
        if self._orphans(process):
            await child.wait()
            awaited.add(pid)
            child = Child(pid, child.argv)
        return self._running(process, child, pid, ours, console.master if console else None)

    def _running(
        self, process: Process, child: Child, pid: int, ours: dict[int, int], master: int | None
    ) -> Exec:
        attached = process.attach_stdin or process.attach_stdout or process.attach_stderr
        stdio = None
        if master is not None or ours:
            stdio = ProcessStdio(
                stdin=ours.get(0),
                stdout=ours.get(1),
                stderr=ours.get(2),
                terminal=master,
                takes_input=process.attach_stdin,
            )
        self._group.create_task(_linger(child, stdio, attached=attached))
        if process.killable:
            self._group.create_task(_marked(child, pid, self._folder / f"{pid}.mark"))
        return Exec(child, pid, stdio, attached=attached)

    def close(self) -> None:
        """No start after this."""
        os.close(self._descriptor)


async def _tell(child: Child, event: asyncio.Event) -> None:
    await child.wait()
    event.set()


async def _linger(child: Child, stdio: ProcessStdio | None, *, attached: bool) -> None:
    """Keep the streams going until the process and its grace are over."""
    if stdio is not None and not attached:
        await stdio.close()
    await child.wait()
    awaited.discard(child.pid)
    if stdio is not None and not stdio.ended:
        await asyncio.sleep(_LINGER_S)
        stdio.end()


async def _marked(child: Child, pid: int, path: Path) -> None:
    """Noted as long as it runs: should the gateway be killed, the next one ends it."""
    try:
        _write(path, f"{pid} {process_start(pid)}")
        await child.wait()
    except OSError as error:
        log.warning("process %d is not noted: %s", pid, error)
    finally:
        _unmark(path)


def _unmark(path: Path) -> None:
    path.unlink(missing_ok=True)


def _end_marked(path: Path) -> None:
    with suppress(ValueError, ProcessLookupError):
        pid, start = map(int, path.read_text().split())
        if start and process_start(pid) == start:
            os.kill(pid, signal.SIGKILL)


def _failure(text: str, process: Process) -> StartFailure:
    reason, code = reworded(text, process.argv[0])
    return StartFailure(f"{EXEC_PREFIX}{reason}", code, detail=text)


def _pipes(process: Process) -> tuple[dict[int, int], dict[int, int]]:
    """Our ends and the process's, by its descriptor numbers."""
    ours: dict[int, int] = {}
    theirs: dict[int, int] = {}
    if process.tty:
        return ours, theirs
    if process.attach_stdin:
        theirs[0], ours[0] = os.pipe2(os.O_CLOEXEC)
    if process.attach_stdout:
        ours[1], theirs[1] = os.pipe2(os.O_CLOEXEC)
    if process.attach_stderr:
        ours[2], theirs[2] = os.pipe2(os.O_CLOEXEC)
    for descriptor in ours.values():
        widen(descriptor)
    return ours, theirs


def _close_all(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        with suppress(OSError):
            os.close(descriptor)


def _write(path: Path, text: str) -> None:
    path.write_text(text)
