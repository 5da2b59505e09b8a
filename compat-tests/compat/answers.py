"""Answers made comparable: what differs from run to run becomes a word, and the rest is kept as dockerd gave it.

Recorded answers are one JSON file per test module in `recorded/`: {dockerd: its version, answers: {case name: answer}}.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).resolve().parents[1] / "recorded"

_AGO = r"(?:Less than a second|About an? (?:minute|hour)|\d+ (?:second|minute|hour|day|week|month|year)s?)"
_RULES = [
    (re.compile(pattern), word)
    for pattern, word in [
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)", "TIME"),
        (r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)? [+-]\d{4} \w+", "TIME"),
        (r"\b[0-9a-f]{64}\b", "ID64"),
        (r"\b[0-9a-f]{12}\b", "ID12"),
        (r"\b(?:[0-9a-f]{2}:){5}[0-9a-f]{2}\b", "MAC"),
        (
            r"\b(?:172\.(?:1[6-9]|2\d|3[01])|192\.168|10\.\d+)(?:\.\d+){2}\b|\b172\.17\.\d+\.\d+\b",
            "IP",
        ),
        (rf"{_AGO} ago", "AGO"),
        (rf"Up {_AGO}", "Up TIME"),
        (r"(?<=[:>\"])(?:3[2-9]\d{3}|[4-6]\d{4})\b", "PORT"),
        (r"\b\d+(?:\.\d+)?\s?(?:kB|MB|GB)\b", "SIZE"),
        (r"request \w+\)", "request ID)"),
        (r" {3,}", "  "),
        # Told or not by chance: dockerd sends a client so many messages a second, the CLI's tar writer may see that
        # the other end is gone.
        (r"\bID12: Verifying Checksum\n", ""),
        (r"time=\"TIME\" level=error msg=\"Can't (?:add file|close tar writer)[^\n]*\n", ""),
    ]
]


def normal(text: str, names: dict[str, str]) -> str:
    """`text` with ids, times, addresses and the given names replaced by words."""
    for value, word in sorted(names.items(), key=lambda row: -len(row[0])):
        text = text.replace(value, word)
    text = text.replace("\r\n", "\n")
    for pattern, word in _RULES:
        text = pattern.sub(word, text)
    return "\n".join(line.rstrip() for line in text.split("\n"))


def shape(value: Any) -> Any:
    """The types of a JSON value: {key: shape}, [shape of first], or a type's name; null is `null`."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in sorted(value.items())}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    if value is None:
        return "null"
    return (
        "number"
        if isinstance(value, int | float) and not isinstance(value, bool)
        else type(value).__name__
    )


def missing(expected: Any, actual: Any, where: str = "") -> list[str]:
    """What `expected` (a shape) has and `actual` lacks or has in another type; null goes with anything."""
    if isinstance(expected, dict):
        if not isinstance(actual, dict):
            return (
                [] if actual == "null" and not expected else [f"{where}: {actual} is not an object"]
            )
        return [
            row
            for key, inner in expected.items()
            for row in (
                missing(inner, actual[key], f"{where}.{key}")
                if key in actual
                else [f"{where}.{key}: missing"]
            )
        ]
    if isinstance(expected, list):
        if not isinstance(actual, list):
            return [f"{where}: {actual} is not a list"]
        return missing(expected[0], actual[0], f"{where}[]") if expected and actual else []
    if "null" in (expected, actual):
        return []
    return [] if expected == actual else [f"{where}: {actual}, not {expected}"]


class Recording:
    """One module's recorded answers."""

    def __init__(
        self,
        name: str,
        *,
        taking: str = "",
        exact: bool = False,
        on_smartos: bool = False,
    ) -> None:
        self._path = RECORDED / f"{name}.json"
        self.taking = taking
        """The version of the dockerd whose answers are taken; empty: compare."""
        self.exact = exact
        """Compare with dockerd itself: without what zonegate does differently."""
        self.on_smartos = on_smartos
        found = json.loads(self._path.read_text()) if self._path.exists() else {}
        self._by: str = found.get("dockerd", "")
        self._rows: dict[str, Any] = found.get("answers", {})

    def expected(self, recorded: Any, *, smartos: Any, ours: Any, same: Any = None) -> Any:
        """What is to be answered: what the case says where it says something (not `same`), else what is recorded."""
        if self.exact:
            return recorded
        chosen = (smartos if self.on_smartos else same, ours)
        return next((answer for answer in chosen if answer is not same), recorded)

    def get(self, case: str) -> Any:
        """What dockerd answered; KeyError says how to take it."""
        if case not in self._rows:
            raise KeyError(f"nothing is recorded for {case!r}: run scripts/record")
        return self._rows[case]

    def put(self, case: str, answer: Any) -> None:
        """Keep an answer; written at once, so that a cut run loses nothing.  No file has answers of two versions."""
        if self._by != self.taking:
            self._by, self._rows = self.taking, {}
        self._rows[case] = answer
        kept = {"dockerd": self._by, "answers": dict(sorted(self._rows.items()))}
        self._path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
