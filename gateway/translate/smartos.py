"""What of docker a zone on SmartOS cannot do: refused where it would not be what was asked for, else told.  Pure.

    brand(body, image)          -> Brand         what the zone will be
    check(body, brand)          -> warnings      NotSupported (501) with the reason
    wanted(body, image, brand)  -> properties    what the client's limits are there; `limited` those of an update
    defaults(given, brand)      -> properties    settings' [zone_defaults], as far as the brand has them

The tables below are those of docs/divergence.md.  What is wrong on every platform is refused elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from dockerapi.errors import InvalidParameter, NotSupported
from dockerapi.models.containers import ContainerCreate, HostConfig
from gateway.settings import SMARTOS_ZONE_DEFAULTS, Settings
from gateway.translate import limits, machines, mounts, networking, security
from gateway.translate.facts import ImageFacts
from gateway.translate.host_config import log_max_size
from gateway.zones import brands
from gateway.zones.brands import Brand, Kind
from gateway.zones.metadata import Runtime, Tmpfs

Row = tuple[str, Callable[[ContainerCreate], object], str]
"""Name of the field, whether it was asked for, why it cannot be."""

_MIB, _GIB = 1 << 20, 1 << 30
_LEAST_LOG_SIZE = _MIB
_ACTED_ON = (
    "stop_signal",
    "stop_timeout_s",
    "stdin_once",
    "console_size",
    "links",
    "published_ports",
    "mount_options",
    "resources",
    "annotations",
)
_BOOLEANS = ("firewall_enabled", "maintain_resolvers", "autoboot")
_MACHINE_DEFAULTS = frozenset(
    {"cpu_cap", "cpu_shares", "zfs_io_priority", "max_lwps", "vcpus", "ram"}
)


def brand(body: ContainerCreate, image: ImageFacts) -> Brand:
    """By the image's type; the label `com.zonegate.brand` chooses where there is a choice."""
    labels = dict(image.config.get("Labels") or {}) | dict(body.labels or {})
    required = (image.manifest.get("requirements") or {}).get("brand") or ""
    if image.os != "linux" and image.type == "docker":
        raise NotSupported(
            f"an image of layers for {image.os} is not supported on SmartOS: layers become lx zones"
        )
    if image.type == "docker" and not image.uuid:
        raise NotSupported("an image without layers is not supported on SmartOS: no zone clones it")
    return brands.choose(image.type, asked=labels.get(brands.BRAND_LABEL, ""), required=required)


def _host(read: Callable[[HostConfig], object]) -> Callable[[ContainerCreate], object]:
    return lambda body: read(body.host_config)


def _is_shared(mode: str) -> bool:
    return mode == "host" or bool(networking.target(mode))


def _propagated(body: ContainerCreate) -> object:
    points = mounts.mount_points(body, (), ())
    return [p for p in points if {"shared", "rshared", "slave", "rslave"} & set(p.words)]


def _partial(body: ContainerCreate) -> object:
    return [p for p in mounts.mount_points(body, (), ()) if "nonrecursive" in p.words]


def _parts(body: ContainerCreate) -> object:
    points = mounts.mount_points(body, (), ())
    return [p for p in points if p.type == "volume" and any("subpath=" in w for w in p.words)]


def _recursive(body: ContainerCreate) -> object:
    points = mounts.mount_points(body, (), ())
    return [p for p in points if "readonlyforcerecursive" in p.words]


def _disk_limits(host: HostConfig) -> object:
    return (
        host.blkio_weight_device
        or host.blkio_device_read_bps
        or host.blkio_device_write_bps
        or host.blkio_device_read_iops
        or host.blkio_device_write_iops
    )


