"""What a layer's tar will do to the tree below it, found out before anything is done.  No processes, no far side.

    tar --read_layer--> spool + Layer --settle(lower)--> Plan      (again with more of `lower` while it asks)
                                                          |-- removals: before the tar is extracted
                                                          `-- names to be changed, entries to be left out: rewrite

The platform's tar follows the links it finds, will not put a file in the place of a folder, and knows no
whiteouts.  So every path is resolved here, inside the root, through the links of this layer and of those
below (asked for by path, `lower`); whatever stands in the way goes first; an entry that leads out, or
through a link that leads nowhere, spoils the layer in the words of `gateway.hosts.untar`.

Which program looks and removes on the far side is whiteouts.py's.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import IO

from gateway.hosts.smartos import gnutar
from gateway.hosts.tarstream import BadArchive, Entry, Tar
from gateway.hosts.untar import ENTRY_LIMIT, path_parts

_FILE, _HARD_LINK, _SYMLINK, _DIRECTORY = 0x30, 0x31, 0x32, 0x35
_SPECIAL = frozenset(b"346")
_OPAQUE = b".wh..opq"
_LINK_LIMIT = 40
_NAME_LIMIT = 255
_TARGET_LIMIT = 1023  # MAXPATHLEN of illumos, less the end mark
_ID_LIMIT = (1 << 32) - 1
_SECONDS_LIMIT = 1 << 62

Lower = Mapping[bytes, bytes]
"""What lstat says of paths below the layer: b"d", b"f" (anything else), b"-" (nothing), b"l" + target."""


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of the spool: its name as it came, its path in normal form, its kind, its link as it came."""

    name: bytes
    path: bytes
    kind: int
    link: bytes


@dataclass(slots=True)
class Layer:
    """What was read.  `whiteouts` are (directory, name), the name b"" where the directory is opaque."""

    records: list[Record] = field(default_factory=list)
    whiteouts: list[tuple[bytes, bytes]] = field(default_factory=list)
    bytes: int = 0


@dataclass(slots=True)
class Plan:
    """What to do.  `unknown`: paths of `lower` that decide it; ask, and settle again.

    `removals`: per directory, (what, name): `w` remove, `o` remove all that is in the directory, `n` remove
    if it is a directory, `d` remove unless it is one.  `names`, `links` by number of the record.
    """

    unknown: set[bytes] = field(default_factory=set)
    removals: dict[bytes, list[tuple[bytes, bytes]]] = field(default_factory=dict)
    names: dict[int, bytes] = field(default_factory=dict)
    links: dict[int, bytes] = field(default_factory=dict)
    dropped: set[int] = field(default_factory=set)

    @property
    def changes_tar(self) -> bool:
        """Whether the spool cannot be extracted as it is."""
        return bool(self.names or self.links or self.dropped)


# --- reading


def read_layer(read: Callable[[int], bytes], out: IO[bytes], free: int) -> Layer:
    """All of a tar, checked entry by entry, written to `out` in GNU's dialect without its whiteouts.

    BadArchive names the entry that is refused; OSError if all of it is more than `free` bytes, or cannot be
    written; what `read` raises is raised.  Blocks.
    """
    layer = Layer()
    tar = Tar(read)
    count = 0
    for entry in tar:
        count += 1
        parts = path_parts(entry.name, entry.name)
        if count > ENTRY_LIMIT:
            raise BadArchive(f"{entry.name!r}: more than {ENTRY_LIMIT} entries")
        if b".wh." in entry.name and parts and _is_marker(layer, entry, parts):
            continue
        record = _checked(entry, parts)
        layer.records.append(record)
        layer.bytes += len(entry.link) if entry.kind == _SYMLINK else entry.size
        if layer.bytes > free:
            raise OSError(errno.ENOSPC, "the layer needs more space than is free")
        name = _spelled(record.path, entry.kind)
        out.write(gnutar.header(entry, name=name, link=_normal(record)))
        _copy(tar, entry, out)
    out.write(gnutar.END)
    return layer


def rewrite(read: Callable[[int], bytes], out: IO[bytes], plan: Plan) -> None:
    """A spool as the plan wants it.  Blocks."""
    tar = Tar(read)
    for number, entry in enumerate(tar):
        if number in plan.dropped:
            continue
        name = plan.names.get(number)
        spelled = entry.name if name is None else _spelled(name, entry.kind)
        out.write(gnutar.header(entry, name=spelled, link=plan.links.get(number)))
        _copy(tar, entry, out)
    out.write(gnutar.END)


