"""Resource limits: checked in dockerd's words, in OCI units for the host and in vmadm's for the payload."""

from __future__ import annotations

import re
from collections.abc import Mapping

from dockerapi.errors import InvalidParameter
from dockerapi.models.base import JSONObject
from dockerapi.models.containers import HostConfig, Ulimit
from gateway.translate import blockio
from gateway.translate.facts import Surroundings
from gateway.zones.metadata import Resources, Rlimit

_MIB = 1024 * 1024
_MEMORY_MINIMUM = 6 * _MIB
_PERIOD = 100_000
_MEMORY_KEYS = ("max_physical_memory", "max_locked_memory", "max_swap")
_RESETS: dict[str, JSONObject] = {
    "MemoryLimit": {"Memory": 0, "MemorySwap": -1},
    "SwapLimit": {"MemorySwap": -1},
    "PidsLimit": {"PidsLimit": None},
    "CPUShares": {"CpuShares": 0},
    "CPUSet": {"CpusetCpus": "", "CpusetMems": ""},
    "BlkioWeight": {"BlkioWeight": 0},
}
_ULIMITS = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
]


def check(host: HostConfig, around: Surroundings) -> None:
    """InvalidParameter where a limit cannot be meant as sent, NotSupported where no limit is built."""
    _check_memory(host)
    _check_cpu(host, around)
    cpus = f"0-{around.ncpu - 1}" if around.ncpu > 1 else "0"
    _check_cpuset(host.cpuset_cpus, "cpus", "CPUs", cpus)
    _check_cpuset(host.cpuset_mems, "mems", "memory nodes", around.memory_nodes)
    weighs = host.blkio_weight and around.limits.get("BlkioWeight", True)
    if weighs and not 10 <= host.blkio_weight <= 1000:
        raise InvalidParameter("Range of blkio weight is from 10 to 1000")
    if not -1000 <= host.oom_score_adj <= 1000:
        raise InvalidParameter(
            f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]"
        )
    if host.shm_size is not None and host.shm_size < 0:
        raise InvalidParameter("SHM size can not be less than 0")
    _check_realtime(host, around)
    for value, name in ((host.io_maximum_bandwidth, "bandwidth"), (host.io_maximum_iops, "IOPs")):
        if value:
            raise InvalidParameter(
                f"invalid option: QoS maximum {name} configuration is not supported on linux"
            )


def _check_realtime(host: HostConfig, around: Surroundings) -> None:
    period, runtime = host.cpu_realtime_period, host.cpu_realtime_runtime
    if (period or runtime) and not around.limits.get("CPURealtime", False):
        raise InvalidParameter("kernel does not support CPU real-time scheduler")
    if period and runtime and runtime > period:
        raise InvalidParameter("cpu real-time runtime cannot be higher than cpu real-time period")


def _check_memory(host: HostConfig) -> None:
    memory, swap, reservation = host.memory, host.memory_swap, host.memory_reservation
    if memory and memory < _MEMORY_MINIMUM:
        raise InvalidParameter("Minimum memory limit allowed is 6MB")
    if memory and swap > 0 and swap < memory:
        raise InvalidParameter(
            "Minimum memoryswap limit should be larger than memory limit, see usage"
        )
    if not memory and swap > 0:
        raise InvalidParameter(
            "You should always set the Memory limit when using Memoryswap limit, see usage"
        )
    swappiness = host.memory_swappiness
    if swappiness is not None and swappiness != -1 and not 0 <= swappiness <= 100:
        raise InvalidParameter(
            f"Invalid value: {swappiness}, valid memory swappiness range is 0-100"
        )
    if reservation and reservation < _MEMORY_MINIMUM:
        raise InvalidParameter("Minimum memory reservation allowed is 6MB")
    if memory and reservation and memory < reservation:
        raise InvalidParameter(
            "Minimum memory limit can not be less than memory reservation limit, see usage"
        )


def _check_cpu(host: HostConfig, around: Surroundings) -> None:
    if host.cpu_shares < 0:
        raise InvalidParameter(
            f"invalid CPU shares ({host.cpu_shares}): value must be a positive integer"
        )
    if host.nano_cpus:
        for name, value in (("Period", host.cpu_period), ("Quota", host.cpu_quota)):
            if value > 0:
                raise InvalidParameter(
                    f"Conflicting options: Nano CPUs and CPU {name} cannot both be set"
                )
        if host.nano_cpus < 0 or host.nano_cpus > around.ncpu * 1_000_000_000:
            raise InvalidParameter(
                f"range of CPUs is from 0.01 to {around.ncpu}.00, as there are only {around.ncpu} CPUs available"
            )
    if host.cpu_period and not 1000 <= host.cpu_period <= 1_000_000:
        raise InvalidParameter(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"
        )
    if 0 < host.cpu_quota < 1000:
        raise InvalidParameter("CPU cfs quota can not be less than 1ms (i.e. 1000)")


def _check_cpuset(text: str, kind: str, words: str, available: str) -> None:
    if not text:
        return
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        raise InvalidParameter(f"Invalid value {text} for cpuset {kind}: invalid format: {text}")
    if available and max(_ends(text)) > max(_ends(available)):
        raise InvalidParameter(
            f"Requested {words} are not available - requested {text}, available: {available}"
        )


