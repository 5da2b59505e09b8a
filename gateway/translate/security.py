"""Capabilities, --security-opt, masked and read-only paths, devices."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from dockerapi.errors import APIError, InvalidParameter
from dockerapi.models.containers import HostConfig
from gateway.zones.metadata import Device, DeviceRequest

DEFAULT_CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
)
_OTHERS = (
    "DAC_READ_SEARCH LINUX_IMMUTABLE NET_BROADCAST NET_ADMIN IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO "
    "SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG LEASE "
    "AUDIT_CONTROL MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF "
    "CHECKPOINT_RESTORE"
)
ALL_CAPABILITIES = DEFAULT_CAPABILITIES + tuple(f"CAP_{name}" for name in _OTHERS.split())

MASKED_PATHS = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def capabilities(host: HostConfig) -> tuple[str, ...]:
    """What root in the container holds, after --cap-add, --cap-drop, --privileged."""
    added = _normalised(host.cap_add, "invalid CapAdd")
    dropped = _normalised(host.cap_drop, "invalid CapDrop")
    if host.privileged:
        return ALL_CAPABILITIES
    if "ALL" in added:
        return tuple(c for c in ALL_CAPABILITIES if c not in dropped)
    base = () if "ALL" in dropped else tuple(c for c in DEFAULT_CAPABILITIES if c not in dropped)
    return tuple(dict.fromkeys((*base, *added)))


def _normalised(names: Sequence[str] | None, fault: str) -> list[str]:
    found: list[str] = []
    for text in names or []:
        name = text.upper()
        if name != "ALL" and not name.startswith("CAP_"):
            name = f"CAP_{name}"
        if name != "ALL" and name not in ALL_CAPABILITIES:
            raise InvalidParameter(f'{fault}: unknown capability: "{name}"')
        found.append(name)
    return found


@dataclass(frozen=True, slots=True)
class SecurityOptions:
    """--security-opt, taken apart; `seccomp` as in `Runtime`."""

    no_new_privileges: bool = False
    seccomp: str = "default"
    apparmor: str = ""
    writable_cgroups: bool | None = None


def security_options(host: HostConfig) -> SecurityOptions:
    """APIError in dockerd's words for what is no option (500 there, too)."""
    no_new_privileges, seccomp, apparmor, writable = False, "default", "", None
    if host.privileged:
        seccomp, apparmor = "unconfined", "unconfined"
    for option in host.security_opt or []:
        key, value = _split(option)
        match key:
            case "no-new-privileges":
                no_new_privileges = _boolean(option, value)
            case "seccomp":
                seccomp = _seccomp(value)
            case "apparmor":
                apparmor = value
            case "writable-cgroups":
                writable = _boolean(option, value)
            case "label" | "disable":
                # SELinux labels; this gateway runs no SELinux policy, as dockerd without it.
                continue
            case _:
                raise APIError(f'invalid --security-opt 2: "{option}"')
    return SecurityOptions(no_new_privileges, seccomp, apparmor, writable)


def _split(option: str) -> tuple[str, str]:
    if option in ("no-new-privileges", "disable"):
        return option, "true"
    # `key:value` is how it was written before 1.11; a profile's JSON has colons too.
    key, found, value = option.partition("=")
    if not found or ":" in key:
        key, found, value = option.partition(":")
    if not found:
        raise APIError(f'invalid --security-opt 1: "{option}"')
    return key, value


def _boolean(option: str, value: str) -> bool:
    words = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}
    if value.lower() not in words:
        raise APIError(f'invalid --security-opt 2: "{option}"')
    return words[value.lower()]


def _seccomp(value: str) -> str:
    if value == "unconfined":
        return value
    if value in ("builtin", "default"):
        return "default"
    try:
        profile = json.loads(value)
    except ValueError as error:
        raise InvalidParameter(f"Decoding seccomp profile failed: {error}") from error
    if not isinstance(profile, dict):
        raise InvalidParameter("Decoding seccomp profile failed: not an object")
    return value


def masked_paths(host: HostConfig) -> list[str] | None:
    """As inspect shows them: privileged has none at all."""
    if host.masked_paths is not None:
        return list(host.masked_paths)
    return None if host.privileged else list(MASKED_PATHS)


def readonly_paths(host: HostConfig) -> list[str] | None:
    """As inspect shows them."""
    if host.readonly_paths is not None:
        return list(host.readonly_paths)
    return None if host.privileged else list(READONLY_PATHS)


def devices(host: HostConfig) -> tuple[Device, ...]:
    """--device; whether the host has them is the host's to say."""
    found: list[Device] = []
    for device in host.devices or []:
        source = device.path_on_host
        permissions = device.cgroup_permissions or "rwm"
        if not source or set(permissions) - set("rwm"):
            raise InvalidParameter(f"invalid device specification: {source}:{permissions}")
        found.append(
            Device(
                source=source, target=device.path_in_container or source, permissions=permissions
            )
        )
    return tuple(found)


def device_requests(host: HostConfig) -> tuple[DeviceRequest, ...]:
    """--gpus; whether there is a driver for them is the host's to say, at the start."""
    return tuple(
        DeviceRequest(
            driver=request.driver,
            capabilities=tuple(tuple(words) for words in request.capabilities or ()),
        )
        for request in host.device_requests or []
    )
