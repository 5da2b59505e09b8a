"""vmadmd's part: a docker zone that went down with autoboot on is started again by its restart policy.

    ran longer than 10 s      wait 100 ms
    else                      wait what the last restart left (docker:restartdelay), or 100 ms * 2^count
    the next time             twice as long

What `vmadm stop` ended is left alone, since that takes autoboot away first; what `vmadm kill` ended is not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from tests.fakes.globalzone.call import Failed
from tests.fakes.globalzone.machine import Machine

log = logging.getLogger("fake-gz")

_STEADY_S, _FIRST_MS = 10.0, 100


def wants(vm: Mapping[str, Any]) -> bool:
    """Whether the policy starts it again, by its metadata and exit status."""
    metadata = vm["internal_metadata"]
    policy, _, limit = str(metadata.get("docker:restartpolicy", "")).partition(":")
    if not vm.get("autoboot"):
        return False
    if policy == "always":
        return True
    if policy != "on-failure" or vm.get("exit_status", 0) == 0:
        return False
    return not limit or int(metadata.get("docker:restartcount", 0)) < int(limit)


def delay_ms(vm: Mapping[str, Any], ran_s: float) -> int:
    """How long to wait before the restart."""
    metadata = vm["internal_metadata"]
    if ran_s > _STEADY_S:
        return _FIRST_MS
    if "docker:restartdelay" in metadata:
        return int(metadata["docker:restartdelay"])
    return int(_FIRST_MS * 2 ** int(metadata.get("docker:restartcount", 0)))


class Vmadmd:
    """`start` boots a machine without resetting its count; `scale` multiplies every delay."""

    def __init__(
        self,
        group: asyncio.TaskGroup,
        start: Callable[[Machine], Awaitable[None]],
        scale: float,
    ) -> None:
        self._group = group
        self._start = start
        self._scale = scale
        self._closed = False

    def ended(self, machine: Machine, ran_s: float) -> None:
        """It went down."""
        if self._closed or machine.deleting or not machine.is_docker or not wants(machine.vm):
            return
        wait_ms = delay_ms(machine.vm, ran_s)
        machine.set_metadata(docker_restartdelay=2 * wait_ms)
        machine.restart = asyncio.get_running_loop().call_later(
            wait_ms / 1000 * self._scale, lambda: self._group.create_task(self._again(machine))
        )

    async def _again(self, machine: Machine) -> None:
        async with machine.lock:
            if machine.is_up or machine.deleting or self._closed or not machine.vm.get("autoboot"):
                return
            count = int(machine.vm["internal_metadata"].get("docker:restartcount", 0))
            machine.set_metadata(docker_restartcount=count + 1)
            try:
                await self._start(machine)
            except Failed as error:
                log.warning("machine %s is not restarted: %s", machine.uuid, error)

    def forget(self, machine: Machine) -> None:
        """No restart that was under way any more."""
        if machine.restart is not None:
            machine.restart.cancel()
            machine.restart = None

    def close(self) -> None:
        """The machine goes down: nothing is started again."""
        self._closed = True