def _ends(numbers: str) -> list[int]:
    """Every number that stands in a list of numbers and ranges."""
    return [int(number) for number in re.findall(r"\d+", numbers)]


def memory_swap(host: HostConfig) -> int:
    """Memory plus swap; twice the memory where the client gave only that."""
    if host.memory > 0 and host.memory_swap == 0:
        return host.memory * 2
    return host.memory_swap


_BEYOND: dict[str, tuple[str, ...]] = {
    "MemoryLimit": ("memory", "memory_reservation", "memory_swap"),
    "SwapLimit": ("memory_swap",),
    "PidsLimit": ("pids",),
    "CPUShares": ("cpu_shares",),
    "CpuCfsQuota": ("cpu_quota", "cpu_period"),
    "CPUSet": ("cpuset_cpus", "cpuset_mems"),
    "BlkioWeight": ("blkio_weight",),
    "KernelMemoryTCP": ("kernel_memory_tcp",),
}
"""Limits that a machine lacks, by the names of /info -> what then must not be asked of the runtime."""


def kept_resources(host: HostConfig, around: Surroundings) -> Resources:
    """`resources` without what `check_warnings` calls discarded: a runtime would fail on it."""
    found = resources(host)
    lacking = [name for name, there in around.limits.items() if not there]
    gone = {field: None for name in lacking for field in _BEYOND.get(name, ())}
    empty = {field: "" for field in gone if field.startswith("cpuset")}
    return found.model_copy(update={**gone, **empty, **blockio.limits(host, around)})


def resources(host: HostConfig) -> Resources:
    """Limits in OCI units, None where the client asked for nothing."""
    quota, period = host.cpu_quota, host.cpu_period
    if host.nano_cpus:
        quota, period = host.nano_cpus * _PERIOD // 1_000_000_000, _PERIOD
    swappiness = host.memory_swappiness
    return Resources(
        memory=host.memory or None,
        memory_reservation=host.memory_reservation or None,
        memory_swap=memory_swap(host) or None,
        memory_swappiness=None if swappiness == -1 else swappiness,
        cpu_shares=host.cpu_shares or None,
        cpu_quota=quota or None,
        cpu_period=period or None,
        cpuset_cpus=host.cpuset_cpus,
        cpuset_mems=host.cpuset_mems,
        pids=host.pids_limit if host.pids_limit and host.pids_limit > 0 else None,
        blkio_weight=host.blkio_weight or None,
        oom_kill_disable=bool(host.oom_kill_disable),
        cpu_realtime_period=host.cpu_realtime_period or None,
        cpu_realtime_runtime=host.cpu_realtime_runtime or None,
        kernel_memory_tcp=host.kernel_memory_tcp or None,
    )


def cpus(host: HostConfig) -> float:
    """How many CPUs may be busy for it; 0 without a limit."""
    wanted = resources(host)
    if not wanted.cpu_quota or wanted.cpu_quota < 0:
        return 0
    return wanted.cpu_quota / (wanted.cpu_period or _PERIOD)


def settled(values: Mapping[str, object]) -> dict[str, object]:
    """As vmadm would settle limits among each other without a word: locked <= memory <= swap, swap >= 256."""
    found = dict(values)
    memory, locked, swap = (found.get(key) for key in _MEMORY_KEYS)
    if isinstance(memory, int):
        if isinstance(locked, int):
            found["max_locked_memory"] = min(locked, memory)
        if isinstance(swap, int):
            found["max_swap"] = max(swap, memory, 256)
    return found


def vmadm_limits(host: HostConfig, log_max_size: int | None) -> dict[str, int]:
    """The limits that vmadm has words for: MiB, percent of one CPU, shares, processes."""
    wanted = resources(host)
    keys: dict[str, int | None] = {
        "max_physical_memory": _mib(wanted.memory),
        "max_swap": _swap(wanted),
        "cpu_cap": _cap(wanted),
        # vmadm ends at 65535 where the kernel of Linux takes 262144.
        "cpu_shares": wanted.cpu_shares and min(wanted.cpu_shares, 65535),
        "max_lwps": wanted.pids,
        "zlog_max_size": log_max_size,
    }
    return {key: value for key, value in keys.items() if value is not None}


