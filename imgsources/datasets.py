"""What a platform must offer so that layers become datasets, by protocol.

A dataset is one layer on top of its origin, named by imgadm's UUID rule.  Stores live in
`gateway.hosts`: they start programs, which this package may not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from imgsources.oci import Digest, ImageUUID


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """What a store may want to register with its platform's image database.

    `digest` is the blob's (compressed) digest, `size` its length in bytes; `diff_id` the tar's digest.
    `tags` are the references that the image was pulled by, on the top layer only; `repository` is the
    familiar name without tag, on every layer.  `created`, `architecture`, `description` are the image config's,
    "" where it has none.
    """

    digest: Digest
    diff_id: Digest
    size: int
    tags: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    repository: str = ""
    created: str = ""
    architecture: str = ""
    description: str = ""


class Readable(Protocol):
    """A blocking byte stream; `read` is called in a worker thread."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; b"" at the end.  Raises what spoils the layer (DigestMismatch, ...)."""
        ...


class LayerTree(Protocol):
    """The writable root of a dataset that is being made."""

    async def apply(self, tar: Readable) -> None:
        """Write one uncompressed layer tar, whiteouts honoured, nothing outside the root.

        Reads `tar` to its very end.  InvalidParameter names the entry that is wrong.
        """
        ...


class DatasetStore(Protocol):
    """Datasets of image layers on one platform."""

    @property
    def layers_are_independent(self) -> bool:
        """Whether a layer can be applied before its origin is there (overlays can, clones cannot)."""
        ...

    async def exists(self, uuid: ImageUUID) -> bool:
        """Whether the dataset is there, whole."""
        ...

    def extend(
        self, uuid: ImageUUID, *, origin: ImageUUID | None, layer: LayerInfo
    ) -> AbstractAsyncContextManager[LayerTree]:
        """A dataset on top of `origin`: kept when the block ends well, gone without trace if not."""
        ...

    async def destroy(self, uuid: ImageUUID) -> None:
        """Remove a dataset that no zone and no other dataset needs; NotFound if there is none.

        Conflict while something depends on it.
        """
        ...

    async def used_bytes(self, uuid: ImageUUID) -> int:
        """Bytes of this layer alone, as its files take them (sum of file sizes)."""
        ...

    async def list(self) -> frozenset[ImageUUID]:
        """Every whole dataset of an image."""
        ...


@runtime_checkable
class PlatformImages(Protocol):
    """A store whose platform has a tool of its own that imports images: SmartOS with imgadm."""

    async def import_image(
        self,
        uuid: ImageUUID,
        *,
        source: str,
        progress: Callable[[str], None] | None = None,
    ) -> Mapping[str, Any]:
        """Have the image of an IMGAPI server (`source`: its URL) as a dataset; its manifest.

        `progress` gets what the tool says on its way, a line at a time.
        One that is there already is fine.  NotFound, Unavailable; nothing is left of an import that failed
        or was cancelled.
        """
        ...
