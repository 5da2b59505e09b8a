"""Keeps the kernel's lock on moves between cgroups warm while a process is about to be started.

The runtime moves every process that it starts into its cgroup.  The first such move after an idle
moment waits for an RCU grace period, 8-16 ms; those within some 12 ms of another do not wait.  So while
the rest of a start is prepared we move ourselves to where we are, again and again, until the runtime
has done its part: 5 of 40 ms of `docker run --rm busybox true`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

from gateway.hosts.linux.cgroups import Cgroups

_INTERVAL_S = 0.006
_ANNOUNCED_S = 0.05


class Warmth:
    """The lock of this machine.  One thread, idle unless somebody wants warmth."""

    def __init__(self, cgroups: Cgroups) -> None:
        self._cgroups = cgroups
        self._lock = threading.Lock()
        self._holders = 0
        self._until = 0.0
        self._runs = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="warmth")

    @contextmanager
    def kept(self) -> Iterator[None]:
        """While the block runs.  Does not wait for the warmth: there are other things to do meanwhile."""
        with self._lock:
            self._holders += 1
            self._begin()
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1

    def announce(self) -> None:
        """A start may follow within a moment."""
        with self._lock:
            self._until = time.monotonic() + _ANNOUNCED_S
            self._begin()

    def _begin(self) -> None:
        if not self._runs:
            self._runs = True
            self._thread.submit(self._run)

    def _run(self) -> None:
        while self._wanted():
            with suppress(OSError):
                _move_to_own(self._cgroups)
            time.sleep(_INTERVAL_S)

    def _wanted(self) -> bool:
        with self._lock:
            self._runs = self._holders > 0 or time.monotonic() < self._until
            return self._runs

    def close(self) -> None:
        """No start after this."""
        self._thread.shutdown(wait=False)


def _move_to_own(cgroups: Cgroups) -> None:
    # Read anew every time: somebody else may have moved us meanwhile.
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        root = cgroups.root_of(controllers)
        if root is not None:
            procs = os.open(f"{root}{path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(procs, b"%d" % os.getpid())
            finally:
                os.close(procs)
            return


def _read(path: str) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 65536).decode()
    finally:
        os.close(descriptor)
