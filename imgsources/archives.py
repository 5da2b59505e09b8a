"""Images in a file: what `docker save` and OCI image layouts write.

    manifest.json       [{Config, RepoTags, Layers}]: docker save, every version; the rest are files it names
    index.json          an OCI layout: read where there is no manifest.json

Nothing is unpacked: the tar is indexed once and its members are read where they lie, so that no name in it
ever becomes a path of ours.  An archive that is compressed as a whole is first inflated into a file
without a name.  A layer's digest is the hash of its bytes as they are in the archive; only a source of
images is made here, datasets are made of it as of any other.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import posixpath
import tarfile
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from dockerapi.errors import APIError, DataLoss, InvalidParameter, NotFound
from imgsources.blobs import free_bytes
from imgsources.compression import HEAD_BYTES, FilePart, compression, inflating
from imgsources.oci import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_MANIFEST,
    INDEX_TYPES,
    Descriptor,
    Digest,
    ImageConfig,
    Index,
    Manifest,
    Platform,
    check_config_type,
    check_layers,
    choose_platform,
    fits,
    normalize,
    parse_config,
    parse_digest,
    parse_index,
    parse_manifest,
    runnable,
    sha256,
)
from imgsources.references import Reference
from imgsources.sources import RemoteImage

BLOCK_BYTES = 1 << 20
MAX_DOCUMENT_BYTES = 16 << 20
MAX_MEMBERS = 200_000
MAX_LINKS = 10

_IMAGE_NAME = "io.containerd.image.name"
_REF_NAME = "org.opencontainers.image.ref.name"


@dataclass(frozen=True, slots=True)
class _Span:
    """Where a member's bytes lie in the tar."""

    offset: int
    size: int


class _Tar:
    """A tar by member name, read at offsets; safe to read from several threads."""

    def __init__(self, descriptor: int, path: Path | None) -> None:
        self._descriptor = descriptor
        self._path = path
        self._members = _index_members(descriptor)
        self._digests: dict[_Span, Digest] = {}

    def __contains__(self, name: str) -> bool:
        return _clean(name) in self._members

    def find(self, name: str) -> _Span:
        """The bytes of a file, links followed inside the archive.  InvalidParameter if there is none."""
        current = _clean(name)
        for _ in range(MAX_LINKS):
            found = self._members.get(current)
            if found is None:
                raise InvalidParameter(f"invalid archive: {name}: no such file in it")
            if isinstance(found, _Span):
                return found
            current = found
        raise InvalidParameter(f"invalid archive: {name}: too many links")

    def read(self, name: str) -> bytes:
        """A document as a whole."""
        span = self.find(name)
        if span.size > MAX_DOCUMENT_BYTES:
            raise InvalidParameter(f"invalid archive: {name} is larger than {MAX_DOCUMENT_BYTES}")
        return self.read_at(span, 0, span.size)

    def read_at(self, span: _Span, start: int, size: int) -> bytes:
        """Up to `size` bytes of a member from `start` on; short only at its end."""
        size = max(0, min(size, span.size - start))
        block = os.pread(self._descriptor, size, span.offset + start)
        if len(block) != size:
            raise DataLoss("invalid archive: unexpected EOF")
        return block

    def part(self, span: _Span) -> FilePart:
        """A member as a file of its own."""
        return FilePart(os.dup(self._descriptor), span.offset, span.size, archive=self._path)

    def digest(self, span: _Span) -> Digest:
        """The hash of a member; each is hashed once."""
        if span not in self._digests:
            state = hashlib.sha256()
            for start in range(0, span.size, BLOCK_BYTES):
                state.update(self.read_at(span, start, BLOCK_BYTES))
            self._digests[span] = Digest(f"sha256:{state.hexdigest()}")
        return self._digests[span]


@dataclass(frozen=True, slots=True)
class ArchivedImage:
    """An image of an archive, and the tags that the archive gives it."""

    image: RemoteImage
    references: tuple[Reference, ...]


