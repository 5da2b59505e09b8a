"""What the networks of every host share: finding one by reference, and the ids that nics carry."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from ipaddress import IPv4Address

from dockerapi.errors import APIError, Forbidden, InvalidParameter, NotFound
from gateway.zones.host import Network
from gateway.zones.spec import Nic

MTU = "com.docker.network.driver.mtu"
_NO_START = "failed to set up container networking: "
DRIVERS = {"bridge": "bridge", "host": "host", "none": "null"}
"""Of the networks that are always there, by name."""


@lru_cache(maxsize=4096)
def uuid_of(network_id: str) -> str:
    """The network_uuid that nics carry."""
    digits = network_id[:32]
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def nic_tag_of(interface: str) -> str:
    """nictagadm's letters only."""
    return re.sub(r"[^A-Za-z0-9_]", "_", interface)


def address_of(nic: Nic) -> IPv4Address | None:
    """Its first IPv4 address: `ip`, else of `ips`, as vmadm shows zones that others made."""
    for text in (nic.ip, *(nic.ips or ())):
        try:
            return IPv4Address((text or "").partition("/")[0])
        except ValueError:  # dhcp, addrconf, IPv6
            continue
    return None


def find(networks: Sequence[Network], ref: str) -> Network:
    """By full id, name, or unique id prefix, in this order; InvalidParameter if it fits several."""
    for network in networks:
        if network.id == ref:
            return network
    for network in networks:
        if network.name == ref:
            return network
    found = [network for network in networks if ref and network.id.startswith(ref)]
    if len(found) > 1:
        raise InvalidParameter(
            f"network {ref} is ambiguous ({len(found)} matches found based on ID prefix)"
        )
    if not found:
        raise NotFound(f"network {ref} not found")
    return found[0]


@contextmanager
def for_start() -> Iterator[None]:
    """Inside, a zone gets its network for its start: errors say so, in dockerd's words."""
    try:
        yield
    except APIError as error:
        if not error.message.startswith(_NO_START):
            error.message = _NO_START + error.message
        raise


def check_driver(driver: str, known: Container[str]) -> None:
    """Forbidden, NotFound in dockerd's words for a driver that no network can be made with."""
    if driver in ("host", "null"):
        raise Forbidden(f'only one instance of "{driver}" network is allowed')
    if driver == "overlay":
        raise Forbidden(
            'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to'
            " connect this node to swarm and try again."
        )
    if driver not in known:
        raise NotFound(f'plugin "{driver}" not found')


def mtu_of(options: Mapping[str, str]) -> int:
    """What a network's options ask for, 0 = the host's choice.  InvalidParameter in dockerd's words for no number."""
    text = options.get(MTU, "0")
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise InvalidParameter(
            f'failed to parse {MTU} value: {text} (strconv.Atoi: parsing "{text}": invalid syntax)'
        )
    if int(text) < 0:
        raise InvalidParameter(f"invalid MTU number: {text}")
    return int(text)


def of_nic(networks: Sequence[Network], nic: Nic) -> Network | None:
    """The network a nic is on, by network_uuid, else by nic_tag."""
    for network in networks:
        if nic.network_uuid == uuid_of(network.id):
            return network
    if nic.network_uuid is not None:
        return None
    return next((n for n in networks if n.nic_tag and n.nic_tag == nic.nic_tag), None)
