"""A platform in memory: zones that start, end when told to, and tell of it.  For tests of the engine.

It keeps the promises of gateway.zones.host; how a real platform does is the contract suite's to test.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace

from dockerapi.errors import (
    APIError,
    Conflict,
    InvalidParameter,
    NoSuchContainer,
    NotFound,
    NotModified,
    NotRunning,
    StartFailure,
)
from dockerapi.framing import StreamId
from gateway.zones.host import (
    AttachStreams,
    HostFacts,
    LogQuery,
    Network,
    NetworkPlan,
    NetworkRequest,
    PathChange,
    PathStatus,
    Process,
    ProcessTable,
    Sample,
    Volume,
    Zone,
    ZoneChange,
    ZoneEvent,
)
from gateway.zones.members import network_uuid
from gateway.zones.metadata import decode
from gateway.zones.spec import Nic, ZoneSpec, ZoneState, ZoneUUID
from imgsources.datasets import LayerInfo, Readable

BRIDGE = Network("ab" * 32, "bridge", "bridge", 1, subnet="10.9.0.0/24", gateway="10.9.0.1")
FACTS = HostFacts(
    storage_driver="memory",
    cgroup_driver="cgroupfs",
    cgroup_version="2",
    runtimes=("crun",),
    default_runtime="crun",
    kernel_version="6.0",
    operating_system="Test",
    os_version="1",
    architecture="x86_64",
    ncpu=2,
    mem_total=2**30,
    root_dir="/d",
    security_options=("name=seccomp,profile=builtin",),
    log_drivers=("json-file", "none"),
    limits={"MemoryLimit": True},
    warnings=("be warned",),
    components=(("crun", "1.8"), ("conmon", "2.1")),
)


class Streams:
    """Standard streams that a test feeds: chunks put into `chunks`, None ends them."""

    def __init__(self, *, tty: bool = False) -> None:
        self.tty = tty
        self.chunks: asyncio.Queue[tuple[StreamId, bytes] | None] = asyncio.Queue()
        self.written = b""
        self.input_closed = False
        self.size: tuple[int, int] | None = None

    async def output(self) -> AsyncIterator[tuple[StreamId, bytes]]:
        while (chunk := await self.chunks.get()) is not None:
            yield chunk

    async def write(self, data: bytes) -> None:
        self.written += data

    async def close_input(self) -> None:
        self.input_closed = True

    async def resize(self, height: int, width: int) -> None:
        self.size = (height, width)

    async def close(self) -> None:
        self.chunks.put_nowait(None)


class Running:
    """A process that exec started; the test ends it by `end`."""

    def __init__(self, stdio: Streams | None) -> None:
        self.pid = 77
        self.stdio = stdio
        self._code: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def end(self, code: int) -> None:
        self._code.set_result(code)
        if self.stdio:
            self.stdio.chunks.put_nowait(None)

    async def kill(self) -> None:
        if not self._code.done():
            self.end(137)

    async def wait(self) -> int:
        return await asyncio.shield(self._code)


class Zones:
    """Zones in a dict.  A command `nosuch` cannot be started; `restart` says what policies do."""

    def __init__(self) -> None:
        self.zones: dict[ZoneUUID, Zone] = {}
        self.streams: dict[ZoneUUID, Streams] = {}
        self.processes: list[Running] = []
        self.process_started = asyncio.Event()
        self.log: list[tuple[StreamId, bytes]] = []
        self.queries: list[LogQuery] = []
        self.create_fails: Exception | None = None
        self._events: deque[ZoneEvent] = deque()
        self._wake = asyncio.Event()
        self._clock = itertools.count(time.time_ns())

    def list(self) -> Sequence[Zone]:
        return tuple(self.zones.values())

    def get(self, uuid: ZoneUUID) -> Zone:
        try:
            return self.zones[uuid]
        except KeyError as error:
            raise NotFound(f"no zone {uuid}") from error

    def change(self, uuid: ZoneUUID, change: ZoneChange | None, **values: object) -> Zone:
        zone = replace(self.get(uuid), **values)  # type: ignore[arg-type]
        self.zones[uuid] = zone
        if change is not None:
            self._events.append(ZoneEvent(change, zone, time.time_ns()))
            self._wake.set()
        return zone

    async def create(self, spec: ZoneSpec) -> Zone:
        if self.create_fails is not None:
            raise self.create_fails
        data = decode(spec.internal_metadata)
        zone = Zone(spec, data, ZoneState.STOPPED, created_ns=next(self._clock))
        self.zones[zone.uuid] = zone
        return self.change(zone.uuid, ZoneChange.CREATED)

    def before_start(self, call: Callable[[Zone], Awaitable[None]]) -> None:
        self._before_start = call

    async def start(self, uuid: ZoneUUID) -> Zone:
        zone = self.get(uuid)
        if zone.is_running:
            raise NotModified("")
        self._check_peer(zone)
        if zone.metadata.argv[:1] == ("nosuch",):
            self.change(uuid, None, error="not found in $PATH", start_exit_code=127)
            raise StartFailure("not found in $PATH", 127)
        return self.change(
            uuid,
            ZoneChange.STARTED,
            state=ZoneState.RUNNING,
            started_ns=next(self._clock),
            pid=42,
            error="",
            start_exit_code=0,
            exit_status=0,
        )

    async def not_started(self, uuid: ZoneUUID, error: APIError) -> Zone:
        return self.change(uuid, None, error=error.message, start_exit_code=128)

    def _check_peer(self, zone: Zone) -> None:
        """As a host does: by UUID, or the name of one that was not there at create."""
        kind, _, ref = zone.metadata.runtime.network.partition(":")
        if kind != "zone":
            return
        for other in self.list():
            if ref in (other.uuid, other.spec.alias):
                if other.is_running:
                    return
                raise Conflict(
                    "cannot join network namespace of a non running container: "
                    f"container {other.spec.alias} is created"
                )
        raise NoSuchContainer(ref)

    def exit(self, uuid: ZoneUUID, code: int, *, again: bool = False) -> Zone:
        """The zone's first process ends; `again`: the policy will start it."""
        zone = self.change(
            uuid,
            ZoneChange.STOPPED,
            state=ZoneState.RESTARTING if again else ZoneState.STOPPED,
            finished_ns=next(self._clock),
            exit_status=code,
            pid=0,
        )
        if uuid in self.streams:
            self.streams[uuid].chunks.put_nowait(None)
        return zone

    async def stop(self, uuid: ZoneUUID, *, signal: str | None, timeout_s: float | None) -> Zone:
        zone = self.get(uuid)
        if zone.state is ZoneState.RESTARTING:
            return self.change(uuid, ZoneChange.UPDATED, state=ZoneState.STOPPED)
        return self.exit(uuid, 137 if timeout_s == 0 else 143)

    async def restart(self, uuid: ZoneUUID, *, signal: str | None, timeout_s: float | None) -> Zone:
        if self.get(uuid).is_running:
            self.exit(uuid, 143)
            await asyncio.sleep(0)
        return await self.start(uuid)

    async def kill(self, uuid: ZoneUUID, signal: str) -> None:
        if not self.get(uuid).is_running:
            raise NotRunning(uuid)
        if signal == "SIGKILL":
            self.exit(uuid, 137)

    async def pause(self, uuid: ZoneUUID) -> Zone:
        return self.change(uuid, ZoneChange.PAUSED, state=ZoneState.PAUSED)

    async def unpause(self, uuid: ZoneUUID) -> Zone:
        return self.change(uuid, ZoneChange.UNPAUSED, state=ZoneState.RUNNING)

    async def delete(self, uuid: ZoneUUID) -> None:
        if self.get(uuid).is_running:
            self.exit(uuid, 137)
        zone = self.get(uuid)
        del self.zones[uuid]
        self._events.append(ZoneEvent(ZoneChange.DELETED, zone, time.time_ns()))
        self._wake.set()

    async def update(self, uuid: ZoneUUID, spec: ZoneSpec) -> Zone:
        data = decode(spec.internal_metadata)
        return self.change(uuid, ZoneChange.UPDATED, spec=spec, metadata=data)

    async def rename(self, uuid: ZoneUUID, alias: str) -> Zone:
        spec = self.get(uuid).spec.model_copy(update={"alias": alias})
        return self.change(uuid, ZoneChange.UPDATED, spec=spec)

    async def attach(self, uuid: ZoneUUID, streams: AttachStreams) -> Streams:
        self.streams[uuid] = Streams(tty=self.get(uuid).metadata.tty)
        for block in self.log if streams.logs else ():
            self.streams[uuid].chunks.put_nowait(block)
        return self.streams[uuid]

    def expect_exec(self, uuid: ZoneUUID, user: str) -> None:
        self.get(uuid)

    async def exec(self, uuid: ZoneUUID, process: Process) -> Running:
        if process.argv[0] == "nosuch":
            raise StartFailure('exec: "nosuch": executable file not found in $PATH', 127)
        attached = process.attach_stdout or process.attach_stderr or process.attach_stdin
        running = Running(Streams(tty=process.tty) if attached else None)
        self.processes.append(running)
        self.process_started.set()
        return running

    async def resize(self, uuid: ZoneUUID, height: int, width: int) -> None:
        self.get(uuid)

    async def root_size(self, uuid: ZoneUUID) -> int:
        return 5

    async def logs(self, uuid: ZoneUUID, query: LogQuery) -> AsyncIterator[tuple[StreamId, bytes]]:
        self.queries.append(query)
        for block in self.log:
            yield block

    async def events(self) -> AsyncIterator[ZoneEvent]:
        while True:
            while self._events:
                yield self._events.popleft()
            self._wake.clear()
            await self._wake.wait()


