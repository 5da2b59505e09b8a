"""What the programs share: the folder that stands for /, the pool, the machines, the Linux host that runs them."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.fakes.globalzone.machines import Machines
from tests.fakes.globalzone.pool import Pool


class GZ:
    """One global zone.  `root` stands for /: `root/zones` is the pool's mountpoint, `root/var/imgadm` imgadm's."""

    def __init__(self, root: Path, group: asyncio.TaskGroup, options: dict[str, str]) -> None:
        self.root = root
        self.group = group
        self.options = options
        """Of the command line: `subnet` (CIDR of the nic tag admin), `log` (old or new: format of stdio.log)."""
        self.nic_tags: dict[str, dict[str, str]] = {
            "admin": {"mac": "00:0c:29:00:00:01", "link": "e1000g0", "type": "normal"}
        }
        self.pool = Pool(self)
        self.machines = Machines(self)

    async def open(self) -> None:
        """Everything is ready for calls."""
        for folder in ("zones", "var/imgadm/images", "var/run", "var/tmp", "etc"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        await self.pool.open()
        await self.machines.open()

    async def close(self) -> None:
        """Zones are stopped, mounts and processes gone; the files stay."""
        await self.machines.close()
        await self.pool.close()
