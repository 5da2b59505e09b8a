"""Pushes to a registry in this process: what is sent, what is not, and what goes wrong."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from dockerapi.errors import APIError, Forbidden, NotSupported, TooManyRequests
from imgsources.blobs import LayerBlobs
from imgsources.catalog import Catalog, Image
from imgsources.oci import (
    DOCKER_MANIFEST,
    OCI_MANIFEST,
    Descriptor,
    Digest,
    Manifest,
    parse_config,
    sha256,
)
from imgsources.pusher import Pushed, Pusher
from imgsources.references import Reference
from imgsources.retries import Retries
from imgsources.slots import Slots
from imgsources.sources import RemoteImage
from imgsources.transfers import PullEvent
from imgsources.transport import Credentials, Transport
from tests.fakes.registry import (
    RATE_LIMIT,
    Compression,
    FakeRegistry,
    Fault,
    compress,
    image_config,
    layer_tar,
)

LARGE = hashlib.shake_128(b"large").digest(3 << 20)


@dataclass
class Place:
    registry: FakeRegistry
    session: aiohttp.ClientSession
    blobs: LayerBlobs
    catalog: Catalog
    group: asyncio.TaskGroup
    folder: Path

    def image(self, *tars: bytes, compression: Compression = "gzip") -> Image:
        """An image here, whose layers were kept as they came."""
        config = parse_config(image_config(tars))
        layers = []
        for tar in tars:
            raw = compress(tar, compression)
            path = self.blobs.new()
            path.write_bytes(raw)
            self.blobs.adopt(path, sha256(raw), len(tar))
            layers.append(Descriptor("", sha256(raw), len(raw)))
        manifest = Manifest("", sha256(b"m"), Descriptor("", config.digest, 1), tuple(layers))
        remote = RemoteImage(None, manifest, config, None)
        return self.catalog.put(remote, references=[], size=0, now_ns=1)

    async def push(
        self,
        image: Image,
        name: str = "me/app:v1",
        sources: tuple[str, ...] = (),
        auth: Credentials | None = None,
    ) -> list[PullEvent | Pushed]:
        transport = Transport(self.session, auth=auth)
        reference = Reference.parse(f"{self.registry.host}/{name}")
        async with asyncio.timeout(20):
            retries = Retries(5, second_s=0)
            pusher = Pusher(transport, self.blobs, self.group, retries=retries)
            return [event async for event in pusher.push(image, reference, sources)]


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with (
        FakeRegistry.serve() as registry,
        aiohttp.ClientSession(auto_decompress=False) as session,
        asyncio.TaskGroup() as group,
    ):
        blobs, catalog = LayerBlobs(tmp_path / "layers"), Catalog(tmp_path / "catalog")
        yield Place(registry, session, blobs, catalog, group, tmp_path)


def statuses(events: list[PullEvent | Pushed]) -> list[str]:
    return [
        event.status
        for event in events
        if isinstance(event, PullEvent) and event.status != "Pushing"
    ]


async def test_what_is_pushed_can_be_pulled_with_the_same_digests(place: Place) -> None:
    image = place.image(layer_tar({"a": b"1"}), layer_tar({"b": LARGE}))
    events = await place.push(image)
    assert statuses(events) == ["Preparing", "Preparing", "Pushed", "Pushed"]
    pushed = events[-1]
    assert isinstance(pushed, Pushed)
    raw = place.registry.manifest("me/app", "v1")
    assert (pushed.digest, pushed.size) == (sha256(raw), len(raw))
    document = json.loads(raw)
    assert document["mediaType"] == DOCKER_MANIFEST
    assert document["config"]["digest"] == image.id
    assert [row["digest"] for row in document["layers"]] == [row.digest for row in image.layers]
    # dockerd's own spelling, on which the digest depends.
    assert raw == json.dumps(document, indent=3).encode()
    assert place.registry.uploads.left == 0


async def test_progress_counts_the_bytes_that_are_sent(place: Place) -> None:
    image = place.image(layer_tar({"b": LARGE}))
    events = await place.push(image)
    sent = [event for event in events if isinstance(event, PullEvent) and event.current]
    assert sent[-1].current == sent[-1].total == image.layers[0].size


async def test_what_is_there_already_is_not_sent(place: Place) -> None:
    image = place.image(layer_tar({"a": b"1"}))
    await place.push(image)
    place.registry.log.clear()
    assert statuses(await place.push(image, "me/app:v2")) == ["Preparing", "Layer already exists"]
    assert not [request for request in place.registry.log if request.method in ("POST", "PATCH")]


async def test_the_same_layer_twice_is_sent_once(place: Place) -> None:
    image = place.image(layer_tar({"a": b"1"}), layer_tar({"a": b"1"}))
    assert statuses(await place.push(image)).count("Pushed") == 2
    assert len([r for r in place.registry.log if r.method == "POST"]) == 2  # the layer, the config


async def test_zstd_layers_need_a_manifest_of_ocis(place: Place) -> None:
    image = place.image(layer_tar({"a": b"1"}), compression="zstd")
    await place.push(image)
    document = json.loads(place.registry.manifest("me/app", "v1"))
    assert document["mediaType"] == OCI_MANIFEST
    assert document["layers"][0]["mediaType"].endswith("tar+zstd")


async def test_layers_of_another_repository_are_mounted(place: Place) -> None:
    image = place.image(layer_tar({"a": LARGE}))
    await place.push(image, "me/other:v1")
    # HEAD is asked of one repository, but this registry has one store for all.
    place.registry.faults.append(Fault(f"me/app/blobs/{image.layers[0].digest}", status=404))
    events = await place.push(image, sources=("me/other",))
    assert statuses(events) == ["Preparing", "Mounted from me/other"]
    assert place.registry.uploads.mounted == [(image.layers[0].digest, "me/other")]


async def test_a_mount_that_becomes_an_upload_is_cancelled_and_sent(place: Place) -> None:
    image = place.image(layer_tar({"a": LARGE}))
    place.registry.uploads.mounts = False
    events = await place.push(image, sources=("me/other",))
    assert statuses(events) == ["Preparing", "Pushed"]
    assert place.registry.uploads.left == 0


async def test_a_registry_without_patch_gets_blobs_whole(place: Place) -> None:
    image = place.image(layer_tar({"a": LARGE}))
    place.registry.uploads.knows_patch = False
    assert statuses(await place.push(image)) == ["Preparing", "Pushed"]


@pytest.mark.parametrize("status", [500, 503])
async def test_an_upload_that_fails_is_tried_again_after_a_pause(place: Place, status: int) -> None:
    image = place.image(layer_tar({"a": LARGE}))
    place.registry.faults.append(Fault("/blobs/uploads/upload", status=status, times=2))
    seen = statuses(await place.push(image))
    assert seen[:3] == ["Preparing", "Retrying in 5 seconds", "Retrying in 4 seconds"]
    assert seen[5:7] == ["Retrying in 1 second", "Retrying in 10 seconds"]
    assert seen[-1] == "Pushed"


async def test_a_registry_that_has_enough_of_us_is_not_asked_again(place: Place) -> None:
    image = place.image(layer_tar({"a": LARGE}))
    place.registry.faults.append(
        Fault("/blobs/uploads/upload", status=429, body=RATE_LIMIT, times=9)
    )
    with pytest.raises(TooManyRequests, match="toomanyrequests: You have reached"):
        await place.push(image)
    assert place.registry.faults[0].times == 8


async def test_pushes_share_the_slots_for_uploads(place: Place) -> None:
    images = [place.image(layer_tar({name: LARGE})) for name in "ab"]
    slots, transport = Slots(1), Transport(place.session)
    seen: list[str] = []
    for number, image in enumerate(images):
        pusher = Pusher(transport, place.blobs, place.group, slots=slots)
        reference = Reference.parse(f"{place.registry.host}/me/app:v{number}")
        async with slots:
            events = pusher.push(image, reference)
            seen += [(await anext(events)).status for _ in range(2)]  # type: ignore[union-attr]
        seen += statuses([event async for event in events])
    assert seen == ["Preparing", "Waiting", "Pushed"] * 2


async def test_an_upload_that_always_fails_says_why(place: Place) -> None:
    image = place.image(layer_tar({"a": LARGE}), layer_tar({"b": b"2"}))
    body = {"errors": [{"code": "UNKNOWN", "message": "the disk is full"}]}
    place.registry.faults.append(Fault("/blobs/uploads/upload", status=400, times=99, body=body))
    with pytest.raises(APIError, match="unknown: the disk is full"):
        await place.push(image)


async def test_a_bearer_registry_is_asked_for_the_right_to_push(place: Place) -> None:
    image = place.image(layer_tar({"a": LARGE}))
    place.registry.bearer = True
    place.registry.users = {"ann": "pw"}
    auth = Credentials("ann", "pw")
    events = await place.push(image, sources=("me/other",), auth=auth)
    assert isinstance(events[-1], Pushed)
    scopes = [request.query.get("scope") for request in place.registry.requests("/token")]
    assert "repository:me/app:pull,push" in scopes


async def test_who_may_not_write_is_told_in_the_registrys_words(place: Place) -> None:
    image = place.image(layer_tar({"a": LARGE}))
    place.registry.bearer = True
    place.registry.users = {"ann": "pw"}
    place.registry.readers = {"me/app"}
    words = "^denied: requested access to the resource is denied$"
    with pytest.raises(Forbidden, match=words):
        await place.push(image, auth=Credentials("ann", "pw"))
    with pytest.raises(Forbidden, match=words):
        await place.push(image)


async def test_a_basic_registry_without_credentials_says_so(place: Place) -> None:
    image = place.image(layer_tar({"a": b"1"}))
    place.registry.basic = ("ann", "pw")
    with pytest.raises(APIError, match="no basic auth credentials"):
        await place.push(image)
    assert isinstance((await place.push(image, auth=Credentials("ann", "pw")))[-1], Pushed)


async def test_a_layer_whose_blob_is_not_kept_cannot_be_pushed(place: Place) -> None:
    image = place.image(layer_tar({"a": b"1"}))
    place.blobs.drop({Digest("none")})
    with pytest.raises(NotSupported, match="another program made"):
        await place.push(image)


async def test_who_goes_away_ends_the_uploads(place: Place) -> None:
    image = place.image(layer_tar({"a": LARGE}))
    place.registry.faults.append(Fault("/blobs/uploads/", stall_after=0))
    reference = Reference.parse(f"{place.registry.host}/me/app:v1")
    events = Pusher(Transport(place.session), place.blobs, place.group).push(image, reference)
    assert (await anext(events)).status == "Preparing"  # type: ignore[union-attr]
    await events.aclose()
    with pytest.raises(KeyError):
        place.registry.manifest("me/app", "v1")