class Networks:
    """The predefined networks; addresses counted up."""

    def __init__(self) -> None:
        self.networks = [
            BRIDGE,
            Network("cd" * 32, "host", "host", 1),
            Network("ef" * 32, "none", "null", 1),
        ]
        self.leases: list[tuple[ZoneUUID, str]] = []
        self.counted = 0
        self.made = 2

    def list(self) -> Sequence[Network]:
        return self.networks

    def get(self, ref: str) -> Network:
        for network in self.networks:
            if ref in (network.id, network.name):
                return network
        raise NotFound(f"network {ref} not found")

    async def create(self, plan: NetworkPlan) -> Network:
        if any(network.name == plan.name for network in self.networks):
            raise Conflict(f"network with name {plan.name} already exists")
        self.made += 1
        number = self.made
        made = Network(
            f"{number:064x}"[::-1],
            plan.name,
            plan.driver,
            1,
            subnet=f"10.{number}.0.0/24",
            gateway=f"10.{number}.0.1",
            labels=plan.labels,
            internal=plan.internal,
            plan=plan,
        )
        self.networks.append(made)
        return made

    async def remove(self, ref: str) -> None:
        self.networks.remove(self.get(ref))

    def note(self, network: Network) -> str:
        return ""

    def leased(self, network_id: str) -> Sequence[ZoneUUID]:
        return [uuid for uuid, network in self.leases if network == network_id]

    def lease(self, uuid: ZoneUUID, request: NetworkRequest) -> Nic:
        network = self.get(request.network)
        self.counted += 1
        net = network.subnet.rpartition(".")[0].rpartition(".")[0]
        self.leases.append((uuid, network.id))
        return Nic(
            nic_tag="test0",
            mac=request.mac or "02:42:0a:09:00:02",
            ip=request.address or "{}.{}.{}".format(net, *divmod(self.counted + 1, 256)),
            netmask="255.255.255.0",
            gateway=network.gateway,
            network_uuid=network_uuid(network.id),
        )

    def release(self, uuid: ZoneUUID, network: str | None = None) -> None:
        self.leases = [
            one for one in self.leases if one[0] != uuid or network not in (None, one[1])
        ]


