"""A zone as `SmartOSZones` holds it in memory: what is shown of it, what was last seen of it, who waits.

`zone` is what callers get; `latest` is newer while a start is under way: whether a command could be
started is known only a moment after its zone runs, and until then nobody is told of either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.hosts.smartos import dockerinit, observed
from gateway.hosts.smartos.observed import Seen
from gateway.hosts.smartos.stdio import ZoneStreams
from gateway.hosts.smartos.vmadm import VM
from gateway.zones import brands
from gateway.zones.host import Zone, ZoneChange
from gateway.zones.spec import ZoneState


class Resident:
    """One zone.

    `lock` orders mutations, `wiring` what its networks are asked, who connected it last (`is_wired`).  `was_held`:
    until when dockerinit was to wait as the zone was first seen, "" = it was not.  `was_restarting`: its last exit was no end by the
    policy.  `deleted`: it is being taken away, here or (`vanished`) by somebody else.  `starts` and `exits` count what
    was seen of its runs.  `log_ended` is set unless its log may grow.  `connecting`: the work that connects the
    streams of the run under way.
    """

    def __init__(self, zone: Zone, vm: VM, zonepath: str) -> None:
        self.zone = zone
        self.latest = zone
        self.zonepath = zonepath
        self.seen: Seen = observed.seen(vm)
        self.was_held = dockerinit.held(vm)
        self.lock = asyncio.Lock()
        self.wiring = asyncio.Lock()
        self.is_wired = False
        self.was_restarting = False
        self.deleted = False
        self.vanished = False
        self.starting = False
        self.held: list[tuple[ZoneChange | None, Zone]] = []
        self.starts = 0
        self.exits = 0
        self.streams: ZoneStreams | None = None
        self.connecting: asyncio.Task[None] | None = None
        self.log_ended = asyncio.Event()
        self.set_log_end()
        self._changed = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_up(self) -> bool:
        """Its first process lives, as far as has been seen."""
        return self.latest.is_running

    @property
    def kind(self) -> brands.Kind:
        """Container, full zone or machine."""
        spec = self.zone.spec
        return brands.kind_of(spec.brand, docker=bool(spec.docker))

    def set_log_end(self) -> None:
        """Who follows the log has reached its end, unless it is up or will be."""
        if self.latest.is_running or self.latest.state is ZoneState.RESTARTING:
            self.log_ended.clear()
        else:
            self.log_ended.set()

    def pulse(self) -> None:
        """Something was seen: who waits looks again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def until(self, holds: Callable[[], bool], *, timeout_s: float | None) -> bool:
        """Wait for what is to be seen; False if it was not within the time."""
        try:
            async with asyncio.timeout(timeout_s):
                while not holds():
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def settle_later(self, delay_s: float, act: Callable[[], object]) -> None:
        """Call `act` unless `settled` comes first; a call that is due already stays."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(delay_s, act)

    def settled(self) -> None:
        """There is nothing to wait for any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
