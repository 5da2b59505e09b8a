"""Networks of the Linux host: a bridge, a namespace and veth per zone, leases, published ports.

    zone netns: lo, eth0 --veth-- bridge (gateway address) --routing + nft masquerade-- outside
                                     published port --nft dnat--> eth0

No program is started: netlink.py speaks to the kernel, nft.py runs the rules, netns.py makes namespaces
ahead, publishing.py has the ports.  All of it happens in one worker thread, in order; a zone costs 2-3 ms there.
What crosses a crash: bridge, rules and namespaces live on in the kernel; `adopt` takes back those of live
zones and removes the rest.  Rules of others are never changed: `warnings` says where they are in the way.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import ParamSpec, TypeVar

from dockerapi.errors import APIError, InvalidParameter, NotFound, NotSupported
from gateway.hosts.ipam import LeaseBook, mac_of
from gateway.hosts.linux import netlink, nft
from gateway.hosts.linux.bridges import Bridge, open_bridge, remove_bridge, write_sysctl
from gateway.hosts.linux.forwarding import forwarding_warnings
from gateway.hosts.linux.netns import Namespace, NamespaceFolder, NamespacePool
from gateway.hosts.linux.predefined import NetworkRecords
from gateway.hosts.linux.publishing import PublishedPorts
from gateway.hosts.networks import uuid_of
from gateway.hosts.ports import check
from gateway.settings import AddressPool
from gateway.zones.host import Network, NetworkRequest
from gateway.zones.metadata import PublishedPort
from gateway.zones.spec import Nic, ZoneUUID

log = logging.getLogger(__name__)

_POOL_SIZE = 3
# A namespace may come with fallback tunnel devices (tunl0, sit0, gre0...) at 2, 3, ...: stay above them.
_FIRST_INDEX = 32
# Of our ends: drawn far above those the kernel gives out, so that two instances do not meet.
_LOWEST_OUTER_INDEX = 1 << 29
_WARNINGS_AGE_S = 10.0

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Attachment:
    """A zone's network side while it runs: its namespace, and its ports as they were taken."""

    netns_path: str
    ports: tuple[PublishedPort, ...]


