"""Pulls from an in-process registry into real datasets: each layer once, nothing left over."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import tarfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import pytest

from dockerapi.errors import APIError, DataLoss, DigestMismatch, InvalidParameter, NotFound
from gateway.hosts.linux import overlay
from gateway.hosts.linux.datasets import OverlayDatasets
from imgsources.archives import open_archive
from imgsources.catalog import Catalog
from imgsources.oci import Descriptor, Platform, parse_digest
from imgsources.puller import LoadEvent, Puller
from imgsources.references import Reference
from imgsources.registry import RegistryClient
from imgsources.retries import Retries
from imgsources.sources import ImageSource, RemoteImage
from imgsources.transfers import PullEvent
from tests.fakes.registry import FakeImage, FakeRegistry, Fault, image_config, layer_tar

pytestmark = pytest.mark.root


@dataclass
class Place:
    """A puller with all that it needs."""

    registry: FakeRegistry
    source: ImageSource
    store: OverlayDatasets
    catalog: Catalog
    puller: Puller
    downloads: Path
    group: asyncio.TaskGroup

    def reference(self, name: str) -> Reference:
        return Reference.parse(f"{self.registry.host}/{name}")

    async def events(self, name: str) -> AsyncIterator[PullEvent]:
        stream = await self.puller.pull(self.reference(name), self.source, platform=None)
        async with contextlib.aclosing(stream) as events:
            async for event in events:
                yield event

    async def pull(self, name: str) -> list[PullEvent]:
        async with asyncio.timeout(20):
            return [event async for event in self.events(name)]

    async def datasets(self) -> int:
        return len(await self.store.list())

    def blob_requests(self, image: FakeImage, number: int = 0) -> int:
        return len(self.registry.requests(image.layer_digests[number]))

    def is_clean(self) -> bool:
        """No dataset half made."""
        root = self.downloads.parent / "store" / "datasets"
        return not [path for path in root.iterdir() if path.name.startswith(".")]


class Ordered(OverlayDatasets):
    """A store as on ZFS: a layer is applied on its origin, not beside it."""

    layers_are_independent = False


@pytest.fixture(params=[OverlayDatasets])
async def place(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    store = await request.param.open(tmp_path / "store")
    catalog = Catalog(tmp_path / "catalog")
    try:
        async with (
            FakeRegistry.serve() as registry,
            aiohttp.ClientSession(auto_decompress=False) as session,
            asyncio.TaskGroup() as group,
        ):
            source = RegistryClient(session, mirrors=(), insecure=(), auth=None)
            downloads = tmp_path / "downloads"
            puller = Puller(store, catalog, downloads, group=group, retries=Retries(2, second_s=0))
            yield Place(registry, source, store, catalog, puller, downloads, group)
    finally:
        store.close()
        overlay.unmount(tmp_path / "store")


def layers(*names: str, size: int = 10) -> list[bytes]:
    return [layer_tar({name: name.encode() * size}) for name in names]


def statuses(events: list[PullEvent], image: FakeImage, number: int) -> list[str]:
    """What one layer went through, repeats left out."""
    short = image.layer_digests[number][7:19]
    seen = [event.status for event in events if event.id == short]
    return [status for at, status in enumerate(seen) if at == 0 or seen[at - 1] != status]


both_stores = pytest.mark.parametrize(
    "place", [OverlayDatasets, Ordered], indirect=True, ids=["independent", "ordered"]
)


@both_stores
async def test_a_pull_tells_what_dockerd_tells(place: Place) -> None:
    image = place.registry.add_image("me/app", "v1", layers("a", "b"))
    events = await place.pull("me/app:v1")
    name = f"{place.registry.host}/me/app:v1"
    assert events[0] == PullEvent("Pulling from me/app", id="v1")
    assert events[-2:] == [
        PullEvent(f"Digest: {image.digest}"),
        PullEvent(f"Status: Downloaded newer image for {name}"),
    ]
    for number in (0, 1):
        seen = [status for status in statuses(events, image, number) if status != "Waiting"]
        assert seen[0] == "Pulling fs layer"
        assert seen[-1] == "Pull complete"
        middle = ["Verifying Checksum", "Download complete", "Extracting"]
        assert [status for status in seen if status in middle] == middle
    held = place.catalog.get(name)
    assert (held.id, held.size, len(held.uuids)) == (image.id, 20, 2)
    assert await place.store.list() == set(held.uuids)
    assert not any(place.downloads.glob("*"))


async def test_a_second_pull_is_up_to_date_and_asks_for_no_layer(place: Place) -> None:
    image = place.registry.add_image("me/app", "v1", layers("a"))
    await place.pull("me/app:v1")
    events = await place.pull("me/app:v1")
    assert [event.status for event in events][1:] == [
        f"Digest: {image.digest}",
        f"Status: Image is up to date for {place.registry.host}/me/app:v1",
    ]
    assert place.blob_requests(image) == 1


async def test_a_pull_brings_the_blobs_of_layers_that_another_program_made(place: Place) -> None:
    image = place.registry.add_image("me/app", "v1", layers("a", "b"))
    await place.pull("me/app:v1")
    place.puller.blobs.drop(())
    events = await place.pull("me/app:v1")
    for number in (0, 1):
        assert statuses(events, image, number) == ["Downloading", "Download complete"]
        assert place.puller.blobs.find(parse_digest(image.layer_digests[number])) is not None
    assert events[-1].status.startswith("Status: Image is up to date")
    assert not any(place.downloads.glob("*"))
    assert [place.blob_requests(image, number) for number in (0, 1)] == [2, 2]


async def test_a_blob_that_cannot_be_had_again_keeps_no_image_from_being_there(
    place: Place,
) -> None:
    image = place.registry.add_image("me/app", "v1", layers("a"))
    await place.pull("me/app:v1")
    place.puller.blobs.drop(())
    place.registry.remove_blob(image.layer_digests[0])
    events = await place.pull("me/app:v1")
    assert events[-1].status.startswith("Status: Image is up to date")


async def test_a_pull_by_digest_names_the_digest(place: Place) -> None:
    image = place.registry.add_image("me/app", "v1", layers("a"))
    events = await place.pull(f"me/app@{image.digest}")
    assert events[0].id == f"{place.registry.host}/me/app@{image.digest}"
    assert events[-1].status.endswith(
        f"newer image for {place.registry.host}/me/app@{image.digest}"
    )
    held = place.catalog.get(image.id)
    assert held.references == ()
    assert held.repo_digests == (f"{place.registry.host}/me/app@{image.digest}",)


async def test_shared_prefixes_are_there_already(place: Place) -> None:
    first = place.registry.add_image("me/a", "v", layers("base", "a"))
    place.registry.add_image("me/b", "v", layers("base", "b"))
    await place.pull("me/a:v")
    events = await place.pull("me/b:v")
    assert statuses(events, first, 0) == ["Already exists"]
    assert place.blob_requests(first) == 1
    assert await place.datasets() == 3


@both_stores
async def test_the_same_layer_twice_is_fetched_once(place: Place) -> None:
    image = place.registry.add_image("me/a", "v", layers("x", "x", "y", "x"))
    await place.pull("me/a:v")
    assert place.blob_requests(image) == 1
    assert await place.datasets() == 4
    assert not any(place.downloads.glob("*"))


async def test_an_image_without_layers_needs_no_dataset(place: Place) -> None:
    image = place.registry.add_image("me/none", "v", [])
    await place.pull("me/none:v")
    assert place.catalog.get(image.id).uuids == ()
    assert await place.datasets() == 0


async def test_the_same_image_in_another_compression_keeps_its_layers(place: Place) -> None:
    place.registry.add_image("me/a", "gz", layers("a"))
    zstd = place.registry.add_image("me/a", "zst", layers("a"), compression="zstd")
    await place.pull("me/a:gz")
    events = await place.pull("me/a:zst")
    assert place.blob_requests(zstd) == 0
    assert events[-1].status.startswith("Status: Downloaded newer image")
    assert len(place.catalog.get(zstd.id).references) == 2
    assert await place.datasets() == 1


@both_stores
async def test_many_layers_more_than_slots_end(place: Place) -> None:
    image = place.registry.add_image("me/a", "v", layers(*map(str, range(12))))
    events = await place.pull("me/a:v")
    assert any(event.status == "Waiting" for event in events)
    assert len(place.catalog.get(image.id).uuids) == 12


async def test_concurrent_pulls_share_the_work_and_both_see_it(place: Place) -> None:
    image = place.registry.add_image("me/a", "v", layers("a", "b"))
    async with asyncio.TaskGroup() as group:
        pulls = [group.create_task(place.pull("me/a:v")) for _ in range(5)]
    for pull in pulls:
        for number in (0, 1):
            assert statuses(pull.result(), image, number)[-1] == "Pull complete"
    assert [place.blob_requests(image, number) for number in (0, 1)] == [1, 1]


class Gated:
    """A source that gives a blob's first bytes and then waits for `go`."""

    def __init__(self, source: ImageSource) -> None:
        self._source = source
        self.started = asyncio.Event()
        self.go = asyncio.Event()

    async def resolve(
        self,
        reference: Reference,
        platform: Platform | None,
        *,
        found: Callable[[], None] = lambda: None,
    ) -> RemoteImage:
        return await self._source.resolve(reference, platform, found=found)

    @asynccontextmanager
    async def open_blob(
        self, image: RemoteImage, descriptor: Descriptor, *, offset: int = 0
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        async with self._source.open_blob(image, descriptor, offset=offset) as blocks:
            yield self._gated(blocks)

    async def _gated(self, blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for block in blocks:
            yield block[:100]
            self.started.set()
            await self.go.wait()
            yield block[100:]


async def follow(place: Place, name: str, seen: list[PullEvent], began: asyncio.Event) -> None:
    """Pull, and say when the first layer shows up."""
    async for event in place.events(name):
        seen.append(event)
        if event.status == "Pulling fs layer":
            began.set()


async def leave(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_a_client_that_leaves_does_not_stop_the_other(place: Place) -> None:
    image = place.registry.add_image("me/a", "v", layers("a", "b"))
    place.source = gate = Gated(place.source)
    seen: list[PullEvent] = []
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        leaving = group.create_task(follow(place, "me/a:v", [], asyncio.Event()))
        await gate.started.wait()
        began = asyncio.Event()
        group.create_task(follow(place, "me/a:v", seen, began))
        await began.wait()
        await leave(leaving)
        gate.go.set()
    assert seen[-1].status.startswith("Status: Downloaded")
    assert [place.blob_requests(image, number) for number in (0, 1)] == [1, 1]


async def test_when_all_have_left_only_the_partial_download_stays(place: Place) -> None:
    image = place.registry.add_image("me/a", "v", layers("a", size=5000), compression="")
    source = place.source
    place.source = gate = Gated(source)
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        tasks = [group.create_task(follow(place, "me/a:v", [], asyncio.Event())) for _ in range(2)]
        await gate.started.wait()
        await leave(*tasks)
    assert await place.datasets() == 0
    assert place.is_clean()
    assert [path.name for path in place.downloads.iterdir()] == [
        image.layer_digests[0].replace(":", "-") + ".partial"
    ]
    place.source = source
    await place.pull("me/a:v")
    assert place.registry.requests(image.layer_digests[0])[-1].range == "bytes=100-"
    assert not any(place.downloads.glob("*"))


async def test_a_pull_right_after_one_was_given_up_succeeds(place: Place) -> None:
    place.registry.add_image("me/a", "v", layers("a", "b", "c"))
    source = place.source
    place.source = gate = Gated(source)
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        leaving = group.create_task(follow(place, "me/a:v", [], asyncio.Event()))
        await gate.started.wait()
        leaving.cancel()
        place.source = source
        events = await place.pull("me/a:v")
    assert events[-1].status.startswith("Status: Downloaded")
    assert await place.datasets() == 3


async def test_an_iterator_that_is_closed_early_leaves_nothing(place: Place) -> None:
    place.registry.add_image("me/a", "v", layers("a", "b"))
    stream = await place.puller.pull(place.reference("me/a:v"), place.source, platform=None)
    await anext(stream)
    await anext(stream)
    await stream.aclose()
    assert await place.datasets() == 0
    assert place.is_clean()


# --- what goes wrong


@both_stores
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault("", flip=True), DigestMismatch),
        (Fault("", status=404), NotFound),
        (Fault("", status=500, times=9), APIError),
        (Fault("", truncate_after=5, times=2), APIError),
    ],
    ids=["wrong bytes", "missing", "server error", "truncated"],
)
async def test_a_layer_that_cannot_be_had_takes_the_others_with_it(
    place: Place, fault: Fault, error: type[APIError]
) -> None:
    image = place.registry.add_image("me/a", "v", layers("a", "b", "c", size=1000))
    fault = replace(fault, match="/blobs/" + image.layer_digests[1])
    place.registry.faults.append(fault)
    with pytest.raises(error):
        await place.pull("me/a:v")
    assert await place.datasets() == 0
    assert place.is_clean()
    assert place.catalog.images() == ()
    place.registry.faults.clear()
    await place.pull("me/a:v")


