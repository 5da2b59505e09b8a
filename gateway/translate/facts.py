"""What the translation is told besides the body: the image, the identity, the machine.

Values only; who gathers them is the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """An image as a container needs it.  `uuid` names the dataset to clone.

    `type` as in IMGAPI: docker, zone-dataset, lx-dataset, zvol; `manifest` is that of an image server's
    image (image_size, requirements, tags ...), {} for docker.
    """

    id: str
    uuid: str
    config: Mapping[str, Any] = field(default_factory=dict)
    os: str = "linux"
    type: str = "docker"
    manifest: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the container will be: 64 hex and a name without slash."""

    docker_id: str
    name: str

    @property
    def uuid(self) -> str:
        """The zone's UUID: the id's first 32 digits."""
        return zone_uuid(self.docker_id)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the machine and the settings add to every body.

    `hostname` is what a container shows that has none of its own: the machine's, or that of the container
    whose network it joins.  `limits` as /info names them (MemoryLimit ...): a limit that is False there only warns.
    `rlimits` (RLIMIT_NOFILE ... -> the highest, absent = any), `oom_score_adj`: the lowest; beyond these too.
    `memory_nodes` of NUMA as a list of numbers and ranges, "": not known.  `platform`: linux or smartos.  `interface`: name of a zone's first nic, "" = as its brand has it.
    """

    instance: str = "zonegate"
    hostname: str = "localhost"
    ncpu: int = 1
    memory_nodes: str = ""
    cgroup_version: str = "2"
    runtimes: tuple[str, ...] = ("crun",)
    default_runtime: str = "crun"
    dns: tuple[str, ...] = ()
    host_gateway: str = ""
    limits: Mapping[str, bool] = field(default_factory=dict)
    rlimits: Mapping[str, int] = field(default_factory=dict)
    oom_score_adj: int = -1000
    zone_defaults: Mapping[str, int | str] = field(default_factory=dict)
    platform: str = "linux"
    interface: str = ""
    storage_driver: str = ""
    """dockerd's name of it, "" = not known: it decides whether a root can be limited."""


def zone_uuid(docker_id: str) -> str:
    """UUID of the zone that a full container id names."""
    return dashed(docker_id[:32])


def dashed(text: str) -> str:
    """32 hex digits in UUID form."""
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:32]}"
