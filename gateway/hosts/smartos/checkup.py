"""What `zonegate doctor` says of a SmartOS machine: its tools, pool, nic tag, zones.  Nothing there is changed."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from ipaddress import IPv4Address, IPv4Network

from dockerapi.errors import APIError, CommandFailed
from gateway.hosts.checkup import Finding, is_installed, python, surroundings
from gateway.hosts.smartos import facts, vmadm
from gateway.hosts.smartos.globalzone import GlobalZone
from gateway.hosts.smartos.local import LocalGlobalZone
from gateway.hosts.smartos.nictags import NicTags
from gateway.hosts.smartos.ssh import SSHGlobalZone
from gateway.settings import Settings

NEEDED = {
    "vmadm": "zones",
    "zoneadm": "zones",
    "zlogin": "attach, exec and cp",
    "zfs": "images and volumes",
    "imgadm": "images of image servers",
    "chroot-gtar": "layers of images",
    "nictagadm": "networks",
    "ps": "docker top",
    "kstat": "docker stats",
    "fwadm": "published ports and user networks",
}
"""Programs of the platform, and what does not work without."""
_VITAL = ("vmadm", "zoneadm", "zlogin", "zfs", "nictagadm")
_EGRESS = {"dladm": "vnics", "ipadm": "addresses", "ipnat": "the way outside"}
_TIMEOUT_S = 60.0
_SCRIPT = 'for p; do command -v "$p" >/dev/null || echo "$p"; done'


async def examine(settings: Settings) -> list[Finding]:
    """Everything, most important first; what cannot be asked without a connection is left out."""
    findings = [python()]
    there = settings.smartos.host
    if there:
        findings.append(
            Finding(
                is_installed("asyncssh"),
                "asyncssh: the way to a global zone over SSH (pip install 'zonegate[ssh]')",
                fatal=True,
            )
        )
    elif os.geteuid() != 0:
        return [*findings, Finding(False, "zonegate needs root in the global zone", fatal=True)]
    try:
        gz = await global_zone(settings)
    except APIError as error:
        return [*findings, Finding(False, error.message, fatal=True)]
    try:
        findings += [finding async for finding in _machine(gz, settings)]
    except APIError as error:
        findings.append(Finding(False, error.message, fatal=True))
    finally:
        await gz.close()
    return [*findings, *surroundings(settings, client="pkgin search docker")]


async def global_zone(settings: Settings) -> GlobalZone:
    """A connection of its own; the caller closes it.  APIError."""
    if settings.smartos.host:
        return await SSHGlobalZone.open(settings.smartos)
    return LocalGlobalZone(settings.smartos.root)


async def _machine(gz: GlobalZone, settings: Settings) -> AsyncIterator[Finding]:
    found = await facts.ask(gz, settings)
    yield Finding(True, f"global zone {gz.name}: {found.operating_system or 'SmartOS'}")
    async for finding in _tools(gz, settings):
        yield finding
    yield await _pool(gz, settings)
    yield await _zones(gz, settings)
    async for finding in _network(gz, settings):
        yield finding


async def _tools(gz: GlobalZone, settings: Settings) -> AsyncIterator[Finding]:
    wanted = NEEDED | (_EGRESS if settings.smartos.egress_nic else {})
    answer = await gz.run(["/bin/sh", "-c", _SCRIPT, "sh", *wanted], timeout_s=_TIMEOUT_S)
    missing = answer.decode().split()
    yield Finding(not missing, f"programs: {len(wanted) - len(missing)} of {len(wanted)} found")
    for name in missing:
        yield Finding(False, f"no {name}: {wanted[name]} will not work", fatal=name in _VITAL)
    if "imgadm" not in missing:
        try:
            version = (await gz.run(["imgadm", "--version"], timeout_s=_TIMEOUT_S)).decode()
        except CommandFailed as error:
            yield Finding(False, error.message)
        else:
            yield Finding(True, version.strip())


async def _pool(gz: GlobalZone, settings: Settings) -> Finding:
    zpool = settings.smartos.zpool
    argv = ["zfs", "list", "-H", "-p", "-o", "available", zpool]
    try:
        free = int(await gz.run(argv, timeout_s=_TIMEOUT_S))
    except CommandFailed as error:
        return Finding(False, f"pool {zpool}: {error.message}", fatal=True)
    return Finding(True, f"pool {zpool}: {free / 2**30:.1f} GiB available")


async def _zones(gz: GlobalZone, settings: Settings) -> Finding:
    zones = await vmadm.lookup(gz)
    ours = sum(vmadm.is_ours(vm, settings.name) for vm in zones)
    return Finding(True, f"{len(zones)} zones, {ours} of them of this instance ({settings.name})")


async def _network(gz: GlobalZone, settings: Settings) -> AsyncIterator[Finding]:
    ours = settings.smartos
    tags = await NicTags(gz).list()
    known = ", ".join(sorted(tags)) or "none"
    if not ours.subnet:
        yield Finding(
            False, "no [smartos] subnet: containers get no nic unless --network names a network"
        )
    if ours.nic_tag not in tags:
        yield Finding(
            False, f"no nic tag {ours.nic_tag} (there are: {known})", fatal=bool(ours.subnet)
        )
    elif ours.subnet:
        where = f"nic tag {ours.nic_tag}" + (f", vlan {ours.vlan_id}" if ours.vlan_id else "")
        yield Finding(True, f"default network {ours.subnet} on {where}")
    if ours.subnet and not ours.range:
        yield Finding(
            False,
            f"no [smartos] range: zones may get any address of {ours.subnet} that no zone of this machine has",
        )
    if ours.subnet and ours.gateway and IPv4Address(ours.gateway) not in IPv4Network(ours.subnet):
        yield Finding(
            False, f"gateway {ours.gateway} is not in {ours.subnet}: zones cannot reach it"
        )
    if not ours.egress_nic:
        yield Finding(
            False, "no [smartos] egress_nic: networks made by docker network create are internal"
        )
