"""Legacy links of a zone that starts or gets a further process: lines of its /etc/hosts, and variables.

What a link says is zones.links'; here the zones are looked up.  /etc/hosts is written at the start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dockerapi.errors import APIError, NotFound
from gateway.zones import links, members
from gateway.zones.host import Zone
from gateway.zones.metadata import Link

Peer = Callable[[str], Zone]
"""A zone by "zone:UUID"; NotFound if there is none."""


def with_links(zone: Zone, peer: Peer, *, must_run: bool = True) -> Zone:
    """The zone with what its links add to its hosts entries and its environment.

    APIError, in dockerd's words, if one that it links to does not run, or elsewhere, and `must_run`.
    """
    if not zone.metadata.runtime.links:
        return zone
    found = links.linked(zone, lambda docker_id: _find(peer, docker_id))
    if must_run and (why := links.refusal(zone, found)):
        raise APIError(why)
    data = zone.metadata
    lines = (*data.runtime.hosts_entries, *links.hosts(zone, found))
    told = data.model_copy(
        update={
            "env": (*links.environment(zone, found), *data.env),
            "runtime": data.runtime.model_copy(update={"hosts_entries": lines}),
        }
    )
    return replace(zone, metadata=told)


def _find(peer: Peer, docker_id: str) -> Zone | None:
    # The beginning of a container's id is its zone's UUID, as that of a network's is its network_uuid.
    try:
        return peer(f"zone:{members.network_uuid(docker_id)}")
    except NotFound:
        return None


def unlink(hosts: Path, zone: Zone, peer: Peer, kept: tuple[Link, ...]) -> None:
    """Only these links are left of a zone that runs: lines of the others go from its /etc/hosts, where it lies."""
    found = links.linked(zone, lambda docker_id: _find(peer, docker_id))
    # By address and alias: the rest of a line may be names that the other does not have any more.
    gone = [
        line.split()[:2] for line in links.hosts(zone, [x for x in found if x.link not in kept])
    ]
    if gone:
        lines = [line for line in hosts.read_text().splitlines() if line.split()[:2] not in gone]
        hosts.write_text("".join(f"{line}\n" for line in lines))
