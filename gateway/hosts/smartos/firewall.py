"""Firewall rules of our zones, by fwadm: which rules there are to be (pure), and keeping them so.

A zone with `firewall_enabled` lets nobody in until a rule says so.  These rules are ours:

    FROM tag "zonegate:network:ID" TO tag "zonegate:network:ID" ALLOW tcp PORT all     members of a network
    FROM any TO tag "zonegate:network:ID" ALLOW icmp6 (TYPE 135 AND TYPE 136)          their neighbour discovery
    FROM any TO vm UUID ALLOW tcp (PORT 80 AND PORT 443)                               ports published everywhere
    FROM (ip A OR ip B) TO vm UUID ALLOW tcp PORT 80                                   ports published at one address

Who published at 127.0.0.1, or at another address of the gateway, asked for that address alone: nobody but the
gateway's proxy gets to the zone, from the addresses that its connections come from.

One rule has one protocol, so a network has several.  fwadm turns tags into the addresses of the zones that carry
them and follows the tags as they change; a list of zones would end at 24 targets.  A rule's uuid comes from its
text: adding it twice is adding it once, and what an earlier life of the gateway added is found again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid as uuids
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from typing import TypeVar

from dockerapi.errors import CommandFailed
from gateway.hosts.smartos.globalzone import GlobalZone
from gateway.zones.metadata import PublishedPort
from gateway.zones.spec import Nic, ZoneUUID

log = logging.getLogger(__name__)
T = TypeVar("T")

_TIMEOUT_S = 120.0
_MAX_PORTS, _MAX_TARGETS = 8, 24
"""fwadm refuses a rule with more; targets are those of one side."""
_OWNER = "00000000-0000-0000-0000-000000000000"
"""What vmadm gives a zone without an owner.  With it a rule touches no other owner's zones."""
_NAMESPACE = uuids.UUID("8c3b6d0c-3f5e-5d0e-9d7a-6a1f0f7a9b52")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of fwadm's language, with the uuid that follows from it."""

    uuid: str
    text: str
    description: str


def rule(instance: str, text: str, description: str) -> Rule:
    """With its uuid: the same text of the same instance has the same."""
    return Rule(str(uuids.uuid5(_NAMESPACE, f"{instance}/{text}")), text, description)


def network_tag(network_uuid: str) -> str:
    """The tag that a zone on a network carries, so that the network's rules apply to it."""
    return f"zonegate:network:{network_uuid}"


def network_tags(nics: Iterable[Nic]) -> dict[str, bool]:
    """Tags of a zone with these nics."""
    return {network_tag(nic.network_uuid): True for nic in nics if nic.network_uuid}


def network_rules(instance: str, network_uuid: str) -> tuple[Rule, ...]:
    """Members of a network reach each other by all of tcp and udp, and ping; and are asked for their IPv6 addresses.

    Platforms of before 2017 know no `TYPE all`; answers to a ping come back by state.  Neighbours are asked for and
    answer by link-local addresses, which are no tag's.
    """
    tag = f'tag "{network_tag(network_uuid)}"'
    members = ("tcp PORT all", "udp PORT all", "icmp TYPE 8 CODE 0", "icmp6 TYPE 128 CODE 0")
    texts = [f"FROM {tag} TO {tag} ALLOW {what}" for what in members]
    texts.append(f"FROM any TO {tag} ALLOW icmp6 (TYPE 135 AND TYPE 136)")
    return tuple(rule(instance, text, f"zonegate: network {network_uuid}") for text in texts)


def is_everywhere(port: PublishedPort) -> bool:
    """Whether it is published at every address of the gateway, not at a particular one."""
    return not port.host_ip or ip_address(port.host_ip).is_unspecified


def port_rules(
    instance: str,
    zone: ZoneUUID,
    ports: Sequence[PublishedPort],
    relays: Iterable[IPv4Address],
) -> tuple[Rule, ...]:
    """Published everywhere: everybody reaches it, at the zone's own address as well.  Else only the `relays`.

    `relays`: where connections of the gateway's proxy come from.
    """
    rules: list[Rule] = []
    for protocol in ("tcp", "udp"):
        some = [port for port in ports if port.protocol == protocol]
        everybodys = {port.zone_port for port in some if is_everywhere(port)}
        relayed = {port.zone_port for port in some} - everybodys
        sides = [("any", everybodys), *((side, relayed) for side in _sides(relays))]
        for side, numbers in sides:
            for listed in _listed(numbers):
                text = f"FROM {side} TO vm {zone} ALLOW {protocol} {listed}"
                rules.append(rule(instance, text, f"zonegate: ports of {zone}"))
    return tuple(rules)


