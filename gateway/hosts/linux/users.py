"""Who a zone's process is: `user[:group]` by the zone's own passwd and group.

Rules and words are dockerd's: numbers need no entry, names do; a named or numbered user brings its
group memberships unless a group is given.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dockerapi.errors import InvalidParameter
from gateway.hosts.linux.rooted import read_in_root

_FILE_LIMIT = 4 << 20
_HIGHEST_ID = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Identity:
    """uid, gid and further groups of a process; `home` is "/" and `name` "" without a passwd entry."""

    uid: int = 0
    gid: int = 0
    additional_gids: tuple[int, ...] = (0,)
    home: str = "/"
    name: str = ""


@dataclass(frozen=True, slots=True)
class _User:
    name: str
    uid: int
    gid: int
    home: str


@dataclass(frozen=True, slots=True)
class _Group:
    name: str
    gid: int
    members: tuple[str, ...]


def resolve(root: Path, user: str, groups: Sequence[str] = ()) -> Identity:
    """The identity of `user` ("" = root) plus --group-add `groups`; InvalidParameter in dockerd's words."""
    passwd = read_in_root(root, "/etc/passwd", _FILE_LIMIT) or b""
    group = read_in_root(root, "/etc/group", _FILE_LIMIT) or b""
    return identify(user, groups, passwd, group)


def identify(user: str, groups: Sequence[str], passwd: bytes, group: bytes) -> Identity:
    """As `resolve`, from the files' content."""
    parts = user.split(":")
    wanted, wanted_group = parts[0], parts[1] if len(parts) > 1 else ""
    entry = _find_user(wanted, passwd)
    uid = entry.uid if entry else _checked(_number(wanted) or 0)
    gid = entry.gid if entry else 0
    memberships: tuple[int, ...] = ()
    if wanted_group:
        gid = _group_id(wanted_group, group)
    elif entry:
        memberships = tuple(g.gid for g in _groups(group) if entry.name in g.members)
    added = tuple(_group_id(name, group) for name in groups)
    # The primary group belongs into the list: without it a process that drops its gid would get past
    # files that deny just that group (CVE-2022-36109).
    return Identity(
        uid=uid,
        gid=gid,
        additional_gids=tuple(dict.fromkeys((gid, *memberships, *added))),
        home=(entry.home if entry else "") or "/",
        name=entry.name if entry else "",
    )


def in_copying(message: str) -> str:
    """What dockerd says instead of `message` where files are to become a user's."""
    return re.sub(
        r"unable to find (user|group) (.*): (?=no matching)",
        r'failed to look up \1 "\2" in container: ',
        message,
    )


def _find_user(wanted: str, passwd: bytes) -> _User | None:
    number = _number(wanted) if wanted else 0
    for entry in _users(passwd):
        if entry.name == wanted if number is None else entry.uid == number:
            return entry
    if number is None:
        raise InvalidParameter(f"unable to find user {wanted}: no matching entries in passwd file")
    return None


def _group_id(wanted: str, group: bytes) -> int:
    number = _number(wanted)
    if number is not None:
        return _checked(number)
    for entry in _groups(group):
        if entry.name == wanted:
            return entry.gid
    raise InvalidParameter(f"unable to find group {wanted}: no matching entries in group file")


def _checked(number: int) -> int:
    if not 0 <= number <= _HIGHEST_ID:
        raise InvalidParameter(f"uids and gids must be in range 0-{_HIGHEST_ID}")
    return number


def _number(text: str) -> int | None:
    digits = text[1:] if text[:1] in ("+", "-") else text
    return int(text) if digits.isascii() and digits.isdigit() else None


def _users(content: bytes) -> Iterator[_User]:
    for fields in _lines(content, 4):
        uid, gid = _number(fields[2]), _number(fields[3])
        if uid is not None and gid is not None:
            yield _User(fields[0], uid, gid, fields[5] if len(fields) > 5 else "")


def _groups(content: bytes) -> Iterator[_Group]:
    for fields in _lines(content, 3):
        gid = _number(fields[2])
        if gid is not None:
            yield _Group(fields[0], gid, tuple(fields[3].split(",")) if len(fields) > 3 else ())


def _lines(content: bytes, fields: int) -> Iterator[list[str]]:
    for line in content.decode("utf-8", "surrogateescape").split("\n"):
        parts = line.strip().split(":")
        # "+" and "-" lines are NIS leftovers; short lines count as nothing, as in dockerd.
        if len(parts) >= fields and not line.lstrip().startswith("#"):
            yield parts
