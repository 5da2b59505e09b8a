"""Networks that clients made: a bridge each, or a parent interface; all of it or nothing.  For the worker thread.

    make     record (not ready) -> interface, addresses -> rules -> record ready
    unmake   record not ready -> rules -> interface -> no record
    load     at start: what is half made or half gone goes, what a reboot took away comes back

A record is a file of its own, so that making one costs the same however many there are.  Which zone has which address
is ipam.py's, how zones are plugged in is plugs.py's.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from ipaddress import (
    IPv4Network,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from pathlib import Path
from typing import Any

from dockerapi.errors import APIError, Conflict, Forbidden, InvalidParameter, NotSupported
from gateway.hosts.ipam import LeaseBook, Ranges, choose_subnet, local_pool, replace_json
from gateway.hosts.linux import netlink, networkoptions, nft
from gateway.hosts.linux.bridges import raise_bridge, taken, taken6
from gateway.hosts.linux.networkoptions import Options
from gateway.hosts.linux.rules import Rules
from gateway.hosts.networks import nic_tag_of
from gateway.settings import AddressPool
from gateway.zones.host import AddressRange, Network, NetworkPlan

log = logging.getLogger(__name__)

OVERLAP = "invalid pool request: Pool overlaps with other one on this address space"


@dataclass(frozen=True, slots=True)
class Way:
    """How zones get onto a network.  `interface` is its bridge or its parent; `index` of the bridge."""

    network: Network
    options: Options
    interface: str
    index: int = 0

    @property
    def is_bridge(self) -> bool:
        """The machine itself has an address there."""
        return self.options.driver == "bridge"

    @property
    def publishes(self) -> bool:
        """Whether ports of its zones lead there."""
        return self.is_bridge and not self.network.internal

    def rules(self) -> nft.BridgedNetwork:
        """Of a bridge."""
        subnets = [self.network.subnet]
        if self.network.ipv6 is not None:
            subnets.append(self.network.ipv6.subnet)
        return nft.BridgedNetwork(
            self.interface,
            tuple(ip_network(subnet) for subnet in subnets if subnet),
            connects=self.options.connects,
            masquerades=self.options.masquerades,
            internal=self.network.internal,
            unprotected=self.options.versions("nat-unprotected"),
            routed=self.options.versions("routed"),
        )


@dataclass(frozen=True, slots=True)
class _Record:
    """`made`: whether `interface` is ours to remove."""

    id: str
    created_ns: int
    plan: NetworkPlan
    ipv4: AddressRange
    ipv6: AddressRange | None
    interface: str
    made: bool
    ready: bool = False

    def network(self) -> Network:
        """As everybody sees it."""
        plan = self.plan
        return Network(
            self.id,
            plan.name,
            plan.driver,
            self.created_ns,
            subnet=self.ipv4.subnet,
            gateway=self.ipv4.gateway,
            nic_tag=nic_tag_of(self.interface),
            options=plan.options,
            labels=plan.labels,
            internal=plan.internal,
            ip_range=self.ipv4.ip_range,
            aux=self.ipv4.aux,
            ipv6=self.ipv6,
            plan=plan,
        )


class UserNetworks:
    """Those of one instance."""

    def __init__(
        self, folder: Path, *, mark: str, seed: str, route: netlink.RouteSocket, rules: Rules,
        book: LeaseBook, pools: Sequence[AddressPool],
    ) -> None:  # fmt: skip
        """`mark` is on interfaces of ours; `seed` what unique local IPv6 subnets are derived from."""
        self._folder = folder
        self._mark = mark
        self._route = route
        self._rules = rules
        self._book = book
        self._pools = (*pools, local_pool(seed))
        self._ways: dict[str, Way] = {}
        self._records: dict[str, _Record] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def ways(self) -> Sequence[Way]:
        """Oldest first."""
        return tuple(self._ways.values())

    def networks(self) -> Sequence[Network]:
        """Oldest first, with those that are configurations for others alone."""
        return tuple(
            record.network() if record.plan.config_only else self._ways[record.id].network
            for record in self._records.values()
            if record.plan.config_only or record.id in self._ways
        )

    def load(self) -> None:
        """What there was the last time; rules come by `Rules.make`.  A network that cannot be raised stays known:
        its zones say why they do not start."""
        for path in self._folder.glob("*.new"):
            path.unlink()
        for record in sorted(_read_all(self._folder), key=lambda record: record.created_ns):
            self._records[record.id] = record
            if not record.ready:
                self._fell(record)
            if not record.ready or record.plan.config_only:
                continue
            index = 0
            try:
                index = self._raise(record)
            except (APIError, OSError) as error:
                log.warning("network %s cannot be set up: %s", record.plan.name, error)
            way = self._settle(record, index)
            if way.is_bridge:
                self._rules.know_network(way.rules())

    def _settle(self, record: _Record, index: int) -> Way:
        network = record.network()
        options = networkoptions.parse(record.plan)
        way = self._ways[record.id] = Way(network, options, record.interface, index)
        for one in (record.ipv4, record.ipv6):
            if one is not None and one.subnet:
                self._book.add_network(
                    record.id,
                    ip_network(one.subnet),
                    ip_address(one.gateway) if one.gateway else None,
                    _span(one.ip_range),
                    [ip_address(address) for address in one.aux.values()],
                )
        return way

    def make(self, plan: NetworkPlan, predefined: Sequence[Network]) -> Network:
        """Everything is there on return; on failure nothing of it is, also after a kill and `load`.

        Errors as `NetworkHost.create`.
        """
        others = [*predefined, *self.networks()]
        if any(network.name == plan.name for network in others):
            raise Conflict(f"network with name {plan.name} already exists")
        network_id = secrets.token_hex(32)
        if plan.config_only:
            nothing = AddressRange()
            record = _Record(
                network_id, time.time_ns(), plan, nothing, None, "", made=False, ready=True
            )
            self._write(record)
            return record.network()
        options = networkoptions.parse(plan)
        plan, interface, made = self._interface(plan, options, network_id)
        if any(way.interface == interface for way in self._ways.values() if way.is_bridge):
            holder = next(w.network for w in self._ways.values() if w.interface == interface)
            raise Forbidden(
                f"cannot create network {network_id} ({interface}): conflicts with network"
                f" {holder.id} ({interface}): networks have same bridge name"
            )
        record = _Record(
            network_id, time.time_ns(), plan, self._ipv4(plan, options, others),
            self._ipv6(plan, options, others), interface, made,
        )  # fmt: skip
        self._write(record)
        try:
            index = self._raise(record)
            way = self._settle(record, index)
            if way.is_bridge:
                self._rules.add_network(way.rules())
            self._write(replace(record, ready=True))
        except BaseException:
            self._fell(record)
            raise
        return way.network

    def _interface(
        self, plan: NetworkPlan, options: Options, network_id: str
    ) -> tuple[NetworkPlan, str, bool]:
        """The plan, the interface's name, and whether it is ours to make."""
        if options.driver == "bridge":
            name = options.interface or f"br-{network_id[:12]}"
            return plan, name, self._route.link(name) is None
        if not options.interface:
            # Without a parent it is for zones alone, as in dockerd.
            return replace(plan, internal=True), f"dm-{network_id[:12]}", True
        if self._route.link(options.interface):
            return plan, options.interface, False
        parent, dot, vlan = options.interface.rpartition(".")
        fits = bool(dot) and vlan.isdecimal() and 0 < int(vlan) < 4095
        if not fits or self._route.link(parent) is None:
            raise InvalidParameter(
                f"-o parent interface does not exist or is not a VLAN of one that does: {options.interface}"
            )
        return plan, options.interface, True

    def _ipv4(self, plan: NetworkPlan, options: Options, others: Iterable[Network]) -> AddressRange:
        if not plan.enable_ipv4:
            return AddressRange()
        ours = [_parsed4(one.subnet) for one in others if one.subnet]
        if plan.ipv4.subnet:
            subnet = IPv4Network(plan.ipv4.subnet)
            _check_overlap(subnet, ours)
        else:
            subnet = choose_subnet(self._pools, [*ours, *taken(self._route)])
        return _filled(plan.ipv4, subnet, options)

    def _ipv6(
        self, plan: NetworkPlan, options: Options, others: Iterable[Network]
    ) -> AddressRange | None:
        if plan.ipv6 is None:
            return None
        ours = [_parsed6(one.ipv6.subnet) for one in others if one.ipv6 is not None]
        if plan.ipv6.subnet:
            subnet = IPv6Network(plan.ipv6.subnet)
            _check_overlap(subnet, ours)
        else:
            subnet = choose_subnet(self._pools, [*ours, *taken6(self._route)], 6)
        return _filled(plan.ipv6, subnet, options)

    def _raise(self, record: _Record) -> int:
        """Its interface is there and up; the index."""
        mark = f"{self._mark} network {record.id}"
        options = networkoptions.parse(record.plan)
        if options.driver == "bridge":
            return raise_bridge(
                self._route, name=record.interface, mark=mark, addresses=tuple(_own(record)),
                mtu=options.mtu,
            )  # fmt: skip
        link = self._route.link(record.interface)
        if link is None:
            if not record.made:
                raise APIError(f"parent interface {record.interface} is not there")
            self._make_parent(record.interface)
            link = self._route.link(record.interface)
            if link is None:
                raise APIError(f"interface {record.interface} cannot be made")
            self._route.execute(netlink.set_alias(link.index, mark), netlink.link_up(link.index))
        return link.index

    def _make_parent(self, name: str) -> None:
        try:
            self._route.execute(self._new_parent(name))
        except netlink.NetlinkError as error:
            # As dockerd passes it on: a kernel without such interfaces says `operation not supported`.
            raise APIError(os.strerror(error.errno or 0).lower(), detail=str(error)) from error

    def _new_parent(self, name: str) -> netlink.Message:
        if name.startswith("dm-"):
            return netlink.new_dummy(name)
        parent, _, vlan = name.rpartition(".")
        return netlink.new_vlan(name, self._route.index_of(parent), int(vlan))

    def unmake(self, network: Network) -> None:
        """Nothing of it is there on return."""
        record = replace(self._records[network.id], ready=False)
        self._write(record)
        self._fell(record)

    def _fell(self, record: _Record) -> None:
        self._ways.pop(record.id, None)
        self._book.remove_network(record.id)
        self._rules.remove_network(record.interface)
        link = self._route.link(record.interface) if record.interface else None
        shared = any(way.interface == record.interface for way in self._ways.values())
        if link is not None and not shared:
            self._remove_interface(record, link)
        self._records.pop(record.id, None)
        self._path(record.id).unlink(missing_ok=True)

    def _remove_interface(self, record: _Record, link: netlink.Link) -> None:
        try:
            # By its mark: a kill may have come before it was written, but then nothing else was either.
            if link.alias == f"{self._mark} network {record.id}" or (
                record.made and not link.alias
            ):
                self._route.execute(netlink.delete_link(link.index))
            elif record.plan.driver == "bridge":
                for address in _own(record):
                    self._route.execute(netlink.delete_address(link.index, address))
        except netlink.NetlinkError as error:
            log.warning("interface %s is left as it is: %s", link.name, error)

    def take_down(self) -> None:
        """Interfaces go, records stay: the next start makes them anew."""
        for record in self._records.values():
            link = self._route.link(record.interface) if record.interface else None
            if link is not None:
                self._remove_interface(record, link)

    def _write(self, record: _Record) -> None:
        self._records[record.id] = record
        replace_json(self._path(record.id), asdict(record))

    def _path(self, network_id: str) -> Path:
        return self._folder / f"{network_id}.json"


