"""All JSON that a server answered, looked at: is it as the newest API version describes it, and signed as every answer is?

The copies are witness.py's.  What an older version's answers have, that the newest description lacks, is in `LEGACY`;
where dockerd's own answer is not as described, in `KNOWN`, with the recorded answer that shows it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from urllib.parse import unquote

from compat.exceptions import KNOWN, LEGACY, OURS
from compat.schemas import description, error_faults, faults

NEWEST = (1, 51)
_VERSION = re.compile(r"/v(\d+)(?:\.(\d+))?(/.*)")
_SIGNED = ("Api-Version", "Docker-Experimental", "Ostype", "Server")


@dataclass(frozen=True)
class Copy:
    """One JSON value of an answer."""

    method: str
    target: str
    status: int
    headers: dict[str, str]
    body: str

    @property
    def version(self) -> tuple[int, int]:
        """Of the API, as the client asked for it."""
        found = _VERSION.match(self.target)
        return (int(found[1]), int(found[2] or 0)) if found else NEWEST

    @property
    def path(self) -> str:
        """Without version and query."""
        path = unquote(self.target.partition("?")[0])
        found = _VERSION.match(path)
        return found[3] if found else path

    def faults(self) -> list[str]:
        """Lines of what is wrong, with where it was."""
        unsigned = [f"no {name} in the head" for name in _SIGNED if name not in self.headers]
        # As dockerd: what no route or version was found for is answered before the heads are.
        if "page not found" in self.body or not (1, 24) <= self.version <= NEWEST:
            unsigned = []
        return [
            f"{self.method} {self.target} ({self.status}): {line}"
            for line in (*unsigned, *self._body_faults())
        ]

    def _body_faults(self) -> list[str]:
        kind = self.headers.get("Content-Type", "")
        if not self.body:
            return []
        if not kind.startswith("application/json"):
            return [f"an error as {kind}"] if self._is_wrongly_told(kind) else []
        value = json.loads(self.body)
        if self.status >= 400:
            return error_faults(value)
        route = route_of(self.method, self.path)
        if route is None:
            return ["the description has no such route"]
        return [
            line for line in faults(route, value, self.status) if not self._excused(route, line)
        ]

    def _is_wrongly_told(self, kind: str) -> bool:
        too_old = self.version < (1, 24) and kind.startswith("text/plain")
        return self.status >= 400 and not too_old

    def _excused(self, route: str, line: str) -> bool:
        rows = [row for row in (*KNOWN, *OURS) if row.fits(route, line)]
        rows += [row for row in LEGACY if row.fits(route, line) and self.version < row.until]
        return bool(rows)


@cache
def _patterns() -> list[tuple[str, re.Pattern[str], str]]:
    """(method, path, route), those with the fewest names first."""
    rows = []
    for route in description()["routes"]:
        method, path = route.split(" ", 1)
        pattern = re.sub(r"\\\{\w+\\\}", ".+", re.escape(path))
        rows.append((method, re.compile(pattern + "/?"), route))
    return sorted(rows, key=lambda row: row[2].count("{"))


def route_of(method: str, path: str) -> str | None:
    """`GET /containers/{id}/json`; None for a path that is not described."""
    for wanted, pattern, route in _patterns():
        if wanted == method and pattern.fullmatch(path):
            return route
    return None


@dataclass
class Traffic:
    """The copies of one server's answers, read as they come; the same answer is looked at once."""

    path: Path
    _at: int = 0
    _seen: set[int] = field(default_factory=set)

    def faults(self) -> list[str]:
        """Of what was answered since the last call."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self._at)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        found: list[str] = []
        for line in whole.splitlines():
            # The target has ids and names, which say nothing here; but a fault tells it.
            copy = Copy(*json.loads(line))
            route = route_of(copy.method, copy.path)
            seen = hash((copy.method, route, copy.version, copy.status, copy.body, *copy.headers))
            if seen not in self._seen:
                self._seen.add(seen)
                found += copy.faults()
        return found
