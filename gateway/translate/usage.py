"""What `docker stats` reads, from samples of a zone.  Pure."""

from __future__ import annotations

import dataclasses

from dockerapi.models.base import JSONObject
from gateway.translate.status import go_time
from gateway.zones.host import Sample, Zone

_NEVER = "0001-01-01T00:00:00Z"
_BLOCK_KEYS = (
    "io_service_bytes_recursive",
    "io_serviced_recursive",
    "io_queue_recursive",
    "io_service_time_recursive",
    "io_wait_time_recursive",
    "io_merged_recursive",
    "io_time_recursive",
    "sectors_recursive",
)


def stats(zone: Zone, sample: Sample | None, before: Sample | None) -> JSONObject:
    """One object of the stream.  No sample: the zone does not run, all is zero; none before: precpu is zero."""
    answer: JSONObject = {
        "name": f"/{zone.spec.alias}",
        "id": zone.metadata.id,
        "read": go_time(sample.time_ns) if sample else _NEVER,
        "preread": go_time(before.time_ns) if before else _NEVER,
        "pids_stats": _pids(sample),
        "blkio_stats": _blocks(sample),
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": _cpu(sample),
        "precpu_stats": _cpu(before),
        "memory_stats": _memory(sample),
    }
    if sample is not None and sample.networks is not None:
        answer["networks"] = {
            name: dataclasses.asdict(counters) for name, counters in sample.networks.items()
        }
    return answer


def _pids(sample: Sample | None) -> JSONObject:
    if sample is None:
        return {}
    values = {"current": sample.pids, "limit": sample.pids_limit}
    return {key: value for key, value in values.items() if value is not None}


def _blocks(sample: Sample | None) -> JSONObject:
    found = sample.blocks if sample else {}
    return {
        key: [dataclasses.asdict(count) for count in found[key]] if key in found else None
        for key in _BLOCK_KEYS
    }


def _cpu(sample: Sample | None) -> JSONObject:
    usage: JSONObject = {
        "total_usage": sample.cpu_total_ns if sample else 0,
        "usage_in_kernelmode": sample.cpu_system_ns if sample else 0,
        "usage_in_usermode": sample.cpu_user_ns if sample else 0,
    }
    answer: JSONObject = {
        "cpu_usage": usage,
        "throttling_data": {
            "periods": sample.periods if sample else 0,
            "throttled_periods": sample.throttled_periods if sample else 0,
            "throttled_time": sample.throttled_ns if sample else 0,
        },
    }
    if sample is not None:
        answer |= {"system_cpu_usage": sample.machine_cpu_ns, "online_cpus": sample.online_cpus}
        if sample.per_cpu_ns:
            usage["percpu_usage"] = list(sample.per_cpu_ns)
    return answer


def _memory(sample: Sample | None) -> JSONObject:
    if sample is None:
        return {}
    values = {
        "usage": sample.memory_usage,
        "max_usage": sample.memory_max_usage,
        "stats": dict(sample.memory) or None,
        # dockerd leaves it out when nothing failed.
        "failcnt": sample.memory_failures or None,
        "limit": sample.memory_limit,
    }
    return {key: value for key, value in values.items() if value is not None}
