"""Every implementation of ZoneHost, opened on nothing, with one image of busybox; and words to speak to it with."""

from __future__ import annotations

import asyncio
import io
import secrets
import shutil
import tarfile
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dockerapi.framing import Stdio, StreamId
from gateway.hosts.linux.host import LinuxHost
from gateway.hosts.smartos.host import SmartOSHost
from gateway.settings import AddressPool, Settings
from gateway.translate.security import DEFAULT_CAPABILITIES
from gateway.zones.host import (
    AttachStreams,
    Host,
    LogQuery,
    NetworkRequest,
    Process,
    Zone,
    ZoneChange,
    ZoneEvent,
)
from gateway.zones.metadata import DockerMetadata, Runtime, encode
from gateway.zones.spec import Filesystem, Nic, ZoneSpec, ZoneUUID
from imgsources.datasets import LayerInfo
from imgsources.oci import Digest, ImageUUID
from tests.fakes.globalzone import process

IMAGE = ImageUUID("00000000-0000-0000-0000-0000000000bb")
APPLETS = ["sh", "cat", "echo", "sleep", "true", "false", "id", "env", "pwd", "ls", "stty", "kill", "trap", "test", "head", "wc", "mount", "touch", "mkdir", "grep", "dd", "tr", "seq", "yes", "ip", "ping", "wget", "nc", "hostname", "stat", "chown", "md5sum", "ps", "su"]  # fmt: skip
DEADLINE_S = 20.0


def busybox_tar() -> bytes:
    """A layer with the machine's own static busybox, /etc/passwd with a user `web`, a full folder /data."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as tar:

        def add(name: str, content: bytes = b"", mode: int = 0o644, uid: int = 0) -> None:
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.uid, info.gid = len(content), mode, uid, uid
            tar.addfile(info, io.BytesIO(content))

        for folder in ("bin", "etc", "proc", "sys", "dev", "tmp", "data"):
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            tar.addfile(info)
        add("bin/busybox", Path("/bin/busybox").read_bytes(), 0o755)
        for applet in APPLETS:
            info = tarfile.TarInfo(f"bin/{applet}")
            info.type, info.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(info)
        add("etc/passwd", b"root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n")
        add("etc/group", b"root:x:0:\nweb:x:34:\nextra:x:50:web\n")
        add("bin/garbage", b"\x00\x01\x02", 0o755)
        add("data/kept", b"from the image\n", 0o640, uid=33)
    return output.getvalue()


def zone_spec(
    *argv: str,
    alias: str = "",
    nics: Sequence[Nic] = (),
    filesystems: Sequence[Filesystem] = (),
    runtime: dict[str, Any] | None = None,
    image: str = IMAGE,
    instance: str = "test",
    kernel_version: str | None = None,
    **metadata: Any,
) -> ZoneSpec:
    """What the engine would send for `docker create IMAGE ARGV`."""
    docker_id = secrets.token_hex(32)
    acts = {"capabilities": DEFAULT_CAPABILITIES} | (runtime or {})
    values = {"id": docker_id, "cmd": argv, "workdir": "/", "runtime": Runtime(**acts)} | metadata
    return ZoneSpec(
        uuid=str(uuid.UUID(docker_id[:32])),
        brand="lx",
        image_uuid=image,
        kernel_version=kernel_version,
        alias=alias or f"zone_{docker_id[:8]}",
        hostname=docker_id[:12],
        nics=tuple(nics),
        filesystems=tuple(filesystems),
        tags={"zonegate": instance},
        internal_metadata=encode(DockerMetadata(**values)),
    )


class Bench:
    """A host under test with its events, as the engine would use it."""

    def __init__(self, host: Host, instance: str = "test") -> None:
        self.host = host
        self.zones = host.zones
        self.is_smartos = host.facts.platform == "smartos"
        self._given: dict[str, Any] = {"instance": instance}
        if self.is_smartos:
            self._given["kernel_version"] = "4.10"
        self.events: list[ZoneEvent] = []
        self._changed = asyncio.Condition()

    async def follow(self) -> None:
        async for event in self.host.zones.events():
            async with self._changed:
                self.events.append(event)
                self._changed.notify_all()

    async def seen(self, change: ZoneChange, zone: Zone, *, times: int = 1) -> ZoneEvent:
        """Wait for the n-th change of that kind."""

        def found() -> list[ZoneEvent]:
            return [e for e in self.events if e.change is change and e.zone.uuid == zone.uuid]

        async with asyncio.timeout(DEADLINE_S), self._changed:
            await self._changed.wait_for(lambda: len(found()) >= times)
        return found()[times - 1]

    def changes(self, zone: Zone) -> list[ZoneChange]:
        """What happened to a zone so far."""
        return [event.change for event in self.events if event.zone.uuid == zone.uuid]

    async def create(self, *argv: str, network: bool = False, **values: Any) -> Zone:
        spec = zone_spec(*argv, **(self._given | values))
        if network:
            nic = self.host.networks.lease(ZoneUUID(spec.uuid), NetworkRequest("bridge"))
            spec = spec.model_copy(update={"nics": (nic,)})
        return await self.zones.create(spec)

    async def start(self, *argv: str, **values: Any) -> Zone:
        return await self.zones.start((await self.create(*argv, **values)).uuid)

    async def run(self, *argv: str, **values: Any) -> tuple[int, bytes, bytes]:
        """Exit code, stdout, stderr of a zone from its creation to its end."""
        zone = await self.create(*argv, **values)
        stdio = await self.zones.attach(zone.uuid, AttachStreams())
        await self.zones.start(zone.uuid)
        out, err = await collect(stdio)
        event = await self.seen(ZoneChange.STOPPED, zone)
        await self.zones.delete(zone.uuid)
        return exit_code(event.zone), out, err

    async def exec(self, zone: Zone, *argv: str, **values: Any) -> tuple[int, bytes, bytes]:
        """Exit code, stdout, stderr of a further process."""
        process = await self.zones.exec(zone.uuid, Process(argv, **values))
        assert process.stdio is not None
        out, err = await collect(process.stdio)
        async with asyncio.timeout(DEADLINE_S):
            return await process.wait(), out, err

    async def logs(self, zone: Zone, **query: Any) -> bytes:
        """Text of both streams."""
        async with asyncio.timeout(DEADLINE_S):
            blocks = [block async for _, block in self.zones.logs(zone.uuid, LogQuery(**query))]
        return b"".join(blocks)


async def collect(stdio: Stdio) -> tuple[bytes, bytes]:
    """All of stdout and stderr."""
    streams = {StreamId.STDOUT: bytearray(), StreamId.STDERR: bytearray()}
    async with asyncio.timeout(DEADLINE_S):
        async for stream, data in stdio.output():
            streams[stream] += data
    return bytes(streams[StreamId.STDOUT]), bytes(streams[StreamId.STDERR])


def exit_code(zone: Zone) -> int:
    """As Docker shows it: a host says the code, or the negative number of the signal."""
    return zone.exit_status if zone.exit_status >= 0 else 128 - zone.exit_status


def exists(path: str) -> bool:
    """Whether there is such a file on the host."""
    return Path(path).exists()


class _Over(Exception):
    pass


@asynccontextmanager
async def opened(settings: Settings, *, keep: bool = False) -> AsyncIterator[Bench]:
    """A host that runs while the block does; its zones are removed at the end unless they are to be kept."""

    async def end() -> None:
        raise _Over

    try:
        async with asyncio.TaskGroup() as group:
            kind = SmartOSHost if settings.backend == "smartos" else LinuxHost
            host: Host = await kind.open(settings, group)
            try:
                if not await host.datasets.exists(IMAGE):
                    await seed(host)
                bench = Bench(host, settings.name)
                group.create_task(bench.follow())
                group.create_task(host.run())
                yield bench
                for zone in () if keep else bench.zones.list():
                    await bench.zones.delete(zone.uuid)
            finally:
                await host.close()
                group.create_task(end())
    except* _Over:
        pass


async def seed(host: Host) -> None:
    """Make the image's dataset."""
    digest = Digest("sha256:" + "0" * 64)
    async with host.datasets.extend(IMAGE, origin=None, layer=LayerInfo(digest, digest, 1)) as tree:
        await tree.apply(io.BytesIO(busybox_tar()))


