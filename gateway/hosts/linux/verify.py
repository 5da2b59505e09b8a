"""Whether a dataset is what its layer's tar says: presence, origin, and the bytes of every file.  Reads only.  Blocking."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

from gateway.hosts.linux.storechoice import DRIVERS, prior
from gateway.hosts.tarstream import Tar
from gateway.hosts.untar import Root, has_openat2
from gateway.settings import Settings
from imgsources.oci import ImageUUID

_NO_LINK = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_FILE, _DIRECTORY = 0x30, 0x35
_BLOCK = 1 << 20


def datasets(settings: Settings) -> Path:
    """Where the datasets are, of whichever store."""
    driver = next(iter(prior(settings.data_root)), "overlay2")
    return settings.data_root / DRIVERS[driver] / "datasets"


def present(folder: Path) -> dict[ImageUUID, ImageUUID | None]:
    """Every dataset that is whole, with its origin."""
    found: dict[ImageUUID, ImageUUID | None] = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        try:
            found[ImageUUID(path.name)] = json.loads((path / "meta.json").read_bytes())["origin"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def is_readable(folder: Path) -> bool:
    """Whether a dataset's files are there to be read; those of zfs are while they are mounted only."""
    return not (folder / "layer").is_symlink()


def differences(folder: Path, read: Callable[[int], bytes]) -> list[str]:
    """Files of a dataset that are not what the layer's tar says; a tar entry that a later one replaced does not count."""
    expected: dict[bytes, bytes] = {}
    described: set[bytes] = set()
    parents: set[bytes] = set()
    tar = Tar(read)
    for entry in tar:
        name = b"/".join(part for part in entry.name.split(b"/") if part not in (b"", b"."))
        if entry.kind != _DIRECTORY and name in parents:
            for gone in [path for path in expected if path.startswith(name + b"/")]:
                del expected[gone]
        parents.add(name.rpartition(b"/")[0])
        expected.pop(name, None)
        if entry.kind == _DIRECTORY:
            described.add(name)
        elif entry.kind == _FILE and b".wh." not in name and entry.extents is None:
            state = hashlib.sha256()
            for chunk in tar.chunks():
                state.update(chunk)
            expected[name] = state.digest()
    return _compared(folder, expected, described)


def _compared(folder: Path, expected: dict[bytes, bytes], described: set[bytes]) -> list[str]:
    if not has_openat2():
        return []
    root = Root(str(folder))
    try:
        found = [(name, _digest(root, name)) for name in expected]
    finally:
        root.close()
    return [
        f"{os.fsdecode(name)}: {'missing' if digest is None else 'other bytes'}"
        for name, digest in found
        # What no entry described may be a link below: its files are where that leads.
        if digest != expected[name] and (digest or name.rpartition(b"/")[0] in {b"", *described})
    ]


def _digest(root: Root, name: bytes) -> bytes | None:
    try:
        fd = root.open(name, _NO_LINK)
    except OSError:
        return None
    with os.fdopen(fd, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        return hashlib.file_digest(file, "sha256").digest()
