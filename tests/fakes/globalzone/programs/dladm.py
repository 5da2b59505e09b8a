"""dladm: create-vnic, delete-vnic, show-vnic, show-etherstub, show-phys, as far as somebody who makes vnics needs."""

from __future__ import annotations

import getopt
import re

from tests.fakes.globalzone import datalinks
from tests.fakes.globalzone.call import Call, Failed
from tests.fakes.globalzone.gz import GZ

_LINK = re.compile(r"[A-Za-z][A-Za-z0-9_.]{0,29}(0|(?<![0-9])[1-9][0-9]*)")


async def main(gz: GZ, call: Call) -> int:
    """See the module."""
    commands = {
        "create-vnic": (_create, "tl:m:v:p:"),
        "delete-vnic": (_delete, "t"),
        "show-vnic": (_show, "po:l:"),
        "show-etherstub": (_stubs, "p"),
        "show-phys": (_phys, "pmo:"),
    }
    command, letters = commands.get(call.arguments[0] if call.arguments else "", (None, ""))
    if command is None:
        raise Failed("usage: dladm <subcommand> <args> ...")
    try:
        options, rest = getopt.getopt(call.arguments[1:], letters)
    except getopt.GetoptError as error:
        raise Failed(f"dladm: invalid option '-{error.opt}'") from error
    return await command(gz, call, dict(options), rest)


async def _create(gz: GZ, _: Call, options: dict[str, str], rest: list[str]) -> int:
    links = datalinks.of(gz)
    if "-t" not in options:
        raise Failed("dladm: vnic creation over a link failed: read-only file system")
    if not rest or not _LINK.fullmatch(rest[0]):
        raise Failed(f"dladm: invalid link name '{rest[0] if rest else ''}'")
    over = options.get("-l", "")
    if over not in (*links.etherstubs, datalinks.PHYSICAL):
        raise Failed(f"dladm: invalid link name '{over}'")
    if rest[0] in links.vnics or rest[0] in links.etherstubs:
        raise Failed(f"dladm: vnic creation over {over} failed: object already exists")
    links.vnics[rest[0]] = over
    links.save()
    return 0


async def _delete(gz: GZ, _: Call, __: dict[str, str], rest: list[str]) -> int:
    links = datalinks.of(gz)
    if not rest or rest[0] not in links.vnics:
        raise Failed(f"dladm: invalid vnic name '{rest[0] if rest else ''}': object not found")
    if rest[0] in links.interfaces:
        raise Failed("dladm: vnic deletion failed: link busy")
    del links.vnics[rest[0]]
    links.save()
    return 0


async def _show(gz: GZ, call: Call, options: dict[str, str], rest: list[str]) -> int:
    links = datalinks.of(gz)
    if rest and rest[0] not in links.vnics:
        raise Failed(f"dladm: invalid vnic name '{rest[0]}': object not found")
    if "-p" in options and "-o" not in options:
        raise Failed("dladm: -p requires -o")
    fields = options.get("-o", "link,over").split(",")
    # Those of zones that run, by the names that they have in their zones.
    zones = [
        (nic["interface"], nic["nic_tag"])
        for machine in gz.machines.vms.values()
        for nic in (machine.plugged if machine.is_up else ())
    ]
    for name, over in [*links.vnics.items(), *zones]:
        if rest and rest[0] != name:
            continue
        row = {"link": name, "over": over}
        await call.out((":" if "-p" in options else " ").join(row[f] for f in fields) + "\n")
    return 0


async def _stubs(gz: GZ, call: Call, _: dict[str, str], __: list[str]) -> int:
    await call.out("".join(f"{name}\n" for name in datalinks.of(gz).etherstubs))
    return 0


async def _phys(gz: GZ, call: Call, _: dict[str, str], __: list[str]) -> int:
    macs = {tag["link"]: tag["mac"] for tag in gz.nic_tags.values() if tag["type"] == "normal"}
    await call.out("LINK ADDRESS\n" + "".join(f"{link} {mac}\n" for link, mac in macs.items()))
    return 0
