"""Where an answer is not as v1.51 describes it, and may be: dockerd's own answers are not, and older versions had more.

A line is one of schemas.py's (`.Config.Cmd: null`).  Go shows an empty list or map as null where it was never made;
the description rarely says so.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Known:
    """Lines that are no fault: `route` and `line` are regular expressions for the whole text.

    `shown` names a case of test_schemas.py for which dockerd's recorded answer has such a line;
    `why` stands instead where none of the recorded ones has it.
    """

    route: str
    line: str
    shown: str = ""
    why: str = ""

    def fits(self, route: str, line: str) -> bool:
        return bool(re.fullmatch(self.route, route) and re.fullmatch(self.line, line))


@dataclass(frozen=True)
class Legacy:
    """Keys that answers had before API version `until`."""

    route: str
    line: str
    until: tuple[int, int]

    def fits(self, route: str, line: str) -> bool:
        return bool(re.fullmatch(self.route, route) and re.fullmatch(self.line, line))


def _null(key: str) -> str:
    return re.escape(key).replace("KEY", "(.+)") + ": null"


_INSPECT, _LIST = r"GET /containers/\{id\}/json", "GET /containers/json"
_IMAGE, _IMAGES = r"GET /images/\{name\}/json", "GET /images/json"
_NETWORK = r"GET /networks(/\{id\})?"
_NEVER_SET = (
    "Binds",
    "BlkioDeviceReadBps",
    "BlkioDeviceReadIOps",
    "BlkioDeviceWriteBps",
    "BlkioDeviceWriteIOps",
    "BlkioWeightDevice",
    "CapAdd",
    "CapDrop",
    "DeviceCgroupRules",
    "DeviceRequests",
    "Devices",
    "Dns",
    "DnsOptions",
    "DnsSearch",
    "ExtraHosts",
    "GroupAdd",
    "Links",
    "MemorySwappiness",
    "PortBindings",
    "SecurityOpt",
    "Ulimits",
    "VolumesFrom",
)
"""Of HostConfig, where the client set none."""
_LITTLE = "a container with little"

KNOWN: tuple[Known, ...] = (
    *(Known(_INSPECT, _null(f".HostConfig.{key}"), _LITTLE) for key in _NEVER_SET),
    Known(
        _INSPECT,
        _null(".HostConfig.OomKillDisable"),
        why="null where the machine cannot do it, as under cgroup v2",
    ),
    Known(_INSPECT, _null(".Config.Entrypoint"), _LITTLE),
    Known(
        _INSPECT,
        _null(".Config.Cmd"),
        why="an entrypoint alone has none, as dockerd shows it; a full zone or machine has neither",
    ),
    Known(_INSPECT, _null(".Config.Volumes"), _LITTLE),
    Known(_INSPECT, _null(".NetworkSettings.Networks.*.Links"), _LITTLE),
    Known(_INSPECT, _null(".NetworkSettings.Networks.*.Aliases"), _LITTLE),
    Known(
        f"{_INSPECT}|{_LIST}|GET /system/df",
        r".*\.Networks\.\*\.DNSNames: null",
        _LITTLE,
    ),
    Known(
        _INSPECT,
        r"\.HostConfig\.(MaskedPaths|ReadonlyPaths): null",
        "a privileged container",
    ),
    Known(_LIST, _null("[].NetworkSettings.Networks.*.Links"), "the containers"),
    Known(_LIST, _null("[].NetworkSettings.Networks.*.Aliases"), "the containers"),
    Known(
        "GET /system/df",
        r"\.Containers\[\]\.NetworkSettings.*\.(Links|Aliases): null",
        "disk usage",
    ),
    Known("GET /system/df", r"\.Volumes\[\]\.(Labels|Options): null", "disk usage"),
    Known("GET /system/df", r"\.Images\[\]\.Labels: null", "disk usage"),
    Known(
        "GET /system/df",
        r"\.(Images|Containers|Volumes|BuildCache): null",
        why="`type=` came with 1.42: what was not asked for is null",
    ),
    Known(
        _INSPECT,
        r"\.HostConfig\.DeviceRequests\[\]\.(DeviceIDs|Capabilities|Options): null",
        why="dockerd's, too: recorded/create.json, devices that a driver is to choose",
    ),
    Known(r"GET /exec/\{id\}/json", _null(".ExitCode"), "an exec"),
    Known(r"GET /containers/\{id\}/changes", ": null", "no changes"),
    Known(
        r"GET /containers/\{id\}/stats",
        r"\.blkio_stats\.io_\w+_recursive: null",
        "usage of what does not run",
    ),
    Known(r"POST /containers/\{id\}/update", _null(".Warnings"), "an update"),
    Known(_IMAGE, _null(".Config.Cmd"), "an image without a command"),
    Known(_IMAGE, _null(".Config.Entrypoint"), "a small image"),
    Known(_IMAGE, _null(".Config.Volumes"), "a small image"),
    Known(_IMAGE, _null(".Config.Labels"), "a small image"),
    Known(_IMAGES, _null("[].Labels"), "the images"),
    Known(r"GET /images/\{name\}/history", _null("[].Tags"), "the history of an image"),
    Known("GET /info", _null(".GenericResources"), "the machine"),
    Known("GET /info", _null(".Plugins.Authorization"), "the machine"),
    Known("GET /info", _null(".Warnings"), "the machine"),
    Known("GET /info", _null(".RegistryConfig.Mirrors"), "the machine"),
    Known("GET /networks", r"\[\]\.IPAM\.(Options|Config): null", "the networks"),
    Known(r"GET /networks/\{id\}", r"\.IPAM\.(Options|Config): null", "a network"),
    Known("GET /volumes", r"\.Volumes\[\]\.(Labels|Options): null", "the volumes"),
    Known("GET /volumes", _null(".Warnings"), "the volumes"),
    Known(r"GET /volumes/\{name\}", r"\.(Labels|Options): null", "a volume"),
    Known("POST /volumes/create", r"\.(Labels|Options): null", "a new volume"),
    Known("POST /containers/prune", _null(".ContainersDeleted"), "a prune of containers"),
    Known("POST /images/prune", _null(".ImagesDeleted"), "a prune of images"),
    Known("POST /networks/prune", _null(".NetworksDeleted"), "a prune of networks"),
    Known("POST /build/prune", _null(".CachesDeleted"), "a prune of what builds left"),
    Known("GET /events", r"\.(status|id|from): not described", "events"),
    Known(
        r"POST /images/\{name\}/push",
        r"\.(id|aux): not described",
        why="the layer, and what was pushed: dockerd's, too, and docker's CLI reads both",
    ),
)

_CONFIG = "Hostname|Domainname|AttachStdin|AttachStdout|AttachStderr|Tty|OpenStdin|StdinOnce|Image"

LEGACY: tuple[Legacy, ...] = (
    Legacy(_IMAGES, r"\[\]\.VirtualSize: not described", (1, 44)),
    Legacy("GET /system/df", r"\.Images\[\]\.VirtualSize: not described", (1, 44)),
    Legacy("GET /system/df", r"\.BuilderSize: not described", (1, 42)),
    Legacy(_IMAGE, r"\.VirtualSize: not described", (1, 44)),
    Legacy(_IMAGE, r"\.Container(Config)?: not described", (1, 45)),
    Legacy(_IMAGE, rf"\.Config\.({_CONFIG}): not described", (1, 50)),
    Legacy(_IMAGE, r"\.Config\.\w+: null", (1, 50)),
    Legacy("GET /info", r"\.KernelMemory(TCP)?: not described", (1, 42)),
    Legacy("GET /info", r"\.\w+Commit\.Expected: not described", (1, 49)),
    Legacy("GET /info", r"\.RegistryConfig\.AllowNondistributable\w+: not described", (1, 49)),
    Legacy("GET /info", r"\.ExecutionDriver: not described", (1, 25)),
    Legacy("GET /info", r"\.BridgeNfIp6?tables: not described", (1, 50)),
)

OURS: tuple[Known, ...] = (
    Known(_INSPECT, r"\.Zone: not described", why="what `vmadm create` is given"),
)
