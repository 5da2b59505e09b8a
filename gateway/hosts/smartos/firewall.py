"""Firewall rules of our zones, by fwadm: which rules there are to be (pure), and keeping them so.

A zone with `firewall_enabled` lets nobody in until a rule says so.  Two kinds of rules are ours:

    FROM tag "zonegate:network:ID" TO tag "zonegate:network:ID" ALLOW tcp PORT all     members of a network
    FROM any TO vm UUID ALLOW tcp (PORT 80 AND PORT 443)                               published ports

One rule has one protocol, so a network has three.  fwadm turns tags into the addresses of the zones that carry
them and follows the tags as they change; a list of zones would end at 24 targets.  A rule's uuid comes from its
text: adding it twice is adding it once, and what an earlier life of the gateway added is found again.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import uuid as uuids
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dockerapi.errors import CommandFailed
from gateway.hosts.smartos.globalzone import GlobalZone
from gateway.zones.metadata import PublishedPort
from gateway.zones.spec import Nic, ZoneUUID

log = logging.getLogger(__name__)

_TIMEOUT_S = 120.0
_MAX_PORTS = 8
"""fwadm refuses a rule with more."""
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
    """Members of a network reach each other by all of tcp and udp, and ping.

    Platforms of before 2017 know no `TYPE all`; answers to a ping come back by state.
    """
    tag = f'tag "{network_tag(network_uuid)}"'
    return tuple(
        rule(instance, f"FROM {tag} TO {tag} ALLOW {what}", f"zonegate: network {network_uuid}")
        for what in ("tcp PORT all", "udp PORT all", "icmp TYPE 8 CODE 0")
    )


def port_rules(instance: str, zone: ZoneUUID, ports: Sequence[PublishedPort]) -> tuple[Rule, ...]:
    """Everybody reaches a zone's published ports: by the gateway's proxy, or at the zone's own address."""
    rules: list[Rule] = []
    for protocol in ("tcp", "udp"):
        numbers = sorted({port.zone_port for port in ports if port.protocol == protocol})
        for start in range(0, len(numbers), _MAX_PORTS):
            some = [f"PORT {number}" for number in numbers[start : start + _MAX_PORTS]]
            listed = some[0] if len(some) == 1 else f"({' AND '.join(some)})"
            text = f"FROM any TO vm {zone} ALLOW {protocol} {listed}"
            rules.append(rule(instance, text, f"zonegate: ports of {zone}"))
    return tuple(rules)


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
        self._there: set[str] = set()
        self._lock = asyncio.Lock()

    async def load(self) -> None:
        """Find ours again.  CommandFailed."""
        async with self._lock:
            self._there = await self._list()

    async def ensure(self, rules: Sequence[Rule]) -> None:
        """They hold on return.  CommandFailed with fwadm's words."""
        async with self._lock:
            missing = [one for one in rules if one.uuid not in self._there]
            if missing:
                try:
                    await self._run("add", stdin=payload(self._instance, missing))
                except CommandFailed:
                    # It may have added some, and be killed for taking too long.
                    with contextlib.suppress(CommandFailed):
                        self._there = await self._list()
                    raise
                self._there.update(one.uuid for one in missing)

    async def remove(self, rules: Iterable[Rule]) -> None:
        """They are gone on return; those that were not there do not matter."""
        await self._remove({one.uuid for one in rules})

    async def retain(self, rules: Iterable[Rule]) -> None:
        """All other rules of this instance go: of zones and networks that are no more."""
        stale = self._there - {one.uuid for one in rules}
        if stale:
            log.info("%d firewall rules of zones that are gone or stopped are removed", len(stale))
            await self._remove(stale)

    async def _remove(self, found: set[str]) -> None:
        async with self._lock:
            gone = found & self._there
            if not gone:
                return
            try:
                await self._run("delete", *sorted(gone))
            except CommandFailed:
                # One that somebody else deleted fails them all.
                left = gone & await self._list()
                if left == gone:
                    raise
                if left:
                    await self._run("delete", *sorted(left))
            self._there -= gone

    async def _list(self) -> set[str]:
        text = await self._run("list", "-j", "-o", "uuid,created_by")
        creator = _creator(self._instance)
        return {
            one["uuid"] for one in json.loads(text or b"[]") if one.get("created_by") == creator
        }

    async def _run(self, *arguments: str, stdin: bytes = b"") -> bytes:
        return await self._gz.run(["fwadm", *arguments], timeout_s=_TIMEOUT_S, stdin=stdin)
