"""`docker update`: what is to change of a container -> its new spec.  Pure.

What the client leaves open stays; zero and "" mean left open too, except for PidsLimit, where they lift
the limit.  Rules and words are moby's.
"""

from __future__ import annotations

from dockerapi.errors import Conflict
from dockerapi.models.base import JSONObject
from dockerapi.models.containers import ContainerCreate, ContainerUpdate, HostConfig
from gateway.translate import limits, smartos
from gateway.translate.facts import Surroundings
from gateway.translate.host_config import check_restart_policy
from gateway.translate.to_zone import restart_words
from gateway.zones import brands
from gateway.zones import metadata as zone_metadata
from gateway.zones.host import Zone
from gateway.zones.spec import ZoneSpec

_FIELDS = (
    "BlkioWeight",
    "CpuPeriod",
    "CpuQuota",
    "CpuRealtimePeriod",
    "CpuRealtimeRuntime",
    "CpuShares",
    "CpusetCpus",
    "CpusetMems",
    "Memory",
    "MemoryReservation",
    "MemorySwap",
    "NanoCpus",
)
_UNCHANGED = (
    "blkio_weight_device",
    "blkio_device_read_bps",
    "blkio_device_write_bps",
    "blkio_device_read_iops",
    "blkio_device_write_iops",
    "kernel_memory_tcp",
    "memory_swappiness",
)
"""Fields of `Resources` that an update leaves as they are."""
_SETTLED = ("max_physical_memory", "max_locked_memory", "max_swap")


def check(body: ContainerUpdate, around: Surroundings) -> None:
    """InvalidParameter where a body is wrong whatever the container has."""
    if body.restart_policy is not None:
        check_restart_policy(body.restart_policy)
    sent = body.model_dump(by_alias=True, exclude_none=True, exclude={"restart_policy"})
    if not sent.get("Memory"):
        sent.pop("MemorySwap", None)  # goes with the memory that the container has
    limits.check(HostConfig.model_validate(sent), around)


def updated(
    zone: Zone, body: ContainerUpdate, around: Surroundings
) -> tuple[ZoneSpec, tuple[str, ...]]:
    """The new spec and the warnings.  InvalidParameter, Conflict; NotSupported for limits that nobody acts on."""
    before: JSONObject = zone.metadata.create["HostConfig"]
    policy = body.restart_policy
    if policy is not None and policy.name:
        check_restart_policy(policy)
        if before.get("AutoRemove") and policy.name != "no":
            raise _refusal(
                zone,
                "Restart policy cannot be updated because AutoRemove is enabled for the container",
            )
    sent = body.model_dump(by_alias=True, exclude_none=True, exclude={"restart_policy"})
    _check_pairs(zone, before, sent)
    after = before | {key: sent[key] for key in _FIELDS if sent.get(key)}
    if "PidsLimit" in sent:
        after["PidsLimit"] = max(sent["PidsLimit"], 0)
    if policy is not None and policy.name:
        after["RestartPolicy"] = policy.model_dump(by_alias=True)
    host = HostConfig.model_validate(
        {key: after[key] for key in (*_FIELDS, "PidsLimit", "OomKillDisable") if key in after}
        | {key: value for key, value in sent.items() if key not in after}
    )
    limits.check(host, around)
    warnings = limits.check_warnings(host, around)
    warnings += [
        f"{key} of a container cannot be changed. {key} discarded."
        for key in sent
        if sent[key] and key not in (*_FIELDS, "PidsLimit")
    ]
    if around.platform == "smartos":
        warnings += smartos.check(ContainerCreate(host_config=host), _brand(zone))
    return _spec(zone, after, host, around), tuple(warnings)


def _refusal(zone: Zone, reason: str) -> Conflict:
    return Conflict(f"Cannot update container {zone.metadata.id}: {reason}")


def _check_pairs(zone: Zone, before: JSONObject, sent: JSONObject) -> None:
    """Limits that only go together."""
    for name, key in (("Period", "CpuPeriod"), ("Quota", "CpuQuota")):
        if sent.get("NanoCpus") and before.get(key):
            raise _refusal(
                zone,
                f"Conflicting options: Nano CPUs cannot be updated as CPU {name} has already been set",
            )
        if sent.get(key) and before.get("NanoCpus"):
            raise _refusal(
                zone,
                f"Conflicting options: CPU {name} cannot be updated as NanoCPUs has already been set",
            )
    if sent.get("Memory", 0) > (before.get("MemorySwap") or 0) and not sent.get("MemorySwap"):
        raise _refusal(
            zone,
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at"
            " the same time",
        )


def _spec(zone: Zone, after: JSONObject, host: HostConfig, around: Surroundings) -> ZoneSpec:
    data, runtime = zone.metadata, zone.metadata.runtime
    found = limits.kept_resources(host, around)
    unchanged = {name: getattr(runtime.resources, name) for name in _UNCHANGED}
    runtime = runtime.model_copy(update={"resources": found.model_copy(update=unchanged)})
    properties: dict[str, object] = dict(limits.vmadm_limits(host, None))
    if around.platform == "smartos":
        runtime, properties = smartos.runtime(runtime), smartos.limited(host, _brand(zone))
        properties.pop("zlog_max_size", None)
    if "max_lwps" not in properties:
        properties["max_lwps"] = around.zone_defaults.get("max_lwps")
    policy = HostConfig.model_validate({"RestartPolicy": after["RestartPolicy"]}).restart_policy
    data = data.model_copy(
        update={
            "runtime": runtime,
            "restart_policy": restart_words(policy),
            "create": {**data.create, "HostConfig": after},
        }
    )
    settled = limits.settled({**zone.spec.payload(), **properties})
    return zone.spec.model_copy(
        update={
            **{key: settled[key] for key in (*properties, *_SETTLED) if key in settled},
            "internal_metadata": {
                **{k: v for k, v in zone.spec.internal_metadata.items() if not _is_coded(k)},
                **zone_metadata.encode(data),
            },
        }
    )


def _brand(zone: Zone) -> brands.Brand:
    return brands.known(zone.spec.brand, docker=bool(zone.spec.docker))


def _is_coded(key: str) -> bool:
    """Whether `encode` says all there is to say of it."""
    return key.startswith(("docker:", "zonegate:"))
