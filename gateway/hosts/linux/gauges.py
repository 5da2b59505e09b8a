"""What zones use: samples of their cgroups, and their processes by the machine's ps."""

from __future__ import annotations

import asyncio
from pathlib import Path

from dockerapi.errors import CommandFailed, NotRunning
from gateway.hosts.command import run
from gateway.hosts.linux import boot, counters
from gateway.hosts.linux.boot import Parts
from gateway.hosts.linux.zones import LinuxZones
from gateway.hosts.pstable import refusal, table
from gateway.zones.host import ProcessTable, Sample, Zone
from gateway.zones.spec import ZoneUUID

_PS = "/usr/bin/ps"
_TIMEOUT_S = 20.0
_ENTERS_S = (0.001, 0.004, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)


class LinuxGauges:
    """Satisfies gateway.zones.host.ZoneGauges."""

    def __init__(self, zones: LinuxZones, parts: Parts) -> None:
        self._zones = zones
        self._parts = parts

    async def sample(self, uuid: ZoneUUID) -> Sample | None:
        """None if it does not run."""
        zone = self._zones.get(uuid)
        if not zone.is_running or not zone.pid:
            return None
        try:
            return await asyncio.to_thread(
                counters.sample,
                self._parts.cgroups,
                boot.cgroup(self._parts, zone),
                zone.pid,
                network=_has_network(zone),
            )
        except OSError:  # it has ended meanwhile
            return None

    async def processes(self, uuid: ZoneUUID, ps_args: str) -> ProcessTable:
        """By the machine's ps, asked for the processes of the zone's cgroup."""
        zone = self._zones.get(uuid)
        if not zone.is_running:
            raise NotRunning(zone.metadata.id)
        await self._entered(zone)
        pids = set(self._parts.cgroups.pids(boot.cgroup(self._parts, zone)))
        words = (ps_args or "-ef").split()
        try:
            output = await _ps([*words, "-q", ",".join(map(str, sorted(pids)))])
        except CommandFailed:
            # Not every choice of processes goes together with -q: then all are shown, and picked from.
            try:
                output = await _ps(words)
            except CommandFailed as error:
                raise refusal(error) from error
        return table(output.decode(errors="replace"), pids.__contains__)

    async def _entered(self, zone: Zone) -> None:
        """A moment after its start the first process may be the runtime still, which nobody asked about."""
        runtime = self._parts.runtime.command.encode()
        for delay_s in _ENTERS_S:
            if _program(zone.pid) != runtime:
                return
            await asyncio.sleep(delay_s)


async def _ps(words: list[str]) -> bytes:
    return await run([_PS, *words], timeout_s=_TIMEOUT_S)


def _program(pid: int) -> bytes:
    """What a process calls itself; b"" if there is none."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0]
    except OSError:
        return b""


def _has_network(zone: Zone) -> bool:
    """Those that share another's network have no counters of their own, as in dockerd."""
    return bool(zone.spec.nics) and not zone.metadata.runtime.network
