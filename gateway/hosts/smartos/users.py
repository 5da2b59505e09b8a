"""Who `docker exec --user` means, by the zone's own passwd and group, read from the global zone."""

from __future__ import annotations

import stat
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from dockerapi.errors import InvalidParameter, NotFound, NotSupported
from gateway.hosts.smartos.globalzone import GlobalZone

_FILE_LIMIT = 4 << 20
_SU = ("bin/su", "usr/bin/su")


@dataclass(frozen=True, slots=True)
class ExecUser:
    """`can_switch`: the zone has a su."""

    name: str = "root"
    uid: int = 0
    home: str = "/"
    can_switch: bool = True


Inside = Callable[[str], Awaitable[tuple[bytes, bytes]]]
"""passwd and group as the zone's own processes see them; a line, unless it is "", is put at the end of passwd first."""


async def exec_user(
    gz: GlobalZone, zonepath: str, user: str, inside: Inside, *, covered: bool = False
) -> ExecUser:
    """Of `name`, `uid`, `name:group` ("" = root); a number gets an entry, for su looks nobody up by number.

    `covered`: something is mounted over the files, so that they are read from inside.  InvalidParameter in dockerd's
    words for a name that the zone does not know; NotSupported for what su cannot be told: a group that is not the
    user's own, a number where passwd cannot be written.
    """
    wanted, _, group = user.partition(":")
    passwd, groups = await inside("") if covered else await _both(gz, zonepath)
    entry = _find(wanted or "0", passwd)
    can_switch = any([await gz.status(f"{zonepath}/root/{path}") for path in _SU])
    if entry is None and can_switch and wanted not in ("", "0") and wanted.isdecimal():
        gid = _group_id(groups, group) if group else "0"
        # No x for the password, which would be looked for in shadow.
        passwd, groups = await inside(f"{wanted}:*:{int(wanted)}:{gid}::/:/bin/sh")
        entry = _find(wanted, passwd)
        if entry is None:
            raise NotSupported(
                f"exec as {wanted} is not supported on SmartOS here: the number has no entry in the zone's "
                "/etc/passwd, and none can be made"
            )
    if entry is None:
        if wanted in ("", "0"):
            return ExecUser()
        if wanted.isdecimal():
            return ExecUser(wanted, int(wanted), can_switch=False)
        raise InvalidParameter(f"unable to find user {wanted}: no matching entries in passwd file")
    if group and _group_id(groups, group) != entry[3]:
        raise NotSupported(
            f"exec as {user} is not supported on SmartOS: su knows no other group than the user's own"
        )
    home = entry[5] if len(entry) > 5 and entry[5] else "/"
    return ExecUser(entry[0], int(entry[2]), home, can_switch)


async def file_owner(gz: GlobalZone, zonepath: str, user: str) -> tuple[int, int]:
    """uid and gid of files that shall be a user's; a number needs no entry.  InvalidParameter for an unknown name."""
    wanted, _, group = user.partition(":")
    entry = _find(wanted or "0", await _read(gz, zonepath, "passwd"))
    if entry is None and wanted and not wanted.isdecimal():
        raise InvalidParameter(
            f'failed to look up user "{wanted}" in container: no matching entries in passwd file'
        )
    uid = int(entry[2]) if entry else int(wanted or 0)
    if group:
        return uid, int(_group_id(await _read(gz, zonepath, "group"), group))
    return uid, int(entry[3]) if entry and entry[3].isdecimal() else 0


async def _both(gz: GlobalZone, zonepath: str) -> tuple[bytes, bytes]:
    return await _read(gz, zonepath, "passwd"), await _read(gz, zonepath, "group")


def _group_id(content: bytes, group: str) -> str:
    if group.isdecimal():
        return str(int(group))
    entry = _find(group, content)
    if entry is None:
        raise InvalidParameter(f"unable to find group {group}: no matching entries in group file")
    return entry[2]


def _find(wanted: str, content: bytes) -> list[str] | None:
    for fields in _entries(content):
        if fields[0] == wanted or (wanted.isdecimal() and fields[2] == str(int(wanted))):
            return fields
    return None


def _entries(content: bytes) -> Iterator[list[str]]:
    for line in content.decode("utf-8", "surrogateescape").splitlines():
        fields = line.strip().split(":")
        if len(fields) >= 4 and fields[2].isdecimal():
            yield fields


async def _read(gz: GlobalZone, zonepath: str, name: str) -> bytes:
    """A file of /etc; nothing if there is a link on the way, which would lead to the global zone's."""
    folder = await gz.status(f"{zonepath}/root/etc")
    if folder is None or not stat.S_ISDIR(folder.mode):
        return b""
    try:
        path = f"{zonepath}/root/etc/{name}"
        return await gz.read(path, size=_FILE_LIMIT, regular_only=True)
    except NotFound:
        return b""
