"""What the gateway remembers of its zones where vmadm does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gateway.hosts.smartos.notes import Notes
from gateway.hosts.smartos.observed import Note
from gateway.zones.host import Zone
from gateway.zones.metadata import decode
from gateway.zones.spec import ZoneState
from tests.contract.conftest import zone_spec


def _zone() -> Zone:
    spec = zone_spec("true")
    return Zone(spec, decode(spec.internal_metadata), ZoneState.STOPPED, created_ns=1)


def test_a_note_is_found_by_the_next_life(tmp_path: Path) -> None:
    zone = replace(
        _zone(),
        started_ns=5,
        finished_ns=6,
        manually_stopped=True,
        error="no",
        start_exit_code=127,
    )
    notes = Notes(tmp_path / "zones")
    notes.creating(zone.uuid)
    notes.write(zone)
    found, unfinished = Notes(tmp_path / "zones").all()
    assert found == {zone.uuid: Note(5, 6, manually_stopped=True, error="no", start_exit_code=127)}
    assert not unfinished


def test_a_creation_that_was_cut_off_is_found(tmp_path: Path) -> None:
    zone = _zone()
    Notes(tmp_path).creating(zone.uuid)
    assert Notes(tmp_path).all() == ({}, {zone.uuid})


def test_nothing_is_written_where_nothing_is_new(tmp_path: Path) -> None:
    zone, notes = _zone(), Notes(tmp_path)
    notes.write(zone)
    path = tmp_path / f"{zone.uuid}.json"
    path.unlink()
    notes.write(replace(zone, pid=7))
    assert not path.exists()
    notes.write(replace(zone, started_ns=7))
    assert path.exists()
    notes.remove(zone.uuid)
    assert not path.exists()


def test_a_torn_note_is_passed_over(tmp_path: Path) -> None:
    zone = _zone()
    (tmp_path / f"{zone.uuid}.json").write_text("{")
    (tmp_path / "else.json").write_text("{}")
    (tmp_path / f"{zone.uuid}.new").write_text("{")
    assert Notes(tmp_path).all() == ({zone.uuid: Note()}, set())
    assert not list(tmp_path.glob("*.new"))
