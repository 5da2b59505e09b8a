"""Log files that do not grow without end: max-size, max-file and compress of the log drivers that keep files.

conmon itself only truncates (`--log-size-max`), so files are renamed here and conmon is told to open a new one:

    ctr.log -> ctr.log.1 -> ... -> ctr.log.(max_file - 1) -> gone            compressed: ctr.log.1.gz ...

No line is lost: conmon goes on writing to the renamed file until it reopens.  Sizes are looked at every half a
second, so a file may become larger by what is written meanwhile.  A file is compressed in a thread, aside, and
named when it is whole.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dockerapi.errors import InvalidParameter

INTERVAL_S = 0.5
PACKED = ".gz"
_SIZE = re.compile(r"^(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?$", re.IGNORECASE)
_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
# What dockerd's driver `local` does where nothing is said, and its copy of what drivers send elsewhere.
_LOCAL = {"max-size": "20m", "max-file": "5", "compress": "true"}
_TRUE = ("1", "t", "T", "true", "TRUE", "True")


@dataclass(frozen=True, slots=True)
class Rotation:
    """`max_size` in bytes; `max_file` counts the one that is being written."""

    max_size: int
    max_file: int = 1
    compress: bool = False

    @classmethod
    def parse(cls, driver: str, options: Mapping[str, str]) -> Rotation | None:
        """None where the log may grow; InvalidParameter for what is no size or number."""
        words = dict(options)
        if driver == "none":
            return None
        if driver == "local":
            words = {**_LOCAL, **options}
        elif driver != "json-file":
            words = {key: options.get(f"cache-{key}", value) for key, value in _LOCAL.items()}
        if words.get("max-size", "-1") in ("-1", "0"):
            return None
        files = words.get("max-file", "1")
        if not files.isdigit() or int(files) < 1:
            raise InvalidParameter(f"max-file cannot be less than 1: {files}")
        compress = words.get("compress", "false") in _TRUE and int(files) > 1
        return cls(_bytes(words["max-size"]), int(files), compress)

    def is_due(self, path: Path) -> bool:
        """Whether the file has grown beyond its size."""
        try:
            return path.stat().st_size > self.max_size
        except FileNotFoundError:
            return False

    def rotate(self, path: Path, reopen: Callable[[], None]) -> None:
        """Make room for a new file and have it opened by `reopen`."""
        for number in range(max(self.max_file - 1, 1), 1, -1):
            for ending in ("", PACKED):
                older = path.with_name(f"{path.name}.{number - 1}{ending}")
                if older.exists():
                    older.rename(path.with_name(f"{path.name}.{number}{ending}"))
                    # One of the two kinds takes the place of the other.
                    other = PACKED if not ending else ""
                    path.with_name(f"{path.name}.{number}{other}").unlink(missing_ok=True)
        first = path.with_name(f"{path.name}.1")
        path.rename(first)
        first.with_name(first.name + PACKED).unlink(missing_ok=True)
        reopen()
        if self.max_file == 1:
            first.unlink()


def pack(path: Path) -> None:
    """Compress the newest rotated file of the log `path`, if it is there and plain."""
    first = path.with_name(f"{path.name}.1")
    aside = path.with_name(f".{first.name}{PACKED}")
    try:
        with first.open("rb") as plain:
            inode = os.fstat(plain.fileno()).st_ino
            with aside.open("wb") as file, gzip.GzipFile("", "wb", 1, file) as packed:
                shutil.copyfileobj(plain, packed, 1 << 18)
            if first.stat().st_ino != inode:
                aside.unlink()  # rotated meanwhile
                return
        aside.rename(first.with_name(first.name + PACKED))
        first.unlink()
    except OSError:
        # Its container is being removed, or the disk is full: it stays as it is.
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def _bytes(text: str) -> int:
    match = _SIZE.match(text.strip())
    if not match or float(match[1]) <= 0:
        raise InvalidParameter(f"invalid size: '{text}'")
    return int(float(match[1]) * (1 << _UNITS[match[2].lower()]))