class Archive:
    """An open archive, as an image source."""

    def __init__(
        self, tar: _Tar, entries: tuple[ArchivedImage, ...], spans: Mapping[Digest, _Span]
    ) -> None:
        self.entries = entries
        self._tar = tar
        self._spans = spans

    @property
    def images(self) -> tuple[RemoteImage, ...]:
        """Every image, in the archive's order; `reference` is its first tag."""
        return tuple(entry.image for entry in self.entries)

    def references(self, image: RemoteImage) -> tuple[Reference, ...]:
        """Every tag that the archive gives this image."""
        return tuple(
            reference
            for entry in self.entries
            if entry.image.config.digest == image.config.digest
            for reference in entry.references
        )

    async def resolve(self, reference: Reference, platform: Platform | None) -> RemoteImage:
        """The image with this tag; NotFound."""
        wanted = reference.with_default_tag()
        for entry in self.entries:
            is_fit = platform is None or normalize(entry.image.config.platform) in runnable(
                platform
            )
            if wanted in entry.references and is_fit:
                return entry.image
        raise NotFound(f"image {wanted} is not in the archive")

    @asynccontextmanager
    async def open_blob(
        self, image: RemoteImage, descriptor: Descriptor, *, offset: int = 0
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The layer's bytes as they are in the archive, from `offset` on."""
        span = self._spans.get(descriptor.digest)
        if span is None:
            raise NotFound(f"blob {descriptor.digest} is not in the archive")
        yield self._blocks(span, offset)

    def blob_part(self, descriptor: Descriptor) -> FilePart:
        """A layer where it lies in the archive.  NotFound."""
        span = self._spans.get(descriptor.digest)
        if span is None:
            raise NotFound(f"blob {descriptor.digest} is not in the archive")
        return self._tar.part(span)

    async def _blocks(self, span: _Span, offset: int) -> AsyncIterator[bytes]:
        for start in range(offset, span.size, BLOCK_BYTES):
            yield await asyncio.to_thread(self._tar.read_at, span, start, BLOCK_BYTES)


@asynccontextmanager
async def open_archive(path: Path, *, platform: Platform | None = None) -> AsyncIterator[Archive]:
    """Index an archive and hash its layers; it can be read until the block ends.

    Of an OCI layout with several platforms the one that fits `platform` (this machine's if None) is
    taken.  InvalidParameter says what is wrong with the archive, DigestMismatch what is not what its
    name says.
    """
    file = await asyncio.to_thread(open_plain, path)
    try:
        yield await asyncio.to_thread(_read_archive, file.fileno(), path, platform)
    finally:
        file.close()


def _read_archive(descriptor: int, path: Path, platform: Platform | None) -> Archive:
    is_itself = os.path.samestat(os.fstat(descriptor), path.stat())  # else it was inflated
    tar = _Tar(descriptor, path if is_itself else None)
    spans: dict[Digest, _Span] = {}
    if "manifest.json" in tar:
        found = [_read_saved(tar, entry, spans) for entry in _saved_entries(tar)]
        # As dockerd: images of another platform are left where they are, without a word.
        entries = tuple(
            entry
            for entry in found
            if platform is None or fits(platform, normalize(entry.image.config.platform))
        )
    elif "index.json" in tar:
        entries = _read_layout(tar, platform, spans)
    else:
        raise InvalidParameter("invalid archive: does not contain a manifest.json")
    return Archive(tar, entries, spans)


# docker save ----------------------------------------------------------------------------------------


def _saved_entries(tar: _Tar) -> list[dict[str, Any]]:
    entries = _json(tar.read("manifest.json"), "manifest.json")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InvalidParameter("invalid archive: manifest.json is not a list of images")
    return entries


def _read_saved(tar: _Tar, entry: dict[str, Any], spans: dict[Digest, _Span]) -> ArchivedImage:
    config_name, layer_names, tags = entry.get("Config"), entry.get("Layers"), entry.get("RepoTags")
    if not isinstance(config_name, str):
        raise InvalidParameter("invalid archive: manifest.json names no config")
    config = parse_config(tar.read(config_name))
    _check_name(config_name, config.digest)
    names = _texts(layer_names, "Layers")
    if len(names) != len(config.diff_ids):
        raise DataLoss(
            f"invalid manifest, layers length mismatch: expected {len(config.diff_ids)}, "
            f"got {len(names)}"
        )
    layers = tuple(
        _layer(tar, name, diff_id, spans)
        for name, diff_id in zip(names, config.diff_ids, strict=True)
    )
    references = tuple(_tag(text) for text in _texts(tags, "RepoTags"))
    remote = _remote(config, layers, references)
    if parent := entry.get("Parent"):
        remote = replace(remote, parent=_parent(parent))
    return ArchivedImage(remote, references)


def _parent(text: object) -> Digest:
    """The image that a committed one stands on, which need not be in the archive."""
    try:
        return parse_digest(str(text))
    except ValueError as error:
        raise InvalidParameter(f"invalid archive: Parent: {error}") from error


def _layer(tar: _Tar, name: str, diff_id: Digest, spans: dict[Digest, _Span]) -> Descriptor:
    """A layer that is no more than a tar is taken for what the config says: it is hashed when it is applied."""
    span = tar.find(name)
    kind = compression(tar.read_at(span, 0, HEAD_BYTES))
    digest = tar.digest(span) if kind else diff_id
    _check_name(name, digest)
    spans[digest] = span
    return Descriptor(f"{DOCKER_LAYER}.{kind}" if kind else DOCKER_LAYER, digest, span.size)


def _check_name(name: str, digest: Digest) -> None:
    """What is stored under blobs/sha256 must hash to its name."""
    folder, _, base = _clean(name).rpartition("/")
    if folder == "blobs/sha256" and digest != f"sha256:{base}":
        raise DataLoss(f"invalid archive: {name} hashes to {digest}")


def _tag(text: str) -> Reference:
    try:
        reference = Reference.parse(text)
    except InvalidParameter as error:
        raise InvalidParameter(f"invalid tag {json.dumps(text)}: {error.message}") from error
    if reference.tag is None:
        raise InvalidParameter(f"invalid tag {json.dumps(text)}")
    return Reference(reference.registry, reference.path, reference.tag)


def _remote(
    config: ImageConfig, layers: tuple[Descriptor, ...], references: tuple[Reference, ...]
) -> RemoteImage:
    """The image with the manifest that a registry would have for it."""
    descriptor = Descriptor(DOCKER_CONFIG, config.digest, len(config.raw))
    parts = [
        {"mediaType": part.media_type, "size": part.size, "digest": part.digest}
        for part in (descriptor, *layers)
    ]
    document = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": parts[0],
        "layers": parts[1:],
    }
    raw = json.dumps(document, separators=(",", ":")).encode()
    manifest = Manifest(DOCKER_MANIFEST, sha256(raw), descriptor, layers)
    return RemoteImage(references[0] if references else None, manifest, config, None)