_RIGHTS = "a zone has the rights of its brand, no Linux capabilities"
_REFUSED: tuple[Row, ...] = (
    ("Privileged", _host(lambda h: h.privileged), _RIGHTS),
    ("CapAdd", _host(lambda h: set(security.capabilities(h)) - set(security.DEFAULT_CAPABILITIES)), _RIGHTS),
    ("CapDrop", _host(lambda h: set(security.DEFAULT_CAPABILITIES) - set(security.capabilities(h))), _RIGHTS),
    ("no-new-privileges", _host(lambda h: security.security_options(h).no_new_privileges), "there is no such flag for a zone's processes"),
    ("a seccomp profile", _host(lambda h: security.security_options(h).seccomp not in ("default", "unconfined")), "there is no seccomp"),
    ("an AppArmor profile", _host(lambda h: security.security_options(h).apparmor not in ("", "unconfined")), "there is no AppArmor"),
    ("Devices", _host(lambda h: h.devices), "a zone sees the devices of its brand"),
    ("DeviceRequests", _host(lambda h: h.device_requests), "a zone sees the devices of its brand"),
    ("DeviceCgroupRules", _host(lambda h: h.device_cgroup_rules), "there are no cgroups"),
    ("Sysctls", _host(lambda h: h.sysctls), "there is no Linux kernel to set them in"),
    ("ReadonlyRootfs", _host(lambda h: h.readonly_rootfs), "vmadm makes no zone whose root is read-only"),
    ("GroupAdd", _host(lambda h: h.group_add), "dockerinit takes the groups of /etc/group alone"),
    ("NetworkMode", _host(lambda h: _is_shared(networking.network_mode(h))), "each zone has a network stack of its own"),
    ("IpcMode none", _host(lambda h: h.ipc_mode == "none"), "the brand mounts /dev/shm in every zone"),
    ("PidMode", _host(lambda h: _is_shared(h.pid_mode)), "each zone has processes of its own"),
    ("IpcMode", _host(lambda h: _is_shared(h.ipc_mode)), "each zone has shared memory of its own"),
    ("UTSMode", _host(lambda h: _is_shared(h.uts_mode)), "each zone has a host name of its own"),
    ("mount propagation", _propagated, "loopback mounts have none"),
    ("BindOptions.NonRecursive", _partial, "loopback mounts show what is mounted below them"),
    ("BindOptions.ReadOnlyForceRecursive", _recursive, "what is mounted below a read-only loopback mount stays writable"),
    ("VolumeOptions.Subpath", _parts, "a loopback mount would follow a link in the volume out of it"),
    ("writable-cgroups", _host(lambda h: security.security_options(h).writable_cgroups), "there are no cgroups"),
)  # fmt: skip

_FULL = "a full zone boots the init of its image, which runs the services of the zone"
_REFUSED_FULL: tuple[Row, ...] = (
    ("Cmd", lambda b: b.cmd, f"{_FULL}: run commands in it with docker exec"),
    ("Entrypoint", lambda b: b.entrypoint not in (None, [], [""]), f"{_FULL}: run commands in it with docker exec"),
    ("User", lambda b: b.user, f"{_FULL} as root"),
    ("WorkingDir", lambda b: b.working_dir, _FULL),
    ("ExtraHosts", _host(lambda h: h.extra_hosts), "the image's own files say what its hosts are"),
    ("DnsSearch", _host(lambda h: h.dns_search), "Domainname says where names are looked for"),
    ("RestartPolicy on-failure", _host(lambda h: h.restart_policy.name == "on-failure"), "it has no exit status: it runs until it is shut down"),
    ("LogConfig none", _host(lambda h: h.log_config.type == "none"), "its console is always logged"),
)  # fmt: skip
_REFUSED_MACHINE: tuple[Row, ...] = (
    *_REFUSED_FULL,
    ("Binds", _host(lambda h: h.binds), "a machine has disks of its own and no mounts of the host's files"),
    ("Volumes", lambda b: b.volumes, "a machine has disks of its own and no mounts of the host's files"),
    ("Mounts", _host(lambda h: h.mounts), "a machine has disks of its own and no mounts of the host's files"),
    ("VolumesFrom", _host(lambda h: h.volumes_from), "a machine has disks of its own and no mounts of the host's files"),
    ("Tmpfs", _host(lambda h: h.tmpfs), "a machine has disks of its own and no mounts of the host's files"),
    ("Domainname", lambda b: b.domainname, "the machine's own system knows its domain"),
    ("Healthcheck", lambda b: b.healthcheck and b.healthcheck.test not in ([], ["NONE"]), "no command can be run in a machine from outside"),
)  # fmt: skip

