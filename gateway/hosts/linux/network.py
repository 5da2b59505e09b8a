"""Networks of the Linux host: a bridge each, a namespace per zone and a veth per nic, leases, published ports.

    zone netns: lo, eth0 --veth-- bridge (gateway address) --routing + nft masquerade-- outside
                                     published port --nft dnat--> eth0

No program is started: netlink.py speaks to the kernel, rules.py has the packet rules, netns.py makes namespaces
ahead, usernetworks.py has what clients make, wiring.py puts zones on them.  All of it happens in one worker
thread, in order; a zone costs 2-3 ms there.
What crosses a crash: bridges, rules and namespaces live on in the kernel; `adopt` takes back those of live
zones and removes the rest.  Rules of others are never changed: `warnings` says where they are in the way.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv6Address,
    IPv6Interface,
    ip_address,
    ip_interface,
)
from pathlib import Path
from typing import ParamSpec, TypeVar

from dockerapi.errors import Forbidden, InvalidParameter
from gateway.hosts.ipam import LeaseBook, mac_of
from gateway.hosts.linux import netlink, nft
from gateway.hosts.linux.bridges import Bridge, open_bridge, random_mac, remove_bridge, write_sysctl
from gateway.hosts.linux.forwarding import forwarding_warnings
from gateway.hosts.linux.netns import NamespaceFolder
from gateway.hosts.linux.predefined import NetworkRecords
from gateway.hosts.linux.rules import Rules
from gateway.hosts.linux.usernetworks import UserNetworks, Way, default_way
from gateway.hosts.linux.wiring import Attachment, Layout, Wiring
from gateway.hosts.networks import find, uuid_of
from gateway.settings import AddressPool
from gateway.zones.host import Network, NetworkPlan, NetworkRequest
from gateway.zones.members import ipv4, ipv6
from gateway.zones.metadata import Endpoint, PublishedPort
from gateway.zones.spec import Nic, ZoneUUID

log = logging.getLogger(__name__)

_WARNINGS_AGE_S = 10.0
_TIDY_AFTER_S = 0.5
_UNGUARDED = (
    "containers are not kept from sending by others' addresses: the kernel has no nftables for bridges"
    " (nf_tables_bridge)"
)

P = ParamSpec("P")
R = TypeVar("R")


class LinuxNetworks:
    """Networks of one instance; satisfies gateway.zones.host.NetworkHost."""

    def __init__(
        self, *, name: str, bridge: Bridge | None, records: NetworkRecords, book: LeaseBook,
        folder: NamespaceFolder, worker: ThreadPoolExecutor,
        route: netlink.RouteSocket, context: nft.Nft, users: UserNetworks, rules: Rules,
    ) -> None:  # fmt: skip
        """See `open`."""
        self._name = name
        self._bridge = bridge
        self._records = records
        self._book = book
        self._folder = folder
        self._worker = worker
        self._route = route
        self._context = context
        self._rules = rules
        self._users = users
        self._layout = Layout()
        self._wiring = Wiring(
            self._mark, route=route, rules=rules, book=book, folder=folder, layout=self._layout
        )
        self._published = self._wiring.published
        self._warnings: tuple[str, ...] = ()
        self._warned_at = 0.0
        self._closed = threading.Event()
        self._tidying: asyncio.TimerHandle | None = None
        self._show()

    @classmethod
    def open(
        cls, *, name: str, bridge: str, bip: str, pools: Sequence[AddressPool], state: Path,
        exec_root: Path,
    ) -> LinuxNetworks:  # fmt: skip
        """Bridges, rules and folders are there on return.  Blocking; to be called in a thread.

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
        context = nft.Nft()
        route = netlink.RouteSocket()
        rules = Rules(context, name)
        mark = f"zonegate {name}"
        opened: Bridge | None = None
        known = route.link(bridge) is not None if bridge else False
        try:
            book = LeaseBook(state / "leases.json")
            if bridge not in ("", "none"):
                opened = open_bridge(
                    route, name=bridge, mark=mark, bip=bip, pools=pools,
                    former=records.subnet(bridge),
                )  # fmt: skip
            records.settle(opened)
            users = UserNetworks(
                state / "user", mark=mark, seed=records.seed, route=route, rules=rules, book=book,
                pools=pools,
            )  # fmt: skip
            if opened is not None:
                default = records.by_name("bridge")
                book.add_network(default.id, opened.address.network, opened.address.ip)
                rules.know_network(default_way(default, bridge, opened.index, opened.mtu).rules())
            users.load()
            write_sysctl("net/ipv4/ip_forward", "1")
            self = cls(
                name=name, bridge=opened, records=records, book=book, worker=worker, users=users,
                folder=NamespaceFolder(exec_root / "netns"), route=route, context=context,
                rules=rules,
            )  # fmt: skip
        except BaseException:
            if opened is not None and not known:
                remove_bridge(route, opened, mark)
            route.close()
            rules.close()
            context.close()
            raise
        try:
            self._look_around()
        except BaseException:
            if not known and not self._folder.names():
                self._remove_all()
            self._let_go()
            self._wiring.close()
            raise
        return self

    def _show(self) -> None:
        """What there is, as others see it: they are in other threads, so it changes at once or not at all."""
        ways = {uuid_of(way.network.id): way for way in self._users.ways()}
        if self._bridge is not None:
            bridge, default = self._bridge, self._records.by_name("bridge")
            ways[uuid_of(default.id)] = default_way(default, bridge.name, bridge.index, bridge.mtu)
        self._layout.ways = ways
        self._layout.networks = (
            *self._records.all(),
            *self._users.networks(),
        )

    # NetworkHost: from memory, for any thread.

    def list(self) -> Sequence[Network]:
        """The predefined networks, then the users'."""
        return self._layout.networks

    def get(self, ref: str) -> Network:
        """By full id, name, or unique id prefix; NotFound(`network X not found`)."""
        return find(self._layout.networks, ref)

    def note(self, network: Network) -> str:
        """Nothing: it is as it was asked for."""
        return ""

    async def create(self, plan: NetworkPlan) -> Network:
        """All or nothing, also after a kill.  Errors in dockerd's words."""
        return await asyncio.shield(self._run(self._make, plan))

    async def remove(self, ref: str) -> None:
        """Nothing of it is left; leases of zones that do not run go with it."""
        network = self.get(ref)
        if network.plan is None:
            raise Forbidden(f"{network.name} is a pre-defined network and cannot be removed")
        uuid = uuid_of(network.id)
        # From here on nobody may join.
        self._layout.networks = tuple(one for one in self.list() if one.id != network.id)
        await asyncio.shield(self._run(self._unmake, network, uuid))

    def leased(self, network_id: str) -> Sequence[ZoneUUID]:
        """Zones, running or not, with a lease there."""
        return self._book.zones_on(network_id)

    def lease(self, uuid: ZoneUUID, request: NetworkRequest) -> Nic:
        """A nic with addresses of its own, kept until `release`.  InvalidParameter, NotFound,
        or APIError (no address left) in dockerd's words."""
        network = self.get(request.network)
        way = self._layout.ways.get(uuid_of(network.id))
        if network.plan is not None and network.plan.config_only:
            raise Forbidden("cannot create endpoint on configuration-only network")
        if way is None:
            raise InvalidParameter(f"network {network.name} has no addresses to give")
        if request.mac and not re.fullmatch(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}", request.mac):
            raise InvalidParameter(f"invalid MAC address: {request.mac}")
        if (request.address or request.address6) and network.plan is None:
            raise InvalidParameter(
                "user specified IP address is supported on user defined networks only"
            )
        try:
            addresses = [
                a for version in (4, 6) if (a := self._lease(uuid, network, request, version))
            ]
        except BaseException:
            self._book.release(uuid, network.id)
            raise
        return _nic(way, request, addresses)

    def _lease(
        self, uuid: ZoneUUID, network: Network, request: NetworkRequest, version: int
    ) -> IPv4Interface | IPv6Interface | None:
        """Its address in one version of IP; None where the network has none."""
        subnet = network.subnet if version == 4 else network.ipv6.subnet if network.ipv6 else ""
        if not subnet:
            return None
        asked = request.address if version == 4 else request.address6
        if asked:
            self._book.lease_this(uuid, network.id, ip_address(asked))
            address: IPv4Address | IPv6Address = ip_address(asked)
        elif version == 4:
            address = self._book.lease(uuid, network.id, network.name)
        else:
            address = self._book.lease(uuid, network.id, network.name, 6)
        return ip_interface(f"{address}/{subnet.partition('/')[2]}")

    def release(self, uuid: ZoneUUID, network: str | None = None) -> None:
        """Give back a zone's leases, all or of one network; none is fine."""
        self._book.release(uuid, network)

    def learn(self, uuid: ZoneUUID, nics: Sequence[Nic]) -> None:
        """A zone that exists has these nics: their addresses are its own."""
        for nic in nics:
            way = self._layout.way_of(nic)
            if way is not None:
                for address in (ipv4(nic), ipv6(nic)):
                    if address is not None:
                        self._book.learn(uuid, way.network.id, address.ip)

    def netns_path(self, uuid: ZoneUUID) -> str:
        """Where the zone's namespace is while it runs."""
        return str(self._folder.path(uuid))

    # What the zone host calls.

    async def connect(
        self, uuid: ZoneUUID, nics: Sequence[Nic], ports: Sequence[PublishedPort], *,
        endpoint: str = "", endpoints: Mapping[str, Endpoint] | None = None,
    ) -> Attachment:  # fmt: skip
        """A new namespace with loopback up, its nics plugged in, and the ports published; all or nothing.

        `endpoint` is the name that errors show, `endpoints` what was asked for by network_uuid.  Ports are ignored
        without a nic that leads out, as in dockerd.  APIError: `driver failed programming external connectivity on
        endpoint ...` if a port is taken; Forbidden if an address is; NotSupported: sctp.
        """
        self._published.stop_serving(uuid)
        try:
            attachment = await self._run(
                self._wiring.connect,
                uuid,
                tuple(nics),
                tuple(ports),
                endpoint or uuid,
                endpoints or {},
            )
            await self._published.serve(uuid)
        except BaseException:
            # If cancelled it may be under way and cannot be stopped: the one thread undoes it right after.
            self._published.stop_serving(uuid)
            self._worker.submit(self._wiring.disconnect, uuid)
            raise
        return attachment

    async def rejoin(
        self, uuid: ZoneUUID, nics: Sequence[Nic], ports: Sequence[PublishedPort], *,
        endpoint: str = "", endpoints: Mapping[str, Endpoint] | None = None,
    ) -> tuple[PublishedPort, ...]:  # fmt: skip
        """A running zone has these nics from now on; its ports as they are taken now.  After an error it has the
        ones from before.  Arguments and errors as `connect`."""
        act = functools.partial(
            self._wiring.rejoin, uuid, tuple(nics), tuple(ports), endpoint or uuid, endpoints or {}
        )
        taken, moved = await asyncio.shield(self._run(act))
        if moved:
            self._published.stop_serving(uuid)
            await self._published.serve(uuid)
        return taken

    async def disconnect(self, uuid: ZoneUUID) -> None:
        """Ports are free and the namespace has no name any more; none is fine."""
        self._published.stop_serving(uuid)
        await asyncio.shield(self._run(self._wiring.disconnect, uuid))
        if self._tidying is None and not self._closed.is_set():
            self._tidying = asyncio.get_running_loop().call_later(_TIDY_AFTER_S, self._tidy)

    def _tidy(self) -> None:
        self._tidying = None
        if not self._closed.is_set():
            self._worker.submit(self._rules.tidy)

    async def adopt(
        self,
        live: Mapping[ZoneUUID, tuple[Sequence[Nic], Sequence[PublishedPort]]],
        endpoints: Mapping[ZoneUUID, Mapping[str, Endpoint]] | None = None,
    ) -> None:
        """After a restart: keep the networks of these zones, with ports as taken; remove all else of ours.
        `endpoints` as of `connect`, by zone.

        Every zone, running or not, must have been learned before: leases of unknown zones are given up.
        """
        for uuid, (nics, _) in live.items():
            self.learn(uuid, nics)
        await self._run(self._wiring.adopt, dict(live), endpoints or {})
        for uuid in live:
            await self._published.serve(uuid)

    async def close(self, remove: bool) -> None:
        """Let go.  `remove`: no zone is left, so take away rules, bridges (that we made) and namespaces."""
        if self._closed.is_set():
            return
        self._closed.set()
        if self._tidying is not None:
            self._tidying.cancel()
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

    def _make(self, plan: NetworkPlan) -> Network:
        made = self._users.make(plan, self._records.all())
        self._show()
        return made

    def _unmake(self, network: Network, uuid: str) -> None:
        try:
            if self._wiring.is_used(uuid):
                raise Forbidden(
                    f"error while removing network: network {network.name} has active endpoints"
                )
            self._users.unmake(network)
            for zone in self._book.zones_on(network.id):
                self._book.release(zone, network.id)
        finally:
            self._show()

    @property
    def _mark(self) -> str:
        return f"zonegate {self._name}"

    def _look_around(self) -> None:
        """Whether our rules are still there, and what those of others do."""
        self._rules.make_if_missing()
        self._warned_at = time.monotonic()
        bridge = self._bridge.name if self._bridge else ""
        found = forwarding_warnings(bridge) if bridge else ()
        self._warnings = found if self._rules.guards else (*found, _UNGUARDED)

    def _close(self, remove: bool) -> None:
        self._wiring.close()
        try:
            if remove:
                self._worker.submit(self._remove_all).result()
        finally:
            self._worker.submit(self._let_go).result()
            self._worker.shutdown(wait=True)

    def _remove_all(self) -> None:
        self._wiring.remove_all()
        self._rules.remove()
        self._users.take_down()
        if self._bridge is not None:
            remove_bridge(self._route, self._bridge, self._mark)

    def _let_go(self) -> None:
        self._published.let_go()
        self._book.close()
        self._route.close()
        self._rules.close()
        self._context.close()


def _nic(
    way: Way, request: NetworkRequest, addresses: Sequence[IPv4Interface | IPv6Interface]
) -> Nic:
    """With IPv6 in `ips`, as vmadm has it; the gateway only where it leads out."""
    network = way.network
    four = next((a for a in addresses if isinstance(a, IPv4Interface)), None)
    several = tuple(str(address) for address in addresses)
    mac = request.mac.lower() if request.mac else mac_of(four.ip) if four else random_mac()
    return Nic(
        nic_tag=network.nic_tag,
        mac=mac,
        ip=str(four.ip) if four else None,
        netmask=str(four.netmask) if four else None,
        ips=several if len(several) > 1 or not four else None,
        gateway=None if network.internal else network.gateway or None,
        primary=True,
        network_uuid=uuid_of(network.id),
        mtu=way.options.mtu if network.plan is not None and (way.options.mtu or 0) >= 576 else None,
    )
