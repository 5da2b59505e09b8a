"""The OCI runtime as a sealed copy in memory: nothing can write to it, so it need not copy itself at every call.

A zone's process can reach the program that started it by /proc/PID/exe, and as root overwrite it
(CVE-2019-5736).  So crun begins every call with making itself unwritable: a mount, and its own start
once more, 1.4 of the 5 ms of `crun exec`.  It leaves that out where it runs from a sealed memfd.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

_MFD_EXEC = 0x10  # linux/memfd.h, since 6.3: executable whatever sysctl vm.memfd_noexec says, if it allows that
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_Stamp = tuple[int, int, int, int]


class SealedProgram:
    """A copy of `program`, reached by the link `folder`/NAME as long as this process lives.

    OSError where the machine does not allow it.
    """

    def __init__(self, program: str, folder: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self._program = Path(program)
        self._link = folder / self._program.name
        self._descriptors: list[int] = []
        self._stamp: _Stamp | None = None
        self.path()

    def path(self) -> str:
        """What to execute.  Copied anew when the program was upgraded meanwhile."""
        stamp = _stamp(self._program)
        if stamp != self._stamp:
            self._descriptors.append(_sealed(self._program))
            self._point_to(self._descriptors[-1])
            self._stamp = stamp
        return str(self._link)

    def _point_to(self, descriptor: int) -> None:
        # The old copy stays open: conmon may be about to execute it.
        aside = self._link.with_name(f"{self._link.name}.new")
        aside.unlink(missing_ok=True)
        aside.symlink_to(f"/proc/{os.getpid()}/fd/{descriptor}")
        aside.rename(self._link)

    def close(self) -> None:
        """No `path` after this."""
        self._link.unlink(missing_ok=True)
        with suppress(OSError):
            self._link.parent.rmdir()
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()


def _stamp(program: Path) -> _Stamp:
    status = program.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _sealed(program: Path) -> int:
    descriptor = _memfd(program.name)
    try:
        with open(descriptor, "wb", closefd=False) as copy:
            copy.write(program.read_bytes())
        os.fchmod(descriptor, 0o555)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _memfd(name: str) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name, flags | _MFD_EXEC)
    except OSError:  # an older kernel does not know the flag
        return os.memfd_create(name, flags)
