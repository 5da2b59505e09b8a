"""What a server has on the machine at a moment, to be compared with another moment."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from compat.daemons import Daemon

Snapshot = dict[str, frozenset[str]]


def snapshot(daemon: Daemon) -> Snapshot:
    """Mounts, network namespaces, links, cgroups, processes and files that belong to this server.

    On SmartOS also its VMs, datasets, images, nic tags, rules.
    """
    there = daemon.platform.things() if daemon.platform else {}
    return _here(daemon) | {f"SmartOS: {kind}": rows for kind, rows in there.items()}


def _here(daemon: Daemon) -> Snapshot:
    root = str(daemon.root)
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return {
        "mounts": frozenset(target for target in mounts if target.startswith(root)),
        "netns": frozenset(
            target for target in mounts if "netns" in target and target.startswith(root)
        ),
        "links": frozenset(_links(daemon)),
        "cgroups": frozenset(_cgroups(daemon.name)),
        "processes": frozenset(_processes(root, daemon)),
        "files": frozenset(_files(daemon)),
    }


def _links(daemon: Daemon) -> list[str]:
    """Interfaces; beside other servers on the machine only those on this server's bridge."""
    links = [entry for entry in Path("/sys/class/net").iterdir() if entry.name != "lo"]
    if daemon.kind == "zonegate":
        bridge = f"{daemon.name}0"
        links = [link for link in links if (link / "master").resolve().name == bridge]
    return [link.name for link in links]


def _cgroups(name: str) -> list[str]:
    found = []
    for base in ("/sys/fs/cgroup",):
        for folder, names, _ in os.walk(base):
            if folder.count("/") - base.count("/") > 3:
                names.clear()
            found += [f"{folder}/{row}" for row in names if name in f"{folder}/{row}"]
    return found


def _processes(root: str, daemon: Daemon) -> list[str]:
    """Command lines that name the server's folders, the server itself left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or (daemon.process and int(entry.name) == daemon.process.pid):
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        mine = daemon.process is not None and parent == daemon.process.pid
        if mine and "vmadm events" in command:  # one for as long as the server runs
            found.append(command)
        elif (root in command and "docker-registry" not in command) or mine:
            found.append(f"{entry.name} {command}")
    return found


def _files(daemon: Daemon) -> list[str]:
    found = []
    for base in (daemon.data_root, daemon.exec_root):
        for folder, folders, files in os.walk(base):
            if folder.count("/") - str(base).count("/") >= 3:
                folders.clear()
            found += [f"{folder}/{name}" for name in (*folders, *files) if name != "leases.json"]
    return found


def new(before: Snapshot, after: Snapshot) -> dict[str, list[str]]:
    """What is there now and was not; empty kinds are left out."""
    rows = {kind: sorted(after[kind] - before[kind]) for kind in before}
    return {kind: names for kind, names in rows.items() if names}


def settled(look: Callable[[], dict[str, list[str]]], deadline_s: float) -> dict[str, list[str]]:
    """Look until nothing is new or the deadline has passed; the last look."""
    end = time.monotonic() + deadline_s
    while rows := look():
        if time.monotonic() > end:
            return rows
        time.sleep(0.05)
    return {}
