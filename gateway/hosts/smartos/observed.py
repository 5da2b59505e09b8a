"""What VM objects say of a zone over time: starts, exits, restarts to come.  Pure.

    before    what was seen last         up | down, which run, which exit
    a VM      what is seen now           -> changes in their order, and the zone after each

vminfod tells every change of every file and state, but two of them may come as one, and an exit comes
in pieces: the zone goes down, and its status is written a moment before or after.  So runs are told apart
by boot time and pid, and an exit counts once the zone is down and its time is a new one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from gateway.hosts.smartos import vmadm
from gateway.hosts.smartos.vmadm import VM
from gateway.zones.host import Zone, ZoneChange
from gateway.zones.metadata import decode
from gateway.zones.spec import ZoneState

_UP = frozenset(("running", "stopping", "shutting_down", "down"))
_SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Seen:
    """Which run of a zone was seen last.  `boot` and `exit` are vmadm's texts, "" where it has none."""

    is_up: bool = False
    boot: str = ""
    pid: int = 0
    exit: str = ""


@dataclass(frozen=True, slots=True)
class Note:
    """What vmadm does not keep of a zone; see notes.py."""

    started_ns: int = 0
    finished_ns: int = 0
    manually_stopped: bool = False
    error: str = ""
    start_exit_code: int = 0


Changes = Sequence[tuple[ZoneChange | None, Zone]]
"""None: a new value that is not worth an event."""


def seen(vm: VM) -> Seen:
    """The run that a VM object shows."""
    pid = vm.get("pid") or 0
    return Seen(
        is_up=vm.get("state") in _UP or vm.get("zone_state") in _UP,
        boot=str(vm.get("boot_timestamp") or ""),
        pid=0 if pid == vmadm.NO_PID else int(pid),
        exit=str(vm.get("exit_timestamp") or ""),
    )


def is_half_made(vm: VM) -> bool:
    """A creation under way or cut off.  A zone on its first boot is `provisioning` too, but is up."""
    return vm.get("state") in ("provisioning", "failed", "incomplete", "receiving") and not (
        seen(vm).is_up
    )


def restarts(vm: VM) -> bool:
    """Whether vmadmd will boot a zone that is down: its autoboot was left on, and the policy wants it.

    `vmadm stop` turns autoboot off first, `vmadm start` on if there is a policy.  So a zone stopped by hand
    stays down over a reboot of the machine whatever its policy: `unless-stopped` needs no more than that.
    """
    metadata = _metadata(vm)
    policy = str(metadata.get("docker:restartpolicy", ""))
    if not vm.get("autoboot") or not policy:
        return False
    if policy == "always":
        return True
    match = re.fullmatch(r"on-failure(?::(\d+))?", policy)
    if match is None or not _exit_status(vm):
        return False
    return not match[1] or restart_count(vm) < int(match[1])


def restart_count(vm: VM) -> int:
    """Restarts by vmadmd since the last start by hand; 0 also for a zone that never started."""
    return _integer(_metadata(vm).get("docker:restartcount"))


def first(vm: VM, note: Note) -> Zone:
    """A zone when it is first seen.  ValueError if its VM object is none of ours after all."""
    spec = vmadm.spec(vm)
    run = seen(vm)
    started_ns, finished_ns = _times(vm, run, note)
    zone = Zone(
        spec,
        decode(spec.internal_metadata),
        ZoneState.STOPPED,
        created_ns=vmadm.time_ns(vm.get("create_timestamp")),
        started_ns=started_ns,
        finished_ns=finished_ns,
        error=note.error,
        start_exit_code=note.start_exit_code,
        manually_stopped=note.manually_stopped,
    )
    if run.is_up:
        return _running(zone, vm, run)
    return _down(zone, vm)


def _times(vm: VM, run: Seen, note: Note) -> tuple[int, int]:
    """Of the last start and exit.  vmadm's are to the second, and it forgets a start: what was noted is better."""
    if note.error and not run.is_up:
        return note.started_ns, note.finished_ns
    exit_ns = vmadm.time_ns(run.exit)
    finished_ns = note.finished_ns if abs(note.finished_ns - exit_ns) < _SECOND else exit_ns
    if run.is_up:
        boot_ns = vmadm.time_ns(run.boot)
        is_known = abs(note.started_ns - boot_ns) < 2 * _SECOND
        return max(note.started_ns if is_known else boot_ns, finished_ns + 1), finished_ns
    if not finished_ns:
        return note.started_ns, note.finished_ns
    return note.started_ns or finished_ns - 1, max(finished_ns, note.started_ns + 1)


