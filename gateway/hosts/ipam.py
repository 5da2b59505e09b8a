"""Who has which address: `Subnet` hands addresses out, `LeaseBook` remembers to which zone.

The zones' own nics are the truth; the book's file only bridges the moment between a restart and the host's
`learn` of every zone, and keeps a just-freed address from being handed out again.  So the file may be
written late: what a crash loses is learned again.

Which network an address belongs to, and its interface, is the platform's.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

from dockerapi.errors import APIError, Forbidden, InvalidParameter
from gateway.settings import AddressPool
from gateway.zones.spec import ZoneUUID

_WRITE_DELAY_S = 0.5

Span = tuple[IPv4Address, IPv4Address]
"""First and last address, both included."""


def mac_of(address: IPv4Address) -> str:
    """02:42 and the address, as dockerd has it."""
    return "02:42:" + ":".join(f"{byte:02x}" for byte in address.packed)


def choose_subnet(pools: Sequence[AddressPool], taken: Iterable[IPv4Network]) -> IPv4Network:
    """First subnet of the pools that overlaps nothing in `taken`; APIError in dockerd's words if none is left."""
    used = list(taken)
    for pool in pools:
        base = IPv4Network(pool.base)
        if pool.size < base.prefixlen:
            continue
        for subnet in base.subnets(new_prefix=pool.size):
            if not any(subnet.overlaps(other) for other in used):
                return subnet
    raise APIError(
        "all predefined address pools have been fully subnetted",
        detail="pools: " + ", ".join(f"{p.base} in /{p.size}" for p in pools),
    )


class Subnet:
    """Addresses of one network.  Fresh ones come first; those given back only when none is fresh, oldest first.

    Of its own accord it gives only those of `span` (first and last, both included; None = all but the network's
    and the broadcast address); any of the network can be asked for.
    """

    def __init__(
        self, network: IPv4Network, reserved: Iterable[IPv4Address], span: Span | None = None
    ) -> None:
        self.network = network
        first, last = int(network.network_address), int(network.broadcast_address)
        if network.prefixlen < 31:
            first, last = first + 1, last - 1
        if span is not None:
            first, last = max(first, int(span[0])), min(last, int(span[1]))
        self._first, self._fresh, self._last = first, first, last
        self._reserved = {int(address) for address in reserved}
        self._used = set(self._reserved)
        self._freed: deque[int] = deque()

    @property
    def next_fresh(self) -> IPv4Address:
        """Below this, addresses have been handed out before."""
        return IPv4Address(min(self._fresh, 0xFFFFFFFF))

    def skip_to(self, address: IPv4Address) -> None:
        """Go on from where an earlier process was; what lies between counts as given back."""
        target = int(address)
        if self._fresh < target <= self._last + 1:
            self._freed.extend(range(self._fresh, target))
            self._fresh = target

    def take_next(self) -> IPv4Address | None:
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

    def _take(self, number: int) -> IPv4Address:
        self._used.add(number)
        return IPv4Address(number)

    def take(self, address: IPv4Address) -> bool:
        """Take this one; False if it is taken."""
        if int(address) in self._used:
            return False
        self._take(int(address))
        return True

    def give_back(self, address: IPv4Address) -> None:
        """It may be handed out again, later."""
        number = int(address)
        if number in self._used and number not in self._reserved:
            self._used.discard(number)
            # Above the mark it is still fresh; in the queue as well it would be found twice.
            if self._first <= number < self._fresh:
                self._freed.append(number)