_UNLIMITED = "SmartOS has no such limit for a zone"
_WARNED: tuple[Row, ...] = (
    ("MemoryReservation", _host(lambda h: h.memory_reservation), _UNLIMITED),
    ("MemorySwappiness", _host(lambda h: h.memory_swappiness not in (None, -1)), _UNLIMITED),
    ("OomKillDisable", _host(lambda h: h.oom_kill_disable), "no process is killed for want of memory there, its allocation fails"),
    ("OomScoreAdj", _host(lambda h: h.oom_score_adj), "no process is killed for want of memory there, its allocation fails"),
    ("CpusetCpus", _host(lambda h: h.cpuset_cpus), "zones share all CPUs of the machine"),
    ("CpusetMems", _host(lambda h: h.cpuset_mems), "zones share all memory of the machine"),
    ("Ulimits", _host(lambda h: h.ulimits), "dockerinit sets none"),
    ("DnsOptions", _host(lambda h: h.dns_options), "vmadm writes no options into /etc/resolv.conf"),
    ("BlkioWeightDevice, BlkioDevice*", _host(_disk_limits), "zones share the disks of the pool: BlkioWeight is zfs_io_priority"),
    ("KernelMemoryTCP", _host(lambda h: h.kernel_memory_tcp), _UNLIMITED),
    ("CgroupParent", _host(lambda h: h.cgroup_parent), "there are no cgroups"),
    ("CgroupnsMode host", _host(lambda h: h.cgroupns_mode == "host"), "there are no cgroups"),
    ("max-file", _host(lambda h: "max-file" in h.log_config.config), "SmartOS keeps every rotated log"),
    ("max-size", _host(lambda h: 0 < (log_max_size(h) or 0) < _LEAST_LOG_SIZE), "SmartOS rotates logs at 1 MiB at the least"),
)  # fmt: skip
_WARNED_CONTAINER: tuple[Row, ...] = (
    ("ShmSize", _host(lambda h: h.shm_size), "max_swap alone limits /dev/shm"),
    ("Init", _host(lambda h: h.init), "the command itself is the zone's first process"),
)
_WARNED_FULL: tuple[Row, ...] = (
    ("ShmSize", _host(lambda h: h.shm_size), "max_swap alone limits shared memory"),
    ("StopSignal", lambda b: b.stop_signal, "it is shut down by its own init"),
    ("StopTimeout", lambda b: b.stop_timeout is not None, "it is shut down by its own init"),
    (
        "LogConfig",
        _host(lambda h: h.log_config.config),
        "its log is the console's, which SmartOS keeps",
    ),
)
_WARNED_MACHINE: tuple[Row, ...] = (
    *_WARNED_FULL,
    (
        "MemorySwap",
        _host(lambda h: h.memory_swap),
        "the machine's memory is its ram, it swaps on its own disks",
    ),
    (
        "PidsLimit",
        _host(lambda h: (h.pids_limit or 0) > 0),
        "the machine's own kernel counts its processes",
    ),
    (
        "a part of a CPU",
        lambda b: limits.cpus(b.host_config) % 1,
        "a machine has whole CPUs: rounded up",
    ),
)
_TABLES: Mapping[Kind, tuple[tuple[Row, ...], tuple[Row, ...]]] = {
    Kind.CONTAINER: (_REFUSED, _WARNED + _WARNED_CONTAINER),
    Kind.FULL: (_REFUSED + _REFUSED_FULL, _WARNED + _WARNED_FULL),
    Kind.MACHINE: (_REFUSED + _REFUSED_MACHINE, _WARNED + _WARNED_MACHINE),
}


def check(body: ContainerCreate, zone: Brand) -> list[str]:
    """The warnings.  NotSupported for the first thing that cannot be; InvalidParameter for a wrong storage option."""
    refused, warned = _TABLES[zone.kind]
    for name, asked, reason in refused:
        if asked(body):
            raise NotSupported(f"{name} is not supported for {zone.words} on SmartOS: {reason}")
    _check_storage(body.host_config, zone)
    temporary_size(mounts.tmpfs(body))
    return [
        f"{name} is discarded for {zone.words} on SmartOS: {reason}"
        for name, asked, reason in warned
        if asked(body)
    ]


