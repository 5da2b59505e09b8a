"""What volumes of `local` with options (type, device, o) are on SmartOS, and who has those that are mounted.

    none, o=bind    the zone has the device itself, by lofs
    tmpfs           the global zone mounts one on RUN/NAME while a zone that has the volume runs
    nfs, nfs4       likewise; `addr=` is the server, the words of Linux's mount are put into illumos's

    hold(user, sources)   mounted, unless it is      release(user)   unmounted with the last one

A user is a running zone, a creation or a copy.  RUN lies in /var/run, which is empty after a restart of the machine:
a zone that vmadmd starts by itself then stays down, for want of the folder, and writes nowhere else.  What is mounted
is read from /etc/mnttab when the gateway starts.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakValueDictionary

from dockerapi.errors import APIError, CommandFailed, NotFound, NotSupported
from gateway.hosts.smartos.globalzone import GlobalZone
from gateway.zones.host import Volume

log = logging.getLogger(__name__)

_TIMEOUT_S = 60.0
_TRIES, _DELAY_S = 6, 0.5
_FLAGS = {
    "ro": "ro", "rw": "rw", "suid": "suid", "nosuid": "nosuid", "exec": "exec", "noexec": "noexec",
    "dev": "devices", "nodev": "nodevices", "defaults": "",
}  # fmt: skip
"""Words of Linux's mount(8) -> illumos's."""
_NFS_FLAGS = _FLAGS | {
    "soft": "soft", "hard": "hard", "intr": "intr", "nointr": "nointr", "fg": "fg", "bg": "bg",
    "nolock": "llock", "lock": "", "tcp": "proto=tcp", "udp": "proto=udp", "noac": "noac", "nocto": "nocto", "cto": "",
    "nfsvers": "vers", "vers": "vers", "proto": "proto", "port": "port", "sec": "sec", "timeo": "timeo",
    "retrans": "retrans", "retry": "retry", "rsize": "rsize", "wsize": "wsize", "acregmin": "acregmin", "acregmax": "acregmax",
    "acdirmin": "acdirmin", "acdirmax": "acdirmax", "actimeo": "actimeo",
}  # fmt: skip
_OWNERS = ("uid", "gid", "mode")
# mount(8) of tmpfs knows no owner.  Nobody of the machine has a way to what containers put there, setuid programs for
# one.  What an unmounting left that failed is nobody's any more.
_MOUNT = r"""
[[ -d $5 ]] && while umount "$5" 2>/dev/null; do :; done
(umask 077; mkdir -p "$5") && mount -F "$1" ${2:+-o "$2"} "$4" "$5" || exit 1
[[ -z $3 ]] || { IFS=: read -r uid gid mode <<<"$3"; chown "$uid:$gid" "$5" && chmod "$mode" "$5"; }
"""


@dataclass(frozen=True, slots=True)
class Mounting:
    """What a volume's options come to: `mount -F kind -o options device`; `owner` is uid:gid:mode of a tmpfs."""

    kind: str
    device: str
    options: tuple[str, ...] = ()
    owner: str = ""

    @property
    def is_bind(self) -> bool:
        """Whether the zone has the device itself."""
        return self.kind == "lofs"


def mounting(options: Mapping[str, str]) -> Mounting | None:
    """None if they mount nothing; NotSupported for what the global zone cannot mount, or cannot mount so."""
    kind, device = options.get("type", ""), options.get("device", "")
    if not kind and not device:
        return None
    words = [word for word in options.get("o", "").split(",") if word]
    if {"bind", "rbind"} & set(words):
        kept = [word for word in words if word not in ("bind", "rbind")]
        return Mounting("lofs", device, _told(kept, {"ro": "ro", "rw": ""}))
    if kind == "tmpfs":
        return _tmpfs(words)
    if kind in ("nfs", "nfs4"):
        return _nfs(kind, device, words)
    raise NotSupported(
        f"a volume of type {kind} is not supported on SmartOS: the global zone mounts folders (o=bind), tmpfs and nfs"
    )


