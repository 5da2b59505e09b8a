"""IPv6 addresses of a zone: dockerinit plumbs those of IPv4 alone, so the platform's ipadm adds them from inside.

    hold -> vmadm start -> dockerinit has its network, and waits -> zlogin ipadm create-addr -> let go -> the command

dockerinit has made the interface's IPv6 side and its link-local address by then; ipadm asks ipmgmtd, which
dockerinit leaves running where `docker:noipmgmtd` is not true.  A zone that vmadmd starts again does not wait: its
addresses come a moment after its command.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from dockerapi.errors import APIError, CommandFailed
from gateway.hosts.smartos.globalzone import GlobalZone
from gateway.hosts.smartos.zlogin import command_argv, native, su_seen
from gateway.zones.members import ipv6
from gateway.zones.spec import Nic, ZoneSpec

log = logging.getLogger(__name__)

NO_IPMGMTD = "docker:noipmgmtd"
_TIMEOUT_S = 30.0
_OBJECT = "v6"


def addresses(nics: Iterable[Nic]) -> tuple[tuple[str, str], ...]:
    """Interface and address with prefix of each IPv6 address that such nics ask for."""
    return tuple((nic.interface, str(address)) for nic in nics if (address := ipv6(nic)))


def dressed(spec: ZoneSpec) -> ZoneSpec:
    """As vmadm is to have it: ipmgmtd stays where an address is still to be added."""
    if NO_IPMGMTD not in spec.internal_metadata:
        return spec
    metadata = {**spec.internal_metadata, NO_IPMGMTD: not addresses(spec.nics)}
    return spec.model_copy(update={"internal_metadata": metadata})


async def plumb(gz: GlobalZone, spec: ZoneSpec, zonepath: str, root: str = "/") -> None:
    """The zone, which runs, has its IPv6 addresses; those that it has already do not matter.

    APIError with ipadm's words.
    """
    wanted = addresses(spec.nics)
    sees_su = bool(wanted) and await su_seen(gz, zonepath, root)
    for interface, address in wanted:
        ipadm = native(spec.brand, "/usr/sbin/ipadm")
        command = [ipadm, "create-addr", "-t", "-T", "static", "-a", address, f"{interface}/{_OBJECT}"]  # fmt: skip
        try:
            argv = command_argv(spec.uuid, command, tty=False, su=sees_su)
            await gz.run(argv, timeout_s=_TIMEOUT_S)
        except CommandFailed as error:
            if "already exists" in error.stderr.lower():
                continue
            raise APIError(
                f"the container cannot be given the address {address}: {error.message}",
                detail=error.stderr,
            ) from error
