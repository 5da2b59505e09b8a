"""Cgroups of zones on v1, v2 and the hybrid of both: freeze, kill, remove.

The runtime makes a zone's cgroups and sets its limits from config.json; this is the rest, by files.

    layout   where the controllers are
    v1       one tree per controller: /sys/fs/cgroup/memory/PATH, .../freezer/PATH, ...
    hybrid   as v1, with a v2 tree beside it at /sys/fs/cgroup/unified
    v2       one tree: /sys/fs/cgroup/PATH
"""

from __future__ import annotations

import asyncio
import errno
import os
import posixpath
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dockerapi.errors import APIError, NotSupported
from gateway.hosts.linux.machine import CgroupLayout

_IO_DEVICES = (
    "BlkioWeightDevice",
    "BlkioReadBpsDevice",
    "BlkioWriteBpsDevice",
    "BlkioReadIOpsDevice",
    "BlkioWriteIOpsDevice",
)
_RETRY_S = 0.002
_LONGEST_RETRY_S = 0.05


@dataclass(frozen=True, slots=True)
class Cgroups:
    """The cgroup trees of this machine.

    `controllers`: v1 controller -> its mount point.  `unified`: mount point of the v2 tree or None.
    `PATH` arguments are `linux.cgroupsPath`: /zonegate/ID.
    """

    layout: CgroupLayout
    controllers: Mapping[str, Path]
    unified: Path | None

    @classmethod
    def detect(cls, mountinfo: str | None = None) -> Cgroups:
        """From /proc/self/mountinfo.  NotSupported if no cgroups are mounted."""
        text = Path("/proc/self/mountinfo").read_text() if mountinfo is None else mountinfo
        controllers: dict[str, Path] = {}
        unified = None
        for line in text.splitlines():
            before, _, after = line.partition(" - ")
            point, kind = Path(before.split()[4]), after.split()[0]
            if kind == "cgroup2":
                unified = unified or point
            elif kind == "cgroup":
                options = after.split()[2].split(",")
                names = [o for o in options if o not in ("rw", "ro") and "=" not in o]
                names += [o.removeprefix("name=") for o in options if o.startswith("name=")]
                controllers |= {name: point for name in names if name not in controllers}
        if not controllers:
            if unified is None:
                raise NotSupported("no cgroups are mounted on this host")
            return cls("v2", {}, unified)
        return cls("hybrid" if unified else "v1", controllers, unified)

    @property
    def driver(self) -> str:
        """As /info has it: we make the folders ourselves."""
        return "cgroupfs"

    @property
    def version(self) -> str:
        """As /info has it: the hybrid's limits are v1's."""
        return "2" if self.layout == "v2" else "1"

    def path(self, name: str, parent: str = "", *, default_parent: str = "zonegate") -> str:
        """`linux.cgroupsPath` of a zone under --cgroup-parent, or else under ours."""
        # From the root on, so that no `..` leads out of the tree.
        return posixpath.normpath(posixpath.join("/", parent.lstrip("/") or default_parent, name))

    def folders(self, path: str) -> list[Path]:
        """Every folder that a zone may have; a tree that holds several controllers counts once."""
        roots = dict.fromkeys(
            [*self.controllers.values(), *([self.unified] if self.unified else [])]
        )
        return [root / path.lstrip("/") for root in roots]

    def prepare(self, path: str) -> None:
        """Make the parents so that a zone below them can have limits (v2 only; OSError).

        On v2 a controller works in a folder only if each folder above passes it on; v1 has no such
        switch, and the runtime makes the folders.
        """
        if self.layout != "v2" or self.unified is None:
            return
        current = self.unified
        for part in Path(path.lstrip("/")).parent.parts:
            _pass_on_controllers(current)
            current /= part
            current.mkdir(exist_ok=True)
        _pass_on_controllers(current)

    async def freeze(self, path: str, *, timeout_s: float = 10.0) -> None:
        """Stop all processes where they are; thawed again if that takes longer than `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._reach(path, frozen=True)
        except TimeoutError as error:
            await self.thaw(path)
            raise APIError(
                "cannot pause container: its processes did not freeze in time", detail=path
            ) from error

    async def thaw(self, path: str, *, timeout_s: float = 10.0) -> None:
        """Let them go on; nothing happens if there is no such cgroup any more."""
        with suppress(FileNotFoundError):
            async with asyncio.timeout(timeout_s):
                await self._reach(path, frozen=False)

    async def _reach(self, path: str, *, frozen: bool) -> None:
        delay = _RETRY_S / 4
        self._set_frozen(path, frozen=frozen)
        while self.is_frozen(path) != frozen:
            await asyncio.sleep(delay)
            delay = min(2 * delay, _LONGEST_RETRY_S)
            if self.layout != "v2":
                # v1 stays FREEZING if a task forks meanwhile, until it is told again.
                self._set_frozen(path, frozen=frozen)

    def _set_frozen(self, path: str, *, frozen: bool) -> None:
        if self.layout == "v2":
            _write(self._folder("freezer", path) / "cgroup.freeze", "1" if frozen else "0")
        else:
            _write(
                self._folder("freezer", path) / "freezer.state", "FROZEN" if frozen else "THAWED"
            )

    def is_frozen(self, path: str) -> bool:
        """Whether every process stands still; FileNotFoundError without such a cgroup."""
        folder = self._folder("freezer", path)
        if self.layout == "v2":
            return _keyed(folder / "cgroup.events").get("frozen") == 1
        return (folder / "freezer.state").read_text().strip() == "FROZEN"

    def pids(self, path: str) -> list[int]:
        """Processes in the cgroup and below it; none if it is gone."""
        found: list[int] = []
        for folder in _tree(self.folders(path)[0]):  # its processes are in every tree alike
            with suppress(OSError):
                found += map(int, (folder / "cgroup.procs").read_text().split())
        return found

    def kill(self, path: str, number: int = signal.SIGKILL) -> None:
        """Signal every process; none is fine.  A frozen one takes SIGKILL when it is thawed (v1)."""
        if self.layout == "v2" and number == signal.SIGKILL:
            with suppress(OSError):  # before 5.14 there is no such file
                _write(self._folder("", path) / "cgroup.kill", "1")
                return
        for pid in self.pids(path):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    async def remove(self, path: str, *, timeout_s: float = 5.0) -> bool:
        """Delete the zone's folders with those below them; False if processes held one too long.

        The kernel says EBUSY for some milliseconds after the last process was reaped.
        """
        left = [folder for folder in self.folders(path) if not _removed(folder)]
        delay, waited = _RETRY_S, 0.0
        while left and waited < timeout_s:
            await asyncio.sleep(delay)
            waited += delay
            delay = min(2 * delay, _LONGEST_RETRY_S)
            left = [folder for folder in left if not _removed(folder)]
        return not left

    def root_of(self, controllers: str) -> Path | None:
        """The tree of a line in /proc/PID/cgroup; None if it is not to be seen here."""
        if not controllers:
            return self.unified if self.layout == "v2" else None
        return self.controllers.get(controllers.split(",", maxsplit=1)[0].removeprefix("name="))

    def limits(self) -> dict[str, bool]:
        """Which limits work here, by the names of /info."""
        if self.layout == "v2" and self.unified is not None:
            return _limits_v2(self.unified)
        return self._limits_v1()

    def _limits_v1(self) -> dict[str, bool]:
        def has(controller: str, name: str) -> bool:
            root = self.controllers.get(controller)
            return root is not None and (root / name).exists()

        return {
            "MemoryLimit": has("memory", "memory.limit_in_bytes"),
            "SwapLimit": has("memory", "memory.memsw.limit_in_bytes"),
            "OomKillDisable": has("memory", "memory.oom_control"),
            "CPUShares": has("cpu", "cpu.shares"),
            "CpuCfsPeriod": has("cpu", "cpu.cfs_period_us"),
            "CpuCfsQuota": has("cpu", "cpu.cfs_quota_us"),
            "CPUSet": has("cpuset", "cpuset.cpus"),
            "PidsLimit": "pids" in self.controllers,
            "BlkioWeight": has("blkio", "blkio.weight"),
            "BlkioWeightDevice": has("blkio", "blkio.weight_device"),
            "BlkioReadBpsDevice": has("blkio", "blkio.throttle.read_bps_device"),
            "BlkioWriteBpsDevice": has("blkio", "blkio.throttle.write_bps_device"),
            "BlkioReadIOpsDevice": has("blkio", "blkio.throttle.read_iops_device"),
            "BlkioWriteIOpsDevice": has("blkio", "blkio.throttle.write_iops_device"),
            "CPURealtime": has("cpu", "cpu.rt_runtime_us"),
            "KernelMemoryTCP": has("memory", "memory.kmem.tcp.limit_in_bytes"),
        }

    def _folder(self, controller: str, path: str) -> Path:
        root = self.unified if self.layout == "v2" else self.controllers.get(controller)
        if root is None:
            raise NotSupported(f"this host has no cgroup controller {controller}")
        return root / path.lstrip("/")


def _limits_v2(root: Path) -> dict[str, bool]:
    available = (root / "cgroup.controllers").read_text().split()
    # The root itself has no memory.swap.max: look at the first folder that has memory.
    swap = any(root.glob("*/memory.swap.max"))
    return {
        "MemoryLimit": "memory" in available,
        "SwapLimit": swap,
        "OomKillDisable": False,
        "CPUShares": "cpu" in available,
        "CpuCfsPeriod": "cpu" in available,
        "CpuCfsQuota": "cpu" in available,
        "CPUSet": "cpuset" in available,
        "PidsLimit": "pids" in available,
        "BlkioWeight": "io" in available,
        **dict.fromkeys(_IO_DEVICES, "io" in available),
        # v2 has neither.
        "CPURealtime": False,
        "KernelMemoryTCP": False,
    }


def _pass_on_controllers(folder: Path) -> None:
    available = (folder / "cgroup.controllers").read_text().split()
    passed = (folder / "cgroup.subtree_control").read_text().split()
    for controller in available:
        if controller not in passed:
            # One by one: a single controller that cannot be passed on would stop all of them.
            with suppress(OSError):
                _write(folder / "cgroup.subtree_control", f"+{controller}")


def _write(path: Path, text: str) -> None:
    # One raw write: a buffered file reports the kernel's refusal at close, or never.
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _keyed(path: Path) -> dict[str, int]:
    pairs = (line.split() for line in path.read_text().splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


def _tree(folder: Path) -> Sequence[Path]:
    """The folder and those below it, deepest last."""
    return [Path(current) for current, _, _ in os.walk(folder)]


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise
        # A zone may have made cgroups of its own below.
        below = [path for path in reversed(_tree(folder)) if path != folder]
        return bool(below) and all(_removed(path) for path in below) and _removed(folder)
    return True