def _read_all(folder: Path) -> Iterator[_Record]:
    """One that cannot be read is named in the log and left alone."""
    for path in folder.glob("*.json"):
        try:
            yield _read(path)
        except (ValueError, KeyError, TypeError):
            log.exception("%s cannot be read: this network is not there", path)


def _read(path: Path) -> _Record:
    document: dict[str, Any] = json.loads(path.read_text())
    plan = document["plan"]
    six = plan["ipv6"]
    plan |= {"ipv4": AddressRange(**plan["ipv4"]), "ipv6": AddressRange(**six) if six else None}
    return _Record(
        **document
        | {
            "plan": NetworkPlan(**plan),
            "ipv4": AddressRange(**document["ipv4"]),
            "ipv6": AddressRange(**document["ipv6"]) if document["ipv6"] else None,
        }
    )


# Every new network is compared with all there are: they are parsed once, and keep what they have worked out.
_parsed4 = lru_cache(maxsize=4096)(IPv4Network)
_parsed6 = lru_cache(maxsize=4096)(IPv6Network)


def _check_overlap(
    subnet: IPv4Network | IPv6Network, others: Sequence[IPv4Network | IPv6Network]
) -> None:
    first, last = int(subnet.network_address), int(subnet.broadcast_address)
    if Ranges(others).end_of_overlap(first, last) is not None:
        raise Forbidden(OVERLAP)


