"""sysinfo(8): what the machine is, as JSON; memory and CPUs are this computer's."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from tests.fakes.globalzone.call import Call, Failed
from tests.fakes.globalzone.gz import GZ
from tests.fakes.globalzone.machines import PLATFORM, SERVER

_MIB = 1 << 20


async def main(gz: GZ, call: Call) -> int:
    """Plain, -p (shell variables) and -f, -u (write the cache: nothing is cached here)."""
    facts = _facts(gz)
    options = {word for word in call.arguments if word.startswith("-")}
    if options - {"-p", "-f", "-u"}:
        raise Failed("Usage: sysinfo [-f|-u|-p]", 1)
    if "-p" in options:
        flat = {key: value for key, value in facts.items() if isinstance(value, str | int)}
        await call.out("".join(f"{_variable(k)}='{v}'\n" for k, v in flat.items()))
    else:
        await call.out(json.dumps(facts, indent=2) + "\n")
    return 0


def _variable(name: str) -> str:
    return name.replace(" ", "_")


def _facts(gz: GZ) -> dict[str, Any]:
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cpus = len(os.sched_getaffinity(0))
    return {
        "Live Image": PLATFORM,
        "System Type": "SunOS",
        "Boot Time": str(int(time.time() - uptime)),
        "SDC Version": "7.0",
        "Manufacturer": "fake",
        "Product": "global zone on Linux",
        "Serial Number": SERVER.rpartition("-")[2],
        "UUID": SERVER,
        "Hostname": "gz",
        "CPU Type": "virtual CPU",
        "CPU Virtualization": "none",
        "CPU Physical Cores": 1,
        "CPU Total Cores": cpus,
        "CPU Online Count": cpus,
        "CPU Count": cpus,
        "MiB of Memory": str(pages // _MIB),
        "Zpool": gz.pool.name,
        "Zpool Disks": "c1t0d0",
        "Zpool Profile": "striped",
        "Zpool Size in GiB": 100,
        "Network Interfaces": {
            tag["link"]: {
                "MAC Address": tag["mac"],
                "ip4addr": "",
                "Link Status": "up",
                "NIC Names": [name],
            }
            for name, tag in gz.nic_tags.items()
            if tag.get("link") and tag.get("mac")
        },
        "Virtual Network Interfaces": {},
        "Link Aggregations": {},
    }
