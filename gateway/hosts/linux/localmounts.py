"""What volumes of `local` with options (type, device, o) mount: when first used, until nobody uses them any more.

    hold(user, volume)   mounted on the volume's folder, unless it is      release(user)   unmounted with the last one

A user is a running zone, or a copy under way.  Nothing is written down: after a restart `adopt` is told which zones
run, and unmounts the rest.  Everything here blocks, a server of nfs that does not answer for long.
"""

from __future__ import annotations

import ctypes
import errno
import ipaddress
import logging
import os
import re
import socket
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from dockerapi.errors import APIError
from gateway.hosts.linux import overlay
from gateway.zones.host import Volume

log = logging.getLogger(__name__)

_MS_BIND, _MS_REMOUNT, _MS_RDONLY = 0x1000, 0x20, 1
_FLAGS: dict[str, tuple[int, bool]] = {
    "ro": (_MS_RDONLY, True), "rw": (_MS_RDONLY, False),
    "nosuid": (2, True), "suid": (2, False), "nodev": (4, True), "dev": (4, False),
    "noexec": (8, True), "exec": (8, False), "sync": (0x10, True), "async": (0x10, False),
    "remount": (_MS_REMOUNT, True), "mand": (0x40, True), "nomand": (0x40, False),
    "dirsync": (0x80, True), "noatime": (0x400, True), "atime": (0x400, False),
    "nodiratime": (0x800, True), "diratime": (0x800, False),
    "bind": (_MS_BIND, True), "rbind": (_MS_BIND | 0x4000, True),
    "relatime": (1 << 21, True), "norelatime": (1 << 21, False),
    "strictatime": (1 << 24, True), "nostrictatime": (1 << 24, False), "defaults": (0, True),
}  # fmt: skip
"""Word of `o` -> flag of mount(2), and whether it sets it."""
_PROPAGATIONS = {
    "unbindable": 1 << 17, "runbindable": 1 << 17 | 0x4000, "private": 1 << 18, "rprivate": 1 << 18 | 0x4000,
    "slave": 1 << 19, "rslave": 1 << 19 | 0x4000, "shared": 1 << 20, "rshared": 1 << 20 | 0x4000,
}  # fmt: skip
_REMOTE = ("nfs", "nfs4", "cifs", "smb3")

_libc = ctypes.CDLL(None, use_errno=True)


def parse_options(text: str) -> tuple[int, int, str]:
    """`o` as mount(2) takes it: flags, propagation, and the words left for the filesystem."""
    flags = propagation = 0
    data: list[str] = []
    for word in filter(None, text.split(",")):
        if word in _FLAGS:
            flag, is_set = _FLAGS[word]
            flags = flags | flag if is_set else flags & ~flag
        elif word in _PROPAGATIONS:
            propagation |= _PROPAGATIONS[word]
        else:
            data.append(word)
    return flags, propagation, ",".join(data)


def mount(volume: Volume) -> None:
    """Mount what the volume's options say on its folder; APIError in dockerd's words."""
    kind, device = volume.options.get("type", ""), volume.options.get("device", "")
    text = volume.options.get("o", "")
    if not device:
        raise APIError("missing device in volume options")
    if kind in _REMOTE:
        text = _with_address(text)
    flags, propagation, data = parse_options(text)
    try:
        _mount(device, volume.mountpoint, kind, flags, data)
        if flags & _MS_BIND and flags & _MS_RDONLY:
            # A bind takes its flags only when it is mounted once more.
            _mount(device, volume.mountpoint, kind, flags | _MS_REMOUNT, data)
        if propagation:
            _mount("none", volume.mountpoint, "", propagation, "")
    except APIError:
        with suppress(OSError):
            overlay.unmount(Path(volume.mountpoint))
        raise


def _mount(device: str, target: str, kind: str, flags: int, data: str) -> None:
    result = _libc.mount(
        os.fsencode(device),
        os.fsencode(target),
        os.fsencode(kind or "none"),
        ctypes.c_ulong(flags),
        os.fsencode(data) if data else None,
    )
    if result == 0:
        return
    number = ctypes.get_errno()
    words = f"mount {device}:{target}"
    words += (f", flags: {flags:#x}" if flags else "") + (f", data: {data}" if data else "")
    words = re.sub(r"password=[^,]*", "password=********", words)
    reason = "no such device" if number == errno.ENODEV else os.strerror(number).lower()
    raise APIError(f"failed to mount local volume: {words}: {reason}")


def _with_address(text: str) -> str:
    """`addr=NAME` with the address in its place: the kernel knows no names."""
    for word in text.split(","):
        key, _, name = word.partition("=")
        if key != "addr":
            continue
        with suppress(ValueError):
            ipaddress.ip_address(name)
            return text
        try:
            address = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0]
        except OSError as error:
            raise APIError(
                f"error resolving passed in network volume address: {error.strerror}"
            ) from error
        return text.replace(word, f"addr={address}", 1)
    return text


class LocalMounts:
    """Who uses which volume, of those that mount something."""

    def __init__(self) -> None:
        self._users: dict[str, set[str]] = {}
        self._leaving: set[str] = set()
        self._mounted: dict[str, Volume] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def hold(self, user: str, volumes: Iterable[Volume]) -> None:
        """Each is mounted until `release` by all who hold it; APIError, and then `user` holds none."""
        self._leaving.discard(user)
        try:
            for volume in volumes:
                with self.locked(volume.name):
                    users = self._users.setdefault(volume.name, set())
                    if users and users <= self._leaving:
                        # Whoever is left has ended: the next one finds a tmpfs empty.
                        users.clear()
                        self._unmount(self._mounted.pop(volume.name, None))
                    # A volume of that name may have gone, and come anew, under the last user's hands.
                    if volume.mountpoint not in dict(overlay.mounts()):
                        mount(volume)
                    self._mounted[volume.name] = volume
                    users.add(user)
        except BaseException:
            self.release(user)
            raise

    def leave(self, user: str) -> None:
        """It has ended, and `release` follows when all else of it is cleared away.  Does not block."""
        self._leaving.add(user)

    def release(self, user: str) -> bool:
        """Whether something was unmounted; nothing held is fine."""
        found = False
        for name in tuple(self._users):
            if user not in self._users.get(name, ()):
                continue  # its lock may be held for long by a mount of a server that is away
            with self.locked(name):
                users = self._users.get(name)
                if users is None:
                    continue
                users.discard(user)
                if not users:
                    del self._users[name]
                    found = self._unmount(self._mounted.pop(name, None)) or found
        self._leaving.discard(user)
        return found

    def adopt(self, volumes: Sequence[Volume], users: Mapping[str, Sequence[str]]) -> None:
        """After a restart.  `users`: running zone -> folders that it has; what nobody has is unmounted."""
        # Path.is_mount sees no bind of a folder of the same disk.
        mounted = dict(overlay.mounts()) if volumes else {}
        for volume in volumes:
            if volume.mountpoint not in mounted:
                continue
            holding = {user for user, folders in users.items() if volume.mountpoint in folders}
            if holding:
                self._users[volume.name], self._mounted[volume.name] = holding, volume
            else:
                self._unmount(volume)

    def _unmount(self, volume: Volume | None) -> bool:
        try:
            # Whatever hid below another mount of the same volume goes too.
            return volume is not None and overlay.unmount(Path(volume.mountpoint))
        except OSError as error:
            log.warning("volume %s stays mounted: %s", volume and volume.name, error)
            return False

    def locked(self, name: str) -> threading.Lock:
        """A volume's own: a server that does not answer keeps no other volume waiting."""
        with self._lock:
            return self._locks.setdefault(name, threading.Lock())