# OCI image layout -----------------------------------------------------------------------------------


def _read_layout(
    tar: _Tar, platform: Platform | None, spans: dict[Digest, _Span]
) -> tuple[ArchivedImage, ...]:
    index = parse_index(tar.read("index.json"))
    found: dict[Digest, ArchivedImage] = {}
    for entry in index.manifests:
        manifest = _layout_manifest(tar, entry, platform)
        config = parse_config(_blob(tar, manifest.config.digest))
        check_layers(manifest, config)
        for layer in manifest.layers:
            spans[layer.digest] = _layout_layer(tar, layer)
        known = found.get(config.digest)
        references = (*(known.references if known else ()), *_layout_references(entry))
        remote = RemoteImage(references[0] if references else None, manifest, config, None)
        found[config.digest] = ArchivedImage(remote, references)
    return tuple(found.values())


def _layout_manifest(tar: _Tar, entry: Descriptor, platform: Platform | None) -> Manifest:
    raw = _blob(tar, entry.digest)
    if entry.media_type in INDEX_TYPES:
        entry = choose_platform(_present(tar, parse_index(raw, entry.media_type)), platform)
        raw = _blob(tar, entry.digest)
    manifest = parse_manifest(raw, entry.media_type)
    check_config_type(manifest)
    return manifest


