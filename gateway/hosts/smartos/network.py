"""Networks of the SmartOS host: nic tags with addresses that the gateway gives out, etherstubs, ports, rules.

    bridge        the nic tag, subnet, range, gateway, vlan and mtu of [smartos]: a network that is there already
    NAME          `docker network create`: an etherstub of its own (stubnetworks.py)
    host, none    listed for Docker's sake; a zone always has an IP stack of its own, so host is refused

The platform has no DHCP or IPAM that docker zones could use: every address is static and comes from here (who has
which: addresses.py).  How zones are reached while they run is reach.py's.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from dockerapi.errors import (
    APIError,
    CommandFailed,
    Conflict,
    Forbidden,
    InvalidParameter,
    NotSupported,
)
from gateway.hosts.ipam import Span, local_pool
from gateway.hosts.networks import DRIVERS, MTU, check_driver, find, mtu_of, uuid_of
from gateway.hosts.smartos import firewall
from gateway.hosts.smartos.addresses import Addresses, AnyNetwork
from gateway.hosts.smartos.egress import Egress
from gateway.hosts.smartos.globalzone import GlobalZone
from gateway.hosts.smartos.networkrecords import NetworkRecords, Record, new_record, plan_of
from gateway.hosts.smartos.nictags import NicTags
from gateway.hosts.smartos.published import PublishedPorts
from gateway.hosts.smartos.reach import Reach
from gateway.hosts.smartos.stubnetworks import StubNetworks, place
from gateway.settings import Settings, SmartOSSettings
from gateway.zones.host import AddressRange, Network, NetworkPlan, NetworkRequest, Zone
from gateway.zones.metadata import PublishedPort
from gateway.zones.spec import Nic, ZoneUUID

log = logging.getLogger(__name__)

_MACVLAN, _PARENT, _LAST_VLAN = "macvlan", "parent", 4094
_OPTIONS: Mapping[str, Mapping[str, tuple[str, ...] | None]] = {
    "bridge": {
        MTU: None,
        "com.docker.network.bridge.enable_icc": ("true",),
        "com.docker.network.bridge.enable_ip_masquerade": ("true",),
    },
    _MACVLAN: {MTU: None, _PARENT: None, "macvlan_mode": ("bridge",)},
}
"""Driver -> option -> values that are taken, None = any."""
_MTU_RANGE = 576, 9000


def check(settings: SmartOSSettings) -> None:
    """InvalidParameter if the default network's values do not belong together."""
    if not settings.subnet:
        return
    subnet = IPv4Network(settings.subnet)
    if settings.gateway and IPv4Address(settings.gateway) not in subnet:
        raise InvalidParameter(
            f"smartos.gateway {settings.gateway} is not in smartos.subnet {subnet}"
        )
    span = _span(settings)
    if span and not all(address in subnet for address in span):
        raise InvalidParameter(f"smartos.range {settings.range} is not in smartos.subnet {subnet}")


