"""OCI and Docker schema 2 image documents as immutable values, and imgadm's UUID rule over them.

Wire names are the OCI image-spec's: descriptor, manifest, index, config, diff_id, layer, platform.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NewType

Digest = NewType("Digest", str)
"""`sha256:` and 64 hex digits."""

ImageUUID = NewType("ImageUUID", str)
"""8-4-4-4-12 hex.  Not an RFC 4122 UUID: no version bits (imgadm's rule since 2018)."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image runs on; `variant` such as v8 may be empty."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Points at a blob: media type, digest, size in bytes."""

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    annotations: dict[str, str] = field(default_factory=dict)
    urls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image: its config and its layers, base first."""

    media_type: str
    digest: Digest
    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The config blob, parsed.

    `raw` is the blob as fetched: its sha256 is the image ID.  `config` is Docker's container config
    (Cmd, Entrypoint, Env, Labels ...) as found; `history` the entries as found.
    """

    raw: bytes
    digest: Digest
    platform: Platform
    created: str
    diff_ids: tuple[Digest, ...]
    config: dict[str, Any]
    history: tuple[dict[str, Any], ...]
    author: str = ""
    docker_version: str = ""
    comment: str = ""


def parse_digest(text: str) -> Digest:
    """A sha256 digest, else ValueError."""
    if not _DIGEST.fullmatch(text):
        raise ValueError(f"invalid checksum digest format: {text!r}")
    return Digest(text)


def image_uuid(layer_digests: Sequence[Digest]) -> ImageUUID:
    """imgadm's UUID of the chain that ends in the last of these blob digests, base first.

    SHA-256 over the digests joined by one space, its first 32 hex digits (RFD 57).
    """
    if not layer_digests:
        raise ValueError("an image without layers has no UUID")
    text = hashlib.sha256(" ".join(layer_digests).encode()).hexdigest()
    return ImageUUID(f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:32]}")


def chain_uuids(layer_digests: Sequence[Digest]) -> tuple[ImageUUID, ...]:
    """The UUID of each layer's dataset, base first: each names the chain up to and with it."""
    return tuple(image_uuid(layer_digests[: end + 1]) for end in range(len(layer_digests)))