def _sides(addresses: Iterable[IPv4Address]) -> Iterator[str]:
    """As sources of a rule, in fwadm's order."""
    for some in _parts(sorted({f"ip {address}" for address in addresses}), _MAX_TARGETS):
        yield some[0] if len(some) == 1 else f"({' OR '.join(some)})"


def _listed(numbers: Iterable[int]) -> Iterator[str]:
    """As ports of a rule."""
    for some in _parts(sorted(numbers), _MAX_PORTS):
        words = [f"PORT {number}" for number in some]
        yield words[0] if len(words) == 1 else f"({' AND '.join(words)})"


def _parts(whole: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(whole), size):
        yield whole[start : start + size]


def payload(instance: str, rules: Iterable[Rule]) -> bytes:
    """What `fwadm add` reads."""
    return json.dumps(
        {
            "rules": [
                {
                    "uuid": one.uuid,
                    "rule": one.text,
                    "enabled": True,
                    "owner_uuid": _OWNER,
                    "created_by": _creator(instance),
                    "description": one.description,
                }
                for one in rules
            ]
        }
    ).encode()


def _creator(instance: str) -> str:
    return f"zonegate:{instance}"


class Firewall:
    """The rules of one instance; those of others are left alone.

    What is there is remembered, so that nothing is run to find that nothing is to be done.
    """

    def __init__(self, gz: GlobalZone, instance: str) -> None:
        self._gz = gz
        self._instance = instance
        self._there: dict[str, str] = {}
        """Texts of the rules, by uuid."""
        self._is_sure = True
        self._lock = asyncio.Lock()

    async def load(self) -> None:
        """Find ours again.  CommandFailed."""
        async with self._lock:
            self._there = await self._list()

    async def ensure(self, rules: Sequence[Rule]) -> None:
        """They hold on return.  CommandFailed with fwadm's words."""
        async with self._lock:
            there = await self._known()
            missing = [one for one in rules if one.uuid not in there]
            if missing:
                # It may add some and fail, or be killed for taking too long.
                self._is_sure = False
                await self._run("add", stdin=payload(self._instance, missing))
                there.update((one.uuid, one.text) for one in missing)
                self._is_sure = True

    async def remove(self, rules: Iterable[Rule]) -> None:
        """They are gone on return; those that were not there do not matter."""
        uuids = {one.uuid for one in rules}
        async with self._lock:
            await self._remove(uuids & (await self._known()).keys())

    async def remove_of(self, zone: ZoneUUID) -> None:
        """Nobody gets in by rules of ours that name the zone, whichever addresses they were made for."""
        async with self._lock:
            await self._remove(_naming(zone, await self._known()))

    async def retain(self, rules: Iterable[Rule]) -> None:
        """All other rules of this instance go: of zones and networks that are no more."""
        wanted = {one.uuid for one in rules}
        async with self._lock:
            stale = (await self._known()).keys() - wanted
            if stale:
                log.info("%d firewall rules that nobody needs any more are removed", len(stale))
                await self._remove(stale)

    async def _remove(self, gone: set[str]) -> None:
        if not gone:
            return
        there, self._is_sure = self._there, False
        try:
            await self._run("delete", *sorted(gone))
        except CommandFailed:
            # One that somebody else deleted fails them all.
            left = gone & (await self._list()).keys()
            if left == gone:
                raise
            if left:
                await self._run("delete", *sorted(left))
        self._there = {uuid: text for uuid, text in there.items() if uuid not in gone}
        self._is_sure = True

    async def _known(self) -> dict[str, str]:
        """Asked again after something went wrong."""
        if not self._is_sure:
            self._there = await self._list()
            self._is_sure = True
        return self._there

    async def _list(self) -> dict[str, str]:
        text = await self._run("list", "-j", "-o", "uuid,created_by,rule")
        creator = _creator(self._instance)
        return {
            one["uuid"]: one.get("rule", "")
            for one in json.loads(text or b"[]")
            if one.get("created_by") == creator
        }

    async def _run(self, *arguments: str, stdin: bytes = b"") -> bytes:
        return await self._gz.run(["fwadm", *arguments], timeout_s=_TIMEOUT_S, stdin=stdin)


def _naming(zone: ZoneUUID, rules: Mapping[str, str]) -> set[str]:
    """UUIDs of rules, given by their texts, to one zone."""
    return {uuid for uuid, text in rules.items() if f" TO vm {zone} " in text}
