"""Notes of this gateway on its zones: what vmadm does not keep, one small file a zone in `data_root/zones`.

A VM object forgets when its last run began, why a start failed, and who stopped it.  A note that is lost
costs those facts and nothing else.  A note that says `creating` is older than its zone: the mark by
which a creation that a kill cut off is found and taken away.  It stays until that zone can come no more.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from gateway.hosts.smartos.observed import Note
from gateway.zones.host import Zone
from gateway.zones.spec import ZoneUUID, is_uuid

log = logging.getLogger(__name__)


class Notes:
    """The notes in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._written: dict[str, Note] = {}

    def all(self) -> tuple[dict[ZoneUUID, Note], set[ZoneUUID]]:
        """The notes of finished zones, and the zones whose creation was cut off.  Blocks."""
        notes: dict[ZoneUUID, Note] = {}
        unfinished: set[ZoneUUID] = set()
        for torn in self._folder.glob("*.new"):
            torn.unlink()
        for path in self._folder.glob("*.json"):
            if not is_uuid(path.stem):
                continue
            uuid = ZoneUUID(path.stem)
            values = _read(path)
            if values.get("creating"):
                unfinished.add(uuid)
            else:
                notes[uuid] = self._written[uuid] = _note(values)
        return notes, unfinished

    def creating(self, uuid: ZoneUUID) -> None:
        """A creation begins; `write` or `remove` ends it."""
        self._put(uuid, {"creating": True})

    def write(self, zone: Zone) -> None:
        """Keep what is to be kept of a zone; nothing is written where nothing is new."""
        note = Note(
            zone.started_ns,
            zone.finished_ns,
            zone.manually_stopped,
            zone.error,
            zone.start_exit_code,
        )
        if self._written.get(zone.uuid) != note:
            self._put(zone.uuid, asdict(note))
            self._written[zone.uuid] = note

    def remove(self, uuid: ZoneUUID) -> None:
        """The zone is gone."""
        self._written.pop(uuid, None)
        self._path(uuid).unlink(missing_ok=True)

    def _path(self, uuid: ZoneUUID) -> Path:
        return self._folder / f"{uuid}.json"

    def _put(self, uuid: ZoneUUID, values: Mapping[str, Any]) -> None:
        path = self._path(uuid)
        new = path.with_suffix(".new")
        new.write_text(json.dumps(values))
        new.replace(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        log.warning("%s is passed over: %s", path, error)
        return {}
    return values if isinstance(values, dict) else {}


def _note(values: Mapping[str, Any]) -> Note:
    known = {item.name for item in fields(Note)}
    return Note(**{key: value for key, value in values.items() if key in known})
