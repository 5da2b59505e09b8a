"""127.0.0.11 inside of zones on user networks: sockets of this process in the zone's namespace, led there by NAT.

The sockets have ports of the kernel's choice, so that programs of the zone can bind port 53; a table of nftables in
the zone's own namespace (dnsrules.py) leads 127.0.0.11:53 to them.  A namespace may outlive this process: whoever comes next
opens new sockets and makes the table anew.  What is answered is dns.py's.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from dockerapi.errors import APIError
from gateway.hosts.linux import dnsrules
from gateway.hosts.linux.dnsrules import ADDRESS
from gateway.hosts.linux.nfnetlink import FilterSocket
from gateway.hosts.names import NameBook, entry_of, is_named
from gateway.hosts.networks import of_nic
from gateway.zones.host import Network, Zone
from gateway.zones.spec import ZoneUUID

if TYPE_CHECKING:
    from gateway.hosts.dns import NameServer, Served

log = logging.getLogger(__name__)

_CLONE_NEWNET = 0x40000000
_BACKLOG = 32
_libc = ctypes.CDLL(None, use_errno=True)


class NameServers:
    """One for each zone that has names.  `networks` are the host's, asked at every change; `group` outlives this."""

    def __init__(self, networks: Callable[[], Sequence[Network]], group: asyncio.TaskGroup) -> None:
        self._networks = networks
        self._group = group
        self._book = NameBook()
        self._served: dict[ZoneUUID, Served] = {}
        self._made: tuple[NameServer, ThreadPoolExecutor] | None = None

    def tell(self, zone: Zone) -> None:
        """A zone has changed: what its neighbours may call it, if anything."""
        entry = entry_of(zone, self._networks()) if zone.spec.nics else None
        if entry is not None:
            self._book.put(zone.uuid, entry)
        elif zone.uuid in self._book:
            self._book.drop(zone.uuid)

    def needs(self, zone: Zone) -> bool:
        """Whether it is on a network with names, running or not."""
        joined = (of_nic(self._networks(), nic) for nic in zone.spec.nics)
        return any(network is not None and is_named(network) for network in joined)

    async def resume(self, zone: Zone, netns: str) -> None:
        """After a restart, of a zone that runs on; what goes wrong is logged."""
        self.tell(zone)
        if self.needs(zone):
            try:
                await self.open(zone.uuid, netns)
            except APIError as error:
                log.error("zone %s has no name server: %s", zone.uuid, error)  # noqa: TRY400

    async def open(self, uuid: ZoneUUID, netns: str) -> None:
        """Its 127.0.0.11 answers from now on; once more is fine, and makes everything anew.  APIError."""
        server, worker = self._make()
        try:
            udp, tcp = await asyncio.wrap_future(worker.submit(_open, netns, worker))
        except OSError as error:
            raise APIError(f"failed to set up name server: {error.strerror}") from error
        self.close(uuid)
        self._served[uuid] = server.serve(udp, tcp, lambda _: uuid)

    def __contains__(self, uuid: object) -> bool:
        return uuid in self._served

    def _make(self) -> tuple[NameServer, ThreadPoolExecutor]:
        if self._made is None:
            # Not before somebody needs it: dnspython takes some MB.
            from gateway.hosts.dns import NameServer  # noqa: PLC0415
            from gateway.hosts.upstream import Upstream  # noqa: PLC0415

            server = NameServer(self._book, Upstream(), self._group)
            self._made = server, ThreadPoolExecutor(1, thread_name_prefix="names")
        return self._made

    def close(self, uuid: ZoneUUID) -> None:
        """Its sockets are gone; none is fine."""
        served = self._served.pop(uuid, None)
        if served is not None:
            served.close()

    def shut(self) -> None:
        """All of them are gone; the tables stay with their namespaces."""
        for uuid in tuple(self._served):
            self.close(uuid)
        if self._made is not None:
            self._made[1].shutdown(wait=True)


def _open(netns: str, worker: ThreadPoolExecutor) -> tuple[socket.socket, socket.socket]:
    """In a thread that steps into the namespace and back: sockets stay where they were made."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        inside = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(inside)
        finally:
            os.close(inside)
        try:
            udp, tcp = _sockets()
            rules = FilterSocket()
            try:
                dnsrules.lead(rules, udp.getsockname()[1], tcp.getsockname()[1])
            except BaseException:
                udp.close()
                tcp.close()
                raise
            finally:
                # The kernel takes its time over this (10 ms) where something was deleted: nobody is to wait for it.
                worker.submit(rules.close)
        finally:
            _enter(home)
    finally:
        os.close(home)
    return udp, tcp


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"network namespace: {os.strerror(number)}")


def _sockets() -> tuple[socket.socket, socket.socket]:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        udp.bind((ADDRESS, 0))
        tcp.bind((ADDRESS, 0))
        tcp.listen(_BACKLOG)
    except BaseException:
        udp.close()
        tcp.close()
        raise
    return udp, tcp
