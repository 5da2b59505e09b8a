"""Takes in what orphans of ours leave: conmon after its zone, processes that a killed or failed exec left.

Where we do not wait for them it is process 1's duty, and some take seconds for it.  Until then a zombie
stands in the process list, and, if it was in a zone's pid namespace, the zone cannot end: the kernel lets
a first process go only after all others were waited for.  So we become the subreaper of our descendants.

Children that command.py started are its own to wait for: only processes known by pid, known to have been
inside a pid namespace below ours, or of the runtime's name and not command.py's are taken.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gateway.hosts import command

_PR_SET_CHILD_SUBREAPER = 36
_DELAYS_S = (0.0, 0.005, 0.02, 0.1, 0.5)
_RUNTIMES = ("crun", "runc")
_libc = ctypes.CDLL(None, use_errno=True)
_kept = 0
awaited: set[int] = set()
"""Orphans that somebody waits for by their numbers: no strays."""


def become_subreaper() -> None:
    """Orphans below us become our children instead of process 1's."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_when_ended(pid: int) -> None:
    """Wait for a daemon that we know by its pid; nothing happens if it is no child of ours."""
    loop = asyncio.get_running_loop()
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return

    def reap() -> None:
        loop.remove_reader(descriptor)
        with suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, descriptor, os.WEXITED | os.WNOHANG)
        os.close(descriptor)

    loop.add_reader(descriptor, reap)


async def reap_strays() -> None:
    """Wait for orphans that came from inside a zone, now and for half a second."""
    for delay in _DELAYS_S:
        await asyncio.sleep(delay)
        _reap()


@contextmanager
def keep_orphans() -> Iterator[None]:
    """Inside, strays are left alone: one of them is about to be waited for by its number."""
    global _kept  # noqa: PLW0603 - of the process, as its children are
    _kept += 1
    try:
        yield
    finally:
        _kept -= 1


def _reap() -> None:
    if _kept or not command.starting.acquire(blocking=False):
        return
    try:
        for pid in set(_strays()) - awaited - command.started:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
    finally:
        command.starting.release()


def _strays() -> list[int]:
    """Dead children of ours that had a number in a further pid namespace, or are a half of a runtime's.

    The runtime forks to enter a zone; where that one ends meanwhile, it leaves the half that was not inside yet.
    """
    found = []
    for path in Path("/proc/self/task").iterdir():
        with suppress(OSError):
            children = (path / "children").read_text().split()
            found += [int(child) for child in children if _is_stray(child)]
    return found


def _is_stray(pid: str) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    was_inside = len(fields["NSpid"].split()) > len(_own_numbers())
    return fields["State"].startswith("Z") and (was_inside or fields["Name"].startswith(_RUNTIMES))


def _own_numbers() -> list[str]:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("NSpid:"):
            return line.split()[1:]
    return ["0"]
