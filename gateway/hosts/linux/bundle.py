"""config.json of a zone: what dockerinit and vmadm make of a spec on SmartOS, for an OCI runtime.  Pure.

Everything is in the spec: what is missing from it is missing from the running zone.  The parts:
`process` (what runs), `mounts`, `devices`, `seccomp`; here: namespaces, limits, and putting together.
"""

from __future__ import annotations

from typing import Any

from dockerapi.errors import InvalidParameter
from gateway.hosts.linux import devices, seccomp
from gateway.hosts.linux.machine import Machine, Place
from gateway.hosts.linux.mounts import oci_mounts, root_propagation
from gateway.hosts.linux.process import exec_process, granted, oci_process
from gateway.hosts.linux.users import Identity
from gateway.zones.metadata import DockerMetadata, Resources, Runtime
from gateway.zones.spec import ZoneSpec

__all__ = ["Machine", "Place", "exec_process", "oci_config", "oci_process"]


def oci_config(
    spec: ZoneSpec, metadata: DockerMetadata, place: Place, identity: Identity, machine: Machine
) -> dict[str, Any]:
    """The whole of config.json.

    InvalidParameter or NotSupported where this machine cannot give what the spec asks for.  The first
    call for a set of capabilities compiles a seccomp filter (16 ms).
    """
    runtime = metadata.runtime
    _check_apparmor(runtime, machine)
    linux: dict[str, Any] = {
        "namespaces": _namespaces(runtime, place),
        "cgroupsPath": place.cgroups_path,
        "resources": _resources(runtime, place, machine),
        "sysctl": _sysctls(spec, runtime),
        "devices": devices.oci_devices(place.devices),
        "maskedPaths": [] if runtime.privileged else list(runtime.masked_paths),
        "readonlyPaths": [] if runtime.privileged else list(runtime.readonly_paths),
    }
    if propagation := root_propagation(spec, runtime):
        linux["rootfsPropagation"] = propagation
    config: dict[str, Any] = {
        "ociVersion": "1.0.2",
        "process": oci_process(spec, metadata, identity, machine),
        "root": {"path": place.rootfs, "readonly": runtime.readonly_rootfs},
        "mounts": oci_mounts(spec, metadata, place, machine),
        "annotations": dict(runtime.annotations),
        "linux": linux,
    }
    if spec.hostname and runtime.uts != "host":
        config["hostname"] = spec.hostname
    _confine(config, runtime, machine)
    return config


def _check_apparmor(runtime: Runtime, machine: Machine) -> None:
    if runtime.apparmor in ("", "unconfined") or machine.apparmor:
        return
    raise InvalidParameter(
        f"AppArmor is not supported on this host, but the profile '{runtime.apparmor}' was specified"
    )


def _confine(config: dict[str, Any], runtime: Runtime, machine: Machine) -> None:
    """Put the seccomp filter where the runtime looks for it."""
    # A profile of the client's own holds for a privileged zone as well.
    unconfined = ("unconfined", "default") if runtime.privileged else ("unconfined",)
    if runtime.seccomp in unconfined or not machine.seccomp:
        return
    profile = seccomp.profile_of(runtime.seccomp)
    capabilities = frozenset(granted(runtime, machine))
    if machine.seccomp == "bpf" and profile.compilable:
        # crun takes the compiled program; runc passes the annotation over in silence and would run
        # the zone with no filter at all.
        config["annotations"][seccomp.ANNOTATION] = seccomp.encoded_bpf(
            profile, capabilities, machine.kernel
        )
    else:
        config["linux"]["seccomp"] = seccomp.oci_seccomp(profile, capabilities, machine.kernel)


def _namespaces(runtime: Runtime, place: Place) -> list[dict[str, str]]:
    namespaces = [{"type": "mount"}]
    for kind, wanted, path in (
        ("network", runtime.network, place.netns),
        ("uts", runtime.uts, place.utsns),
        ("pid", runtime.pid, place.pidns),
        ("ipc", runtime.ipc, place.ipcns),
    ):
        if wanted == "host":
            continue
        if wanted.startswith("zone:") and not path:
            raise InvalidParameter(f"the {kind} namespace of {wanted} is not there to be joined")
        namespaces.append({"type": kind, "path": path} if path else {"type": kind})
    if runtime.cgroup != "host":
        namespaces.append({"type": "cgroup"})
    return namespaces


def _resources(runtime: Runtime, place: Place, machine: Machine) -> dict[str, Any]:
    wanted = runtime.resources
    resources: dict[str, Any] = {"devices": devices.cgroup_rules(runtime, place.devices)}
    if memory := _memory(wanted, machine):
        resources["memory"] = memory
    if cpu := _cpu(wanted):
        resources["cpu"] = cpu
    if wanted.pids is not None and wanted.pids > 0:
        resources["pids"] = {"limit": wanted.pids}
    if io := _block_io(wanted, place, machine):
        resources["blockIO"] = io
    return resources


_THROTTLES = {
    "throttleReadBpsDevice": "blkio_device_read_bps",
    "throttleWriteBpsDevice": "blkio_device_write_bps",
    "throttleReadIOPSDevice": "blkio_device_read_iops",
    "throttleWriteIOPSDevice": "blkio_device_write_iops",
}


def _block_io(wanted: Resources, place: Place, machine: Machine) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if wanted.blkio_weight and machine.blkio_weight:
        found["weight"] = wanted.blkio_weight
    words = {"weightDevice": "blkio_weight_device", **_THROTTLES}
    for key, name in words.items():
        value = "weight" if key == "weightDevice" else "rate"
        rows = []
        for limit in getattr(wanted, name):
            major, minor = place.disks[limit.path]
            rows.append({"major": major, "minor": minor, value: limit.value})
        if rows:
            found[key] = rows
    return found


def _memory(wanted: Resources, machine: Machine) -> dict[str, Any]:
    memory: dict[str, Any] = {}
    if wanted.memory:
        memory["limit"] = wanted.memory
        # As much swap again as memory, where the client leaves it open.
        swap = wanted.memory_swap or 2 * wanted.memory
        if machine.swap_limit:
            memory["swap"] = swap
    if wanted.memory_reservation:
        memory["reservation"] = wanted.memory_reservation
    if machine.cgroup_layout != "v2":  # v2 knows neither
        if wanted.memory_swappiness is not None and wanted.memory_swappiness >= 0:
            memory["swappiness"] = wanted.memory_swappiness
        if wanted.oom_kill_disable:
            memory["disableOOMKiller"] = True
        if wanted.kernel_memory_tcp:
            memory["kernelTCP"] = wanted.kernel_memory_tcp
    return memory


def _cpu(wanted: Resources) -> dict[str, Any]:
    values = {
        "shares": wanted.cpu_shares,
        "quota": wanted.cpu_quota,
        "period": wanted.cpu_period,
        "cpus": wanted.cpuset_cpus,
        "mems": wanted.cpuset_mems,
        "realtimePeriod": wanted.cpu_realtime_period,
        "realtimeRuntime": wanted.cpu_realtime_runtime,
    }
    return {key: value for key, value in values.items() if value}


def _sysctls(spec: ZoneSpec, runtime: Runtime) -> dict[str, str]:
    sysctls: dict[str, str] = {}
    if runtime.network != "host":
        # Ports below 1024 and ping for everybody: the network is the zone's own.
        sysctls["net.ipv4.ip_unprivileged_port_start"] = "0"
        sysctls["net.ipv4.ping_group_range"] = "0 2147483647"
    if spec.dns_domain and runtime.uts != "host":
        sysctls["kernel.domainname"] = spec.dns_domain
    return sysctls | runtime.sysctls
