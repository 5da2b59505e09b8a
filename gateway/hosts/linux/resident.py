"""A zone as `LinuxZones` holds it in memory: its value, and what hangs on it while it runs."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from gateway.hosts.linux.records import Record
from gateway.hosts.linux.restarter import BackOff, RestartPolicy
from gateway.hosts.linux.rotation import Rotation
from gateway.hosts.linux.stdio import AttachStdio
from gateway.zones.host import Zone
from gateway.zones.spec import ZoneState

log = logging.getLogger(__name__)


class Resident:
    """One zone.

    `lock` orders mutations.  `stopped` is set unless it is up; `cleared` unless a run's remains are being
    taken away.  `starting`: the runtime works on it, an exit is kept in `early_exit`.
    `no_restart`: stopped by hand in this run.
    """

    def __init__(self, record: Record) -> None:
        metadata = record.zone.metadata
        self.record = record
        self.policy = RestartPolicy.parse(metadata.restart_policy)
        self.rotation = Rotation.parse(metadata.log_driver, metadata.log_config)
        self.lock = asyncio.Lock()
        self.stopped = asyncio.Event()
        self.stopped.set()
        self.cleared = asyncio.Event()
        self.cleared.set()
        self.log_ended = asyncio.Event()
        self.log_ended.set()
        self.attaches: list[AttachStdio] = []
        self.starting = False
        self.deleted = False
        self.no_restart = False
        self.early_exit: int | None = None
        self._back_off = BackOff()
        self._timer: asyncio.TimerHandle | None = None
        self._pidfds: list[int] = []

    @property
    def zone(self) -> Zone:
        """Its value now."""
        return self.record.zone

    def take_policy(self, words: str) -> None:
        """Another restart policy, from the next exit on."""
        self.policy = RestartPolicy.parse(words)

    @property
    def is_up(self) -> bool:
        """Its first process lives."""
        return self.record.zone.is_running

    def rotate_log(self, path: Path, reopen: Callable[[], None]) -> bool:
        """If it is due; whether the file that was is to be compressed.  A failure is tried again the next time."""
        try:
            if self.rotation is not None and self.rotation.is_due(path):
                self.rotation.rotate(path, reopen)
                return self.rotation.compress
        except OSError as error:
            log.warning("zone %s: its log is not rotated: %s", self.zone.uuid, error)
        return False

    @property
    def starts_with_host(self) -> bool:
        """dockerd starts it at its own start: the policy wants it up, and no timer is set for it yet."""
        zone = self.zone
        if (
            self.is_up
            or not zone.started_ns
            or (zone.state is ZoneState.RESTARTING and self.scheduled)
        ):
            return False
        return self.policy.wants(
            exit_code=zone.exit_status,
            restarts=zone.restart_count,
            stopped_by_hand=zone.manually_stopped,
        )

    # -- processes -------------------------------------------------------------------------------

    def watch(self, pid: int, conmon_pid: int, conmon_ended: Callable[[], None]) -> None:
        """Follow the first process and its conmon; OSError if either is gone already is told as an end."""
        self.stopped.clear()
        self.log_ended.clear()
        self.no_restart = False
        self._follow(pid, self._take_rest)
        self._follow(conmon_pid, conmon_ended)

    def _follow(self, pid: int, ended: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        try:
            descriptor = os.pidfd_open(pid)
        except (ProcessLookupError, ValueError, OSError):
            loop.call_soon(ended)
            return
        self._pidfds.append(descriptor)

        def once() -> None:
            loop.remove_reader(descriptor)
            ended()

        loop.add_reader(descriptor, once)

    def _take_rest(self) -> None:
        for stdio in self.attaches:
            stdio.take_rest()

    def unwatch(self) -> None:
        """The run is over."""
        for descriptor in self._pidfds:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)
        self._pidfds.clear()

    def send(self, number: int) -> None:
        """Signal the first process; nothing happens if it has ended."""
        if self._pidfds:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfds[0], number)

    # -- attached clients ------------------------------------------------------------------------

    def add_attach(self, stdio: AttachStdio) -> None:
        """One more client; those who left are forgotten."""
        self.attaches = [*self._present(), stdio]

    def _present(self) -> list[AttachStdio]:
        return [stdio for stdio in self.attaches if not stdio.closed]

    def waiting_attaches(self) -> list[AttachStdio]:
        """Those who have no connection to the first process yet."""
        self.attaches = self._present()
        return [stdio for stdio in self.attaches if not stdio.connected]

    def abandon_attaches(self) -> None:
        """No process will come for those who wait."""
        for stdio in self.attaches:
            stdio.abandon()
        self.attaches.clear()

    def forget_attaches(self) -> None:
        """Their sockets end by themselves when conmon does."""
        self._take_rest()
        self.attaches.clear()

    def end_logs(self) -> None:
        """Who follows the log has reached its end."""
        self.log_ended.set()

    # -- restart policy --------------------------------------------------------------------------

    def wants_restart(self, code: int) -> bool:
        """Whether the policy starts it again after an exit with `code`."""
        return not self.no_restart and self.policy.wants(
            exit_code=code,
            restarts=self.zone.restart_count,
            stopped_by_hand=self.zone.manually_stopped,
        )

    def schedule(self, ran_s: float, act: Callable[[], object]) -> None:
        """Call `act` after the policy's delay."""
        self._back_off = self._back_off.after(ran_s)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._back_off.delay_s, act)

    def cancel_restart(self) -> None:
        """No restart by the policy unless it is scheduled anew."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def reset_restarts(self) -> None:
        """A start by hand: the delays begin anew."""
        self._back_off = BackOff()

    @property
    def scheduled(self) -> bool:
        """Whether the policy's timer runs."""
        return self._timer is not None
