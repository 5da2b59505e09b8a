"""zoneadm(8): list, boot, halt, mount, unmount.  What goes around vmadm goes around its bookkeeping, too."""

from __future__ import annotations

from tests.fakes.globalzone.call import Call, Failed
from tests.fakes.globalzone.gz import GZ
from tests.fakes.globalzone.machine import Machine

USAGE = "usage:\tzoneadm list [-cipnv]\n\tzoneadm -z zone boot|halt|reboot|mount|unmount"


async def main(gz: GZ, call: Call) -> int:
    """`-u` and `-z` both name a zone by its uuid here."""
    words = list(call.arguments)
    name = ""
    while words and words[0] in ("-z", "-u") and len(words) > 1:
        name, words = words[1], words[2:]
    if not words:
        raise Failed(USAGE, 2)
    command, *options = words
    if command == "list":
        await call.out(_list(gz, name, options))
        return 0
    machine = gz.machines.vms.get(name)
    if machine is None:
        raise Failed(f"zoneadm: {name}: No such zone configured")
    await _act(gz, machine, command, options)
    return 0


async def _act(gz: GZ, machine: Machine, command: str, options: list[str]) -> None:
    if command == "boot":
        _need(machine, up=False)
        async with machine.lock:
            await gz.machines.boots.boot(machine)
    elif command == "halt":
        if machine.is_up:
            await gz.machines.boots.halt(machine)
    elif command == "reboot":
        _need(machine, up=True)
        await gz.machines.boots.halt(machine)
        async with machine.lock:
            await gz.machines.boots.boot(machine)
    elif command == "mount":
        _need(machine, up=False)
        if machine.vm["zone_state"] == "mounted":
            raise Failed(f"zoneadm: zone '{machine.uuid}': zone is already mounted")
        machine.set(zone_state="mounted")
    elif command == "unmount":
        if machine.vm["zone_state"] != "mounted":
            raise Failed(f"zoneadm: zone '{machine.uuid}': zone is not mounted")
        machine.set(zone_state="installed")
    else:
        raise Failed(f"zoneadm: unknown subcommand '{command}' {' '.join(options)}\n{USAGE}", 2)


def _need(machine: Machine, *, up: bool) -> None:
    if machine.is_up and not up:
        raise Failed(f"zoneadm: zone '{machine.uuid}': zone is already booted")
    if up and not machine.is_up:
        raise Failed(f"zoneadm: zone '{machine.uuid}': zone is not running")
    if not up and machine.vm["zone_state"] == "mounted":
        raise Failed(f"zoneadm: zone '{machine.uuid}': zone is mounted")


def _list(gz: GZ, name: str, options: list[str]) -> str:
    letters = "".join(option.lstrip("-") for option in options)
    rows = [("0", "global", "running", "/", "", "liveimg", "shared", "0")]
    for machine in gz.machines.vms.values():
        state = str(machine.vm["zone_state"])
        if name == machine.uuid or (not name and (state == "running" or set(letters) & set("ci"))):
            zoneid = str(machine.vm.get("zoneid", "-"))
            path = str(machine.vm["zonepath"])
            rows.append(
                (zoneid, machine.uuid, state, path, machine.uuid, machine.brand, "excl", zoneid)
            )
    if name or "n" in letters:
        rows = rows[1:]
    if name and not rows:
        raise Failed(f"zoneadm: {name}: No such zone configured")
    if "p" in letters:
        return "".join(":".join(row) + "\n" for row in rows)
    if "v" in letters:
        head = ("ID", "NAME", "STATUS", "PATH", "", "BRAND", "IP")
        lines = (
            f"{r[0]:>4} {r[1]:<36} {r[2]:<10} {r[3]:<44} {r[5]:<14} {r[6]:<6}"
            for r in (head, *rows)
        )
        return "".join(line.rstrip() + "\n" for line in lines)
    return "".join(f"{row[1]}\n" for row in rows)
