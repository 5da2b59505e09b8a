"""Programs of an earlier life: what a killed gateway, or a lost connection, left running in the global zone.

Most of them end by themselves, when they next write to nobody.  A `zlogin -I` that has nothing to write stays, and
zoneadmd lets nobody else in beside it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import PurePosixPath

from dockerapi.errors import APIError, CommandFailed
from gateway.hosts.smartos.globalzone import GlobalZone
from gateway.hosts.smartos.zlogin import attach_argv

log = logging.getLogger(__name__)

PS = "/usr/bin/ps"
_TIMEOUT_S = 60.0


def is_same(shown: str, argv: Sequence[str]) -> bool:
    """Whether ps shows this program: by its arguments, which illumos cuts at 80 characters.

    A script is shown with its interpreter before it, and a program by the path it was found at.
    """
    program = PurePosixPath(argv[0]).name
    expected = " ".join([program, *argv[1:]])
    words = shown.split()
    for number, word in enumerate(words):
        if word.rpartition("/")[2] == program:
            found = " ".join([program, *words[number + 1 :]])
            return " ".join(expected.split()).startswith(found)
    return False


def processes(listing: str) -> dict[int, str]:
    """Output of `ps -o pid= -o args=` -> arguments by pid."""
    rows = (line.strip().partition(" ") for line in listing.splitlines())
    return {int(pid): arguments.strip() for pid, _, arguments in rows if pid}


def attached(shown: dict[int, str], zones: Collection[str]) -> list[int]:
    """Those that are a `zlogin -I` as the gateway starts it, for one of these zones."""
    found = []
    for pid, arguments in shown.items():
        zone = arguments.rpartition(" ")[2]
        if zone in zones and any(
            arguments.endswith(f"zlogin {' '.join(attach_argv(zone, eof=eof)[1:])}")
            for eof in (True, False)
        ):
            found.append(pid)
    return found


async def end(gz: GlobalZone, zones: Collection[str]) -> None:
    """End what an earlier gateway left attached to these zones of ours; before anybody attaches anew."""
    if not zones:
        return
    try:
        listing = await gz.run([PS, "-e", "-o", "pid=", "-o", "args="], timeout_s=_TIMEOUT_S)
        left = attached(processes(listing.decode(errors="replace")), zones)
        if left:
            log.info("ending %d zlogin that an earlier gateway left", len(left))
            await gz.run(["kill", "-KILL", *map(str, left)], timeout_s=_TIMEOUT_S)
    except CommandFailed as failed:
        log.debug("one of them has just ended: %s", failed.message)
    except APIError as error:
        log.warning("zones may have an earlier gateway attached: %s", error.message)
