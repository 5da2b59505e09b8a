"""What an earlier life of the gateway left on this machine: zones that run on, codes of those that ended, halves.

Looks and sweeps; what is made of it is zones.py's.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dockerapi.errors import APIError
from gateway.hosts.linux import conmon, records
from gateway.hosts.linux.boot import Parts, clear_shm
from gateway.hosts.linux.overlay import mounts
from gateway.hosts.linux.records import Record
from gateway.zones.spec import ZoneUUID

log = logging.getLogger(__name__)


def read_exit(path: Path) -> int | None:
    """The code in an exit file; None while it is not there or still empty."""
    try:
        text = path.read_text().strip()
    except FileNotFoundError:
        return None
    return int(text) if text else None


def read_all(folder: Path) -> Sequence[Record]:
    """Every readable record; one that is not is named in the log and left alone."""
    found = []
    for path in folder.iterdir():
        try:
            found.append(records.read(path))
        except FileNotFoundError:
            continue  # half made or half deleted: swept
        except (ValueError, KeyError):
            log.exception("%s cannot be read: this zone is not served", path)
    return found


def lives(record: Record) -> bool:
    """Whether its conmon is the process that it was."""
    return (
        record.conmon_start != 0 and records.process_start(record.conmon_pid) == record.conmon_start
    )


async def finish_start(parts: Parts, uuid: ZoneUUID) -> None:
    """Let a process go that still waits for it: the gateway died after it had told the record, and before this."""
    if not (parts.runtime.state / uuid / "exec.fifo").exists():
        return
    try:
        await conmon.start(parts.spawner, parts.runtime, uuid)
    except APIError as error:
        log.warning("zone %s: its start cannot be finished: %s", uuid, error.message)


def sweep(parts: Parts, known: set[str], up: set[str]) -> set[str]:
    """Remove what belongs to no zone; names of those that do not run and have remains of a run."""
    for folder in (parts.folders.data / "zones").iterdir():
        if folder.name not in known and not (folder / records.FILE).exists():
            shutil.rmtree(folder, ignore_errors=True)
    remains = {Path(target).parent.name for target, _ in mounts() if target.endswith("/rootfs")}
    for parent in (parts.folders.run / "bundles", parts.runtime.state):
        for folder in parent.iterdir():
            remains.add(folder.name)
            if folder.name not in up:
                _end_stray(folder)
                shutil.rmtree(folder, ignore_errors=True)
    for path in (parts.folders.run / "shm").glob("*"):
        if path.name not in up:
            clear_shm(path)
    for path in parts.runtime.exits.iterdir():
        if path.name not in known:
            path.unlink(missing_ok=True)
    return remains - up


def _end_stray(folder: Path) -> None:
    """A conmon of a start that the gateway's death cut off: it waits for ever for its process to be started."""
    bundle = conmon.Bundle(folder)
    for pid in (bundle.pid(), bundle.conmon_pid()):
        if pid > 0 and bundle.is_of(pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def write_new(folder: Path, record: Record) -> None:
    """The folder of a new zone."""
    folder.mkdir(parents=True)
    records.write(folder, record)


def throw_away(parts: Parts, uuid: ZoneUUID) -> None:
    """Out of the way by one rename, then off the disk."""
    folder = parts.folders.zone(uuid)
    trash = parts.folders.trash / uuid
    with suppress(FileNotFoundError):
        folder.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)
