"""The blobs of layers, kept beside their datasets: what push sends and save inflates.

    ROOT/<blob hex>.<tar size>              as it came: gzip, zstd
    ROOT/<blob hex>.<tar size>.tar          as it came: a plain tar, which is still to be packed; or a link whose text
                                            says where it lies: archive-<inode>:<offset>
    ROOT/archive-<inode>                    what was loaded, until all that is needed of it is packed
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
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from dockerapi.errors import NotFound
from imgsources.compression import HEAD_BYTES, FilePart, GzipFile, compression
from imgsources.oci import Digest

_NEW = ".new-"
_TAR = ".tar"
_ARCHIVE = "archive-"
_BLOCK = 1 << 20
_NAME = re.compile(r"([0-9a-f]{64})\.([0-9]+)(?:\.([0-9a-f]{64}|tar))?")


@dataclass(frozen=True, slots=True)
class KeptBlob:
    """The blob of `layer`.  `digest` is the file's own, `tar_size` that of the tar inside of it, in bytes."""

    path: Path
    layer: Digest
    digest: Digest
    tar_size: int
    offset: int | None = None
    """Where it begins in `path`, an archive of which it is a part; None: it is all of the file."""

    @property
    def size(self) -> int:
        """Bytes of the blob.  OSError."""
        return self.path.stat().st_size if self.offset is None else self.tar_size

    @property
    def compression(self) -> str:
        """gzip, zstd, or "" for a tar.  OSError."""
        part = self.open()
        try:
            return compression(part.head(HEAD_BYTES))
        finally:
            part.close()

    def open(self) -> FilePart:
        """Its bytes.  OSError."""
        if self.offset is None:
            return FilePart.whole(self.path)
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        return FilePart(descriptor, self.offset, self.tar_size)


