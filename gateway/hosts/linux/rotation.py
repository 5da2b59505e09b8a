"""Log files that do not grow without end: max-size and max-file of the log drivers json-file and local.

conmon itself only truncates (`--log-size-max`), so files are renamed here and conmon is told to open a new one:

    ctr.log -> ctr.log.1 -> ... -> ctr.log.(max_file - 1) -> gone

No line is lost: conmon goes on writing to the renamed file until it reopens.  Sizes are looked at every half a
second, so a file may become larger by what is written meanwhile.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dockerapi.errors import InvalidParameter

INTERVAL_S = 0.5
_SIZE = re.compile(r"^(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?$", re.IGNORECASE)
_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
# What dockerd's driver `local` does where nothing is said.
_LOCAL = {"max-size": "20m", "max-file": "5"}


@dataclass(frozen=True, slots=True)
class Rotation:
    """`max_size` in bytes; `max_file` counts the one that is being written."""

    max_size: int
    max_file: int = 1

    @classmethod
    def parse(cls, driver: str, options: Mapping[str, str]) -> Rotation | None:
        """None where the log may grow; InvalidParameter for what is no size or number."""
        words = {**_LOCAL, **options} if driver == "local" else dict(options)
        if "max-size" not in words or words["max-size"] == "-1":
            return None
        files = words.get("max-file", "1")
        if not files.isdigit() or int(files) < 1:
            raise InvalidParameter(f"max-file cannot be less than 1: {files}")
        return cls(_bytes(words["max-size"]), int(files))

    def is_due(self, path: Path) -> bool:
        """Whether the file has grown beyond its size."""
        try:
            return path.stat().st_size > self.max_size
        except FileNotFoundError:
            return False

    def rotate(self, path: Path, reopen: Callable[[], None]) -> None:
        """Make room for a new file and have it opened by `reopen`."""
        for number in range(max(self.max_file - 1, 1), 1, -1):
            older = path.with_name(f"{path.name}.{number - 1}")
            if older.exists():
                older.rename(path.with_name(f"{path.name}.{number}"))
        first = path.with_name(f"{path.name}.1")
        path.rename(first)
        reopen()
        if self.max_file == 1:
            first.unlink()


def _bytes(text: str) -> int:
    match = _SIZE.match(text.strip())
    if not match or float(match[1]) <= 0:
        raise InvalidParameter(f"invalid size: '{text}'")
    return int(float(match[1]) * (1 << _UNITS[match[2].lower()]))
