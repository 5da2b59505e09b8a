"""A running zone joins and leaves networks: its nics, its ports, its name server, its /etc/hosts and resolv.conf.

A start needs none of this: boot.py makes everything anew.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from gateway.hosts.linux import etcfiles
from gateway.hosts.linux.boot import Parts
from gateway.hosts.linux.etcfiles import Joined
from gateway.zones.host import Zone
from gateway.zones.metadata import DockerMetadata, PublishedPort
from gateway.zones.spec import ZoneSpec


async def rejoin(
    parts: Parts, zone: Zone, spec: ZoneSpec, metadata: DockerMetadata
) -> tuple[PublishedPort, ...]:
    """The zone has `spec`'s nics from now on; its ports as they are taken.  After an error it is as it was."""
    wanted = replace(zone, spec=spec, metadata=metadata)
    if spec.nics == zone.spec.nics:
        return zone.ports
    ports = await _plugged(parts, wanted)
    try:
        await _named(parts, zone, wanted)
    except BaseException:
        await _plugged(parts, zone)
        raise
    return ports


async def _plugged(parts: Parts, zone: Zone) -> tuple[PublishedPort, ...]:
    runtime = zone.metadata.runtime
    return await parts.networks.rejoin(
        zone.uuid,
        zone.spec.nics,
        runtime.published_ports,
        endpoint=zone.spec.alias,
        endpoints=runtime.endpoints,
    )


async def _named(parts: Parts, before: Zone, after: Zone) -> None:
    """Its name server and its files are those of its networks."""
    has_names = parts.names.needs(after)
    if has_names and after.uuid not in parts.names:
        await parts.names.open(after.uuid, parts.networks.netns_path(after.uuid))
    elif not has_names:
        parts.names.close(after.uuid)
    folder = parts.folders.zone(after.uuid) / "etc"
    was = Joined(before.spec, before.metadata, parts.names.needs(before))
    now = Joined(after.spec, after.metadata, has_names)
    await asyncio.to_thread(etcfiles.amend, folder, was, now)
