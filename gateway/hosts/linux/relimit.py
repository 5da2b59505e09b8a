"""Limits of a running zone changed by writing into its cgroup: no process is started, as `crun update` would be.

On v1 memory may never be above memory plus swap: which is written first depends on which way they go.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dockerapi.errors import APIError
from gateway.hosts.linux.cgroups import Cgroups
from gateway.zones.metadata import Resources

_PERIOD = 100_000
_LEAST_SHARES, _MOST_SHARES = 2, 1 << 18
_TRIES = 2

Write = tuple[str, str, str]
"""Controller, file, text."""


def refused_shares(cgroups: Cgroups, limits: Resources) -> str:
    """Why there are no such CPU shares, in runc's words; "" if there are.  The kernel of v1 takes the nearest in silence."""
    shares = limits.cpu_shares
    if not shares or cgroups.layout == "v2":
        return ""
    if shares < _LEAST_SHARES:
        return f"the minimum allowed cpu-shares is {_LEAST_SHARES}"
    if shares > _MOST_SHARES:
        return f"the maximum allowed cpu-shares is {_MOST_SHARES}"
    return ""


def apply(cgroups: Cgroups, path: str, limits: Resources) -> None:
    """Everything that `limits` names; what it does not name is without limit.  APIError in the kernel's words. Blocks."""
    if refused := refused_shares(cgroups, limits):
        raise APIError(f"runc did not terminate successfully: exit status 1: {refused}")
    writes = _v2(limits) if cgroups.layout == "v2" else _v1(limits)
    for _ in range(_TRIES):
        writes = [write for write in writes if not _written(cgroups, path, write)]
        if not writes:
            return
    for controller, file, text in writes:
        try:
            _write(_file(cgroups, path, controller, file), text)
        except OSError as error:
            reason = (error.strerror or "").lower()
            raise APIError(f"failed to write {text!r} to {file}: {reason}") from error


def _written(cgroups: Cgroups, path: str, write: Write) -> bool:
    controller, file, text = write
    try:
        target = _file(cgroups, path, controller, file)
        if not target.exists() and text in ("max", "-1"):
            return True  # no such limit here, and none asked for
        _write(target, text)
    except OSError:
        return False
    return True


def _file(cgroups: Cgroups, path: str, controller: str, file: str) -> Path:
    root = cgroups.unified if cgroups.layout == "v2" else cgroups.controllers.get(controller)
    return (root or Path("/nonexistent")) / path.lstrip("/") / file


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        with suppress(OSError):
            os.close(descriptor)


def _v1(limits: Resources) -> list[Write]:
    swap = limits.memory_swap if limits.memory_swap is not None else -1
    found = [
        ("memory", "memory.memsw.limit_in_bytes", str(swap)),
        ("memory", "memory.limit_in_bytes", str(limits.memory or -1)),
        ("memory", "memory.soft_limit_in_bytes", str(limits.memory_reservation or -1)),
        ("cpu", "cpu.shares", str(limits.cpu_shares or 1024)),
        ("cpu", "cpu.cfs_period_us", str(limits.cpu_period or _PERIOD)),
        ("cpu", "cpu.cfs_quota_us", str(limits.cpu_quota or -1)),
        ("pids", "pids.max", str(limits.pids or "max")),
    ]
    if limits.cpu_realtime_period:
        found.append(("cpu", "cpu.rt_period_us", str(limits.cpu_realtime_period)))
    if limits.cpu_realtime_runtime:
        found.append(("cpu", "cpu.rt_runtime_us", str(limits.cpu_realtime_runtime)))
    return found + _named(
        limits, (("cpuset", "cpuset.cpus"), ("cpuset", "cpuset.mems")), "blkio.weight"
    )


def _v2(limits: Resources) -> list[Write]:
    memory, swap = limits.memory, limits.memory_swap
    beyond = "max" if swap is None or swap < 0 else str(max(0, swap - (memory or 0)))
    quota = str(limits.cpu_quota) if limits.cpu_quota and limits.cpu_quota > 0 else "max"
    found = [
        ("memory", "memory.max", str(memory or "max")),
        ("memory", "memory.swap.max", beyond),
        ("memory", "memory.low", str(limits.memory_reservation or 0)),
        ("cpu", "cpu.max", f"{quota} {limits.cpu_period or _PERIOD}"),
        ("cpu", "cpu.weight", str(weight(limits.cpu_shares or 1024))),
        ("pids", "pids.max", str(limits.pids or "max")),
    ]
    return found + _named(
        limits, (("cpuset", "cpuset.cpus"), ("cpuset", "cpuset.mems")), "io.weight"
    )


def weight(shares: int) -> int:
    """cpu.shares (2..262144) -> cpu.weight (1..10000), as every OCI runtime has it."""
    return 1 + (min(max(shares, 2), 262144) - 2) * 9999 // 262142


def _named(limits: Resources, cpusets: Sequence[tuple[str, str]], weight_file: str) -> list[Write]:
    """Those that have no value for `no limit`: written only if they were asked for."""
    found: list[Write] = []
    for (controller, file), text in zip(
        cpusets, (limits.cpuset_cpus, limits.cpuset_mems), strict=True
    ):
        if text:
            found.append((controller, file, text))
    if limits.blkio_weight:
        found.append(("blkio", weight_file, str(limits.blkio_weight)))
    return found
