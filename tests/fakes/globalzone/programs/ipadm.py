"""ipadm: create-if, delete-if, create-addr, delete-addr, show-addr, set-ifprop, show-ifprop."""

from __future__ import annotations

import getopt
from ipaddress import ip_interface

from tests.fakes.globalzone import datalinks
from tests.fakes.globalzone.call import Call, Failed
from tests.fakes.globalzone.datalinks import Interface, Links
from tests.fakes.globalzone.gz import GZ


async def main(gz: GZ, call: Call) -> int:
    """See the module."""
    commands = {
        "create-if": (_create_if, "t"),
        "delete-if": (_delete_if, ""),
        "create-addr": (_create_addr, "tT:a:d"),
        "delete-addr": (_delete_addr, ""),
        "show-addr": (_show_addr, "po:"),
        "set-ifprop": (_set, "tp:m:"),
        "show-ifprop": (_show, "co:p:m:"),
    }
    command, letters = commands.get(call.arguments[0] if call.arguments else "", (None, ""))
    if command is None:
        raise Failed("usage: ipadm <subcommand> <args> ...")
    try:
        options, rest = getopt.getopt(call.arguments[1:], letters)
    except getopt.GetoptError as error:
        raise Failed(f"ipadm: invalid option '-{error.opt}'") from error
    if not rest and call.arguments[0] not in ("show-addr", "show-ifprop"):
        raise Failed(f"usage: ipadm {call.arguments[0]} ...")
    code: int = await command(datalinks.of(gz), call, dict(options), rest)
    if call.arguments[0] in ("create-addr", "delete-addr", "delete-if"):
        await gz.stubs.settle()
    return code


def _interface(links: Links, name: str) -> Interface:
    if name not in links.interfaces:
        raise Failed(f"ipadm: {name}: Interface does not exist")
    return links.interfaces[name]


async def _create_if(links: Links, _: Call, options: dict[str, str], rest: list[str]) -> int:
    name = rest[0]
    if name in links.interfaces:
        raise Failed(f"ipadm: cannot create interface {name}: Interface already exists")
    if name not in links.vnics and name != datalinks.PHYSICAL:
        raise Failed(f"ipadm: cannot create interface {name}: No such device")
    if "-t" not in options:
        raise Failed(f"ipadm: cannot create interface {name}: Persistent operation on read-only fs")
    links.interfaces[name] = Interface()
    links.save()
    return 0


async def _delete_if(links: Links, _: Call, __: dict[str, str], rest: list[str]) -> int:
    _interface(links, rest[0])
    del links.interfaces[rest[0]]
    links.save()
    return 0


async def _create_addr(links: Links, _: Call, options: dict[str, str], rest: list[str]) -> int:
    interface = _interface(links, rest[0].partition("/")[0])
    if "/" not in rest[0] or options.get("-T") not in ("static", "addrconf"):
        raise Failed("ipadm: Invalid address type")
    if rest[0] in interface.addresses:
        raise Failed("ipadm: Could not create address: Address object already exists")
    if options["-T"] == "addrconf":
        if any(address.startswith("fe80:") for address in interface.addresses.values()):
            raise Failed("ipadm: Could not create address: Addrconf already in progress")
        interface.addresses[rest[0]] = f"fe80::{len(links.vnics)}:{len(links.interfaces)}/10"
        links.save()
        return 0
    try:
        address = ip_interface(options.get("-a", ""))
    except ValueError:
        raise Failed(f"ipadm: Invalid address '{options.get('-a', '')}'") from None
    if address.version == 6 and not any(
        a.startswith("fe80:") for a in interface.addresses.values()
    ):
        raise Failed("ipadm: Could not create address: Can't assign requested address")
    known = (ip_interface(a) for one in links.interfaces.values() for a in one.addresses.values())
    if any(address.ip == other.ip for other in known):
        raise Failed("ipadm: Could not create address: Address already exists")
    interface.addresses[rest[0]] = str(address)
    links.save()
    return 0


async def _delete_addr(links: Links, _: Call, __: dict[str, str], rest: list[str]) -> int:
    interface = _interface(links, rest[0].partition("/")[0])
    if interface.addresses.pop(rest[0], None) is None:
        raise Failed("ipadm: could not delete address: Object not found")
    links.save()
    return 0


async def _show_addr(links: Links, call: Call, options: dict[str, str], _: list[str]) -> int:
    if "-p" in options and "-o" not in options:
        raise Failed("ipadm: -p requires -o")
    fields = options.get("-o", "addrobj,type,state,addr").split(",")
    for interface in links.interfaces.values():
        for name, address in interface.addresses.items():
            is_local = address.startswith("fe80:")
            told = address.replace("/", f"%{name.partition('/')[0]}/") if is_local else address
            shown = told.replace(":", "\\:") if "-p" in options else told
            kind = "addrconf" if is_local else "static"
            row = {"addrobj": name, "type": kind, "state": "ok", "addr": shown}
            await call.out((":" if "-p" in options else " ").join(row[f] for f in fields) + "\n")
    if "lo0" in links.interfaces and "-p" in options:
        row = {"addrobj": "lo0/v6", "type": "static", "state": "ok", "addr": "\\:\\:1/128"}
        await call.out(":".join(row[f] for f in fields) + "\n")
    return 0


async def _set(links: Links, _: Call, options: dict[str, str], rest: list[str]) -> int:
    interface = _interface(links, rest[0])
    key, _equals, value = options.get("-p", "").partition("=")
    if key != "forwarding" or options.get("-m") not in ("ipv4", "ipv6"):
        raise Failed("ipadm: set-ifprop: " + (key or "-p") + ": could not set property: unknown")
    if value not in ("on", "off"):
        raise Failed(f"ipadm: set-ifprop: {key}: could not set property: invalid value '{value}'")
    if options["-m"] == "ipv4":
        interface.forwarding = value
    else:
        interface.forwarding6 = value
    links.save()
    return 0


async def _show(links: Links, call: Call, options: dict[str, str], rest: list[str]) -> int:
    if options.get("-p") != "forwarding" or options.get("-o") != "current":
        raise Failed("ipadm: show-ifprop: only -o current -p forwarding is known here")
    names = rest or list(links.interfaces)
    await call.out("".join(f"{_interface(links, name).forwarding}\n" for name in names))
    return 0
