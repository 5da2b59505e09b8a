"""`docker run` arguments -> the create body that the docker CLI would send.  Pure.

For `zonegate spec`: the same flags, the same texts, no daemon.  Files that flags name (--env-file,
--label-file, a seccomp profile) are read by the caller through `read_file`.

One table, `_APPLY`, says of each flag where its value goes and how it is read.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from dockerapi.errors import InvalidParameter, NotSupported
from gateway.translate import mount_arguments

_SHORT = {
    "a": "attach", "c": "cpu-shares", "d": "detach", "e": "env", "h": "hostname", "i": "interactive",
    "l": "label", "m": "memory", "p": "publish", "P": "publish-all", "q": "quiet", "t": "tty",
    "u": "user", "v": "volume", "w": "workdir",
}  # fmt: skip
_SYNONYMS = {"net": "network", "net-alias": "network-alias", "dns-option": "dns-opt"}
_SWITCHES = frozenset(
    [
        "detach",
        "disable-content-trust",
        "init",
        "interactive",
        "no-healthcheck",
        "oom-kill-disable",
        "privileged",
        "publish-all",
        "quiet",
        "read-only",
        "rm",
        "sig-proxy",
        "tty",
        "use-api-socket",
    ]
)
_NOT_BUILT = frozenset(
    [
        "ip",
        "ip6",
        "network-alias",
        "link-local-ip",
    ]
)
_SIZE_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_DURATIONS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What a `docker run` asks for: the create body, and what goes into its query."""

    body: dict[str, Any]
    name: str | None = None
    platform: str | None = None
    extra: dict[str, list[str]] = field(default_factory=dict)
    """Values of the flags in `extra_flags`."""


def parse(
    arguments: Sequence[str],
    *,
    read_file: Callable[[str], str],
    environment: Mapping[str, str],
    extra_flags: frozenset[str] = frozenset(),
) -> RunRequest:
    """InvalidParameter in the docker CLI's words for what it would refuse."""
    flags, operands = _split(arguments, extra_flags)
    if not operands:
        raise InvalidParameter("'zonegate spec' requires at least 1 argument: the image")
    extra = {name: values for name, values in flags.items() if name in extra_flags}
    body: dict[str, Any] = {"Image": operands[0], "HostConfig": {"NetworkMode": "default"}}
    if len(operands) > 1:
        body["Cmd"] = list(operands[1:])
    _streams(body, flags)
    for name, values in flags.items():
        if name in extra_flags:
            continue
        _apply(body, name, values, read_file, environment)
    return RunRequest(
        body=body,
        name=flags.get("name", [None])[-1],
        platform=flags.get("platform", [None])[-1],
        extra=extra,
    )


def _split(
    arguments: Sequence[str], extra_flags: frozenset[str]
) -> tuple[dict[str, list[str]], list[str]]:
    """Flags with their values in order, and what follows the first operand untouched."""
    flags: dict[str, list[str]] = {}
    rest = list(arguments)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            name = _SYNONYMS.get(name, name)
            if name in _NOT_BUILT:
                raise NotSupported(f"--{name} is not supported by zonegate yet")
            if name not in extra_flags and name not in _APPLY:
                raise InvalidParameter(f"unknown flag: --{name}")
            if not equals:
                value = "true" if name in _SWITCHES else _value(rest, f"--{name}")
            flags.setdefault(name, []).append(value)
        else:
            _split_short(word, rest, flags)
    return flags, rest


def _split_short(word: str, rest: list[str], flags: dict[str, list[str]]) -> None:
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        if letter not in _SHORT:
            raise InvalidParameter(f"unknown shorthand flag: '{letter}' in {word}")
        name = _SHORT[letter]
        if name in _SWITCHES:
            flags.setdefault(name, []).append("true")
            continue
        flags.setdefault(name, []).append(letters.removeprefix("=") or _value(rest, f"-{letter}"))
        return


def _value(rest: list[str], flag: str) -> str:
    if not rest:
        raise InvalidParameter(f"flag needs an argument: {flag}")
    return rest.pop(0)