def _tmpfs(words: Sequence[str]) -> Mounting:
    owner = {"uid": "0", "gid": "0", "mode": "1777"}
    rest = []
    for word in words:
        key, equals, value = word.partition("=")
        if equals and key in _OWNERS and value.isdecimal():
            owner[key] = value
        else:
            rest.append(word)
    return Mounting(
        "tmpfs", "swap", _told(rest, _FLAGS | {"size": "size"}), ":".join(owner.values())
    )


def _nfs(kind: str, device: str, words: Sequence[str]) -> Mounting:
    server = next((word[5:] for word in words if word.startswith("addr=")), "")
    host, _, path = device.partition(":/")
    told = _told([word for word in words if not word.startswith("addr=")], _NFS_FLAGS)
    # Versions are whole numbers there: 4.1 is 4.
    told = tuple(w.partition(".")[0] if w.startswith("vers=") else w for w in told)
    if kind == "nfs4" and not any(word.startswith("vers=") for word in told):
        told += ("vers=4",)
    if not any(word.startswith("retry=") for word in told):
        told += ("retry=0",)  # else its mount tries a server that is away ten thousand times
    return Mounting("nfs", f"{_literal(server or host)}:/{path}", told)


def _literal(address: str) -> str:
    return f"[{address}]" if ":" in address and not address.startswith("[") else address


def _told(words: Iterable[str], known: Mapping[str, str]) -> tuple[str, ...]:
    found = []
    for word in words:
        key, equals, value = word.partition("=")
        name = known.get(key)
        if name is None:
            raise NotSupported(
                f"volume option o={word} is not supported on SmartOS: its mount has no such option"
            )
        if name:
            found.append(f"{name}={value}" if equals else name)
    return tuple(found)


class Volumes(Protocol):
    """What is asked of the volumes."""

    def list(self) -> Sequence[Volume]: ...


