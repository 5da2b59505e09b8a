"""What the Linux host would give out next, read from its state without touching it: for `zonegate spec`."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any

from gateway.hosts.ipam import Subnet, choose_subnet, mac_of
from gateway.hosts.networks import nic_tag_of, uuid_of
from gateway.settings import Settings
from gateway.zones.spec import Nic


def next_nic(settings: Settings, state: Path) -> Nic:
    """The nic on the default network that the next container would have.

    Where the host has never run, the first address of --bip or of the first pool, and no network_uuid:
    that is drawn when the network is made.
    """
    record = _read(state / "networks.json").get("bridge", {})
    known = record.get("address") if record.get("interface") == settings.bridge_name else None
    if settings.bip or known:
        interface = IPv4Interface(settings.bip or known)
    else:
        network = choose_subnet(settings.default_address_pools, ())
        interface = IPv4Interface((network.network_address + 1, network.prefixlen))
    subnet = Subnet(interface.network, [interface.ip])
    leases = _read(state / "leases.json").get(record.get("id", ""), {})
    if leases:
        subnet.skip_to(IPv4Address(leases["next"]))
        for text in leases["leases"]:
            subnet.take(IPv4Address(text))
    address = subnet.take_next()
    return Nic(
        nic_tag=nic_tag_of(settings.bridge_name),
        mac=mac_of(IPv4Address(address)) if address else None,
        ip=str(address) if address else None,
        netmask=str(interface.netmask),
        gateway=str(interface.ip),
        primary=True,
        network_uuid=uuid_of(record["id"]) if record else None,
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    return document