def _streams(body: dict[str, Any], flags: Mapping[str, Sequence[str]]) -> None:
    """AttachStdin and friends follow from -a, -d and -i as in the CLI."""
    interactive = _is_true(flags, "interactive")
    chosen = [stream.lower() for stream in flags.get("attach", ())]
    if not chosen and not _is_true(flags, "detach"):
        chosen = ["stdout", "stderr"] + (["stdin"] if interactive else [])
    body["AttachStdin"] = "stdin" in chosen
    body["AttachStdout"] = "stdout" in chosen
    body["AttachStderr"] = "stderr" in chosen
    body["OpenStdin"] = interactive
    body["StdinOnce"] = interactive and body["AttachStdin"]
    body["Tty"] = _is_true(flags, "tty")


def _is_true(flags: Mapping[str, Sequence[str]], name: str) -> bool:
    return bool(flags.get(name)) and flags[name][-1].lower() in ("true", "1", "t")


def _apply(
    body: dict[str, Any],
    name: str,
    values: Sequence[str],
    read_file: Callable[[str], str],
    environment: Mapping[str, str],
) -> None:
    rule = _APPLY[name]
    if rule is None:
        return
    where, key, convert = rule
    target = body if where == "config" else body["HostConfig"]
    if convert in _READERS:
        found = _READERS[convert](values, read_file, environment)
    else:
        found = _CONVERTERS[convert](values, name)
    if isinstance(found, dict) and isinstance(target.get(key), dict):
        target[key] |= found
    elif isinstance(found, list) and isinstance(target.get(key), list):
        target[key] += found
    else:
        target[key] = found
    if name == "publish":
        exposed = body.setdefault("ExposedPorts", {})
        exposed.update({port: {} for port in found})
    elif name == "volume":
        # "/data" alone is an anonymous volume and belongs to the config.
        target[key] = [bind for bind in found if ":" in bind]
        anonymous: dict[str, Any] = {bind: {} for bind in found if ":" not in bind}
        if anonymous:
            body["Volumes"] = anonymous
    elif name == "security-opt" and "systempaths=unconfined" in found:
        # The CLI's word alone.
        target[key] = [option for option in found if option != "systempaths=unconfined"]
        target |= {"MaskedPaths": [], "ReadonlyPaths": []}
    elif name == "network":
        _network(body, values)


def _network(body: dict[str, Any], values: Sequence[str]) -> None:
    body["HostConfig"]["NetworkMode"] = values[0]


def _last(values: Sequence[str], name: str) -> str:
    return values[-1]


def _boolean(values: Sequence[str], name: str) -> bool:
    text = values[-1].lower()
    if text not in ("true", "false", "1", "0", "t", "f"):
        raise InvalidParameter(
            f'invalid argument "{values[-1]}" for "--{name}" flag: strconv.ParseBool: parsing "{values[-1]}": invalid syntax'
        )
    return text in ("true", "1", "t")


def _integer(values: Sequence[str], name: str) -> int:
    try:
        return int(values[-1])
    except ValueError as error:
        raise InvalidParameter(
            f'invalid argument "{values[-1]}" for "--{name}" flag: invalid syntax'
        ) from error


def _size(values: Sequence[str], name: str) -> int:
    text = values[-1].strip().lower()
    if text == "-1":
        return -1
    number = text.rstrip("bkmgtpi ")
    unit = text[len(number) :].strip().removesuffix("b").removesuffix("i")
    try:
        return int(float(number) * _SIZE_UNITS[unit])
    except (ValueError, KeyError) as error:
        raise InvalidParameter(
            f'invalid argument "{values[-1]}" for "--{name}" flag: invalid size: \'{values[-1]}\''
        ) from error


def _nano_cpus(values: Sequence[str], name: str) -> int:
    try:
        return round(float(values[-1]) * 1e9)
    except ValueError as error:
        raise InvalidParameter(f'failed to parse "{values[-1]}" as a rational number') from error


def _list(values: Sequence[str], name: str) -> list[str]:
    return list(values)


def _words(values: Sequence[str], name: str) -> list[str]:
    return [""] if values[-1] == "" else [values[-1]]


def _map(values: Sequence[str], name: str) -> dict[str, str]:
    return {key: value for key, _, value in (item.partition("=") for item in values)}


def _tmpfs(values: Sequence[str], name: str) -> dict[str, str]:
    return {target: options for target, _, options in (item.partition(":") for item in values)}


