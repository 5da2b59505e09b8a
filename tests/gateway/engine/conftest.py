"""A gateway over a platform in memory, with one image, `busybox`."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dockerapi.engine import EventsQuery
from dockerapi.models.base import JSONObject
from dockerapi.models.containers import ContainerCreate
from gateway.engine import Gateway
from gateway.settings import Settings
from imgsources.catalog import Catalog, Image
from imgsources.oci import DOCKER_LAYER, DOCKER_MANIFEST, Descriptor, Digest, Manifest, parse_config
from imgsources.puller import Puller
from imgsources.references import Reference
from imgsources.sources import RemoteImage
from tests.gateway.engine.host_double import HostDouble


class Bench:
    """What a test of the engine works on."""

    def __init__(self, gateway: Gateway, host: HostDouble, catalog: Catalog) -> None:
        self.gateway = gateway
        self.host = host
        self.catalog = catalog
        self.group: asyncio.TaskGroup

    def image(self, *names: str, layers: tuple[str, ...] = ("a",), **config: Any) -> Image:
        """An image of these layers under these names."""
        document = {
            "architecture": "amd64",
            "os": "linux",
            "created": "2024-01-02T03:04:05Z",
            "config": {"Cmd": ["sh"], **config},
            "rootfs": {"type": "layers", "diff_ids": [_digest(f"diff {n}") for n in layers]},
            "history": [{"created_by": f"ADD {n}"} for n in layers],
        }
        parsed = parse_config(json.dumps(document).encode())
        descriptors = tuple(Descriptor(DOCKER_LAYER, _digest(n), 10) for n in layers)
        manifest = Manifest(
            DOCKER_MANIFEST, _digest("m"), Descriptor("c", parsed.digest, 1), descriptors
        )
        image = self.catalog.put(
            RemoteImage(None, manifest, parsed, None),
            references=[Reference.parse(name) for name in names],
            size=100 * len(layers),
            now_ns=5,
        )
        self.host.datasets.present |= set(image.uuids)
        return image

    async def create(self, name: str | None = None, **body: Any) -> str:
        """A container of busybox; its id."""
        model = ContainerCreate.model_validate({"Image": "busybox", **body})
        answer = await self.gateway.containers.create(model, name=name, platform=None)
        return str(answer["Id"])

    async def started(self, name: str | None = None, **body: Any) -> str:
        """A running container; its id."""
        docker_id = await self.create(name, **body)
        await self.gateway.containers.start(docker_id)
        return docker_id

    def uuid(self, docker_id: str) -> Any:
        """Of its zone."""
        return next(z.uuid for z in self.host.zones.list() if z.metadata.id == docker_id)

    async def inspect(self, ref: str) -> JSONObject:
        """Its inspect."""
        return await self.gateway.containers.inspect(ref, size=False)

    async def told(self) -> list[str]:
        """`type action` of every event so far."""
        query = EventsQuery(since_ns=0, until_ns=2**62)
        found: list[str] = []
        stream = await self.gateway.system.events(query)
        try:
            async with asyncio.timeout(0.02):
                async for line in stream:
                    event = json.loads(line)
                    found.append(f"{event['Type']} {event['Action']}")
        except TimeoutError:
            return found
        return found


def _digest(text: str) -> Digest:
    return Digest(f"sha256:{hashlib.sha256(text.encode()).hexdigest()}")


class _Over(Exception):
    pass


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """Running until the test ends; a task that fails fails the test."""
    host = HostDouble()
    catalog = Catalog(tmp_path / "images")
    settings = Settings(data_root=tmp_path, exec_root=tmp_path / "run")
    try:
        async with asyncio.TaskGroup() as group:
            puller = Puller(host.datasets, catalog, tmp_path / "downloads", group=group)
            gateway = Gateway(
                host, catalog, puller, settings=settings, registry=_no_registry, group=group
            )
            running = group.create_task(gateway.run())
            bench = Bench(gateway, host, catalog)
            bench.image("busybox")
            bench.group = group
            yield bench
            running.cancel()
            # What was started for a test (execs that never end) goes with it.
            _leave()
    except* _Over:
        pass


def _leave() -> None:
    raise _Over


def _no_registry(auth: object) -> Any:
    raise AssertionError("no test here asks a registry")
