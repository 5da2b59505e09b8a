"""networks.json: the networks of a SmartOS host with ids that stay, and what was made for each in the global zone.

A record is written before anything is made for it, and taken away after all of that is gone; `ready` says that
making ended well.  So what a killed gateway left half made is known at the next start.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from pathlib import Path
from typing import Any

from dockerapi.errors import DataLoss
from gateway.hosts.ipam import replace_json
from gateway.hosts.networks import DRIVERS
from gateway.hosts.smartos.egress import StubNic, vnic_name
from gateway.hosts.smartos.nictags import stub_name
from gateway.zones.host import AddressRange, Network, NetworkPlan


@dataclass(frozen=True, slots=True)
class Record:
    """A network of the user's.  Addresses as text; `plan` is what its maker asked for.

    On an etherstub `gateway` is the global zone's; `asked_internal`: the client wanted no way out, so the global zone
    has no nic there either.  On a nic tag that is there already (`tag`, driver macvlan) nothing is made: `stub` is "".
    """

    id: str
    name: str
    created_ns: int
    stub: str
    vnic: str
    subnet: str
    gateway: str
    range: str = ""
    asked_internal: bool = False
    mtu: int | None = None
    labels: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    ready: bool = False
    driver: str = "bridge"
    tag: str = ""
    vlan: int | None = None
    plan: dict[str, Any] = field(default_factory=dict)
    ipv6: dict[str, Any] | None = None
    """Subnet, gateway, range and the rest of an `AddressRange`; None: it has no IPv6."""

    @property
    def is_configuration(self) -> bool:
        """Nothing but a plan for other networks: nothing is made for it, no zone is on it."""
        return bool(self.plan.get("config_only"))

    @property
    def network(self) -> IPv4Network:
        """Its subnet."""
        return IPv4Network(self.subnet)

    @property
    def networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """Its subnets; none of a mere configuration."""
        if self.is_configuration:
            return ()
        return self.network, *([IPv6Network(self.ipv6["subnet"])] if self.ipv6 else [])

    @property
    def own(self) -> StubNic:
        """The global zone's nic on it."""
        prefix = self.network.prefixlen
        six = None
        if self.ipv6:
            prefix6 = IPv6Network(self.ipv6["subnet"]).prefixlen
            six = IPv6Interface(f"{self.ipv6['gateway']}/{prefix6}")
        return StubNic(self.vnic, self.stub, IPv4Interface(f"{self.gateway}/{prefix}"), six)

    @property
    def nic_tag(self) -> str:
        """Of the zones' nics."""
        return self.stub or self.tag

    def shown(self, *, egress: bool) -> Network:
        """As the engine sees it.  Without a way out it is internal, whatever was asked for."""
        plan = plan_of(self.plan)
        return Network(
            self.id,
            self.name,
            self.driver,
            self.created_ns,
            subnet=self.subnet,
            gateway=self.gateway,
            nic_tag=self.nic_tag,
            options=dict(self.options),
            labels=dict(self.labels),
            internal=self.asked_internal or not (egress or self.tag or self.is_configuration),
            ip_range="" if self.is_configuration else plan.ipv4.ip_range,
            aux={} if self.is_configuration else dict(plan.ipv4.aux),
            ipv6=AddressRange(**self.ipv6) if self.ipv6 else None,
            plan=plan,
        )


def new_record(
    instance: str, plan: NetworkPlan, ipv4: AddressRange, ipv6: AddressRange | None, **more: Any
) -> Record:
    """On these ranges, which are filled, with an id, and, unless it has a nic tag, names for its etherstub and vnic that follow from it."""
    network_id = secrets.token_hex(32)
    on_stub = not more.get("tag") and not plan.config_only
    return Record(
        id=network_id,
        name=plan.name,
        created_ns=time.time_ns(),
        stub=stub_name(instance, network_id) if on_stub else "",
        vnic=vnic_name(instance, network_id) if on_stub else "",
        subnet=ipv4.subnet,
        gateway=ipv4.gateway,
        range=ipv4.ip_range,
        ipv6=asdict(ipv6) if ipv6 else None,
        asked_internal=plan.internal,
        labels=dict(plan.labels),
        options=dict(plan.options),
        driver=plan.driver,
        plan=asdict(plan),
        **more,
    )


def plan_of(kept: Mapping[str, Any]) -> NetworkPlan:
    """As `new_record` kept it."""
    ranges = {
        key: AddressRange(**kept[key]) for key in ("ipv4", "ipv6") if kept.get(key) is not None
    }
    return NetworkPlan(**{"name": "", **kept, **ranges})


class NetworkRecords:
    """The file, held in memory."""

    def __init__(self, file: Path) -> None:
        """DataLoss if it is there and cannot be read: ids and subnets would be lost silently."""
        self._file = file
        document = _read(file)
        self._fixed: dict[str, dict[str, Any]] = document.get("predefined", {})
        self._records = {row["id"]: Record(**row) for row in document.get("networks", [])}
        self.forwarding: str = document.get("forwarding", "")
        """The egress nic where we turned forwarding on, so that it is ours to turn off; "" = none."""
        for name in DRIVERS:
            self._fixed.setdefault(
                name, {"id": secrets.token_hex(32), "created_ns": time.time_ns()}
            )
        self.write()

    def predefined(self, name: str) -> tuple[str, int]:
        """Id and time of making of bridge, host or none."""
        row = self._fixed[name]
        return row["id"], row["created_ns"]

    def all(self) -> Sequence[Record]:
        """Of the user's, ready or not."""
        return tuple(self._records.values())

    def ready(self) -> Sequence[Record]:
        """Of the user's, those that may be used, oldest first."""
        return tuple(record for record in self._records.values() if record.ready)

    def put(self, record: Record, *, ready: bool) -> Record:
        """Add or replace, and write."""
        record = replace(record, ready=ready)
        self._records[record.id] = record
        self.write()
        return record

    def drop(self, record: Record) -> None:
        """Take away, and write."""
        self._records.pop(record.id, None)
        self.write()

    def write(self) -> None:
        """So that a reader sees the old file or the new one."""
        document = {
            "predefined": self._fixed,
            "networks": [asdict(record) for record in self._records.values()],
            "forwarding": self.forwarding,
        }
        replace_json(self._file, document)


def _read(file: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise DataLoss(f"{file} is not readable as JSON: {error}") from error
    return document
