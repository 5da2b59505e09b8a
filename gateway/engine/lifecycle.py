"""What follows from a zone's changes: docker events in dockerd's order, and waits.

    started   network connect, volume mount, start
    stopped   die, network disconnect, volume unmount; waits for an exit
    gone      destroy; waits for removal

A change may be seen twice: in the answer of the call that made it and in the host's events.  Each is
noted once, because `note` compares the zone's times with the last ones it saw.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from dockerapi.errors import InvalidParameter, NotFound
from dockerapi.models.base import JSONObject
from gateway.engine.events import Bus
from gateway.translate import from_zone
from gateway.translate.status import exit_code
from gateway.zones.host import Host, Zone
from gateway.zones.spec import ZoneState, ZoneUUID

_CONDITIONS = ("not-running", "next-exit", "removed")


@dataclass(slots=True)
class _Seen:
    """What was noted of one zone, and who waits for more."""

    zone: Zone
    started_ns: int
    finished_ns: int
    exits: set[asyncio.Future[JSONObject]] = field(default_factory=set)
    removals: set[asyncio.Future[JSONObject]] = field(default_factory=set)
    is_restarting: bool = False
    stops: int = 0
    """Clients' stops that are under way and not told of yet."""
    is_killed: bool = False
    """By its removal."""
    is_oom_told: bool = False
    """Of this run."""

    @property
    def is_up(self) -> bool:
        return self.started_ns > self.finished_ns


