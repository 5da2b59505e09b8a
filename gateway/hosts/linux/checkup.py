"""What `zonegate doctor` says of a Linux machine: runtime, cgroups, store, network.

It runs one tiny container of the machine's own programs with each runtime, in a folder of its own, and
takes everything away again; a gateway that serves meanwhile is not disturbed.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dockerapi.errors import APIError
from gateway.hosts.checkup import Finding, python, surroundings
from gateway.hosts.command import Spawner
from gateway.hosts.linux import forwarding, probes, storechoice
from gateway.hosts.linux.cgroups import Cgroups
from gateway.hosts.linux.machine import Machine, detect
from gateway.settings import Settings

_PARENT = "zonegate-doctor"
"""Parent cgroup of the container that is tried."""
_LAYOUTS = {
    "hybrid": "hybrid: crun refuses this layout, so it is started in a mount namespace "
    "without the unified hierarchy",
    "v1": "version 1",
    "v2": "version 2",
}


async def examine(settings: Settings) -> list[Finding]:
    """Everything, most important first."""
    if os.geteuid() != 0:
        return [Finding(False, "zonegate needs root: it mounts and makes namespaces", fatal=True)]
    runtime, machine = await _runtime()
    return [
        python(),
        *runtime,
        *await asyncio.to_thread(lambda: list(_stores(settings))),
        *(_limits(machine) if machine else ()),
        *await asyncio.to_thread(_network),
        *surroundings(settings, client="apt-get install docker.io"),
    ]


async def _runtime() -> tuple[list[Finding], Machine | None]:
    """How containers run here, and the machine if they do."""
    cgroups = Cgroups.detect()
    layout = Finding(True, f"cgroups {_LAYOUTS[cgroups.layout]}")
    try:
        found = await _tried(cgroups)
    except APIError as error:
        return [layout, Finding(False, error.message, fatal=True)], None
    found.runtime.close()
    version = await probes.version(found.runtime.program)
    conmon = await probes.version(found.runtime.conmon)
    rows = [
        layout,
        Finding(True, f"{found.runtime.name} {version} under conmon {conmon} runs containers"),
        *_speed(found),
    ]
    machine = detect(
        runtime="crun" if found.runtime.name == "crun" else "runc",
        cgroup_layout=cgroups.layout,
        bpf_annotation=found.bpf,
    )
    missing = [name for name, there in cgroups.limits().items() if not there]
    if missing:
        rows.append(Finding(False, f"limits that this machine does not know: {', '.join(missing)}"))
    return rows, machine


async def _tried(cgroups: Cgroups) -> probes.Found:
    """The runtime that a server would take, tried in a folder and a cgroup that are gone afterwards.  APIError."""
    folder = Path(tempfile.mkdtemp(prefix="zonegate-doctor-", dir="/run"))
    places = {name: folder / name for name in ("state", "exits", "bundles")}
    for place in places.values():
        place.mkdir()
    spawner = Spawner(probes.leave_mount_namespace)
    try:
        return await probes.find_runtime(
            spawner,
            cgroups,
            parent=_PARENT,
            state=places["state"],
            exits=places["exits"],
            scratch=places["bundles"],
        )
    finally:
        spawner.close()
        await cgroups.remove(f"/{_PARENT}")
        await asyncio.to_thread(shutil.rmtree, folder, True)


def _speed(found: probes.Found) -> Iterator[Finding]:
    """What of the quick ways works, and what the slow ones cost."""
    for warning in found.warnings:
        yield Finding(False, warning)
    yield Finding(
        found.bpf or found.runtime.name != "crun",
        "the seccomp filter is compiled once and handed over"
        if found.bpf
        else "the seccomp filter is compiled by the runtime at every start (+23 ms of CPU)",
    )
    yield Finding(
        found.runtime.by_fifo,
        "containers are started by the runtime's fifo"
        if found.runtime.by_fifo
        else "containers are started by a process of the runtime's (+6 ms)",
    )


def _stores(settings: Settings) -> Iterator[Finding]:
    """What the data root has, or would have, and what else it can have."""
    drivers = storechoice.possible(settings.data_root)
    try:
        chosen = storechoice.chosen(settings)
    except APIError as error:
        yield Finding(False, error.message, fatal=True)
        return
    others = [driver for driver in drivers if driver != chosen]
    yield Finding(
        True,
        f"storage driver {chosen}"
        + (f" ({', '.join(others)} can be had here, too)" if others else "")
        + ("" if chosen == "overlay2" else "; roots and volumes can be limited"),
    )
    if chosen == "overlay2":
        yield Finding(
            False, "no limits of roots and volumes (--storage-opt): btrfs and zfs have them"
        )


def _limits(machine: Machine) -> Iterator[Finding]:
    if "CAP_SYS_RESOURCE" in machine.bounding:
        return
    files = machine.rlimits.get("RLIMIT_NOFILE")
    yield Finding(
        False,
        "no CAP_SYS_RESOURCE: ulimits of containers are cut to this machine's own"
        + (f" (nofile {files})" if files else ""),
    )


def _network() -> Iterator[Finding]:
    facts = forwarding.probe()
    library = facts.pop("libnftables")
    yield Finding("unusable" not in library, f"libnftables {library}", fatal=True)
    policy = facts.pop("forward policy", "accept")
    yield Finding(
        policy.startswith("accept"),
        f"forwarded packets: {policy}"
        + ("" if policy.startswith("accept") else "; containers may not reach the outside"),
    )
    for name, value in facts.items():
        yield Finding(True, f"{name}: {value}")