def stop_signal_warnings(shown: Mapping[str, object], zone: Brand) -> list[str]:
    """Of a container's config, the image's merged in."""
    name = str(shown.get("StopSignal") or "")
    is_lacking = name in ("SIGSTKFLT", "SIGUNUSED") or name.startswith("SIGRT")
    if zone.kind is not Kind.CONTAINER or not is_lacking:
        return []
    return [
        f"StopSignal {name} is discarded for {zone.words} on SmartOS: vmadm sends no such signal, it is stopped by SIGTERM"
    ]


def _check_storage(host: HostConfig, zone: Brand) -> None:
    for name in host.storage_opt or {}:
        if name != "size":
            raise InvalidParameter(f"unknown storage option {name}")
    if host.storage_opt and zone.name == "kvm":
        raise NotSupported(
            "StorageOpt is not supported for a machine of brand kvm on SmartOS: its disk has the image's size"
        )
    storage_size(host)


def wanted(body: ContainerCreate, image: ImageFacts, zone: Brand) -> dict[str, object]:
    """Properties that the client's limits set, beyond those of every platform."""
    host = body.host_config
    size = storage_size(host)
    if zone.kind is Kind.MACHINE:
        return machines.properties(host, image, zone, size)
    found = limited(host, zone)
    if size is not None:
        found["quota"] = -(-size // _GIB)
    temporary = temporary_size(mounts.tmpfs(body))
    if temporary:
        found["tmpfs"] = -(-temporary // _MIB)
    return found


def limited(host: HostConfig, zone: Brand) -> dict[str, object]:
    """Those of them that `docker update` may change, too."""
    if zone.kind is Kind.MACHINE:
        return machines.limited(host)
    log_size = log_max_size(host) if zone.kind is Kind.CONTAINER else None
    found: dict[str, object] = dict(limits.vmadm_limits(host, log_size))
    if "max_physical_memory" in found:
        found["max_locked_memory"] = found["max_physical_memory"]
    if host.blkio_weight:
        found["zfs_io_priority"] = host.blkio_weight
    return found


def runtime(asked: Runtime) -> Runtime:
    """What the SmartOS host acts on: nothing of Linux."""
    return Runtime(**{name: getattr(asked, name) for name in _ACTED_ON})


def storage_size(host: HostConfig) -> int | None:
    """Bytes of --storage-opt size=, None without."""
    text = (host.storage_opt or {}).get("size")
    if text is None:
        return None
    try:
        return limits.byte_size(text)
    except ValueError as error:
        raise InvalidParameter(str(error)) from error


def temporary_size(wanted: Sequence[Tmpfs]) -> int | None:
    """Bytes of a tmpfs on /tmp, 0 = as much as the memory, None without; NotSupported for any other tmpfs."""
    found: int | None = None
    for mount in wanted:
        if mount.target != "/tmp":  # noqa: S108 - a path in the zone
            raise NotSupported(
                f"a tmpfs on {mount.target} is not supported on SmartOS: a zone has one on /tmp or none"
            )
        found = 0
        for option in mount.options:
            key, _, value = option.partition("=")
            if key == "size":
                try:
                    found = limits.byte_size(value)
                except ValueError as error:
                    raise InvalidParameter(str(error)) from error
            elif option not in ("rw", "mode=1777", "mode=01777"):
                raise NotSupported(
                    f"the option {option} of a tmpfs on /tmp is not supported on SmartOS"
                )
    return found


def zone_defaults(settings: Settings) -> dict[str, int | str]:
    """What the settings put into every spec, by platform.  Booleans come as the numbers that they were read as."""
    base = SMARTOS_ZONE_DEFAULTS if settings.backend == "smartos" else {}
    found = {**base, **settings.zone_defaults}
    return {key: bool(value) if key in _BOOLEANS else value for key, value in found.items()}


def defaults(given: Mapping[str, int | str], zone: Brand) -> dict[str, object]:
    """Settings' values for the properties that the brand has; a machine's memory is its ram."""
    found: dict[str, object] = dict(given)
    if zone.kind is not Kind.MACHINE:
        lacking = brands.refused(zone.name) | {"vcpus", "ram"}
        return {key: value for key, value in found.items() if key not in lacking}
    if "max_physical_memory" in found:
        found.setdefault("ram", found["max_physical_memory"])
    return {
        key: value for key, value in found.items() if key in _MACHINE_DEFAULTS | set(_BOOLEANS[:1])
    }
