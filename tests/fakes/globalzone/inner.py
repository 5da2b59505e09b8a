"""What the Linux host is told to run for a machine: the spec that stands for what vmadm and dockerinit do.  Pure.

Only what the platform itself reads is acted on: `docker:*` metadata and vmadm's properties.  Keys that the
gateway put there for itself (`zonegate:*`) mean nothing on SmartOS, so they mean nothing here.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from gateway.hosts.networks import uuid_of
from gateway.translate.security import DEFAULT_CAPABILITIES, MASKED_PATHS, READONLY_PATHS
from gateway.zones.host import Network
from gateway.zones.metadata import DockerMetadata, Resources, Runtime, decode, encode
from gateway.zones.spec import Filesystem, Nic, ZoneSpec

# A zone sees nothing of the machine's kernel, and lx knows no controllers of cgroups.
_MASKED = (*MASKED_PATHS, "/sys/fs/cgroup")
_PERIOD_US = 100_000
_MIB = 1 << 20
IDLE = ("/bin/sh", "-c", "trap 'exit 0' TERM INT; while :; do sleep 3600 & wait $!; done")
"""First process of a zone whose image has no /sbin/init."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where the machine runs: the networks that lead anywhere, and where its paths are on this computer."""

    subnet: IPv4Network
    nic_tag: str
    """Of the Linux host's bridge."""
    place: Callable[[str], Path]
    """A path of the global zone -> the same on this computer."""
    stubs: Mapping[str, Network] = field(default_factory=dict)
    """Etherstub -> the Linux host's network that it is."""
    addresses6: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What ipadm has added in the zone, by interface."""


def docker_metadata(vm: Mapping[str, Any]) -> DockerMetadata:
    """docker:* as dockerinit reads it; ValueError on text that is no JSON."""
    flat = {
        key: value
        for key, value in vm["internal_metadata"].items()
        if key.startswith("docker:") and key not in ("docker:id", "docker:restartpolicy")
    }
    linked = json.loads(str(flat.get("docker:linkEnv", "[]")))
    read = decode({**flat, "docker:id": str(vm["internal_metadata"].get("docker:id", ""))})
    env = [entry for entry in (*linked, *read.env) if "=" in entry]
    return read.model_copy(update={"env": ("TERM=xterm", *env)})


def docker_spec(
    vm: Mapping[str, Any],
    metadata: DockerMetadata,
    around: Surroundings,
    size: tuple[int, int] | None = None,
) -> ZoneSpec:
    """Of a docker zone.  `metadata.user` is what dockerinit found; `size` that of its terminal."""
    return _spec(vm, metadata, around, size)


def full_spec(vm: Mapping[str, Any], argv: Sequence[str], around: Surroundings) -> ZoneSpec:
    """Of a zone with an init of its own; its output is the console's."""
    docker_id = str(vm["uuid"]).replace("-", "") + secrets.token_hex(16)
    metadata = DockerMetadata(
        id=docker_id, cmd=tuple(argv), workdir="/", env=("TERM=xterm",), tty=True
    )
    return _spec(vm, metadata, around, None)


def _spec(
    vm: Mapping[str, Any],
    metadata: DockerMetadata,
    around: Surroundings,
    size: tuple[int, int] | None,
) -> ZoneSpec:
    told = metadata.model_copy(
        update={
            "log_driver": "none",  # zoneadmd's business
            "log_config": {},
            "restart_policy": "",  # vmadmd's
            "extra_hosts": (),  # vmadm wrote the file
            # The one client of the streams is zoneadmd, and its end of input is the zone's.
            "runtime": Runtime(
                # Near enough to root in a zone: it may change its own zone, and nothing of the machine.
                capabilities=DEFAULT_CAPABILITIES,
                stdin_once=True,
                console_size=size,
                masked_paths=_MASKED,
                readonly_paths=READONLY_PATHS,
                resources=_resources(vm),
            ),
        }
    )
    return ZoneSpec(
        uuid=vm["uuid"],
        brand="lx",
        image_uuid=vm.get("image_uuid") or vm["uuid"],
        alias=vm["uuid"],
        hostname=vm.get("hostname"),
        nics=tuple(nic for item in vm.get("nics", []) if (nic := _nic(item, around))),
        filesystems=(
            Filesystem(source=str(around.place("/native")), target="/native", options=("ro",)),
            *(_filesystem(item, around) for item in vm.get("filesystems", [])),
        ),
        internal_metadata=encode(told),
    )


def _resources(vm: Mapping[str, Any]) -> Resources:
    """The caps of a zone.  Near enough: out of memory, a process is killed here, and gets none there."""
    memory, swap, cap = (vm.get(key) for key in ("max_physical_memory", "max_swap", "cpu_cap"))
    return Resources(
        memory=memory * _MIB if memory else None,
        memory_swap=max(swap, memory) * _MIB if memory and swap else None,
        cpu_quota=cap * _PERIOD_US // 100 if cap else None,
        cpu_period=_PERIOD_US if cap else None,
        pids=vm.get("max_lwps"),
    )


def relimited(spec: ZoneSpec, vm: Mapping[str, Any]) -> ZoneSpec:
    """The spec of a zone that runs with the caps of its object as it is now."""
    metadata = decode(spec.internal_metadata)
    runtime = metadata.runtime.model_copy(update={"resources": _resources(vm)})
    told = encode(metadata.model_copy(update={"runtime": runtime}))
    return spec.model_copy(update={"internal_metadata": told})


def _nic(nic: Mapping[str, Any], around: Surroundings) -> Nic | None:
    """None for a nic whose network leads nowhere here, and for one without a static address."""
    text = nic.get("ip", "")
    stub = around.stubs.get(nic["nic_tag"])
    subnet = IPv4Network(stub.subnet) if stub else around.subnet
    if text in ("", "dhcp", "addrconf") or IPv4Address(text) not in subnet:
        return None
    gateway = nic.get("gateway")
    reachable = gateway is not None and IPv4Address(gateway) in subnet
    # Whatever else a zone gives itself its nic does not let pass.
    six = [one for one in around.addresses6.get(nic["interface"], ()) if one in nic["ips"]]
    four = next(one for one in nic["ips"] if one.partition("/")[0] == text)
    return Nic(
        nic_tag=stub.nic_tag if stub else around.nic_tag,
        network_uuid=uuid_of(stub.id) if stub else None,
        interface=nic["interface"],
        mac=nic.get("mac"),
        ip=text,
        netmask=nic.get("netmask"),
        ips=(four, *six) if six else None,
        gateway=gateway if reachable else None,
        primary=True if nic.get("primary") else None,
    )


def _filesystem(filesystem: Mapping[str, Any], around: Surroundings) -> Filesystem:
    return Filesystem(
        source=str(around.place(filesystem["source"])),
        target=filesystem["target"],
        options=tuple(filesystem.get("options", ())),
    )
