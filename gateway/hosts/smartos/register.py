"""Which zones of ours there are on the machine, kept current by vmadm's events; names; what is told of changes.

    events -> observe -> observed.advance -> Resident -> ZoneEvents for the engine
                     `-> not ours: `foreign`      `-> `started`, `stopped`, `vanished` for what hangs on a run

One ready event is all that an opening costs, however many zones there are.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Container, Coroutine, Sequence
from contextlib import aclosing, suppress
from typing import Any

from dockerapi.errors import APIError, CommandFailed, NoSuchContainer
from gateway.hosts.roll import Roll
from gateway.hosts.smartos import observed, vmadm
from gateway.hosts.smartos.events import Events, VMEvent
from gateway.hosts.smartos.globalzone import GlobalZone
from gateway.hosts.smartos.notes import Notes
from gateway.hosts.smartos.observed import Note
from gateway.hosts.smartos.resident import Resident
from gateway.hosts.smartos.vmadm import VM
from gateway.zones.host import Zone, ZoneChange
from gateway.zones.spec import ZoneState, ZoneUUID

log = logging.getLogger(__name__)

_SETTLE_S = 3.0
"""So long after a zone went down its exit status may come."""


_CLOSE_S = 5.0
_SWEEP_S = 30.0
"""So long others wait for a zone that was half made to go."""


class Register(Roll[Resident]):
    """Zones with the tag `zonegate` = `name`.  The callables are set by who acts on zones."""

    def __init__(
        self,
        gz: GlobalZone,
        *,
        name: str,
        notes: Notes,
        group: asyncio.TaskGroup,
        root: str = "/",
    ) -> None:
        super().__init__()
        self._gz = gz
        self._root = root
        self._name = name
        self._events = Events(gz)
        self._group = group
        self._background: set[asyncio.Task[None]] = set()
        self._follower: asyncio.Task[None] | None = None
        self._noted: dict[ZoneUUID, Note] = {}
        self._gone: set[str] = set()
        self._others: set[str] = set()
        self._is_open = False
        self._swept: set[ZoneUUID] = set()
        self._going: set[ZoneUUID] = set()
        self._went = asyncio.Event()
        self._made: dict[str, VM] = {}
        self._seen = asyncio.Event()
        self.notes = notes
        self.creating: set[str] = set()
        """Zones that this gateway is about to make."""
        self.unfinished: set[ZoneUUID] = set()
        """Zones whose creation an earlier life did not see the end of."""
        self.started: Callable[[Resident], None] = lambda _: None
        self.stopped: Callable[[Resident], None] = lambda _: None
        self.foreign: Callable[[VM], None] = lambda _: None
        self.gave_up: Callable[[Resident], None] = lambda _: None
        """One that was between two runs will not run again by itself."""
        self.vanished: Callable[[Resident], None] = lambda _: None
        self.foreign_gone: Callable[[str], None] = lambda _: None
        self.published: Callable[[Zone], None] = lambda _: None
        """Every new value of a zone of ours, before anybody is told."""
        self.dropped: Callable[[ZoneUUID], None] = lambda _: None
        self.resynced: Callable[[], None] = lambda: None
        self.looks_around: Callable[[], Coroutine[Any, Any, None]] | None = None
        """What is done about programs of an earlier life, and of a connection that was lost."""
        self._looking: asyncio.Task[None] | None = None
        self.half_made: Callable[[ZoneUUID], None] = lambda _: None

    # -- what is known -----------------------------------------------------------------------------

    def runs(self, uuid: ZoneUUID) -> bool | None:
        """Whether a zone of ours is up, or about to be; None: there is none."""
        resident = self.zones.get(uuid)
        if resident is None:
            return None
        return resident.starting or resident.latest.state is not ZoneState.STOPPED

    def is_taken(self, uuid: str) -> bool:
        """Whether any zone of the machine has this UUID."""
        return uuid in self.zones or uuid in self._others or uuid in self.creating

    @property
    def lost(self) -> str:
        """Why nothing is heard from the machine at the moment, or ""."""
        return self._events.lost

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Work that nobody waits for but `close`.  What goes wrong in it is logged and ends nothing else."""
        _ = self.task(work)

    def look_around(self) -> None:
        """Beside everything else; once at a time."""
        if self.looks_around is not None and (self._looking is None or self._looking.done()):
            self._looking = self.task(_logged(self.looks_around()))

    def task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """The same, for who may want to cancel it."""
        task = self._group.create_task(_logged(work))
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    # -- opening and closing -----------------------------------------------------------------------

    async def open(self) -> None:
        """All zones of ours are known.  CommandFailed or Unavailable where there is no such machine."""
        self._noted, self.unfinished = await asyncio.to_thread(self.notes.all)
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._follower = self._group.create_task(self._follow(ready))
        try:
            await ready
        except BaseException:
            self._follower.cancel()
            raise
        self._is_open = True

    async def close(self) -> None:
        """Nothing is followed any more; work under way is waited for, and what only waits itself is cut off."""
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.wait([self._follower])
        for resident in self.zones.values():
            resident.settled()
        if self._looking is not None:
            self._looking.cancel()
        if self._background:
            await asyncio.wait(self._background, timeout=_CLOSE_S)
        for task in tuple(self._background):
            task.cancel()
            await asyncio.wait([task])

    async def _follow(self, ready: asyncio.Future[None]) -> None:
        try:
            async with aclosing(self._events.follow()) as events:
                async for event in events:
                    self._take(event)
                    if not ready.done():
                        ready.set_result(None)
        except (APIError, OSError, TimeoutError) as error:
            # Only before the first event: later ones are followed by another try.
            if ready.done():
                raise
            ready.set_exception(_without_machine(self._gz, error))

    def _take(self, event: VMEvent) -> None:
        match event.kind:
            case "ready":
                self._synchronise(event.vms or (), event.time_ns)
            case "delete":
                self._gone.discard(event.uuid)
                self._not_foreign(event.uuid)
                self._vanished(event.uuid)
            case _ if event.vm is not None:
                self.observe(event.vm, event.time_ns)
            case _ if event.uuid in self.zones:
                self.later(self.refresh(self.zones[ZoneUUID(event.uuid)]))

    def _synchronise(self, vms: Sequence[VM], now_ns: int) -> None:
        """What there is now; also after a gap, whose changes become events like all others."""
        there = {str(vm.get("uuid")) for vm in vms}
        self._gone &= there
        if not self._is_open:
            self._forget_notes(there)
            for unfinished in tuple(self.unfinished):
                self._sweep(unfinished)
        for uuid in self._others - there:
            self._not_foreign(uuid)
        for uuid in set(self.zones) - there:
            self._vanished(uuid)
        for vm in sorted(vms, key=lambda vm: str(vm.get("create_timestamp") or "")):
            self.observe(vm, now_ns)
        self.resynced()
        self.look_around()

    def _forget_notes(self, there: Container[str]) -> None:
        """A kill between `vmadm delete` and the end of our own removal leaves the note of a zone that is gone."""
        for uuid in [uuid for uuid in self._noted if uuid not in there]:
            del self._noted[uuid]
            self.notes.remove(uuid)

    # -- observing ---------------------------------------------------------------------------------

    def observe(self, vm: VM, now_ns: int) -> None:
        """A VM as it is now.  Whatever is wrong with it must not end the gateway."""
        try:
            self._observe(vmadm.located(vm, self._root), now_ns)
        except Exception:
            log.exception("a VM of %s is passed over: %s", self._gz.name, vm.get("uuid"))

    def _observe(self, vm: VM, now_ns: int) -> None:
        uuid = ZoneUUID(str(vm["uuid"]))
        if not vmadm.is_ours(vm, self._name):
            self._vanished(uuid)  # somebody took our tag away from it
            self._others.add(uuid)
            self.foreign(vm)
        elif resident := self.zones.get(uuid):
            self._advance(resident, vm, now_ns)
        elif uuid in self.creating:
            self._made[uuid] = vm
            self._seen.set()
        elif uuid in self.unfinished:
            self._sweep(uuid)
        elif observed.is_half_made(vm):
            if not self._is_open and uuid not in self._noted:
                self._sweep(uuid)
        elif uuid not in self._gone:
            self._adopt(vm, uuid)

    def _sweep(self, uuid: ZoneUUID) -> None:
        """Once for each: events of its removal must not begin it again."""
        self.unfinished.add(uuid)
        if uuid not in self._swept:
            self._swept.add(uuid)
            self._going.add(uuid)
            self.half_made(uuid)

    def went(self, uuid: ZoneUUID) -> None:
        """What was half made of it is gone, or was given up."""
        self._going.discard(uuid)
        self._went.set()

    @property
    def is_sweeping(self) -> bool:
        """Whether something half made is on its way out."""
        return bool(self._going)

    async def until_swept(self) -> None:
        """What is half made holds nothing any more; or it takes too long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_SWEEP_S):
                while self._going:
                    self._went.clear()
                    await self._went.wait()

    def _not_foreign(self, uuid: str) -> None:
        if uuid in self._others:
            self._others.discard(uuid)
            self.foreign_gone(uuid)

    def _adopt(self, vm: VM, uuid: ZoneUUID) -> None:
        """A zone of before the opening, or of another gateway with our name."""
        try:
            zone = observed.first(vm, self._noted.get(uuid, Note()))
        except ValueError as error:
            log.warning("zone %s has our tag, and is none of ours: %s", uuid, error)
            return
        self._not_foreign(uuid)
        self.aliases.setdefault(zone.spec.alias, uuid)
        self.zones[uuid] = Resident(zone, vm, vmadm.zonepath(vm))
        if self._is_open:
            self.emit(ZoneChange.CREATED, zone)

    async def made(self, uuid: ZoneUUID, *, timeout_s: float) -> VM:
        """The VM of a zone that was just created, as an event shows it; else as vmadm does."""
        try:
            async with asyncio.timeout(timeout_s):
                while uuid not in self._made or observed.is_half_made(self._made[uuid]):
                    self._seen.clear()
                    await self._seen.wait()
        except TimeoutError:
            return vmadm.located(await vmadm.get(self._gz, uuid), self._root)
        return self._made[uuid]

    def add(self, zone: Zone, vm: VM) -> Resident:
        """A zone that is complete now."""
        # What is still noted as being made would be taken away by the next life: without this there is no zone.
        self.notes.write(zone)
        resident = Resident(zone, vm, vmadm.zonepath(vm))
        self.zones[zone.uuid] = resident
        self._end_creation(zone.uuid)
        self.emit(ZoneChange.CREATED, zone)
        return resident

    def _end_creation(self, uuid: ZoneUUID) -> None:
        self.creating.discard(uuid)
        self._made.pop(uuid, None)

    def abandon(self, uuid: ZoneUUID, alias: str) -> None:
        """A creation failed; what is left of it, if anything, is `unfinished`."""
        self._end_creation(uuid)
        self.free(alias, uuid)
        self._sweep(uuid)

    def owns(self, vm: VM) -> bool:
        """Whether a VM has our tag."""
        return vmadm.is_ours(vm, self._name)

    def forget(self, uuid: ZoneUUID) -> None:
        """Nothing is left of a creation that failed.  Should it turn up all the same, it is taken away."""
        self._swept.discard(uuid)
        self._gone.add(uuid)
        self.notes.remove(uuid)

    def remove(self, resident: Resident) -> None:
        """The zone is gone, and everybody is told."""
        uuid = resident.zone.uuid
        self._gone.add(uuid)
        self._drop(resident)

    def _vanished(self, uuid: str) -> None:
        """Gone without our doing; what is being deleted here says so itself."""
        resident = self.zones.get(ZoneUUID(uuid))
        if resident is not None and not resident.deleted:
            log.info("zone %s was taken away", uuid)
            resident.deleted = resident.vanished = True
            self._drop(resident)
            self.vanished(resident)
        self.unfinished.discard(ZoneUUID(uuid))

    def _drop(self, resident: Resident) -> None:
        uuid = resident.zone.uuid
        del self.zones[uuid]
        self.free(resident.zone.spec.alias, uuid)
        self.notes.remove(uuid)
        resident.settled()
        resident.log_ended.set()
        self.dropped(uuid)
        self.emit(ZoneChange.DELETED, resident.zone)
        resident.pulse()

    async def refresh(self, resident: Resident, *, settled: bool = False) -> None:
        """Ask vmadm how it is; `settled`: a zone that is down has ended, whatever is known of its exit."""
        try:
            vm = await vmadm.get(self._gz, resident.zone.uuid)
        except NoSuchContainer:
            self._vanished(resident.zone.uuid)
            return
        if not resident.vanished:
            vm = vmadm.located(vm, self._root)
            self._advance(resident, vm, time.time_ns(), settled=settled)

    def _advance(self, resident: Resident, vm: VM, now_ns: int, *, settled: bool = False) -> None:
        resident.seen, changes, is_ending = observed.advance(
            resident.latest, resident.seen, vm, now_ns, settled=settled
        )
        for change, zone in changes:
            self.change(resident, change, zone)
        if is_ending:
            resident.settle_later(
                _SETTLE_S, lambda: self.later(self.refresh(resident, settled=True))
            )
        else:
            resident.settled()
        resident.pulse()

    def change(self, resident: Resident, change: ZoneChange | None, zone: Zone) -> None:
        """A new value.  While a start is under way it is kept back."""
        if change is None and zone == resident.latest:
            return
        resident.latest = zone
        resident.starts += change is ZoneChange.STARTED
        resident.exits += change is ZoneChange.STOPPED
        if resident.starting:
            resident.held.append((change, zone))
        else:
            self._publish(resident, change, zone)

    def release(self, resident: Resident) -> None:
        """The start is over: everything that was kept back is told."""
        resident.starting = False
        held, resident.held = resident.held, []
        for change, zone in held:
            self._publish(resident, change, zone)
        if not held and resident.zone != resident.latest:
            self._publish(resident, None, resident.latest)
        resident.pulse()

    def _publish(self, resident: Resident, change: ZoneChange | None, zone: Zone) -> None:
        if zone.spec.alias != resident.zone.spec.alias:
            self.free(resident.zone.spec.alias, zone.uuid)
            self.aliases.setdefault(zone.spec.alias, zone.uuid)
        before, resident.zone = resident.zone.state, zone
        self.published(zone)
        resident.set_log_end()
        self._note(zone)
        if before is ZoneState.RESTARTING and zone.state is ZoneState.STOPPED:
            self.gave_up(resident)
        if change is None:
            return
        self.emit(change, zone)
        if change is ZoneChange.STARTED:
            self.started(resident)
        elif change is ZoneChange.STOPPED:
            log.info("zone %s stopped: exit status %d", zone.uuid, zone.exit_status)
            self.stopped(resident)

    def _note(self, zone: Zone) -> None:
        """A zone that filled the disk has ended all the same: what cannot be kept must not keep its end from anybody."""
        try:
            self.notes.write(zone)
        except OSError as error:
            log.error("zone %s: its note cannot be written: %s", zone.uuid, error)  # noqa: TRY400


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except (APIError, OSError) as error:
        log.warning("%s: %s", getattr(work, "__qualname__", work), error)
    except Exception:
        log.exception("%s", getattr(work, "__qualname__", work))


def _without_machine(gz: GlobalZone, error: Exception) -> APIError:
    match error:
        case CommandFailed():
            return APIError(
                f"{gz.name}: vmadm tells no events, vminfod may not run: {error.message}",
                detail=error.stderr,
            )
        case APIError():
            return error
        case TimeoutError():
            return APIError(f"{gz.name}: vmadm tells no events, vminfod may not run: no answer")
    return APIError(f"{gz.name}: {error}")
