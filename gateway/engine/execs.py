"""What `docker exec` does.  Execs live in memory, and go with their container."""

from __future__ import annotations

import asyncio
import base64
import logging
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from dockerapi.errors import (
    APIError,
    Conflict,
    InvalidParameter,
    NoSuchExec,
    NotFound,
    NotRunning,
    StartFailure,
)
from dockerapi.framing import Stdio, StreamId
from dockerapi.models.base import JSONObject
from dockerapi.models.execs import ExecCreate, ExecStart
from gateway.engine.attach import Attached, Replay, detach_keys, nothing, told
from gateway.engine.lifecycle import Lifecycle
from gateway.engine.roster import Roster
from gateway.zones import brands
from gateway.zones.host import Process, Zone, ZoneHost, ZoneProcess
from gateway.zones.spec import ZoneState

log = logging.getLogger(__name__)

_READY_WAIT_S = 10
# How long an ended exec can be inspected.  dockerd's own collector runs every five minutes.
_KEPT_S = 300.0


@dataclass(slots=True)
class _Exec:
    """One exec instance: created, then started once."""

    id: str
    container_id: str
    body: ExecCreate
    keys: bytes
    user: str
    """The container's, for who names none."""
    born_ns: int
    """When the container had started: what was not started in that run of it is forgotten with the run."""
    was_started: bool = False
    process: ZoneProcess | None = None
    pid: int = 0
    """Of the process; kept when it has ended, as dockerd shows it."""
    exit_code: int | None = None
    started_ns: int = 0
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_running(self) -> bool:
        return self.was_started and self.exit_code is None

    @property
    def command(self) -> str:
        """With a blank behind a program without arguments: so events have it."""
        return f"{self.body.cmd[0]} {' '.join(self.body.cmd[1:])}"


