"""What the kernel counts of a zone, as its files say: cgroup v1 and v2, and /proc/net/dev of its namespace.

Reading only; a file that this kernel lacks leaves its value unknown.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gateway.hosts.linux.cgroups import Cgroups
from gateway.zones.host import BlockCount, InterfaceCounters, Sample

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
# What v1 shows for no limit: the largest page-aligned number.
_NO_LIMIT = 1 << 62
_DOCKER_BLOCKS = {
    "io_service_bytes_recursive": "blkio.throttle.io_service_bytes_recursive",
    "io_serviced_recursive": "blkio.throttle.io_serviced_recursive",
}


def sample(cgroups: Cgroups, path: str, pid: int, *, network: bool) -> Sample:
    """One reading.  `path`: the zone's cgroup; `pid`: a process of it, for its network.

    FileNotFoundError if it has ended.
    """
    read = _from_v2 if cgroups.layout == "v2" else _from_v1
    values = read(cgroups, path)
    machine_ns, online = _machine_cpu()
    if (values["memory_limit"] or _NO_LIMIT) >= _NO_LIMIT:
        values["memory_limit"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Sample(
        time_ns=time.time_ns(),
        machine_cpu_ns=machine_ns,
        online_cpus=online,
        networks=interfaces(Path(f"/proc/{pid}/net/dev").read_text()) if network else None,
        **values,
    )


def interfaces(text: str) -> dict[str, InterfaceCounters]:
    """/proc/net/dev; the loopback is nobody's network."""
    found = {}
    for line in text.splitlines()[2:]:
        name, _, rest = line.partition(":")
        numbers = [int(word) for word in rest.split()]
        if name.strip() != "lo" and len(numbers) >= 12:
            found[name.strip()] = InterfaceCounters(*numbers[0:4], *numbers[8:12])
    return found


def _machine_cpu() -> tuple[int, int]:
    """CPU time of all CPUs together in nanoseconds, and how many there are."""
    lines = Path("/proc/stat").read_text().splitlines()
    # user nice system idle iowait irq softirq steal: guest time is within user's.
    ticks = sum(int(word) for word in lines[0].split()[1:9])
    cpus = sum(1 for line in lines[1:] if line.startswith("cpu"))
    return ticks * _TICK_NS, cpus


# What dockerd shows of memory.stat; kernels have more.
_MEMORY_V1 = frozenset(
    ("cache", "rss", "rss_huge", "mapped_file", "dirty", "writeback", "pgpgin", "pgpgout", "pgfault", "pgmajfault",
     "inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable",
     "hierarchical_memory_limit", "hierarchical_memsw_limit")
)  # fmt: skip
# dockerd shows these as empty lists: only the scheduler CFQ counted them.
_UNCOUNTED = tuple(
    f"{name}_recursive"
    for name in ("io_queue", "io_service_time", "io_wait_time", "io_merged", "io_time", "sectors")
)


def _from_v1(cgroups: Cgroups, path: str) -> dict[str, Any]:
    def folder(controller: str) -> Path:
        root = cgroups.controllers.get(controller)
        return root / path.lstrip("/") if root else Path("/nonexistent")

    cpu, memory, pids, blkio = (folder(n) for n in ("cpuacct", "memory", "pids", "blkio"))
    split = keyed(_text(cpu / "cpuacct.stat"))
    throttled = keyed(_text(folder("cpu") / "cpu.stat"))
    return {
        "cpu_total_ns": int((cpu / "cpuacct.usage").read_text()),
        "cpu_user_ns": split.get("user", 0) * _TICK_NS,
        "cpu_system_ns": split.get("system", 0) * _TICK_NS,
        "per_cpu_ns": tuple(int(word) for word in _text(cpu / "cpuacct.usage_percpu").split()),
        "periods": throttled.get("nr_periods", 0),
        "throttled_periods": throttled.get("nr_throttled", 0),
        "throttled_ns": throttled.get("throttled_time", 0),
        "memory_usage": _number(memory / "memory.usage_in_bytes"),
        "memory_max_usage": _number(memory / "memory.max_usage_in_bytes"),
        "memory_limit": _number(memory / "memory.limit_in_bytes"),
        "memory_failures": _number(memory / "memory.failcnt"),
        "memory": {
            name: value
            for name, value in keyed(_text(memory / "memory.stat")).items()
            if name.removeprefix("total_") in _MEMORY_V1
        },
        "pids": _number(pids / "pids.current"),
        "pids_limit": _number(pids / "pids.max"),
        "blocks": dict.fromkeys(_UNCOUNTED, ())
        | {name: tuple(_blocks_v1(_text(blkio / file))) for name, file in _DOCKER_BLOCKS.items()},
    }


def _from_v2(cgroups: Cgroups, path: str) -> dict[str, Any]:
    folder = (cgroups.unified or Path("/nonexistent")) / path.lstrip("/")
    cpu = keyed((folder / "cpu.stat").read_text())
    return {
        "cpu_total_ns": cpu.get("usage_usec", 0) * 1000,
        "cpu_user_ns": cpu.get("user_usec", 0) * 1000,
        "cpu_system_ns": cpu.get("system_usec", 0) * 1000,
        "periods": cpu.get("nr_periods", 0),
        "throttled_periods": cpu.get("nr_throttled", 0),
        "throttled_ns": cpu.get("throttled_usec", 0) * 1000,
        "memory_usage": _number(folder / "memory.current"),
        "memory_limit": _number(folder / "memory.max"),
        "memory": keyed(_text(folder / "memory.stat")),
        "pids": _number(folder / "pids.current"),
        "pids_limit": _number(folder / "pids.max"),
        "blocks": _blocks_v2(_text(folder / "io.stat")),
    }


def keyed(text: str) -> dict[str, int]:
    """`name number` lines."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


def _blocks_v1(text: str) -> Iterator[BlockCount]:
    for line in text.splitlines():
        words = line.replace(":", " ").split()  # 8:0 Read 4096
        if len(words) == 4:
            yield BlockCount(int(words[0]), int(words[1]), words[2], int(words[3]))


def _blocks_v2(text: str) -> Mapping[str, tuple[BlockCount, ...]]:
    """8:0 rbytes=4096 wbytes=0 rios=1 wios=0 ..."""
    found: dict[str, list[BlockCount]] = {name: [] for name in _DOCKER_BLOCKS}
    for line in text.splitlines():
        device, *pairs = line.split()
        major, _, minor = device.partition(":")
        values = dict(pair.partition("=")[::2] for pair in pairs)
        for name, unit in zip(_DOCKER_BLOCKS, ("bytes", "ios"), strict=True):
            for op in ("read", "write"):
                number = int(values.get(op[0] + unit, 0))
                found[name].append(BlockCount(int(major), int(minor), op, number))
    return {name: tuple(counts) for name, counts in found.items() if counts}


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text()
    return ""


def _number(path: Path) -> int | None:
    """None for `max` and where there is no such file."""
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None