class LayerBlobs:
    """The blobs of one data root, by the digest that the catalog knows a layer by."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._packing = threading.Lock()
        self._kept: dict[Digest, KeptBlob] = {}
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in root.iterdir():
            if found := blob_of(path):
                self._kept[found.layer] = found
            elif not path.name.startswith(_ARCHIVE):
                path.unlink()
        self._remove_archives()

    def find(self, digest: Digest) -> KeptBlob | None:
        """The blob of a layer, if it is here."""
        return self._kept.get(digest)

    def open(self, digest: Digest) -> FilePart:
        """The blob of a layer, which may be packed or dropped meanwhile.  NotFound."""
        while (blob := self._kept.get(digest)) is not None:
            try:
                return blob.open()
            except FileNotFoundError:
                if self._kept.get(digest) is blob:
                    break
        raise NotFound(f"the blob of layer {digest} was removed")

    def digests(self) -> frozenset[Digest]:
        """Of all layers that have a blob here."""
        with self._lock:
            return frozenset(self._kept)

    def new(self) -> Path:
        """Where to write one, on the same disk; `adopt` gives it its name."""
        return self._root / f"{_NEW}{secrets.token_hex(8)}"

    def adopt(
        self,
        path: Path,
        digest: Digest,
        tar_size: int,
        *,
        gzip: Digest | None = None,
        is_tar: bool = False,
    ) -> None:
        """Make a verified file the blob of a layer; `gzip` is its digest where it is not the layer's own."""
        suffix = f".{gzip[7:]}" if gzip else _TAR if is_tar else ""
        final = self._root / f"{digest[7:]}.{tar_size}{suffix}"
        with self._lock:
            held = self._kept.get(digest)
            if held is not None and held.path != final and held.path.exists():
                path.unlink()  # another pull was faster, with other bytes of the same tar
                return
            path.replace(final)
            self._kept[digest] = KeptBlob(final, digest, gzip or digest, tar_size)

    def adopt_part(self, archive: Path, offset: int, digest: Digest, tar_size: int) -> None:
        """A plain tar inside of a file that stays as long as it is needed, though its name may go.  OSError."""
        held = self._root / f"{_ARCHIVE}{archive.stat().st_ino}"
        new, final = self.new(), self._root / f"{digest[7:]}.{tar_size}{_TAR}"
        with self._lock:
            if not held.exists():
                os.link(archive, held)
            new.symlink_to(f"{held.name}:{offset}")
            new.replace(final)
            self._kept.setdefault(digest, KeptBlob(held, digest, digest, tar_size, offset))

    def _remove_archives(self) -> None:
        """Those of which nothing is left to be packed."""
        with self._lock:
            needed = {blob.path.name for blob in self._kept.values() if blob.offset is not None}
            for path in self._root.glob(f"{_ARCHIVE}*"):
                if path.name not in needed:
                    path.unlink(missing_ok=True)

    def unpacked(self) -> list[Digest]:
        """Layers whose blob is a plain tar."""
        with self._lock:
            found = [*self._kept.items()]
        return [digest for digest, blob in found if _is_tar(blob)]

    def pack(self, digest: Digest, is_over: Callable[[], bool] = lambda: False) -> KeptBlob | None:
        """A plain tar becomes gzip; what is in another form already stays.  Half done if `is_over`.  OSError."""
        with self._packing:
            blob = self._kept.get(digest)
            if blob is None or not _is_tar(blob):
                return blob
            new = self.new()
            try:
                gzip = _packed(blob, new, lambda: is_over() or self._kept.get(digest) is not blob)
                if gzip is not None:
                    self._replace(digest, blob, new, gzip)
                    self._remove_archives()
            finally:
                new.unlink(missing_ok=True)
            return self._kept.get(digest)

    def _replace(self, digest: Digest, blob: KeptBlob, new: Path, gzip: Digest) -> None:
        before = self._root / _tar_name(blob)
        final = before.with_suffix(f".{gzip[7:]}")
        with self._lock:
            if self._kept.get(digest) is blob:  # else it was dropped meanwhile
                new.replace(final)
                self._kept[digest] = KeptBlob(final, digest, gzip, blob.tar_size)
                before.unlink(missing_ok=True)

    def drop(self, kept: Collection[Digest]) -> list[Path]:
        """Forget every blob but these; the files, which the caller removes when it has time."""
        gone: list[Path] = []
        with self._lock:
            for digest in [digest for digest in self._kept if digest not in kept]:
                path = self._root / f"{_NEW}{secrets.token_hex(8)}"
                blob = self._kept.pop(digest)
                name = blob.path if blob.offset is None else self._root / _tar_name(blob)
                try:
                    # A name that no blob has: the next open removes it if we do not.
                    name.rename(path)
                except FileNotFoundError:
                    continue
                gone.append(path)
        if gone:
            self._remove_archives()
        return gone

    def __len__(self) -> int:
        return len(self._kept)


def blob_of(path: Path) -> KeptBlob | None:
    """The blob that a file is, by its name; None for any other file, or a link to an archive that is gone."""
    if not (found := _NAME.fullmatch(path.name)):
        return None
    name, size, form = found.groups()
    layer = _digest(name)
    if path.is_symlink():
        target, _, offset = str(path.readlink()).partition(":")
        archive = path.parent / target
        if not offset.isdigit() or not target.startswith(_ARCHIVE) or not archive.exists():
            return None
        return KeptBlob(archive, layer, layer, int(size), int(offset))
    digest = layer if form in (None, "tar") else _digest(form)
    return KeptBlob(path, layer, digest, int(size))


def _tar_name(blob: KeptBlob) -> str:
    return f"{blob.layer[7:]}.{blob.tar_size}{_TAR}"


def _is_tar(blob: KeptBlob) -> bool:
    return blob.offset is not None or blob.path.suffix == _TAR


def _packed(blob: KeptBlob, new: Path, is_over: Callable[[], bool]) -> Digest | None:
    """A tar as gzip in `new`; None if it is over before."""
    part, copy = blob.open(), GzipFile(new)
    try:
        while block := part.read(_BLOCK):
            if is_over():
                return None
            copy.write(block)
        return Digest(copy.finish())
    finally:
        copy.close()
        part.close()


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
