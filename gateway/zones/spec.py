"""A zone as vmadm's JSON has it: `ZoneSpec` is the payload of `vmadm create`, and nothing else.

Unknown keys are refused here because vmadm itself only warns and drops them: a typo would be lost.
Property names, types, ranges: the property table of vmadm(8).  Which of them a brand has not is refused
too; what a brand is and can do says `brands`.
Units: memory, disks and tmpfs in MiB, quota in GiB, zlog_max_size in bytes, cpu_cap in percent of one CPU.
"""

from __future__ import annotations

import enum
import re
from typing import Annotated, Literal, NewType, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from gateway.zones import brands

ZoneUUID = NewType("ZoneUUID", str)
"""8-4-4-4-12 lower-case hex."""

_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
UUIDText = Annotated[str, StringConstraints(pattern=f"^{_UUID}$")]
NicTag = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_/]+$")]
MAC = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")]
Count = Annotated[int, Field(ge=0)]
Flat = str | int | float | bool
"""What vmadm takes as a value of tags and metadata: lists must be JSON text."""

TAG_INSTANCE = "zonegate"
"""Tag that says which gateway instance a zone belongs to."""
LABEL_PREFIX = "docker:label:"
"""Tags that hold docker labels start so."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Nic(_Strict):
    """One network interface with a static address.

    `ip` and `netmask`, or `ips` (CIDR), as vmadm itself writes it; `model` is for machines alone.
    """

    nic_tag: NicTag
    interface: str = "eth0"
    mac: MAC | None = None
    ip: str | None = None
    netmask: str | None = None
    gateway: str | None = None
    ips: tuple[str, ...] | None = None
    gateways: tuple[str, ...] | None = None
    primary: Literal[True] | None = None
    model: str | None = None
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


class Disk(_Strict):
    """A disk of a machine: of an image (`image_uuid`, `image_size`), or empty (`size`).

    Both sizes only with the machine's `flexible_disk_size`.
    """

    model: str
    boot: bool | None = None
    image_uuid: UUIDText | None = None
    image_size: Count | None = None
    size: Count | None = None


class ZoneSpec(_Strict):
    """The payload of `vmadm create`; see `metadata` for what internal_metadata holds.

    `docker` and `restart_init` follow from `docker:id` where they are not given: vmadm ties them together.
    `image_uuid` is the zone's root, "" for a machine: its disks have one.
    """

    uuid: UUIDText
    brand: Literal["lx", "joyent", "joyent-minimal", "bhyve", "kvm"]
    image_uuid: UUIDText = ""
    alias: str
    hostname: str | None = None
    dns_domain: str | None = None
    docker: Literal[True] | None = None
    kernel_version: str | None = None
    init_name: str | None = None
    autoboot: bool = False
    restart_init: bool | None = None
    firewall_enabled: bool | None = None
    max_physical_memory: Count | None = None
    max_locked_memory: Count | None = None
    max_swap: Annotated[int, Field(ge=256)] | None = None
    max_lwps: Count | None = None
    cpu_cap: Count | None = None
    cpu_shares: Annotated[int, Field(ge=0, le=65535)] | None = None
    zfs_io_priority: Annotated[int, Field(ge=0, le=16384)] | None = None
    quota: Count | None = None
    tmpfs: Count | None = None
    zlog_max_size: Count | None = None
    maintain_resolvers: bool | None = None
    resolvers: tuple[str, ...] | None = None
    ram: Count | None = None
    vcpus: Annotated[int, Field(ge=1)] | None = None
    bootrom: str | None = None
    cpu_type: str | None = None
    flexible_disk_size: Count | None = None
    disks: tuple[Disk, ...] | None = None
    nics: tuple[Nic, ...] = ()
    filesystems: tuple[Filesystem, ...] = ()
    tags: dict[str, Flat] = Field(default_factory=dict)
    customer_metadata: dict[str, Flat] | None = None
    internal_metadata: dict[str, Flat] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits_brand(self) -> Self:
        # vmadm puts docker:id into each docker zone, and there restart_init is always false.  A validator
        # before the fields would have to turn JSON's arrays into tuples; nobody else has this value yet.
        if self.docker is None and "docker:id" in self.internal_metadata:
            self.__dict__["docker"] = True
        if self.docker:
            self.__dict__["restart_init"] = False
        if wrong := sorted(key for key in brands.refused(self.brand) if self._is_set(key)):
            raise ValueError(f"brand {self.brand} has no {', '.join(wrong)}")
        is_machine = self.brand in brands.MACHINES
        if not is_machine and not self.image_uuid:
            raise ValueError(f"brand {self.brand} needs an image_uuid")
        for nic in self.nics:
            if (nic.model is not None) is not is_machine:
                word = "needs a" if is_machine else "has no"
                raise ValueError(f"a nic of brand {self.brand} {word} model")
        return self

    def _is_set(self, key: str) -> bool:
        """Whether the payload has it; asked at every creation, so without making the payload."""
        value = getattr(self, key)
        return value is not None and (key != "filesystems" or bool(value))

    @property
    def is_machine(self) -> bool:
        """A virtual machine of its own, not a zone of processes."""
        return self.brand in brands.MACHINES

    def payload(self) -> dict[str, object]:
        """The JSON object that vmadm receives: what is not set is left out."""
        found = self.model_dump(mode="json", exclude_none=True)
        lacking = [
            key for key in ("image_uuid", "filesystems") if self.is_machine and not found[key]
        ]
        return {key: value for key, value in found.items() if key not in lacking}


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
