"""Whether images' datasets are in the pool, on their origins, with the snapshot that zones are cloned from.  Reads only."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.hosts.smartos import imgadm
from gateway.hosts.smartos.checkup import global_zone
from gateway.hosts.zfs import ZFS
from gateway.settings import Settings
from imgsources.oci import ImageUUID


async def missing(settings: Settings, wanted: Mapping[ImageUUID, ImageUUID | None]) -> list[str]:
    """A line for each of these datasets (with their origins) that is not as it should be."""
    zpool = settings.smartos.zpool
    gz = await global_zone(settings)
    try:
        rows = await ZFS(gz).list(zpool, ("origin",), depth=1)
        known = await imgadm.known(gz, settings.smartos.root, zpool)
    finally:
        await gz.close()
    origins = {row[0].removeprefix(f"{zpool}/"): row[1] for row in rows}
    lines: list[str] = []
    for uuid, origin in wanted.items():
        expected = "-" if origin is None else f"{zpool}/{origin}@final"
        if uuid not in origins:
            lines.append(f"dataset {zpool}/{uuid}: missing")
        elif origins[uuid] != expected:
            lines.append(f"dataset {zpool}/{uuid}: it stands on {origins[uuid]}, not on {expected}")
        elif uuid not in known:
            lines.append(f"dataset {zpool}/{uuid}: imgadm does not know it")
    return lines
