"""All machines: made, changed, found, destroyed; who wants to know of changes.

What vmadm does behind its command line.  A machine's boot and end: boots.py; restarts: vmadmd.py.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import uuid as uuids
from collections.abc import Awaitable, Callable, Mapping
from ipaddress import IPv4Network
from typing import TYPE_CHECKING, Any

from gateway.hosts.linux.host import LinuxHost
from gateway.settings import Settings
from gateway.zones.host import ZoneChange
from tests.fakes.globalzone import configfiles, storage, update
from tests.fakes.globalzone.boots import Boots, zlog_mode
from tests.fakes.globalzone.call import Failed
from tests.fakes.globalzone.machine import Machine, now, read_all, seconds, shown
from tests.fakes.globalzone.objects import matches
from tests.fakes.globalzone.payload import Prepared, prepare
from tests.fakes.globalzone.properties import BRANDS
from tests.fakes.globalzone.roots import Roots
from tests.fakes.globalzone.vmadmd import Vmadmd
from tests.fakes.globalzone.vmadmd import wants as restarts

if TYPE_CHECKING:
    from tests.fakes.globalzone.gz import GZ

log = logging.getLogger("fake-gz")

SERVER = "00000000-0000-0000-0000-525400000001"
PLATFORM = "20260305T000102Z"
_STOP_GRACE_S = 10.0


class Machines:
    """`vms` by uuid.  `vmadmd` and `boots` are its parts; `host` the Linux host that runs the zones."""

    def __init__(self, gz: GZ) -> None:
        self._gz = gz
        self.vms: dict[str, Machine] = {}
        self.boots = Boots(gz)
        self.vmadmd = Vmadmd(gz.group, self.boots.boot, float(gz.options.get("restart_scale", 1)))
        self._watchers: list[asyncio.Queue[dict[str, Any]]] = []
        self._host: LinuxHost | None = None

    @property
    def host(self) -> LinuxHost:
        """Once open."""
        assert self._host is not None
        return self._host

    # --- opening and closing

    async def open(self) -> None:
        """The Linux host is there; machines with autoboot are started, as at the boot of a server."""
        (self._gz.root / "etc/zones").mkdir(parents=True, exist_ok=True)
        self._host = await LinuxHost.open(
            self._settings(), self._gz.group, datasets=Roots(self._gz.root / "zones")
        )
        await self._sweep()
        self._gz.group.create_task(self._follow())
        for vm in read_all(self._gz.root):
            machine = Machine(vm, root=self._gz.root, emit=self._emit)
            self.vms[machine.uuid] = machine
            if machine.state in ("running", "stopping"):
                machine.set(state="stopped", zone_state="installed", pid=None, zoneid=None)
        if "sweep" in self._gz.options:
            return
        for machine in list(self.vms.values()):
            if machine.state == "stopped" and boots_with_server(machine):
                self._gz.group.create_task(self._autoboot(machine))

    def _settings(self) -> Settings:
        """Its name is kept: what a killed life left is found by it."""
        folder = self._gz.root / ".linux"
        folder.mkdir(mode=0o700, exist_ok=True)
        name = folder / "name"
        if not name.exists():
            name.write_text(f"gz{secrets.token_hex(4)}")
        subnet = IPv4Network(self._gz.options["subnet"])
        return Settings(
            name=name.read_text(),
            data_root=folder / "data",
            exec_root=folder / "run",
            bip=f"{next(subnet.hosts())}/{subnet.prefixlen}",
        )

    async def _sweep(self) -> None:
        """No process outlives the machine it runs on."""
        for zone in list(self.host.zones.list()):
            await self.host.zones.delete(zone.uuid)
        await self.host.zones.settled()

    async def _autoboot(self, machine: Machine) -> None:
        try:
            async with machine.lock:
                await self.boots.boot(machine)
        except Failed as error:
            log.warning("machine %s does not boot: %s", machine.uuid, error)

    async def _follow(self) -> None:
        async for event in self.host.zones.events():
            machine = self.vms.get(event.zone.uuid)
            if machine is not None and event.change is ZoneChange.STOPPED:
                self.boots.inner_ended(machine, event.zone.exit_status)

    async def close(self) -> None:
        """The machine goes down: every process ends, mounts, bridge and rules are gone."""
        self.vmadmd.close()
        self.boots.close()
        for machine in self.vms.values():
            self.vmadmd.forget(machine)
            if machine.emulator is not None:
                machine.emulator.kill()
        if self._host is not None:
            await self._sweep()
            await self.boots.settled()
            await self._sweep()
            await self._host.close()

    # --- looking

    def get(self, uuid: str) -> Machine:
        """Failed as vmadm says it."""
        machine = self.vms.get(uuid)
        if machine is None:
            raise Failed(f"{uuid}: No such zone configured")
        machine.refresh()
        return machine

    def lookup(self, filters: Mapping[str, str]) -> list[dict[str, Any]]:
        """Objects of the machines that all filters fit, oldest first."""
        for machine in self.vms.values():
            machine.refresh()
        return [shown(m.vm) for m in self.vms.values() if matches(m.vm, filters)]

    # --- events

    def watch(self) -> asyncio.Queue[dict[str, Any]]:
        """A queue of events from now on; to be given back by `unwatch`."""
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._watchers.append(queue)
        return queue

    def unwatch(self, queue: asyncio.Queue[dict[str, Any]]) -> None:
        """Nobody listens any more."""
        self._watchers.remove(queue)

    def _emit(self, kind: str, machine: Machine, found: list[dict[str, Any]]) -> None:
        event: dict[str, Any] = {
            "type": kind,
            "date": now(),
            "zonename": machine.uuid,
            "uuid": machine.uuid,
        }
        if kind != "delete":
            event["vm"] = shown(machine.vm)
        if found:
            event["changes"] = found
        for queue in self._watchers:
            queue.put_nowait(event)

    # --- create

    async def create(
        self, payload: Mapping[str, Any], midway: Callable[[], Awaitable[None]]
    ) -> tuple[Machine, list[str]]:
        """The machine, started if it boots by itself, and the keys that were dropped.

        A failed create leaves nothing; one whose vmadm was killed leaves what it had made, in state
        `provisioning`.
        """
        made = prepare(payload, uuid=str(uuids.uuid4()))
        self._check(made)
        vm = made.vm
        vm |= {
            "v": 1,
            "state": "provisioning",
            "zone_state": "configured",
            "zonepath": f"/zones/{vm['uuid']}",
            "zfs_filesystem": f"zones/{vm['uuid']}",
            "type": BRANDS[vm["brand"]]["type"],
            "create_timestamp": now(),
            "last_modified": seconds(),
            "server_uuid": SERVER,
            "platform_buildstamp": PLATFORM,
            "snapshots": [],
        }
        machine = Machine(vm, root=self._gz.root, emit=self._emit)
        self.vms[machine.uuid] = machine
        machine.save()
        self._emit("create", machine, [])
        try:
            await self._provision(machine, midway)
        except Failed:
            await self._clear(machine)
            raise
        if machine.vm["autoboot"]:
            async with machine.lock:
                await self.boots.boot(machine)
        return machine, made.dropped

    async def _provision(self, machine: Machine, midway: Callable[[], Awaitable[None]]) -> None:
        vm = machine.vm
        await storage.make(self._gz, machine)
        await midway()
        if machine.is_docker:
            configfiles.write(machine.zonepath, vm)
            mounts = configfiles.mounts(vm)
            for mount in mounts:
                configfiles.make_room(machine.root, mount["target"])
            vm = {
                **vm,
                "filesystems": [*vm["filesystems"], *mounts],
                "zlog_mode": zlog_mode(machine),
            }
        machine.replace({**vm, "zone_state": "installed"})
        machine.write_metadata()
        machine.set(state="stopped")

    def _check(self, made: Prepared) -> None:
        vm = made.vm
        if made.problems:
            raise Failed(refusal(made))
        if vm["uuid"] in self.vms:
            raise Failed(f"VM {vm['uuid']} already exists")
        if vm["zpool"] != self._gz.pool.name:
            raise Failed("Invalid value(s) for: zpool")
        storage.check_images(self._gz, vm)
        self._check_nics(vm["uuid"], vm["nics"])

    def _check_nics(self, uuid: str, nics: list[dict[str, Any]]) -> None:
        for nic in nics:
            if nic["nic_tag"] not in self._gz.nic_tags:
                raise Failed(f'Invalid nic tag "{nic["nic_tag"]}"')
        taken = [(m.uuid, nic) for m in self.vms.values() if m.uuid != uuid for nic in m.vm["nics"]]
        for nic in nics:
            for other, theirs in taken:
                if nic["mac"] == theirs["mac"]:
                    raise Failed(
                        f"Conflict detected with another nic: mac {nic['mac']} is used by {other}"
                    )
                same_network = nic["nic_tag"] == theirs["nic_tag"] and (
                    nic.get("vlan_id", 0) == theirs.get("vlan_id", 0)
                )
                shared = (set(nic["ips"]) & set(theirs["ips"])) - {"dhcp", "addrconf"}
                if same_network and shared:
                    raise Failed(
                        f"Conflict detected with another nic: ip {shared.pop()} is used by {other}"
                    )

    # --- start, stop, kill, reboot

    async def start(self, machine: Machine) -> None:
        """Up, or down again already."""
        async with machine.lock:
            self._check_startable(machine)
            self.vmadmd.forget(machine)
            await self._start(machine)

    def _check_startable(self, machine: Machine) -> None:
        if machine.is_up:
            raise Failed(
                f"Unable to start VM {machine.uuid}: VM {machine.uuid} is already 'running'"
            )
        if machine.state != "stopped":
            raise Failed(
                f"Unable to start VM {machine.uuid}: Cannot start a VM in state '{machine.state}'"
            )

    async def _start(self, machine: Machine) -> None:
        if machine.is_docker:
            machine.set_metadata(docker_restartcount=0, docker_restartdelay=None)
        if not machine.is_docker or "docker:restartpolicy" in machine.vm["internal_metadata"]:
            machine.set(autoboot=True)
        try:
            await self.boots.boot(machine)
        except Failed as error:
            raise Failed(f"Unable to start VM {machine.uuid}: {error}", error.code) from error

    async def stop(self, machine: Machine, *, grace_s: float, force: bool) -> bool:
        """Whether it ran; it does not come back by itself."""
        self.vmadmd.forget(machine)
        machine.set(autoboot=False)
        if not machine.is_up:
            return False
        if force:
            await self.boots.halt(machine)
        else:
            await self.boots.stop(machine, grace_s)
        return True

    async def kill(self, machine: Machine, name: str) -> None:
        """A signal to its init.  autoboot stays as it is."""
        if not machine.is_up:
            raise Failed(f"VM {machine.uuid} is not running")
        await self.boots.signal(machine, name)

    async def reboot(self, machine: Machine, *, force: bool) -> None:
        """Down and up; from stopped too where docker runs it."""
        if not machine.is_up and not machine.is_docker:
            raise Failed(f"Cannot reboot vm that is not running: {machine.uuid}")
        autoboot = machine.vm["autoboot"]
        await self.stop(machine, grace_s=_STOP_GRACE_S, force=force)
        async with machine.lock:
            machine.set(autoboot=autoboot)
            await self._start(machine)

    # --- update, delete

    async def update(self, machine: Machine, payload: Mapping[str, Any]) -> list[str]:
        """The keys that were dropped.  What cannot act on a running machine acts at its next boot."""
        machine.refresh()
        changed = update.applied(machine.vm, payload, running=machine.is_up)
        self._check_nics(machine.uuid, changed.vm["nics"])
        for filesystem in changed.new_filesystems:
            await storage.make_volume(self._gz, machine, filesystem)
        old = machine.vm
        machine.replace(changed.vm)
        if machine.is_docker and update.rewrites_files(old, machine.vm):
            configfiles.write(machine.zonepath, machine.vm)
        await self.boots.relimit(machine)
        return changed.dropped

    async def delete(self, machine: Machine, midway: Callable[[], Awaitable[None]]) -> None:
        """Stopped first; its datasets go, volumes too."""
        for flag in ("indestructible_zoneroot", "indestructible_delegated"):
            if machine.vm.get(flag):
                raise Failed(f"{flag} is set")
        storage.check_unshared(self._gz, machine)
        self.vmadmd.forget(machine)
        machine.set(autoboot=False)
        if machine.is_up:
            await self.boots.halt(machine)
        async with machine.lock:
            if machine.uuid not in self.vms:
                raise Failed(f"{machine.uuid}: No such zone configured")
            await self.boots.discard(machine)
            await storage.destroy(self._gz, machine)
            await midway()
            await self._clear(machine)

    async def _clear(self, machine: Machine) -> None:
        await self.boots.discard(machine)
        await storage.destroy(self._gz, machine)
        machine.forget()
        del self.vms[machine.uuid]
        lock = self._gz.root / "var/run" / f"vm.{machine.uuid}.config.lockfile"
        lock.unlink(missing_ok=True)
        self._emit("delete", machine, [])


def boots_with_server(machine: Machine) -> bool:
    """At the boot of the server a docker zone's restart policy is asked, too."""
    return restarts(machine.vm) if machine.is_docker else bool(machine.vm.get("autoboot"))


def refusal(made: Prepared) -> str:
    """What vmadm says of a payload that it does not take."""
    kinds: dict[str, list[str]] = {}
    for problem in made.problems:
        kinds.setdefault(problem.kind, []).append(str(problem))
    words = {
        "bad_brand": "Invalid brand",
        "bad_values": "Invalid value(s) for",
        "missing_properties": "Missing required properties",
    }
    return "; ".join(f"{words[kind]}: {', '.join(texts)}" for kind, texts in kinds.items())
