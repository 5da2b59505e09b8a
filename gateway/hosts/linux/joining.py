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
    has_names = parts.names.needs(wanted)
    if spec.nics == zone.spec.nics:
        return zone.ports
    ports = await parts.networks.rejoin(
        zone.uuid,
        spec.nics,
        metadata.runtime.published_ports,
        endpoint=spec.alias,
        endpoints=metadata.runtime.endpoints,
    )
    if has_names and zone.uuid not in parts.names:
        await parts.names.open(zone.uuid, parts.networks.netns_path(zone.uuid))
    elif not has_names:
        parts.names.close(zone.uuid)
    before = Joined(zone.spec, zone.metadata, parts.names.needs(zone))
    folder = parts.folders.zone(zone.uuid) / "etc"
    await asyncio.to_thread(etcfiles.amend, folder, before, Joined(spec, metadata, has_names))
    return ports