class SmartOSNetworks:
    """Networks of one instance; satisfies gateway.zones.host.NetworkHost.  Make it by `open`."""

    def __init__(self, gz: GlobalZone, settings: Settings) -> None:
        """See `open`."""
        folder = settings.data_root / "networks"
        folder.mkdir(parents=True, exist_ok=True)
        self._gz = gz
        self._name = settings.name
        self._settings = settings.smartos
        self._records = NetworkRecords(folder / "networks.json")
        self._pools = (*settings.default_address_pools, local_pool(self._default_id))
        self.addresses = Addresses(folder / "leases.json", self.list)
        self._firewall = firewall.Firewall(gz, settings.name)
        self._tags = NicTags(gz)
        self._egress = Egress(gz, settings.smartos.egress_nic)
        self._stubs = StubNetworks(
            settings.name,
            tags=self._tags,
            egress=self._egress,
            firewall=self._firewall,
            records=self._records,
        )
        self._reach = Reach(
            gz,
            settings.name,
            self._firewall,
            PublishedPorts(folder / "ports.json"),
            self._closed_off,
            self._own_addresses,
        )
        self._problems: list[str] = []
        self._lock = asyncio.Lock()
        self._networks: tuple[Network, ...] = ()
        self.changed: Callable[[], None] = lambda: None
        self.half_made_go: Callable[[], Awaitable[None]] | None = None
        """Waits until zones that were not made to their end have given up their nics."""
        """Called when networks have come or gone."""

    @classmethod
    async def open(cls, gz: GlobalZone, settings: Settings) -> SmartOSNetworks:
        """Networks are as they were, what is half made is gone.  Then `learn` every zone, then `adopt`.

        What the machine refuses does not stop the gateway: `warnings` says it.  InvalidParameter: see `check`.
        """
        check(settings.smartos)
        self = cls(gz, settings)
        try:
            self._lay_out()
            await self._look_around()
            self._problems += await self._stubs.sweep()
            self._show()
        except BaseException:
            await self.close()
            raise
        for problem in self._problems:
            log.warning("%s", problem)
        return self

    def _lay_out(self) -> None:
        if self._settings.subnet:
            wanted = AddressRange(self._settings.subnet, self._settings.gateway)
            self.addresses.open(self._default_id, wanted, _span(self._settings))
        for record in self._records.ready():
            if not record.is_configuration:
                self._open(record)
        self._show()

    def _open(self, record: Record) -> None:
        aux = plan_of(record.plan).ipv4.aux
        wanted = AddressRange(record.subnet, record.gateway, record.range, aux)
        self.addresses.open(record.id, wanted)
        if record.ipv6 is not None:
            self.addresses.open(record.id, AddressRange(**record.ipv6))

    async def _look_around(self) -> None:
        """What the machine has: rules of ours, its own addresses, the nic tag of the default network."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._try("firewall rules", self._firewall.load()))
            group.create_task(self._try("addresses of the global zone", self._reserve_own()))
            group.create_task(self._try("nic tags", self._find_tag()))

    async def _try(self, what: str, act: Awaitable[None]) -> None:
        try:
            await act
        except APIError as error:
            self._problems.append(f"{what}: {error.message}")

    async def _reserve_own(self) -> None:
        found = (await self._egress.addresses()).values()
        self.addresses.own = tuple(one for one in found if not one.ip.is_loopback)
        self.addresses.reserve_others()

    async def _own_addresses(self) -> Sequence[IPv4Interface]:
        """As they are now: they may come by DHCP, and with new networks."""
        await self._reserve_own()
        return [one for one in self.addresses.own if isinstance(one, IPv4Interface)]

    async def _find_tag(self) -> None:
        tag = self._settings.nic_tag.partition("/")[0]
        if self._settings.subnet and tag not in await self._tags.list():
            raise InvalidParameter(
                f"{tag} of the default network does not exist: nictagadm add, or set smartos.nic_tag"
            )

    def _show(self) -> None:
        fixed = [self._predefined(name) for name in DRIVERS]
        own = [one.shown(egress=self._stubs.leads_out(one)) for one in self._records.ready()]
        self._networks = (*fixed, *own)
        self.changed()

    @property
    def _default_id(self) -> str:
        return self._records.predefined("bridge")[0]

    def _predefined(self, name: str) -> Network:
        network_id, created_ns = self._records.predefined(name)
        if name != "bridge" or not self._settings.subnet:
            return Network(network_id, name, DRIVERS[name], created_ns)
        mtu = {MTU: str(self._settings.mtu)} if self._settings.mtu else {}
        return Network(
            network_id,
            name,
            DRIVERS[name],
            created_ns,
            subnet=self._settings.subnet,
            gateway=self._settings.gateway,
            nic_tag=self._settings.nic_tag,
            options={"com.docker.network.bridge.default_bridge": "true", **mtu},
        )

    def warnings(self) -> tuple[str, ...]:
        """What of the networks does not work on this machine, and why."""
        return tuple(self._problems)

    # NetworkHost: from memory.

    def list(self) -> Sequence[Network]:
        """The predefined ones and the user's."""
        return self._networks

    def get(self, ref: str) -> Network:
        """By full id, name, or unique id prefix; NotFound(`network X not found`)."""
        return find(self._networks, ref)

    def lease(self, uuid: ZoneUUID, request: NetworkRequest) -> Nic:
        """A nic with an address of its own, kept until `release`.

        InvalidParameter, Forbidden or NotFound in dockerd's words; APIError if no address is left.  vmadm chooses
        the MAC where none is asked for.
        """
        network = self.get(request.network)
        self._check_lease(network, request)
        found = self.addresses.lease(uuid, network, request)
        four = next(one for one in found if isinstance(one, IPv4Interface))
        vlan, mtu = self._settings.vlan_id or None, self._settings.mtu
        if network.id != self._default_id:
            record = self._record(network)
            vlan, mtu = record.vlan, record.mtu
        return Nic(
            nic_tag=network.nic_tag,
            mac=request.mac.lower() if request.mac else None,
            ip=str(four.ip),
            netmask=str(four.netmask),
            ips=tuple(map(str, found)) if len(found) > 1 else None,
            gateway=None if network.internal else network.gateway or None,
            primary=True,
            vlan_id=vlan,
            mtu=mtu,
            network_uuid=uuid_of(network.id),
        )

    def _check_lease(self, network: Network, request: NetworkRequest) -> None:
        if network.name == "host":
            raise NotSupported(
                "network mode host is not supported on SmartOS: a zone always has an IP stack of its own"
            )
        if network.name == "bridge" and not network.subnet:
            raise InvalidParameter(
                "network bridge has no addresses to give: set smartos.subnet (and gateway, range) for"
                " the nic tag that containers are to use, or run with --network none"
            )
        if network.plan is not None and network.plan.config_only:
            raise Forbidden("cannot create endpoint on configuration-only network")
        if not network.subnet:
            raise InvalidParameter(f"network {network.name} has no addresses to give")
        if (request.address or request.address6) and network.id == self._default_id:
            raise InvalidParameter(
                "user specified IP address is supported on user defined networks only"
            )
        if request.mac and not re.fullmatch(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}", request.mac):
            raise InvalidParameter(f"invalid MAC address: {request.mac}")

    def own_address(self, network: Network) -> str:
        """This machine's address on a user network, "" where it has none: it is another, or has no nic there."""
        if not self._gz.is_local or network.plan is None:
            return ""
        record = self._record(network)
        return record.gateway if record.stub and not record.asked_internal else ""

    def _closed_off(self, network: Network) -> bool:
        """Not even the global zone has a nic on it."""
        return any(r.id == network.id and r.asked_internal for r in self._records.all())

    def _record(self, network: Network) -> Record:
        return next(record for record in self._records.all() if record.id == network.id)

    def leased(self, network_id: str) -> Sequence[ZoneUUID]:
        """Zones, running or not, with a lease there."""
        return self.addresses.leased(network_id)

    def release(self, uuid: ZoneUUID, network: str | None = None) -> None:
        """Give back a zone's leases, all or of one network; none is fine."""
        self.addresses.release(uuid, network)

    # What the zone host tells.

    def learn(self, uuid: ZoneUUID, nics: Sequence[Nic]) -> None:
        """A zone of ours that exists has these nics: their addresses are its own."""
        self.addresses.learn(uuid, nics)

    def rivals(self, uuid: ZoneUUID, nics: Iterable[Nic]) -> Mapping[ZoneUUID, set[str]]:
        """Other zones that have an address of these nics, and on which networks: see `Addresses.rivals`."""
        return self.addresses.rivals(uuid, nics)

    def give_up(self, uuid: ZoneUUID, networks: Container[str]) -> None:
        """A zone's leases on these networks (network_uuids) are nobody's any more."""
        for network in self._networks:
            if uuid_of(network.id) in networks:
                self.addresses.release(uuid, network.id)

    def tags(self, nics: Iterable[Nic]) -> dict[str, bool]:
        """Tags of a zone with these nics, for its payload: its networks' rules apply by them.

        A zone without them gets them at its first `connect`, by a vmadm of its own.
        """
        return firewall.network_tags(nics)

    async def connect(self, zone: Zone) -> tuple[PublishedPort, ...]:
        """Rules hold and ports are served; all or nothing.  The ports as they were taken.

        Best called right before the zone starts: a port that is taken then fails the start, and nothing has run.
        APIError: `driver failed programming external connectivity on endpoint ...`; NotSupported: sctp, or udp
        where only SSH reaches the zone.  As with dockerd, nothing is published of a zone on internal networks only.
        """
        return await self._reach.connect(zone, self._networks)

    async def disconnect(self, uuid: ZoneUUID) -> None:
        """Its ports are free, nobody gets in by its rules; none is fine."""
        await self._reach.disconnect(uuid)

    async def adopt(self, zones: Sequence[Zone]) -> dict[ZoneUUID, tuple[PublishedPort, ...]]:
        """After a restart: ports of running zones are served again, the same as before; what they are, by zone.

        `zones`: all of ours.  Leases, ports and rules of zones that are no more are given up.
        """
        for zone in zones:
            self.learn(zone.uuid, zone.spec.nics)
        self.addresses.settle()
        stubs = [uuid_of(record.id) for record in self._records.ready()]
        try:
            return await self._reach.adopt(zones, self._networks, stubs)
        except CommandFailed as error:
            self._problems.append(f"firewall rules: {error.message}")
            log.warning("firewall rules: %s", error.message)
            return self._reach.ports_of(zones)

    async def close(self) -> None:
        """Let go of sockets and files; zones, rules and networks stay."""
        self._reach.close()
        self.addresses.close()

    # Networks of the user's.

    async def create(self, plan: NetworkPlan) -> Network:
        """A network on an etherstub of its own, or (driver macvlan) on a nic tag that is there; all or nothing.

        Without smartos.egress_nic one on an etherstub is internal: see `note`.
        """
        async with self._lock:
            self._check_new(plan)
            if plan.config_only:
                nothing = AddressRange()
                record = new_record(self._name, plan, nothing, None)
                self._records.put(record, ready=True)
                self._show()
                return self.get(record.id)
            mtu = _mtu(plan.options)
            await self._reserve_own()
            tag, vlan = await self._parent(plan) if plan.driver == _MACVLAN else ("", None)
            taken = self._taken()
            four = place(plan.ipv4, pools=self._pools, taken=taken)
            six = plan.ipv6 and place(plan.ipv6, pools=self._pools, taken=taken, version=6)
            record = new_record(self._name, plan, four, six, mtu=mtu, tag=tag, vlan=vlan)
            record = await self._stubs.make(record)
            self._open(record)
            self._show()
            return self.get(record.id)

    async def _parent(self, plan: NetworkPlan) -> tuple[str, int | None]:
        """Nic tag and vlan of a network that the machine has: `-o parent=TAG[.VLAN]`."""
        tag, _, vlan = plan.options.get(_PARENT, "").partition(".")
        known = await self._tags.list()
        if tag not in known:
            raise InvalidParameter(
                f"parent {tag or '(none)'} is no nic tag of this machine: it has {', '.join(sorted(known))}"
            )
        if not plan.ipv4.subnet:
            raise InvalidParameter(
                "a network on a nic tag needs the subnet that it has: --subnet, and --gateway for its router"
            )
        if vlan and not (vlan.isdigit() and 0 < int(vlan) <= _LAST_VLAN):
            raise InvalidParameter(f"invalid vlan {vlan} in parent: 1 to {_LAST_VLAN}")
        return tag, int(vlan) if vlan else None

    def note(self, network: Network) -> str:
        """What the one who made a network should know of it, "" if nothing: for the answer's Warning."""
        if (
            network.plan
            and not network.plan.config_only
            and network.internal
            and not self._record(network).asked_internal
        ):
            return (
                f"network {network.name} does not reach outside: smartos.egress_nic names no interface"
                " of the global zone for it"
            )
        return ""

    def _check_new(self, plan: NetworkPlan) -> None:
        name = plan.name
        if name in DRIVERS or name in ("default", "container"):
            raise Forbidden(f"operation is not permitted on predefined {name} network ")
        if any(network.name == name for network in self._networks):
            raise Conflict(f"network with name {name} already exists")
        if plan.config_only:
            return
        if not plan.enable_ipv4:
            raise NotSupported(
                "networks without IPv4 are not supported on SmartOS: dockerinit plumbs no nic without an IPv4 address"
            )
        check_driver(plan.driver, _OPTIONS)
        known = _OPTIONS[plan.driver]
        for key, value in sorted(plan.options.items()):
            accepted = known.get(key, ())
            if _is_foreign(key, plan.driver):
                continue
            if accepted is not None and value not in accepted:
                raise NotSupported(f"network option {key}={value} is not supported on SmartOS")

    def _taken(self) -> Sequence[AnyNetwork]:
        default = [IPv4Network(self._settings.subnet)] if self._settings.subnet else []
        ours = [network for record in self._records.all() for network in record.networks]
        return [*default, *ours, *self.addresses.taken()]

    async def remove(self, ref: str) -> None:
        """Nothing of it is there on return.  Forbidden if it is predefined, or a zone, running or not, is on it."""
        if self.half_made_go is not None:
            await self.half_made_go()
        async with self._lock:
            network = self.get(ref)
            if network.name in DRIVERS:
                raise Forbidden(f"{network.name} is a pre-defined network and cannot be removed")
            if self.addresses.leased(network.id):
                raise Forbidden(
                    f"error while removing network: network {network.name} id {network.id}"
                    " has active endpoints"
                )
            # From here on nobody may lease there.
            self._networks = tuple(one for one in self._networks if one.id != network.id)
            try:
                await self._stubs.unmake(self._record(network))
                self.addresses.remove(network.id)
            finally:
                self._show()


def _mtu(options: Mapping[str, str]) -> int | None:
    number = mtu_of(options)
    if number and not _MTU_RANGE[0] <= number <= _MTU_RANGE[1]:
        raise InvalidParameter(f"invalid value for {MTU}: {number}: 576 to 9000")
    return number or None


def _is_foreign(key: str, driver: str) -> bool:
    """Neither Docker's nor ours: it is kept and means nothing, as in dockerd."""
    of_driver = driver != "bridge" and "." not in key
    return not of_driver and not key.startswith(("com.docker.network.", "zonegate."))


def _span(settings: SmartOSSettings) -> Span | None:
    if not settings.range:
        return None
    first, _, last = settings.range.partition("-")
    return IPv4Address(first.strip()), IPv4Address(last.strip())