def _ports(values: Sequence[str], name: str) -> dict[str, list[dict[str, str]]]:
    """`[[address:][host port[-end]]:]port[-end][/protocol]` as PortBindings."""
    bindings: dict[str, list[dict[str, str]]] = {}
    for text in values:
        spec, _, protocol = text.partition("/")
        address, host, inside = _port_parts(spec)
        first, last = _port_range(inside, text)
        host_first, host_last = _port_range(host, text) if host else (0, 0)
        if host and last - first != host_last - host_first and last != first:
            raise InvalidParameter(f"invalid ranges specified for container and host Ports: {text}")
        for offset in range(last - first + 1):
            port = f"{first + offset}/{protocol or 'tcp'}"
            if host and last == first and host_last != host_first:
                chosen = f"{host_first}-{host_last}"
            else:
                chosen = str(host_first + offset) if host else ""
            bindings.setdefault(port, []).append({"HostIp": address, "HostPort": chosen})
    return bindings


def _port_parts(spec: str) -> tuple[str, str, str]:
    if spec.startswith("["):
        address, _, rest = spec[1:].partition("]")
        host, _, inside = rest.removeprefix(":").rpartition(":")
        return address, host, inside
    left, _, inside = spec.rpartition(":")
    address, _, host = left.rpartition(":")
    return address, host, inside


