"""Users that the zone's own files do not know: numbers get an entry before the zone starts, names are refused.

dockerinit looks users up in the zone's /etc/passwd and /etc/group.  For a number that is not there it does no
setuid at all, and the program runs as root: `docker run -u 1000:1000` would be given everything.  So such a
number gets an entry of its own, named by itself, which every version of dockerinit finds.  A name that is not
there is the number 0 to strtoll(3), and so root to versions of dockerinit that ask it.
"""

from __future__ import annotations

import stat

from dockerapi.errors import InvalidParameter, StartFailure
from gateway.hosts.smartos.globalzone import GlobalZone

_LIMIT = 4 << 20
_NEVER_RAN = 128
"""Exit code of a container whose command could not be looked for."""


def with_entries(passwd: bytes, group: bytes, user: str) -> tuple[bytes, bytes]:
    """Both files with what `uid`, `uid:gid`, `name:gid` lacks there; names are dockerinit's to look up."""
    wanted, _, wanted_group = user.partition(":")
    own_group = wanted_group if wanted_group.isdecimal() else "0"
    if wanted.isdecimal() and not _has(passwd, wanted):
        number = int(wanted)
        passwd = _appended(passwd, f"{number}:x:{number}:{int(own_group)}::/:/bin/sh")
    if wanted_group.isdecimal() and not _has(group, wanted_group):
        group = _appended(group, f"{int(wanted_group)}:x:{int(wanted_group)}:")
    return passwd, group


def _has(content: bytes, number: str) -> bool:
    """Whether a line's third field is this number."""
    for line in content.split(b"\n"):
        fields = line.split(b":")
        if len(fields) > 2 and fields[2].isdigit() and int(fields[2]) == int(number):
            return True
    return False


def _appended(content: bytes, line: str) -> bytes:
    return content.rstrip(b"\n") + (b"\n" if content.strip() else b"") + line.encode() + b"\n"


async def make_known(gz: GlobalZone, zonepath: str, user: str) -> None:
    """Write the entries that are missing; InvalidParameter where the image leaves no safe place for them.

    StartFailure for a name without an entry.  The zone is down, so nothing in it changes paths meanwhile; a link of
    the image is never followed, and names are left to dockerinit where one is in the way.
    """
    parts = [part for part in user.split(":") if part not in ("", "0", "root")]
    if not parts:
        return
    folder = f"{zonepath}/root/etc"
    try:
        before = await _read_both(gz, folder, user)
    except InvalidParameter:
        if any(part.isdecimal() for part in parts):
            raise
        return
    check_names(*before, user)
    after = with_entries(*before, user)
    for name, old, new in zip(("passwd", "group"), before, after, strict=True):
        if new != old:
            await gz.make_folder(folder)
            await gz.write(f"{folder}/{name}", new, mode=0o644)


def check_names(passwd: bytes, group: bytes, user: str) -> None:
    """StartFailure, in dockerd's words, for a name that has no entry."""
    wanted, _, wanted_group = user.partition(":")
    if not _is_named(passwd, wanted):
        text = f"unable to find user {wanted}: no matching entries in passwd file"
        raise StartFailure(text, _NEVER_RAN)
    if not _is_named(group, wanted_group):
        text = f"unable to find group {wanted_group}: no matching entries in group file"
        raise StartFailure(text, _NEVER_RAN)


def _is_named(content: bytes, name: str) -> bool:
    if name in ("", "root") or (name.isascii() and name.isdecimal()):
        return True
    return any(line.split(b":")[0] == name.encode() for line in content.split(b"\n"))


async def _read_both(gz: GlobalZone, folder: str, user: str) -> tuple[bytes, bytes]:
    status = await gz.status(folder)
    if status is not None and not stat.S_ISDIR(status.mode):
        raise _unsafe(user)
    return await _read(gz, f"{folder}/passwd", user), await _read(gz, f"{folder}/group", user)


async def _read(gz: GlobalZone, path: str, user: str) -> bytes:
    status = await gz.status(path)
    if status is None:
        return b""
    if not stat.S_ISREG(status.mode) or status.size > _LIMIT:
        raise _unsafe(user)
    return await gz.read(path)


def _unsafe(user: str) -> InvalidParameter:
    return InvalidParameter(
        f"unable to find user {user}: no entry in the image's /etc/passwd and /etc/group, and none can be made "
        "there: SmartOS would run it as root"
    )
