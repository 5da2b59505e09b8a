"""A file with a file system of its own, mounted: what a store on btrfs needs."""

from __future__ import annotations

import subprocess  # noqa: TID251 - the programs of the machine, not of the gateway
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SIZE = 256 << 20


def has_btrfs() -> bool:
    """Whether this kernel mounts btrfs; the programs are a need of the tests."""
    return "\tbtrfs\n" in Path("/proc/filesystems").read_text()


@contextmanager
def btrfs(folder: Path, size: int = SIZE) -> Iterator[Path]:
    """The mount, below `folder`; gone when the block ends, with all that is on it."""
    image, place = folder / "disk", folder / "btrfs"
    place.mkdir(parents=True)
    with image.open("wb") as file:
        file.truncate(size)
    _run("mkfs.btrfs", "--quiet", str(image))
    _run("mount", "-o", "loop", str(image), str(place))
    try:
        yield place
    finally:
        # Not lazily: what holds it is a leftover, which the test is to show.
        _run("umount", "--recursive", str(place))
        image.unlink()


def subvolumes(place: Path) -> list[str]:
    """Paths of all subvolumes."""
    lines = _run("btrfs", "subvolume", "list", str(place)).splitlines()
    return sorted(line.partition(" path ")[2] for line in lines)


def _run(*argv: str) -> str:
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}"
    return done.stdout
