"""HostConfig as inspect shows it: what was sent, and dockerd's defaults where nothing was."""

from __future__ import annotations

import re

from dockerapi.errors import InvalidParameter, NotSupported
from dockerapi.models.base import JSONObject
from dockerapi.models.containers import ContainerCreate, HostConfig, RestartPolicy
from gateway.translate import limits, security
from gateway.translate.facts import Surroundings
from gateway.translate.networking import network_mode

_LOG_OPTIONS = {
    "json-file": {"max-size", "max-file", "compress", "labels", "labels-regex", "env", "env-regex", "tag", "mode", "max-buffer-size"},
    "local": {"max-size", "max-file", "compress", "mode", "max-buffer-size", "labels", "env", "tag"},
    "none": {"mode", "max-buffer-size", "max-size", "max-file", "labels", "env", "tag", "compress"},
}  # fmt: skip
_OTHER_DRIVERS = (
    "syslog",
    "journald",
    "gelf",
    "fluentd",
    "awslogs",
    "splunk",
    "gcplogs",
    "etwlogs",
)
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
    for key in ("Dns", "DnsOptions", "DnsSearch"):
        shown[key] = shown[key] or []
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
    check_log(host)


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
                "use one of 'always', 'no', 'on-failure', or 'unless-stopped'"
            )


def check_log(host: HostConfig) -> None:
    """Driver and options; only what can be read back is built."""
    driver = host.log_config.type or "json-file"
    if driver in _OTHER_DRIVERS:
        raise NotSupported(
            f"log driver {driver} is not supported by zonegate yet: use json-file, local or none"
        )
    if driver not in _LOG_OPTIONS:
        raise InvalidParameter(f"logger: no log driver named '{driver}' is registered")
    for name in host.log_config.config:
        if name not in _LOG_OPTIONS[driver]:
            raise InvalidParameter(f"unknown log opt '{name}' for {driver} log driver")
    mode = host.log_config.config.get("mode", "blocking")
    if mode not in ("blocking", "non-blocking"):
        raise InvalidParameter(f"logger: logging mode not supported: {mode}")
    log_max_size(host)
    count = host.log_config.config.get("max-file", "1")
    if not count.isdecimal() or int(count) < 1:
        raise InvalidParameter("max-file cannot be less than 1")


def log_max_size(host: HostConfig) -> int | None:
    """Bytes of max-size, None where there is none."""
    text = host.log_config.config.get("max-size", "")
    if not text or text == "-1":
        return None
    try:
        size = limits.byte_size(text)
    except ValueError as error:
        raise InvalidParameter(str(error)) from error
    return size or None
