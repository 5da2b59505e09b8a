"""A Debian to run real programs in: debootstrap's minimal system, and a layer of servers on top, installed by apt."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from compat.images import Image

MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
SUITE = "bookworm"
PROGRAMS = ("iputils-ping", "nginx-light", "procps", "python3-minimal", "redis-server")
TIMEOUT_S = 240
_INSTALL = """
cd "$1"; shift
mount -t overlay overlay root -o lowerdir=base,upperdir=upper,workdir=work
printf '#!/bin/sh\\nexit 101\\n' > root/usr/sbin/policy-rc.d
chmod 755 root/usr/sbin/policy-rc.d
cp /etc/resolv.conf root/etc/resolv.conf
export DEBIAN_FRONTEND=noninteractive
chroot root apt-get update -qq
chroot root apt-get install -y -qq --no-install-recommends "$@"
chroot root apt-get clean
"""
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class NoMirror(Exception):
    """Debian's packages are not to be had here; says why."""


def debian(folder: Path) -> Image:
    """Two layers as `docker build` makes them: the system, and what apt changed.  NoMirror."""
    base, upper = folder / "base", folder / "upper"
    done = _apart("debootstrap", "--variant=minbase", SUITE, str(base), MIRROR)
    if done.returncode:
        raise NoMirror((done.stdout + done.stderr)[-500:])
    for path in (upper, folder / "work", folder / "root"):
        path.mkdir()
    done = _apart("sh", "-euc", _INSTALL, "sh", str(folder), *PROGRAMS)
    assert done.returncode == 0, done
    for gone in [path for path in upper.rglob("*") if _is_whiteout(path)]:
        gone.unlink()
        gone.with_name(f".wh.{gone.name}").touch()
    layers = [_tar(base, folder), _tar(upper, folder)]
    return Image("debian", layers, {"Env": [_PATH], "Cmd": ["bash"]})


def _apart(*argv: str) -> subprocess.CompletedProcess[str]:
    """In namespaces of its own: what it mounts and starts goes with it, however it ends."""
    apart = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
    return subprocess.run(
        [*apart, *argv],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def _is_whiteout(path: Path) -> bool:
    return path.is_char_device() and not path.is_symlink() and path.stat().st_rdev == 0


def _overlay(base: Path, upper: Path, work: Path) -> str:
    return f"lowerdir={base},upperdir={upper},workdir={work}"


def _tar(tree: Path, folder: Path) -> bytes:
    """With owners by number and extended attributes: file capabilities are some."""
    path = folder / f"{tree.name}.tar"
    options = ("--format=pax", "--numeric-owner", "--xattrs", "--xattrs-include=security.*")
    without = [f"--exclude=./{name}/*" for name in ("dev", "proc", "sys")]
    command = ("tar", *options, *without, "-C", str(tree), "-cf", str(path), ".")
    subprocess.run(command, check=True, timeout=TIMEOUT_S)
    return path.read_bytes()
