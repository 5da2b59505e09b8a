"""nictagadm: list, add, delete, exists, update, vms.  Exit codes: 1 cannot be done, 2 wrong command line."""

from __future__ import annotations

import getopt
import re

from tests.fakes.globalzone import datalinks
from tests.fakes.globalzone.call import Call, Failed
from tests.fakes.globalzone.gz import GZ

_USAGE = "Usage:\n        nictagadm [OPTIONS] <subcommand> <args...> ..."
_LINE = "%-14s %-18s %-14s %-16s"


async def main(gz: GZ, call: Call) -> int:
    """See the module."""
    arguments = [a for a in call.arguments if a != "-v"]
    commands = {
        "list": _list,
        "add": _add,
        "delete": _delete,
        "exists": _exists,
        "update": _update,
        "vms": _vms,
    }
    if not arguments or arguments[0] not in commands:
        raise Failed(_USAGE, 2)
    try:
        options, rest = getopt.getopt(arguments[1:], "lLpd:f" if arguments[0] != "add" else "lp:")
    except getopt.GetoptError as error:
        raise Failed(f"invalid option: {error.opt}\n{_USAGE}", 2) from error
    datalinks.of(gz)
    return await commands[arguments[0]](gz, call, dict(options), rest)


def _name(rest: list[str]) -> str:
    if not rest:
        raise Failed(_USAGE, 2)
    return rest[0]


async def _list(gz: GZ, call: Call, options: dict[str, str], _: list[str]) -> int:
    if "-d" in options and "-p" not in options:
        raise Failed("Error: Delimiter option requires parsable option to be set")
    if "-l" in options and "-L" in options:
        raise Failed("Error: Cannot specify both local and non-local options")
    rows = [
        (name, tag["mac"], tag["link"], tag["type"])
        for name, tag in gz.nic_tags.items()
        if not ("-l" in options and tag["type"] != "etherstub")
        and not ("-L" in options and tag["type"] == "etherstub")
    ]
    if "-p" in options:
        delimiter = options.get("-d", ":")
        if delimiter == ":":
            rows = [(name, mac.replace(":", "\\:"), link, kind) for name, mac, link, kind in rows]
        await call.out("".join(delimiter.join(row) + "\n" for row in rows))
    else:
        lines = [_LINE % row for row in [("NAME", "MACADDRESS", "LINK", "TYPE"), *rows]]
        await call.out("".join(f"{line}\n" for line in lines))
    return 0


async def _add(gz: GZ, _: Call, options: dict[str, str], rest: list[str]) -> int:
    name = _name(rest)
    properties = dict(p.partition("=")[::2] for p in options.get("-p", "").split(",") if p)
    mac = rest[1] if len(rest) > 1 else properties.get("mac", "")
    local = "-l" in options
    if not mac and not local:
        raise Failed("Error: create non-local tag, but no mac address specified")
    if mac and local:
        raise Failed("Error: create local tag, but mac address specified")
    if properties.get("mtu") and local:
        raise Failed("Error: Cannot specify MTU for local nic tag")
    _check_mtu(properties.get("mtu"))
    if name in gz.nic_tags:
        raise Failed(f"Error: nic tag '{name}' already exists")
    if not re.fullmatch(r"[A-Za-z0-9_]{1,30}" if not local else r"[A-Za-z0-9_]{0,30}[0-9]", name):
        raise Failed("Error: nic tag name is invalid")
    if local:
        links = datalinks.of(gz)
        links.etherstubs.append(name)
        links.save()
        datalinks.of(gz)
        return 0
    if not re.fullmatch(r"[0-9a-fA-F]{1,2}(:[0-9a-fA-F]{1,2}){5}", mac):
        raise Failed(f"Error: MAC address '{mac}' is invalid")
    links_by_mac = {tag["mac"]: tag["link"] for tag in gz.nic_tags.values()}
    mac = ":".join(f"{int(part, 16):02x}" for part in mac.split(":"))
    if mac not in links_by_mac:
        raise Failed(f"Error: No physical nic found with MAC address '{mac}'")
    gz.nic_tags[name] = {"mac": mac, "link": links_by_mac[mac], "type": "normal"}
    return 0


def _check_mtu(text: str | None) -> None:
    if text is not None and not (text.isdigit() and 1500 <= int(text) <= 9000):
        raise Failed("Error: mtu must be between 1500-9000")


async def _delete(gz: GZ, _: Call, options: dict[str, str], rest: list[str]) -> int:
    name = _name(rest)
    if name not in gz.nic_tags:
        raise Failed(f"Error: nic tag '{name}' does not exist")
    if "-f" not in options and _users(gz, name):
        raise Failed(f"Error: nic tag '{name}' is in use")
    links = datalinks.of(gz)
    if name in links.etherstubs:
        machines = gz.machines.vms.values()
        plugged = {nic["nic_tag"] for one in machines if one.is_up for nic in one.plugged}
        if name in links.vnics.values() or name in plugged:
            raise Failed(
                "dladm: etherstub deletion failed: link busy\n"
                f"Error: could not remove etherstub '{name}'"
            )
        links.etherstubs.remove(name)
        links.save()
        await gz.stubs.settle()
    gz.nic_tags.pop(name, None)
    return 0


async def _exists(gz: GZ, call: Call, options: dict[str, str], rest: list[str]) -> int:
    _name(rest)
    missing = [name for name in rest if name not in gz.nic_tags]
    if "-l" in options:
        await call.err("".join(f"{name}\n" for name in missing))
    return 1 if missing else 0


async def _update(gz: GZ, call: Call, options: dict[str, str], rest: list[str]) -> int:
    name = _name(rest)
    properties = dict(p.partition("=")[::2] for p in options.get("-p", "").split(",") if p)
    if name not in gz.nic_tags:
        raise Failed(f"Error: nic tag '{name}' does not exist")
    if gz.nic_tags[name]["type"] == "etherstub":
        raise Failed("Error: cannot update a local tag")
    _check_mtu(properties.get("mtu"))
    mac = rest[1] if len(rest) > 1 else properties.get("mac")
    if mac is None and "mtu" not in properties:
        raise Failed("Error: nothing to update")
    if mac is not None:
        gz.nic_tags[name]["mac"] = mac
    if "mtu" in properties:
        await call.out("MTU changes will not take effect until next reboot\n")
    return 0


async def _vms(gz: GZ, call: Call, _: dict[str, str], rest: list[str]) -> int:
    await call.out("".join(f"{uuid}\n" for uuid in _users(gz, _name(rest))))
    return 0


def _users(gz: GZ, name: str) -> list[str]:
    return [
        uuid
        for uuid, machine in gz.machines.vms.items()
        if any(nic.get("nic_tag") == name for nic in machine.vm.get("nics", []))
    ]
