"""`zlogin -S`: a command in the scratch zone of a stopped zone, whose root is /a there.

A program of its own: scratch.py ROOT COMMAND [SOURCE TARGET OPTIONS]...: file systems of the zone.  Its root is a picture of this computer's programs, whose tar is
called gtar as well, with the zone's root at /a.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_CLONE_NEWNS = 0x00020000
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
_SHOWN = ("usr", "bin", "lib", "lib64", "sbin", "dev", "proc")


def main(root: str, command: str, *filesystems: str) -> None:
    """Never returns: ends as the command does."""
    libc = ctypes.CDLL(None, use_errno=True)

    def mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
        words = [os.fsencode(word) if word else None for word in (source, target, kind)]
        if libc.mount(*words, ctypes.c_ulong(flags), os.fsencode(data) or None) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), target)

    if libc.unshare(_CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    top = "/mnt"
    mount("scratch", top, "tmpfs", 0)
    for name in _SHOWN:
        source = Path("/") / name
        if source.is_symlink():
            (Path(top) / name).symlink_to(source.readlink())
        elif source.is_dir():
            (Path(top) / name).mkdir()
            mount(str(source), f"{top}/{name}", None, _MS_BIND | _MS_REC)
    (Path(top) / "a").mkdir()
    mount(root, f"{top}/a", None, _MS_BIND | _MS_REC)
    rows = zip(filesystems[::3], filesystems[1::3], filesystems[2::3], strict=True)
    for source, target, options in rows:
        point = Path(f"{top}/a{target}")
        if Path(source).is_dir():
            point.mkdir(parents=True, exist_ok=True)
        else:
            point.parent.mkdir(parents=True, exist_ok=True)
            point.touch()
        mount(source, str(point), None, _MS_BIND | _MS_REC)
        if "ro" in options.split(","):
            mount("none", str(point), None, _MS_BIND | _MS_REMOUNT | _MS_RDONLY)
    extra = Path(top) / "extra"
    extra.mkdir()
    (extra / "gtar").symlink_to("tar")
    mount("overlay", f"{top}/usr/bin", "overlay", 0, f"lowerdir={extra}:/usr/bin")
    os.chroot(top)
    os.chdir("/")
    os.execv("/bin/sh", ["/bin/sh", "-c", command])


if __name__ == "__main__":
    main(*sys.argv[1:])
