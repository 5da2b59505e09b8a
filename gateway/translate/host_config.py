"""HostConfig as inspect shows it: what was sent, and dockerd's defaults where nothing was."""

from __future__ import annotations

import re

from dockerapi.errors import InvalidParameter
from dockerapi.models.base import JSONObject
from dockerapi.models.containers import ContainerCreate, HostConfig, RestartPolicy
from gateway.translate import limits, log_options, security
from gateway.translate.facts import Surroundings
from gateway.translate.networking import network_mode

_RENAMED = {"UtsMode": "UTSMode"}
_OMITTED_WHEN_EMPTY = ("Annotations", "StorageOpt", "Tmpfs", "Sysctls", "Mounts", "Init")
_EMPTY: tuple[object, ...] = (None, "", False, 0, [], {})
_DROPPED = ("KernelMemory", "KernelMemoryTCP")
DOCKERS_RUNTIMES = ("runc", "io.containerd.runc.v2")
"""Names that every dockerd takes; here they mean the runtime that there is, which the client is told."""
DEFAULT_SHM_SIZE = 64 * 1024 * 1024


def host_config(body: ContainerCreate, around: Surroundings) -> JSONObject:
    """Checked and filled.  InvalidParameter in dockerd's words."""
    host = body.host_config
    _check(host, around)
    shown = host.model_dump(by_alias=True, mode="json", exclude={"mounts"})
    shown = {_RENAMED.get(key, key): value for key, value in shown.items()}
    shown["Mounts"] = [_mount(mount) for mount in shown_mounts(host)]
    for key in _OMITTED_WHEN_EMPTY:
        if shown[key] in (None, {}, []):
            del shown[key]
    for key in _DROPPED:
        del shown[key]
    if "port_bindings" not in host.model_fields_set:
        shown["PortBindings"] = None
    private = "host" if around.cgroup_version == "1" or host.privileged else "private"
    shown |= {
        "LogConfig": {
            "Type": host.log_config.type or "json-file",
            "Config": host.log_config.config,
        },
        "NetworkMode": network_mode(host),
        "RestartPolicy": {
            "Name": host.restart_policy.name or "no",
            "MaximumRetryCount": host.restart_policy.maximum_retry_count,
        },
        "IpcMode": host.ipc_mode or "private",
        "CgroupnsMode": host.cgroupns_mode or private,
        "SecurityOpt": _security_opt(host),
        "Runtime": host.runtime or around.default_runtime,
        "ShmSize": host.shm_size or DEFAULT_SHM_SIZE,
        "MemorySwap": limits.memory_swap(host),
        "MaskedPaths": security.masked_paths(host),
        "ReadonlyPaths": security.readonly_paths(host),
    }
    if host.oom_kill_disable is None and around.cgroup_version == "1":
        shown["OomKillDisable"] = False
    return shown | limits.discarded(shown, around)


def _security_opt(host: HostConfig) -> list[str] | None:
    """Who shares the machine's processes or memory is outside of SELinux's labels; dockerd says so."""
    shared = host.privileged or "host" in (host.pid_mode, host.ipc_mode)
    if any(option.startswith("label") for option in host.security_opt or []) or not shared:
        return host.security_opt
    return [*(host.security_opt or []), "label=disable"]


def shown_mounts(host: HostConfig) -> list[JSONObject]:
    """HostConfig.Mounts as sent."""
    return [mount.model_dump(by_alias=True, mode="json") for mount in host.mounts or []]


def _mount(mount: JSONObject) -> JSONObject:
    kept = ("Type", "Target")
    shown = {key: value for key, value in mount.items() if key in kept or value not in _EMPTY}
    # Options that were sent stay, be they empty; what is open in them does not show.
    return {
        key: _filled(value) if key.endswith("Options") else value for key, value in shown.items()
    }


def _filled(options: JSONObject) -> JSONObject:
    return {key: value for key, value in options.items() if value not in _EMPTY}


def _check(host: HostConfig, around: Surroundings) -> None:
    limits.check(host, around)
    check_restart_policy(host.restart_policy)
    if host.auto_remove and host.restart_policy.name not in ("", "no"):
        raise InvalidParameter("can't create 'AutoRemove' container with restart policy")
    if "" in (host.annotations or {}):
        raise InvalidParameter(
            "invalid Annotations: the empty string is not permitted as an annotation key"
        )
    if host.runtime and host.runtime not in (*around.runtimes, *DOCKERS_RUNTIMES):
        raise InvalidParameter(f"unknown or invalid runtime name: {host.runtime}")
    for name in host.sysctls or {}:
        if not re.fullmatch(r"[a-z0-9_-]+([./][A-Za-z0-9_-]+)+", name):
            raise InvalidParameter(f"invalid sysctl: {name}")
        if name.startswith("net.") and host.network_mode == "host":
            raise InvalidParameter(f"sysctl '{name}' not allowed in host network namespace")
    if host.device_cgroup_rules:
        for rule in host.device_cgroup_rules:
            if not re.fullmatch(r"[acb] ([0-9]+|\*):([0-9]+|\*) [rwm]{1,3}", rule):
                raise InvalidParameter(f"invalid device cgroup rule format: '{rule}'")
    log_options.check(host.log_config.type or "json-file", host.log_config.config)


def check_restart_policy(policy: RestartPolicy) -> None:
    """moby's ValidateRestartPolicy."""
    fault = "invalid restart policy: "
    count = policy.maximum_retry_count
    match policy.name:
        case "always" | "no" | "unless-stopped":
            if count:
                text = f"{fault}maximum retry count can only be used with 'on-failure'"
                raise InvalidParameter(text + (" and cannot be negative" if count < 0 else ""))
        case "on-failure":
            if count < 0:
                raise InvalidParameter(f"{fault}maximum retry count cannot be negative")
        case "":
            return
        case _:
            raise InvalidParameter(
                f"{fault}unknown policy '{policy.name}'; "
                "use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
            )


def log_max_size(host: HostConfig) -> int | None:
    """Bytes at which the log on this machine is rotated, None where nothing is said."""
    driver, options = host.log_config.type or "json-file", host.log_config.config
    if driver == "none":
        return None
    if driver in log_options.FORWARDING_DRIVERS:
        options = {"max-size": options.get("cache-max-size", "-1")}
    return log_options.max_size(options) or None
