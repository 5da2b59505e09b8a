"""Published ports on SmartOS: sockets of this process, relayed to the zone's address.

There is nothing like a NAT of ports on the platform, a zone has an address of its own; so `-p 8080:80` is a proxy
in the gateway.  It goes straight where this machine reaches the zone's network, else through the SSH connection.
ports.json remembers which ports were taken, so that they are the same after a restart of the gateway.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from dockerapi.errors import APIError, NotSupported
from gateway.hosts.ipam import replace_json
from gateway.hosts.ports import Held, HeldPorts, PortAllocated, PortTaken, cannot_publish
from gateway.hosts.proxy import Connect, PortProxy, TCPProxy, UDPProxy
from gateway.zones.metadata import PublishedPort
from gateway.zones.spec import Nic, ZoneUUID

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Way:
    """How this process reaches a zone: `connect` None = straight."""

    to: IPv4Address
    connect: Connect | None


@dataclass(slots=True)
class _Published:
    way: Way
    held: tuple[Held, ...]
    proxies: list[PortProxy]


class PublishedPorts:
    """Ports of one instance's zones.  On the event loop."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._ports = HeldPorts()
        self._published: dict[ZoneUUID, _Published] = {}
        self._remembered = _read(file)

    def of(self, uuid: ZoneUUID) -> tuple[PublishedPort, ...]:
        """Of a zone, as taken."""
        found = self._published.get(uuid)
        return tuple(one.port for one in found.held) if found else ()

    async def publish(
        self, uuid: ZoneUUID, nic: Nic, ports: Sequence[PublishedPort], way: Way, endpoint: str
    ) -> tuple[PublishedPort, ...]:
        """All ports are taken and served, or none.

        APIError in dockerd's words with the name `endpoint`; NotSupported: udp through SSH.
        """
        _check_way(ports, way)
        held: list[Held] = []
        try:
            for port in ports:
                held.extend(self._ports.take(port, way.to))
            await self._serve(uuid, way, held)
            self._remember()
        except BaseException as error:
            self._stop(uuid)
            self._free(held)
            if isinstance(error, PortAllocated | PortTaken):
                raise cannot_publish(error, endpoint, uuid, nic) from error
            raise
        return self.of(uuid)

    async def take_over(
        self, uuid: ZoneUUID, nic: Nic, ports: Sequence[PublishedPort], way: Way, endpoint: str
    ) -> tuple[PublishedPort, ...]:
        """Of a zone that ran before this process: the ports it had, else as `publish`; what is impossible is logged."""
        former = self._remembered.get(uuid)
        if former is None:
            try:
                return await self.publish(uuid, nic, ports, way, endpoint)
            except APIError as error:
                log.error("ports of running zone %s: %s", uuid, error.message)  # noqa: TRY400
                return ()
        held: list[Held] = []
        for port in former:
            try:
                one = self._ports.retake(port, way.to)
            except PortAllocated as error:
                log.error("port of zone %s is another zone's as well: %s", uuid, error.message)  # noqa: TRY400
                continue
            if one.socket is None:
                log.error("port %d of zone %s is bound by another program", port.host_port, uuid)
            held.append(one)
        try:
            await self._serve(uuid, way, held)
        except BaseException:
            self._free(held)
            raise
        return self.of(uuid)

    def withdraw(self, uuid: ZoneUUID) -> None:
        """The ports are free, connections of clients are cut off; none is fine."""
        found = self._stop(uuid)
        if found is not None:
            self._free(found.held)
            self._remember()

    def settle(self) -> None:
        """Every zone that runs was taken over: ports of others are forgotten."""
        self._remembered = {}
        self._remember()

    def close(self) -> None:
        """Let go of sockets and connections; which ports they were stays remembered."""
        for uuid in tuple(self._published):
            if found := self._stop(uuid):
                self._free(found.held)

    def _stop(self, uuid: ZoneUUID) -> _Published | None:
        found = self._published.pop(uuid, None)
        for proxy in found.proxies if found else ():
            proxy.close()
        return found

    async def _serve(self, uuid: ZoneUUID, way: Way, held: Sequence[Held]) -> None:
        proxies: list[PortProxy] = []
        try:
            for one in held:
                if one.socket is None:
                    continue
                if one.port.protocol == "tcp":
                    tcp = TCPProxy(way.to, one.port.zone_port, way.connect)
                    proxies.append(tcp)
                    await tcp.start(one.socket)
                else:
                    udp = UDPProxy(way.to, one.port.zone_port)
                    proxies.append(udp)
                    await udp.start(one.socket)
        except BaseException:
            for proxy in proxies:
                proxy.close()
            raise
        self._published[uuid] = _Published(way, tuple(held), proxies)

    def _free(self, held: Iterable[Held]) -> None:
        for one in held:
            self._ports.free(one)

    def _remember(self) -> None:
        document = {
            uuid: [one.port.model_dump(mode="json") for one in found.held]
            for uuid, found in self._published.items()
        }
        for uuid, ports in self._remembered.items():
            document.setdefault(uuid, [port.model_dump(mode="json") for port in ports])
        replace_json(self._file, document)


def _check_way(ports: Sequence[PublishedPort], way: Way) -> None:
    if way.connect is not None and any(port.protocol == "udp" for port in ports):
        raise NotSupported(
            "publishing udp ports is not supported by zonegate over SSH: datagrams do not go through the"
            f" connection, and this machine is on no network with {way.to}"
        )


def _read(file: Path) -> dict[ZoneUUID, tuple[PublishedPort, ...]]:
    """Empty where there is none or a half-written one: ports are taken anew then."""
    found: dict[ZoneUUID, tuple[PublishedPort, ...]] = {}
    with contextlib.suppress(FileNotFoundError, ValueError):
        for uuid, ports in json.loads(file.read_text()).items():
            found[ZoneUUID(uuid)] = tuple(PublishedPort.model_validate(port) for port in ports)
    return found