def _copy(tar: Tar, entry: Entry, out: IO[bytes]) -> None:
    if entry.size:
        for chunk in tar.chunks():
            out.write(chunk)
        out.write(gnutar.padding(entry.size))


def _normal(record: Record) -> bytes:
    """The link of a record; a hard link's names a path from the root on."""
    return b"/".join(_names(record.link)) if record.kind == _HARD_LINK else record.link


def _spelled(path: bytes, kind: int) -> bytes:
    return (path or b".") + (b"/" if kind == _DIRECTORY else b"")


def _is_marker(layer: Layer, entry: Entry, parts: list[bytes]) -> bool:
    """Whether it is a whiteout, or bookkeeping of aufs; both are no part of the tree."""
    *above, name = parts
    if any(part.startswith(b".wh..wh.") for part in above):
        return True
    if not name.startswith(b".wh."):
        return False
    hidden = name[4:]
    if hidden.startswith(b".wh.") and hidden != _OPAQUE:
        return True
    if hidden in (b"", b".", b".."):
        raise BadArchive(f"{entry.name!r}: a whiteout must name an entry")
    layer.whiteouts.append((b"/".join(above), b"" if hidden == _OPAQUE else hidden))
    return True


def _checked(entry: Entry, parts: list[bytes]) -> Record:
    """What can be said of an entry by itself."""
    kind, link = entry.kind, entry.link
    if not parts and kind != _DIRECTORY:
        raise BadArchive(f"{entry.name!r}: only a directory can be the root")
    if any(len(part) > _NAME_LIMIT for part in parts):
        raise BadArchive(f"{entry.name!r}: {os.strerror(errno.ENAMETOOLONG)}")
    if max(entry.uid, entry.gid) >= _ID_LIMIT or abs(entry.mtime_ns) >= _SECONDS_LIMIT * 10**9:
        raise BadArchive(f"{entry.name!r}: a number is out of range")
    if max(entry.major, entry.minor) > _ID_LIMIT:
        raise BadArchive(f"{entry.name!r}: a number is out of range")
    if kind == _HARD_LINK:
        if not path_parts(link, entry.name):
            raise BadArchive(f"{entry.name!r}: hard link to the root")
    elif kind == _SYMLINK:
        if b"\0" in link:
            raise BadArchive(f"{entry.name!r}: a path cannot contain NUL")
        if not link or len(link) > _TARGET_LIMIT:
            number = errno.ENAMETOOLONG if link else errno.ENOENT
            raise BadArchive(f"{entry.name!r}: {os.strerror(number)}")
    elif kind not in (_FILE, _DIRECTORY) and kind not in _SPECIAL:
        raise BadArchive(f"{entry.name!r}: entries of type {chr(kind)!r} are not supported")
    return Record(entry.name, b"/".join(parts), kind, link)


# --- settling


def settle(layer: Layer, lower: Lower | None) -> Plan:
    """What the layer does on top of `lower`; None: there is nothing below.

    BadArchive in untar's words for an entry that does not stay inside.  While `unknown` is not empty the
    rest of the plan means nothing.
    """
    settling = _Settling(layer, lower)
    try:
        settling.run()
    except BadArchive:
        # It may be right once we know what is below.
        if not settling.plan.unknown:
            raise
    return settling.plan


def directory_in(
    path: bytes, fact_of: Callable[[bytes], bytes], explicit: Container[bytes] = ()
) -> bytes | None:
    """Where a directory of a tree is, links followed inside of it; None if there is none.

    `fact_of` says what is at a path, as in `Lower`.  What is `explicit` is a directory, whatever link is there.
    """
    place: list[bytes] = []
    todo = [(part, True) for part in reversed(_names(path))]
    links = 0
    while todo:
        part, is_literal = todo.pop()
        if part == b"..":
            place = place[:-1]
            continue
        here = b"/".join([*place, part])
        fact = fact_of(here)
        if fact[:1] == b"l" and not (is_literal and here in explicit):
            links += 1
            if links > _LINK_LIMIT:
                return None
            place = [] if fact[1:2] == b"/" else place
            todo += [(name, False) for name in reversed(_names(fact[1:]))]
        elif fact == b"d":
            place.append(part)
        else:
            return None
    return b"/".join(place)