def _filled(
    wanted: AddressRange, subnet: IPv4Network | IPv6Network, options: Options
) -> AddressRange:
    """With a gateway: the one asked for, else the first address that zones could have."""
    if subnet.prefixlen > subnet.max_prefixlen - 2 and options.driver == "bridge":
        raise NotSupported(f"subnet {subnet} has no room for a gateway and a container")
    gateway = wanted.gateway
    is_isolated = options.gateway_mode(subnet.version) == "isolated"
    if not gateway and not options.on_link and not is_isolated:
        span = ip_network(wanted.ip_range) if wanted.ip_range else subnet
        first = span.network_address
        gateway = str(first + 1 if first == subnet.network_address else first)
    return replace(wanted, subnet=str(subnet), gateway=gateway)


def _span(ip_range: str) -> Any:
    if not ip_range:
        return None
    inner = ip_network(ip_range)
    return inner.network_address, inner.broadcast_address


def _own(record: _Record) -> Iterator[netlink.Interface]:
    """Addresses of the machine on a bridge."""
    options = networkoptions.parse(record.plan)
    for version, one in ((4, record.ipv4), (6, record.ipv6)):
        is_left_out = options.gateway_mode(version) == "isolated" or (
            version == 4 and options.inhibits4
        )
        if one is not None and one.gateway and not is_left_out:
            prefix = ip_network(one.subnet).prefixlen
            yield ip_interface(f"{one.gateway}/{prefix}")


def default_way(network: Network, interface: str, index: int, mtu: int) -> Way:
    """Of the default network."""
    return Way(network, Options("bridge", interface, mtu=mtu), interface, index)
