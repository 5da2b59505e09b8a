"""Every field of a create body of API 1.51 is accounted for: it changes the zone, is shown, told of or refused; on both hosts.

acts     what the host is given differs             engine   the engine acts on it: making, removing, finding
shown    inspect and list show it, as in dockerd, where nothing else comes of it
warned   a line in Warnings                         refused  with the reason
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dockerapi.errors import APIError
from dockerapi.models.containers import ContainerCreate, HostConfig
from gateway.translate.facts import Identity, ImageFacts, Surroundings
from gateway.translate.mounts import MountPoint
from gateway.translate.to_zone import mount_points, plan, zone_spec
from gateway.zones.metadata import CREATE_KEY
from gateway.zones.spec import Nic

ROOT = Path(__file__).parents[3]
SCHEMA = json.loads((ROOT / "compat-tests/compat/api_v1.51.json").read_text())["definitions"]
DIFFERENCES = (ROOT / "docs/divergence.md").read_text()
IMAGE = ImageFacts("sha256:" + "ab" * 32, "11111111-2222-3333-4444-555555555555", {"Cmd": ["sh"]})
WHO = Identity("0123456789abcdef" * 4, "brave_euler")
NIC = Nic(nic_tag="z0", ip="172.30.0.2", netmask="255.255.0.0", gateway="172.30.0.1", primary=True)
LIMITS = (
    "MemoryLimit SwapLimit PidsLimit CPUShares CpuCfsQuota CPUSet BlkioWeight BlkioWeightDevice OomKillDisable"
    " BlkioReadBpsDevice BlkioWriteBpsDevice BlkioReadIOpsDevice BlkioWriteIOpsDevice CPURealtime KernelMemoryTCP"
)
AROUND = {
    "linux": Surroundings(ncpu=2, cgroup_version="1", limits=dict.fromkeys(LIMITS.split(), True)),
    "smartos": Surroundings(
        ncpu=2, platform="smartos", runtimes=("vmadm",), default_runtime="vmadm"
    ),
}
DISK = [{"Path": "/dev/vda", "Rate": 1000}]

# Field -> a value, what comes of it on Linux, and on SmartOS where that differs.
CONFIG: dict[str, tuple[Any, str, str]] = {
    "Hostname": ("name", "acts", ""),
    "Domainname": ("example.org", "acts", ""),
    "User": ("7", "acts", ""),
    "AttachStdin": (True, "acts", ""),
    "AttachStdout": (True, "acts", ""),
    "AttachStderr": (True, "acts", ""),
    "ExposedPorts": ({"80/tcp": {}}, "acts", ""),
    "Tty": (True, "acts", ""),
    "OpenStdin": (True, "acts", ""),
    "StdinOnce": (True, "acts", ""),
    "Env": (["A=1"], "acts", ""),
    "Cmd": (["true"], "acts", ""),
    "Healthcheck": ({"Test": ["CMD", "true"]}, "engine", ""),
    "ArgsEscaped": (True, "shown", ""),
    "Image": ("other", "acts", ""),
    "Volumes": ({"/v": {}}, "acts", ""),
    "WorkingDir": ("/tmp", "acts", ""),
    "Entrypoint": (["sh"], "acts", ""),
    "NetworkDisabled": (True, "acts", ""),
    "MacAddress": ("02:00:00:00:00:07", "engine", ""),
    "OnBuild": (["RUN true"], "shown", ""),
    "Labels": ({"a": "b"}, "acts", ""),
    "StopSignal": ("SIGINT", "acts", ""),
    "StopTimeout": (3, "acts", ""),
    "Shell": (["/bin/sh"], "shown", ""),
}
HOST: dict[str, tuple[Any, str, str]] = {
    "CpuShares": (512, "acts", ""),
    "Memory": (64 << 20, "acts", ""),
    "CgroupParent": ("/other", "acts", "warned"),
    "BlkioWeight": (300, "acts", ""),
    "BlkioWeightDevice": ([{"Path": "/dev/vda", "Weight": 100}], "acts", "warned"),
    "BlkioDeviceReadBps": (DISK, "acts", "warned"),
    "BlkioDeviceWriteBps": (DISK, "acts", "warned"),
    "BlkioDeviceReadIOps": (DISK, "acts", "warned"),
    "BlkioDeviceWriteIOps": (DISK, "acts", "warned"),
    "CpuPeriod": (50000, "acts", "acts"),
    "CpuQuota": (50000, "acts", ""),
    "CpuRealtimePeriod": (1000000, "acts", "refused"),
    "CpuRealtimeRuntime": (950000, "acts", "refused"),
    "CpusetCpus": ("0", "acts", "warned"),
    "CpusetMems": ("0", "acts", "warned"),
    "Devices": ([{"PathOnHost": "/dev/fuse"}], "acts", "refused"),
    "DeviceCgroupRules": (["c 1:3 rw"], "acts", "refused"),
    "DeviceRequests": ([{"Capabilities": [["gpu"]]}], "acts", "refused"),
    "KernelMemoryTCP": (64 << 20, "acts", "warned"),
    "MemoryReservation": (64 << 20, "acts", "warned"),
    "MemorySwap": (-1, "acts", ""),
    "MemorySwappiness": (60, "acts", "warned"),
    "NanoCpus": (500000000, "acts", ""),
    "OomKillDisable": (True, "warned", ""),
    "Init": (True, "acts", "warned"),
    "PidsLimit": (100, "acts", ""),
    "Ulimits": ([{"Name": "core", "Soft": 0, "Hard": 0}], "acts", "warned"),
    "CpuCount": (1, "warned", ""),
    "CpuPercent": (1, "warned", ""),
    "IOMaximumIOps": (1, "refused", ""),
    "IOMaximumBandwidth": (1, "refused", ""),
    "Binds": (["/tmp:/t"], "acts", ""),
    "ContainerIDFile": ("/tmp/id", "shown", ""),
    "LogConfig": ({"Type": "none"}, "acts", ""),
    "NetworkMode": ("none", "acts", ""),
    "PortBindings": ({"80/tcp": [{"HostPort": "80"}]}, "acts", ""),
    "RestartPolicy": ({"Name": "always"}, "acts", ""),
    "AutoRemove": (True, "engine", ""),
    "VolumeDriver": ("local", "engine", ""),
    "VolumesFrom": (["other"], "engine", ""),
    "Mounts": ([{"Type": "bind", "Source": "/tmp", "Target": "/t"}], "acts", ""),
    "ConsoleSize": ([24, 80], "acts", ""),
    "Annotations": ({"a": "b"}, "acts", ""),
    "CapAdd": (["NET_ADMIN"], "acts", "refused"),
    "CapDrop": (["CHOWN"], "acts", "refused"),
    "CgroupnsMode": ("private", "acts", "nothing"),  # there it is what each has anyway
    "Dns": (["192.0.2.1"], "acts", ""),
    "DnsOptions": (["ndots:2"], "acts", "warned"),
    "DnsSearch": (["example.org"], "acts", ""),
    "ExtraHosts": (["a:192.0.2.1"], "acts", ""),
    "GroupAdd": (["5"], "acts", "refused"),
    "IpcMode": ("shareable", "acts", "shown"),
    "Cgroup": ("some", "warned", ""),
    "Links": (["other:alias"], "engine", ""),
    "OomScoreAdj": (100, "acts", "warned"),
    "PidMode": ("host", "acts", "refused"),
    "Privileged": (True, "acts", "refused"),
    "PublishAllPorts": (True, "acts", ""),
    "ReadonlyRootfs": (True, "acts", "refused"),
    "SecurityOpt": (["no-new-privileges"], "acts", "refused"),
    "StorageOpt": ({"size": "20g"}, "acts", ""),
    "Tmpfs": ({"/tmp": "size=64m"}, "acts", ""),
    "UTSMode": ("host", "acts", "refused"),
    "UsernsMode": ("host", "shown", ""),
    "ShmSize": (1 << 20, "acts", "warned"),
    "Sysctls": ({"net.core.somaxconn": "64"}, "acts", "refused"),
    "Runtime": ("runc", "warned", ""),
    "Isolation": ("default", "shown", ""),
    "MaskedPaths": ([], "acts", "shown"),
    "ReadonlyPaths": ([], "acts", "shown"),
}


def _properties(name: str) -> set[str]:
    definition = SCHEMA[name]
    found: set[str] = set()
    for part in definition.get("allOf", [definition]):
        reference = part.get("$ref", "").rpartition("/")[2]
        found |= _properties(reference) if reference else set(part.get("properties", {}))
    return found


def _comes_of(config: dict[str, Any], host: dict[str, Any], platform: str) -> tuple[Any, Any, Any]:
    """What the host is given, what is shown, and what is told."""
    body = {"Image": "busybox", **config, "HostConfig": host}
    found = plan(ContainerCreate.model_validate(body), IMAGE, WHO, AROUND[platform])
    points = tuple(
        MountPoint.read(p.kept() | {"source": p.source or "/volumes/v", "name": p.name})
        for p in mount_points(found, ())
    )
    nics = (NIC,) if found.requests else ()
    payload = zone_spec(found, nics=nics, points=points).payload()
    shown = payload["internal_metadata"].pop(CREATE_KEY)
    return payload, shown, found.warnings


def _fate(config: dict[str, Any], host: dict[str, Any], platform: str) -> str:
    plain = _comes_of({}, {}, platform)
    try:
        given, shown, warnings = _comes_of(config, host, platform)
    except APIError:
        return "refused"
    if warnings:
        return "warned"
    if given != plain[0]:
        return "acts"
    return "shown" if shown != plain[1] else "nothing"


ROWS = [
    (section, field, platform)
    for section, table in (("Config", CONFIG), ("HostConfig", HOST))
    for field in table
    for platform in ("linux", "smartos")
]


def test_no_field_is_unaccounted_for() -> None:
    assert _properties("ContainerConfig") == set(CONFIG)
    assert _properties("HostConfig") == set(HOST)


@pytest.mark.parametrize(("section", "field", "platform"), ROWS)
def test_a_field_is_never_ignored(section: str, field: str, platform: str) -> None:
    value, on_linux, on_smartos = (CONFIG if section == "Config" else HOST)[field]
    expected = on_smartos if platform == "smartos" and on_smartos else on_linux
    parts = ({field: value}, {}) if section == "Config" else ({}, {field: value})
    fate = _fate(*parts, platform)
    if expected == "engine":
        assert fate in ("shown", "acts", "nothing")
    else:
        assert fate == expected
    if expected in ("warned", "refused"):
        assert field.rstrip("s") in DIFFERENCES, "docs/divergence.md does not name it"


def test_what_the_body_may_have_is_what_is_read() -> None:
    """A key that no model has would be passed over."""
    known = {field.alias for field in HostConfig.model_fields.values()}
    assert {key for key in HOST if key not in known} <= {"UTSMode"}
    assert set(CONFIG) <= {field.alias for field in ContainerCreate.model_fields.values()}
