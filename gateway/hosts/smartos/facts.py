"""What a SmartOS machine says of itself -> `HostFacts`.  Pure but for the questions.

sysinfo(8) is one JSON object that the platform makes at boot; numbers in it are text as often as not.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from dockerapi.errors import APIError, CommandFailed, NotFound
from gateway.hosts.smartos.globalzone import GlobalZone
from gateway.settings import SMARTOS_ZONE_DEFAULTS, Settings
from gateway.zones.host import HostFacts

log = logging.getLogger(__name__)

_TIMEOUT_S = 60.0
_NO_PROGRAM = 127
_KERNEL_VERSION = "4.10"
"""What Linux an lx zone shows where the settings name none."""

LIMITS = {
    "MemoryLimit": True,
    "SwapLimit": True,
    "CPUShares": True,
    "CpuCfsPeriod": True,
    "CpuCfsQuota": True,
    "PidsLimit": True,
    "CPUSet": False,
    "BlkioWeight": True,
    "OomKillDisable": False,
}
"""Limits of docker that a zone's properties can be: zones are not bound to CPUs, and nobody picks what swaps."""


async def ask(gz: GlobalZone, settings: Settings) -> HostFacts:
    """APIError where this is no SmartOS."""
    try:
        sysinfo = json.loads(await gz.run(("sysinfo",), timeout_s=_TIMEOUT_S))
    except (CommandFailed, ValueError) as error:
        if isinstance(error, CommandFailed) and error.exit_status == _NO_PROGRAM:
            who = "this" if gz.is_local else gz.name
            raise APIError(f"{who} is no SmartOS machine: sysinfo is not there") from error
        raise APIError(f"{gz.name} is no global zone of SmartOS: {error}") from error
    return facts(sysinfo, settings, resolvers=await _resolvers(gz, settings))


async def _resolvers(gz: GlobalZone, settings: Settings) -> tuple[str, ...]:
    """The machine's own: a zone has none unless its spec names some."""
    if settings.dns:
        return settings.dns
    root = settings.smartos.root.rstrip("/")
    try:
        return resolvers((await gz.read(f"{root}/etc/resolv.conf")).decode(errors="replace"))
    except NotFound:
        return ()
    except APIError as error:
        log.warning("name servers of %s are not known: %s", gz.name, error)
        return ()


def resolvers(text: str) -> tuple[str, ...]:
    """Name servers of a resolv.conf, those of the machine itself left out: a zone cannot reach them."""
    words = [line.split() for line in text.splitlines()]
    found = [line[1] for line in words if len(line) > 1 and line[0] == "nameserver"]
    return tuple(server for server in found if not server.startswith("127.") and server != "::1")


def facts(
    sysinfo: Mapping[str, Any], settings: Settings, *, resolvers: tuple[str, ...]
) -> HostFacts:
    """Of the machine that printed this."""
    image = str(sysinfo.get("Live Image") or "")
    kernel = settings.zone_defaults.get("kernel_version") or SMARTOS_ZONE_DEFAULTS.get(
        "kernel_version", _KERNEL_VERSION
    )
    return HostFacts(
        storage_driver="zfs",
        cgroup_driver="none",
        cgroup_version="",
        runtimes=("vmadm",),
        default_runtime="vmadm",
        kernel_version=f"{kernel} (joyent_{image})" if image else str(kernel),
        operating_system=f"SmartOS {image}".strip(),
        os_version=image,
        architecture="x86_64",
        ncpu=_number(sysinfo, "CPU Online Count", "CPU Count", "CPU Total Cores") or 1,
        mem_total=_number(sysinfo, "MiB of Memory") << 20,
        root_dir=str(settings.data_root),
        security_options=(),
        log_drivers=("json-file", "local", "none"),
        limits=LIMITS,
        components=(("vmadm", image),) if image else (),
        status=(
            ("Zpool", settings.smartos.zpool),
            ("Platform Image", image),
            ("Global Zone", settings.smartos.host or "local"),
        ),
        platform="smartos",
        resolvers=resolvers,
    )


def _number(sysinfo: Mapping[str, Any], *names: str) -> int:
    """The first of these that is a number; 0."""
    for name in names:
        text = str(sysinfo.get(name, "")).strip()
        if text.isdecimal():
            return int(text)
    return 0