class Volumes:
    """Volumes in a dict."""

    def __init__(self) -> None:
        self.volumes: dict[str, Volume] = {}

    def list(self) -> Sequence[Volume]:
        return tuple(self.volumes.values())

    def get(self, name: str) -> Volume:
        try:
            return self.volumes[name]
        except KeyError as error:
            raise NotFound(f"get {name}: no such volume") from error

    async def create(
        self, name: str, *, labels: dict[str, str], options: dict[str, str], owner: str = ""
    ) -> Volume:
        made = Volume(name, f"/v/{name}", 1, labels, options, owner)
        return self.volumes.setdefault(name, made)

    async def keep(self, name: str) -> None:
        self.volumes[name] = replace(self.get(name), owner="")

    async def remove(self, name: str) -> None:
        self.get(name)
        del self.volumes[name]

    async def used_bytes(self, name: str) -> int:
        self.get(name)
        return 7


class Datasets:
    """Every dataset is there and of one size; destroying is remembered."""

    layers_are_independent = True

    def __init__(self) -> None:
        self.present: set[str] = set()

    async def exists(self, uuid: str) -> bool:
        return uuid in self.present

    @contextlib.asynccontextmanager
    async def extend(
        self, uuid: str, *, origin: str | None, layer: LayerInfo
    ) -> AsyncIterator[Datasets]:
        """A layer with the bytes `broken` fails."""
        yield self
        self.present.add(uuid)

    async def apply(self, tar: Readable) -> None:
        while block := await asyncio.to_thread(tar.read, 1 << 16):
            if block == b"broken":
                raise InvalidParameter("broken layer")

    async def destroy(self, uuid: str) -> None:
        if uuid not in self.present:
            raise Conflict(uuid)
        self.present.discard(uuid)

    async def used_bytes(self, uuid: str) -> int:
        return 100

    async def list(self) -> frozenset[str]:
        return frozenset(self.present)


