"""Limits of single disks (--device-read-bps and the like, --blkio-weight-device): what the machine can, by path for the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dockerapi.models.containers import HostConfig, ThrottleDevice, WeightDevice
from gateway.translate.facts import Surroundings
from gateway.zones.metadata import DeviceLimit

_NOT_MOUNTED = "or the cgroup is not mounted."
_FIELDS = (
    ("BlkioWeightDevice", "blkio_weight_device", "BlkioWeightDevice", "Block I/O weight_device", "Weight-device"),
    ("BlkioDeviceReadBps", "blkio_device_read_bps", "BlkioReadBpsDevice", "BPS Block I/O read limit", "Block I/O BPS read limit"),
    ("BlkioDeviceWriteBps", "blkio_device_write_bps", "BlkioWriteBpsDevice", "BPS Block I/O write limit", "Block I/O BPS write limit"),
    ("BlkioDeviceReadIOps", "blkio_device_read_iops", "BlkioReadIOpsDevice", "IOPS Block read limit", "Block I/O IOPS read limit"),
    ("BlkioDeviceWriteIOps", "blkio_device_write_iops", "BlkioWriteIOpsDevice", "IOPS Block write limit", "Block I/O IOPS write limit"),
)  # fmt: skip
"""Key of HostConfig, attribute, what the machine must have, what dockerd calls that, and what is discarded."""


def warnings(host: HostConfig, around: Surroundings) -> list[str]:
    """What the machine cannot limit, in dockerd's words."""
    return [
        f"Your kernel does not support {words} {_NOT_MOUNTED} {discarded} discarded."
        for _, attribute, needed, words, discarded in _FIELDS
        if getattr(host, attribute) and not around.limits.get(needed, True)
    ]


def discarded(shown: dict[str, Any], around: Surroundings) -> dict[str, Any]:
    """Fields of HostConfig that are shown empty, because nothing comes of them."""
    return {
        key: []
        for key, _, needed, *_ in _FIELDS
        if shown.get(key) and not around.limits.get(needed, True)
    }


def limits(host: HostConfig, around: Surroundings) -> dict[str, tuple[DeviceLimit, ...]]:
    """Fields of `Resources`, without what the machine cannot do."""
    return {
        attribute: _limits(getattr(host, attribute))
        for _, attribute, needed, *_ in _FIELDS
        if around.limits.get(needed, True)
    }


def _limits(found: Sequence[ThrottleDevice | WeightDevice] | None) -> tuple[DeviceLimit, ...]:
    return tuple(
        DeviceLimit(
            path=limit.path,
            value=limit.weight if isinstance(limit, WeightDevice) else limit.rate,
        )
        for limit in found or []
    )
