"""Images as one archive, as dockerd 28 writes it: a docker archive and an OCI layout in the same tar.

    blobs/sha256/<hex>    layers as plain tars, configs, descriptions; mtime: when the image was created; manifests
    index.json            a manifest for each name, with containerd's annotations
    manifest.json         [{Config, RepoTags, Layers}], what `docker load` of every version reads
    oci-layout, repositories

The same images give the same bytes; dockerd's differ in the time of `blobs/sha256/`, which is when it wrote there, and in
the order of several images.  Nothing is written to disk: sizes are known before, so that layers
are inflated into the answer, and are verified once more on their way.
"""

from __future__ import annotations

import asyncio
import json
import tarfile
from collections.abc import AsyncGenerator, Container, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from dockerapi.errors import APIError, NotSupported
from imgsources import pages
from imgsources.blobs import KeptBlob, LayerBlobs
from imgsources.catalog import Image
from imgsources.descriptions import descriptions
from imgsources.layers import BlobTar
from imgsources.oci import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Descriptor,
    Digest,
    sha256,
)
from imgsources.references import Reference

_BLOCK = 1 << 20
_BLOBS = "blobs/sha256/"
_SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Saved:
    """An image of an archive: the names that it has in there, and when it was created (nanoseconds)."""

    image: Image
    references: tuple[Reference, ...]
    created_ns: int


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer of the archive: a plain tar of `blob.tar_size` bytes."""

    blob: KeptBlob
    diff_id: Digest
    blobs: LayerBlobs


@dataclass(frozen=True, slots=True)
class _Member:
    """A file of the archive; a folder if it has no content."""

    content: bytes | _Layer | None
    mtime_s: int = 0


def kept_layers(image: Image, blobs: LayerBlobs) -> tuple[KeptBlob, ...]:
    """The blobs of an image's layers, base first; NotSupported where this gateway has none."""
    if image.imgapi:
        raise NotSupported(
            f"image {image.uuid} is a SmartOS image of type {image.type}: it has no layers of docker's, "
            "and can neither be saved nor pushed"
        )
    found: list[KeptBlob] = []
    for layer in image.layers:
        blob = blobs.find(layer.digest)
        if blob is None:
            raise NotSupported(
                f"layer {layer.digest} of image {image.id} is here as a dataset that another program made: "
                "without its blob the image can neither be saved nor pushed; pull it"
            )
        found.append(blob)
    return tuple(found)


def saved(images: Sequence[Saved], blobs: LayerBlobs) -> AsyncGenerator[bytes, None]:
    """The archive of these images.  NotSupported at once; DataLoss while it is read."""
    return _archive(_members(images, blobs))


def _members(images: Sequence[Saved], blobs: LayerBlobs) -> dict[str, _Member]:
    members: dict[str, _Member] = {"blobs/": _Member(None), _BLOBS: _Member(None)}
    rows: list[dict[str, Any]] = []
    manifests: list[dict[str, Any]] = []
    repositories: dict[str, dict[str, str]] = {}
    for one in images:
        layers = _layers(one.image, blobs)
        manifest = _manifest(one.image, layers)
        mtime_s = one.created_ns // _SECOND
        for layer in layers:
            members.setdefault(_BLOBS + layer.diff_id[7:], _Member(layer, mtime_s))
        for raw in (one.image.config.raw, *descriptions(one.image.config)):
            members.setdefault(_BLOBS + sha256(raw)[7:], _Member(raw, mtime_s))
        members.setdefault(_BLOBS + sha256(manifest)[7:], _Member(manifest))
        members["blobs/"] = _Member(None, mtime_s)
        manifests += _index_entries(manifest, one.references)
        rows.append(_row(one, layers, {other.image.id for other in images}))
        for reference in one.references:
            tags = repositories.setdefault(reference.familiar_name, {})
            tags[reference.tag or ""] = layers[-1].diff_id[7:]
    members["index.json"] = _Member(
        _json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests})
    )
    members["manifest.json"] = _Member(_json(rows or None) + b"\n")
    members["oci-layout"] = _Member(b'{"imageLayoutVersion": "1.0.0"}')
    if repositories:
        by_name = {name: dict(sorted(tags.items())) for name, tags in sorted(repositories.items())}
        members["repositories"] = _Member(_json(by_name) + b"\n")
    return dict(sorted(members.items()))


