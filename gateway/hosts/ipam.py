"""Who has which address: `Subnet` hands addresses out, `LeaseBook` remembers to which zone.

The zones' own nics are the truth; the book's file only bridges the moment between a restart and the host's
`learn` of every zone, and keeps a just-freed address from being handed out again.  So the file may be
written late: what a crash loses is learned again.

Which network an address belongs to, and its interface, is the platform's.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from pathlib import Path
from typing import Any, Literal, overload

from dockerapi.errors import APIError, Forbidden, InvalidParameter
from gateway.settings import AddressPool
from gateway.zones.spec import ZoneUUID

log = logging.getLogger(__name__)

_WRITE_DELAY_S = 0.5

Address = IPv4Address | IPv6Address
Span = tuple[Address, Address]
"""First and last address, both included."""
_Key = tuple[str, int]
"""A network's id, and the version of IP."""


def mac_of(address: IPv4Address) -> str:
    """02:42 and the address, as dockerd has it."""
    return "02:42:" + ":".join(f"{byte:02x}" for byte in address.packed)


@overload
def choose_subnet(
    pools: Sequence[AddressPool], taken: Iterable[IPv4Network], version: Literal[4] = 4
) -> IPv4Network: ...
@overload
def choose_subnet(
    pools: Sequence[AddressPool], taken: Iterable[IPv6Network], version: Literal[6]
) -> IPv6Network: ...
def choose_subnet(
    pools: Sequence[AddressPool],
    taken: Iterable[IPv4Network | IPv6Network],
    version: Literal[4, 6] = 4,
) -> IPv4Network | IPv6Network:
    """First subnet of the pools that overlaps nothing in `taken`; APIError in dockerd's words if none is left."""
    used = Ranges(taken)
    for pool in pools:
        base = ip_network(pool.base)
        if base.version != version or pool.size < base.prefixlen:
            continue
        number, step = int(base.network_address), 1 << (base.max_prefixlen - pool.size)
        while number <= int(base.broadcast_address):
            beyond = used.end_of_overlap(number, number + step - 1)
            if beyond is None:
                return type(base)((number, pool.size))
            # Over everything that the one in the way covers: its end may be far.
            number += max(step, (beyond + 1 - number) // step * step)
    raise APIError(
        "all predefined address pools have been fully subnetted",
        detail="pools: " + ", ".join(f"{p.base} in /{p.size}" for p in pools),
    )


def local_pool(seed: str) -> AddressPool:
    """Unique local addresses of an instance (RFC 4193), as many /64 as a /48 has."""
    digits = hashlib.sha256(seed.encode()).hexdigest()[:10]
    base = f"fd{digits[:2]}:{digits[2:6]}:{digits[6:10]}::/48"
    return AddressPool(base=base, size=64)


class Ranges:
    """Numbers that are taken, as merged ranges: whether another overlaps them is one bisection."""

    def __init__(self, networks: Iterable[IPv4Network | IPv6Network]) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        spans = sorted((int(n.network_address), int(n.broadcast_address)) for n in networks)
        for start, end in spans:
            if self._ends and start <= self._ends[-1] + 1:
                self._ends[-1] = max(self._ends[-1], end)
            else:
                self._starts.append(start)
                self._ends.append(end)

    def end_of_overlap(self, first: int, last: int) -> int | None:
        """Where the taken range ends that `first` to `last` overlaps; None if they overlap nothing."""
        at = bisect_right(self._starts, last) - 1
        return self._ends[at] if at >= 0 and self._ends[at] >= first else None


class Subnet:
    """Addresses of one network.  Fresh ones come first; those given back only when none is fresh, oldest first.

    Of its own accord it gives only those of `span` (first and last, both included; None = all but the network's
    and the broadcast address); any of the network can be asked for.
    """

    def __init__(
        self,
        network: IPv4Network | IPv6Network,
        reserved: Iterable[Address],
        span: Span | None = None,
    ) -> None:
        self.network = network
        self._kind = type(network.network_address)
        first, last = int(network.network_address), int(network.broadcast_address)
        ends: tuple[int, ...] = ()
        if network.prefixlen < network.max_prefixlen - 1:
            # IPv6 has no broadcast address.
            ends = (first, last) if network.version == 4 else (first,)
            first, last = first + 1, last - (network.version == 4)
        if span is not None:
            first, last = max(first, int(span[0])), min(last, int(span[1]))
        self._first, self._fresh, self._last = first, first, last
        self._reserved = {int(address) for address in reserved} | set(ends)
        self._used = set(self._reserved)
        self._freed: deque[int] = deque()

    @property
    def next_fresh(self) -> Address:
        """Below this, addresses have been handed out before."""
        return self._kind(min(self._fresh, (1 << self.network.max_prefixlen) - 1))

    def skip_to(self, address: Address) -> None:
        """Go on from where an earlier process was; what lies between counts as given back."""
        target = int(address)
        if self._fresh < target <= self._last + 1:
            self._freed.extend(range(self._fresh, target))
            self._fresh = target

    def take_next(self) -> Address | None:
        """An address that nobody has, None if all are taken.  Each address is passed over once: O(1)."""
        while self._fresh <= self._last:
            self._fresh += 1
            if self._fresh - 1 not in self._used:
                return self._take(self._fresh - 1)
        while self._freed:
            number = self._freed.popleft()
            if number not in self._used:
                return self._take(number)
        return None

    def _take(self, number: int) -> Address:
        self._used.add(number)
        return self._kind(number)

    def take(self, address: Address) -> bool:
        """Take this one; False if it is taken."""
        if int(address) in self._used:
            return False
        self._take(int(address))
        return True

    def give_back(self, address: Address) -> None:
        """It may be handed out again, later."""
        number = int(address)
        if number in self._used and number not in self._reserved:
            self._used.discard(number)
            # Above the mark it is still fresh; in the queue as well it would be found twice.
            if self._first <= number < self._fresh:
                self._freed.append(number)


class LeaseBook:
    """Leases of all networks, by zone, in both versions of IP.  For any thread.

    What the host chooses is one zone's alone; an address that was asked for may be leased to several, of which one at
    a time can run: who starts asks `owners`.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._subnets: dict[_Key, Subnet] = {}
        self._leases: dict[ZoneUUID, list[tuple[_Key, Address]]] = {}
        self._owners: dict[tuple[_Key, Address], list[ZoneUUID]] = {}
        self._on: dict[str, Counter[ZoneUUID]] = {}
        self._learned: set[ZoneUUID] = set()
        self._lock = threading.RLock()
        self._timer: threading.Timer | None = None
        self._stored: Mapping[str, object] = _read(file)

    def add_network(
        self,
        network_id: str,
        subnet: IPv4Network | IPv6Network,
        gateway: Address | None,
        span: Span | None = None,
        aux: Iterable[Address] = (),
    ) -> None:
        """Lease from this subnet; what the file says of it is taken as leased until `forget_unlearned`.

        A network may have one of each version.  `aux`: further addresses that nobody gets.
        """
        with self._lock:
            key = network_id, subnet.version
            reserved = [*aux] if gateway is None else [gateway, *aux]
            self._subnets[key] = allocator = Subnet(subnet, reserved, span)
            stored = self._stored.get(_name_of(key))
            if not isinstance(stored, dict):
                return
            allocator.skip_to(ip_address(stored["next"]))
            for text, uuid in stored["leases"].items():
                address = ip_address(text)
                if address in subnet and allocator.take(address):
                    self._put(ZoneUUID(uuid), key, address)

    def remove_network(self, network_id: str) -> None:
        """No more leases from it; those that are there stay the zones' until `release`."""
        with self._lock:
            for version in (4, 6):
                self._subnets.pop((network_id, version), None)
            self._write_later()

    def zones_on(self, network_id: str) -> Sequence[ZoneUUID]:
        """Who has an address there."""
        with self._lock:
            return tuple(self._on.get(network_id, ()))

    def owners(self, network_id: str, address: Address) -> Sequence[ZoneUUID]:
        """Who has this address there."""
        with self._lock:
            return tuple(self._owners.get(((network_id, address.version), address), ()))

    def reserve(self, address: Address) -> None:
        """Somebody else's: not to be handed out on any network.  A zone of ours that has it keeps it."""
        with self._lock:
            for subnet in self._subnets.values():
                if address in subnet.network:
                    subnet.take(address)

    def unreserve(self, address: Address) -> None:
        """Nobody else's any more."""
        with self._lock:
            for key, subnet in self._subnets.items():
                if address in subnet.network and (key, address) not in self._owners:
                    subnet.give_back(address)

    def learn(self, uuid: ZoneUUID, network_id: str, address: Address) -> None:
        """A zone's nic says so.  Whoever else had it by the file alone loses it."""
        with self._lock:
            key = network_id, address.version
            self._learned.add(uuid)
            if (key, address) in self._leases.get(uuid, []):
                return
            for former in tuple(self._owners.get((key, address), ())):
                if former not in self._learned:
                    self._drop(former, key, address)
            if subnet := self._subnets.get(key):
                subnet.take(address)
            self._put(uuid, key, address)
            self._write_later()

    def _put(self, uuid: ZoneUUID, key: _Key, address: Address) -> None:
        self._leases.setdefault(uuid, []).append((key, address))
        self._owners.setdefault((key, address), []).append(uuid)
        self._on.setdefault(key[0], Counter())[uuid] += 1

    def _drop(self, uuid: ZoneUUID, key: _Key, address: Address) -> None:
        """Whether the address is to be given back is the caller's to see to."""
        self._leases[uuid].remove((key, address))
        owners = self._owners[key, address]
        owners.remove(uuid)
        if not owners:
            del self._owners[key, address]
        here = self._on[key[0]]
        here[uuid] -= 1
        if not here[uuid]:
            del here[uuid]
        if not here:
            del self._on[key[0]]

    def forget_unlearned(self) -> None:
        """Every zone has been learned: leases of others were of zones that never came to be."""
        with self._lock:
            for uuid in [u for u in self._leases if u not in self._learned]:
                self.release(uuid)
            if self._stored:  # it may also tell of networks that are gone
                self._write_later()

    @overload
    def lease(
        self, uuid: ZoneUUID, network_id: str, name: str, version: Literal[4] = 4
    ) -> IPv4Address: ...
    @overload
    def lease(
        self, uuid: ZoneUUID, network_id: str, name: str, version: Literal[6]
    ) -> IPv6Address: ...
    def lease(self, uuid: ZoneUUID, network_id: str, name: str, version: int = 4) -> Address:
        """The next address.  APIError in dockerd's words if there is none."""
        with self._lock:
            key = network_id, version
            address = self._subnets[key].take_next()
            if address is None:
                raise APIError(
                    f"no available IPv{version} addresses on this network's address pools: "
                    f"{name} ({network_id})"
                )
            self._keep(uuid, key, address)
        return address

    def lease_this(self, uuid: ZoneUUID, network_id: str, address: Address) -> None:
        """That very address.  InvalidParameter outside the subnet, Forbidden if it is no zone's to have."""
        with self._lock:
            key = network_id, address.version
            subnet = self._subnets[key]
            if address not in subnet.network:
                raise InvalidParameter(
                    f"no configured subnet contains IP address {address}",
                    detail=f"subnet {subnet.network}",
                )
            if not subnet.take(address) and (key, address) not in self._owners:
                raise Forbidden("Address already in use")
            self._keep(uuid, key, address)

    def _keep(self, uuid: ZoneUUID, key: _Key, address: Address) -> None:
        self._learned.add(uuid)
        self._put(uuid, key, address)
        self._write_later()

    def release(self, uuid: ZoneUUID, network_id: str | None = None) -> None:
        """Give back all of a zone's, or those of one network; none is fine."""
        with self._lock:
            for key, address in tuple(self._leases.get(uuid, ())):
                if network_id not in (None, key[0]):
                    continue
                self._drop(uuid, key, address)
                subnet = self._subnets.get(key)
                if subnet is not None and (key, address) not in self._owners:
                    subnet.give_back(address)
            if not self._leases.get(uuid):
                self._leases.pop(uuid, None)
                self._learned.discard(uuid)
            self._write_later()

    def of(self, uuid: ZoneUUID) -> tuple[Address, ...]:
        """A zone's addresses."""
        with self._lock:
            return tuple(address for _, address in self._leases.get(uuid, []))

    def _write_later(self) -> None:
        if self._timer is None:
            self._timer = threading.Timer(_WRITE_DELAY_S, self._write)
            self._timer.daemon = True
            self._timer.start()

    def _write(self) -> None:
        with self._lock:
            self._timer = None
            document: dict[str, dict[str, Any]] = {
                _name_of(key): {"next": str(subnet.next_fresh), "leases": {}}
                for key, subnet in self._subnets.items()
            }
            for uuid, leases in self._leases.items():
                for key, address in leases:
                    if _name_of(key) in document:
                        document[_name_of(key)]["leases"][str(address)] = uuid
            try:
                replace_json(self._file, document)
            except OSError as error:
                # The zones' nics are the truth; the next change writes all of it.
                log.error("leases cannot be written: %s", error)  # noqa: TRY400

    def close(self) -> None:
        """Write what is not yet written."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._write()


def _name_of(key: _Key) -> str:
    """Of a subnet in the file."""
    return key[0] if key[1] == 4 else f"{key[0]}/6"


def _read(file: Path) -> Mapping[str, object]:
    """Empty where there is none or a half-written one: the zones' nics are the truth."""
    try:
        document = json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def replace_json(file: Path, document: object) -> None:
    """Write a JSON file so that a reader sees the old or the new one, never a part."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(file.name + ".new")
    fresh.write_text(json.dumps(document, indent=1))
    fresh.replace(file)


def parse_bip(text: str) -> IPv4Interface:
    """Address and prefix of a bridge; InvalidParameter if it is not a host's address in a network of some size."""
    try:
        interface = IPv4Interface(text)
    except ValueError as error:
        raise InvalidParameter(f"invalid bip {text}: {error}") from error
    network = interface.network
    address = interface.ip
    if (
        address.is_loopback
        or address.is_multicast
        or address.is_reserved
        or "/" not in text
        or network.prefixlen > 30
        or address in (network.network_address, network.broadcast_address)
    ):
        raise InvalidParameter(
            f"invalid bip {text}: not an address with a prefix, like 172.30.0.1/16"
        )
    return interface
