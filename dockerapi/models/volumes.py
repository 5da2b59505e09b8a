"""Bodies of the volume routes."""

from __future__ import annotations

from typing import Any

from dockerapi.models.base import Body


class VolumeCreate(Body):
    """POST /volumes/create; without a name it gets one of 64 hex digits."""

    name: str = ""
    driver: str = ""
    driver_opts: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    cluster_volume_spec: dict[str, Any] | None = None
