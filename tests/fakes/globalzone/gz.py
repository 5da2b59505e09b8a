"""What the programs share: the folder that stands for /, the pool, the machines, the Linux host that runs them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from gateway.hosts.linux.host import LinuxHost
from tests.fakes.globalzone import native
from tests.fakes.globalzone.machines import Machines
from tests.fakes.globalzone.pool import Pool
from tests.fakes.globalzone.stubs import Stubs

# Folders that only the platform has: a path below one of them is never one of this computer's own.
_PLATFORM = ("zones", "usbkey", "opt/custom")


class GZ:
    """One global zone.  `root` stands for /: `root/zones` is the pool's mountpoint, `root/var/imgadm` imgadm's."""

    def __init__(self, root: Path, group: asyncio.TaskGroup, options: dict[str, str]) -> None:
        self.root = root
        self.group = group
        self.options = options
        """Of the command line, all text:
        `subnet` (CIDR of the nic tag admin), `log` (old or new: format of stdio.log), `latency` (seconds that
        vmadm takes), `restart_scale` (factor of vmadmd's delays), `late_exit` (seconds by which exit_status
        comes after the state), `free` (bytes until the pool is full)."""
        self.nic_tags: dict[str, dict[str, str]] = {
            "admin": {"mac": "00:0c:29:00:00:01", "link": "e1000g0", "type": "normal"}
        }
        self.pool = Pool(self)
        self.machines = Machines(self)
        self.stubs = Stubs(self)

    @property
    def host(self) -> LinuxHost:
        """It runs the zones."""
        return self.machines.host

    def path(self, name: str) -> Path:
        """A path of the global zone on this computer: below `root`, or the computer's own where that has none."""
        inside = self.root / name.lstrip("/")
        if os.path.lexists(inside) or name.lstrip("/").startswith(_PLATFORM):
            return inside
        return Path(name)

    async def open(self) -> None:
        """Everything is ready for calls."""
        for folder in ("zones", "var/imgadm/images", "var/run", "var/tmp", "var/log", "etc"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        await native.make(self.root)
        await self.pool.open()
        await self.machines.open()

    async def close(self) -> None:
        """Zones are stopped, mounts and processes gone; the files stay."""
        await self.machines.close()
        await self.pool.close()
