"""What images there are: configs, layers and the names they answer to.

    root/configs/<hex>          the config blob; its sha256 is the image ID
    root/images/<hex>.json      layers, size, when it was added
    root/references.json        full reference -> image ID (tags and digests), when each was last tagged

Everything is in memory after opening.  Files are written config, record, references, and taken away in
the opposite order, each by write, fsync, rename: whatever is on disk after a crash is a catalog, at most
with an image that nothing names yet.  Datasets are the store's; this says which of them are needed.
Methods may be called from threads; what they return never changes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import tempfile
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dockerapi.errors import APIError, DataLoss, InvalidParameter, NoSuchImage
from imgsources.oci import (
    Descriptor,
    Digest,
    ImageConfig,
    ImageUUID,
    chain_uuids,
    parse_config,
    parse_digest,
    sha256,
)
from imgsources.references import Reference
from imgsources.sources import RemoteImage

log = logging.getLogger(__name__)

_HEX = re.compile(r"[0-9a-f]+")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TEMPORARY = ".new-"


@dataclass(frozen=True, slots=True)
class Image:
    """One image that zones can be made of.

    `id` is the digest of the config; `uuids` name the datasets of its layers, base first: the last one
    is to be cloned; () for an image without layers.  `imgapi` is the manifest of an image server's image,
    whose one layer is a dataset that the platform imported.  `parent` is the image that a committed one
    stands on, here all the same or not any more.  `references` are its tags, `repo_digests` its
    familiar `name@sha256:..`.  `size` is the sum of the unpacked layers in bytes.  Times are
    nanoseconds since the epoch; `last_tagged_ns` is 0 if it never had a name.
    """

    id: Digest
    config: ImageConfig
    layers: tuple[Descriptor, ...]
    uuids: tuple[ImageUUID, ...]
    references: tuple[Reference, ...]
    repo_digests: tuple[str, ...]
    size: int
    added_ns: int
    last_tagged_ns: int
    imgapi: Mapping[str, Any] = field(default_factory=dict)
    parent: Digest | None = None

    @property
    def type(self) -> str:
        """As IMGAPI has it: docker, zone-dataset, lx-dataset, zvol."""
        return str(self.imgapi.get("type") or "docker")

    @property
    def uuid(self) -> ImageUUID | None:
        """The dataset to clone; None for an image without layers."""
        return self.uuids[-1] if self.uuids else None


class Catalog:
    """The images of one data root.  Opening it mends what a crash left behind."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._configs = root / "configs"
        self._records = root / "images"
        self._lock = threading.RLock()
        self._images: dict[Digest, Image] = {}
        self._names: dict[Reference, Digest] = {}
        self._tagged_ns: dict[Digest, int] = {}
        self.revision = 0
        """Another number after each change: what was found by a name may be another image then."""
        self._load()

    def images(self) -> tuple[Image, ...]:
        """All of them, in the order in which they were added."""
        with self._lock:
            return tuple(sorted(self._images.values(), key=lambda image: image.added_ns))

    def get(self, text: str) -> Image:
        """The image that a client means, looked for as dockerd does.

        A full id, with or without `sha256:`; a name with tag (`latest` if there is none) or digest; a
        unique prefix of an id; the UUID of its dataset, as imgadm has it.  NoSuchImage; InvalidParameter("invalid reference format").
        """
        if identifier := _full_id(text):
            image = self._images.get(identifier)
            if image is None:
                raise NoSuchImage(identifier)
            return image
        reference = Reference.parse(text)
        with self._lock:
            found = self._names.get(_key(reference)) or self._by_prefix(text) or self._by_uuid(text)
            if found is None:
                raise NoSuchImage(str(reference.with_default_tag()))
            return self._images[found]

    def config(self, image_id: Digest) -> ImageConfig | None:
        """The config of an image that is here."""
        image = self._images.get(image_id)
        return image.config if image else None

    def put(
        self,
        remote: RemoteImage,
        *,
        references: Iterable[Reference],
        size: int,
        now_ns: int,
        is_tagged: bool = True,
    ) -> Image:
        """Record an image whose datasets are all there, and give it these tags.

        Without `is_tagged` this is no time at which somebody tagged it: names that came along.

        Another image that had one of the tags loses it, and may be left without a name.  What the
        remote was resolved by (`remote.digest`) becomes one of its repo digests.  An image that is
        already known keeps its names and its age.
        """
        names = [_tagged(reference) for reference in references]
        if remote.reference is not None and remote.digest is not None:
            names.append(remote.reference.with_digest(remote.digest))
        with self._lock:
            known = self._images.get(remote.config.digest)
            if known is not None and self._is_as_told(known, remote, names):
                return known
            image = _image(
                remote.config,
                remote.manifest.layers,
                size=size,
                added_ns=known.added_ns if known else now_ns,
                # Only an import says that a dataset is the platform's: no registry's config can.
                imgapi=remote.imgapi or (known.imgapi if known else {}),
                parent=remote.parent or (known.parent if known else None),
            )
            self._write_config(image.config)
            _write(self._record(image.id), _encode_record(image))
            self._images[image.id] = image
            try:
                times = {image.id: now_ns} if is_tagged else {}
                self._rename({**self._names, **dict.fromkeys(names, image.id)}, times)
            except OSError:
                self._forget_unnamed(image.id, known)
                raise
            return self._images[image.id]

    def _is_as_told(self, known: Image, remote: RemoteImage, names: Iterable[Reference]) -> bool:
        """Whether a pull brings nothing new: then nothing is written."""
        return (
            known.layers == remote.manifest.layers
            and (remote.parent is None or known.parent == remote.parent)
            and dict(known.imgapi) == dict(remote.imgapi or known.imgapi)
            and all(self._names.get(name) == known.id for name in names)
        )

    def tag(self, image_id: Digest, reference: Reference, *, now_ns: int = 0) -> Image:
        """Give an image one more tag; the image that had it loses it.  NoSuchImage.

        InvalidParameter in dockerd's words for a reference with a digest or a repository `sha256`.
        """
        if reference.digest is not None:
            raise InvalidParameter("cannot import digest reference")
        tag = _tagged(reference)
        if tag.familiar_name == "sha256":
            raise InvalidParameter(
                "refusing to create an ambiguous tag using digest algorithm as name"
            )
        with self._lock:
            if image_id not in self._images:
                raise NoSuchImage(image_id)
            self._rename({**self._names, tag: image_id}, {image_id: now_ns} if now_ns else {})
            return self._images[image_id]

    def add_digest(self, image_id: Digest, reference: Reference) -> Image:
        """An image is known by a manifest's digest, too: it was pushed.  NoSuchImage."""
        with self._lock:
            if image_id not in self._images:
                raise NoSuchImage(image_id)
            if self._names.get(reference) != image_id:
                self._rename({**self._names, reference: image_id}, {})
            return self._images[image_id]

    def untag(self, reference: Reference) -> tuple[str, ...]:
        """Take a tag or a repo digest away; NoSuchImage if there is none.

        Gives what went, in familiar form, the asked one first: with the last tag of a repository go
        the image's digests of that repository, as in dockerd.  The image stays.
        """
        key = _key(reference)
        with self._lock:
            image_id = self._names.get(key)
            if image_id is None:
                raise NoSuchImage(str(reference.with_default_tag()))
            gone = [key]
            siblings = [
                name
                for name, holder in self._names.items()
                if holder == image_id and name.full_name == key.full_name and name != key
            ]
            if key.digest is None and all(name.digest is not None for name in siblings):
                gone += siblings
            self._rename({k: v for k, v in self._names.items() if k not in gone}, {})
            return tuple(str(name) for name in gone)

    def remove(self, image_id: Digest) -> Image:
        """Forget an image with all its names; NoSuchImage.  Gives what it was."""
        with self._lock:
            image = self._images.get(image_id)
            if image is None:
                raise NoSuchImage(image_id)
            self._tagged_ns.pop(image_id, None)
            self._rename({k: v for k, v in self._names.items() if v != image_id}, {})
            self._record(image_id).unlink(missing_ok=True)
            _sync_folder(self._records)
            self._config(image_id).unlink(missing_ok=True)
            del self._images[image_id]
            self.revision += 1
            return image

    def children(self, image_id: Digest) -> tuple[Digest, ...]:
        """The images that were committed on top of this one."""
        with self._lock:
            return tuple(image.id for image in self._images.values() if image.parent == image_id)

    def ancestors(self, image: Image) -> tuple[Image, ...]:
        """What it was committed on top of, nearest first, as far as it is still here."""
        found: list[Image] = []
        with self._lock:
            while image.parent is not None and (above := self._images.get(image.parent)):
                found.append(above)
                image = above
        return tuple(found)

    def needed_datasets(self) -> frozenset[ImageUUID]:
        """Every dataset that some image needs."""
        with self._lock:
            return frozenset(uuid for image in self._images.values() for uuid in image.uuids)

    def dataset_users(self, uuid: ImageUUID) -> tuple[Digest, ...]:
        """The images that need this dataset."""
        with self._lock:
            return tuple(image.id for image in self._images.values() if uuid in image.uuids)

    def _forget_unnamed(self, image_id: Digest, known: Image | None) -> None:
        """Undo half a `put`: the disk was full for the names."""
        self.revision += 1
        if known is not None:
            self._images[image_id] = known
            return
        del self._images[image_id]
        self._record(image_id).unlink(missing_ok=True)
        self._config(image_id).unlink(missing_ok=True)

    def _by_prefix(self, text: str) -> Digest | None:
        prefix = text.removeprefix("sha256:")
        if not _HEX.fullmatch(prefix):
            return None
        found = [image_id for image_id in self._images if image_id[7:].startswith(prefix)]
        return found[0] if len(found) == 1 else None

    def _by_uuid(self, text: str) -> Digest | None:
        if not _UUID.fullmatch(text):
            return None
        return next((image.id for image in self._images.values() if image.uuid == text), None)

    def _rename(self, names: Mapping[Reference, Digest], tagged_ns: Mapping[Digest, int]) -> None:
        """Make these the names: on disk first, so that memory never says more than a restart would."""
        times = {**self._tagged_ns, **tagged_ns}
        times = {key: value for key, value in times.items() if key in self._images}
        _write(self._root / "references.json", _encode_names(names, times))
        self._names, self._tagged_ns = dict(names), times
        self._images = _named(self._images.values(), self._names, times)
        self.revision += 1

    def _record(self, image_id: Digest) -> Path:
        return self._records / f"{image_id[7:]}.json"

    def _config(self, image_id: Digest) -> Path:
        return self._configs / image_id[7:]

    def _write_config(self, config: ImageConfig) -> None:
        path = self._config(config.digest)
        if not path.exists():
            _write(path, config.raw)

    def _load(self) -> None:
        for folder in (self._root, self._configs, self._records):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for leftover in folder.glob(f"{_TEMPORARY}*"):
                leftover.unlink()
        images = [image for path in self._records.iterdir() if (image := self._read(path))]
        known = {image.id for image in images}
        for path in self._configs.iterdir():
            is_needed = f"sha256:{path.name}" in known or self._unreadable(path.name).exists()
            if not is_needed:
                path.unlink()
        names, times = _read_names(self._root / "references.json")
        self._names = {key: value for key, value in names.items() if value in known}
        self._tagged_ns = {key: value for key, value in times.items() if key in known}
        self._images = _named(images, self._names, self._tagged_ns)

    def _read(self, path: Path) -> Image | None:
        """An image as recorded; a record that is no good is moved out of the way, not lost."""
        try:
            record = json.loads(path.read_bytes())
            raw = (self._configs / path.stem).read_bytes()
            if sha256(raw) != f"sha256:{path.stem}":
                raise ValueError("config does not hash to its name")  # noqa: TRY301
            return _decode_record(record, parse_config(raw))
        except (OSError, ValueError, KeyError, TypeError, APIError) as error:
            log.warning("image record %s is unreadable and is left out: %s", path, error)
            with contextlib.suppress(OSError):
                path.rename(self._unreadable(path.stem))
            return None

    def _unreadable(self, encoded: str) -> Path:
        return self._root / f"unreadable-{encoded}.json"


