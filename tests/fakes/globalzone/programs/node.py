"""node(1) of the platform, as far as a script goes that takes a lock by vmadm's own module and waits for its input."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re

from tests.fakes.globalzone.call import Call, Failed
from tests.fakes.globalzone.gz import GZ

_LOCKS = re.compile(
    r'require\("/usr/vm/node_modules/locker"\)\.lock\(process\.argv\[process\.argv\.length - 1\], '
    r'function \(error\) \{.*console\.log\("(\w+)"\);.*stdin\.on\("end".*stdin\.resume\(\);.*\}\);'
)
_RETRY_S = 0.25


async def main(_: GZ, call: Call) -> int:
    """Take the lock, say so, keep it until standard input ends."""
    flag, script, path = (*call.arguments, "", "", "")[:3]
    match = _LOCKS.fullmatch(script)
    if flag != "-e" or match is None or not path:
        raise Failed("node: the fake knows one script", 9)
    descriptor = await _lock(path)
    try:
        await call.out(f"{match[1]}\n")
        await call.read_stdin()
    finally:
        os.close(descriptor)
    return 0


async def _lock(path: str) -> int:
    """As locker.js: by fcntl, again after a quarter of a second."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            await asyncio.sleep(_RETRY_S)
        else:
            return descriptor
