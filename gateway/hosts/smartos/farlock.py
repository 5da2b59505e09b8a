"""A lock file of the far global zone, held by a program there: SFTP has no locks, the platform's own node takes them.

vmadm locks a VM's metadata by /usr/vm/node_modules/locker (fcntl(2) on a file below /var/run).  The same module, in
a node that says `locked` and goes when its standard input ends, keeps vmadm out; with the connection it ends, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from dockerapi.errors import CommandFailed, Unavailable
from dockerapi.framing import StreamId
from gateway.hosts.smartos.globalzone import GlobalZone, Program

log = logging.getLogger(__name__)

LOCKER = "/usr/vm/node_modules/locker"
SCRIPT = (
    f'require("{LOCKER}").lock(process.argv[process.argv.length - 1], function (error) {{'
    " if (error) { console.error(String(error)); process.exit(1); }"
    ' console.log("locked");'
    ' process.stdin.on("end", function () { process.exit(0); }); process.stdin.resume(); });'
)
_TIMEOUT_S = 30.0


@contextlib.asynccontextmanager
async def held(gz: GlobalZone, path: str) -> AsyncIterator[None]:
    """Nobody else of that machine has the lock inside the block.

    Unavailable if somebody keeps it for half a minute.  A platform without node or its module is no SmartOS that
    vmadm runs on: the log says so, and the block is run.
    """
    try:
        program = await gz.spawn(["node", "-e", SCRIPT, path], stdin=True)
    except CommandFailed as failed:
        log.warning("%s is not locked: %s", path, failed.message)
        yield
        return
    try:
        await _until_locked(program, path)
        yield
        # It lets go as its input ends; a clear end tells that it held the lock to here.
        await program.close_input()
    finally:
        await program.close()


async def _until_locked(program: Program, path: str) -> None:
    said: dict[StreamId, bytes] = {StreamId.STDOUT: b"", StreamId.STDERR: b""}
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            async for stream, data in program.output():
                said[stream] += data
                if b"locked\n" in said[StreamId.STDOUT]:
                    return
            await program.wait()
    except TimeoutError as error:
        raise Unavailable(f"{path}: another program holds this lock") from error
    words = said[StreamId.STDERR].decode(errors="replace").strip()
    log.warning("%s is not locked: %s", path, words.rpartition("\n")[2])
