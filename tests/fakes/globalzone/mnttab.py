"""/etc/mnttab of the global zone, and what stands there: tmpfs and shares of NFS, mounted on this computer.

`root/net/SERVER/PATH` is what the server SERVER shares as /PATH.  Nobody else is a server.
"""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

from tests.fakes.globalzone.call import Failed
from tests.fakes.globalzone.gz import GZ

_libc = ctypes.CDLL(None, use_errno=True)
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND = 1, 2, 4, 8, 32, 4096
_FLAGS = {"ro": _MS_RDONLY, "nosuid": _MS_NOSUID, "nodevices": _MS_NODEV, "noexec": _MS_NOEXEC}
_PLAIN = ("rw", "suid", "exec", "devices")
_NFS_FLAGS = ("soft", "hard", "intr", "nointr", "fg", "bg", "llock", "noac", "nocto")
_NFS_VALUES = (
    "vers", "proto", "port", "sec", "timeo", "retrans", "retry", "rsize", "wsize",
    "acregmin", "acregmax", "acdirmin", "acdirmax", "actimeo",
)  # fmt: skip


def rows(gz: GZ) -> list[list[str]]:
    """special, mount point, type, options, time of each."""
    path = gz.root / "etc/mnttab"
    text = path.read_text() if path.exists() else ""
    return [line.split("\t") for line in text.splitlines()]


def _write(gz: GZ, found: list[list[str]]) -> None:
    (gz.root / "etc/mnttab").write_text("".join("\t".join(row) + "\n" for row in found))


def mount(gz: GZ, kind: str, words: list[str], special: str, place: str) -> None:
    """Failed in the words of the platform's mount(8)."""
    target = gz.path(place)
    if not target.is_dir():
        raise Failed(f"mount: Mount point {place} does not exist.")
    if kind == "tmpfs":
        _mount("tmpfs", target, "tmpfs", _flags(words), _data(words))
    elif kind == "nfs":
        _mount_share(gz, words, special, target)
    else:
        raise Failed(f"mount: Operation not applicable for FSType {kind}")
    options = ",".join([*words, "dev=4"])
    _write(gz, [*rows(gz), [special, place, kind, options, str(int(time.time()))]])


def _data(words: list[str]) -> str:
    """`size` alone is tmpfs's own; its root is whose folder it is mounted on, with that mode."""
    own = [word for word in words if word not in (*_FLAGS, *_PLAIN)]
    for word in own:
        if not word.startswith("size="):
            raise Failed(f"mount: illegal -o option -- {word}")
    return ",".join([*own, "mode=755"])


def _mount_share(gz: GZ, words: list[str], special: str, target: Path) -> None:
    for word in words:
        key, equals, _ = word.partition("=")
        if key not in (_NFS_VALUES if equals else (*_NFS_FLAGS, *_FLAGS, *_PLAIN)):
            raise Failed(f"nfs mount: illegal option: {word}")
    host, _, path = special.rpartition(":")
    if not host or not path.startswith("/"):
        raise Failed("nfs mount: no resource specified")
    server = gz.root / "net" / host.strip("[]")
    if not server.is_dir():
        raise Failed(f"nfs mount: {host}: : RPC: Rpcbind failure - RPC: Unable to receive")
    share = server / path.lstrip("/")
    if not share.is_dir():
        raise Failed(f"nfs mount: {special}: No such file or directory")
    _mount(str(share), target, "none", _MS_BIND, "")
    if flags := _flags(words):
        _mount("none", target, "none", flags | _MS_BIND | _MS_REMOUNT, "")


def _flags(words: list[str]) -> int:
    return sum(flag for word, flag in _FLAGS.items() if word in words)


def _mount(special: str, target: Path, kind: str, flags: int, data: str) -> None:
    done = _libc.mount(
        special.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), data.encode()
    )
    if done != 0:
        raise Failed(f"mount: {special}: {os.strerror(ctypes.get_errno())}")


def umount(gz: GZ, place: str) -> None:
    """The newest on this place; Failed where there is none, or a zone has it."""
    found = rows(gz)
    at = next((n for n in reversed(range(len(found))) if found[n][1] == place), None)
    if at is None:
        raise Failed(f"umount: warning: {place} not in mnttab\numount: {place} not mounted")
    for machine in gz.machines.vms.values():
        sources = [str(entry["source"]) for entry in machine.vm.get("filesystems", [])]
        if machine.is_up and place in sources:
            raise Failed(f"umount: {place} busy")
    if _libc.umount2(os.fsencode(gz.path(place)), 0) != 0:
        raise Failed(f"umount: {place} busy")
    _write(gz, found[:at] + found[at + 1 :])
