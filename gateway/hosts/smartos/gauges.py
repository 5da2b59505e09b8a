"""What zones use: the kernel's own counts (kstat), and their processes by ps.

zones:N:NAME        CPU time         caps:N:nprocs_zone_N   processes
memory_cap:N:NAME   memory           link:0:zN_IFACE        network
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Mapping

from dockerapi.errors import CommandFailed, InvalidParameter, NotRunning, NotSupported
from gateway.hosts.pstable import refusal, table
from gateway.hosts.smartos.globalzone import GlobalZone
from gateway.hosts.smartos.zones import SmartOSZones
from gateway.zones import brands
from gateway.zones.host import InterfaceCounters, ProcessTable, Sample, Zone
from gateway.zones.spec import ZoneUUID

_TIMEOUT_S = 30.0
# kstat(8) cuts names there.
_NAME_MAX = 30
_COUNTERS = ("rbytes64", "ipackets64", "ierrors", "", "obytes64", "opackets64", "oerrors", "")

# Options of ps that choose processes: all that there are, and those with a list.
_OF_ALL = frozenset("aAde")
_OF_OTHERS = frozenset("gGhpstuUz")

Kstats = Mapping[str, Mapping[str, str]]
"""`module:name` -> statistic -> value."""


class SmartOSGauges:
    """Satisfies gateway.zones.host.ZoneGauges.  `ncpu` of the machine."""

    def __init__(self, gz: GlobalZone, zones: SmartOSZones, *, ncpu: int) -> None:
        self._gz = gz
        self._zones = zones
        self._ncpu = ncpu
        self._ids: dict[ZoneUUID, tuple[int, str]] = {}
        """UUID -> when it was started, and its zone id since then."""

    async def sample(self, uuid: ZoneUUID) -> Sample | None:
        """None if it does not run."""
        zone = self._zones.get(uuid)
        if not zone.is_running:
            return None
        zone_id = await self._zone_id(zone)
        if zone_id is None:
            return None
        found = await self._kstat("-i", zone_id, "-c", "zone_*")
        links = await self._kstat("-m", "link", "-n", f"z{zone_id}_*") if zone.spec.nics else {}
        return sample(found, links, now_ns=time.time_ns(), ncpu=self._ncpu)

    async def _zone_id(self, zone: Zone) -> str | None:
        """None once it has ended."""
        started_ns, zone_id = self._ids.get(zone.uuid, (-1, ""))
        if started_ns != zone.started_ns:
            argv = ("kstat", "-p", "-m", "zones", "-n", zone.uuid[:_NAME_MAX])
            try:
                output = await self._gz.run(argv, timeout_s=_TIMEOUT_S)
            except CommandFailed:
                return None
            zone_id = output.decode().split(":", 2)[1]
            self._ids[zone.uuid] = zone.started_ns, zone_id
        return zone_id

    async def _kstat(self, *words: str) -> Kstats:
        try:
            output = await self._gz.run(("kstat", "-p", *words), timeout_s=_TIMEOUT_S)
        except CommandFailed:  # nothing fits: it has ended meanwhile
            return {}
        return parse(output.decode(errors="replace"))

    async def processes(self, uuid: ZoneUUID, ps_args: str) -> ProcessTable:
        """By the platform's ps, whose options are not those of Linux; `-ef` is the same in both.

        The zone's first process is shown as 1 and its zsched as 0, as the zone itself sees them.
        """
        zone = self._zones.get(uuid)
        if not zone.is_running:
            raise NotRunning(zone.metadata.id)
        if zone.spec.brand in brands.MACHINES:
            raise NotSupported(
                f"a {zone.spec.brand} zone is a machine: its processes are not this one's to see"
            )
        words = ps_words(ps_args or "-f")
        try:
            output = await self._gz.run(("ps", *words, "-z", uuid), timeout_s=_TIMEOUT_S)
        except CommandFailed as error:
            raise refusal(error) from error
        found = table(output.decode(errors="replace"), lambda _: True)
        return as_seen_inside(found, zone.pid)


def ps_words(ps_args: str) -> list[str]:
    """Options for ps beside `-z ZONE`.  InvalidParameter for what would show processes of other zones.

    illumos's ps shows what any of its options chooses: with -e, or -u, -z alone would choose nothing.  All of the
    zone's processes are shown anyway, so those that stand for all are left out.  Words without a dash make it BSD's
    ps, which knows no zones.
    """
    kept: list[str] = []
    words = iter(ps_args.split())
    for word in words:
        if not re.fullmatch(r"-\w.*", word):
            raise InvalidParameter(
                f"ps {word}: only options of illumos's own ps are supported on SmartOS"
            )
        letters, columns = "", []
        for place, letter in enumerate(word[1:], 2):
            if letter in _OF_OTHERS:
                raise InvalidParameter(
                    f"ps -{letter} is not supported on SmartOS: it would show processes of other zones"
                )
            if letter == "o":
                columns = ["-o", word[place:] or next(words, "")]
                break
            letters += "" if letter in _OF_ALL else letter
        kept += [f"-{letters}"] if letters else []
        kept += columns
    return kept


def parse(text: str) -> Kstats:
    """`kstat -p`: module:instance:name:statistic, a tab, the value."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for line in text.splitlines():
        key, tab, value = line.partition("\t")
        parts = key.split(":")
        if tab and len(parts) >= 4:
            found[f"{parts[0]}:{parts[2]}"][":".join(parts[3:])] = value.strip()
    return found


