"""The networks that are always there: bridge, host and none, with ids that stay over restarts.

What a network is made of in the kernel is bridges.py's.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from ipaddress import IPv4Interface
from pathlib import Path
from typing import TypedDict

from dockerapi.errors import DataLoss, NotFound
from gateway.hosts.ipam import replace_json
from gateway.hosts.linux.bridges import Bridge
from gateway.hosts.networks import DRIVERS, find, nic_tag_of, of_nic
from gateway.zones.host import Network
from gateway.zones.spec import Nic


class _Record(TypedDict):
    id: str
    created_ns: int
    interface: str
    """Bridge of the network, "" where there is none."""
    address: str
    """Its address and prefix."""


class NetworkRecords:
    """networks.json, and the networks in memory."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._records: dict[str, _Record] = _read(file)
        self._networks: tuple[Network, ...] = ()

    def subnet(self, interface: str) -> IPv4Interface | None:
        """What the default network had the last time, if it was on this bridge."""
        record = self._records.get("bridge")
        if record is None or record["interface"] != interface or not record["address"]:
            return None
        return IPv4Interface(record["address"])

    def settle(self, bridge: Bridge | None) -> None:
        """Keep what was found or made: ids of the first time, the bridge as it is now."""
        now = time.time_ns()
        for name in DRIVERS:
            record = self._records.setdefault(
                name,
                _Record(id=secrets.token_hex(32), created_ns=now, interface="", address=""),
            )
            if name == "bridge" and bridge is not None:
                record["interface"], record["address"] = bridge.name, str(bridge.address)
        replace_json(self._file, self._records)
        self._networks = tuple(
            _network(name, self._records[name], bridge)
            for name in DRIVERS
            if name != "bridge" or bridge is not None
        )

    @property
    def seed(self) -> str:
        """Drawn once per instance."""
        return self._records["bridge"]["id"]

    def all(self) -> Sequence[Network]:
        """From memory."""
        return self._networks

    def by_name(self, name: str) -> Network:
        """NotFound without it."""
        for network in self._networks:
            if network.name == name:
                return network
        raise NotFound(f"network {name} not found")

    def get(self, ref: str) -> Network:
        """By full id, name, or unique id prefix, in this order; InvalidParameter if it fits several."""
        return find(self._networks, ref)

    def of_nic(self, nic: Nic) -> Network | None:
        """The network a nic is on, by network_uuid, else by nic_tag."""
        return of_nic(self._networks, nic)


def _network(name: str, record: _Record, bridge: Bridge | None) -> Network:
    if name != "bridge" or bridge is None:
        return Network(record["id"], name, DRIVERS[name], record["created_ns"])
    return Network(
        record["id"],
        name,
        DRIVERS[name],
        record["created_ns"],
        subnet=str(bridge.address.network),
        gateway=str(bridge.address.ip),
        nic_tag=nic_tag_of(bridge.name),
        options={
            "com.docker.network.bridge.default_bridge": "true",
            "com.docker.network.bridge.enable_icc": "true",
            "com.docker.network.bridge.enable_ip_masquerade": "true",
            "com.docker.network.bridge.host_binding_ipv4": "0.0.0.0",  # noqa: S104
            "com.docker.network.bridge.name": bridge.name,
            "com.docker.network.driver.mtu": str(bridge.mtu),
        },
    )


def _read(file: Path) -> dict[str, _Record]:
    try:
        document: dict[str, _Record] = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise DataLoss(f"{file} is not readable as JSON: {error}") from error
    return document