def _present(tar: _Tar, index: Index) -> Index:
    """The index without the platforms that were not saved into this archive."""
    manifests = tuple(entry for entry in index.manifests if _blob_name(entry.digest) in tar)
    return Index(index.media_type, index.digest, manifests)


def _layout_layer(tar: _Tar, layer: Descriptor) -> _Span:
    span = tar.find(_blob_name(layer.digest))
    _check_name(_blob_name(layer.digest), tar.digest(span))
    return span


def _layout_references(entry: Descriptor) -> tuple[Reference, ...]:
    """containerd writes the full name; others only a tag, which names no image."""
    for key in (_IMAGE_NAME, _REF_NAME):
        text = entry.annotations.get(key, "")
        if ":" in text or "/" in text:
            reference = Reference.parse(text).with_default_tag()
            if reference.tag is not None:
                return (Reference(reference.registry, reference.path, reference.tag),)
    return ()


def _blob(tar: _Tar, digest: Digest) -> bytes:
    raw = tar.read(_blob_name(digest))
    _check_name(_blob_name(digest), sha256(raw))
    return raw


def _blob_name(digest: Digest) -> str:
    return f"blobs/sha256/{digest[7:]}"


# Bytes ----------------------------------------------------------------------------------------------


def _index_members(descriptor: int) -> dict[str, _Span | str]:
    """Each member's bytes, or for a link the name it leads to; of two with one name the last."""
    members: dict[str, _Span | str] = {}
    # A descriptor of our own, which tarfile may move and close; the data is read by pread.
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for count, member in enumerate(tar):
                    if count >= MAX_MEMBERS:
                        raise InvalidParameter(f"invalid archive: more than {MAX_MEMBERS} files")
                    name = _clean(member.name)
                    if member.issym():
                        target = posixpath.join(posixpath.dirname(name), member.linkname)
                        members[name] = _clean(target)
                    elif member.islnk():
                        members[name] = _clean(member.linkname)
                    elif member.isreg() and not member.issparse():
                        members[name] = _Span(member.offset_data, member.size)
        except (tarfile.TarError, ValueError, EOFError) as error:
            raise InvalidParameter(f"invalid archive: {error}") from error
    return members


def _clean(name: str) -> str:
    """A member's name from the archive's root on; `..` cannot lead above it."""
    return posixpath.normpath("/" + name).lstrip("/")


def open_plain(path: Path) -> IO[bytes]:
    """The archive, inflated into an unnamed file beside it if it is compressed."""
    with path.open("rb", buffering=0) as file:
        kind = compression(file.read(HEAD_BYTES))
        file.seek(0)
        if not kind:
            return os.fdopen(os.dup(file.fileno()), "rb")
        read, free = inflating(file, kind), free_bytes(path.parent)
        with tempfile.TemporaryFile(dir=path.parent) as plain:
            try:
                while block := read(BLOCK_BYTES):
                    if plain.tell() + len(block) > free:
                        raise APIError(
                            f"the archive inflates to more than the {free} bytes that are free: "
                            "no space left on device"
                        )
                    plain.write(block)
            except DataLoss as error:
                raise InvalidParameter(f"invalid archive: {error.message}") from error
            plain.flush()
            return os.fdopen(os.dup(plain.fileno()), "rb")


def _json(raw: bytes, name: str) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidParameter(f"invalid archive: {name}: {error}") from error


def _texts(value: object, key: str) -> list[str]:
    """A list of texts; [] for null."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise InvalidParameter(f"invalid archive: {key} in manifest.json is not a list of texts")
    return value
