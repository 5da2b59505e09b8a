"""A virtual machine's properties: its disks of an image of type zvol, ram and CPUs.  Pure.

`docker run --memory 2g --cpus 2 --storage-opt size=20g IMAGE` are ram, vcpus and, with bhyve, the disk's size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dockerapi.errors import InvalidParameter
from dockerapi.models.containers import HostConfig
from gateway.translate import limits
from gateway.translate.facts import ImageFacts
from gateway.zones.brands import Brand
from gateway.zones.spec import Disk

_MIB = 1024 * 1024
_VIRTIO = "virtio"


def properties(
    host: HostConfig, image: ImageFacts, zone: Brand, disk_bytes: int | None
) -> dict[str, object]:
    """Of a machine that boots `image`.  InvalidParameter for a disk smaller than its image."""
    found = limited(host)
    manifest = image.manifest
    bootrom = (manifest.get("requirements") or {}).get("bootrom")
    if zone.name == "bhyve" and bootrom:
        found["bootrom"] = bootrom
    if zone.name == "kvm" and manifest.get("cpu_type"):
        found["cpu_type"] = manifest["cpu_type"]
    return found | _disks(image, zone, disk_bytes)


def limited(host: HostConfig) -> dict[str, object]:
    """Memory and CPUs, where the client asked for some."""
    found: dict[str, object] = {}
    if host.memory:
        found["ram"] = -(-host.memory // _MIB)
    if cpus := limits.cpus(host):
        found["vcpus"] = max(1, -int(-cpus // 1))
    if host.cpu_shares:
        found["cpu_shares"] = min(host.cpu_shares, 65535)
    if host.blkio_weight:
        found["zfs_io_priority"] = host.blkio_weight
    return found


def nic_model(manifest: Mapping[str, Any]) -> str:
    """What the image has a driver for."""
    return str(manifest.get("nic_driver") or _VIRTIO)


def _disks(image: ImageFacts, zone: Brand, disk_bytes: int | None) -> dict[str, object]:
    driver = image.manifest.get("disk_driver")
    image_size = image.manifest.get("image_size")
    disk = Disk(
        model=driver if driver in zone.disk_models else _VIRTIO,
        boot=True,
        image_uuid=image.uuid,
        image_size=int(image_size) if image_size is not None else None,
    )
    if disk_bytes is None:
        return {"disks": (disk,)}
    size = -(-disk_bytes // _MIB)
    if disk.image_size is not None and size < disk.image_size:
        raise InvalidParameter(
            f"the disk is at least as large as its image: {disk.image_size} MiB, not {size}"
        )
    # vmadm takes a size beside an image's only where the machine's disks share a sum.
    return {"flexible_disk_size": size, "disks": (disk.model_copy(update={"size": size}),)}
