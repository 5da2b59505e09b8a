"""The blobs of layers, kept beside their datasets: what push sends and save inflates.

    ROOT/<blob hex>.<tar size>              as it came, gzip or zstd
    ROOT/<blob hex>.<tar size>.<gzip hex>   it came in another form, and is kept as gzip with that digest
    ROOT/.new-*                             being written

A dataset cannot give back the bytes that a registry or an image's ID speak of; the blob can, on every
platform alike (docs/decisions/0012).  What is in a file was verified when it was put there.  Names say
all there is to know, so that nothing has to be written with them.  Blocking; methods may be called from
threads.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from imgsources.compression import HEAD_BYTES, compression
from imgsources.oci import Digest

_NEW = ".new-"
_NAME = re.compile(r"([0-9a-f]{64})\.([0-9]+)(?:\.([0-9a-f]{64}))?")


@dataclass(frozen=True, slots=True)
class KeptBlob:
    """One blob.  `digest` is the file's own, `tar_size` that of the tar inside of it, in bytes."""

    path: Path
    digest: Digest
    tar_size: int

    @property
    def size(self) -> int:
        """Bytes of the file.  OSError."""
        return self.path.stat().st_size

    @property
    def compression(self) -> str:
        """gzip or zstd."""
        with self.path.open("rb") as file:
            return compression(file.read(HEAD_BYTES))


class LayerBlobs:
    """The blobs of one data root, by the digest that the catalog knows a layer by."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._kept: dict[Digest, KeptBlob] = {}
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in root.iterdir():
            if found := blob_of(path):
                self._kept[found[0]] = found[1]
            else:
                path.unlink()

    def find(self, digest: Digest) -> KeptBlob | None:
        """The blob of a layer, if it is here."""
        return self._kept.get(digest)

    def digests(self) -> frozenset[Digest]:
        """Of all layers that have a blob here."""
        with self._lock:
            return frozenset(self._kept)

    def new(self) -> Path:
        """Where to write one, on the same disk; `adopt` gives it its name."""
        return self._root / f"{_NEW}{secrets.token_hex(8)}"

    def adopt(
        self, path: Path, digest: Digest, tar_size: int, *, gzip: Digest | None = None
    ) -> None:
        """Make a verified file the blob of a layer; `gzip` is its digest where it is not the layer's own."""
        suffix = f".{gzip[7:]}" if gzip else ""
        final = self._root / f"{digest[7:]}.{tar_size}{suffix}"
        with self._lock:
            held = self._kept.get(digest)
            if held is not None and held.path != final and held.path.exists():
                path.unlink()  # another pull was faster, with other bytes of the same tar
                return
            path.replace(final)
            self._kept[digest] = KeptBlob(final, gzip or digest, tar_size)

    def drop(self, kept: Collection[Digest]) -> list[Path]:
        """Forget every blob but these; the files, which the caller removes when it has time."""
        gone: list[Path] = []
        with self._lock:
            for digest in [digest for digest in self._kept if digest not in kept]:
                path = self._root / f"{_NEW}{secrets.token_hex(8)}"
                try:
                    # A name that no blob has: the next open removes it if we do not.
                    self._kept.pop(digest).path.rename(path)
                except FileNotFoundError:
                    continue
                gone.append(path)
        return gone

    def __len__(self) -> int:
        return len(self._kept)


def blob_of(path: Path) -> tuple[Digest, KeptBlob] | None:
    """What the name of a file says: the layer that it is the blob of; None for any other file."""
    if not (found := _NAME.fullmatch(path.name)):
        return None
    name, size, gzip = found.groups()
    return _digest(name), KeptBlob(path, _digest(gzip or name), int(size))


def remove(paths: Collection[Path]) -> None:
    """Unlink files that `drop` gave; those that are gone already are fine."""
    for path in paths:
        path.unlink(missing_ok=True)


def free_bytes(folder: Path) -> int:
    """What can be written to the disk of a folder."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _digest(encoded: str) -> Digest:
    return Digest(f"sha256:{encoded}")