class LocalMounts:
    """Who uses which volume, of those that the global zone mounts."""

    def __init__(self, gz: GlobalZone, volumes: Volumes, *, instance: str, root: str = "/") -> None:
        below = root.rstrip("/")
        self._gz = gz
        self._volumes = volumes
        self.folder = f"{below}/var/run/zonegate/{instance}/volumes"
        self._mnttab = f"{below}/etc/mnttab"
        self._users: dict[str, set[str]] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def source(self, volume: Volume) -> str:
        """What a zone that has the volume gets by lofs."""
        found = mounting(volume.options)
        if found is None:
            return volume.mountpoint
        return found.device if found.is_bind else f"{self.folder}/{volume.name}"

    @staticmethod
    def is_read_only(volume: Volume) -> bool:
        """Whether nobody may write into it, by its options."""
        found = mounting(volume.options)
        return found is not None and "ro" in found.options

    def _name(self, source: str) -> str:
        folder, _, name = source.rpartition("/")
        return name if folder == self.folder else ""

    async def hold(self, user: str, sources: Collection[str]) -> None:
        """Each is there until `release` by all who hold it; APIError in dockerd's words, and then `user` holds none.

        `sources`: of a zone's filesystems; those that are no volumes with options are nobody's business here.
        """
        if not sources:
            return
        try:
            for volume in self._volumes.list():
                found = mounting(volume.options)
                if found is None or self.source(volume) not in sources:
                    continue
                if found.is_bind:
                    await self._look(volume, found)
                else:
                    await self._hold(user, volume, found)
        except BaseException:
            await self.release(user)
            raise

    async def _hold(self, user: str, volume: Volume, found: Mounting) -> None:
        async with self._lock(volume.name):
            if not self._users.get(volume.name):
                await self._mount(volume, found)
            self._users.setdefault(volume.name, set()).add(user)

    @asynccontextmanager
    async def held(self, sources: Collection[str]) -> AsyncGenerator[None, None]:
        """For a creation or a copy, inside the block."""
        user = secrets.token_hex(8)
        await self.hold(user, sources)
        try:
            yield
        finally:
            await self.release(user)

    async def _look(self, volume: Volume, found: Mounting) -> None:
        if await self._gz.status(found.device) is None:
            raise _is_missing(volume, found.device)

    async def _mount(self, volume: Volume, found: Mounting) -> None:
        place = f"{self.folder}/{volume.name}"
        words = (found.kind, ",".join(found.options), found.owner, found.device, place)
        try:
            await self._gz.run(
                ("bash", "-c", _MOUNT, "zonegate-mount", *words), timeout_s=_TIMEOUT_S
            )
        except CommandFailed as failed:
            await self._unmount(volume.name)
            said = failed.stderr.strip().splitlines() or [failed.message]
            raise _failed(volume, said[-1]) from failed
        except BaseException:
            await asyncio.shield(self._unmount(volume.name))
            raise

    async def release(self, user: str, unless: Callable[[], bool] = lambda: False) -> None:
        """Nothing held is fine.  `unless`: it uses them again."""
        for name in tuple(self._users):
            async with self._lock(name):
                users = self._users.get(name, set())
                if user not in users or unless():
                    continue
                users.discard(user)
                if not users:
                    del self._users[name]
                    await self._unmount(name)

    async def adopt(self, users: Mapping[str, Sequence[str]]) -> Sequence[str]:
        """After a restart of the gateway.  `users`: zone that is up -> its sources; names for `drop` are returned."""
        text = b""
        with suppress(NotFound):
            text = await self._gz.read(self._mnttab)
        rows = [line.split("\t") for line in text.decode(errors="replace").splitlines()]
        lost = []
        for name in filter(None, (self._name(row[1]) for row in rows if len(row) > 1)):
            place = f"{self.folder}/{name}"
            holding = {user for user, sources in users.items() if place in sources}
            if holding:
                self._users[name] = holding
            else:
                lost.append(name)
        return lost

    async def drop(self, name: str) -> None:
        """What a life before this one left mounted; a server that does not answer may take long."""
        async with self._lock(name):
            if not self._users.get(name):
                await self._unmount(name)

    async def _unmount(self, name: str) -> None:
        """A zone that goes down may hold it for a moment; what stays is looked at by the next life."""
        place = f"{self.folder}/{name}"
        for attempt in range(1, _TRIES + 1):
            try:
                await self._gz.run(
                    ("bash", "-c", _UNMOUNT, "zonegate-unmount", place), timeout_s=_TIMEOUT_S
                )
            except (APIError, OSError) as error:
                is_late = isinstance(error, CommandFailed) and error.exit_status < 0
                if (
                    attempt == _TRIES or is_late
                ):  # a server that is away: asking again takes as long again
                    log.warning("volume %s stays mounted: %s", name, error)
                    return
                await asyncio.sleep(_DELAY_S)
            else:
                return

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())


# rmdir takes no folder that is mounted on, nor one with files: nothing is ever deleted here.
_UNMOUNT = r"""
[[ -d $1 ]] || exit 0
rmdir "$1" 2>/dev/null && exit 0
while umount "$1"; do rmdir "$1" 2>/dev/null && exit 0; done
exit 1
"""


def cannot_populate(volume: Volume) -> APIError:
    """What dockerd says of a volume whose device is not there, where the image has a folder to fill it with."""
    found = mounting(volume.options)
    error = _is_missing(volume, found.device if found else volume.mountpoint)
    return APIError(f"failed to populate volume: {error.message}")


def _is_missing(volume: Volume, device: str) -> APIError:
    return _failed(volume, f"mount {device}: no such file or directory")


def _failed(volume: Volume, reason: str) -> APIError:
    return APIError(
        f"error while mounting volume '{volume.mountpoint}': failed to mount local volume: {reason}"
    )
