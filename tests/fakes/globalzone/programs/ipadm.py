"""ipadm: create-if, delete-if, create-addr, delete-addr, show-addr, set-ifprop, show-ifprop, for IPv4."""

from __future__ import annotations

import getopt
from ipaddress import IPv4Interface

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
    if options.get("-T") != "static" or "/" not in rest[0]:
        raise Failed("ipadm: Invalid address type")
    if rest[0] in interface.addresses:
        raise Failed("ipadm: Could not create address: Address object already exists")
    try:
        address = IPv4Interface(options.get("-a", ""))
    except ValueError:
        raise Failed(f"ipadm: Invalid address '{options.get('-a', '')}'") from None
    known = (IPv4Interface(a) for one in links.interfaces.values() for a in one.addresses.values())
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
            row = {"addrobj": name, "type": "static", "state": "ok", "addr": address}
            await call.out((":" if "-p" in options else " ").join(row[f] for f in fields) + "\n")
    if "lo0" in links.interfaces and "-p" in options:
        row = {"addrobj": "lo0/v6", "type": "static", "state": "ok", "addr": "\\:\\:1/128"}
        await call.out(":".join(row[f] for f in fields) + "\n")
    return 0


async def _set(links: Links, _: Call, options: dict[str, str], rest: list[str]) -> int:
    interface = _interface(links, rest[0])
    key, _equals, value = options.get("-p", "").partition("=")
    if key != "forwarding" or options.get("-m") != "ipv4":
        raise Failed("ipadm: set-ifprop: " + (key or "-p") + ": could not set property: unknown")
    if value not in ("on", "off"):
        raise Failed(f"ipadm: set-ifprop: {key}: could not set property: invalid value '{value}'")
    interface.forwarding = value
    links.save()
    return 0


async def _show(links: Links, call: Call, options: dict[str, str], rest: list[str]) -> int:
    if options.get("-p") != "forwarding" or options.get("-o") != "current":
        raise Failed("ipadm: show-ifprop: only -o current -p forwarding is known here")
    names = rest or list(links.interfaces)
    await call.out("".join(f"{_interface(links, name).forwarding}\n" for name in names))
    return 0
