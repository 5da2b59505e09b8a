"""After `vmadm start`: whether dockerinit found what it is to run.

    vmadm start -> the zone runs dockerinit -> looks the command up -> opens the streams -> waits for whoever
    attaches -> execve

vmadm is content as soon as the zone runs; a command that is not there ends it a moment later, with a code
of dockerinit's own.  So its log is read along until it says one or the other.
"""

from __future__ import annotations

import logging
import stat

from dockerapi.errors import APIError, NotFound
from gateway.hosts.smartos.dockerinit import log_path
from gateway.hosts.smartos.globalzone import GlobalZone

log = logging.getLogger(__name__)

_EXECUTES = b"SWITCHING TO /dev/zfd"
"""dockerinit's last line before it waits and executes: user, folder and command are found by then."""
_LOG_SIZE = 256 << 10
POLL_S = 0.05


async def forget_log(gz: GlobalZone, zonepath: str) -> None:
    """What the last start said must not be taken for what this one says."""
    try:
        if path := await log_path(gz, zonepath):
            await gz.remove(path)
    except (APIError, OSError) as error:
        # An image may have a file where the folder should be; dockerinit will have its own words for it.
        log.info("zone at %s: %s", zonepath, error)


async def executes(gz: GlobalZone, zonepath: str) -> bool:
    """Whether dockerinit has found the command; False too where it has not come so far yet."""
    path = await log_path(gz, zonepath)
    status = await gz.status(path) if path else None
    # A container could leave a fifo here, or a link to anything.
    if status is None or not stat.S_ISREG(status.mode):
        return False
    try:
        return _EXECUTES in await gz.read(path, size=_LOG_SIZE, regular_only=True)
    except NotFound:
        return False
