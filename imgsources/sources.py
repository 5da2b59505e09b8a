"""Where images come from, by protocol: a registry, an archive, an image server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from dockerapi.errors import APIError
from imgsources.compression import FilePart
from imgsources.oci import (
    Descriptor,
    Digest,
    ImageConfig,
    ImageUUID,
    Manifest,
    Platform,
    chain_uuids,
)
from imgsources.references import Reference


class TransferBroken(APIError):
    """A transfer broke off or stalled; asking again from where it stopped may help.

    `open_blob` raises it on entry (the source is overloaded or hangs) and while its bytes are read.
    """


@dataclass(frozen=True, slots=True)
class RemoteImage:
    """An image as its source shows it; nothing of its layers has been fetched.

    `digest` is what the reference resolved to (the index's digest where there is one): RepoDigests and
    the `Digest:` line of a pull show it.  None for archives.
    """

    reference: Reference | None
    manifest: Manifest
    config: ImageConfig
    digest: Digest | None
    imgapi: Mapping[str, Any] = field(default_factory=dict)
    server: str = ""
    parent: Digest | None = None
    """The image that it was committed on top of."""

    @property
    def uuids(self) -> tuple[ImageUUID, ...]:
        """The datasets of its layers, base first; an image server's image is one."""
        if self.imgapi:
            return (ImageUUID(str(self.imgapi["uuid"])),)
        return chain_uuids([layer.digest for layer in self.manifest.layers])


class ImageSource(Protocol):
    """One place that images can be had from."""

    async def resolve(
        self,
        reference: Reference,
        platform: Platform | None,
        *,
        found: Callable[[], None] = lambda: None,
    ) -> RemoteImage:
        """Manifest and config, verified.  NotFound, Unauthorized, InvalidParameter, Unavailable."""
        ...

    def open_blob(
        self, image: RemoteImage, descriptor: Descriptor, *, offset: int = 0
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The blob's bytes from `offset` on, unverified."""
        ...


@runtime_checkable
class LocalBlobs(Protocol):
    """Blobs that lie in files here: nothing is fetched, and they are verified as they are applied."""

    def blob_path(self, descriptor: Descriptor) -> Path:
        """NotFound."""
        ...


@runtime_checkable
class EmbeddedBlobs(Protocol):
    """Blobs that lie inside of a larger file here; what is compressed in them has its digest for sure."""

    def blob_part(self, descriptor: Descriptor) -> FilePart:
        """The bytes of a blob, opened.  NotFound."""
        ...
