"""OCI and Docker schema 2 image documents as immutable values, and imgadm's UUID rule over them.

Wire names are the OCI image-spec's: descriptor, manifest, index, config, diff_id, layer, platform.
Parsing is strict about what decides which bytes are run, and lenient about decoration (`created`,
`author`): images without it are common.  Fetching and comparing digests is the sources' job.
"""

from __future__ import annotations

import hashlib
import json
import platform as machine
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NewType

from dockerapi.errors import DataLoss, InvalidParameter, NotFound

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

INDEX_TYPES = (OCI_INDEX, DOCKER_LIST)
MANIFEST_TYPES = (OCI_MANIFEST, DOCKER_MANIFEST)
SCHEMA1_TYPES = (
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)
# Registries of old labelled Docker configs with these; dockerd takes them for images as well.
_CONFIG_TYPES = (
    OCI_CONFIG,
    DOCKER_CONFIG,
    "",
    "application/octet-stream",
    "text/html",
    "application/json",
)


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
class Index:
    """One name for an image on several platforms; nested indexes are not followed."""

    media_type: str
    digest: Digest
    manifests: tuple[Descriptor, ...]


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


def chain_ids(diff_ids: Sequence[str]) -> list[str]:
    """Each layer's chain id, base first: how dockerd names a layer with all that are below it."""
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append(sha256(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return chain


def sha256(raw: bytes) -> Digest:
    """The digest of these bytes."""
    return Digest(f"sha256:{hashlib.sha256(raw).hexdigest()}")


def parse_platform(text: str) -> Platform:
    """`os[/arch[/variant]]` or `arch` as the platform parameter has it; InvalidParameter in containerd's words.

    Names are normalised as containerd does: x86_64 -> amd64, aarch64 -> arm64, arm -> arm/v7.
    """
    if "*" in text:
        raise InvalidParameter(f'"{text}": wildcards not yet supported: invalid argument')
    parts = text.split("/", 3)
    if not (system := _OS_AND_VERSION.fullmatch(parts[0])):
        raise InvalidParameter(
            f'"{parts[0]}" is an invalid OS component of "{text}": OSAndVersion specifier component must match '
            f'"{_GO_OS_AND_VERSION}": invalid argument'
        )
    for part in parts[1:]:
        if not _COMPONENT.fullmatch(part):
            raise InvalidParameter(
                f'"{part}" is an invalid component of "{text}": platform specifier component must match '
                '"^[A-Za-z0-9_.-]+$": invalid argument'
            )
    if len(parts) > 3:
        raise InvalidParameter(f'"{text}": cannot parse platform specifier: invalid argument')
    parts = [_normal_os(system[1].lower()), *(part.lower() for part in parts[1:])]
    if len(parts) == 1 and parts[0] not in _SYSTEMS:
        platform = normalize(Platform("linux", parts[0]))
        if platform.architecture in _ARCHITECTURES:
            return platform
        raise InvalidParameter(
            f'"{text}": unknown operating system or architecture: invalid argument'
        )
    if len(parts) == 1:
        return Platform(parts[0], default_platform().architecture, default_platform().variant)
    return normalize(Platform(*parts))


def _normal_os(name: str) -> str:
    return "darwin" if name == "macos" else name


def fits(wanted: Platform, found: Platform) -> bool:
    """Whether an image of platform `found` is what was asked for; a variant counts if both name one."""
    same = (wanted.os, wanted.architecture) == (found.os, found.architecture)
    return same and (not wanted.variant or not found.variant or wanted.variant == found.variant)


def default_platform() -> Platform:
    """Linux on this machine's architecture."""
    return normalize(Platform("linux", machine.machine().lower()))


def normalize(platform: Platform) -> Platform:
    """The same platform in the image-spec's (Go's) names, the variant left out where it says nothing."""
    architecture, implied = _ALIASES.get(platform.architecture, (platform.architecture, ""))
    variant = platform.variant or implied
    if architecture == "arm":
        variant = variant or "v7"
        variant = variant if variant.startswith("v") else f"v{variant}"
    if (architecture, variant) in (("arm64", "v8"), ("arm64", "8"), ("amd64", "v1")):
        variant = ""
    return Platform(platform.os or "linux", architecture, variant)


_GO_OS_AND_VERSION = r"^([A-Za-z0-9_-]+)(?:\\(([A-Za-z0-9_.%-]*)((?:\\+[A-Za-z0-9_.%-]+)*)\\))?$"
"""As %q of Go shows it."""
_OS_AND_VERSION = re.compile(_GO_OS_AND_VERSION[1:-1].replace(r"\\", "\\"))
_COMPONENT = re.compile(r"[A-Za-z0-9_.-]+")
_SYSTEMS = frozenset(
    [
        "aix",
        "android",
        "darwin",
        "dragonfly",
        "freebsd",
        "illumos",
        "ios",
        "linux",
        "nacl",
        "netbsd",
        "openbsd",
        "plan9",
        "solaris",
        "windows",
    ]
)
_ARCHITECTURES = frozenset(
    [
        "386",
        "amd64",
        "arm",
        "arm64",
        "loong64",
        "mips",
        "mips64",
        "mips64le",
        "mipsle",
        "ppc64",
        "ppc64le",
        "riscv64",
        "s390x",
        "wasm",
    ]
)
_ALIASES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "i86pc": ("amd64", ""),
    "i386": ("386", ""),
    "i686": ("386", ""),
    "aarch64": ("arm64", ""),
    "armv6l": ("arm", "v6"),
    "armhf": ("arm", "v7"),
    "armv7l": ("arm", "v7"),
    "armel": ("arm", "v6"),
}
_ARM_VARIANTS = ("v8", "v7", "v6", "v5")


def runnable(wanted: Platform) -> tuple[Platform, ...]:
    """What a machine of this platform runs, best first: arm/v7 runs v6 and v5, amd64 runs 386."""
    wanted = normalize(wanted)
    os, architecture, variant = wanted.os, wanted.architecture, wanted.variant
    if architecture == "amd64":
        level = int(variant[1:]) if re.fullmatch(r"v[2-9]", variant) else 1
        newer = tuple(Platform(os, "amd64", f"v{n}") for n in range(level, 1, -1))
        return (*newer, Platform(os, "amd64"), Platform(os, "386"))
    if architecture == "arm" and variant in _ARM_VARIANTS:
        older = _ARM_VARIANTS[_ARM_VARIANTS.index(variant) :]
        return tuple(Platform(os, "arm", v) for v in older)
    if architecture == "arm64" and not variant:
        return (wanted, *(Platform(os, "arm", v) for v in _ARM_VARIANTS))
    return (wanted,)


def choose_platform(index: Index, wanted: Platform | None) -> Descriptor:
    """The entry that this machine (or `wanted`) runs best; NotFound in dockerd's words if none.

    Attestations (platform unknown/unknown) are no images.  An entry without a platform is taken only
    when nothing else fits: its config will tell.
    """
    target = normalize(wanted or default_platform())
    preferred = runnable(target)
    ranked = [
        (preferred.index(normalize(entry.platform)), entry)
        for entry in index.manifests
        if entry.platform is not None and normalize(entry.platform) in preferred
    ]
    if ranked:
        return min(ranked, key=lambda pair: pair[0])[1]
    unspecified = [
        entry
        for entry in index.manifests
        if entry.platform is None and entry.media_type in MANIFEST_TYPES
    ]
    if unspecified:
        return unspecified[0]
    raise NotFound(f"no matching manifest for {target} in the manifest list entries")


def parse_index(raw: bytes, media_type: str = "") -> Index:
    """An image index or a manifest list; InvalidParameter says what is malformed."""
    document = _document(raw, "manifest list")
    kind = media_type or str(document.get("mediaType") or OCI_INDEX)
    _check_schema_version(document, "manifest list")
    entries = _list(document, "manifests", "manifest list")
    return Index(
        media_type=kind,
        digest=sha256(raw),
        manifests=tuple(_descriptor(entry, "manifest list entry") for entry in entries),
    )


def parse_manifest(raw: bytes, media_type: str = "", *, name: str = "") -> Manifest:
    """An image manifest; InvalidParameter says what is malformed, schema 1, or no image at all.

    `name` is the reference in full form, for the messages that show it.
    """
    document = _document(raw, "manifest")
    kind = media_type or str(document.get("mediaType") or "")
    if kind in SCHEMA1_TYPES or document.get("schemaVersion") == 1:
        raise InvalidParameter(_schema1_refusal(name))
    _check_schema_version(document, "manifest")
    if "config" not in document:
        raise InvalidParameter("unsupported manifest format")
    config = _descriptor(document["config"], "config")
    if kind not in ("", OCI_MANIFEST) and config.media_type not in _CONFIG_TYPES:
        raise InvalidParameter(
            f'Encountered remote "{config.media_type}"({_artifact_kind(config.media_type)}) when fetching'
        )
    layers = tuple(_descriptor(entry, "layer") for entry in _list(document, "layers", "manifest"))
    for layer in layers:
        if layer.media_type.endswith("+encrypted"):
            raise InvalidParameter(f"layer {layer.digest} is encrypted")
    return Manifest(kind or OCI_MANIFEST, sha256(raw), config, layers)


def check_config_type(manifest: Manifest) -> None:
    """InvalidParameter for a manifest of something else than an image: a chart, a signature."""
    if manifest.config.media_type not in _CONFIG_TYPES:
        raise InvalidParameter(f"unsupported media type {manifest.config.media_type}")


def parse_config(raw: bytes) -> ImageConfig:
    """An image config; InvalidParameter says what is malformed.

    Only `rootfs.diff_ids` is needed; everything else may be missing.  `created` is "" if it is.
    """
    document = _document(raw, "image configuration")
    rootfs = document.get("rootfs") or {}
    if not isinstance(rootfs, dict):
        raise InvalidParameter("invalid image configuration: rootfs is no object")
    if not rootfs:
        raise InvalidParameter("invalid image JSON, no RootFS key")
    diff_ids = tuple(
        _digest(text, "diff_id") for text in _list(rootfs, "diff_ids", "image configuration")
    )
    history = tuple(_list(document, "history", "image configuration"))
    if not all(isinstance(entry, dict) for entry in history):
        raise InvalidParameter("invalid image configuration: a history entry is no object")
    config = document.get("config") or {}
    if not isinstance(config, dict):
        raise InvalidParameter("invalid image configuration: config is no object")
    return ImageConfig(
        raw=raw,
        digest=sha256(raw),
        platform=Platform(
            os=_text(document, "os") or "linux",
            architecture=_text(document, "architecture"),
            variant=_text(document, "variant"),
        ),
        created=_text(document, "created"),
        diff_ids=diff_ids,
        config=config,
        history=history,
        author=_text(document, "author"),
        docker_version=_text(document, "docker_version"),
        comment=_text(document, "comment"),
    )


def check_layers(manifest: Manifest, config: ImageConfig) -> None:
    """DataLoss unless there is one diff_id to each layer."""
    if len(manifest.layers) != len(config.diff_ids):
        raise DataLoss(
            "layers from manifest don't match image configuration",
            detail=f"{len(manifest.layers)} layers, {len(config.diff_ids)} diff_ids",
        )


def _schema1_refusal(name: str) -> str:
    suggestion = (
        f" Suggest the author of {name} to upgrade the image to the OCI Format or Docker Image "
        "manifest v2, schema 2."
        if name
        else ""
    )
    return (
        "Docker Image Format v1 and Docker Image manifest version 2, schema 1 support has been removed."
        f"{suggestion} More information at https://docs.docker.com/go/deprecated-image-specs/"
    )


def _artifact_kind(media_type: str) -> str:
    return "plugin" if media_type.startswith("application/vnd.docker.plugin.") else "unknown"


def _document(raw: bytes, what: str) -> dict[str, Any]:
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidParameter(f"invalid {what}: not JSON", detail=str(error)) from error
    if not isinstance(document, dict):
        raise InvalidParameter(f"invalid {what}: not a JSON object")
    return document


def _check_schema_version(document: dict[str, Any], what: str) -> None:
    version = document.get("schemaVersion", 2)
    if version != 2:
        raise InvalidParameter(f"invalid {what}: unsupported schema version {version!r}")


def _list(document: dict[str, Any], key: str, what: str) -> list[Any]:
    value = document.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidParameter(f"invalid {what}: {key} is no list")
    return value


def _text(document: dict[str, Any], key: str) -> str:
    value = document.get(key)
    return value if isinstance(value, str) else ""


def _digest(text: object, what: str) -> Digest:
    try:
        return parse_digest(text if isinstance(text, str) else repr(text))
    except ValueError as error:
        raise InvalidParameter(f"invalid {what}: {error}") from error


def _descriptor(entry: object, what: str) -> Descriptor:
    if not isinstance(entry, dict):
        raise InvalidParameter(f"invalid {what}: not a JSON object")
    size = entry.get("size")
    if type(size) is not int or size < 0:
        raise InvalidParameter(f"invalid {what}: size {size!r}")
    annotations = entry.get("annotations")
    urls = entry.get("urls")
    return Descriptor(
        media_type=_text(entry, "mediaType"),
        digest=_digest(entry.get("digest"), what),
        size=size,
        platform=_entry_platform(entry.get("platform")),
        annotations={
            key: value
            for key, value in (annotations if isinstance(annotations, dict) else {}).items()
            if isinstance(value, str)
        },
        urls=tuple(url for url in (urls if isinstance(urls, list) else ()) if isinstance(url, str)),
    )


def _entry_platform(entry: object) -> Platform | None:
    if not isinstance(entry, dict):
        return None
    return Platform(_text(entry, "os"), _text(entry, "architecture"), _text(entry, "variant"))