class LeaseBook:
    """Leases of all networks, by zone.  For any thread."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._subnets: dict[str, Subnet] = {}
        self._leases: dict[ZoneUUID, list[tuple[str, IPv4Address]]] = {}
        self._owners: dict[tuple[str, IPv4Address], ZoneUUID] = {}
        self._learned: set[ZoneUUID] = set()
        self._lock = threading.RLock()
        self._timer: threading.Timer | None = None
        self._stored: Mapping[str, object] = _read(file)

    def add_network(
        self,
        network_id: str,
        subnet: IPv4Network,
        gateway: IPv4Address | None,
        span: Span | None = None,
    ) -> None:
        """Lease from this subnet; what the file says of it is taken as leased until `forget_unlearned`."""
        with self._lock:
            reserved = [] if gateway is None else [gateway]
            self._subnets[network_id] = allocator = Subnet(subnet, reserved, span)
            stored = self._stored.get(network_id)
            if not isinstance(stored, dict):
                return
            allocator.skip_to(IPv4Address(stored["next"]))
            for text, uuid in stored["leases"].items():
                address = IPv4Address(text)
                if address in subnet and allocator.take(address):
                    self._put(ZoneUUID(uuid), network_id, address)

    def remove_network(self, network_id: str) -> None:
        """No more leases from it; those that are there stay the zones' until `release`."""
        with self._lock:
            self._subnets.pop(network_id, None)
            self._write_later()

    def zones_on(self, network_id: str) -> Sequence[ZoneUUID]:
        """Who has an address there."""
        with self._lock:
            return [
                u for u, found in self._leases.items() if any(n == network_id for n, _ in found)
            ]

    def reserve(self, address: IPv4Address) -> None:
        """Somebody else's: not to be handed out on any network.  A zone of ours that has it keeps it."""
        with self._lock:
            for subnet in self._subnets.values():
                if address in subnet.network:
                    subnet.take(address)

    def unreserve(self, address: IPv4Address) -> None:
        """Nobody else's any more."""
        with self._lock:
            for network_id, subnet in self._subnets.items():
                if address in subnet.network and (network_id, address) not in self._owners:
                    subnet.give_back(address)

    def learn(self, uuid: ZoneUUID, network_id: str, address: IPv4Address) -> None:
        """A zone's nic says so.  Whoever else had it by the file loses it."""
        with self._lock:
            self._learned.add(uuid)
            if (network_id, address) in self._leases.get(uuid, []):
                return
            former = self._owners.get((network_id, address))
            if former is not None:
                self._leases[former].remove((network_id, address))
            if subnet := self._subnets.get(network_id):
                subnet.take(address)
            self._put(uuid, network_id, address)
            self._write_later()

    def _put(self, uuid: ZoneUUID, network_id: str, address: IPv4Address) -> None:
        self._leases.setdefault(uuid, []).append((network_id, address))
        self._owners[network_id, address] = uuid

    def forget_unlearned(self) -> None:
        """Every zone has been learned: leases of others were of zones that never came to be."""
        with self._lock:
            for uuid in [u for u in self._leases if u not in self._learned]:
                self.release(uuid)

    def lease(self, uuid: ZoneUUID, network_id: str, name: str) -> IPv4Address:
        """The next address.  APIError in dockerd's words if there is none."""
        with self._lock:
            address = self._subnets[network_id].take_next()
            if address is None:
                raise APIError(
                    "no available IPv4 addresses on this network's address pools: "
                    f"{name} ({network_id})"
                )
            self._keep(uuid, network_id, address)
        return address

    def lease_this(self, uuid: ZoneUUID, network_id: str, address: IPv4Address) -> None:
        """That very address.  InvalidParameter outside the subnet, Forbidden if it is taken."""
        with self._lock:
            subnet = self._subnets[network_id]
            if address not in subnet.network:
                raise InvalidParameter(
                    f"no configured subnet contains IP address {address}",
                    detail=f"subnet {subnet.network}",
                )
            if not subnet.take(address):
                raise Forbidden("Address already in use")
            self._keep(uuid, network_id, address)

    def _keep(self, uuid: ZoneUUID, network_id: str, address: IPv4Address) -> None:
        self._learned.add(uuid)
        self._put(uuid, network_id, address)
        self._write_later()

    def release(self, uuid: ZoneUUID) -> None:
        """Give back all of a zone's; none is fine."""
        with self._lock:
            for network_id, address in self._leases.pop(uuid, []):
                del self._owners[network_id, address]
                if subnet := self._subnets.get(network_id):
                    subnet.give_back(address)
            self._learned.discard(uuid)
            self._write_later()

    def of(self, uuid: ZoneUUID) -> tuple[IPv4Address, ...]:
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
            document = {
                network_id: {"next": str(subnet.next_fresh), "leases": {}}
                for network_id, subnet in self._subnets.items()
            }
            for uuid, leases in self._leases.items():
                for network_id, address in leases:
                    if network_id in document:
                        document[network_id]["leases"][str(address)] = uuid  # type: ignore[index]
            replace_json(self._file, document)

    def close(self) -> None:
        """Write what is not yet written."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._write()


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
