"""An image made here: its parent's layers, at most one more that lies in a file, and a config of its own.

Of its layers the parent's are datasets already; the new one is applied from the file, nothing is copied.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dockerapi.errors import NotFound
from imgsources.catalog import Image
from imgsources.compression import HEAD_BYTES, FilePart, compression, inflating
from imgsources.oci import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    Descriptor,
    Digest,
    Manifest,
    check_layers,
    parse_config,
    sha256,
)
from imgsources.sources import RemoteImage

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class LayerFile:
    """An uncompressed layer tar: its blob digest is its diff_id as well.  `is_empty`: it has no entry."""

    path: Path
    digest: Digest
    size: int
    is_empty: bool


async def write_layer(blocks: AsyncIterator[bytes], path: Path) -> LayerFile:
    """The tar as a file, hashed on its way; the caller removes it, whatever happens."""
    out = await asyncio.to_thread(path.open, "wb")
    writing = _Writing(out)
    try:
        pending: list[bytes] = []
        size = 0
        async for block in blocks:
            pending.append(block)
            size += len(block)
            if size >= _BLOCK:
                await asyncio.to_thread(writing.append, pending)
                pending, size = [], 0
        await asyncio.to_thread(writing.append, pending)
    finally:
        out.close()
    digest = Digest(f"sha256:{writing.hash.hexdigest()}")
    return LayerFile(path, digest, writing.size, writing.is_empty)


class _Writing:
    """The file, and what is known of its bytes.  Blocking."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self.hash = hashlib.sha256()
        self.size = 0
        self.is_empty = True

    def append(self, blocks: list[bytes]) -> None:
        for block in blocks:
            self._out.write(block)
            self.hash.update(block)
            self.size += len(block)
            # A tar without entries is nothing but the zeros of its end.
            self.is_empty = self.is_empty and not block.strip(b"\0")


class Commit:
    """One image on top of `parent`, None = of nothing.  `layer` None: the container changed nothing."""

    def __init__(self, parent: Image | None, config: bytes, layer: LayerFile | None) -> None:
        self._layer = layer
        parsed = parse_config(config)
        own = [] if layer is None else [Descriptor(DOCKER_LAYER, layer.digest, layer.size)]
        manifest = Manifest(
            media_type=DOCKER_MANIFEST,
            digest=sha256(config),
            config=Descriptor(DOCKER_CONFIG, parsed.digest, len(config)),
            layers=(*(parent.layers if parent else ()), *own),
        )
        check_layers(manifest, parsed)
        self.image = RemoteImage(None, manifest, parsed, None, parent=parent.id if parent else None)

    def blob_path(self, descriptor: Descriptor) -> Path:
        """The new layer's file; NotFound for one of the parent's, which went while this was made."""
        if self._layer is None or descriptor.digest != self._layer.digest:
            raise NotFound(f"layer {descriptor.digest} of the parent image is not there any more")
        return self._layer.path


@dataclass(frozen=True, slots=True)
class ArchiveLayer:
    """A layer that came as an archive, compressed or not: `digest` of the file, `diff_id` of the tar in it."""

    path: Path
    digest: Digest
    diff_id: Digest
    size: int
    compression: str


def read_layer(path: Path) -> ArchiveLayer:
    """What is in an archive, hashed.  DataLoss where it is cut or damaged, NotSupported for zstd.  Blocking."""
    part = FilePart.whole(path)
    try:
        kind = compression(part.head(HEAD_BYTES))
        outer, inner = hashlib.sha256(), hashlib.sha256()
        size = 0
        while block := part.read(_BLOCK):
            outer.update(block)
            size += len(block)
        part.rewind()
        read = inflating(part, kind)
        while kind and (block := read(_BLOCK)):
            inner.update(block)
    finally:
        part.close()
    digest = Digest(f"sha256:{outer.hexdigest()}")
    diff_id = Digest(f"sha256:{inner.hexdigest()}") if kind else digest
    return ArchiveLayer(path, digest, diff_id, size, kind)


class Imported:
    """An image of one layer and nothing below."""

    def __init__(self, config: bytes, layer: ArchiveLayer) -> None:
        self._layer = layer
        parsed = parse_config(config)
        kind = f"{DOCKER_LAYER}.{layer.compression}" if layer.compression else DOCKER_LAYER
        manifest = Manifest(
            media_type=DOCKER_MANIFEST,
            digest=sha256(config),
            config=Descriptor(DOCKER_CONFIG, parsed.digest, len(config)),
            layers=(Descriptor(kind, layer.digest, layer.size),),
        )
        check_layers(manifest, parsed)
        self.image = RemoteImage(None, manifest, parsed, None)

    def blob_path(self, descriptor: Descriptor) -> Path:
        """The archive."""
        return self._layer.path