class Execs:
    """Execs of all containers."""

    def __init__(
        self, zones: ZoneHost, roster: Roster, lifecycle: Lifecycle, group: asyncio.TaskGroup
    ) -> None:
        self._zones = zones
        self._roster = roster
        self._lifecycle = lifecycle
        self._group = group
        self._execs: dict[str, _Exec] = {}
        self._ended: deque[tuple[float, str]] = deque()

    def of(self, docker_id: str) -> list[str]:
        """Ids of a container's that have not ended; while it runs those that wait for their start, too."""
        if not self._roster.get(docker_id).is_running:
            return []
        mine = (e for e in self._execs.values() if e.container_id == docker_id)
        return [e.id for e in mine if e.exit_code is None]

    def forget(self, docker_id: str) -> None:
        """The container is gone."""
        gone = [key for key, e in self._execs.items() if e.container_id == docker_id]
        for key in gone:
            del self._execs[key]

    def _forget_old(self) -> None:
        # A container that lives long may have one for every health check.
        now = time.monotonic()
        while self._ended and self._ended[0][0] < now - _KEPT_S:
            self._execs.pop(self._ended.popleft()[1], None)

    async def create(self, ref: str, body: ExecCreate) -> JSONObject:
        """{Id}.  Conflict unless the container runs; InvalidParameter for a user that is known not to be there."""
        zone = self._roster.find(ref)
        if not body.cmd:
            raise InvalidParameter("No exec command specified")
        brands.check_processes(zone.spec.brand, "exec")
        keys = _keys(body.detach_keys)
        _check_running(zone, ref)
        self._forget_old()
        self._zones.expect_exec(zone.uuid, body.user)
        exec_ = _Exec(
            id=secrets.token_hex(32),
            container_id=zone.metadata.id,
            body=body,
            keys=keys,
            user=zone.metadata.user,
            born_ns=zone.started_ns,
        )
        self._execs[exec_.id] = exec_
        self._lifecycle.emit(zone, f"exec_create: {exec_.command}", execID=exec_.id)
        return {"Id": exec_.id}

    async def start(self, exec_id: str, body: ExecStart) -> Stdio | None:
        """Attached, what cannot be started is told in the stream, which the client has already: on stdout, as by dockerd."""
        exec_ = self._get(exec_id)
        zone = self._roster.get(exec_.container_id)
        _check_running(zone, exec_.container_id)
        if body.detach:
            await self._start(exec_, zone, body)
            return None
        begin = partial(self._begin, exec_, zone, body)
        return _Starting(begin, self._group, tty=exec_.body.tty)

    async def run(self, exec_id: str) -> ZoneProcess:
        """Started now, for the gateway's own use; StartFailure where a client reads it in the stream."""
        exec_ = self._get(exec_id)
        zone = self._roster.get(exec_.container_id)
        return await self._start(exec_, zone, ExecStart(), killable=True)

    async def ended(self, exec_id: str) -> int:
        """Its exit code, once its end was told of."""
        exec_ = self._get(exec_id)
        await exec_.ended.wait()
        return 255 if exec_.exit_code is None else exec_.exit_code

    async def _begin(self, exec_: _Exec, zone: Zone, body: ExecStart) -> Stdio:
        try:
            process = await self._start(exec_, zone, body)
        except APIError as error:
            return told(StreamId.STDOUT, f"{error.message}\r\n", tty=exec_.body.tty)
        if process.stdio is None:
            # Of an exec that is to show nothing dockerd does not even tell the end.
            return Replay(nothing(), tty=False)
        return Attached(
            _UntilEnd(process.stdio, exec_.ended),
            keys=exec_.keys if exec_.body.tty and exec_.body.attach_stdin else b"",
            detached=partial(self._lifecycle.emit, zone, "exec_detach", execID=exec_.id),
        )

    async def _start(
        self, exec_: _Exec, zone: Zone, body: ExecStart, *, killable: bool = False
    ) -> ZoneProcess:
        if exec_.was_started:
            state = "is already running" if exec_.is_running else "has already run"
            raise Conflict(f"exec command {exec_.id} {state}")
        exec_.was_started = True
        self._lifecycle.emit(zone, f"exec_start: {exec_.command}", execID=exec_.id)
        try:
            _check_workdir(exec_.body.working_dir)
            process = await self._zones.exec(
                zone.uuid, _process(exec_.body, body, killable=killable)
            )
        except APIError as error:
            exec_.ready.set()
            self._end(exec_, error.exit_code if isinstance(error, StartFailure) else 126)
            raise
        exec_.process, exec_.started_ns, exec_.pid = process, time.time_ns(), process.pid
        exec_.ready.set()
        self._group.create_task(self._watch(exec_, process))
        return process

    async def _watch(self, exec_: _Exec, process: ZoneProcess) -> None:
        try:
            code = await process.wait()
        except (APIError, OSError) as error:
            log.warning("exec %s: its end is not known: %s", exec_.id, error)
            code = 255
        exec_.exit_code = code
        more = {"execID": exec_.id, "exitCode": str(exec_.exit_code)}
        try:
            self._lifecycle.emit(self._roster.get(exec_.container_id), "exec_die", **more)
        except NotFound:
            log.debug("exec %s ended after its container was removed", exec_.id)
        self._end(exec_, code)

    def _end(self, exec_: _Exec, code: int) -> None:
        exec_.exit_code = code
        exec_.process = None
        exec_.ended.set()
        self._ended.append((time.monotonic(), exec_.id))

    async def resize(self, exec_id: str, height: int, width: int) -> None:
        """A client resizes as soon as it has asked for the start: wait for the process to be there."""
        exec_ = self._get(exec_id)
        _check_running(self._roster.get(exec_.container_id), exec_.container_id)
        try:
            async with asyncio.timeout(_READY_WAIT_S):
                await exec_.ready.wait()
        except TimeoutError as error:
            raise APIError("timeout waiting for exec session ready") from error
        if exec_.process is None:  # its start failed, or it has ended: so containerd says it
            raise NotFound(f"NotFound: process does not exist {exec_id}: not found")
        if exec_.process.stdio is not None:
            await exec_.process.stdio.resize(height, width)

    async def inspect(self, exec_id: str) -> JSONObject:
        """ExitCode is null until it has ended."""
        exec_ = self._get(exec_id)
        body = exec_.body
        return {
            "ID": exec_.id,
            "Running": exec_.is_running,
            "ExitCode": exec_.exit_code,
            "ProcessConfig": {
                "tty": body.tty,
                "entrypoint": body.cmd[0],
                "arguments": body.cmd[1:],
                "privileged": body.privileged,
                "user": body.user or exec_.user,
            },
            "OpenStdin": body.attach_stdin,
            "OpenStderr": body.attach_stderr,
            "OpenStdout": body.attach_stdout,
            # dockerd's own bookkeeping: true for the minutes before it forgets an ended one.
            "CanRemove": False,
            "ContainerID": exec_.container_id,
            "DetachKeys": base64.b64encode(exec_.keys).decode() if body.detach_keys else "",
            "Pid": exec_.pid,
        }

    def _get(self, exec_id: str) -> _Exec:
        exec_ = self._execs.get(exec_id)
        if exec_ is None:
            raise NoSuchExec(exec_id)
        zone = self._roster.get(exec_.container_id)
        if not exec_.was_started and (not zone.is_running or zone.started_ns != exec_.born_ns):
            del self._execs[exec_id]
            raise NoSuchExec(exec_id)
        return exec_


