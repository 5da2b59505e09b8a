"""A zone as vmadm's JSON has it: `ZoneSpec` is the payload of `vmadm create`, and nothing else.

Unknown keys are refused here because vmadm itself only warns and drops them: a typo would be lost.
Property names, types, ranges: the property table of vmadm(8), lx and joyent-minimal brands.
Units: memory and tmpfs in MiB, quota in GiB, zlog_max_size in bytes, cpu_cap in percent of one CPU.
"""

from __future__ import annotations

import enum
import re
from typing import Annotated, Literal, NewType

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

ZoneUUID = NewType("ZoneUUID", str)
"""8-4-4-4-12 lower-case hex."""

_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
UUIDText = Annotated[str, StringConstraints(pattern=f"^{_UUID}$")]
NicTag = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_/]+$")]
MAC = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")]
Flat = str | int | float | bool
"""What vmadm takes as a value of tags and metadata: lists must be JSON text."""

TAG_INSTANCE = "zonegate"
"""Tag that says which gateway instance a zone belongs to."""
LABEL_PREFIX = "docker:label:"
"""Tags that hold docker labels start so."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Nic(_Strict):
    """One network interface with a static address."""

    nic_tag: NicTag
    interface: str = "eth0"
    mac: MAC | None = None
    ip: str | None = None
    netmask: str | None = None
    gateway: str | None = None
    primary: Literal[True] | None = None
    vlan_id: Annotated[int, Field(ge=0, le=4095)] | None = None
    mtu: Annotated[int, Field(ge=576, le=9000)] | None = None
    network_uuid: UUIDText | None = None


class Filesystem(_Strict):
    """A loopback mount into the zone; `source` is a folder of the host or a volume's UUID.

    A UUID (or the word create-volume) asks the host for a new volume that dies with the zone and is
    filled from the image's content at `target`.
    """

    source: str
    target: str
    type: Literal["lofs"] = "lofs"
    options: tuple[str, ...] = ()


class ZoneSpec(_Strict):
    """The payload of `vmadm create` for a container; see `metadata` for what internal_metadata holds."""

    uuid: UUIDText
    brand: Literal["lx", "joyent-minimal"]
    image_uuid: UUIDText
    alias: str
    hostname: str | None = None
    dns_domain: str | None = None
    docker: Literal[True] = True
    kernel_version: str | None = None
    init_name: str | None = None
    autoboot: bool = False
    restart_init: Literal[False] = False
    firewall_enabled: bool | None = None
    max_physical_memory: Annotated[int, Field(ge=0)] | None = None
    max_locked_memory: Annotated[int, Field(ge=0)] | None = None
    max_swap: Annotated[int, Field(ge=256)] | None = None
    max_lwps: Annotated[int, Field(ge=0)] | None = None
    cpu_cap: Annotated[int, Field(ge=0)] | None = None
    cpu_shares: Annotated[int, Field(ge=0, le=65535)] | None = None
    zfs_io_priority: Annotated[int, Field(ge=0, le=16384)] | None = None
    quota: Annotated[int, Field(ge=0)] | None = None
    tmpfs: Annotated[int, Field(ge=0)] | None = None
    zlog_max_size: Annotated[int, Field(ge=0)] | None = None
    maintain_resolvers: bool | None = None
    resolvers: tuple[str, ...] | None = None
    nics: tuple[Nic, ...] = ()
    filesystems: tuple[Filesystem, ...] = ()
    tags: dict[str, Flat] = Field(default_factory=dict)
    internal_metadata: dict[str, Flat] = Field(default_factory=dict)

    def payload(self) -> dict[str, object]:
        """The JSON object that vmadm receives: what is not set is left out."""
        return self.model_dump(mode="json", exclude_none=True)


class ZoneState(enum.Enum):
    """vmadm's states, as far as a container passes through them."""

    STOPPED = "stopped"
    RUNNING = "running"
    PAUSED = "paused"  # no state of vmadm's: the Linux freezer's
    RESTARTING = "restarting"  # down, and the host's restart policy will boot it again
    STOPPING = "stopping"  # being deleted or halted


def is_uuid(text: str) -> bool:
    """Whether `text` is 8-4-4-4-12 lower-case hex; version bits are not looked at."""
    return re.fullmatch(_UUID, text) is not None
