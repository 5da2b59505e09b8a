"""The mount list of a zone, in dockerd's order.  Pure.

    the runtime's own     /proc /dev /dev/pts /sys /sys/fs/cgroup /dev/mqueue /dev/shm
    then, shallow first   etc files, filesystems (lofs = bind), tmpfs, the init program

A mount of the spec replaces one of ours on the same target.  Each costs the start time, so none is
listed that nobody sees.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence
from typing import Any

from dockerapi.errors import InvalidParameter, NotSupported
from gateway.hosts.linux.machine import Machine, Place
from gateway.hosts.linux.process import INIT_TARGET, uses_init
from gateway.zones.metadata import DockerMetadata, Runtime, Tmpfs
from gateway.zones.spec import Filesystem, ZoneSpec

Mount = dict[str, Any]

_PROPAGATIONS = ("private", "rprivate", "slave", "rslave", "shared", "rshared")
# The root must pass on what its strongest bind passes on: without it a later mount on the host is not
# seen inside even through an rslave bind.
_STRENGTH = {"slave": 1, "rslave": 1, "shared": 2, "rshared": 2}
_ROOT_PROPAGATION = {1: "rslave", 2: "rshared"}
_LEFT_WRITABLE = frozenset(("/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"))  # noqa: S108
_FLAG_OPPOSITES = {
    "exec": "noexec",
    "suid": "nosuid",
    "dev": "nodev",
    "rw": "ro",
    "async": "sync",
    "atime": "noatime",
    "diratime": "nodiratime",
    "relatime": "norelatime",
    "strictatime": "nostrictatime",
    "nomand": "mand",
}
_FLAGS = frozenset(_FLAG_OPPOSITES) | frozenset(_FLAG_OPPOSITES.values())
_TMPFS_VALUES = frozenset(["size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"])
_NOT_FOR_THE_MOUNT = frozenset(
    [
        "volume",
        "image",
        "nocopy",
        "create",
        "nonrecursive",
        "readonlynonrecursive",
        "readonlyforcerecursive",
        "copy",
        "z",
        "Z",
        "consistent",
        "cached",
        "delegated",
    ]
)


def oci_mounts(
    spec: ZoneSpec, metadata: DockerMetadata, place: Place, machine: Machine
) -> list[Mount]:
    """All mounts; InvalidParameter for options that no mount has."""
    runtime = metadata.runtime
    asked = [*_filesystems(spec, runtime, place, machine), *map(_tmpfs, runtime.tmpfs)]
    targets = {mount["destination"] for mount in asked}
    own = [mount for mount in _defaults(runtime, place, machine) if not _replaced(mount, targets)]
    files = [mount for mount in _etc_files(place) if mount["destination"] not in targets]
    if uses_init(runtime):
        files.append(_init(place))
    if runtime.readonly_rootfs:
        own = [_readonly(m) if m["destination"] not in _LEFT_WRITABLE else m for m in own]
        files = [_readonly(mount) for mount in files]
    return own + sorted(files + asked, key=_depth)


def root_propagation(spec: ZoneSpec, runtime: Runtime) -> str:
    """`linux.rootfsPropagation`: the strongest that a bind asks for; "" for the runtime's default."""
    words = (_propagation(_options(f, runtime)) for f in spec.filesystems)
    return _ROOT_PROPAGATION.get(max((_STRENGTH.get(word, 0) for word in words), default=0), "")


