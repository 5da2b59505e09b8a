"""Devices of a zone: the nodes to make (found on the host by `find`) and the cgroup's rules (pure)."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dockerapi.errors import APIError, InvalidParameter
from gateway.hosts.linux.machine import DeviceNode
from gateway.zones.metadata import Device, Resources, Runtime

# Mounts below /dev that the zone has its own of, and the console, which the runtime makes.
_NOT_COPIED = frozenset(
    [
        "/dev/pts",
        "/dev/shm",  # noqa: S108
        "/dev/fd",
        "/dev/mqueue",
        "/dev/console",
        "/dev/.lxc",
        "/dev/.lxd-mounts",
        "/dev/.udev",
    ]
)
_LIMITS = (
    "blkio_weight_device",
    "blkio_device_read_bps",
    "blkio_device_write_bps",
    "blkio_device_read_iops",
    "blkio_device_write_iops",
)
_TUN = {"allow": True, "type": "c", "major": 10, "minor": 200, "access": "rwm"}
_RULE = re.compile(r"([acb]) (\d+|\*):(\d+|\*) ([rwm]{1,3})")


def find(runtime: Runtime) -> tuple[DeviceNode, ...]:
    """Nodes that the spec asks for, read from the host's /dev; every one for a privileged zone.

    InvalidParameter if a device does not exist or is none; APIError for devices that a driver was to choose.
    """
    for request in runtime.device_requests:
        wanted = " ".join(f"[{' '.join(words)}]" for words in request.capabilities)
        raise APIError(
            f'could not select device driver "{request.driver}" with capabilities: [{wanted}]'
        )
    if runtime.privileged:
        every = {node.path: node for node in _walk(Path("/dev"), "/dev", "rwm")}
        # A privileged zone may still ask for a device under another name.
        renamed = [d for d in runtime.devices if d.target != d.source]
        return (*every.values(), *_asked_for(renamed))
    return _asked_for(runtime.devices)


def disks(resources: Resources) -> dict[str, tuple[int, int]]:
    """Major and minor number of each disk that is limited, by its path; APIError in dockerd's words if there is none."""
    found: dict[str, tuple[int, int]] = {}
    for name in _LIMITS:
        for limit in getattr(resources, name):
            try:
                number = Path(limit.path).stat().st_rdev
            except OSError as error:
                raise APIError(f"stat {limit.path}: {(error.strerror or '').lower()}") from error
            found[limit.path] = (os.major(number), os.minor(number))
    return found


def oci_devices(nodes: Sequence[DeviceNode]) -> list[dict[str, Any]]:
    """`linux.devices`; the runtime adds null, zero, random and so on by itself."""
    return [
        {
            "path": node.path,
            "type": node.kind,
            "major": node.major,
            "minor": node.minor,
            "fileMode": node.mode,
            "uid": node.uid,
            "gid": node.gid,
        }
        for node in nodes
    ]


def cgroup_rules(runtime: Runtime, nodes: Sequence[DeviceNode]) -> list[dict[str, Any]]:
    """`linux.resources.devices`: everything, or nothing but the nodes and the client's rules.

    The runtime itself allows what it makes by default (null to tty, ptmx, pts).  runc allows tun too, and
    VPN images count on it.
    """
    if runtime.privileged:
        return [{"allow": True, "access": "rwm"}]
    rules: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}, _TUN]
    rules += (
        {
            "allow": True,
            "type": node.kind,
            "major": node.major,
            "minor": node.minor,
            "access": node.access,
        }
        for node in nodes
    )
    rules += map(parse_rule, runtime.device_cgroup_rules)
    return rules


def parse_rule(text: str) -> dict[str, Any]:
    """`c 13:* rwm` as OCI has it; InvalidParameter in dockerd's words."""
    match = _RULE.fullmatch(text)
    if match is None:
        raise InvalidParameter(f"invalid device cgroup rule format: '{text}'")
    numbers = {
        key: int(value) for key, value in (("major", match[2]), ("minor", match[3])) if value != "*"
    }
    return {"allow": True, "type": match[1], **numbers, "access": match[4]}


def _asked_for(devices: Sequence[Device]) -> tuple[DeviceNode, ...]:
    nodes: dict[str, DeviceNode] = {}
    for device in devices:
        nodes |= {node.path: node for node in _nodes(device)}
    return tuple(nodes.values())


def _nodes(device: Device) -> Iterator[DeviceNode]:
    complaint = f'error gathering device information while adding custom device "{device.source}": '
    source = Path(device.source)
    try:
        resolved = source.resolve(strict=True)
        if resolved.is_dir():
            yield from _walk(resolved, device.target, device.permissions)
            return
        node = _node(resolved, device.target, device.permissions)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InvalidParameter(complaint + reason) from error
    if node is None:
        raise InvalidParameter(complaint + "not a device node")
    yield node


def _walk(folder: Path, target: str, access: str) -> Iterator[DeviceNode]:
    for entry in os.scandir(folder):
        if entry.path in _NOT_COPIED or entry.is_symlink():
            continue
        name = f"{target.rstrip('/')}/{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), name, access)
        elif node := _node(Path(entry.path), name, access):
            yield node


def _node(path: Path, target: str, access: str) -> DeviceNode | None:
    status = path.stat()
    if not (stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)):
        return None
    return DeviceNode(
        path=target,
        kind="c" if stat.S_ISCHR(status.st_mode) else "b",
        major=os.major(status.st_rdev),
        minor=os.minor(status.st_rdev),
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        access=access,
    )
