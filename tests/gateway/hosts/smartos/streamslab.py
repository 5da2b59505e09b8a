"""Zones of a fake global zone with nothing of the gateway around them, for tests of streams, execs and logs."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import tarfile
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from dockerapi.framing import Stdio, StreamId
from gateway.hosts.smartos.globalzone import GlobalZone
from gateway.hosts.smartos.local import LocalGlobalZone
from gateway.hosts.smartos.ssh import SSHGlobalZone
from gateway.hosts.smartos.stdio import ZoneStreams
from gateway.settings import SmartOSSettings
from gateway.zones.host import Process, Zone
from gateway.zones.metadata import DockerMetadata, decode
from gateway.zones.spec import ZoneSpec, ZoneState
from tests.contract.conftest import busybox_tar
from tests.fakes import sshd
from tests.fakes.globalzone import process

DEADLINE_S = 20.0
IMAGE = "00000000-0000-0000-0000-0000000000bb"
WITH_SU = "00000000-0000-0000-0000-0000000000cc"
"""As IMAGE, with a su that zlogin sees: no absolute link."""
BARE = "00000000-0000-0000-0000-0000000000dd"
"""Nothing but the program /busybox; no shell, no /etc."""
LINKED = "00000000-0000-0000-0000-0000000000ee"
"""As IMAGE, with a su that is an absolute link: not there in the global zone."""


_PROPERTIES = ("zlog_max_size", "tags", "filesystems")


class Lab:
    """One global zone, with images."""

    def __init__(self, fake: process.FakeGZ) -> None:
        self.fake = fake
        self.root = str(fake.root)

    def vmadm(self, *arguments: str, stdin: str = "") -> str:
        """What it says on standard output; it must succeed."""
        done = self.fake.run("vmadm", *arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def image(self, image: str, su: str = "") -> None:
        """A dataset with busybox; `su`: hard (a file of its own), or the target of a link."""
        assert self.fake.run("zfs", "create", f"zones/{image}").returncode == 0
        root = self.fake.root / "zones" / image / "root"
        root.mkdir(exist_ok=True)
        if image == BARE:
            shutil.copy("/bin/busybox", root / "busybox")
        else:
            with tarfile.open(fileobj=BytesIO(busybox_tar())) as tar:
                tar.extractall(root, filter="tar")
            (root / "bin/su").unlink(missing_ok=True)
            if su == "hard":
                shutil.copy("/bin/busybox", root / "bin/su")
                (root / "bin/su").chmod(0o4755)
            elif su:
                (root / "bin/su").symlink_to(su)
        assert self.fake.run("zfs", "snapshot", f"zones/{image}@final").returncode == 0

    def zone(self, *argv: str, image: str = IMAGE, brand: str = "lx", **more: Any) -> Zone:
        """Made by vmadm, not started.  `more`: docker:* of internal_metadata, without the prefix, or properties."""
        properties = {key: more.pop(key) for key in tuple(more) if key in _PROPERTIES}
        uid = str(uuid.uuid4())
        metadata = {f"docker:{key}": value for key, value in more.items()}
        metadata |= {
            "docker:id": uid.replace("-", "") + secrets.token_hex(16),
            "docker:cmd": json.dumps(argv),
            "docker:entrypoint": "[]",
            "docker:env": json.dumps(metadata.get("docker:env", [])),
        }
        payload = {
            "uuid": uid,
            "brand": brand,
            "kernel_version": "4.3.0",
            "image_uuid": image,
            "docker": True,
            "alias": uid[:8],
            "hostname": "lab",
            "autoboot": False,
            "max_physical_memory": 256,
            "max_swap": 256,
            "tmpfs": 0,
            "internal_metadata": metadata,
            **properties,
        }
        self.vmadm("create", stdin=json.dumps(payload))
        fields = {k: v for k, v in payload.items() if k in ZoneSpec.model_fields}
        return Zone(
            spec=ZoneSpec.model_validate_json(json.dumps(fields)),
            metadata=decode(metadata),
            state=ZoneState.STOPPED,
            created_ns=1,
            root=f"{self.root}/zones/{uid}/root",
        )

    def full_zone(self, brand: str, image: str) -> Zone:
        """One with an init of its own instead of dockerinit, not started."""
        uid = str(uuid.uuid4())
        payload: dict[str, Any] = {
            "uuid": uid,
            "brand": brand,
            "image_uuid": image,
            "alias": uid[:8],
            "hostname": "lab",
            "autoboot": False,
            "max_physical_memory": 256,
            "max_swap": 256,
        }
        if brand == "lx":
            payload["kernel_version"] = "4.3.0"
        self.vmadm("create", stdin=json.dumps(payload))
        return Zone(
            spec=ZoneSpec(**payload),
            metadata=DockerMetadata(id=uid.replace("-", "") + secrets.token_hex(16)),
            state=ZoneState.STOPPED,
            created_ns=1,
            root=f"{self.root}/zones/{uid}/root",
        )

    def start(self, zone: Zone) -> Zone:
        """Running, or already ended."""
        self.vmadm("start", zone.uuid)
        return replace(zone, state=ZoneState.RUNNING)

    async def run(self, *argv: str, **more: Any) -> Zone:
        """A started one."""
        zone = await asyncio.to_thread(self.zone, *argv, **more)
        return await asyncio.to_thread(self.start, zone)

    async def until(self, zone: Zone, state: str) -> dict[str, Any]:
        """The machine's object once it is in that state."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                vm: dict[str, Any] = json.loads(
                    await asyncio.to_thread(self.vmadm, "get", zone.uuid)
                )
                if vm["state"] == state:
                    return vm

    def zonepath(self, zone: Zone) -> Path:
        """On this computer."""
        return self.fake.root / "zones" / zone.uuid


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A global zone whose programs are first in this process's PATH."""
    fake = process.start(tmp_path_factory.mktemp("gz"))
    made = Lab(fake)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("PATH", "ZONEGATE_FAKE_GZ"):
            patch.setenv(name, fake.environment[name])
        try:
            made.image(IMAGE)
            made.image(WITH_SU, su="hard")
            made.image(LINKED, su="/bin/busybox")
            made.image(BARE)
            yield made
        finally:
            fake.stop()