def _defaults(runtime: Runtime, place: Place, machine: Machine) -> list[Mount]:
    # A privileged zone may change what /sys and the cgroups show.
    mode = ["rw"] if runtime.privileged else ["ro"]
    writable = runtime.writable_cgroups
    cgroups = mode if writable is None else ["rw"] if writable else ["ro"]
    mounts = [
        _mount("/proc", "proc", "proc", ["nosuid", "noexec", "nodev"]),
        _mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount(
            "/dev/pts",
            "devpts",
            "devpts",
            ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        _sysfs(runtime, mode),
        _mount("/sys/fs/cgroup", "cgroup", "cgroup", [*cgroups, "nosuid", "noexec", "nodev"]),
        _mount("/dev/mqueue", "mqueue", "mqueue", ["nosuid", "noexec", "nodev"]),
    ]
    if runtime.ipc == "none":
        return mounts
    # POSIX shared memory lies in files: whose IPC namespace it is, whose files they are.
    if shared := place.shm or ("/dev/shm" if runtime.ipc == "host" else ""):  # noqa: S108
        return [*mounts, _bind("/dev/shm", shared, ["rbind", "rprivate"])]  # noqa: S108
    options = ["nosuid", "noexec", "nodev", "mode=1777", f"size={runtime.shm_size}"]
    return [*mounts, _mount("/dev/shm", "tmpfs", "shm", options)]  # noqa: S108


def _sysfs(runtime: Runtime, mode: list[str]) -> Mount:
    return _mount("/sys", "sysfs", "sysfs", ["nosuid", "noexec", "nodev", *mode])


def _replaced(mount: Mount, targets: set[str]) -> bool:
    target = mount["destination"]
    return target in targets or ("/dev" in targets and target.startswith("/dev/"))


def _etc_files(place: Place) -> list[Mount]:
    if not place.etc:
        return []
    return [
        _bind(f"/etc/{name}", f"{place.etc}/{name}", ["rbind", "rprivate"])
        for name in ("resolv.conf", "hostname", "hosts")
    ]


def _init(place: Place) -> Mount:
    if not place.init:
        raise NotSupported(
            "this host has no init program (docker-init, tini or catatonit) for --init"
        )
    return _bind(INIT_TARGET, place.init, ["bind", "ro"])


def _filesystems(
    spec: ZoneSpec, runtime: Runtime, place: Place, machine: Machine
) -> Iterable[Mount]:
    for filesystem in spec.filesystems:
        source = place.volumes.get(filesystem.target, filesystem.source)
        options = _options(filesystem, runtime)
        is_file = source in place.files
        deep = machine.kernel >= (5, 12) and not is_file
        if "readonlyforcerecursive" in options and not deep and not is_file:
            raise InvalidParameter(
                "recursively read-only mounts are not supported by this kernel: 5.12 or newer is needed"
            )
        chosen = _bind_options(options, deep=deep)
        yield _bind(clean(filesystem.target), source, chosen + _kept(source, chosen, place))


def _kept(source: str, chosen: Sequence[str], place: Place) -> list[str]:
    """What holds for the source's own mount holds for its bind, unless the opposite was asked for."""
    opposites = {word: other for other, word in _FLAG_OPPOSITES.items()}
    return [
        word
        for word in place.flags.get(source, ())
        if not {word, f"r{word}", opposites[word]} & set(chosen)
    ]


def _options(filesystem: Filesystem, runtime: Runtime) -> list[str]:
    return [*filesystem.options, *runtime.mount_options.get(filesystem.target, ())]


def _bind_options(options: Sequence[str], *, deep: bool) -> list[str]:
    """`deep`: mounts below the source can be made read-only too."""
    given = set(options)
    alone = "nonrecursive" in given
    result = ["bind" if alone else "rbind"]
    if "ro" in given:
        # Mounts below the source are made read-only too where the kernel can (mount_setattr, 5.12), as
        # dockerd does from 25 on.  crun cannot for a file, which has nothing below it.
        shallow = alone or not deep or "readonlynonrecursive" in given
        result.append("ro" if shallow else "rro")
    # crun takes the r of any word, rprivate too, for the bind's.
    propagation = _propagation(options)
    result.append(propagation.removeprefix("r") if alone else propagation)
    known = {"rw", "ro", "rbind", "bind", *_PROPAGATIONS} | _NOT_FOR_THE_MOUNT
    extra = [word for word in options if word not in known and not word.startswith("subpath=")]
    for word in extra:
        if word not in _FLAGS:
            raise InvalidParameter(f"invalid mount option: {word}")
    return result + extra


def _propagation(options: Sequence[str]) -> str:
    return next((word for word in reversed(options) if word in _PROPAGATIONS), "rprivate")


def _tmpfs(tmpfs: Tmpfs) -> Mount:
    options = ["noexec", "nosuid", "nodev", "rprivate", *tmpfs.options]
    return _mount(clean(tmpfs.target), "tmpfs", "tmpfs", merge_tmpfs_options(options))


def merge_tmpfs_options(options: Sequence[str]) -> list[str]:
    """The last word counts: `exec` undoes an earlier `noexec`, a later size replaces one before it."""
    chosen: dict[str, str] = {}
    for option in options:
        name, equals, _ = option.partition("=")
        if option == "defaults" or not option:
            continue
        if equals and name in _TMPFS_VALUES:
            chosen.pop(name, None)
            chosen[name] = option
        elif option in _FLAGS:
            key = _FLAG_OPPOSITES.get(option, option)
            chosen.pop(key, None)
            chosen[key] = option
        elif option in _PROPAGATIONS:
            chosen["propagation"] = option
        else:
            raise InvalidParameter(f'invalid tmpfs option "{name}"')
    return list(chosen.values())


def _mount(target: str, kind: str, source: str, options: list[str]) -> Mount:
    return {"destination": target, "type": kind, "source": source, "options": options}


def _bind(target: str, source: str, options: list[str]) -> Mount:
    return _mount(target, "bind", source, options)


def _readonly(mount: Mount) -> Mount:
    if "ro" in mount["options"]:
        return mount
    return mount | {"options": [o for o in mount["options"] if o != "rw"] + ["ro"]}


def clean(target: str) -> str:
    """A target without dots and double slashes, always from the zone's root."""
    return posixpath.normpath("/" + target.lstrip("/"))


def _depth(mount: Mount) -> int:
    return len([part for part in str(mount["destination"]).split("/") if part])
