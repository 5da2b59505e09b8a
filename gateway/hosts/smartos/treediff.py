"""What changed in a zone's tree: `zfs diff`, completed by the names that the image and the zone have.

zfs compares objects, and tells one name of each: of a file with several names the others are missing, of a
renamed folder all that is in it, and a name may be told as gone whose place another file has taken.  So
zfs is asked which files changed; which names there were and are is read from both trees.
"""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from gateway.zones.host import ChangeKind

LIST = r"""
LC_ALL=C; export LC_ALL
# Into /dev/null tar reads no file.  What it says is kept apart: it would land within a line.  Its last words are no news.
for top; do
  { said=$(gtar cvvf /dev/null --numeric-owner --quoting-style=c --one-file-system -C "$top" . 2>&1 >&3)
  } 3>&1 || (($? == 1)) || { printf '%s\n' "${said%$'\n'*}" >&2; exit 1; }
  printf '\0%s\0' "$said"
done
"""
"""TOP...: of each tree a verbose listing and what tar said, both with a NUL after."""

_MOUNTED = re.compile(r"/(native|proc|dev|system|sys)(/|$)")
_DIFF_KINDS = {"+": ChangeKind.ADDED, "-": ChangeKind.DELETED, "M": ChangeKind.MODIFIED}
# illumos escapes a byte as \\ooo, OpenZFS as \\0ooo.  Backslashes are escaped too: all that there are begin an escape.
_THREE_DIGITS = re.compile(rb"\\([0-3][0-7]{2})")
_FOUR_DIGITS = re.compile(rb"\\0([0-3][0-7]{2})")
_QUOTED = rb'"((?:[^"\\]|\\.)*)"'
_LINE = re.compile(rb"([^ ]+) ([^\"]*)" + _QUOTED + rb"(?: link to " + _QUOTED + rb")?(.*)")
_OTHER_FILESYSTEM = re.compile(rb"[^\"]*" + _QUOTED + rb": file is on a different filesystem.*")
_C_ESCAPE = re.compile(rb"\\([0-7]{3}|.)")
_C_LETTERS = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v"}  # fmt: skip


def parse_diff(output: bytes, root: str) -> list[tuple[str, ChangeKind]]:
    """`zfs diff -H`: kind, path [, new path] [, change of the link count], by tabs; what is no plain byte is octal.

    Paths of the zone.  Rows are in the order of zfs's own numbers: a file in another's place is told as - and as +,
    in either order.
    """
    found: list[tuple[str, ChangeKind]] = []
    has_four = output.count(b"\\") == len(_FOUR_DIGITS.findall(output))
    escape = _FOUR_DIGITS if has_four else _THREE_DIGITS

    def add(raw: bytes, kind: ChangeKind) -> None:
        plain = escape.sub(lambda match: bytes([int(match[1], 8)]), raw)
        path = plain.decode(errors="surrogateescape").removesuffix("/")
        if path.startswith(f"{root}/") and not _MOUNTED.match(path.removeprefix(root)):
            found.append((path.removeprefix(root), kind))

    for line in output.splitlines():
        kind, *paths = line.split(b"\t")
        if kind == b"R" and len(paths) >= 2:
            add(paths[0], ChangeKind.DELETED)
            add(paths[1], ChangeKind.ADDED)
        elif paths and kind.decode() in _DIFF_KINDS:
            add(paths[0], _DIFF_KINDS[kind.decode()])
    return found


def joined(rows: Iterable[tuple[str, ChangeKind]]) -> dict[str, ChangeKind]:
    """One change a path: what went and came in the same place is modified."""
    found: dict[str, ChangeKind] = {}
    for path, kind in rows:
        found[path] = kind if found.get(path, kind) is kind else ChangeKind.MODIFIED
    return found


@dataclass(slots=True)
class Tree:
    """All names of a tree, without sockets and what other file systems hold.

    `entries`: path -> what tar tells of it, beginning with the letter of its type; `files`: of a file with several
    names, name -> all of them; `mounts`: folders that are another file system's.
    """

    entries: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, set[str]] = field(default_factory=dict)
    mounts: set[str] = field(default_factory=set)


def parse_trees(output: bytes) -> list[Tree]:
    """What LIST printed."""
    parts = output.split(b"\0")[:-1]
    return [_tree(listing, said) for listing, said in zip(parts[::2], parts[1::2], strict=True)]


def _tree(listing: bytes, said: bytes) -> Tree:
    tree = Tree()
    groups: dict[str, set[str]] = defaultdict(set)
    for line in listing.split(b"\n"):
        match = _LINE.fullmatch(line)
        path = _path(match[3]) if match else ""
        if match is None or not path or _MOUNTED.match(path):
            continue
        mode, numbers, _, first, rest = match.groups()
        if first is not None:
            group = groups[_path(first)]
            group |= {path, _path(first)}
            tree.files[path] = tree.files[_path(first)] = group
            tree.entries[path] = tree.entries.get(_path(first), b"")
        else:
            # The columns are as wide as those before had to be.
            tree.entries[path] = b" ".join([mode, *numbers.split(), rest])
    for line in said.split(b"\n"):
        if match := _OTHER_FILESYSTEM.fullmatch(line):
            tree.mounts.add(_path(match[1]))
    return tree


def _path(quoted: bytes) -> str:
    """`./name/` as C writes it -> /name; "" for the tree's top."""

    def plain(match: re.Match[bytes]) -> bytes:
        letters = match[1]
        return bytes([int(letters, 8)]) if len(letters) == 3 else _C_LETTERS.get(letters, letters)

    return _C_ESCAPE.sub(plain, quoted).decode(errors="surrogateescape")[1:].rstrip("/")


def completed(
    found: Mapping[str, ChangeKind], before: Tree, after: Tree, mounts: Collection[str] = ()
) -> dict[str, ChangeKind]:
    """All changes, by what zfs `found` of some names.

    Below `mounts`, and whatever else is mounted in the zone, names cannot be seen: there zfs is all that is known.
    """
    told = set(found)
    for path in found:
        told |= before.files.get(path, set()) | after.files.get(path, set())
    hidden = {*mounts, *after.mounts, *before.mounts}
    all_: dict[str, ChangeKind] = {}
    # A folder comes before what is in it.
    for path in sorted(before.entries.keys() | after.entries.keys() | found.keys()):
        folder = posixpath.dirname(path)
        if _is_below(path, hidden):
            kind = found.get(path)
        elif path in before.entries and path in after.entries:
            is_modified = path in told or _differ(before.entries[path], after.entries[path])
            kind = ChangeKind.MODIFIED if is_modified else None
        # A name that came or went changed its folder: else it did so after zfs had looked.
        elif path in told or folder == "/" or folder in all_:
            if path in before.entries:
                kind = ChangeKind.DELETED
            else:
                kind = ChangeKind.ADDED if path in after.entries else found[path]
        else:
            kind = None
        if kind is not None:
            all_[path] = kind
    return all_


def _differ(before: bytes, after: bytes) -> bool:
    """Of a folder zfs knows better: its size and time are no content."""
    return before != after and not (before[:1] == after[:1] == b"d")


def _is_below(path: str, folders: Collection[str]) -> bool:
    """Whether it is one of `folders` or in one."""
    while path not in ("", "/"):
        if path in folders:
            return True
        path = posixpath.dirname(path)
    return False