def _full_id(text: str) -> Digest | None:
    try:
        return parse_digest(text if text.startswith("sha256:") else f"sha256:{text}")
    except ValueError:
        return None


def _key(reference: Reference) -> Reference:
    """What a reference is stored under: a digest says more than a tag beside it."""
    if reference.digest is not None:
        return reference.with_digest(reference.digest)
    return reference.with_default_tag()


def _tagged(reference: Reference) -> Reference:
    return replace(reference, digest=None).with_default_tag()


def _image(
    config: ImageConfig,
    layers: tuple[Descriptor, ...],
    *,
    size: int,
    added_ns: int,
    imgapi: Mapping[str, Any],
    parent: Digest | None,
) -> Image:
    if imgapi:
        uuids: tuple[ImageUUID, ...] = (ImageUUID(str(imgapi["uuid"])),)
    else:
        uuids = chain_uuids([layer.digest for layer in layers])
    if parent == config.digest:  # the very same image once more
        parent = None
    return Image(
        id=config.digest,
        config=config,
        layers=layers,
        uuids=uuids,
        references=(),
        repo_digests=(),
        size=size,
        added_ns=added_ns,
        last_tagged_ns=0,
        imgapi=imgapi,
        parent=parent,
    )


def _named(
    images: Iterable[Image], names: Mapping[Reference, Digest], tagged_ns: Mapping[Digest, int]
) -> dict[Digest, Image]:
    """The images with the names they have now; one that has not changed stays the same object."""
    tags: dict[Digest, list[Reference]] = {}
    digests: dict[Digest, list[str]] = {}
    for reference, image_id in names.items():
        if reference.digest is None:
            tags.setdefault(image_id, []).append(reference)
        else:
            digests.setdefault(image_id, []).append(str(reference))
    named = {}
    for image in images:
        references = tuple(sorted(tags.get(image.id, ()), key=str))
        repo_digests = tuple(sorted(digests.get(image.id, ())))
        last_tagged_ns = tagged_ns.get(image.id, 0)
        if (references, repo_digests, last_tagged_ns) != (
            image.references,
            image.repo_digests,
            image.last_tagged_ns,
        ):
            image = replace(  # noqa: PLW2901
                image,
                references=references,
                repo_digests=repo_digests,
                last_tagged_ns=last_tagged_ns,
            )
        named[image.id] = image
    return named