def advance(
    zone: Zone, before: Seen, vm: VM, now_ns: int, *, settled: bool = False
) -> tuple[Seen, Changes, bool]:
    """What has been seen now, the changes, and whether an exit is still to be told.

    `settled`: no more is to be waited for; a zone that is down has ended, whatever its exit says.
    """
    after = seen(vm)
    was, zone = zone, _respecified(zone, vm)
    told = None if zone is was else ZoneChange.UPDATED
    if before.is_up and after.is_up:
        if not _is_another_run(before, after):
            # The exit may be written before the zone is down: it is told when it is.
            same = _running(zone, vm, after)
            return replace(after, exit=before.exit), ((told, same),), False
        ended = _ended(zone, vm, after, now_ns)
        ended = replace(ended, state=ZoneState.RESTARTING)
        return after, (_stopped(ended), _started(ended, vm, after, now_ns)), False
    if before.is_up:
        if after.exit == before.exit and not settled:
            return before, ((told, zone),), True
        return after, (_stopped(_ended(zone, vm, after, now_ns)),), False
    if after.is_up:
        if after.exit != before.exit:
            zone = replace(zone, finished_ns=max(zone.finished_ns, vmadm.time_ns(after.exit)))
        return after, (_started(zone, vm, after, now_ns),), False
    if after.exit != before.exit and after.exit:
        began = max(zone.finished_ns + 1, vmadm.time_ns(after.exit) - 1)
        up = replace(_running(zone, vm, after), started_ns=began, error="", start_exit_code=0)
        return after, ((ZoneChange.STARTED, up), _stopped(_ended(up, vm, after, now_ns))), False
    # A zone that is just being started has its ports already.
    rest = replace(_down(zone, vm), ports=zone.ports)
    if zone.state is ZoneState.STOPPED:
        # vmadmd looks at the policy when a zone goes down: another one starts nothing by itself.
        rest = replace(rest, state=ZoneState.STOPPED, restart_count=restart_count(vm))
    told = told if rest.state is zone.state else ZoneChange.UPDATED
    return after, ((told, rest),), False


def _is_another_run(before: Seen, after: Seen) -> bool:
    if before.exit == after.exit:
        return False
    return before.boot != after.boot or bool(before.pid and after.pid and before.pid != after.pid)


def _started(zone: Zone, vm: VM, run: Seen, now_ns: int) -> tuple[ZoneChange, Zone]:
    boot_ns = vmadm.time_ns(run.boot)
    # To the second: a start within the second of the last exit would come before it.
    if not boot_ns or (boot_ns % _SECOND == 0 and 0 <= now_ns - boot_ns < _SECOND):
        boot_ns = now_ns
    up = replace(
        _running(zone, vm, run),
        started_ns=max(boot_ns, zone.finished_ns + 1),
        exit_status=0,
        error="",
        start_exit_code=0,
        manually_stopped=False,
    )
    return ZoneChange.STARTED, up


def _stopped(zone: Zone) -> tuple[ZoneChange, Zone]:
    return ZoneChange.STOPPED, zone


def _ended(zone: Zone, vm: VM, run: Seen, now_ns: int) -> Zone:
    finished_ns = vmadm.time_ns(run.exit)
    if finished_ns <= zone.started_ns:
        finished_ns = max(zone.started_ns + 1, now_ns)
    return _down(replace(zone, finished_ns=finished_ns, ports=()), vm)


def _running(zone: Zone, vm: VM, run: Seen) -> Zone:
    return replace(
        zone,
        state=ZoneState.RUNNING,
        pid=run.pid or zone.pid,
        restart_count=restart_count(vm),
        root=f"{vmadm.zonepath(vm)}/root",
    )


def _down(zone: Zone, vm: VM) -> Zone:
    """RESTARTING counts the restart that will come, as dockerd does."""
    again = restarts(vm) and bool(zone.started_ns)
    by_hand = bool(_metadata(vm).get("docker:restartpolicy")) and not vm.get("autoboot")
    return replace(
        zone,
        state=ZoneState.RESTARTING if again else ZoneState.STOPPED,
        pid=0,
        exit_status=_exit_status(vm) if zone.started_ns else 0,
        restart_count=restart_count(vm) + again,
        root="",
        manually_stopped=zone.manually_stopped or (by_hand and bool(zone.started_ns)),
    )


def _respecified(zone: Zone, vm: VM) -> Zone:
    """With the spec as it is now; the old one where it is none of ours any more."""
    try:
        spec = vmadm.spec(vm)
        if spec == zone.spec:
            return zone
        return replace(zone, spec=spec, metadata=decode(spec.internal_metadata))
    except ValueError:
        return zone


def _metadata(vm: VM) -> VM:
    found = vm.get("internal_metadata")
    return found if isinstance(found, dict) else {}


def _exit_status(vm: VM) -> int:
    """The code, or the negative number of the signal, 128 below that with a core dump."""
    status = _integer(vm.get("exit_status"))
    return status + 128 if status < -128 else status


def _integer(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        return 0
