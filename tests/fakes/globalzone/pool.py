"""The pool `zones`: datasets as folders, clones as overlay mounts over what a snapshot froze.

    root/zones/NAME           a dataset's mountpoint; one that was created (not cloned) is this plain folder
    root/.pool/ID/upper|work  what a clone wrote; mounted at its mountpoint over the layers of its snapshot
    root/.pool/ID/copy        what `snapshot` copied of a dataset that goes on being written
    root/.pool/datasets.json  the whole of it, so that a machine that was switched off comes up again

A snapshot called `final` shares the folder of its dataset, as every image's does: those are not written
any more.  Every other one is a copy.  Errors are zfs's own words.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.hosts import trees
from gateway.hosts.command import run
from gateway.hosts.linux import overlay
from tests.fakes.globalzone.call import Failed

if TYPE_CHECKING:
    from tests.fakes.globalzone.gz import GZ

_COMPONENT = re.compile(r"[A-Za-z0-9_.: -]+")
NAME_LIMIT = 255


@dataclass(slots=True)
class Dataset:
    """`properties` are those set on this one; `layers` the ids of the folders it stands on, top first.

    A snapshot has no mountpoint of its own: `mountpoint` is its dataset's.
    """

    name: str
    type: str
    mountpoint: Path
    origin: str | None
    properties: dict[str, str] = field(default_factory=dict)
    created_ns: int = 0
    id: str = ""
    layers: tuple[str, ...] = ()

    @property
    def is_clone(self) -> bool:
        """A file system that has to be mounted."""
        return self.type == "filesystem" and self.origin is not None


@dataclass(frozen=True, slots=True)
class Change:
    """One line of `zfs diff`: `kind` + - M R, `type` the letter of -F, `renamed` the new path of an R, `delta` of the link count."""

    kind: str
    type: str
    path: str
    renamed: str = ""
    delta: int = 0


class Pool:
    """All datasets by name, snapshots too."""

    def __init__(self, gz: GZ, name: str = "zones") -> None:
        self.name = name
        self.datasets: dict[str, Dataset] = {}
        self._mounts = gz.root / name
        self._store = gz.root / ".pool"
        self._lock = asyncio.Lock()
        self.free: int | None = int(gz.options["free"]) if "free" in gz.options else None
        """Bytes until the pool is full (option `free`); None: as many as the disk has."""

    async def open(self) -> None:
        """Read what an earlier life left, mount clones."""
        await asyncio.to_thread(self._open)

    async def close(self) -> None:
        """No mount is left; the files stay."""
        await asyncio.to_thread(self._close)

    # --- looking

    def get(self, name: str) -> Dataset:
        """A dataset or a snapshot; Failed as `zfs` says it."""
        found = self.datasets.get(name)
        if found is None:
            raise Failed(f"cannot open '{name}': dataset does not exist")
        return found

    def exists(self, name: str) -> bool:
        """Whether there is such a dataset or snapshot."""
        return name in self.datasets

    def snapshots(self, name: str) -> list[Dataset]:
        """Of one dataset."""
        return [one for one in self.datasets.values() if one.name.startswith(f"{name}@")]

    def children(self, name: str) -> list[Dataset]:
        """Datasets and snapshots below, parents first."""
        found = [d for d in self.datasets.values() if d.name.startswith((f"{name}/", f"{name}@"))]
        return sorted(found, key=lambda one: one.name)

    def clones(self, name: str) -> list[Dataset]:
        """Datasets that stand on a snapshot, or on any snapshot of a dataset."""
        own = {
            one.name for one in [*self.snapshots(name), *([self.get(name)] if "@" in name else [])]
        }
        return [one for one in self.datasets.values() if one.origin in own]

    def value(self, name: str, key: str) -> tuple[str, str] | None:
        """A user property or another settable one with where it comes from: local or `inherited from X`."""
        at = name
        while True:
            found = self.datasets.get(at)
            if found is not None and key in found.properties:
                return found.properties[key], "local" if at == name else f"inherited from {at}"
            if at == self.name or not at:
                return None
            at = at.rpartition("@" if "@" in at else "/")[0]

    def folder(self, dataset: Dataset) -> Path:
        """Where the bytes of a dataset's own layer are."""
        return self._folder(dataset.id)

    # --- changing

    async def create(
        self, name: str, properties: dict[str, str] | None = None, *, parents: bool = False
    ) -> Dataset:
        """An empty file system; a volume where `properties` has a volsize."""
        async with self._lock:
            if parents:
                for above in _ancestors(name):
                    if above not in self.datasets:
                        await asyncio.to_thread(self._create, above, {})
            return await asyncio.to_thread(self._create, name, properties or {})

    async def snapshot(self, full: str, properties: dict[str, str] | None = None) -> Dataset:
        """`name@snapshot`."""
        async with self._lock:
            name, _, _ = full.partition("@")
            self.get(name)
            _check_name(full, "create snapshot")
            if full in self.datasets:
                raise Failed(f"cannot create snapshot '{full}': dataset already exists")
            return await self._snapshot(full, properties or {})

    async def clone(
        self, snapshot: str, name: str, properties: dict[str, str] | None = None
    ) -> Dataset:
        """A dataset that begins as the snapshot is."""
        async with self._lock:
            origin = self.get(snapshot)
            self._check_new(name)
            return await asyncio.to_thread(self._clone, origin, name, properties or {})

    async def rename(self, old: str, new: str) -> None:
        """With its snapshots and children."""
        async with self._lock:
            self.get(old)
            if new in self.datasets:
                raise Failed(f"cannot rename '{old}': dataset already exists")
            self._check_parent(new, f"cannot rename '{old}'")
            await asyncio.to_thread(self._rename, old, new)

    async def destroy(self, name: str, *, recursive: bool = False) -> None:
        """Refused while clones stand on it, or, without `recursive`, while it has children."""
        async with self._lock:
            self._check_destroy(name, recursive=recursive)
            await asyncio.to_thread(self._destroy, name)

    async def set(self, name: str, key: str, value: str | None) -> None:
        """Set a property; None: inherit it again."""
        async with self._lock:
            properties = self.get(name).properties
            if value is None:
                properties.pop(key, None)
            else:
                properties[key] = value
            self._save()

    def take(self, size: int) -> bool:
        """Whether so many bytes still fit; they are taken then."""
        if self.free is None:
            return True
        if size > self.free:
            self.free = 0
            return False
        self.free -= size
        return True

    # --- differences

    def diff(self, snapshot: str, name: str) -> list[tuple[str, str]]:
        """(+ - M R, path under the mountpoint; of an R both paths with a tab between).  Blocks."""
        return [
            (one.kind, f"{one.path}\t{one.renamed}" if one.renamed else one.path)
            for one in self.changes(snapshot, name)
        ]

    def changes(self, snapshot: str, name: str) -> list[Change]:
        """As `diff`, with types; in the order of object numbers.  Blocks."""
        before, now = self.get(snapshot), self.get(name)
        own = {now.origin, *(one.name for one in self.snapshots(name))}
        if snapshot not in own:
            raise Failed(
                f"Unable to obtain diffs: \n   Not an earlier snapshot from the same fs: '{snapshot}'"
            )
        with self._mounted(before) as old:
            return _compare(old, now.mountpoint)

    # --- inside, blocking

    def _open(self) -> None:
        self._store.mkdir(mode=0o700, exist_ok=True)
        self._mounts.mkdir(parents=True, exist_ok=True)
        # Conmon and the runtime live in mount namespaces of their own: they must see later clones.
        overlay.make_shared(self._mounts)
        record = self._store / "datasets.json"
        if not record.exists():
            self.datasets[self.name] = Dataset(
                self.name, "filesystem", self._mounts, None, {}, time.time_ns(), "root"
            )
            self._save()
            return
        for fields in json.loads(record.read_text()):
            fields["layers"] = tuple(fields["layers"])
            fields["mountpoint"] = Path(fields["mountpoint"])
            self.datasets[fields["name"]] = Dataset(**fields)
        for dataset in sorted(self.datasets.values(), key=lambda one: one.name):
            self._mount(dataset)

    def _close(self) -> None:
        for dataset in sorted(self.datasets.values(), key=lambda one: one.name, reverse=True):
            if dataset.is_clone:
                overlay.unmount(dataset.mountpoint)
        while overlay.unmount(self._mounts):
            pass

    def _save(self) -> None:
        rows = [
            {key: getattr(one, key) for key in Dataset.__dataclass_fields__}
            | {"mountpoint": str(one.mountpoint)}
            for one in self.datasets.values()
        ]
        record = self._store / "datasets.json.new"
        record.write_text(json.dumps(rows))
        record.rename(self._store / "datasets.json")

    def _folder(self, layer: str) -> Path:
        for name in ("upper", "copy"):
            if (self._store / layer / name).exists():
                return self._store / layer / name
        return next(
            one.mountpoint
            for one in self.datasets.values()
            if one.id == layer and "@" not in one.name
        )

    def _mountpoint(self, name: str) -> Path:
        return self._mounts.parent / name

    def _create(self, name: str, properties: dict[str, str]) -> Dataset:
        self._check_new(name)
        kind = "volume" if "volsize" in properties else "filesystem"
        made = Dataset(
            name,
            kind,
            self._mountpoint(name),
            None,
            dict(properties),
            time.time_ns(),
            secrets.token_hex(8),
        )
        if kind == "filesystem":
            made.mountpoint.mkdir(mode=0o755, exist_ok=True)
        else:
            (self._store / made.id / "upper").mkdir(parents=True)
        self.datasets[name] = made
        self._save()
        return made

    async def _snapshot(self, full: str, properties: dict[str, str]) -> Dataset:
        dataset = self.get(full.partition("@")[0])
        layer = dataset.id
        if not full.endswith("@final"):
            layer = secrets.token_hex(8)
            (self._store / layer).mkdir()
            copy = self._store / layer / "copy"
            source = self.folder(dataset)
            await run(["/bin/cp", "-a", "--reflink=auto", str(source), str(copy)], timeout_s=120)
        made = Dataset(
            full, "snapshot", dataset.mountpoint, None, dict(properties), time.time_ns(), layer
        )
        made.layers = (layer, *dataset.layers)
        self.datasets[full] = made
        self._save()
        return made

    def _clone(self, origin: Dataset, name: str, properties: dict[str, str]) -> Dataset:
        kind = self.get(origin.name.partition("@")[0]).type
        made = Dataset(
            name,
            kind,
            self._mountpoint(name),
            origin.name,
            dict(properties),
            time.time_ns(),
            secrets.token_hex(8),
            origin.layers,
        )
        for folder in ("upper", "work"):
            (self._store / made.id / folder).mkdir(parents=True)
        if kind == "filesystem":
            top = self._folder(origin.layers[0]).stat()
            upper = self._store / made.id / "upper"
            os.chown(upper, top.st_uid, top.st_gid)
            upper.chmod(stat.S_IMODE(top.st_mode))
        self.datasets[name] = made
        self._mount(made)
        self._save()
        return made

    def _mount(self, dataset: Dataset) -> None:
        if not dataset.is_clone:
            return
        dataset.mountpoint.mkdir(mode=0o755, exist_ok=True)
        own = self._store / dataset.id
        overlay.mount(
            dataset.mountpoint,
            lowers=[self._folder(layer) for layer in dataset.layers],
            upper=own / "upper",
            work=own / "work",
        )

    @contextmanager
    def _mounted(self, snapshot: Dataset) -> Iterator[Path]:
        """A snapshot's tree, to be read."""
        target = self._store / f"look-{secrets.token_hex(4)}"
        empty = self._store / "empty"
        target.mkdir()
        empty.mkdir(exist_ok=True)
        lowers = [self._folder(layer) for layer in snapshot.layers]
        # The kernel refuses a single lower directory.
        overlay.mount(target, lowers=[*lowers, empty], upper=None, work=None)
        try:
            yield target
        finally:
            overlay.unmount(target)
            target.rmdir()

    def _rename(self, old: str, new: str) -> None:
        moved = [self.get(old), *self.children(old)]
        self._unmount(moved)
        source, target = self._mountpoint(old), self._mountpoint(new)
        if source.exists():
            source.rename(target)
        for dataset in moved:
            del self.datasets[dataset.name]
            renamed = new + dataset.name[len(old) :]
            for clone in self.datasets.values():
                if clone.origin == dataset.name:
                    clone.origin = renamed
            dataset.name = renamed
            dataset.mountpoint = self._mountpoint(renamed.partition("@")[0])
            self.datasets[renamed] = dataset
        for dataset in moved:
            self._mount(dataset)
        self._save()

    def _destroy(self, name: str) -> None:
        gone = [self.get(name), *self.children(name)]
        self._unmount(gone)
        for dataset in reversed(gone):
            del self.datasets[dataset.name]
            is_shared = any(one.id == dataset.id for one in self.datasets.values())
            if not is_shared and (self._store / dataset.id).exists():
                trees.remove(str(self._store / dataset.id))
            if "@" not in dataset.name and dataset.mountpoint.exists():
                trees.remove(str(dataset.mountpoint))
        self._save()

    def _unmount(self, datasets: list[Dataset]) -> None:
        for dataset in reversed(datasets):
            if dataset.is_clone:
                overlay.unmount(dataset.mountpoint)

    # --- refusals

    def _check_new(self, name: str) -> None:
        _check_name(name, "create")
        if name in self.datasets:
            raise Failed(f"cannot create '{name}': dataset already exists")
        self._check_parent(name, f"cannot create '{name}'")
        if self.free is not None and self.free <= 0:
            raise Failed(f"cannot create '{name}': out of space")

    def _check_parent(self, name: str, words: str) -> None:
        above = name.rpartition("/")[0]
        if not above:
            raise Failed(
                f"{words}: missing dataset name" if not name else f"{words}: no such pool '{name}'"
            )
        if above.split("/")[0] != self.name:
            raise Failed(f"{words}: no such pool '{above.split('/')[0]}'")
        if above not in self.datasets:
            raise Failed(f"{words}: parent does not exist")

    def _check_destroy(self, name: str, *, recursive: bool) -> None:
        kind = self.get(name).type
        below = self.children(name)
        inside = {name, *(one.name for one in below)}
        if kind == "snapshot":
            if clones := self.clones(name):
                raise Failed(_dependents(name, "snapshot has dependent clones", "-R", clones))
            return
        if below and not recursive:
            raise Failed(_dependents(name, f"{kind} has children", "-r", below))
        owners = [name, *(one.name for one in below if "@" not in one.name)]
        clones = [
            clone for owner in owners for clone in self.clones(owner) if clone.name not in inside
        ]
        if clones:
            raise Failed(_dependents(name, f"{kind} has dependent clones", "-R", clones))


