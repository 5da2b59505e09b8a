"""Faults on order: `faults.json` in the global zone's folder, a list read at every call.

    {"program": "vmadm", "match": "create", "times": 1, "stderr": "text", "code": 1}   fails instead of acting
    {"program": "zfs", "match": "snapshot", "hang": true}                              never ends
    {"program": "vmadm", "match": "create", "after": true, "stderr": "text", "code": 1}  acts, then fails
    {"program": "vmadm", "match": "create", "midway": true, "hang": true}              stops half done (or fails there)

`match` is looked for in the arguments joined by blanks; `times` is how often it still strikes (absent = always).
Half done are `vmadm create` (the machine is there, its datasets are being made) and `vmadm delete` (it is down, its
datasets are gone, the machine is not).
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fakes.globalzone.call import Failed


@dataclass(frozen=True, slots=True)
class Fault:
    """One that strikes now."""

    stderr: str = ""
    code: int = 1
    hang: bool = False
    after: bool = False
    midway: bool = False

    async def act(self) -> None:
        """What it does to its program: hang for ever, or Failed."""
        if self.hang:
            await asyncio.Event().wait()
        raise Failed(self.stderr, self.code)


def strike(folder: Path, argv: list[str]) -> Fault | None:
    """The first fault on order for this call; its count goes down."""
    path = folder / "faults.json"
    if not path.exists():
        return None
    orders: list[dict[str, Any]] = json.loads(path.read_text())
    for order in orders:
        if order["program"] != argv[0] or order.get("match", "") not in " ".join(argv[1:]):
            continue
        if order.get("times", 1) <= 0:
            continue
        if "times" in order:
            order["times"] -= 1
            path.write_text(json.dumps(orders))
        return Fault(
            order.get("stderr", ""),
            order.get("code", 1),
            order.get("hang", False),
            order.get("after", False),
            order.get("midway", False),
        )
    return None
