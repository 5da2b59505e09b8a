"""Programs of an earlier life: what a killed gateway, or a lost connection, left running in the global zone.

Most of them end by themselves, when they next write to nobody.  A `zlogin -I` that has nothing to write stays, and
zoneadmd lets nobody else in beside it.  A vmadm that hangs keeps its zone from every other one: one of ours that
nobody waits for any more is ended when it has had more time than any vmadm needs.  A `vmadm create` goes on to
its end: what it makes is known only then.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from dockerapi.errors import APIError, CommandFailed
from gateway.hosts.smartos.globalzone import GlobalZone
from gateway.hosts.smartos.zlogin import attach_argv

log = logging.getLogger(__name__)

PS = "/usr/bin/ps"
_TIMEOUT_S = 60.0
_POLL_S = 0.5
HANGS_AFTER_S = 600.0
"""vmadm itself waits 300 s at most for a zone; what `stop -t` asks for comes on top."""
_CHANGING = frozenset(("start", "stop", "kill", "update", "reboot", "delete"))


@dataclass(frozen=True, slots=True)
class Orphan:
    """A vmadm without a parent that acts on one of our zones; ages and times in seconds."""

    pid: int
    age_s: float
    allowed_s: float
    text: str

    @property
    def left_s(self) -> float:
        """Until it counts as hanging."""
        return self.allowed_s - self.age_s


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


def orphans(listing: str, zones: Collection[str], limit_s: float) -> list[Orphan]:
    """Output of `ps -o pid= -o ppid= -o etime= -o args=` -> those that nobody waits for: the parent is init."""
    found = []
    for line in listing.splitlines():
        fields = line.split(None, 3)
        if len(fields) < 4 or fields[1] != "1":
            continue
        arguments = _of_vmadm(fields[3])
        if arguments and arguments[0] in _CHANGING and {*zones} & {*arguments[1:]}:
            grace = arguments[arguments.index("-t") + 1] if "-t" in arguments[:-1] else "0"
            allowed_s = limit_s + (int(grace) if grace.isdecimal() else 0)
            found.append(Orphan(int(fields[0]), seconds(fields[2]), allowed_s, fields[3]))
    return found


def creations(listing: str) -> set[int]:
    """Output of `ps -o pid= -o ppid= -o args=` -> each `vmadm create` that nobody waits for; it does not tell its zone.

    What was started over a lost connection may still have the sshd of that one as its parent.
    """
    rows = [line.split(None, 2) for line in listing.splitlines()]
    parents = {row[0]: row[2] for row in rows if len(row) == 3}
    return {
        int(pid)
        for pid, parent, arguments in (row for row in rows if len(row) == 3)
        if _of_vmadm(arguments)[:1] == ["create"]
        and (parent == "1" or "sshd" in parents.get(parent, ""))
    }


def _of_vmadm(shown: str) -> list[str]:
    """The arguments of a vmadm; node stands before it."""
    words = shown.split()
    names = [word.rpartition("/")[2] for word in words]
    return words[names.index("vmadm") + 1 :] if "vmadm" in names else []


def seconds(text: str) -> float:
    """ps's etime: [[DD-]hh:]mm:ss."""
    days, _, clock = text.rpartition("-")
    total = 0
    for part in clock.split(":"):
        total = total * 60 + int(part)
    return total + 86400 * int(days or 0)


async def end_hung(
    gz: GlobalZone, zones: Callable[[], Collection[str]], limit_s: float = HANGS_AFTER_S
) -> None:
    """Returns when no vmadm of an earlier life, or of a lost connection, acts on our zones; those that hang are ended."""
    while True:
        listing = await gz.run(
            [PS, "-e", "-o", "pid=", "-o", "ppid=", "-o", "etime=", "-o", "args="],
            timeout_s=_TIMEOUT_S,
        )
        found = orphans(listing.decode(errors="replace"), {*zones()}, limit_s)
        for one in found:
            if one.left_s <= 0:
                log.warning("ending a vmadm that hangs since %d s: %s", one.age_s, one.text)
                await _kill(gz, one.pid)
        if not found:
            return
        await asyncio.sleep(
            max(1.0, min((one.left_s for one in found if one.left_s > 0), default=1.0))
        )


async def until_made(gz: GlobalZone, limit_s: float = HANGS_AFTER_S) -> None:
    """Returns when every `vmadm create` of this moment that nobody waits for has ended: a zone that is not there then comes no more.

    One that takes longer than `limit_s` hangs, and is not waited for.
    """
    deadline, left = time.monotonic() + limit_s, await _creations(gz)
    while left and time.monotonic() < deadline:
        await asyncio.sleep(_POLL_S)
        left &= await _creations(gz)


async def _creations(gz: GlobalZone) -> set[int]:
    fields = ("-o", "pid=", "-o", "ppid=", "-o", "args=")
    listing = await gz.run([PS, "-e", *fields], timeout_s=_TIMEOUT_S)
    return creations(listing.decode(errors="replace"))


async def _kill(gz: GlobalZone, pid: int) -> None:
    try:
        await gz.run(["kill", "-KILL", str(pid)], timeout_s=_TIMEOUT_S)
    except CommandFailed as failed:
        log.debug("it has just ended: %s", failed.message)


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
