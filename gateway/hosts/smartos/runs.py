"""Runs of zones: from a start to an end, by hand or by vmadmd.

    start   network -> flag for who is attached -> vmadm start -> seen to run -> its command found
    stop    SIGTERM: vmadm stop; any other signal, no time or time without end: vmadm kill and our own wait
    seen    a start or exit that nobody here asked for: vmadmd's restarts, `halt` in the zone, an admin

The caller holds the zone's lock for `start` and `stop`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from dockerapi.errors import APIError, NoSuchContainer, NotModified, NotRunning, StartFailure
from gateway.hosts.networks import for_start
from gateway.hosts.smartos import dockerinit, plumbing, starting, vmadm
from gateway.hosts.smartos.accounts import make_known
from gateway.hosts.smartos.dockerinit import hold_start, let_start, let_start_for_good
from gateway.hosts.smartos.globalzone import GlobalZone
from gateway.hosts.smartos.localmounts import LocalMounts
from gateway.hosts.smartos.naming import Naming
from gateway.hosts.smartos.register import Register
from gateway.hosts.smartos.resident import Resident
from gateway.hosts.smartos.stdio import ZoneStreams
from gateway.zones import brands
from gateway.zones.host import Zone, ZoneChange
from gateway.zones.metadata import PublishedPort
from gateway.zones.spec import Nic, ZoneState, ZoneUUID

log = logging.getLogger(__name__)

KILL_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 10.0
_SEEN_TIMEOUT_S = 15.0
"""So long after vmadm is done its event may come; then the VM is asked for."""
_ATTACH_TIMEOUT_MS = 60_000
"""So long dockerinit waits for whoever attaches; then it gives up, as cn-agent has it."""
_INIT_TIMEOUT_S = 5.0
"""So long dockerinit may take to find its command before a start counts as made."""
NEVER_RAN = 128
"""Exit code of a zone that could not be started for another reason than its command."""


class Networks(Protocol):
    """What zones ask of the networks; see network.py."""

    def learn(self, uuid: ZoneUUID, nics: Sequence[Nic]) -> None: ...
    def rivals(self, uuid: ZoneUUID, nics: Sequence[Nic]) -> Mapping[ZoneUUID, set[str]]: ...
    def tags(self, nics: Sequence[Nic]) -> dict[str, bool]: ...
    def release(self, uuid: ZoneUUID) -> None: ...
    def give_up(self, uuid: ZoneUUID, networks: Container[str]) -> None: ...
    async def connect(self, zone: Zone) -> tuple[PublishedPort, ...]: ...
    async def disconnect(self, uuid: ZoneUUID) -> None: ...
    async def adopt(self, zones: Sequence[Zone]) -> dict[ZoneUUID, tuple[PublishedPort, ...]]: ...


class Runs:
    """Starts and ends zones of the register, and looks after what hangs on a run."""

    def __init__(
        self,
        gz: GlobalZone,
        register: Register,
        networks: Networks,
        naming: Naming,
        mounts: LocalMounts,
        root: str = "/",
    ) -> None:
        self._gz = gz
        self._root = root
        self._register = register
        self._networks = networks
        self._naming = naming
        self._mounts = mounts
        self.before_start: Callable[[Zone], Awaitable[None]] | None = None
        self._left: dict[ZoneUUID, Resident] = {}
        """Zones that are down, whose rules or ports may still be there."""
        register.started = self._seen_started
        register.stopped = self._seen_stopped
        register.gave_up = lambda resident: register.later(self._unmount(resident))
        register.vanished = lambda resident: register.later(self.let_go(resident))
        register.resynced = self._unwire_left

    # -- start -------------------------------------------------------------------------------------

    async def start(self, resident: Resident) -> Zone:
        """Running, or already ended.  After a failure it is down and nothing is left but `error`."""
        before = resident.latest
        resident.starting, resident.connecting, resident.was_restarting = True, None, False
        try:
            if self.before_start is not None:
                await self.before_start(resident.zone)
            await self._naming.prepare(resident.latest, starting=True)
            await self._mounts.hold(resident.zone.uuid, _sources(resident))
            await self._wire(resident)
            await self._boot(resident)
        except BaseException as error:
            shown = error if isinstance(error, APIError) else APIError(f"cannot start: {error}")
            await self._undo(resident, before, shown)
            raise
        self._register.release(resident)
        if not resident.is_up:
            self._streams_ended(resident)
        elif resident.connecting is None:
            self.connect(resident)  # somebody attached while it was starting
        return resident.zone

    async def _boot(self, resident: Resident) -> None:
        """Until the command runs or has ended.  StartFailure if it could not be started."""
        uuid, starts, exits = resident.zone.uuid, resident.starts, resident.exits
        is_container = resident.kind is brands.Kind.CONTAINER
        if is_container:
            await starting.forget_log(self._gz, resident.zonepath)
            zone = resident.zone
            await make_known(self._gz, resident.zonepath, zone.metadata.user, zone.spec.filesystems)
        has_clients = resident.streams is not None and resident.streams.has_clients
        lacks_addresses = is_container and bool(plumbing.addresses(resident.zone.spec.nics))
        if has_clients or lacks_addresses:
            until_ms = time.time_ns() // 1_000_000 + _ATTACH_TIMEOUT_MS
            await hold_start(self._gz, resident.zonepath, until_ms)
        if has_clients and not lacks_addresses:
            self.connect(resident)
        with suppress(NotModified):  # vmadmd was quicker
            await vmadm.start(self._gz, uuid)
        if not await resident.until(lambda: resident.starts > starts, timeout_s=_SEEN_TIMEOUT_S):
            await self._register.refresh(resident, settled=True)
        if resident.deleted:
            raise NoSuchContainer(uuid)
        if resident.starts == starts:
            raise APIError(f"vmadm started zone {uuid}, which does not run")
        if is_container:
            await self._until_executed(resident, exits)
        if lacks_addresses and resident.exits == exits:
            await self._address(resident, exits)

    async def _address(self, resident: Resident, exits: int) -> None:
        """It waits, and has the addresses that dockerinit does not plumb; then whoever is attached, or its command."""
        await plumbing.plumb(self._gz, resident.zone.spec, resident.zonepath, self._root)
        if resident.streams is not None and resident.streams.has_clients:
            self.connect(resident)
            return
        held = await let_start(self._gz, resident.zonepath)

        async def over(seconds: float) -> bool:
            return await resident.until(lambda: resident.exits > exits, timeout_s=seconds)

        if held:
            self._register.later(let_start_for_good(self._gz, resident.zonepath, held, over))

    async def _let_go_of(self, resident: Resident) -> None:
        """An earlier life was killed before it could: its command begins, or it can be started at all."""
        if resident.is_up:
            await self._readdress(resident)
        try:
            await let_start(self._gz, resident.zonepath, resident.was_held)
        except (APIError, OSError) as error:
            log.warning("zone %s may wait for an attach: %s", resident.zone.uuid, error)

    async def _readdress(self, resident: Resident) -> None:
        """Of a run that nobody here has begun: nothing waits for it."""
        exits = resident.exits
        try:
            await self._until_executed(resident, exits)
            if resident.is_up and resident.exits == exits:
                await plumbing.plumb(self._gz, resident.zone.spec, resident.zonepath, self._root)
        except (APIError, OSError) as error:
            log.warning("zone %s: %s", resident.zone.uuid, error)

    async def _until_executed(self, resident: Resident, exits: int) -> None:
        deadline = time.monotonic() + _INIT_TIMEOUT_S
        while resident.exits == exits and time.monotonic() < deadline:
            if await starting.executes(self._gz, resident.zonepath):
                return
            await resident.until(lambda: resident.exits > exits, timeout_s=starting.POLL_S)
        if resident.exits == exits:
            return
        status = resident.latest.exit_status
        failed = await dockerinit.start_failure(self._gz, resident.zonepath, status)
        if failed is not None:
            code, text = failed
            raise StartFailure(text, code)

    async def _undo(self, resident: Resident, before: Zone, error: APIError) -> None:
        """Down, and vmadmd told to leave it alone: dockerd does not retry what could not be started."""
        try:
            if resident.connecting is not None:
                resident.connecting.cancel()
            if resident.connecting is not None or plumbing.addresses(resident.zone.spec.nics):
                await let_start(self._gz, resident.zonepath)
            if resident.is_up or resident.latest.state is ZoneState.RESTARTING:
                await vmadm.halt(self._gz, resident.zone.uuid)
                await self.until_down(resident)
        except (APIError, OSError) as problem:
            log.warning("zone %s does not go down: %s", resident.zone.uuid, problem)
        if not resident.is_up:
            resident.latest = replace(
                resident.latest,
                state=ZoneState.STOPPED,
                started_ns=before.started_ns,
                finished_ns=before.finished_ns,
                exit_status=before.exit_status,
                restart_count=before.restart_count,
                ports=(),
                error=error.message,
                start_exit_code=error.exit_code if isinstance(error, StartFailure) else NEVER_RAN,
            )
            resident.held.clear()
        self._register.release(resident)
        if not resident.is_up:
            self._streams_ended(resident)
            self._register.later(self._unwire(resident))
            self._register.later(self._unmount(resident))

    def connect(self, resident: Resident) -> None:
        """The one client of its streams, beside whatever else is done; nothing without anybody attached."""
        streams = resident.streams
        if streams is None:
            return
        streams.begin()
        if streams.has_clients:
            resident.connecting = self._register.task(_connected(streams, resident.zone.uuid))

    # -- network -----------------------------------------------------------------------------------

    async def _wire(self, resident: Resident) -> None:
        """Rules and published ports, before it runs: a port that is taken must not let anything run."""
        async with resident.wiring:
            if resident.is_wired or resident.zone.uuid in self._left:
                await self._networks.disconnect(resident.zone.uuid)
            self._left.pop(resident.zone.uuid, None)
            resident.is_wired = True
            with for_start():
                ports = await self._networks.connect(resident.latest)
            if ports:
                told = None if resident.starting else ZoneChange.UPDATED
                self._register.change(resident, told, replace(resident.latest, ports=ports))

    async def _unwire(self, resident: Resident) -> None:
        async with resident.wiring:
            uuid = resident.zone.uuid
            if (resident.is_wired or uuid in self._left) and (
                resident.vanished or not (resident.starting or resident.is_up)
            ):
                resident.is_wired, self._left[uuid] = False, resident
                await self._networks.disconnect(uuid)
                del self._left[uuid]

    def _unwire_left(self) -> None:
        """Again, when the machine is heard of: what was lost with a connection is not to wait for the next start."""
        for resident in self._left.values():
            self._register.later(self._unwire(resident))

    async def let_go(self, resident: Resident) -> None:
        """The zone is gone: whoever is attached, its rules, ports and addresses go too."""
        if resident.streams is not None:
            await resident.streams.close()
        try:
            await self._unwire(resident)
        except (APIError, OSError) as error:
            log.warning("zone %s: its network is left: %s", resident.zone.uuid, error)
        self._networks.release(resident.zone.uuid)
        await self._unmount(resident)

    # -- volumes -----------------------------------------------------------------------------------

    async def _unmount(self, resident: Resident) -> None:
        """What its volumes mount, with their last user; vmadmd's restarts find it as it was."""

        def is_used() -> bool:
            is_restarting = resident.latest.state is ZoneState.RESTARTING
            is_gone = resident.vanished or resident.deleted
            return not is_gone and (resident.starting or resident.is_up or is_restarting)

        await self._mounts.release(resident.zone.uuid, is_used)

    async def _hold_seen(self, resident: Resident) -> None:
        try:
            await self._mounts.hold(resident.zone.uuid, _sources(resident))
        except (APIError, OSError) as error:
            log.warning("zone %s: its volumes: %s", resident.zone.uuid, error)

    async def adopt_mounts(self) -> None:
        """After a restart of the gateway: what a zone has stays, the rest goes."""
        users = {
            str(resident.zone.uuid): tuple(_sources(resident))
            for resident in self._register.zones.values()
            if resident.is_up or resident.latest.state is ZoneState.RESTARTING
        }
        for name in await self._mounts.adopt(users):
            self._register.later(self._mounts.drop(name))

    # -- what is seen ------------------------------------------------------------------------------

    def _seen_started(self, resident: Resident) -> None:
        """A start of ours has its network and its streams already."""
        if resident.is_wired and not resident.was_restarting:
            return
        resident.was_restarting = False
        self.connect(resident)
        self._register.later(self._hold_seen(resident))
        self._register.later(self._wire(resident))
        self._readdress_later(resident)

    def _readdress_later(self, resident: Resident) -> None:
        is_container = resident.kind is brands.Kind.CONTAINER
        if is_container and plumbing.addresses(resident.zone.spec.nics):
            self._register.later(self._readdress(resident))

    def _seen_stopped(self, resident: Resident) -> None:
        resident.was_restarting = resident.zone.state is ZoneState.RESTARTING
        self._streams_ended(resident)
        self._register.later(self._unwire(resident))
        self._register.later(self._unmount(resident))

    def _streams_ended(self, resident: Resident) -> None:
        if resident.streams is not None:
            resident.streams.ended()

    async def adopt(self) -> None:
        """After a restart of the gateway: ports of zones that run are served again."""
        residents = tuple(self._register.zones.values())
        ports = await self._networks.adopt([resident.zone for resident in residents])
        for resident in residents:
            resident.is_wired = resident.is_up
            if resident.was_held:
                self._register.later(self._let_go_of(resident))
            elif resident.is_up:
                self._readdress_later(resident)
            if taken := ports.get(resident.zone.uuid):
                self._register.change(resident, None, replace(resident.latest, ports=taken))

    # -- stop and kill -----------------------------------------------------------------------------

    async def stop(self, resident: Resident, signal: str, timeout_s: float | None) -> bool:
        """Whether there was something to stop."""
        uuid = resident.zone.uuid
        if resident.latest.state is ZoneState.RESTARTING:
            self._stopped_by_hand(resident)
            await vmadm.halt(self._gz, uuid)
            await self.until_down(resident)
            self._streams_ended(resident)
            return True
        if not resident.is_up:
            return False
        self._stopped_by_hand(resident)
        if timeout_s is None:
            grace = resident.zone.metadata.runtime.stop_timeout_s
            timeout_s = _STOP_TIMEOUT_S if grace is None else grace
        is_container = resident.kind is brands.Kind.CONTAINER
        if signal == "SIGTERM" and timeout_s > 0:
            await vmadm.stop(self._gz, uuid, timeout_s=timeout_s, docker=is_container)
        elif is_container:
            await self._signal_and_wait(resident, signal, timeout_s)
        else:
            # A full zone is no process: there is its shutdown, and there is the halt.
            await vmadm.halt(self._gz, uuid)
        await self.until_down(resident)
        # Whoever stops it may want its ports at once.
        await self._unwire(resident)
        await self._unmount(resident)
        return True

    async def _signal_and_wait(self, resident: Resident, signal: str, timeout_s: float) -> None:
        """What vmadm's own stop cannot do: other signals, no time at all, time without end."""
        with suppress(NotRunning):
            if timeout_s != 0:
                await self.kill(resident, signal)
                wait_s = None if timeout_s < 0 else timeout_s
                if await resident.until(lambda: not resident.is_up, timeout_s=wait_s):
                    return
                log.info("zone %s does not end by %s: killed", resident.zone.uuid, signal)
            self._register.emit(ZoneChange.KILLED, resident.zone)
            await self.kill(resident, "SIGKILL")

    async def kill(self, resident: Resident, signal: str) -> None:
        """A signal that ends it for good: vmadm's kill leaves autoboot on, and vmadmd would bring it back."""
        self._stopped_by_hand(resident)
        if resident.zone.metadata.restart_policy:
            await vmadm.update(self._gz, resident.zone.uuid, {"autoboot": False})
        await vmadm.kill(self._gz, resident.zone.uuid, signal)

    def _stopped_by_hand(self, resident: Resident) -> None:
        self._register.change(resident, None, replace(resident.latest, manually_stopped=True))

    async def until_down(self, resident: Resident) -> None:
        """Until it is down and its exit known.  What is still up after that is halted; APIError if in vain."""

        def is_down() -> bool:
            return resident.latest.state is ZoneState.STOPPED or resident.vanished

        deadline = time.monotonic() + KILL_TIMEOUT_S
        while time.monotonic() < deadline:
            if await resident.until(is_down, timeout_s=_SEEN_TIMEOUT_S):
                return
            await self._register.refresh(resident)
        await vmadm.halt(self._gz, resident.zone.uuid)
        await self._register.refresh(resident, settled=True)
        if not is_down():
            raise APIError(f"zone {resident.zone.uuid} does not go down")


def _sources(resident: Resident) -> frozenset[str]:
    return frozenset(entry.source for entry in resident.latest.spec.filesystems)


async def _connected(streams: ZoneStreams, uuid: str) -> None:
    """dockerinit waits until this is done, or has failed."""
    try:
        await streams.connect()
    except (APIError, OSError) as error:
        log.warning("zone %s: nobody is attached: %s", uuid, error)