class Lifecycle:
    """Notes zones.

    `exited` is called after each exit that the restart policy leaves alone, `changed` whenever a zone may be another
    than before.
    """

    def __init__(
        self,
        host: Host,
        bus: Bus,
        *,
        exited: Callable[[Zone], None],
        changed: Callable[[Zone], None],
    ) -> None:
        self._host = host
        self._bus = bus
        self._exited = exited
        self._changed = changed
        self._seen: dict[ZoneUUID, _Seen] = {}
        for zone in host.zones.list():
            self.known(zone)

    def known(self, zone: Zone) -> None:
        """A zone to take notice of from now on."""
        self._seen[zone.uuid] = _Seen(zone, zone.started_ns, zone.finished_ns)

    def hold(self, zone: Zone, *, restarting: bool) -> None:
        """Whether an exit is the middle of a restart: then it is not the end of a --rm container."""
        if seen := self._seen.get(zone.uuid):
            seen.is_restarting = restarting

    def stopping(self, zone: Zone) -> None:
        """A client's stop begins: dockerd tells of it before the exit that it brings."""
        if seen := self._seen.get(zone.uuid):
            seen.stops += 1

    def stopped(self, zone: Zone, *, well: bool) -> None:
        """It is over; where no exit was told with it (there was none any more) it is told now, if it went well."""
        seen = self._seen.get(zone.uuid)
        if seen is not None and not seen.stops:
            return
        if seen is not None:
            seen.stops -= 1
        if well:
            self.emit(zone, "stop")

    def note(self, zone: Zone) -> None:
        """Take notice of what changed since the last time."""
        seen = self._seen.get(zone.uuid)
        if seen is None or seen.is_killed:
            return
        was, seen.zone = seen.zone, zone
        if zone is not was:
            self._changed(zone)
        if zone.error and not zone.is_running:
            # A start that failed: dockerd tells of neither start nor end.
            return
        if (
            seen.is_up
            and zone.finished_ns > seen.finished_ns
            and zone.started_ns > zone.finished_ns
        ):
            # It went down and is up again: tell of the exit before the start.
            self._stopped(seen, zone)
        if zone.started_ns > seen.started_ns:
            seen.started_ns, seen.is_oom_told = zone.started_ns, False
            self._started(zone)
        if zone.finished_ns > seen.finished_ns and not zone.is_running and seen.started_ns:
            self._stopped(seen, zone)
        elif was.state is ZoneState.RESTARTING and zone.state is ZoneState.STOPPED:
            # Stopped while it waited for its restart: there is no exit to tell of, only an end.
            _answer(set(seen.exits), exit_code(zone))

    def oom(self, zone: Zone) -> None:
        """A process of it was killed for want of memory."""
        seen = self._seen.get(zone.uuid)
        if seen is None or not (seen.is_up and seen.started_ns == zone.started_ns):
            return  # told with the end
        seen.is_oom_told = True
        self.emit(zone, "oom")

    def killed(self, zone: Zone) -> None:
        """The host has removed the zone; if it ran, that was its end."""
        seen = self._seen.get(zone.uuid)
        if seen is not None and seen.is_up and not seen.is_killed:
            seen.is_killed = True
            self._died(zone, 137)

    def gone(self, zone: Zone) -> None:
        """The container is no more."""
        self.killed(zone)
        seen = self._seen.pop(zone.uuid, None)
        if seen is None:
            return
        self.emit(zone, "destroy")
        code = 137 if seen.is_killed else exit_code(seen.zone)
        _answer(seen.exits | seen.removals, code)

    def wait(self, zone: Zone, condition: str) -> asyncio.Future[JSONObject]:
        """Registered now.  InvalidParameter for an unknown condition."""
        condition = condition or "not-running"
        if condition not in _CONDITIONS:
            raise InvalidParameter(f'invalid condition: "{condition}"')
        future: asyncio.Future[JSONObject] = asyncio.get_running_loop().create_future()
        seen = self._seen.get(zone.uuid)
        is_down = zone.state is ZoneState.STOPPED
        if seen is None or (condition == "not-running" and is_down):
            future.set_result({"StatusCode": exit_code(zone)})
            return future
        waiting = seen.removals if condition == "removed" else seen.exits
        waiting.add(future)
        future.add_done_callback(waiting.discard)
        return future

    def emit(self, zone: Zone, action: str, **more: str) -> None:
        """A container event: its labels, image and name, and what the action adds."""
        config = from_zone.config(zone)
        attributes = {
            **from_zone.labels(zone),
            **more,
            "image": str(config.get("Image", "")),
            "name": zone.spec.alias,
        }
        self._bus.emit("container", action, zone.metadata.id, attributes)

    def _started(self, zone: Zone) -> None:
        for point in from_zone.mount_points(zone):
            if point.type == "volume":
                more = {"driver": "local", "destination": point.destination}
                more |= {"read/write": str(point.rw).lower(), "propagation": point.propagation}
                self._volume(zone, point.name, "mount", more)
        self._networks(zone, "connect")
        self.emit(zone, "start")

    def _stopped(self, seen: _Seen, zone: Zone) -> None:
        seen.finished_ns = zone.finished_ns
        if zone.oom_killed and not seen.is_oom_told:
            self.emit(zone, "oom")
        stops, seen.stops = seen.stops + seen.is_restarting, 0
        self._died(zone, exit_code(zone), stops=stops)
        _answer(set(seen.exits), exit_code(zone))
        if not seen.is_restarting and zone.state is ZoneState.STOPPED:
            self._exited(zone)

    def _died(self, zone: Zone, code: int, *, stops: int = 0) -> None:
        """In dockerd's order, which tells of the exit when all is cleaned up; `stops`: who asked for it."""
        ran = max(0, zone.finished_ns - zone.started_ns) // 1_000_000_000
        self._networks(zone, "disconnect")
        for point in from_zone.mount_points(zone):
            if point.type == "volume":
                self._volume(zone, point.name, "unmount", {"driver": "local"})
        for _ in range(stops):
            self.emit(zone, "stop")
        self.emit(zone, "die", exitCode=str(code), execDuration=str(ran))

    def _networks(self, zone: Zone, action: str) -> None:
        for name in from_zone.networks_joined(zone):
            try:
                network = self._host.networks.get(name)
            except NotFound:
                continue
            attributes = {"container": zone.metadata.id, "name": network.name}
            self._bus.emit("network", action, network.id, attributes | {"type": network.driver})

    def _volume(self, zone: Zone, name: str, action: str, more: Mapping[str, str]) -> None:
        self._bus.emit("volume", action, name, {"container": zone.metadata.id, **more})


def _answer(waiting: set[asyncio.Future[JSONObject]], code: int) -> None:
    for future in waiting:
        if not future.done():
            future.set_result({"StatusCode": code})
