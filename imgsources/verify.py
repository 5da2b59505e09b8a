"""Whether a catalog and its kept blobs are whole: every file hashed, every name followed.  Reads only.  Blocking.

    configs/HEX hashes to HEX       images/HEX.json has its config      references.json names images that are there
    layers/HEX.SIZE hashes to HEX, is a tar of SIZE bytes, and that tar is what the image's config says

Whether the datasets are what the blobs say is the platform's to find out (`gateway.verify`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dockerapi.errors import APIError
from imgsources.blobs import KeptBlob, blob_of
from imgsources.compression import FilePart
from imgsources.layers import BlobTar
from imgsources.oci import Digest, ImageConfig, ImageUUID, chain_uuids, parse_config

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class KnownLayer:
    """A layer of an image, and the dataset that it should be; `blob` None: none is kept."""

    image: Digest
    uuid: ImageUUID
    origin: ImageUUID | None
    digest: Digest
    diff_id: Digest
    blob: KeptBlob | None


@dataclass(frozen=True, slots=True)
class Known:
    """What a catalog has: ids of images, their layers (each dataset once), and what is wrong."""

    images: tuple[Digest, ...]
    layers: tuple[KnownLayer, ...]
    faults: tuple[str, ...]


def read(images: Path, layers: Path) -> Known:
    """The catalog in `images`, and which of `layers` its images have."""
    faults: list[str] = []
    configs = dict(_configs(images / "configs", faults))
    records = dict(_records(images / "images", faults))
    faults += [f"config {image}: no image has it" for image in configs.keys() - records.keys()]
    blobs = _blobs(layers, faults)
    found: dict[ImageUUID, KnownLayer] = {}
    for image, record in records.items():
        if image not in configs:
            faults.append(f"image {image}: its config is missing")
        elif "imgapi" not in record:
            try:
                found |= {one.uuid: one for one in _layers(configs[image], record, blobs)}
            except (KeyError, TypeError, ValueError) as error:
                faults.append(f"image {image}: its record is damaged: {error}")
    needed = {layer.digest for layer in found.values()}
    faults += [f"blob {digest}: no image needs it" for digest in blobs.keys() - needed]
    faults += _names(images / "references.json", records.keys())
    return Known(tuple(records), tuple(found.values()), tuple(faults))


def examine(layer: KnownLayer) -> str:
    """What is wrong with the kept blob of a layer; "" for nothing."""
    blob = layer.blob
    if blob is None:
        return f"layer {layer.digest} of image {layer.image}: its blob is not kept"
    try:
        actual = _hashed(blob.open())
        if actual != blob.digest:
            return f"blob {layer.digest}: its bytes hash to {actual}, not {blob.digest}"
        tar = BlobTar(blob.open(), layer.diff_id, lambda _: None)
        try:
            while tar.read(_BLOCK):
                pass
        finally:
            tar.close()
    except (APIError, OSError) as error:
        return f"blob {layer.digest}: {error}"
    if tar.size != blob.tar_size:
        return f"blob {layer.digest}: a tar of {tar.size} bytes, not {blob.tar_size}"
    return ""


def _hashed(part: FilePart) -> str:
    state = hashlib.sha256()
    try:
        while block := part.read(_BLOCK):
            state.update(block)
    finally:
        part.close()
    return f"sha256:{state.hexdigest()}"


def _configs(folder: Path, faults: list[str]) -> Iterator[tuple[Digest, ImageConfig]]:
    for path in _files(folder):
        try:
            config = parse_config(path.read_bytes())
        except (APIError, OSError) as error:
            faults.append(f"config {path.name}: {error}")
            continue
        if config.digest != f"sha256:{path.name}":
            faults.append(f"config {path.name}: its bytes hash to {config.digest}")
        else:
            yield config.digest, config


def _records(folder: Path, faults: list[str]) -> Iterator[tuple[Digest, dict[str, Any]]]:
    for path in _files(folder):
        try:
            yield Digest(f"sha256:{path.stem}"), dict(json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError) as error:
            faults.append(f"image {path.stem}: its record is damaged: {error}")


def _layers(
    config: ImageConfig, record: dict[str, Any], blobs: dict[Digest, KeptBlob]
) -> Iterator[KnownLayer]:
    digests = [Digest(layer["digest"]) for layer in record["layers"]]
    uuids = chain_uuids(digests)
    origins = (None, *uuids)
    for digest, diff_id, uuid, origin in zip(
        digests, config.diff_ids, uuids, origins[: len(uuids)], strict=True
    ):
        yield KnownLayer(config.digest, uuid, origin, digest, diff_id, blobs.get(digest))


def _blobs(folder: Path, faults: list[str]) -> dict[Digest, KeptBlob]:
    found: dict[Digest, KeptBlob] = {}
    for path in _files(folder):
        blob = blob_of(path)
        if blob is not None:
            found[blob.layer] = blob
        elif not path.name.startswith("archive-"):
            faults.append(f"{path}: no blob has such a name")
    return found


def _names(path: Path, images: Any) -> list[str]:
    try:
        names = json.loads(path.read_bytes())["references"]
        return [
            f"{name}: image {image} is missing"
            for name, image in names.items()
            if image not in images
        ]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"{path} is damaged: {error}"]


def _files(folder: Path) -> list[Path]:
    """Files but those that are being written."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".new-"))
