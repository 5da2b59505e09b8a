"""A Debian to run real programs in: debootstrap's minimal system, and a layer of servers on top, installed by apt.

It is made once and kept for a week in DEBIAN_CACHE (/var/tmp/zonegate-debian), for all runs on a machine: those that
come meanwhile wait for it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from pathlib import Path

from compat.images import Image

MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")
CACHE = Path(os.environ.get("DEBIAN_CACHE", "/var/tmp/zonegate-debian"))
SUITE = "bookworm"
PROGRAMS = (
    "gosu",
    "iputils-ping",
    "nginx-light",
    "postgresql-15",
    "procps",
    "python3-psycopg2",
    "python3-redis",
    "redis-server",
)
LEFT_OUT = ("usr/share/doc", "usr/share/i18n", "usr/share/locale", "usr/share/man")
"""Folders that the image has empty, as slim images have them."""
TIMEOUT_S = 300
_KEPT_S = 7 * 86400
# PostgreSQL's just in time compiler alone wants LLVM, as large as all the rest: a package without files stands in.
_INSTALL = """
cd "$1"; shift
mount -t overlay overlay root -o lowerdir=base,upperdir=upper,workdir=work
printf '#!/bin/sh\\nexit 101\\n' > root/usr/sbin/policy-rc.d
chmod 755 root/usr/sbin/policy-rc.d
cp /etc/resolv.conf root/etc/resolv.conf
echo force-unsafe-io > root/etc/dpkg/dpkg.cfg.d/unsafe-io
mkdir -p root/etc/postgresql-common root/tmp/llvm/DEBIAN
echo create_main_cluster=false > root/etc/postgresql-common/createcluster.conf
printf '%s\\n' 'Package: libllvm14' 'Version: 1:14.0.6-0' 'Architecture: all' 'Maintainer: nobody <nobody@localhost>' \\
    'Description: stands in for LLVM' > root/tmp/llvm/DEBIAN/control
export DEBIAN_FRONTEND=noninteractive
chroot root dpkg-deb -b /tmp/llvm /tmp/llvm.deb
chroot root dpkg -i /tmp/llvm.deb
rm -r root/tmp/llvm root/tmp/llvm.deb
chroot root apt-get update -qq
chroot root apt-get install -y -qq --no-install-recommends "$@"
chroot root apt-get clean
"""
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class NoMirror(Exception):
    """Debian's packages are not to be had here; says why."""


def debian(folder: Path) -> Image:
    """Two layers as `docker build` makes them: the system, and what apt changed.  Made in `folder`.  NoMirror."""
    recipe = hashlib.sha256(Path(__file__).read_bytes() + MIRROR.encode()).hexdigest()
    CACHE.mkdir(parents=True, exist_ok=True)
    kept = CACHE / recipe[:16]
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists() or time.time() - kept.stat().st_mtime > _KEPT_S:
            for old in (path for path in CACHE.iterdir() if path.is_dir()):
                shutil.rmtree(old)
            made = folder / "made"
            made.mkdir()
            _make(folder, made)
            shutil.move(made, kept)
        layers = [path.read_bytes() for path in sorted(kept.iterdir())]
    return Image("debian", layers, {"Env": [_PATH], "Cmd": ["bash"]})


def _make(folder: Path, made: Path) -> None:
    """`1.tar` and `2.tar` in `made`."""
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
    _tar(base, made / "1.tar")
    _tar(upper, made / "2.tar")


def _apart(*argv: str) -> subprocess.CompletedProcess[str]:
    """In namespaces of its own: what it mounts and starts goes with it, however it ends.

    Part of it runs in the new system, where a TMPDIR of this machine would not be there.
    """
    apart = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
    return subprocess.run(
        [*apart, *argv],
        env=os.environ | {"TMPDIR": "/tmp"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def _is_whiteout(path: Path) -> bool:
    return path.is_char_device() and not path.is_symlink() and path.stat().st_rdev == 0


def _tar(tree: Path, path: Path) -> None:
    """With owners by number and extended attributes: file capabilities are some."""
    options = ("--format=pax", "--numeric-owner", "--xattrs", "--xattrs-include=security.*")
    without = [f"--exclude=./{name}/*" for name in ("dev", "proc", "sys", *LEFT_OUT)]
    without += [f"--exclude=./var/{name}" for name in ("cache/apt/*.*", "lib/apt/lists/*_*")]
    command = ("tar", *options, *without, "-C", str(tree), "-cf", str(path), ".")
    subprocess.run(command, check=True, timeout=TIMEOUT_S)
