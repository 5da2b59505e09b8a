"""zone.json: a zone's spec and what its host remembers of it, so that a killed gateway finds everything again.

{"version": 1, "spec": {payload of vmadm create}, "host": {state, times, pid, ...}}
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gateway.zones.host import Zone
from gateway.zones.metadata import PublishedPort, decode
from gateway.zones.spec import ZoneSpec, ZoneState

FILE = "zone.json"

_KEPT = (
    "created_ns",
    "started_ns",
    "finished_ns",
    "pid",
    "exit_status",
    "restart_count",
    "oom_killed",
    "error",
    "start_exit_code",
    "manually_stopped",
)


@dataclass(frozen=True, slots=True)
class Record:
    """A zone, and its conmon while it runs; `conmon_start` tells a process from a later one of the same number.

    `spec_text` is the spec's JSON, kept since it is written at each change and never changes by itself.
    """

    zone: Zone
    spec_text: str
    conmon_pid: int = 0
    conmon_start: int = 0
    pid_start: int = 0

    @classmethod
    def of(cls, zone: Zone) -> Record:
        """Of a new zone."""
        return cls(zone, json.dumps(zone.spec.payload(), separators=(",", ":")))

    def with_zone(self, zone: Zone) -> Record:
        """After a change of the zone."""
        if zone.spec is self.zone.spec:
            return replace(self, zone=zone)
        return replace(Record.of(zone), conmon_pid=self.conmon_pid, conmon_start=self.conmon_start)


def encode(record: Record) -> str:
    """The file's text."""
    zone = record.zone
    host: dict[str, Any] = {key: getattr(zone, key) for key in _KEPT}
    host["state"] = zone.state.value
    host["ports"] = [port.model_dump() for port in zone.ports]
    host["conmon_pid"] = record.conmon_pid
    host["conmon_start"] = record.conmon_start
    host["pid_start"] = record.pid_start
    text = json.dumps(host, separators=(",", ":"))
    return f'{{"version":1,"spec":{record.spec_text},"host":{text}}}\n'


def parse(text: str) -> Record:
    """Inverse of `encode`; ValueError where it is no such file."""
    document = json.loads(text)
    spec = ZoneSpec.model_validate_json(json.dumps(document["spec"]))
    host: dict[str, Any] = document["host"]
    zone = Zone(
        spec=spec,
        metadata=decode(spec.internal_metadata),
        state=ZoneState(host["state"]),
        ports=tuple(PublishedPort.model_validate(port) for port in host["ports"]),
        **{key: host[key] for key in _KEPT},
    )
    return replace(
        Record.of(zone),
        conmon_pid=host["conmon_pid"],
        conmon_start=host["conmon_start"],
        pid_start=host["pid_start"],
    )


def write(folder: Path, record: Record) -> None:
    """Replace the file in one step."""
    new = folder / f".{FILE}.new"
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    raw = encode(record).encode()
    try:
        # A disk that becomes full takes a part: half a record must not replace a whole one.
        if os.write(descriptor, raw) < len(raw):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(descriptor)
    new.rename(folder / FILE)


def read(folder: Path) -> Record:
    """FileNotFoundError, ValueError."""
    return parse((folder / FILE).read_text())


def process_start(pid: int) -> int:
    """When a process began, in clock ticks since boot; 0 if there is none.  A pid alone may be reused."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(stat.rpartition(")")[2].split()[19])
