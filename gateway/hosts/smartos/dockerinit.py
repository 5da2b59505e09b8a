"""dockerinit: what makes it wait, and what it and dockerexec say of a process that they could not start.

Both write lines `2026-01-01T00:00:00.000Z TEXT`: dockerinit into /var/log/sdc-dockerinit.log of the zone, from the
beginning at every boot; dockerexec on standard error, up to `EXEC`.  The last line of a failure is
`... FATAL (code: N): TEXT`, and N the exit status (1 is an abort, signal 6).
"""

from __future__ import annotations

import json
import logging
import posixpath
import re
import stat
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from dockerapi.errors import APIError, NotFound, StartFailure
from gateway.hosts.smartos.globalzone import GlobalZone

log = logging.getLogger(__name__)

CREATE_PREFIX = (
    "failed to create task for container: failed to create shim task: OCI runtime create failed: "
    "runc create failed: unable to start container process: error during container init: "
)
EXEC_PREFIX = "OCI runtime exec failed: exec failed: unable to start container process: "

ABORTED = 1
CHDIR_FAILED = 2
EXEC_FAILED = 3
GROUP_NOT_FOUND = 5
NO_COMMAND = 13
NOT_FOUND = 17
STAT_FAILED = 25
IS_DIRECTORY = 26
NOT_EXECUTABLE = 27
USER_NOT_FOUND = 29
ATTACH_TIMED_OUT = 45

_STAMPED = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z (.*)", re.DOTALL)
_FATAL = re.compile(r"FATAL \(code: (\d+)\): (.*)", re.DOTALL)
_NO_SUCH = re.compile(r"'?(.*?)'? not found in PATH")
_CALL = re.compile(r"(?:stat|execve|chdir|mkdirp)\((.*)\)(?: failed)?: (.*)", re.DOTALL)
_AFTER_COLON = re.compile(r"[^:]*: (.*)", re.DOTALL)
_SIGABRT = -6
_LAST_BYTES = 8192
_WAIT_KEY = "docker:wait_for_attach"
_HELD_AGAIN_S = (0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 4.0, 8.0)


def message(line: str) -> str | None:
    """What a line says after its time; None if it is no line of theirs."""
    match = _STAMPED.fullmatch(line.rstrip("\r\n"))
    return match[1] if match else None


def fatal(line: str) -> tuple[int, str] | None:
    """Code and text of a line that tells of a failure."""
    match = _FATAL.fullmatch(message(line) or "")
    return (int(match[1]), match[2]) if match else None


def reworded(code: int, text: str) -> tuple[str, int]:
    """In runc's words, and the exit code that dockerd makes of them: 127, 126 or 128."""
    words = _words(code, text)
    lowered = words.lower()
    if "executable file not found" in lowered or "no such file or directory" in lowered:
        return words, 127
    if code in (EXEC_FAILED, IS_DIRECTORY, NOT_EXECUTABLE) or "permission denied" in lowered:
        return words, 126
    if "not a directory" in lowered or "is a directory" in lowered:
        return words, 126
    return words, 128


def _words(code: int, text: str) -> str:
    if match := _NO_SUCH.fullmatch(text):
        return f'exec: "{match[1]}": executable file not found in $PATH'
    if code == NO_COMMAND:
        return 'exec: "": executable file not found in $PATH'
    called = _CALL.fullmatch(text)
    if called is not None:
        path, reason = called[1], called[2].lower()
        match code:
            case 2:
                return f'chdir to cwd ("{path}") set in config.json failed: {reason}'
            case 3:
                return f"exec {path}: {reason}"
            case 25:
                return f'exec: "{path}": stat {path}: {reason}'
            case 26:
                return f'exec: "{path}": is a directory: permission denied'
            case 27:
                return f'exec: "{path}": permission denied'
    named = _AFTER_COLON.fullmatch(text)
    if named is not None and code == USER_NOT_FOUND:
        return f"unable to find user {named[1]}: no matching entries in passwd file"
    if named is not None and code == GROUP_NOT_FOUND:
        return f"unable to find group {named[1]}: no matching entries in group file"
    return f"dockerinit: {text}"


def exec_failure(code: int, text: str) -> StartFailure:
    """The error of an exec."""
    words, exit_code = reworded(code, text)
    return StartFailure(f"{EXEC_PREFIX}{words}", exit_code, detail=text)