def _mib(size: int | None) -> int | None:
    return None if size is None else -(-size // _MIB)


def _swap(wanted: Resources) -> int | None:
    swap = wanted.memory_swap
    if swap is None or swap < 0:
        return None
    # 256 MiB is the least that vmadm accepts.
    return max(256, -(-swap // _MIB))


def _cap(wanted: Resources) -> int | None:
    if not wanted.cpu_quota or wanted.cpu_quota < 0:
        return None
    return max(1, wanted.cpu_quota * 100 // (wanted.cpu_period or _PERIOD))


def rlimits(ulimits: list[Ulimit] | None) -> tuple[Rlimit, ...]:
    """--ulimit, by the names of the API."""
    found: list[Rlimit] = []
    for limit in ulimits or []:
        if limit.name not in _ULIMITS:
            raise InvalidParameter(f"invalid ulimit type: {limit.name}")
        if limit.hard != -1 and (limit.soft > limit.hard or limit.soft == -1):
            raise InvalidParameter(
                f"ulimit soft limit must be less than or equal to hard limit: {limit.soft} > {limit.hard}"
            )
        found.append(Rlimit(type=f"RLIMIT_{limit.name.upper()}", soft=limit.soft, hard=limit.hard))
    return tuple(found)


def byte_size(text: str) -> int:
    """`10m`, `1.5g`, `512kb`: powers of 1024 as docker/go-units RAMInBytes; ValueError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmgtp]?)(?:i?b)?", text.strip().lower())
    if match is None:
        raise ValueError(f"invalid size: '{text}'")
    power = " kmgtp".index(match[2] or " ")
    return int(float(match[1]) * 1024**power)


_NOT_MOUNTED = "or the cgroup is not mounted."


def check_warnings(host: HostConfig, around: Surroundings) -> list[str]:
    """What the machine at hand cannot limit, in dockerd's words where it has some."""
    swappiness = host.memory_swappiness not in (None, -1)
    checks = (
        (host.memory, "MemoryLimit", f"memory limit capabilities {_NOT_MOUNTED} Limitation discarded."),
        (host.memory, "SwapLimit", f"swap limit capabilities {_NOT_MOUNTED} Memory limited without swap."),
        (swappiness, "MemorySwappiness", f"memory swappiness capabilities {_NOT_MOUNTED} Memory swappiness discarded."),
        (host.oom_kill_disable, "OomKillDisable", "OomKillDisable. OomKillDisable discarded."),
        (max(host.pids_limit or 0, 0), "PidsLimit", f"PIDs limit capabilities {_NOT_MOUNTED} PIDs limit discarded."),
        (host.cpu_shares, "CPUShares", f"CPU shares {_NOT_MOUNTED} Shares discarded."),
        (host.nano_cpus or host.cpu_quota or host.cpu_period, "CpuCfsQuota", "CPU CFS scheduler. CPU period/quota discarded."),
        (host.cpuset_cpus or host.cpuset_mems, "CPUSet", f"cpuset {_NOT_MOUNTED} Cpuset discarded."),
        (host.kernel_memory_tcp, "KernelMemoryTCP", f"kernel memory TCP limit capabilities {_NOT_MOUNTED} Limitation discarded."),
        (host.blkio_weight, "BlkioWeight", f"Block I/O weight {_NOT_MOUNTED} Weight discarded."),
    )  # fmt: skip
    # What cgroup v2 no longer has, no /info names.
    lacking = {"MemorySwappiness", "OomKillDisable"} if around.cgroup_version == "2" else set()
    lacking |= {key for key, there in around.limits.items() if not there}
    warnings = [
        f"Your kernel does not support {words}"
        for asked, key, words in checks
        if asked and key in lacking
    ]
    if host.oom_kill_disable and not host.memory:
        warnings.append(
            "OOM killer is disabled for the container, but no memory limit is set, this can result "
            "in the system running out of resources."
        )
    warnings += blockio.warnings(host, around)
    return warnings + _beyond_rights(host, around)


def meaningless(host: HostConfig) -> list[str]:
    """Fields for other systems, or of older APIs: dockerd passes over most of them in silence."""
    checks = (
        (host.cpu_percent > 0, "linux does not support CPU percent. Percent discarded."),
        (host.cpu_count > 0, "linux does not support CPU count. Count discarded."),
        (host.kernel_memory > 0, "The API has no kernel memory limit since 1.42. Limitation discarded."),
        (host.cgroup, "linux does not support the field Cgroup. Cgroup discarded."),
    )  # fmt: skip
    return [words for asked, words in checks if asked]


def discarded(shown: JSONObject, around: Surroundings) -> JSONObject:
    """The fields of HostConfig, as sent, that moby resets: what cannot be limited, and what says `no limit`."""
    found: JSONObject = {}
    for key, fields in _RESETS.items():
        if not around.limits.get(key, True):
            found |= {name: value for name, value in fields.items() if shown.get(name)}
    if (shown.get("PidsLimit") or 0) <= 0:
        found["PidsLimit"] = None
    if shown.get("MemorySwappiness") == -1:
        found["MemorySwappiness"] = None
    found |= {key: 0 for key in ("CpuPercent", "CpuCount") if shown.get(key)}
    return found | blockio.discarded(shown, around)


def _beyond_rights(host: HostConfig, around: Surroundings) -> list[str]:
    """dockerd fails at start where its own rights do not go so far."""
    warnings = []
    for limit in rlimits(host.ulimits):
        highest = around.rlimits.get(limit.type)
        if highest is not None and (limit.hard > highest or limit.hard < 0):
            name = limit.type.removeprefix("RLIMIT_").lower()
            warnings.append(f"The ulimit {name} is lowered to {highest}: zonegate may not raise it")
    if host.oom_score_adj < around.oom_score_adj:
        warnings.append(
            f"The oom score adj is raised to {around.oom_score_adj}: zonegate may not lower it"
        )
    return warnings
