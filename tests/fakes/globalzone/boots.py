"""Booting a machine, and its end: zoneadmd's part, dockerinit's, and the Linux host's that really runs it.

    boot -> dockerinit checks -> [waits for an attach] -> first process -> exit -> halt

A docker zone whose dockerinit gives up was up for a moment all the same.  Full zones run their own init; for a
bhyve or kvm machine an idle process of this computer stands.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv4Network
from types import MappingProxyType
from typing import TYPE_CHECKING

from dockerapi.errors import APIError, NotFound, StartFailure
from dockerapi.framing import Stdio
from gateway.hosts.command import default_spawner, run
from gateway.zones.host import AttachStreams
from gateway.zones.spec import ZoneSpec, ZoneUUID
from tests.fakes.globalzone import dockerinit, inner
from tests.fakes.globalzone.call import Failed
from tests.fakes.globalzone.console import Console
from tests.fakes.globalzone.dockerinit import Code, Fatal
from tests.fakes.globalzone.machine import Machine, seconds
from tests.fakes.globalzone.zfd import Zfd
from tests.fakes.globalzone.zoneadmd import Zoneadmd

if TYPE_CHECKING:
    from tests.fakes.globalzone.gz import GZ

log = logging.getLogger("fake-gz")

DEAD_INIT = 4294967295
"""pid of a zone whose init has ended and that is not down yet: (pid_t)-1."""
_WAIT_FOR_ATTACH = "docker:wait_for_attach"
_WAITING = "__dockerinit_waiting_for_attach"
_ADD_ADDRESS = """\
echo 0 >/proc/sys/net/ipv6/conf/$1/disable_ipv6
exec ip -6 addr add $2 dev $1 nodad
"""
_CLOSE_S = 5.0
_POLL_S = 0.05  # dockerinit looks every 200 ms
_MODES = {
    ("json-file", False): "g--",
    ("json-file", True): "gt-",
    ("none", False): "---",
    ("none", True): "-t-",
}


def zlog_mode(machine: Machine) -> str:
    """g: zoneadmd logs, t: a terminal, n: a logger in the zone."""
    metadata = machine.vm["internal_metadata"]
    tty = bool(metadata.get("docker:tty"))
    driver = str(metadata.get("docker:logdriver", "json-file"))
    return _MODES.get((driver, tty), "gtn" if tty else "g-n")


class Boots:
    """Runs machines on the Linux host."""

    def __init__(self, gz: GZ) -> None:
        self._gz = gz
        self._next_zoneid = 1
        self._closed = False
        self._runs: set[asyncio.Task[None]] = set()

    async def boot(self, machine: Machine) -> None:
        """Up, or down again already; Failed if the zone could not be made to boot.

        Returns when the machine is seen to run, which for a dockerinit that waits is before its program does.
        """
        if self._closed:
            raise Failed("the machine goes down")
        loop = asyncio.get_running_loop()
        machine.up, machine.ended, machine.ending = (loop.create_future() for _ in range(3))
        machine.stopped.clear()
        machine.booted_at = time.monotonic()
        machine.plugged = list(machine.vm.get("nics", []))
        machine.addresses6 = {}
        task = self._gz.group.create_task(self._run(machine))
        self._runs.add(task)
        task.add_done_callback(self._runs.discard)
        await asyncio.shield(machine.up)

    def close(self) -> None:
        """No boot any more; dockerinits that wait end."""
        self._closed = True
        for machine in self._gz.machines.vms.values():
            if not machine.ending.done():
                machine.ending.set_result(signal.SIGKILL)

    async def settled(self) -> None:
        """Nothing runs any more; what does is to be ended before."""
        if self._runs:
            await asyncio.wait(self._runs, timeout=_CLOSE_S)

    async def _run(self, machine: Machine) -> None:
        """A boot from beginning to end; never raises."""
        try:
            status = await self._live(machine)
        except (Failed, APIError) as error:
            text = error.message if isinstance(error, APIError) else str(error)
            if machine.up.done():
                log.warning("machine %s ended: %s", machine.uuid, text)
                await self._down(machine, 1 << 8)
                return
            machine.zoneadmd = machine.console = None
            await self.discard(machine)
            machine.stopped.set()
            machine.up.set_exception(Failed(text))
            return
        except Exception as error:
            log.exception("machine %s: fault of the fake", machine.uuid)
            status = 1 << 8
            if not machine.up.done():
                machine.up.set_exception(Failed(f"fake global zone: {error!r}", 99))
        if not machine.up.done():  # halted before its program could begin
            self._announce(machine, os.getpid())
        await self._down(machine, status)

    async def _live(self, machine: Machine) -> int:
        if machine.is_hvm:
            return await self._live_hvm(machine)
        await self._gz.stubs.join(machine.vm)
        self._verify(machine)
        if machine.is_docker:
            return await self._live_docker(machine)
        init = "/sbin/init"
        argv = (init,) if os.access(machine.root / init.lstrip("/"), os.X_OK) else inner.IDLE
        spec = inner.full_spec(machine.vm, argv, self._around())
        stdio = await self._prepare(machine, spec, stdin=False)
        machine.console = Console(
            machine.zonepath,
            log_format=self._gz.options.get("log", "new"),
            group=self._gz.group,
        )
        machine.console.serve(stdio)
        return await self._start(machine)

    def _verify(self, machine: Machine) -> None:
        """zoneadm looks for the sources of file systems before it boots a zone; vmadm did not."""
        for filesystem in machine.vm.get("filesystems", []):
            source = str(filesystem["source"])
            if not os.path.lexists(self._gz.path(source)):
                raise Failed(
                    f"could not verify fs {filesystem['target']}: could not access {source}: "
                    f"No such file or directory\nzoneadm: zone {machine.uuid} failed to verify"
                )

    async def _live_hvm(self, machine: Machine) -> int:
        child = await default_spawner().spawn(["/bin/sleep", "infinity"], fds={})
        machine.emulator = child
        self._announce(machine, child.pid)
        await child.wait()
        machine.emulator = None
        return 0

    # --- docker zones

    async def _live_docker(self, machine: Machine) -> int:
        machine.refresh()
        dockerinit.log(machine.root, "dockerinit: started", anew=True)
        try:
            metadata = inner.docker_metadata(machine.vm)
        except ValueError as error:
            return self._give_up(
                machine, Fatal(Code.PARSE_JSON, f"failed to parse JSON(docker:*): {error}")
            )
        found = await asyncio.to_thread(
            dockerinit.check,
            machine.root,
            metadata,
            by_name=self._gz.options.get("accounts") == "name",
        )
        if isinstance(found, Fatal):
            return self._give_up(machine, found)
        zfd = Zfd(tty=metadata.tty)
        self._serve(machine, zfd)
        try:
            dockerinit.log(machine.root, "SWITCHING TO /dev/zfd/*")
            status = await self._wait_for_attach(machine)
            if status is not None:
                return status
            told = metadata.model_copy(update={"user": found.user})
            around = self._around(machine.addresses6)
            spec = inner.docker_spec(machine.vm, told, around, zfd.size)
            zfd.connect(await self._prepare(machine, spec, stdin=metadata.open_stdin))
        finally:
            await zfd.close()
        dockerinit.log(machine.root, f"execve: {metadata.argv[0]}")
        try:
            return await self._start(machine)
        except StartFailure as error:
            return self._give_up(machine, Fatal(Code.EXEC_FAILED, error.message))

    def _give_up(self, machine: Machine, fatal: Fatal) -> int:
        dockerinit.log(machine.root, dockerinit.told(fatal))
        self._announce(machine, os.getpid())
        return fatal.wait_status

    async def _wait_for_attach(self, machine: Machine) -> int | None:
        """Until the flag is gone; a wait status if the zone ends meanwhile."""
        flag = machine.vm["internal_metadata"].get(_WAIT_FOR_ATTACH)
        if flag is None:
            return None
        self._announce(machine, os.getpid())
        await self._tell_agent(machine, str(flag))
        machine.refresh()
        flag = machine.vm["internal_metadata"].get(_WAIT_FOR_ATTACH)
        while flag is not None:
            if machine.ending.done():
                return machine.ending.result()
            if int(str(flag)) / 1000 < time.time():
                return self._give_up(
                    machine, Fatal(Code.ATTACH_TIMED_OUT, "timed out waiting for attach")
                )
            await asyncio.wait([machine.ending], timeout=_POLL_S)
            machine.refresh()
            flag = machine.vm["internal_metadata"].get(_WAIT_FOR_ATTACH)
        await self._tell_agent(machine, None)
        return None

    async def _tell_agent(self, machine: Machine, waits: str | None) -> None:
        """By the metadata agent, which reads metadata.json, takes its time (option `agent_s`), and writes all of it."""
        machine.refresh()
        noted = {k: v for k, v in machine.vm["customer_metadata"].items() if k != _WAITING}
        if waits is not None:
            noted[_WAITING] = waits
        read = dict(machine.vm["internal_metadata"])
        await asyncio.wait([machine.ending], timeout=float(self._gz.options.get("agent_s", 0.01)))
        machine.set(customer_metadata=noted, internal_metadata=read)
        machine.write_metadata()

    # --- on the Linux host

    def _around(
        self, addresses6: Mapping[str, Sequence[str]] = MappingProxyType({})
    ) -> inner.Surroundings:
        bridge = self._gz.host.networks.get("bridge")
        return inner.Surroundings(
            IPv4Network(bridge.subnet),
            bridge.nic_tag,
            self._gz.path,
            self._gz.stubs.all(),
            addresses6,
        )

    async def add_address(self, machine: Machine, interface: str, address: str) -> None:
        """ipadm, called in the zone: at once where its program runs, else it begins with it."""
        machine.addresses6.setdefault(interface, []).append(address)
        if machine.inner:
            netns = self._gz.host.networks.netns_path(ZoneUUID(machine.uuid))
            words = ["/bin/sh", "-c", _ADD_ADDRESS, "add", interface, address]
            await run(["/usr/bin/nsenter", f"--net={netns}", *words], timeout_s=10)

    async def _prepare(self, machine: Machine, spec: ZoneSpec, *, stdin: bool) -> Stdio:
        """A zone of the Linux host with this spec that is not started yet, and its streams."""
        zones, uuid = self._gz.host.zones, ZoneUUID(machine.uuid)
        known = next((zone for zone in zones.list() if zone.uuid == uuid), None)
        if known is not None and known.spec != spec:
            await self.discard(machine)
            known = None
        if known is None:
            await zones.create(spec)
        return await zones.attach(uuid, AttachStreams(stdin=stdin))

    async def discard(self, machine: Machine) -> None:
        """Nothing of it is left on the Linux host."""
        zones, uuid = self._gz.host.zones, ZoneUUID(machine.uuid)
        if any(zone.uuid == uuid for zone in zones.list()):
            await zones.delete(uuid)
            await zones.settled()

    def _serve(self, machine: Machine, stdio: Stdio) -> None:
        (machine.zonepath / "logs").mkdir(exist_ok=True)
        machine.zoneadmd = Zoneadmd(
            machine.zonepath,
            log_format=self._gz.options.get("log", "new"),
            mode=zlog_mode(machine),
            max_size=int(machine.vm.get("zlog_max_size") or 0),
            group=self._gz.group,
        )
        machine.zoneadmd.serve(stdio)

    async def _start(self, machine: Machine) -> int:
        machine.inner = True
        try:
            if machine.ending.done():
                return machine.ending.result()
            zone = await self._gz.host.zones.start(ZoneUUID(machine.uuid))
        except BaseException:
            machine.inner = False
            raise
        self._announce(machine, zone.pid)
        return await machine.ended

    async def relimit(self, machine: Machine) -> None:
        """Its caps as they are now hold at once."""
        if not machine.inner:
            return
        uuid, zones = ZoneUUID(machine.uuid), self._gz.host.zones
        with suppress(NotFound):  # it has just ended
            zone = zones.get(uuid)
            spec = inner.relimited(zone.spec, machine.vm)
            if spec != zone.spec:
                await zones.update(uuid, spec)

    def inner_ended(self, machine: Machine, exit_status: int) -> None:
        """The Linux host says that its process is over, with docker's code for it."""
        machine.inner = False
        number = exit_status - 128
        killed = 0 < number < signal.NSIG
        if not machine.ended.done():
            machine.ended.set_result(number if killed else exit_status << 8)

    # --- up and down

    def _announce(self, machine: Machine, pid: int) -> None:
        """It runs, with this init."""
        if machine.up.done():
            machine.set(pid=pid)
            return
        zoneid, self._next_zoneid = self._next_zoneid, self._next_zoneid + 1
        machine.set(
            state="running",
            zone_state="running",
            pid=pid,
            zoneid=zoneid,
            boot_timestamp=seconds(),
            exit_status=None,
            exit_timestamp=None,
        )
        machine.up.set_result(None)

    async def _down(self, machine: Machine, status: int) -> None:
        """Init has ended: output is written out, the zone goes down, vmadmd hears of it."""
        try:
            machine.set(pid=DEAD_INIT, zone_state="shutting_down")
            if not machine.ended.done() and not machine.is_hvm:
                await self.discard(machine)  # never started: this ends its streams
            if machine.zoneadmd is not None:
                await machine.zoneadmd.settled()
            if machine.console is not None:
                await machine.console.settled()
        finally:
            moment = time.time()
            with suppress(OSError):
                (machine.zonepath / "lastexited").write_text(f"{moment:.9f} {status}\n")
            machine.zoneadmd = machine.console = None
            exited = {"exit_status": exit_status(status), "exit_timestamp": seconds()}
            late_s = float(self._gz.options.get("late_exit", 0))
            machine.set(
                state="stopped",
                zone_state="installed",
                pid=None,
                zoneid=None,
                boot_timestamp=None,
                **({} if late_s else exited),
            )
            if late_s:
                await asyncio.sleep(late_s)
                machine.set(**exited)
            machine.stopped.set()
            self._gz.machines.vmadmd.ended(machine, time.monotonic() - machine.booted_at)

    # --- signals

    async def signal(self, machine: Machine, name: str) -> None:
        """To init.  One that does not run any more takes none."""
        number = int(getattr(signal, name))
        if machine.emulator is not None:
            machine.emulator.kill(signal.SIGKILL if name in ("SIGTERM", "SIGKILL") else number)
        elif machine.inner:
            with suppress(APIError):
                await self._gz.host.zones.kill(ZoneUUID(machine.uuid), name)
        elif not machine.ending.done():
            machine.ending.set_result(number)

    async def stop(self, machine: Machine, grace_s: float) -> None:
        """SIGTERM, wait, SIGKILL, until it is down."""
        await self.signal(machine, "SIGTERM")
        try:
            async with asyncio.timeout(grace_s):
                await machine.stopped.wait()
        except TimeoutError:
            await self.halt(machine)

    async def halt(self, machine: Machine) -> None:
        """`zoneadm halt`."""
        await self.signal(machine, "SIGKILL")
        await machine.stopped.wait()


def exit_status(status: int) -> int:
    """vmadm's reading of a wait status: the code, or the negative number of a signal."""
    if status == -1:
        return 0
    return -(status & 0xFF) if status & 0xFF else status >> 8
