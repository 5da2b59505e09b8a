"""Users that the zone's own files do not know: numbers get an entry before the zone starts, names are refused.

dockerinit looks users up in the zone's /etc/passwd and /etc/group.  For a number that is not there it does no
setuid at all, and the program runs as root: `docker run -u 1000:1000` would be given everything.  Versions of
it look a number up as such, or as a name; so a number gets an entry of its own that is named by it, which both
find, also where another name has the number already: then with that one's group and home.  A name that is not
there is the number 0 to strtoll(3), and so root to versions of dockerinit that ask it.
"""

from __future__ import annotations

import posixpath
import stat
from collections.abc import Mapping, Sequence

from dockerapi.errors import InvalidParameter, NotFound, StartFailure
from gateway.hosts.smartos.globalzone import GlobalZone
from gateway.zones.spec import Filesystem, is_uuid

_LIMIT = 4 << 20
_NEVER_RAN = 128
"""Exit code of a container whose command could not be looked for."""
_HIGHEST_ID = 2**31 - 1
_FILES = ("passwd", "group")
_MAX_LINKS = 40


def with_entries(passwd: bytes, group: bytes, user: str) -> tuple[bytes, bytes]:
    """Both files with what `uid`, `uid:gid`, `name:gid` lacks there; names are dockerinit's to look up.

    InvalidParameter for a number that dockerd does not take either, or that names another number.
    """
    wanted, _, wanted_group = user.partition(":")
    own_group = str(int(wanted_group)) if _is_number(wanted_group) else "0"
    if _lacks(passwd, wanted, fields=7):
        rest = [b"x", b"", own_group.encode(), b"", b"/", b"/bin/sh"]
        passwd = _appended(passwd, wanted, _of_number(passwd, wanted, fields=7) or rest)
    if _lacks(group, wanted_group, fields=4):
        # Its members, if it has a name already, are not this one's: nobody is found by it.
        group = _appended(group, wanted_group, [b"x", b"", b""])
    return passwd, group


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _lacks(content: bytes, number: str, *, fields: int) -> bool:
    """Whether an entry that is named by this number is missing; root needs none."""
    if not _is_number(number) or int(number) == 0:
        return False
    if int(number) > _HIGHEST_ID:
        raise InvalidParameter(f"uids and gids must be in range 0-{_HIGHEST_ID}")
    for line in content.split(b"\n"):
        entry = line.split(b":")
        if entry[0].strip() != number.encode():
            continue
        if len(entry) != fields or not entry[2].isdigit() or int(entry[2]) != int(number):
            raise InvalidParameter(
                f"unable to find user {number}: the image has an entry of this name for another number"
            )
        return False
    return True


def _of_number(content: bytes, number: str, *, fields: int) -> list[bytes] | None:
    """What follows the name in the first entry that has this number."""
    for line in content.split(b"\n"):
        entry = line.split(b":")
        if len(entry) == fields and entry[2].isdigit() and int(entry[2]) == int(number):
            return entry[1:]
    return None


def _appended(content: bytes, number: str, rest: Sequence[bytes]) -> bytes:
    line = b":".join([number.encode(), rest[0], str(int(number)).encode(), *rest[2:]])
    return content.rstrip(b"\n") + (b"\n" if content.strip() else b"") + line + b"\n"


async def make_known(
    gz: GlobalZone, zonepath: str, user: str, filesystems: Sequence[Filesystem] = ()
) -> None:
    """Write the entries that are missing; InvalidParameter where there is no safe place for them.

    StartFailure for a name without an entry.  The zone is down, so nothing in it changes paths meanwhile; a link of
    the image is never followed, and names are left to dockerinit where one is in the way.  What `filesystems`
    mount over a file is what dockerinit sees: it is read and never changed.
    """
    parts = [part for part in user.split(":") if part not in ("", "0", "root")]
    if not parts:
        return
    folder = f"{zonepath}/root/etc"
    over = await _mounted_over(gz, zonepath, filesystems)
    try:
        before = await _read_both(gz, folder, user, over)
    except InvalidParameter:
        if over or any(_is_number(part) for part in parts):
            raise
        return
    check_names(*before, user)
    after = with_entries(*before, user)
    for name, old, new in zip(_FILES, before, after, strict=True):
        if new != old and name in over:
            raise _covered(user, name)
    for name, old, new in zip(_FILES, before, after, strict=True):
        if new != old:
            await gz.make_folder(folder)
            await gz.write(f"{folder}/{name}", new, mode=0o644)


async def _mounted_over(
    gz: GlobalZone, zonepath: str, filesystems: Sequence[Filesystem]
) -> dict[str, str]:
    """Which of the files are another filesystem's, and where that one is; "" where that cannot be said."""
    found: dict[str, str] = {}
    for filesystem in filesystems:
        target = await _real(gz, f"{zonepath}/root", filesystem.target)
        source = filesystem.source
        if is_uuid(source):
            source = f"{zonepath}/volumes/{source}"
        for name in _FILES:
            file = f"/etc/{name}"
            if target in (file, "/etc", "/"):
                rest = file.removeprefix(target.rstrip("/"))
                is_known = source.startswith("/") and target != "/" and name not in found
                found[name] = source.rstrip("/") + rest if is_known else ""
    return found


async def _real(gz: GlobalZone, root: str, target: str) -> str:
    """Where a path of the zone leads by the links of its root."""
    rest, real, hops = target.split("/"), "/", 0
    while rest:
        name = rest.pop(0)
        if name in ("", "."):
            continue
        path = posixpath.normpath(posixpath.join(real, name))
        status = await gz.status(root + path)
        if status is not None and stat.S_ISLNK(status.mode) and hops < _MAX_LINKS:
            hops += 1
            real = "/" if status.link.startswith("/") else real
            rest = [*status.link.split("/"), *rest]
        else:
            real = path
    return real


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
    if name in ("", "root") or _is_number(name):
        return True
    return any(line.split(b":")[0] == name.encode() for line in content.split(b"\n"))


async def _read_both(
    gz: GlobalZone, folder: str, user: str, over: Mapping[str, str]
) -> tuple[bytes, bytes]:
    passwd, group = [
        await _read_mounted(gz, name, over[name], user)
        if name in over
        else await _read(gz, folder, name, user)
        for name in _FILES
    ]
    return passwd, group


async def _read_mounted(gz: GlobalZone, name: str, path: str, user: str) -> bytes:
    try:
        if path:
            return await gz.read(path, size=_LIMIT, regular_only=True)
    except NotFound:
        pass
    raise _covered(user, name)


async def _read(gz: GlobalZone, folder: str, name: str, user: str) -> bytes:
    around = await gz.status(folder)
    if around is not None and not stat.S_ISDIR(around.mode):
        raise _unsafe(user)
    path = f"{folder}/{name}"
    status = await gz.status(path)
    if status is None:
        return b""
    if not stat.S_ISREG(status.mode) or status.size > _LIMIT:
        raise _unsafe(user)
    try:
        return await gz.read(path, regular_only=True)
    except NotFound as error:
        raise _unsafe(user) from error


def _unsafe(user: str) -> InvalidParameter:
    return InvalidParameter(
        f"unable to find user {user}: no entry in the image's /etc/passwd and /etc/group, and none can be made "
        "there: SmartOS would run it as root"
    )


def _covered(user: str, name: str) -> InvalidParameter:
    return InvalidParameter(
        f"unable to find user {user}: what is mounted over the container's /etc/{name} has no entry for it by "
        "name, and none can be made there: SmartOS might run it as root"
    )