class LinuxNetworks:
    """Networks of one instance; satisfies gateway.zones.host.NetworkHost."""

    def __init__(
        self, *, name: str, bridge: Bridge | None, records: NetworkRecords, book: LeaseBook,
        folder: NamespaceFolder, worker: ThreadPoolExecutor,
        route: netlink.RouteSocket, rules: nft.Nft,
    ) -> None:  # fmt: skip
        """See `open`."""
        self._name = name
        self._bridge = bridge
        self._records = records
        self._book = book
        self._folder = folder
        self._worker = worker
        self._route = route
        self._rules = rules
        self._pool = NamespacePool(_POOL_SIZE)
        bridged = [nft.BridgedSubnet(bridge.name, bridge.address.network)] if bridge else []
        self._published = PublishedPorts(rules, name, bridged)
        self._ipv6 = Path("/proc/sys/net/ipv6").exists()
        self._warnings: tuple[str, ...] = ()
        self._warned_at = 0.0
        self._closed = threading.Event()

    @classmethod
    def open(
        cls, *, name: str, bridge: str, bip: str, pools: Sequence[AddressPool], state: Path,
        exec_root: Path,
    ) -> LinuxNetworks:  # fmt: skip
        """Bridge, rules and folders are there on return.  Blocking; to be called in a thread.

        `bridge` "" or none: no default network.  `bip` "": the network of the last time, else an existing
        bridge's own, else the first of `pools` that is free on this machine.  Call before children are started
        in a private mount namespace, then `learn` for every zone, then `adopt`.
        """
        worker = ThreadPoolExecutor(1, thread_name_prefix="networks")
        try:
            return worker.submit(
                cls._open, worker, name, bridge, bip, pools, state, exec_root
            ).result()
        except BaseException:
            worker.shutdown(wait=False)
            raise

    @classmethod
    def _open(
        cls, worker: ThreadPoolExecutor, name: str, bridge: str, bip: str,
        pools: Sequence[AddressPool], state: Path, exec_root: Path,
    ) -> LinuxNetworks:  # fmt: skip
        records = NetworkRecords(state / "networks.json")
        rules = nft.Nft()
        route = netlink.RouteSocket()
        opened: Bridge | None = None
        known = netlink.first_by_name(route.links(), bridge) is not None
        try:
            if bridge not in ("", "none"):
                opened = open_bridge(
                    route, name=bridge, mark=f"zonegate {name}", bip=bip, pools=pools,
                    former=records.subnet(bridge),
                )  # fmt: skip
            records.settle(opened)
            book = LeaseBook(state / "leases.json")
            if opened is not None:
                book.add_network(
                    records.by_name("bridge").id, opened.address.network, opened.address.ip
                )
            write_sysctl("net/ipv4/ip_forward", "1")
            self = cls(
                name=name, bridge=opened, records=records, book=book, worker=worker,
                folder=NamespaceFolder(exec_root / "netns"), route=route, rules=rules,
            )  # fmt: skip
        except BaseException:
            if opened is not None and not known:
                remove_bridge(route, opened, f"zonegate {name}")
            route.close()
            rules.close()
            raise
        try:
            self._look_around()
        except BaseException:
            if not known and not self._folder.names():
                self._remove_all()
            self._let_go()
            self._pool.close()
            raise
        return self

    # NetworkHost: from memory, for any thread.

    def list(self) -> Sequence[Network]:
        """The predefined networks."""
        return self._records.all()

    def get(self, ref: str) -> Network:
        """By full id, name, or unique id prefix; NotFound(`network X not found`)."""
        return self._records.get(ref)

    def lease(self, uuid: ZoneUUID, request: NetworkRequest) -> Nic:
        """A nic with an address of its own, kept until `release`.  InvalidParameter, NotFound,
        or APIError (no address left) in dockerd's words."""
        network = self._records.get(request.network)
        if network.driver != "bridge" or self._bridge is None:
            raise InvalidParameter(f"network {network.name} has no addresses to give")
        if request.address:
            raise InvalidParameter(
                "user specified IP address is supported on user defined networks only"
            )
        if request.mac and not re.fullmatch(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}", request.mac):
            raise InvalidParameter(f"invalid MAC address: {request.mac}")
        address = self._book.lease(uuid, network.id, network.name)
        return Nic(
            nic_tag=network.nic_tag,
            mac=request.mac.lower() if request.mac else mac_of(address),
            ip=str(address),
            netmask=str(self._bridge.address.netmask),
            gateway=network.gateway,
            primary=True,
            network_uuid=uuid_of(network.id),
        )

    def release(self, uuid: ZoneUUID) -> None:
        """Give back every lease of a zone; none is fine."""
        self._book.release(uuid)

    def learn(self, uuid: ZoneUUID, nics: Sequence[Nic]) -> None:
        """A zone that exists has these nics: their addresses are its own."""
        for nic in nics:
            network = self._records.of_nic(nic)
            if network is not None and nic.ip:
                self._book.learn(uuid, network.id, IPv4Address(nic.ip))

    def netns_path(self, uuid: ZoneUUID) -> str:
        """Where the zone's namespace is while it runs."""
        return str(self._folder.path(uuid))

    # What the zone host calls.

    async def connect(
        self, uuid: ZoneUUID, nics: Sequence[Nic], ports: Sequence[PublishedPort], *,
        endpoint: str = "",
    ) -> Attachment:  # fmt: skip
        """A new namespace with loopback up, a veth per nic, and the ports published; all or nothing.

        `endpoint` is the name that errors show.  Ports are ignored without a nic, as in dockerd.  APIError:
        `driver failed programming external connectivity on endpoint ...` if a port is taken; NotSupported: sctp.
        """
        self._published.stop_serving(uuid)
        try:
            attachment = await self._run(
                self._connect, uuid, tuple(nics), tuple(ports), endpoint or uuid
            )
            await self._published.serve(uuid)
        except BaseException:
            # If cancelled it may be under way and cannot be stopped: the one thread undoes it right after.
            self._published.stop_serving(uuid)
            self._worker.submit(self._disconnect, uuid)
            raise
        return attachment

    async def disconnect(self, uuid: ZoneUUID) -> None:
        """Ports are free and the namespace has no name any more; none is fine."""
        self._published.stop_serving(uuid)
        await asyncio.shield(self._run(self._disconnect, uuid))

    async def adopt(
        self, live: Mapping[ZoneUUID, tuple[Sequence[Nic], Sequence[PublishedPort]]]
    ) -> None:
        """After a restart: keep the networks of these zones, with ports as taken; remove all else of ours.

        Every zone, running or not, must have been learned before: leases of unknown zones are given up.
        """
        await self._run(self._adopt, dict(live))
        for uuid in live:
            await self._published.serve(uuid)

    async def close(self, remove: bool) -> None:
        """Let go.  `remove`: no zone is left, so take away rules, bridge (if we made it) and namespaces."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._published.stop_serving()
        await asyncio.to_thread(self._close, remove)

    def warnings(self) -> tuple[str, ...]:
        """What on this machine keeps zones from being reached, and what to do; looked up anew now and then."""
        if time.monotonic() - self._warned_at > _WARNINGS_AGE_S and not self._closed.is_set():
            self._warned_at = time.monotonic()
            self._worker.submit(self._look_around)
        return self._warnings

    # In the worker thread from here on.

    async def _run(self, act: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.wrap_future(self._worker.submit(act, *args, **kwargs))

    def _connect(
        self, uuid: ZoneUUID, nics: tuple[Nic, ...], ports: tuple[PublishedPort, ...], endpoint: str
    ) -> Attachment:
        check(ports)
        self._disconnect(uuid)
        namespace = self._pool.take()
        try:
            for number, nic in enumerate(nics):
                self._plug(uuid, nic, _FIRST_INDEX + number, namespace)
            self._folder.add(uuid, namespace)
        except OSError as error:
            raise APIError(f"failed to set up container networking: {error.strerror}") from error
        finally:
            # Without a name this ends the namespace, and its veths with it.
            namespace.close()
        try:
            taken = self._published.publish(uuid, _primary(nics), ports, endpoint) if nics else ()
        except BaseException:
            self._folder.remove(uuid)
            raise
        return Attachment(self.netns_path(uuid), taken)

    def _plug(self, uuid: ZoneUUID, nic: Nic, inner: int, namespace: Namespace) -> None:
        bridge, address = self._place(nic)
        mac = nic.mac or mac_of(address.ip)
        outer = _LOWEST_OUTER_INDEX + secrets.randbelow(1 << 29)
        self._route.execute(
            netlink.new_veth(
                f"zg{outer:x}", index=outer, bridge=bridge.index, netns_fd=namespace.fd,
                peer=nic.interface, peer_index=inner, mac=mac, mtu=nic.mtu,
            ),
            netlink.bridge_port_up(outer, alias=f"{self._mark} {uuid}", ipv6=self._ipv6),
            netlink.forwarding_entry(outer, mac),
        )  # fmt: skip
        inside = [netlink.link_up(inner), netlink.add_address(inner, address)]
        if nic.gateway and nic.primary:
            inside.append(netlink.default_route(IPv4Address(nic.gateway), inner))
        namespace.route.execute(*inside)

    @property
    def _mark(self) -> str:
        return f"zonegate {self._name}"

    def _place(self, nic: Nic) -> tuple[Bridge, IPv4Interface]:
        """The bridge of a nic, and its address there."""
        network = self._records.of_nic(nic)
        if network is None or self._bridge is None:
            raise NotFound(f"network {nic.network_uuid or nic.nic_tag} not found")
        if nic.vlan_id:
            raise NotSupported("vlan_id is not supported on a Linux host")
        if not nic.ip:
            raise InvalidParameter(f"nic {nic.interface} has no address")
        address = IPv4Address(nic.ip)
        if address not in self._bridge.address.network:
            raise InvalidParameter(
                f"address {address} is not in subnet {self._bridge.address.network} of network"
                f" {network.name}, which has changed: create the container anew"
            )
        return self._bridge, IPv4Interface((address, self._bridge.address.network.prefixlen))

    def _disconnect(self, uuid: ZoneUUID) -> None:
        try:
            self._published.withdraw(uuid)
        finally:
            self._folder.remove(uuid)

    def _adopt(self, live: dict[ZoneUUID, tuple[Sequence[Nic], Sequence[PublishedPort]]]) -> None:
        for uuid, (nics, ports) in live.items():
            self.learn(uuid, nics)
            if not self._folder.path(uuid).exists():
                log.error("zone %s runs without its network namespace file", uuid)
            if nics and ports:
                self._published.take_over(uuid, _primary(nics), ports)
        self._published.make_table()
        for name in self._folder.names():
            if name not in live:
                self._folder.remove(name)
        self._remove_links(keep={f"{self._mark} {uuid}" for uuid in live})
        self._book.forget_unlearned()

    def _remove_links(self, keep: set[str]) -> None:
        for link in self._route.links():
            if link.alias.startswith(f"{self._mark} ") and link.alias not in keep:
                try:
                    self._route.execute(netlink.delete_link(link.index))
                except netlink.NetlinkError as error:
                    if error.errno != errno.ENODEV:
                        raise

    def _look_around(self) -> None:
        """Whether our rules are still there, and what those of others do."""
        self._published.make_table_if_missing()
        self._warned_at = time.monotonic()
        bridge = self._bridge.name if self._bridge else ""
        self._warnings = forwarding_warnings(bridge) if bridge else ()

    def _close(self, remove: bool) -> None:
        self._pool.close()
        try:
            if remove:
                self._worker.submit(self._remove_all).result()
        finally:
            self._worker.submit(self._let_go).result()
            self._worker.shutdown(wait=True)

    def _remove_all(self) -> None:
        self._folder.close()
        self._rules.run(nft.delete_table(self._name))
        self._remove_links(keep=set())
        if self._bridge is not None:
            remove_bridge(self._route, self._bridge, self._mark)

    def _let_go(self) -> None:
        self._published.let_go()
        self._book.close()
        self._route.close()
        self._rules.close()


def _primary(nics: Sequence[Nic]) -> Nic:
    return next((nic for nic in nics if nic.primary), nics[0])
