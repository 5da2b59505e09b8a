"""ipnat: -f, -r, -l, -C for map rules, of the global zone."""

from __future__ import annotations

import asyncio
import getopt
import re

from tests.fakes.globalzone import datalinks
from tests.fakes.globalzone.call import Call, Failed
from tests.fakes.globalzone.gz import GZ

_MAP = re.compile(
    r"map (\S+) (\d+\.\d+\.\d+\.\d+/\d+) -> (0|\d+\.\d+\.\d+\.\d+)/(\d+)"
    r"( portmap (tcp|udp|tcp/udp) (auto|\d+:\d+))?"
)


async def main(gz: GZ, call: Call) -> int:
    """See the module."""
    try:
        options, _ = getopt.getopt(call.arguments, "CdFhlnRrsvf:")
    except getopt.GetoptError as error:
        raise Failed("Usage: ipnat [-CFhnrRsv] [-f filename]") from error
    found = dict(options)
    if not datalinks.of(gz).ipfilter:
        raise Failed("ioctl(SIOCIPFGET): open device: No such device or address")
    file = gz.root / "var/run/ipnat.rules"
    rules = datalinks.nat_rules(gz.root)
    if "-C" in found:
        rules = []
    if "-f" in found:
        text = await _read(gz, call, found["-f"])
        given = [_normal(line) for line in text.splitlines() if line.strip()]
        for one in given:
            if "-r" in found:
                if one not in rules:
                    raise Failed("1:ioctl(SIOCRMNAT): No such process")
                rules.remove(one)
            elif one in rules:
                raise Failed("1:ioctl(SIOCADNAT): File exists")
            else:
                rules.append(one)
    if "-n" not in found:
        file.write_text("".join(f"{rule}\n" for rule in rules))
    if "-l" in found:
        await call.out("List of active MAP/Redirect filters:\n")
        await call.out("".join(f"{rule} \n" for rule in rules))
        await call.out("\nList of active sessions:\n")
    return 0


async def _read(gz: GZ, call: Call, name: str) -> str:
    if name == "-":
        return (await call.read_stdin()).decode()
    return await asyncio.to_thread(gz.path(name).read_text)


def _normal(line: str) -> str:
    match = _MAP.fullmatch(line.strip())
    if match is None:
        raise Failed(f'syntax error error at "{line.split(maxsplit=1)[0]}", line 1')
    target = "0.0.0.0" if match[3] == "0" else match[3]
    return f"map {match[1]} {match[2]} -> {target}/{match[4]}{match[5] or ''}"