class _Starting:
    """Streams of a process that is started when its output is first asked for.

    The client has the head of the answer by then.  docker-py reads that head through a buffer and loses
    what comes in the same segment; dockerd takes long enough to start a process that nobody notices.
    The start itself is not cut when the client leaves.
    """

    def __init__(
        self,
        begin: Callable[[], Coroutine[Any, Any, Stdio]],
        group: asyncio.TaskGroup,
        *,
        tty: bool,
    ) -> None:
        self.tty = tty
        self._begin = begin
        self._group = group
        self._task: asyncio.Task[Stdio] | None = None
        self._asked = asyncio.Event()

    async def _stdio(self) -> Stdio:
        await self._asked.wait()
        assert self._task is not None  # noqa: S101 - set before the event
        return await asyncio.shield(self._task)

    async def output(self) -> AsyncIterator[tuple[StreamId, bytes]]:
        self._task = self._group.create_task(self._begin())
        self._asked.set()
        async for chunk in (await self._stdio()).output():
            yield chunk

    async def write(self, data: bytes) -> None:
        await (await self._stdio()).write(data)

    async def close_input(self) -> None:
        await (await self._stdio()).close_input()

    async def resize(self, height: int, width: int) -> None:
        await (await self._stdio()).resize(height, width)

    async def close(self) -> None:
        if self._task is not None:
            await (await self._stdio()).close()


class _UntilEnd:
    """Streams that end only when the exit code is known: clients ask for it at once."""

    def __init__(self, inner: Stdio, ended: asyncio.Event) -> None:
        self._inner = inner
        self._ended = ended
        self._is_closed = False
        self.tty = inner.tty
        self.write = inner.write
        self.close_input = inner.close_input
        self.resize = inner.resize

    async def output(self) -> AsyncIterator[tuple[StreamId, bytes]]:
        async for chunk in self._inner.output():
            yield chunk
        if not self._is_closed:
            await self._ended.wait()

    async def close(self) -> None:
        self._is_closed = True
        await self._inner.close()


def _keys(text: str) -> bytes:
    try:
        return detach_keys(text)
    except InvalidParameter as error:
        # dockerd takes it for a fault of its own.
        raise APIError(f"Invalid escape keys ({text}) provided") from error


def _check_running(zone: Zone, ref: str) -> None:
    if zone.state is ZoneState.PAUSED:
        raise Conflict(f"Container {ref} is paused, unpause the container before exec")
    if zone.state is ZoneState.RESTARTING:
        raise Conflict(
            f"Container {zone.metadata.id} is restarting, wait until the container is running"
        )
    if not zone.is_running:
        raise NotRunning(zone.metadata.id)


def _check_workdir(workdir: str) -> None:
    if workdir and not workdir.startswith("/"):
        raise StartFailure(
            "OCI runtime exec failed: exec failed: Cwd must be an absolute path", 128
        )


def _process(body: ExecCreate, start: ExecStart, *, killable: bool) -> Process:
    size = start.console_size or body.console_size
    attached = not start.detach
    return Process(
        argv=tuple(body.cmd),
        env=tuple(body.env or ()),
        workdir=body.working_dir,
        user=body.user,
        tty=body.tty,
        privileged=body.privileged,
        attach_stdin=attached and body.attach_stdin,
        attach_stdout=attached and body.attach_stdout,
        attach_stderr=attached and body.attach_stderr,
        console_size=(size[0], size[1]) if size and len(size) == 2 and all(size) else None,
        killable=killable,
    )
