"""From VM objects to what has happened to a zone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.hosts.smartos import observed, vmadm
from gateway.hosts.smartos.observed import Note, Seen
from gateway.zones.host import Zone, ZoneChange
from gateway.zones.metadata import PublishedPort
from gateway.zones.spec import ZoneState

UUID = "00000000-0000-4000-8000-000000000001"
SECOND = 1_000_000_000
NOW = vmadm.time_ns("2026-01-01T00:01:00.500Z")


def vm(**values: Any) -> dict[str, Any]:
    """A docker zone as `vmadm get` shows it."""
    metadata = values.pop("metadata", {})
    return {
        "uuid": UUID,
        "brand": "lx",
        "kernel_version": "4.10",
        "image_uuid": "00000000-0000-0000-0000-0000000000bb",
        "alias": "web",
        "docker": True,
        "autoboot": False,
        "state": "stopped",
        "zone_state": "installed",
        "zonepath": f"/zones/{UUID}",
        "create_timestamp": "2026-01-01T00:00:00.000Z",
        "tags": {"zonegate": "test"},
        "internal_metadata": {
            "docker:id": "0" * 64,
            "docker:cmd": '["true"]',
            "docker:entrypoint": "[]",
            "docker:env": "[]",
            **metadata,
        },
    } | values


def up(boot: str = "2026-01-01T00:01:00.000Z", pid: int = 7, **values: Any) -> dict[str, Any]:
    """The same, running."""
    running = {"state": "running", "zone_state": "running", "boot_timestamp": boot, "pid": pid}
    return vm(**(running | values))


def down(exit_time: str, status: int = 0, **values: Any) -> dict[str, Any]:
    """The same after a run."""
    return vm(exit_timestamp=exit_time, exit_status=status, **values)


class Follower:
    """A zone that is shown one VM object after the other."""

    def __init__(self, first: Mapping[str, Any], note: Note | None = None) -> None:
        self.zone: Zone = observed.first(first, note or Note())
        self.seen: Seen = observed.seen(first)
        self.is_ending = False

    def see(self, now: Mapping[str, Any], *, settled: bool = False) -> list[ZoneChange | None]:
        self.seen, changes, self.is_ending = observed.advance(
            self.zone, self.seen, now, NOW, settled=settled
        )
        self.zone = changes[-1][1]
        return [change for change, _ in changes]


def test_a_start_and_an_exit_are_told_once() -> None:
    zone = Follower(vm())
    assert (zone.zone.state, zone.zone.started_ns) == (ZoneState.STOPPED, 0)
    assert zone.see(up()) == [ZoneChange.STARTED]
    assert (zone.zone.state, zone.zone.pid) == (ZoneState.RUNNING, 7)
    assert zone.see(up()) == [None]
    assert zone.see(down("2026-01-01T00:01:09.000Z", 3)) == [ZoneChange.STOPPED]
    assert (zone.zone.state, zone.zone.exit_status, zone.zone.pid) == (ZoneState.STOPPED, 3, 0)
    assert zone.see(down("2026-01-01T00:01:09.000Z", 3)) == [None]


def test_an_exit_is_told_when_its_status_is_known() -> None:
    zone = Follower(up())
    assert zone.see(vm(boot_timestamp=None)) == [None]
    assert zone.is_ending
    assert zone.zone.is_running
    assert zone.see(down("2026-01-01T00:01:09.000Z", 3)) == [ZoneChange.STOPPED]
    assert not zone.is_ending
    assert zone.zone.exit_status == 3


def test_an_exit_without_a_status_is_told_when_none_is_waited_for_any_more() -> None:
    zone = Follower(up())
    zone.see(vm())
    assert zone.see(vm(), settled=True) == [ZoneChange.STOPPED]
    assert zone.zone.state is ZoneState.STOPPED


def test_an_exit_that_is_written_before_the_zone_is_down_is_told_when_it_is() -> None:
    zone = Follower(up())
    assert zone.see(up(exit_timestamp="2026-01-01T00:01:09.000Z", exit_status=3)) == [None]
    assert zone.zone.is_running
    assert zone.see(down("2026-01-01T00:01:09.000Z", 3)) == [ZoneChange.STOPPED]


def test_a_zone_whose_init_is_dead_still_runs_until_it_is_down() -> None:
    zone = Follower(up())
    assert zone.see(up(pid=vmadm.NO_PID, zone_state="shutting_down")) == [None]
    assert (zone.zone.state, zone.zone.pid) == (ZoneState.RUNNING, 7)


def test_a_run_that_nobody_saw_is_told_whole() -> None:
    zone = Follower(vm())
    changes = zone.see(down("2026-01-01T00:01:09.000Z", -9))
    assert changes == [ZoneChange.STARTED, ZoneChange.STOPPED]
    assert zone.zone.exit_status == -9
    assert zone.zone.finished_ns > zone.zone.started_ns > 0


@pytest.mark.parametrize(
    "now",
    [
        {"boot": "2026-01-01T00:01:10.000Z", "pid": 7},
        {"boot": "2026-01-01T00:01:00.000Z", "pid": 8},
    ],
)
def test_a_restart_that_nobody_saw_is_an_exit_and_a_start(now: dict[str, Any]) -> None:
    zone = Follower(up())
    changes = zone.see(up(exit_timestamp="2026-01-01T00:01:09.000Z", exit_status=1, **now))
    assert changes == [ZoneChange.STOPPED, ZoneChange.STARTED]
    assert zone.zone.started_ns > zone.zone.finished_ns


def test_a_start_within_the_second_of_the_last_exit_comes_after_it() -> None:
    zone = Follower(down("2026-01-01T00:01:00.400Z"))
    zone.see(up("2026-01-01T00:01:00.000Z"))
    assert zone.zone.started_ns > zone.zone.finished_ns
    assert zone.zone.started_ns == NOW


@pytest.mark.parametrize(
    ("policy", "status", "count", "again"),
    [
        ("always", 0, 5, True),
        ("on-failure", 0, 0, False),
        ("on-failure", 1, 9, True),
        ("on-failure:2", 1, 1, True),
        ("on-failure:2", 1, 2, False),
        ("", 1, 0, False),
    ],
)
def test_a_restart_to_come_is_known_by_vmadmds_rule(
    policy: str, status: int, count: int, again: bool
) -> None:
    metadata: dict[str, Any] = {"docker:restartcount": count}
    if policy:
        metadata["docker:restartpolicy"] = policy
    zone = Follower(up(autoboot=True, metadata=metadata))
    zone.see(down("2026-01-01T00:01:09.000Z", status, autoboot=True, metadata=metadata))
    assert zone.zone.state is (ZoneState.RESTARTING if again else ZoneState.STOPPED)
    assert zone.zone.restart_count == count + again


def test_autoboot_that_is_off_means_stopped_by_hand() -> None:
    metadata = {"docker:restartpolicy": "always", "docker:restartcount": 0}
    zone = Follower(up(autoboot=True, metadata=metadata))
    zone.see(down("2026-01-01T00:01:09.000Z", autoboot=True, metadata=metadata))
    assert zone.zone.state is ZoneState.RESTARTING
    changes = zone.see(down("2026-01-01T00:01:09.000Z", autoboot=False, metadata=metadata))
    assert changes == [ZoneChange.UPDATED]
    assert (zone.zone.state, zone.zone.manually_stopped) == (ZoneState.STOPPED, True)


def test_a_new_name_is_an_update_and_counts_of_restarts_are_none() -> None:
    zone = Follower(up())
    assert zone.see(up(alias="other")) == [ZoneChange.UPDATED]
    assert zone.zone.spec.alias == "other"
    assert zone.see(up(alias="other", metadata={"docker:restartdelay": 200})) == [None]


def test_what_vmadm_forgot_is_in_the_note() -> None:
    started = vmadm.time_ns("2026-01-01T00:01:00.123Z")
    finished = vmadm.time_ns("2026-01-01T00:01:09.456Z")
    note = Note(started, finished, manually_stopped=True)
    zone = observed.first(down("2026-01-01T00:01:09.000Z", 3), note)
    assert (zone.started_ns, zone.finished_ns) == (started, finished)
    assert zone.manually_stopped
    assert observed.first(down("2026-01-01T00:03:00.000Z", 3), note).finished_ns > finished
    assert observed.first(up(), note).started_ns == started
    late = observed.first(up("2026-01-01T09:00:00.000Z"), note)
    assert late.started_ns == vmadm.time_ns("2026-01-01T09:00:00.000Z")


def test_a_start_that_failed_is_no_run() -> None:
    note = Note(error="no such command", start_exit_code=127)
    zone = observed.first(down("2026-01-01T00:01:09.000Z", 17), note)
    assert (zone.started_ns, zone.finished_ns, zone.error) == (0, 0, "no such command")


def test_ports_are_kept_until_the_exit() -> None:
    zone = Follower(vm())
    zone.zone = replace(zone.zone, ports=(PublishedPort(zone_port=80, host_port=8080),))
    zone.see(vm(autoboot=True))
    zone.see(up())
    assert zone.zone.ports
    zone.see(down("2026-01-01T00:01:09.000Z"))
    assert not zone.zone.ports


def test_a_zone_without_a_note_was_started_if_it_ended() -> None:
    zone = observed.first(down("2026-01-01T00:01:09.000Z", 3), Note())
    assert 0 < zone.started_ns < zone.finished_ns
    assert observed.first(vm(), Note()).started_ns == 0


def test_a_core_dump_does_not_change_the_signal() -> None:
    zone = Follower(up())
    zone.see(down("2026-01-01T00:01:09.000Z", -139))
    assert zone.zone.exit_status == -11


@pytest.mark.parametrize(
    ("values", "half"),
    [
        ({"state": "provisioning", "zone_state": "configured"}, True),
        ({"state": "failed"}, True),
        ({"state": "provisioning", "zone_state": "running"}, False),
        ({}, False),
    ],
)
def test_a_creation_that_was_cut_off_is_known(values: dict[str, Any], half: bool) -> None:
    assert observed.is_half_made(vm(**values)) is half


@given(
    st.lists(
        st.one_of(
            st.builds(up, st.sampled_from(["2026-01-01T00:01:00.000Z", "2026-01-01T00:02:00.000Z"]),
                      st.integers(1, 3)),
            st.builds(down, st.sampled_from(["2026-01-01T00:01:09.000Z", "2026-01-01T00:02:09.000Z"]),
                      st.integers(-15, 127)),
            st.just(vm()),
        ),
        max_size=8,
    )
)  # fmt: skip
def test_starts_and_exits_alternate_whatever_is_seen(vms: list[dict[str, Any]]) -> None:
    zone = Follower(vm())
    told = [change for now in vms for change in zone.see(now, settled=True)]
    runs = [c for c in told if c in (ZoneChange.STARTED, ZoneChange.STOPPED)]
    assert runs[::2] == [ZoneChange.STARTED] * len(runs[::2])
    assert runs[1::2] == [ZoneChange.STOPPED] * len(runs[1::2])
    assert zone.zone.is_running is (len(runs) % 2 == 1)
