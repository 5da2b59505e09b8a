"""What the SmartOS host would give out next, read from its state without touching it: for `zonegate spec`.

What only the machine knows (addresses of zones that are not ours) is passed over: a running gateway knows it.
"""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from gateway.hosts.ipam import Subnet
from gateway.hosts.networks import uuid_of
from gateway.settings import Settings
from gateway.zones.spec import Nic


def next_nic(settings: Settings, state: Path) -> Nic | None:
    """The nic on the default network that the next zone would have; None where there is no such network.

    vmadm chooses its MAC.  Where the gateway has never run there is no network_uuid: that is drawn then.
    """
    ours = settings.smartos
    if not ours.subnet:
        return None
    network_id = str(
        _read(state / "networks.json").get("predefined", {}).get("bridge", {}).get("id", "")
    )
    first, _, last = ours.range.partition("-")
    span = (IPv4Address(first.strip()), IPv4Address(last.strip())) if ours.range else None
    network = IPv4Network(ours.subnet)
    subnet = Subnet(network, [IPv4Address(ours.gateway)] if ours.gateway else [], span)
    if leases := _read(state / "leases.json").get(network_id):
        subnet.skip_to(IPv4Address(leases["next"]))
        for text in leases["leases"]:
            subnet.take(IPv4Address(text))
    address = subnet.take_next()
    return Nic(
        nic_tag=ours.nic_tag,
        ip=str(address) if address else None,
        netmask=str(network.netmask) if address else None,
        gateway=ours.gateway or None,
        primary=True,
        vlan_id=ours.vlan_id or None,
        mtu=ours.mtu,
        network_uuid=uuid_of(network_id) if network_id else None,
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    return document
