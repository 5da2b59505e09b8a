"""Datasets of machines: the root cloned from its image, volumes, disks; what is destroyed with them."""

from __future__ import annotations

import asyncio
import json
import os
import posixpath
import stat
import uuid as uuids
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.hosts.linux.volumes import copy_up
from tests.fakes.globalzone.call import Failed
from tests.fakes.globalzone.machine import Machine
from tests.fakes.globalzone.properties import BRANDS, UUID

if TYPE_CHECKING:
    from tests.fakes.globalzone.gz import GZ

CREATE_VOLUME = "create-volume"


def check_images(gz: GZ, vm: Mapping[str, Any]) -> None:
    """Failed if an image is not there, or is not of a type that the brand takes."""
    brand = BRANDS[vm["brand"]]
    if "image_uuid" in vm:
        _check_image(gz, vm["image_uuid"], brand["image_types"], vm["brand"])
    for disk in vm.get("disks", []):
        if "image_uuid" in disk:
            _check_image(gz, disk["image_uuid"], brand["disk_image_types"], vm["brand"])


def _check_image(gz: GZ, uuid: str, types: list[str], brand: str) -> None:
    if not gz.pool.exists(f"zones/{uuid}@final"):
        raise Failed(f"Invalid value(s) for: image_uuid: image {uuid} not found in zpool zones")
    manifest = manifest_of(gz, uuid)
    if manifest is None:
        return  # a dataset that imgadm does not know of: taken, as vmadm does
    if manifest["type"] not in types:
        raise Failed(
            f"Invalid value(s) for: image_uuid: image {uuid} is of type {manifest['type']}, and brand"
            f" {brand} takes {', '.join(types)}"
        )


def manifest_of(gz: GZ, uuid: str) -> dict[str, Any] | None:
    """What imgadm's database says of an image."""
    path = gz.root / "var/imgadm/images" / f"zones-{uuid}.json"
    if not path.exists():
        return None
    manifest: dict[str, Any] = json.loads(path.read_text())["manifest"]
    return manifest


async def make(gz: GZ, machine: Machine) -> None:
    """Everything of a new machine; Failed in the middle leaves it to `destroy`."""
    vm = machine.vm
    name = f"zones/{machine.uuid}"
    quota = {"quota": f"{vm['quota']}G"} if vm.get("quota") else {}
    if "image_uuid" in vm:
        await gz.pool.clone(f"zones/{vm['image_uuid']}@final", name, quota)
    else:
        await gz.pool.create(name, quota)
    for folder in ("root", "config", "logs"):
        (machine.zonepath / folder).mkdir(mode=0o755, exist_ok=True)
    if vm.get("delegate_dataset"):
        await gz.pool.create(f"{name}/data")
    for filesystem in vm.get("filesystems", []):
        await make_volume(gz, machine, filesystem)
    for number, disk in enumerate(vm.get("disks", [])):
        await _make_disk(gz, machine, disk, number)


async def make_volume(gz: GZ, machine: Machine, filesystem: dict[str, Any]) -> None:
    """A volume of the zone's own where the source asks for one, with the image's content; `source` is its path then."""
    source = str(filesystem.get("source", ""))
    if source != CREATE_VOLUME and not UUID.fullmatch(source):
        return
    uuid = str(uuids.uuid4()) if source == CREATE_VOLUME else source
    target = str(filesystem["target"])
    _check_target(machine.root, target)
    await gz.pool.create(f"zones/{machine.uuid}/volumes/{uuid}", parents=True)
    folder = machine.zonepath / "volumes" / uuid
    await asyncio.to_thread(copy_up, machine.root, target, folder)
    filesystem["source"] = f"/zones/{machine.uuid}/volumes/{uuid}"


def _check_target(root: Path, target: str) -> None:
    """vmadm copies with rsync: a link or a file on the way ends the creation."""
    path = root
    for part in posixpath.normpath(target).strip("/").split("/"):
        path = path / part
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(mode):
            raise Failed(f"filesystem target {target}: {part} is not a directory")


async def _make_disk(gz: GZ, machine: Machine, disk: dict[str, Any], number: int) -> None:
    name = f"zones/{machine.uuid}/disk{number}"
    if disk.get("media", "disk") == "disk" and not disk.get("nocreate"):
        if "image_uuid" in disk:
            await gz.pool.clone(f"zones/{disk['image_uuid']}@final", name)
            manifest = manifest_of(gz, disk["image_uuid"]) or {}
            disk.setdefault("image_size", manifest.get("image_size", 0))
            disk.setdefault("size", disk["image_size"])
        else:
            await gz.pool.create(name, {"volsize": str(int(disk["size"]) << 20)})
        disk.setdefault("path", f"/dev/zvol/rdsk/{name}")
        disk["zfs_filesystem"] = name
        disk.setdefault("zpool", "zones")
    disk.setdefault("media", "disk")
    disk.setdefault("model", machine.vm.get("disk_driver"))


def check_unshared(gz: GZ, machine: Machine) -> None:
    """Failed while another machine has one of its volumes."""
    own = f"/zones/{machine.uuid}/volumes/"
    for other in gz.machines.vms.values():
        if other is machine:
            continue
        for filesystem in other.vm.get("filesystems", []):
            if str(filesystem.get("source", "")).startswith(own):
                raise Failed(f"volume {filesystem['source']} is shared with VM {other.uuid}")


async def destroy(gz: GZ, machine: Machine) -> None:
    """All its datasets; none is fine."""
    name = f"zones/{machine.uuid}"
    if gz.pool.exists(name):
        await gz.pool.destroy(name, recursive=True)
