"""kstat(8): what the kernel counts of zones, read from the Linux host that runs them.

    zone_caps        caps:N:cpucaps_zone_N       usage, value (the cap), nwait
    zone_misc        zones:N:ZONENAME            nsec_user, nsec_sys, nsec_waitrq, boot_time, init_pid
    zone_memory_cap  memory_cap:N:ZONENAME       rss, physcap, swap, swapcap, anon_alloc_fail
    net              link:0:zN_IFACE             rbytes64, obytes64, ipackets64, opackets64

N is the zone's id; ZONENAME is cut at 30 characters, and stands whole in the value `zonename`.
"""

from __future__ import annotations

import fnmatch
import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.zones.host import Sample
from gateway.zones.spec import ZoneUUID
from tests.fakes.globalzone.call import Call, Failed
from tests.fakes.globalzone.gz import GZ
from tests.fakes.globalzone.machine import Machine

USAGE = "Usage: kstat [ -Cjlpq ] [ -T d|u ] [ -c class ] [ -m module ] [ -i instance ] [ -n name ] [ -s stat ]"
_NAME_MAX = 30
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Kstat:
    """One of them, as `kstat -j` prints it."""

    module: str
    instance: int
    name: str
    kind: str
    data: Mapping[str, Any]
    snaptime: float

    def shown(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The object with some of its values."""
        return {
            "module": self.module,
            "instance": self.instance,
            "name": self.name,
            "class": self.kind,
            "snaptime": self.snaptime,
            "data": dict(data),
        }


async def main(gz: GZ, call: Call) -> int:
    """-p: one `module:instance:name:statistic<TAB>value` a line; -j: JSON.  1 if nothing fits."""
    wanted, flags = _read(call.arguments)
    found: list[tuple[Kstat, dict[str, Any]]] = []
    for machine in gz.machines.vms.values():
        if machine.is_up and "zoneid" in machine.vm:
            for one in await _kstats(gz, machine):
                data = _picked(one, wanted)
                if data:
                    found.append((one, data))
    if "j" in flags:
        await call.out(json.dumps([one.shown(data) for one, data in found], indent=2) + "\n")
    elif "q" not in flags:
        await call.out("".join(_lines(one, data) for one, data in found))
    return 0 if found else 1


def _read(arguments: list[str]) -> tuple[dict[str, str], str]:
    wanted: dict[str, str] = {}
    flags = ""
    words = list(arguments)
    while words:
        word = words.pop(0)
        if word[:1] != "-":
            parts = zip("mins", word.split(":"), strict=False)
            wanted |= {key: text for key, text in parts if text}
            continue
        letter = word[1:2]
        if letter in "cminsT" and letter:
            value = word[2:] or (words.pop(0) if words else "")
            if letter != "T":
                wanted[letter] = value
        elif set(word[1:]) <= set("Cjlpq"):
            flags += word[1:]
        else:
            raise Failed(f"kstat: unknown option {word}\n{USAGE}", 2)
    return wanted, flags


def _picked(one: Kstat, wanted: Mapping[str, str]) -> dict[str, Any]:
    values = {"c": one.kind, "m": one.module, "i": str(one.instance), "n": one.name}
    for key, text in values.items():
        if key in wanted and not fnmatch.fnmatchcase(text, wanted[key]):
            return {}
    pattern = wanted.get("s", "*")
    return {name: value for name, value in one.data.items() if fnmatch.fnmatchcase(name, pattern)}


def _lines(one: Kstat, data: Mapping[str, Any]) -> str:
    head = f"{one.module}:{one.instance}:{one.name}"
    return "".join(f"{head}:{name}\t{value}\n" for name, value in sorted(data.items()))


async def _kstats(gz: GZ, machine: Machine) -> list[Kstat]:
    sample = None
    if machine.inner:
        sample = await gz.host.gauges.sample(ZoneUUID(machine.uuid))
    zoneid, now = int(machine.vm["zoneid"]), time.monotonic()
    name = machine.uuid[:_NAME_MAX]
    common = {"class": "", "crtime": machine.booted_at, "zonename": machine.uuid}
    found = [
        Kstat("zones", zoneid, name, "zone_misc", _misc(machine, sample), now),
        Kstat("memory_cap", zoneid, name, "zone_memory_cap", _memory(machine, sample), now),
    ]
    if machine.vm.get("cpu_cap"):
        caps = f"cpucaps_zone_{zoneid}"
        found.append(Kstat("caps", zoneid, caps, "zone_caps", _caps(machine, sample, now), now))
    found += [
        Kstat("link", 0, f"z{zoneid}_{interface}", "net", data, now)
        for interface, data in _links(machine, sample)
    ]
    return [
        Kstat(k.module, k.instance, k.name, k.kind, {**k.data, **common, "class": k.kind}, now)
        for k in found
    ]


def _misc(machine: Machine, sample: Sample | None) -> dict[str, Any]:
    return {
        "nsec_user": sample.cpu_user_ns if sample else 0,
        "nsec_sys": sample.cpu_system_ns if sample else 0,
        "nsec_waitrq": 0,
        "boot_time": math.floor(time.time() - (time.monotonic() - machine.booted_at)),
        "init_pid": machine.vm.get("pid", 0),
    }


def _memory(machine: Machine, sample: Sample | None) -> dict[str, Any]:
    used = (sample.memory_usage or 0) if sample else 0
    return {
        "rss": used,
        "physcap": machine.vm["max_physical_memory"] * _MIB,
        "swap": used,
        "swapcap": machine.vm["max_swap"] * _MIB,
        "anon_alloc_fail": 0,
        "anonpgin": 0,
        "pagedout": 0,
        "nover": 0,
    }


_last_usage: dict[str, tuple[float, int]] = {}


def _caps(machine: Machine, sample: Sample | None, now: float) -> dict[str, Any]:
    """Usage in percent of one CPU since it was looked at last, or since the boot."""
    total = sample.cpu_total_ns if sample else 0
    since, before = _last_usage.get(machine.uuid, (machine.booted_at, 0))
    if since < machine.booted_at:
        since, before = machine.booted_at, 0
    _last_usage[machine.uuid] = (now, total)
    usage = round((total - before) / 1e9 / max(now - since, 1e-3) * 100)
    return {
        "usage": usage,
        "maxusage": usage,
        "value": machine.vm["cpu_cap"],
        "nwait": 0,
        "above_sec": 0,
        "below_sec": math.floor(now - machine.booted_at),
    }


def _links(machine: Machine, sample: Sample | None) -> Iterator[tuple[str, dict[str, Any]]]:
    counters = (sample.networks or {}) if sample else {}
    for nic in machine.vm["nics"]:
        counted = counters.get(nic["interface"])
        yield (
            nic["interface"],
            {
                "rbytes64": counted.rx_bytes if counted else 0,
                "ipackets64": counted.rx_packets if counted else 0,
                "ierrors": counted.rx_errors if counted else 0,
                "obytes64": counted.tx_bytes if counted else 0,
                "opackets64": counted.tx_packets if counted else 0,
                "oerrors": counted.tx_errors if counted else 0,
            },
        )