def _port_range(text: str, whole: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    try:
        start, end = int(first), int(last or first)
    except ValueError as error:
        raise InvalidParameter(f"invalid containerPort: {whole}") from error
    if not 0 <= start <= end <= 65535:
        raise InvalidParameter(f"invalid containerPort: {whole}")
    return start, end


def _exposed(values: Sequence[str], name: str) -> dict[str, dict[str, Any]]:
    ports: dict[str, dict[str, Any]] = {}
    for text in values:
        spec, _, protocol = text.partition("/")
        first, last = _port_range(spec, text)
        ports |= {f"{port}/{protocol or 'tcp'}": {} for port in range(first, last + 1)}
    return ports


def _restart(values: Sequence[str], name: str) -> dict[str, Any]:
    policy, _, count = values[-1].partition(":")
    if count and not count.isdigit():
        raise InvalidParameter(
            "invalid restart policy format: maximum retry count must be an integer"
        )
    return {"Name": policy, "MaximumRetryCount": int(count or 0)}


def _ulimits(values: Sequence[str], name: str) -> list[dict[str, Any]]:
    limits = []
    for text in values:
        kind, _, numbers = text.partition("=")
        soft, _, hard = numbers.partition(":")
        try:
            limits.append({"Name": kind, "Soft": int(soft), "Hard": int(hard or soft)})
        except ValueError as error:
            raise InvalidParameter(f"invalid ulimit argument: {text}") from error
    return limits


def _devices(values: Sequence[str], name: str) -> list[dict[str, str]]:
    devices = []
    for text in values:
        source, *more = text.split(":")
        target, permissions = source, "rwm"
        if len(more) == 1 and set(more[0]) <= set("rwm"):
            permissions = more[0]
        elif more:
            target = more[0]
            permissions = more[1] if len(more) > 1 else "rwm"
        devices.append(
            {"PathOnHost": source, "PathInContainer": target, "CgroupPermissions": permissions}
        )
    return devices


def _log_options(values: Sequence[str], name: str) -> dict[str, Any]:
    return {"Type": values[-1]} if name == "log-driver" else {"Config": _map(values, name)}


def _throttles(values: Sequence[str], name: str) -> list[dict[str, Any]]:
    """`PATH:RATE`, in bytes or operations a second."""
    found = []
    for text in values:
        path, colon, rate = text.rpartition(":")
        if not colon or not path.startswith("/dev/"):
            raise InvalidParameter(f"bad format for device path: {text}")
        number = _size([rate], name) if name.endswith("bps") else _integer([rate], name)
        found.append({"Path": path, "Rate": number})
    return found


def _weights(values: Sequence[str], name: str) -> list[dict[str, Any]]:
    found = []
    for text in values:
        path, colon, weight = text.rpartition(":")
        if not colon or not path.startswith("/dev/"):
            raise InvalidParameter(f"bad format for device path: {text}")
        found.append({"Path": path, "Weight": _integer([weight], name)})
    return found


def _gpus(values: Sequence[str], name: str) -> list[dict[str, Any]]:
    """`all`, a number, or `count=...,device=...,driver=...,capabilities=...`."""
    found = []
    for text in values:
        request: dict[str, Any] = {"Capabilities": [["gpu"]]}
        for item in next(csv.reader(io.StringIO(text))):
            key, equals, value = item.partition("=")
            key, value = (key, value) if equals else ("count", item)
            match key:
                case "count":
                    request["Count"] = -1 if value == "all" else _integer([value], name)
                case "device":
                    request["DeviceIDs"] = value.split(",")
                case "driver":
                    request["Driver"] = value
                case "capabilities":
                    request["Capabilities"] = [["gpu", *value.split(",")]]
                case _:
                    raise InvalidParameter(f"unexpected key '{key}' in '{item}'")
        found.append(request)
    return found


def _health(values: Sequence[str], name: str) -> dict[str, Any]:
    value = values[-1]
    match name:
        case "no-healthcheck":
            return {"Test": ["NONE"]}
        case "health-cmd":
            return {"Test": ["CMD-SHELL", value]}
        case "health-retries":
            return {"Retries": _integer(values, name)}
        case _:
            words = name.removeprefix("health-").split("-")
            return {"".join(word.capitalize() for word in words): _duration(value)}


def _duration(text: str) -> int:
    """Go's duration text in nanoseconds."""
    total, number = 0.0, ""
    rest = text
    while rest:
        number = rest[: len(rest) - len(rest.lstrip("0123456789."))]
        rest = rest[len(number) :]
        unit = rest[: len(rest) - len(rest.lstrip("nuµmsh"))]
        rest = rest[len(unit) :]
        if not number or unit not in _DURATIONS:
            raise InvalidParameter(f'time: invalid duration "{text}"')
        total += float(number) * _DURATIONS[unit]
    return int(total)


_CONVERTERS: dict[str, Callable[[Sequence[str], str], Any]] = {
    "last": _last, "boolean": _boolean, "integer": _integer, "size": _size, "cpus": _nano_cpus,
    "list": _list, "words": _words, "map": _map, "tmpfs": _tmpfs, "ports": _ports,
    "exposed": _exposed, "restart": _restart, "ulimits": _ulimits, "devices": _devices,
    "log": _log_options, "mounts": mount_arguments.entries, "health": _health,
    "throttles": _throttles, "weights": _weights, "gpus": _gpus,
}  # fmt: skip


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _env(
    values: Sequence[str], read_file: Callable[[str], str], environment: Mapping[str, str]
) -> list[str]:
    """A name without `=` takes the caller's value, or is left out where there is none."""
    return [
        item if "=" in item else f"{item}={environment[item]}"
        for item in values
        if "=" in item or item in environment
    ]


def _env_file(
    values: Sequence[str], read_file: Callable[[str], str], environment: Mapping[str, str]
) -> list[str]:
    return _env(
        [line for path in values for line in _lines(read_file(path))], read_file, environment
    )


def _label_file(
    values: Sequence[str], read_file: Callable[[str], str], environment: Mapping[str, str]
) -> dict[str, str]:
    return _map([line for path in values for line in _lines(read_file(path))], "label-file")


def _security(
    values: Sequence[str], read_file: Callable[[str], str], environment: Mapping[str, str]
) -> list[str]:
    """A seccomp profile is sent as its JSON text."""
    options = []
    for text in values:
        key, _, value = text.partition("=")
        if (
            key == "seccomp"
            and value not in ("unconfined", "builtin")
            and PurePosixPath(value).name
        ):
            profile = json.loads(read_file(value))
            options.append(f"seccomp={json.dumps(profile, separators=(',', ':'))}")
        else:
            options.append(text)
    return options


_READERS: dict[str, Callable[[Sequence[str], Callable[[str], str], Mapping[str, str]], Any]] = {
    "env": _env,
    "env-file": _env_file,
    "label-file": _label_file,
    "security": _security,
}

_APPLY: dict[str, tuple[str, str, str] | None] = {
    # Flags of the CLI alone, and those that `parse` reads itself.
    **dict.fromkeys(
        ("attach", "cidfile", "detach", "detach-keys", "disable-content-trust", "interactive", "name",
         "platform", "pull", "quiet", "sig-proxy", "tty"),
    ),
    "domainname": ("config", "Domainname", "last"),
    "entrypoint": ("config", "Entrypoint", "words"),
    "env": ("config", "Env", "env"),
    "env-file": ("config", "Env", "env-file"),
    "expose": ("config", "ExposedPorts", "exposed"),
    **dict.fromkeys(
        ("health-cmd", "health-interval", "health-retries", "health-start-interval",
         "health-start-period", "health-timeout", "no-healthcheck"),
        ("config", "Healthcheck", "health"),
    ),
    "hostname": ("config", "Hostname", "last"),
    "label": ("config", "Labels", "map"),
    "label-file": ("config", "Labels", "label-file"),
    "mac-address": ("config", "MacAddress", "last"),
    "stop-signal": ("config", "StopSignal", "last"),
    "stop-timeout": ("config", "StopTimeout", "integer"),
    "user": ("config", "User", "last"),
    "workdir": ("config", "WorkingDir", "last"),
    "add-host": ("host", "ExtraHosts", "list"),
    "annotation": ("host", "Annotations", "map"),
    "blkio-weight": ("host", "BlkioWeight", "integer"),
    "blkio-weight-device": ("host", "BlkioWeightDevice", "weights"),
    "cap-add": ("host", "CapAdd", "list"),
    "cap-drop": ("host", "CapDrop", "list"),
    "cgroup-parent": ("host", "CgroupParent", "last"),
    "cgroupns": ("host", "CgroupnsMode", "last"),
    "cpu-period": ("host", "CpuPeriod", "integer"),
    "cpu-quota": ("host", "CpuQuota", "integer"),
    "cpu-rt-period": ("host", "CpuRealtimePeriod", "integer"),
    "cpu-rt-runtime": ("host", "CpuRealtimeRuntime", "integer"),
    "cpu-shares": ("host", "CpuShares", "integer"),
    "cpus": ("host", "NanoCpus", "cpus"),
    "cpuset-cpus": ("host", "CpusetCpus", "last"),
    "cpuset-mems": ("host", "CpusetMems", "last"),
    "device": ("host", "Devices", "devices"),
    "device-read-bps": ("host", "BlkioDeviceReadBps", "throttles"),
    "device-read-iops": ("host", "BlkioDeviceReadIOps", "throttles"),
    "device-write-bps": ("host", "BlkioDeviceWriteBps", "throttles"),
    "device-write-iops": ("host", "BlkioDeviceWriteIOps", "throttles"),
    "gpus": ("host", "DeviceRequests", "gpus"),
    "device-cgroup-rule": ("host", "DeviceCgroupRules", "list"),
    "dns": ("host", "Dns", "list"),
    "dns-opt": ("host", "DnsOptions", "list"),
    "dns-search": ("host", "DnsSearch", "list"),
    "group-add": ("host", "GroupAdd", "list"),
    "init": ("host", "Init", "boolean"),
    "ipc": ("host", "IpcMode", "last"),
    "isolation": ("host", "Isolation", "last"),
    "kernel-memory": ("host", "KernelMemory", "size"),
    "link": ("host", "Links", "list"),
    "log-driver": ("host", "LogConfig", "log"),
    "log-opt": ("host", "LogConfig", "log"),
    "memory": ("host", "Memory", "size"),
    "memory-reservation": ("host", "MemoryReservation", "size"),
    "memory-swap": ("host", "MemorySwap", "size"),
    "memory-swappiness": ("host", "MemorySwappiness", "integer"),
    "mount": ("host", "Mounts", "mounts"),
    "network": ("host", "NetworkMode", "last"),
    "oom-kill-disable": ("host", "OomKillDisable", "boolean"),
    "oom-score-adj": ("host", "OomScoreAdj", "integer"),
    "pid": ("host", "PidMode", "last"),
    "pids-limit": ("host", "PidsLimit", "integer"),
    "privileged": ("host", "Privileged", "boolean"),
    "publish": ("host", "PortBindings", "ports"),
    "publish-all": ("host", "PublishAllPorts", "boolean"),
    "read-only": ("host", "ReadonlyRootfs", "boolean"),
    "restart": ("host", "RestartPolicy", "restart"),
    "rm": ("host", "AutoRemove", "boolean"),
    "runtime": ("host", "Runtime", "last"),
    "security-opt": ("host", "SecurityOpt", "security"),
    "shm-size": ("host", "ShmSize", "size"),
    "storage-opt": ("host", "StorageOpt", "map"),
    "sysctl": ("host", "Sysctls", "map"),
    "tmpfs": ("host", "Tmpfs", "tmpfs"),
    "ulimit": ("host", "Ulimits", "ulimits"),
    "userns": ("host", "UsernsMode", "last"),
    "uts": ("host", "UTSMode", "last"),
    "volume": ("host", "Binds", "list"),
    "volume-driver": ("host", "VolumeDriver", "last"),
    "volumes-from": ("host", "VolumesFrom", "list"),
}  # fmt: skip