@pytest.fixture
async def gz(lab: Lab) -> AsyncIterator[LocalGlobalZone]:
    async with LocalGlobalZone(lab.root) as zone:
        yield zone


@pytest.fixture(scope="module")
def far(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Sshd]:
    """The way to the lab's global zone as to another machine."""
    names = ("PATH", "ZONEGATE_FAKE_GZ")
    server = sshd.start(
        tmp_path_factory.mktemp("sshd"), {name: lab.fake.environment[name] for name in names}
    )
    yield server
    server.stop()


@pytest.fixture
async def far_gz(lab: Lab, far: sshd.Sshd) -> AsyncIterator[GlobalZone]:
    """The same global zone by SSH."""
    settings = SmartOSSettings(
        host=far.url,
        identity_file=far.identity_file,
        known_hosts=far.known_hosts,
        root=lab.root,
    )
    async with await SSHGlobalZone.open(settings) as zone:
        yield zone


@asynccontextmanager
async def streams_of(
    lab: Lab, gz: GlobalZone, zone: Zone, **more: Any
) -> AsyncIterator[ZoneStreams]:
    """As the host makes them."""
    async with asyncio.TaskGroup() as group:
        streams = ZoneStreams(
            gz,
            zone.uuid,
            str(lab.zonepath(zone)),
            tty=zone.metadata.tty,
            group=group,
            open_stdin=zone.metadata.open_stdin,
            root=lab.root,
            **more,
        )
        try:
            yield streams
        finally:
            await streams.close()


def exec_of(*argv: str, **more: Any) -> Process:
    """With all streams attached."""
    return Process(argv, **({"attach_stdin": False} | more))


async def everything(stdio: Stdio) -> dict[StreamId, bytes]:
    """Both streams to their end."""
    found = {StreamId.STDOUT: b"", StreamId.STDERR: b""}
    async with asyncio.timeout(DEADLINE_S):
        async for stream, data in stdio.output():
            found[stream] += data
    return found


class Reading:
    """Output read along in a task; `until` waits for a text."""

    def __init__(self, stdio: Stdio, group: asyncio.TaskGroup) -> None:
        self.data = b""
        self._arrived = asyncio.Event()
        self._over = False
        self.task = group.create_task(self._read(stdio))

    async def _read(self, stdio: Stdio) -> None:
        async for _, data in stdio.output():
            self.data += data
            self._arrived.set()
        self._over = True
        self._arrived.set()

    async def until(self, text: bytes) -> bytes:
        """What was read once `text` is part of it."""
        async with asyncio.timeout(DEADLINE_S):
            while text not in self.data:
                assert not self._over, f"{text!r} is not in {self.data!r}"
                self._arrived.clear()
                await self._arrived.wait()
        return self.data

    async def end(self) -> bytes:
        """All of it."""
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.shield(self.task)
        return self.data


__all__ = [
    "BARE", "DEADLINE_S", "IMAGE", "LINKED", "WITH_SU", "Lab", "Reading", "everything", "exec_of", "far", "far_gz", "gz", "lab", "streams_of",
]  # fmt: skip