def _dependents(name: str, why: str, option: str, datasets: list[Dataset]) -> str:
    names = "\n".join(one.name for one in datasets)
    return f"cannot destroy '{name}': {why}\nuse '{option}' to destroy the following datasets:\n{names}"


def _ancestors(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _check_name(name: str, act: str) -> None:
    if len(name) > NAME_LIMIT:
        raise Failed(f"cannot {act} '{name}': name is too long")
    for part in re.split("[/@]", name):
        if not part:
            raise Failed(f"cannot {act} '{name}': empty component in name")
        if not _COMPONENT.fullmatch(part):
            wrong = next(char for char in part if not _COMPONENT.fullmatch(char))
            raise Failed(f"cannot {act} '{name}': invalid character '{wrong}' in name")


# --- differences


@dataclass(slots=True)
class _Object:
    """A file or folder: `name` is the one of its names that is told; `entry` is type, mode, owner, group, size, time."""

    number: int
    entry: _Entry
    names: list[str]

    @property
    def name(self) -> str:
        """The name that it got last, as far as an order of names can tell."""
        return max(self.names)


_Entry = tuple[str, int, int, int, int, int]
_Objects = dict[int, _Object]


def _compare(old: Path, new: Path) -> list[Change]:
    """Object by object, in the order of their numbers, one name of each, as zfs does."""
    before, after = _objects(old), _objects(new)
    here = str(new)
    pairs = _pairs(before, after)
    kept = {one.number for one in pairs.values()}
    found = [
        (number, Change("-", one.entry[0], f"{here}/{one.name}"))
        for number, one in before.items()
        if number not in kept
    ]
    entries = {(name, one.number) for one in before.values() for name in one.names}
    entries ^= {
        (name, pairs[number].number if number in pairs else -number)
        for number, one in after.items()
        for name in one.names
    }
    touched = {name.rpartition("/")[0] for name, _ in entries if name}
    for number, now in after.items():
        was = pairs.get(number)
        change = _change(here, was, now, is_touched=touched.issuperset(now.names))
        if change is not None:
            found.append((number, change))
    return [change for _, change in sorted(found, key=lambda one: one[0])]


def _change(here: str, was: _Object | None, now: _Object, *, is_touched: bool) -> Change | None:
    letter = now.entry[0]
    if was is None:
        return Change("+", letter, f"{here}/{now.name}")
    if letter == "/":
        is_same = was.entry == now.entry and not is_touched
        return None if is_same else Change("M", letter, f"{here}/{now.name}")
    delta = len(now.names) - len(was.names)
    if delta:
        name = was.name if delta > 0 else now.name
        return Change("M", letter, f"{here}/{name}", delta=delta)
    if was.name != now.name:
        return Change("R", letter, f"{here}/{was.name}", f"{here}/{now.name}")
    is_same = was.entry == now.entry and was.names == now.names
    return None if is_same else Change("M", letter, f"{here}/{now.name}")


def _pairs(before: _Objects, after: _Objects) -> _Objects:
    """Number now -> the object as it was.

    An overlay gives a file that it copies up, and a folder, another number at times: the one in its place is it then.
    """
    places = {name: one for one in before.values() for name in one.names}
    pairs: _Objects = {}
    for number, now in after.items():
        same = before.get(number)
        if same is not None and now.entry[0] == same.entry[0] != "/":
            pairs[number] = same
    taken = {one.number for one in pairs.values()}
    for number, now in after.items():
        place = places.get(now.name)
        if number in pairs or place is None or place.entry[0] != now.entry[0]:
            continue
        if place.number not in taken:
            pairs[number] = place
            taken.add(place.number)
    return pairs


def _objects(root: Path) -> _Objects:
    """By number; the name "" is the root."""
    found: _Objects = {}

    def add(name: str) -> None:
        status = os.lstat(root / name)
        one = found.setdefault(status.st_ino, _Object(status.st_ino, _entry(status), []))
        one.names.append(name)

    add("")
    for folder, folders, files in os.walk(root):
        for name in sorted([*folders, *files]):
            add(f"{folder}/{name}"[len(str(root)) + 1 :])
    return found


def _entry(found: os.stat_result) -> _Entry:
    mode = found.st_mode
    is_folder = stat.S_ISDIR(mode)
    size, time_ns = (0, 0) if is_folder else (found.st_size, found.st_mtime_ns)
    return _letter(mode), mode, found.st_uid, found.st_gid, size, time_ns


def _letter(mode: int) -> str:
    letters = {
        stat.S_IFBLK: "B",
        stat.S_IFCHR: "C",
        stat.S_IFDIR: "/",
        stat.S_IFIFO: "|",
        stat.S_IFLNK: "@",
        stat.S_IFSOCK: "=",
    }
    return letters.get(stat.S_IFMT(mode), "F")


def disk_usage(folder: Path) -> int:
    """Bytes that a tree takes."""
    return trees.size(str(folder)) if folder.exists() else 0


def copy_tree(source: Path, target: Path) -> None:
    """For programs that fill a dataset."""
    shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