def _layers(image: Image, blobs: LayerBlobs) -> list[_Layer]:
    kept = kept_layers(image, blobs)
    if not kept:
        raise APIError("empty export - not implemented")  # dockerd does not either
    return [
        _Layer(blob, diff_id, blobs)
        for blob, diff_id in zip(kept, image.config.diff_ids, strict=True)
    ]


def _manifest(image: Image, layers: Sequence[_Layer]) -> bytes:
    config = Descriptor(OCI_CONFIG, image.id, len(image.config.raw))
    tars = [Descriptor(OCI_LAYER, layer.diff_id, layer.blob.tar_size) for layer in layers]
    return _json(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": _descriptor(config),
            "layers": [_descriptor(tar) for tar in tars],
        }
    )


def _index_entries(manifest: bytes, references: Sequence[Reference]) -> list[dict[str, Any]]:
    plain = _descriptor(Descriptor(OCI_MANIFEST, sha256(manifest), len(manifest)))
    return [
        {
            **plain,
            "annotations": {
                "io.containerd.image.name": reference.full,
                "org.opencontainers.image.ref.name": reference.tag or "",
            },
        }
        for reference in references
    ] or [plain]


def _row(one: Saved, layers: Sequence[_Layer], others: Container[Digest]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "Config": _BLOBS + one.image.id[7:],
        "RepoTags": [str(reference) for reference in one.references] or None,
        "Layers": [_BLOBS + layer.diff_id[7:] for layer in layers] or None,
    }
    if one.image.parent is not None and one.image.parent in others:
        row["Parent"] = one.image.parent
    row["LayerSources"] = {
        layer.diff_id: {  # in the order of another type of Go's than elsewhere
            "mediaType": OCI_LAYER,
            "size": layer.blob.tar_size,
            "digest": layer.diff_id,
        }
        for layer in sorted(layers, key=lambda layer: layer.diff_id)
    }
    return row


def _descriptor(descriptor: Descriptor) -> dict[str, Any]:
    return {
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size,
    }


def _json(document: Mapping[str, Any] | Sequence[Any] | None) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


# Bytes ----------------------------------------------------------------------------------------------


async def _archive(members: Mapping[str, _Member]) -> AsyncGenerator[bytes, None]:
    small: list[bytes] = []
    for name, member in members.items():
        small.append(_header(name, member))
        if isinstance(member.content, _Layer):
            yield b"".join(small)
            small = [_padding(member.content.blob.tar_size)]
            async with aclosing(_tar(member.content)) as blocks:
                async for block in blocks:
                    yield block
        elif member.content:
            small += [member.content, _padding(len(member.content))]
    yield b"".join(small) + bytes(2 * tarfile.BLOCKSIZE)


def _header(name: str, member: _Member) -> bytes:
    info = tarfile.TarInfo(name.rstrip("/"))
    info.mtime = member.mtime_s
    match member.content:
        case None:
            info.type, info.mode = tarfile.DIRTYPE, 0o755
        case bytes():
            info.size = len(member.content)
        case _Layer():
            info.size = member.content.blob.tar_size
    return info.tobuf(tarfile.GNU_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % tarfile.BLOCKSIZE)


async def _tar(layer: _Layer) -> AsyncGenerator[bytes, None]:
    """A layer's tar, the next block inflated while one is sent.  DataLoss if it is not what it should be."""
    loop = asyncio.get_running_loop()
    part = await asyncio.to_thread(layer.blobs.open, layer.blob.layer)
    tar = BlobTar(part, layer.diff_id, lambda _: None)
    with pages.kept():
        ahead = loop.run_in_executor(None, tar.read, _BLOCK)
        try:
            while block := await asyncio.shield(ahead):
                ahead = loop.run_in_executor(None, tar.read, _BLOCK)
                yield block
        finally:
            # The thread has the file: it must not be closed under it.
            while not ahead.done():
                await asyncio.wait([ahead])
            if not ahead.cancelled():
                ahead.exception()
            tar.close()