async def test_a_failure_spares_what_another_image_needs(place: Place) -> None:
    place.registry.add_image("me/good", "v", layers("base"))
    bad = place.registry.add_image("me/bad", "v", layers("base", "bad"))
    await place.pull("me/good:v")
    place.registry.remove_blob(bad.layer_digests[1])
    with pytest.raises(NotFound):
        await place.pull("me/bad:v")
    assert await place.datasets() == 1


async def test_a_broken_connection_is_resumed(place: Place) -> None:
    image = place.registry.add_image("me/a", "v", layers("a", size=200_000), compression="")
    path = "/blobs/" + image.layer_digests[0]
    place.registry.faults.append(Fault(path, break_after=70_000))
    await place.pull("me/a:v")
    assert [bool(request.range) for request in place.registry.requests(path)] == [False, True]


async def test_a_connection_broken_at_nine_tenths_costs_no_more_than_what_was_missing(
    place: Place,
) -> None:
    image = place.registry.add_image("me/a", "v", layers("a", size=5_000_000), compression="")
    path = "/blobs/" + image.layer_digests[0]
    size = len(image.blobs[0])
    place.registry.faults.append(Fault(path, break_after=size * 9 // 10))
    await place.pull("me/a:v")
    first, second = place.registry.requests(path)
    arrived = int(second.range.removeprefix("bytes=").removesuffix("-"))
    assert arrived > size // 2  # what was still in the sockets is lost when a connection is reset
    assert first.sent == size * 9 // 10
    assert second.sent == size - arrived


async def test_a_tar_that_is_not_its_diff_id_is_refused(place: Place) -> None:
    wrong = {"type": "layers", "diff_ids": ["sha256:" + "0" * 64]}
    place.registry.add_image("me/a", "v", layers("a"), rootfs=wrong)
    with pytest.raises(DigestMismatch):
        await place.pull("me/a:v")
    assert await place.datasets() == 0
    assert not any(place.downloads.glob("*"))


async def test_an_entry_that_leads_out_is_refused_and_named(place: Place) -> None:
    place.registry.add_image("me/a", "v", [layer_tar({"../x": b"1"})])
    with pytest.raises(InvalidParameter, match=r"'\.\./x'"):
        await place.pull("me/a:v")
    assert (await place.datasets(), place.is_clean()) == (0, True)


async def test_a_blob_that_is_no_gzip_is_data_loss(place: Place) -> None:
    broken = layers("a", size=5000)
    image = place.registry.add_image("me/a", "v", broken)
    cut = image.blobs[0][:-10]
    digest = place.registry.add_blob(cut)
    manifest = json.loads(image.manifest)
    manifest["layers"][0] |= {"digest": digest, "size": len(cut)}
    place.registry.add_manifest("me/a", "v", image.manifest_type, json.dumps(manifest).encode())
    with pytest.raises(DataLoss, match="gzip: unexpected EOF"):
        await place.pull("me/a:v")


async def test_an_unknown_image_is_known_before_the_stream_begins(place: Place) -> None:
    with pytest.raises(NotFound):
        await place.puller.pull(place.reference("me/none:v"), place.source, platform=None)


# --- collect


async def test_a_config_that_says_another_tar_of_a_layer_that_is_here_is_refused(
    place: Place,
) -> None:
    """dockerd's words; a layer is found by its blob, so nobody unpacks it once more to see."""
    (tar,) = layers("a")
    place.registry.add_image("me/a", "v", [tar])
    await place.pull("me/a:v")
    false = {"type": "layers", "diff_ids": ["sha256:" + "2" * 64]}
    place.registry.add_image("me/b", "v", [tar], rootfs=false)
    with pytest.raises(InvalidParameter, match="layers from manifest don't match image conf"):
        await place.pull("me/b:v")
    assert len(place.catalog.images()) == 1
    assert place.is_clean()


async def test_a_name_that_leads_to_no_image_for_us_is_a_pull_that_has_begun(place: Place) -> None:
    (tar,) = layers("a")
    place.registry.add_image("me/w", "v", [tar], os="windows")
    events = place.events("me/w:v")
    assert await anext(events) == PullEvent("Pulling from me/w", id="v")
    with pytest.raises(InvalidParameter, match='"windows" cannot be used on this platform'):
        await anext(events)
    with pytest.raises(NotFound):
        await place.puller.pull(place.reference("me/w:none"), place.source, platform=None)


async def test_collect_removes_what_no_image_needs(place: Place) -> None:
    keep = place.registry.add_image("me/keep", "v", layers("base", "keep"))
    drop = place.registry.add_image("me/drop", "v", layers("base", "drop", "more"))
    await place.pull("me/keep:v")
    await place.pull("me/drop:v")
    place.catalog.remove(place.catalog.get(drop.id).id)
    await place.puller.collect()
    assert await place.store.list() == set(place.catalog.get(keep.id).uuids)


async def test_collect_leaves_what_a_zone_stands_on_until_it_is_gone(place: Place) -> None:
    image = place.registry.add_image("me/a", "v", layers("a", "b"))
    await place.pull("me/a:v")
    held = place.catalog.get(image.id)
    await place.store.clone(held.uuid, "z")
    place.catalog.remove(held.id)
    await place.puller.collect()
    assert await place.datasets() == 2
    await place.store.discard("z")
    await place.puller.collect()
    assert await place.datasets() == 0


async def test_collect_spares_what_a_running_pull_counts_on(place: Place) -> None:
    first = place.registry.add_image("me/a", "v", layers("base"))
    place.registry.add_image("me/b", "v", layers("base", "b"))
    await place.pull("me/a:v")
    source = place.source
    place.source = gate = Gated(source)
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        pulling = group.create_task(place.pull("me/b:v"))
        await gate.started.wait()
        place.catalog.remove(place.catalog.get(first.id).id)
        await place.puller.collect()
        assert await place.datasets() == 1
        gate.go.set()
        await pulling
    assert await place.datasets() == 2


# --- load


def saved(folder: Path, images: dict[str, list[bytes]]) -> Path:
    """An archive as `docker save` writes it."""
    path = folder / "saved.tar"
    entries = []
    with tarfile.open(path, "w") as tar:

        def add(name: str, content: bytes) -> None:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))

        for number, (tag, tars) in enumerate(images.items()):
            add(f"{number}.json", image_config(tars))
            names = [f"{number}/{at}/layer.tar" for at in range(len(tars))]
            for name, content in zip(names, tars, strict=True):
                add(name, content)
            entries.append({"Config": f"{number}.json", "RepoTags": [tag], "Layers": names})
        add("manifest.json", json.dumps(entries).encode())
    return path