def _encode_record(image: Image) -> bytes:
    layers = [
        {"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size}
        for layer in image.layers
    ]
    record: dict[str, Any] = {"layers": layers, "size": image.size, "added_ns": image.added_ns}
    if image.imgapi:
        record["imgapi"] = dict(image.imgapi)
    if image.parent is not None:
        record["parent"] = image.parent
    return json.dumps(record, indent=1).encode()


def _decode_record(record: dict[str, Any], config: ImageConfig) -> Image:
    layers = tuple(
        Descriptor(str(layer["mediaType"]), parse_digest(layer["digest"]), int(layer["size"]))
        for layer in record["layers"]
    )
    return _image(
        config,
        layers,
        size=int(record["size"]),
        added_ns=int(record["added_ns"]),
        imgapi=record.get("imgapi", {}),
        parent=parse_digest(record["parent"]) if "parent" in record else None,
    )


def _encode_names(names: Mapping[Reference, Digest], tagged_ns: Mapping[Digest, int]) -> bytes:
    document = {
        "references": {reference.full: image_id for reference, image_id in names.items()},
        "tagged_ns": dict(tagged_ns),
    }
    return json.dumps(document, indent=1).encode()


def _read_names(path: Path) -> tuple[dict[Reference, Digest], dict[Digest, int]]:
    """What `references.json` says; nothing if there is none yet.  DataLoss if it is damaged."""
    try:
        document = json.loads(path.read_bytes())
        return (
            {Reference.parse(text): Digest(held) for text, held in document["references"].items()},
            {Digest(held): int(when) for held, when in document["tagged_ns"].items()},
        )
    except FileNotFoundError:
        return {}, {}
    except (ValueError, KeyError, TypeError, AttributeError, InvalidParameter) as error:
        raise DataLoss(f"{path} is damaged: {error}") from error


def _write(path: Path, content: bytes) -> None:
    """Replace a file so that after a crash there is the old one or the new one, whole."""
    descriptor, name = tempfile.mkstemp(prefix=_TEMPORARY, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
