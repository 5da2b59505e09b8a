"""The console of a full zone, as zoneadmd logs it: ZONEPATH/logs/console.log, records of the stream `console`.

Platforms of before 2018 (option `log=old`) keep none.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from dockerapi.framing import Stdio
from tests.fakes.globalzone.zoneadmd import BUFSIZ, StdioLog


class Console:
    """For one run of a zone."""

    def __init__(self, zonepath: Path, *, log_format: str, group: asyncio.TaskGroup) -> None:
        self._log = StdioLog(zonepath / "logs/console.log", log_format, 0)
        self._is_kept = log_format == "new"
        self._group = group
        self._settled = asyncio.Event()

    def serve(self, stdio: Stdio) -> None:
        """What the zone's init writes from now on."""
        if self._is_kept:
            self._log.open()
        self._group.create_task(self._run(stdio))

    async def settled(self) -> None:
        """It has ended, and all it said is written."""
        await self._settled.wait()

    async def _run(self, stdio: Stdio) -> None:
        try:
            async for _, data in stdio.output():
                for start in range(0, len(data), BUFSIZ):
                    self._log.write("console", data[start : start + BUFSIZ])
        finally:
            self._log.close()
            self._settled.set()
