"""Network namespaces: made ahead in a thread of their own, given a name by a bind mount when used.

Until it is used a namespace hangs on a file descriptor alone, so a killed process leaves nothing behind.
The names are files in a folder that is a mount point of its own and shared, as `ip netns` has it: a
child in a private mount namespace then sees what is mounted and unmounted there later.
"""

from __future__ import annotations

import ctypes
import errno
import os
import queue
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.hosts.linux.netlink import RouteSocket, link_up

_CLONE_NEWNET = 0x40000000
_MS_BIND, _MS_REC, _MS_SHARED, _MS_PRIVATE = 0x1000, 0x4000, 0x100000, 0x40000
_MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: str, flags: int) -> None:
    done = _libc.mount(source.encode(), target.encode(), None, ctypes.c_ulong(flags), None)
    _checked(done, f"mount {target}")


def _unmount(path: str) -> None:
    _checked(_libc.umount2(path.encode(), _MNT_DETACH), f"unmount {path}")


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace without a name, loopback up; `route` speaks to its kernel side."""

    fd: int
    route: RouteSocket

    def close(self) -> None:
        """Let go; without a name it is gone."""
        self.route.close()
        os.close(self.fd)


@contextmanager
def inside(fd: int) -> Iterator[None]:
    """The calling thread is in that namespace meanwhile: sockets that it opens, and /proc/sys/net, are its."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _checked(_libc.setns(fd, _CLONE_NEWNET), "enter network namespace")
        try:
            yield
        finally:
            _checked(_libc.setns(home, _CLONE_NEWNET), "return to own network namespace")
    finally:
        os.close(home)


def write_sysctls(fd: int, values: Mapping[str, str]) -> None:
    """Set sysctls (as paths below net) of a namespace; one that does not exist is an OSError."""
    with inside(fd):
        for name, value in values.items():
            Path("/proc/sys/net", name).write_text(value)


def _make() -> Namespace:
    """Made by stepping into it and back: the thread must not stay, or it would keep the namespace alive."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _checked(_libc.unshare(_CLONE_NEWNET), "new network namespace")
        fd, route = -1, None
        try:
            fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            route = RouteSocket()
            route.execute(link_up(1))
            _no_ipv6_on_new_interfaces()
        except BaseException:
            if route is not None:
                route.close()
            if fd >= 0:
                os.close(fd)
            raise
        finally:
            _checked(_libc.setns(home, _CLONE_NEWNET), "return to own network namespace")
        return Namespace(fd, route)
    finally:
        os.close(home)


def _no_ipv6_on_new_interfaces() -> None:
    """A network without IPv6 subnet gives no link-local address either, as in dockerd; ::1 stays."""
    try:
        descriptor = os.open("/proc/sys/net/ipv6/conf/default/disable_ipv6", os.O_WRONLY)
    except FileNotFoundError:
        return
    try:
        os.write(descriptor, b"1")
    finally:
        os.close(descriptor)


class NamespacePool:
    """Some namespaces ready for use; refilled in the background after each `take`."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._ready: queue.SimpleQueue[Namespace] = queue.SimpleQueue()
        self._maker = ThreadPoolExecutor(1, thread_name_prefix="netns")
        self._closed = threading.Event()
        self._maker.submit(self._fill)

    def _fill(self) -> None:
        while self._ready.qsize() < self._size and not self._closed.is_set():
            self._ready.put(_make())

    def take(self) -> Namespace:
        """A ready one, or one made now.  The caller closes it."""
        try:
            return self._ready.get_nowait()
        except queue.Empty:
            return self._maker.submit(_make).result()
        finally:
            self._maker.submit(self._fill)

    def close(self) -> None:
        """Give up those that were not used."""
        self._closed.set()
        self._maker.shutdown(wait=True)
        while not self._ready.empty():
            self._ready.get_nowait().close()


class NamespaceFolder:
    """The folder in which used namespaces have their names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        path = str(folder)
        if not is_mount_point(path):
            _mount(path, path, _MS_BIND)
        # Private first: a copy made below a shared mount is in its parent's peer group.
        _mount("none", path, _MS_PRIVATE)
        _mount("none", path, _MS_SHARED)

    def path(self, name: str) -> Path:
        """Where a namespace of this name is or would be."""
        return self._folder / name

    def names(self) -> list[str]:
        """Of all that are there."""
        return [entry.name for entry in self._folder.iterdir()]

    def add(self, name: str, namespace: Namespace) -> None:
        """Give it a name, by which it lives on without us."""
        path = self.path(name)
        path.touch(mode=0o444)
        try:
            _mount(f"/proc/self/fd/{namespace.fd}", str(path), _MS_BIND)
        except BaseException:
            path.unlink()
            raise

    def open(self, name: str) -> Namespace:
        """One that has a name.  FileNotFoundError."""
        fd = os.open(self.path(name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            with inside(fd):
                return Namespace(fd, RouteSocket())
        except BaseException:
            os.close(fd)
            raise

    def remove(self, name: str) -> None:
        """Take the name away; none is fine.  With its last process the namespace and its veth are gone."""
        path = self.path(name)
        while True:
            try:
                _unmount(str(path))
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOENT):
                    raise
                break
        path.unlink(missing_ok=True)

    def close(self) -> None:
        """Remove the folder with everything in it."""
        for name in self.names():
            self.remove(name)
        if is_mount_point(str(self._folder)):
            _unmount(str(self._folder))
        self._folder.rmdir()


def is_mount_point(path: str) -> bool:
    """By mountinfo: os.path.ismount does not see a folder bound onto itself."""
    real = os.path.realpath(path)
    escaped = real.replace("\\", "\\134").replace(" ", "\\040").replace("\t", "\\011")
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(line.split(" ", 5)[4] == escaped for line in lines)
