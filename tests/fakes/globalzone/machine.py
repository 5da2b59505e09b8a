"""One machine: its object as `vmadm get` prints it, its files below /zones, what it runs just now.

`set` is the one way to change the object: the change is told (`vmadm events`), stamped and kept on disk.
"""

from __future__ import annotations

import asyncio
import copy
import datetime
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.hosts.command import Child
from tests.fakes.globalzone import configfiles
from tests.fakes.globalzone.objects import changes
from tests.fakes.globalzone.payload import HVM

if TYPE_CHECKING:
    from tests.fakes.globalzone.console import Console
    from tests.fakes.globalzone.zoneadmd import Zoneadmd

Emit = Callable[[str, "Machine", list[dict[str, Any]]], None]
"""(kind of event, machine, changes)."""


def now(timespec: str = "milliseconds") -> str:
    """2026-01-02T03:04:05.678Z"""
    moment = datetime.datetime.now(datetime.UTC)
    return moment.isoformat(timespec=timespec).replace("+00:00", "Z")


def seconds() -> str:
    """As platform files have it: whole seconds, with the zeros that node prints."""
    return now("seconds").replace("Z", ".000Z")


class Machine:
    """`stopped` is set unless it is up; `up` is done once a boot is seen to be one, or fails.

    `inner` is whether the Linux host runs its first process now, `ended` is done with that one's wait
    status, `ending` asks a dockerinit that still waits to end with this wait status.
    """

    def __init__(self, vm: dict[str, Any], *, root: Path, emit: Emit) -> None:
        self.vm = vm
        self.uuid = str(vm["uuid"])
        self.zonepath = root / "zones" / self.uuid
        self._record = root / "etc/zones" / f"{self.uuid}.json"
        self._emit = emit
        self._metadata_changed_ns = 0
        self.lock = asyncio.Lock()
        self.zoneadmd: Zoneadmd | None = None
        """Of a docker zone that is up."""
        self.console: Console | None = None
        """Of a full zone that is up."""
        self.stopped = asyncio.Event()
        self.stopped.set()
        loop = asyncio.get_running_loop()
        self.up: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[int] = loop.create_future()
        self.ending: asyncio.Future[int] = loop.create_future()
        self.inner = False
        self.emulator: Child | None = None
        """What stands for the machine of a bhyve or kvm zone."""
        self.booted_at = 0.0
        self.plugged: list[dict[str, Any]] = []
        """Its nics as they were when it booted."""
        self.addresses6: dict[str, list[str]] = {}
        """What ipadm has added in the zone since it booted, by interface."""
        self.restart: asyncio.TimerHandle | None = None
        """vmadmd's."""
        self.deleting = False

    @property
    def state(self) -> str:
        """vmadm's word."""
        return str(self.vm["state"])

    @property
    def brand(self) -> str:
        """lx, joyent, joyent-minimal, builder, bhyve, kvm."""
        return str(self.vm["brand"])

    @property
    def is_docker(self) -> bool:
        """Whether dockerinit runs it."""
        return bool(self.vm.get("docker"))

    @property
    def is_hvm(self) -> bool:
        """Whether it is a virtual machine."""
        return self.brand in HVM

    @property
    def is_up(self) -> bool:
        """Booted, and not down yet."""
        return not self.stopped.is_set()

    @property
    def root(self) -> Path:
        """The zone's root on this computer."""
        return self.zonepath / "root"

    # --- its object

    def set(self, **values: Any) -> None:
        """New values of properties; None takes one away."""
        new = copy.deepcopy(self.vm)
        for key, value in values.items():
            if value is None:
                new.pop(key, None)
            else:
                new[key] = value
        self.replace(new)

    def replace(self, new: dict[str, Any]) -> None:
        """A whole new object."""
        found = changes(self.vm, new)
        if not found:
            return
        new["last_modified"] = seconds()
        old_metadata = [
            self.vm.get(key) for key in ("internal_metadata", "customer_metadata", "tags")
        ]
        self.vm = new
        if old_metadata != [new.get(k) for k in ("internal_metadata", "customer_metadata", "tags")]:
            self.write_metadata()
        self.save()
        self._emit("modify", self, found)

    def set_metadata(self, **values: Any) -> None:
        """Keys of internal_metadata, `docker_x` for docker:x; None takes one away."""
        self.refresh()
        metadata = dict(self.vm["internal_metadata"])
        for name, value in values.items():
            key = name.replace("docker_", "docker:", 1)
            if value is None:
                metadata.pop(key, None)
            else:
                metadata[key] = value
        self.set(internal_metadata=metadata)

    def refresh(self) -> None:
        """Take in what others (an attach, an admin) wrote into metadata.json."""
        path = self.zonepath / "config/metadata.json"
        with suppress(FileNotFoundError):
            changed_ns = path.stat().st_mtime_ns
            if changed_ns != self._metadata_changed_ns:
                self._metadata_changed_ns = changed_ns
                self.set(**configfiles.read_metadata(self.zonepath))

    def write_metadata(self) -> None:
        """metadata.json and tags.json as the object has it."""
        if self.zonepath.exists():
            self._metadata_changed_ns = configfiles.write_metadata(self.zonepath, self.vm)

    # --- on disk, so that a machine that was switched off comes up with its zones

    def save(self) -> None:
        """Replace the record; a machine that is going has none."""
        if self.deleting:
            return
        new = self._record.with_suffix(".new")
        new.write_text(json.dumps(self.vm))
        new.rename(self._record)

    def forget(self) -> None:
        """The record is gone."""
        self.deleting = True
        self._record.unlink(missing_ok=True)


def read_all(root: Path) -> list[dict[str, Any]]:
    """Objects of an earlier life, oldest first."""
    found = [json.loads(path.read_text()) for path in (root / "etc/zones").glob("*.json")]
    return sorted(found, key=lambda vm: str(vm.get("create_timestamp", "")))


def shown(vm: Mapping[str, Any]) -> dict[str, Any]:
    """As printed: a copy that its reader may change."""
    return copy.deepcopy(dict(vm))