async def test_every_image_of_an_archive_is_loaded(place: Place, tmp_path: Path) -> None:
    path = saved(tmp_path, {"a:1": layers("base", "a"), "b:1": layers("base", "b")})
    async with open_archive(path) as archive:
        events = [event async for event in await place.puller.load(archive)]
        loaded = [event for event in events if isinstance(event, LoadEvent)]
    assert [str(event.references[0]) for event in loaded] == ["a:1", "b:1"]
    assert [place.catalog.get(name).id for name in ("a:1", "b:1")] == [e.image.id for e in loaded]
    assert await place.datasets() == 3
    assert not any(place.downloads.glob("*"))


async def names_into(told: list[str], events: AsyncIterator[LoadEvent | PullEvent]) -> None:
    async for event in events:
        told += [str(event.references[0])] if isinstance(event, LoadEvent) else []


async def test_an_archive_with_a_bad_second_image_keeps_the_first(
    place: Place, tmp_path: Path
) -> None:
    bad = layer_tar({"../x": b"1"})
    path = saved(tmp_path, {"a:1": layers("a"), "b:1": [*layers("b"), bad]})
    async with open_archive(path) as archive:
        events = await place.puller.load(archive)
        told: list[str] = []
        with pytest.raises(InvalidParameter):
            await names_into(told, events)
        assert told == ["a:1"]
    assert await place.store.list() == set(place.catalog.get("a:1").uuids)