def linux_settings(folder: Path) -> Settings:
    """An instance of its own beside all others."""
    return Settings(
        name=f"t{secrets.token_hex(4)}",
        data_root=folder / "data",
        exec_root=folder / "run",
        default_address_pools=(AddressPool(base="10.201.0.0/16", size=24),),
    )


@pytest.fixture(scope="session")
def global_zone() -> Iterator[process.FakeGZ]:
    """One machine for all tests: each has an instance of its own on it."""
    folder = Path(tempfile.mkdtemp(prefix="zg-gz-", dir="/tmp"))
    fake = process.start(folder, restart_scale="0.5")
    yield fake
    fake.stop()
    shutil.rmtree(folder)


@pytest.fixture
def smartos_settings(global_zone: process.FakeGZ, short_dir: Path) -> Iterator[Settings]:
    """An instance of its own in the global zone, whose programs this process finds."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PATH", "ZONEGATE_FAKE_GZ"):
            patch.setenv(name, global_zone.environment[name])
        yield global_zone.settings(data_root=short_dir / "data", exec_root=short_dir / "run")


@pytest.fixture(
    params=[
        pytest.param("linux", marks=pytest.mark.root),
        pytest.param("smartos", marks=pytest.mark.root),
    ]
)
async def bench(request: pytest.FixtureRequest, short_dir: Path) -> AsyncIterator[Bench]:
    """Each host in turn."""
    if request.param == "linux":
        settings = linux_settings(short_dir)
    else:
        reason = next((m.args[0] for m in request.node.iter_markers("linux_only")), "")
        if reason:
            pytest.skip(f"differs on SmartOS: {reason}")
        settings = request.getfixturevalue("smartos_settings")
    async with kept(opened(settings)) as bench:
        yield bench


@asynccontextmanager
async def kept(context: AbstractAsyncContextManager[Bench]) -> AsyncIterator[Bench]:
    """The context in a task of its own: pytest begins and ends a fixture in different ones."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[Bench] = loop.create_future()
    over = asyncio.Event()

    async def keep() -> None:
        async with context as bench:
            ready.set_result(bench)
            await over.wait()

    task = loop.create_task(keep())
    await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    try:
        yield ready.result()
    finally:
        over.set()
        await task