async def start_failure(gz: GlobalZone, zonepath: str, exit_status: int) -> tuple[int, str] | None:
    """(126, 127 or 128, dockerd's words) if a zone that stopped with `exit_status` never came to its command.

    `exit_status` as vmadm has it.  None if its command ran, or nothing is known.
    """
    if not 0 < exit_status < 128 and exit_status != _SIGABRT:
        return None
    line = await _last_line(gz, zonepath)
    failed = fatal(line)
    if failed is None:
        return None
    code, text = failed
    # An application may itself end with 17: the log must say that it was dockerinit.
    if exit_status != (_SIGABRT if code == ABORTED else code):
        return None
    words, exit_code = reworded(code, text)
    if code in (USER_NOT_FOUND, GROUP_NOT_FOUND):
        return exit_code, words  # dockerd looks them up itself, before there is a runtime
    return exit_code, f"{CREATE_PREFIX}{words}"


async def log_path(gz: GlobalZone, zonepath: str) -> str:
    """Where dockerinit writes, inside the zone's root; "" where the folders on the way are none, or links.

    What is there may be anything that the image or the container has left.
    """
    path = f"{zonepath}/root"
    for name in ("var", "log"):
        path = f"{path}/{name}"
        status = await gz.status(path)
        if status is None or not stat.S_ISDIR(status.mode):
            return ""
    return f"{path}/sdc-dockerinit.log"


async def _last_line(gz: GlobalZone, zonepath: str) -> str:
    """Of dockerinit's log, "" if there is none.

    The path belongs to the image: a link in it would lead to a file of the global zone.
    """
    path = await log_path(gz, zonepath)
    status = await gz.status(path) if path else None
    if status is None or not stat.S_ISREG(status.mode):
        return ""
    offset = max(0, status.size - _LAST_BYTES)
    try:
        data = await gz.read(path, offset=offset, size=_LAST_BYTES, regular_only=True)
    except NotFound:
        return ""
    lines = data.decode("utf-8", "replace").rstrip("\n").split("\n")
    return lines[-1]


def held(vm: Mapping[str, Any]) -> str:
    """Until when a zone (as `vmadm get` shows it) waits, or would at its next start; "" if it does not."""
    return str((vm.get("internal_metadata") or {}).get(_WAIT_KEY) or "")


async def hold_start(gz: GlobalZone, zonepath: str, until_ms: int) -> None:
    """The zone's command shall wait for `let_start`; dockerinit fails once `until_ms` (epoch) has passed."""
    await _change_metadata(gz, zonepath, str(until_ms))


async def let_start(gz: GlobalZone, zonepath: str, held: str = "") -> str:
    """The zone's command need not wait (any more).  Until when it would have waited, "" if it did not.

    With `held` only that wait is ended, and no later start's.
    """
    return await _change_metadata(gz, zonepath, None, held)


async def let_start_for_good(
    gz: GlobalZone, zonepath: str, held: str, over: Callable[[float], Awaitable[bool]]
) -> None:
    """After `let_start`, which gave `held`: until nothing can bring the wait back, or nobody waits any more, for which
    `over` waits so many seconds.

    dockerinit notes that it waits by the metadata agent, which reads and writes the whole file: a write that was
    begun before ours brings the wait back.  Its lock is fcntl's, which no file transfer can take.
    """
    for delay_s in _HELD_AGAIN_S:
        if await over(delay_s):
            return
        try:
            if await let_start(gz, zonepath, held):
                log.info("zone at %s: its wait for an attach had come back", zonepath)
        except (APIError, OSError, ValueError) as error:
            log.warning("zone at %s may wait for an attach: %s", zonepath, error)


async def _change_metadata(gz: GlobalZone, zonepath: str, value: str | None, only: str = "") -> str:
    """The value before.

    Under the lock that vmadm and the metadata agent take for that file: else a change of theirs in the very moment
    were lost, or ours.
    """
    machine, uuid = posixpath.split(zonepath)
    root = posixpath.dirname(machine).rstrip("/")
    async with gz.locked(f"{root}/var/run/vm.{uuid}.config.lockfile"):
        return await _put_wait(gz, zonepath, value, only)


async def _put_wait(gz: GlobalZone, zonepath: str, value: str | None, only: str) -> str:
    path = f"{zonepath}/config/metadata.json"
    try:
        document = json.loads(await gz.read(path))
    except NotFound:
        document = {}
    internal = document.setdefault("internal_metadata", {})
    before = str(internal.get(_WAIT_KEY) or "")
    if before == (value or "") or (only and before != only):
        return ""
    if value is None:
        del internal[_WAIT_KEY]
    else:
        document.setdefault("customer_metadata", {})
        internal[_WAIT_KEY] = value
    await gz.write(path, json.dumps(document).encode())
    return before