class _Node:
    """A path in the tree as it will be.  `numbers`: the records that make it, none for what is below.

    `is_fresh`: nothing of the lower layers is seen below it.  `replaces`: what is below at this very path goes.
    """

    __slots__ = (
        "children",
        "is_fresh",
        "is_lower",
        "kind",
        "numbers",
        "parent",
        "path",
        "replaces",
        "target",
    )

    def __init__(self, parent: _Node | None, path: bytes, kind: bytes, target: bytes = b"") -> None:
        self.parent = parent
        self.path = path
        self.kind = kind
        self.target = target
        self.children: dict[bytes, _Node] = {}
        self.numbers: list[int] = []
        self.is_fresh = False
        self.is_lower = False
        self.replaces = False

    def join(self, name: bytes) -> bytes:
        return self.path + b"/" + name if self.path else name


class _LinkLoop(Exception):
    pass


class _Settling:
    """One run over the records."""

    def __init__(self, layer: Layer, lower: Lower | None) -> None:
        self.plan = Plan()
        self._layer = layer
        self._lower = lower
        self._hidden: set[bytes] = set()
        self._opaque: set[bytes] = set()
        self._root = _Node(None, b"", b"d")
        self._parents: dict[bytes, _Node] = {}
        self._linked: list[tuple[int, int]] = []

    def run(self) -> None:
        if self._lower is not None:
            self._hide()
        self._root.is_fresh = self._lower is None or b"" in self._opaque
        for number, record in enumerate(self._layer.records):
            if record.path:
                self._place(number, record)
        self._check_hard_links()
        if self._lower is not None:
            self._clear(self._root)

    # --- whiteouts: what they hide is below, so this layer's own entries are not looked at

    def _hide(self) -> None:
        records = self._layer.records
        explicit = {record.path for record in records if record.kind == _DIRECTORY}
        for parent, name in self._layer.whiteouts:
            place = directory_in(parent, self._fact, explicit)
            if place is None:
                continue  # nothing there to be hidden
            if name:
                self._hidden.add(place + b"/" + name if place else name)
                self.plan.removals.setdefault(place, []).append((b"w", name))
            else:
                self._opaque.add(place)
                self.plan.removals.setdefault(place, []).append((b"o", b""))

    def _fact(self, path: bytes) -> bytes:
        if self._lower is None:
            return b"-"
        fact = self._lower.get(path)
        if fact is None:
            self.plan.unknown.add(path)
            return b"-"
        return fact

    # --- entries

    def _place(self, number: int, record: Record) -> None:
        above, _, name = record.path.rpartition(b"/")
        parent = self._directory(above, record)
        path = parent.join(name)
        if path != record.path:
            self.plan.names[number] = path
        kind, target = b"f", b""
        if record.kind == _DIRECTORY:
            kind = b"d"
        elif record.kind == _SYMLINK:
            kind, target = b"l", record.link
        elif record.kind == _HARD_LINK:
            found = self._link_target(record)
            if found.path == path:
                self.plan.dropped.add(number)
                return
            self._linked.append((number, found.numbers[-1]))
            if found.path != _normal(record):
                self.plan.links[number] = found.path
            kind, target = found.kind, found.target
        node = self._made(parent, name, kind, target)
        node.numbers.append(number)

    def _made(self, parent: _Node, name: bytes, kind: bytes, target: bytes) -> _Node:
        """The node of an entry, in the place of what was there."""
        old = parent.children.get(name)
        if old is not None and old.kind == kind:
            if kind == b"l":
                # tar makes some links last, and finds the file that holds their place by its inode: that
                # number may be another file's by then.
                self.plan.dropped.update(set(old.numbers) - {target for _, target in self._linked})
            old.target = target
            old.is_lower = False
            return old
        node = _Node(parent, parent.join(name), kind, target)
        node.is_fresh = parent.is_fresh or node.path in self._hidden or node.path in self._opaque
        if old is not None:
            self._drop(old)
            # A directory may have been below that the entry in between has replaced.
            node.replaces = old.replaces or not old.is_lower
            node.is_fresh |= node.replaces
            self._parents.clear()
        parent.children[name] = node
        return node

    def _drop(self, node: _Node) -> None:
        """What was there is replaced by something of another kind: GNU tar would refuse, or follow it."""
        left = [node]
        while left:
            gone = left.pop()
            self.plan.dropped.update(gone.numbers)
            left += gone.children.values()

    def _link_target(self, record: Record) -> _Node:
        *above, name = _names(record.link)
        try:
            parent = self._follow(self._root, above)
        except _LinkLoop as error:
            raise _too_many_links(record) from error
        found = parent.children.get(name) if parent is not None else None
        if found is None or not found.numbers:
            if found is not None and found.kind == b"d":
                raise _to_directory(record)
            raise BadArchive(
                f"{record.name!r}: hard link to {record.link!r}, which is not in this layer"
            )
        if found.kind == b"d":
            raise _to_directory(record)
        return found

    def _check_hard_links(self) -> None:
        for number, target in self._linked:
            if target in self.plan.dropped and number not in self.plan.dropped:
                record = self._layer.records[number]
                raise BadArchive(
                    f"{record.name!r}: hard link to {record.link!r}, which is not in this layer"
                )

    # --- lookups

    def _child(self, node: _Node, name: bytes) -> _Node | None:
        found = node.children.get(name)
        if found is not None:
            return found
        path = node.join(name)
        if node.is_fresh or path in self._hidden:
            return None
        fact = self._fact(path)
        if fact == b"-":
            return None
        found = _Node(node, path, fact[:1], fact[1:])
        found.is_lower = True
        found.is_fresh = path in self._opaque
        node.children[name] = found
        return found

    def _directory(self, path: bytes, record: Record) -> _Node:
        """Where the entries of a directory go; it is made where nothing described it."""
        found = self._parents.get(path)
        if found is not None:
            return found
        if not path:
            return self._root
        above, _, name = path.rpartition(b"/")
        parent = self._directory(above, record)
        found = self._entered(parent, name, path, record)
        self._parents[path] = found
        return found

    def _entered(self, parent: _Node, name: bytes, path: bytes, record: Record) -> _Node:
        child = self._child(parent, name)
        if child is not None and child.kind == b"d":
            return child
        if child is not None and child.kind == b"l":
            try:
                found = self._follow(parent, _names(child.target), child.target)
            except _LinkLoop as error:
                if not child.is_lower:
                    raise _too_many_links(record) from error
                found = None
            if found is not None:
                return found
        if child is not None and not child.is_lower:
            raise BadArchive(f"{record.name!r}: {path!r} is not a directory inside the root")
        # tar makes it.  What is below there and is no directory is in its way.
        made = _Node(parent, parent.join(name), b"d")
        made.replaces = child is not None
        made.is_fresh = child is not None or parent.is_fresh or made.path in self._hidden
        made.is_fresh |= self._lower is not None and self._lower.get(made.path) == b"-"
        parent.children[name] = made
        return made

    def _follow(self, node: _Node, names: Iterable[bytes], target: bytes = b"") -> _Node | None:
        """Where a path leads from a directory, links followed; None if not to a directory."""
        here = self._root if target[:1] == b"/" else node
        todo = list(reversed(list(names)))
        links = 0
        while todo:
            name = todo.pop()
            if name == b"..":
                here = here.parent or here
                continue
            child = self._child(here, name)
            if child is None or child.kind == b"f":
                return None
            if child.kind == b"d":
                here = child
                continue
            links += 1
            if links > _LINK_LIMIT:
                raise _LinkLoop
            todo += reversed(_names(child.target))
            here = self._root if child.target[:1] == b"/" else here
        return here

    # --- what is in the way

    def _clear(self, top: _Node) -> None:
        left = [top]
        while left:
            parent = left.pop()
            if parent.is_fresh:
                continue
            wanted = []
            for child in parent.children.values():
                if child.replaces:
                    wanted.append((b"w" if child.numbers else b"d", _last(child.path)))
                elif child.numbers and child.path not in self._hidden:
                    wanted.append((b"d" if child.kind == b"d" else b"n", _last(child.path)))
                left.append(child)
            if wanted:
                self.plan.removals.setdefault(parent.path, []).extend(wanted)


def _names(target: bytes) -> list[bytes]:
    return [name for name in target.split(b"/") if name and name != b"."]


def _last(path: bytes) -> bytes:
    return path.rpartition(b"/")[2]


def _too_many_links(record: Record) -> BadArchive:
    return BadArchive(f"{record.name!r}: {os.strerror(errno.ELOOP)}")


def _to_directory(record: Record) -> BadArchive:
    return BadArchive(f"{record.name!r}: hard link to the directory {record.link!r}")
