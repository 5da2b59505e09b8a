"""What a bundle rests on: `Machine`, the limits of this computer, and `Place`, where one zone lives.

Both are values: the bundle is computed from them without looking around.  `detect` looks once, at start.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

# In the kernel's order: bit n of a capability mask is the n-th name.
CAPABILITIES = tuple(
    f"CAP_{name}"
    for name in [
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "KILL",
        "SETGID",
        "SETUID",
        "SETPCAP",
        "LINUX_IMMUTABLE",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_ADMIN",
        "NET_RAW",
        "IPC_LOCK",
        "IPC_OWNER",
        "SYS_MODULE",
        "SYS_RAWIO",
        "SYS_CHROOT",
        "SYS_PTRACE",
        "SYS_PACCT",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_NICE",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "MKNOD",
        "LEASE",
        "AUDIT_WRITE",
        "AUDIT_CONTROL",
        "SETFCAP",
        "MAC_OVERRIDE",
        "MAC_ADMIN",
        "SYSLOG",
        "WAKE_ALARM",
        "BLOCK_SUSPEND",
        "AUDIT_READ",
        "PERFMON",
        "BPF",
        "CHECKPOINT_RESTORE",
    ]
)

UNLIMITED = 2**64 - 1
"""RLIM_INFINITY as OCI writes it."""

CgroupLayout = Literal["v1", "v2", "hybrid"]


@dataclass(frozen=True, slots=True)
class DeviceNode:
    """A device file to be made in a zone; `kind` is c or b, `mode` the permission bits."""

    path: str
    kind: Literal["c", "b"]
    major: int
    minor: int
    mode: int = 0o666
    uid: int = 0
    gid: int = 0
    access: str = "rwm"


@dataclass(frozen=True, slots=True)
class Machine:
    """What this computer allows; see `detect`.

    `rlimits`: type (RLIMIT_NOFILE) -> highest hard limit we can give; absent = any.
    `seccomp`: how a filter reaches the runtime: crun takes compiled "bpf", runc only "json"; "" = no seccomp.
    `oom_score_adj`: the lowest that we may give.  `kernel`: (6, 18).
    """

    bounding: frozenset[str] = frozenset(CAPABILITIES)
    rlimits: Mapping[str, int] = field(default_factory=dict)
    runtime: Literal["crun", "runc"] = "crun"
    cgroup_layout: CgroupLayout = "v2"
    seccomp: Literal["bpf", "json", ""] = "bpf"
    kernel: tuple[int, int] = (6, 0)
    oom_score_adj: int = -1000
    apparmor: bool = False
    swap_limit: bool = True
    blkio_weight: bool = True


@dataclass(frozen=True, slots=True)
class Place:
    """Where one zone lives on the host; paths are absolute.

    `etc`: folder with hosts, hostname, resolv.conf ("" = leave the image's).
    `netns`, `pidns`, `ipcns`, `utsns`: namespace files to join; "" = own, unless the spec says host.
    `init`: program that reaps orphans (tini), needed where the spec asks for it.
    `shm`: folder to bind on /dev/shm where ipc is shared; "" = a tmpfs of its own.
    `volumes`: target of a filesystem that is bound from elsewhere than its source (which may be no path) -> where.
    `files`: sources of filesystems that are no folders.
    `flags`: sources of filesystems -> words of the mount that they lie on, which a bind of them is to have as well.
    `devices`: what `devices.find` made of the spec.  `disks`: path of a disk that is limited -> major, minor.
    """

    rootfs: str
    cgroups_path: str
    etc: str = ""
    netns: str = ""
    pidns: str = ""
    ipcns: str = ""
    utsns: str = ""
    init: str = ""
    shm: str = ""
    volumes: Mapping[str, str] = field(default_factory=dict)
    files: frozenset[str] = frozenset()
    flags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    devices: tuple[DeviceNode, ...] = ()
    disks: Mapping[str, tuple[int, int]] = field(default_factory=dict)


def detect(
    *,
    runtime: Literal["crun", "runc"],
    cgroup_layout: CgroupLayout,
    bpf_annotation: bool,
    swap_limit: bool = True,
    blkio_weight: bool = True,
) -> Machine:
    """Read this process's own limits; what must be probed by running the runtime is given."""
    bounding = _bounding_set()
    # Without this capability setrlimit above our hard limit and a lower oom_score_adj are refused,
    # and the runtime makes that the failure of the whole start.
    unbound = "CAP_SYS_RESOURCE" in bounding
    seccomp: Literal["bpf", "json", ""] = ""
    if Path("/proc/sys/kernel/seccomp/actions_avail").exists():
        seccomp = "bpf" if runtime == "crun" and bpf_annotation else "json"
    return Machine(
        bounding=bounding,
        rlimits={} if unbound else _hard_limits(),
        runtime=runtime,
        cgroup_layout=cgroup_layout,
        seccomp=seccomp,
        kernel=_kernel(os.uname().release),
        oom_score_adj=-1000 if unbound else int(Path("/proc/self/oom_score_adj").read_text()),
        apparmor=_enabled("/sys/module/apparmor/parameters/enabled"),
        swap_limit=swap_limit,
        blkio_weight=blkio_weight,
    )


def _bounding_set() -> frozenset[str]:
    status = Path("/proc/self/status").read_text()
    mask = int(status.partition("CapBnd:")[2].split()[0], 16)
    return frozenset(name for bit, name in enumerate(CAPABILITIES) if mask >> bit & 1)


def _hard_limits() -> dict[str, int]:
    limits: dict[str, int] = {}
    for name in dir(resource):
        if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE":
            hard = resource.getrlimit(getattr(resource, name))[1]
            if hard != resource.RLIM_INFINITY:
                limits[name] = hard
    return limits


def _kernel(release: str) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _enabled(parameter: str) -> bool:
    try:
        return Path(parameter).read_text().startswith("Y")
    except OSError:
        return False


def memory_nodes() -> str:
    """Of NUMA, as a list of numbers and ranges; "" where the kernel does not say."""
    try:
        return Path("/sys/devices/system/node/online").read_text().strip()
    except OSError:
        return ""