class Files:
    """One file, `/there`, in every zone."""

    def __init__(self) -> None:
        self.written: list[tuple[str, bytes]] = []
        self.changed: list[PathChange] = []
        self.tar = b"tar of changes"
        self.asked: list[ZoneUUID] = []

    async def status(self, uuid: ZoneUUID, path: str) -> PathStatus:
        if path != "/there":
            raise NotFound("nothing")
        return PathStatus("there", 5, 0o104755, 1_000_000_001)

    async def read(
        self, uuid: ZoneUUID, path: str
    ) -> tuple[PathStatus, AsyncGenerator[bytes, None]]:
        return await self.status(uuid, path), _once(b"tar of " + path.encode())

    async def write(
        self,
        uuid: ZoneUUID,
        path: str,
        tar: AsyncIterator[bytes],
        *,
        no_overwrite_dir_non_dir: bool,
        copy_uid_gid: bool,
    ) -> None:
        await self.status(uuid, path)
        self.written.append((path, b"".join([block async for block in tar])))

    async def changes(self, uuid: ZoneUUID) -> Sequence[PathChange]:
        return self.changed

    async def export(self, uuid: ZoneUUID) -> AsyncGenerator[bytes, None]:
        return _once(b"tar of all")

    async def layer(self, uuid: ZoneUUID) -> AsyncGenerator[bytes, None]:
        self.asked.append(uuid)
        return _once(self.tar)


async def _once(data: bytes) -> AsyncGenerator[bytes, None]:
    yield data


class Gauges:
    """Hands out the samples that a test put there; None when there are no more."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []

    async def sample(self, uuid: ZoneUUID) -> Sample | None:
        return self.samples.pop(0) if self.samples else None

    async def processes(self, uuid: ZoneUUID, ps_args: str) -> ProcessTable:
        return ProcessTable(("PID", "CMD"), (("1", ps_args),))


class HostDouble:
    """All of it."""

    def __init__(self) -> None:
        self.zones = Zones()
        self.networks = Networks()
        self.volumes = Volumes()
        self.datasets = Datasets()
        self.facts = FACTS
        self.files = Files()
        self.gauges = Gauges()

    def image_folder(self, uuid: str) -> str:
        return f"/images/{uuid}"

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def close(self) -> None:
        return