def sample(found: Kstats, links: Kstats, *, now_ns: int, ncpu: int) -> Sample | None:
    """None if the zone was gone.  The machine's CPU time is what its CPUs have had so far: wall time times their number."""
    misc = _of(found, "zones:")
    memory = _of(found, "memory_cap:")
    if misc is None or memory is None:
        return None
    processes = _of(found, "caps:nprocs_zone_")
    user, system = _number(misc, "nsec_user"), _number(misc, "nsec_sys")
    return Sample(
        time_ns=now_ns,
        cpu_total_ns=user + system,
        cpu_user_ns=user,
        cpu_system_ns=system,
        machine_cpu_ns=now_ns * ncpu,
        online_cpus=ncpu,
        memory_usage=_number(memory, "rss"),
        memory_limit=_number(memory, "physcap"),
        memory_failures=_number(memory, "anon_alloc_fail"),
        memory={
            name: _number(memory, name)
            for name in ("swap", "swapcap", "anonpgin", "pagedout", "nover")
            if name in memory
        },
        pids=_number(processes, "usage") if processes else None,
        pids_limit=_number(processes, "value") if processes else None,
        networks=_interfaces(links) or None,
    )


def _of(found: Kstats, prefix: str) -> Mapping[str, str] | None:
    return next((values for key, values in found.items() if key.startswith(prefix)), None)


def _number(values: Mapping[str, str], name: str) -> int:
    text = values.get(name, "0")
    return int(text) if text.isdecimal() else int(float(text))


def _interfaces(links: Kstats) -> dict[str, InterfaceCounters]:
    """link:z12_eth0 -> eth0."""
    return {
        key.partition("_")[2]: InterfaceCounters(
            *(_number(values, name) if name else 0 for name in _COUNTERS)
        )
        for key, values in links.items()
    }


def as_seen_inside(found: ProcessTable, init: int) -> ProcessTable:
    """PIDs of the global zone -> the two that a zone knows by other numbers: 1 for `init`, 0 for zsched."""
    columns = [n for n, title in enumerate(found.titles) if title in ("PID", "PPID")]
    pid = found.titles.index("PID")
    names = {str(init): "1"} if init > 0 else {}
    names |= {row[pid]: "0" for row in found.rows if row[-1].strip() in ("zsched", "[zsched]")}
    return ProcessTable(
        found.titles,
        tuple(
            tuple(names.get(text, text) if n in columns else text for n, text in enumerate(row))
            for row in found.rows
        ),
    )
