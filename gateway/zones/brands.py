"""What each brand of zone is: which properties it has, which images it boots, what docker can do in it.  Pure.

image type      brand                              what it is
docker          lx, docker: true                   a container: dockerinit runs its command
zone-dataset    joyent-minimal, docker: true       the same with SmartOS programs (if asked for)
zone-dataset    joyent                             a full zone: it boots its own init and services
lx-dataset      lx                                 a full zone of a Linux distribution
zvol            bhyve, or kvm (if asked for)       a machine: its own kernel on virtual disks
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Mapping
from dataclasses import dataclass

from dockerapi.errors import InvalidParameter, NotSupported

MACHINES = frozenset({"bhyve", "kvm"})
BRAND_LABEL = "com.zonegate.brand"
"""Label by which a client chooses among the brands that an image could be."""

_OF_OS_ZONES = frozenset(
    {
        "dns_domain",
        "docker",
        "filesystems",
        "init_name",
        "maintain_resolvers",
        "restart_init",
        "tmpfs",
        "zlog_max_size",
    }
)
_OF_MACHINES = frozenset({"bootrom", "cpu_type", "disks", "flexible_disk_size", "vcpus"})
_ONLY_OF = {
    "kernel_version": {"lx"},
    "docker": {"lx", "joyent-minimal"},
    "bootrom": {"bhyve"},
    "flexible_disk_size": {"bhyve"},
    "cpu_type": {"kvm"},
}


class Kind(enum.Enum):
    """How a zone relates to docker."""

    CONTAINER = "container"
    FULL = "full zone"
    MACHINE = "machine"


@dataclass(frozen=True, slots=True)
class Brand:
    """A brand for one kind of image.  `interface`: what names of nics begin with there."""

    name: str
    kind: Kind
    interface: str = "net"
    init_name: str = ""
    disk_models: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """For messages: `a full zone of brand joyent`."""
        return f"a {self.kind.value} of brand {self.name}"


_LX = Brand("lx", Kind.CONTAINER, "eth", "/native/usr/vm/sbin/dockerinit")
_OF_TYPE: Mapping[str, tuple[Brand, ...]] = {
    "docker": (_LX,),
    "lx-dataset": (Brand("lx", Kind.FULL, "eth"),),
    "zone-dataset": (
        Brand("joyent", Kind.FULL),
        Brand("joyent-minimal", Kind.CONTAINER, "net", "/usr/vm/sbin/dockerinit"),
    ),
    "zvol": (
        Brand("bhyve", Kind.MACHINE, disk_models=("virtio", "ahci", "nvme")),
        Brand("kvm", Kind.MACHINE, disk_models=("virtio", "scsi", "ide")),
    ),
}
IMAGE_TYPES = tuple(_OF_TYPE)
"""Types of images that zones are made of here; IMGAPI knows further ones (lxd, other)."""


def choose(image_type: str, *, asked: str = "", required: str = "") -> Brand:
    """The brand of a zone of an image of this type.

    `asked` by the client, `required` by the image's manifest.  NotSupported for a type that no zone is made
    of, InvalidParameter for a brand that does not run it.
    """
    brands = _OF_TYPE.get(image_type)
    if brands is None:
        raise NotSupported(f"images of type {image_type} are not supported by zonegate")
    wanted = asked or required
    for brand in brands:
        if not wanted or brand.name == wanted:
            return brand
    names = " or ".join(brand.name for brand in brands)
    source = f"the label {BRAND_LABEL}" if asked else "the image"
    raise InvalidParameter(
        f"{source} asks for brand {wanted}: an image of type {image_type} runs as {names}"
    )


@functools.cache
def refused(brand: str) -> frozenset[str]:
    """Properties of `ZoneSpec` that vmadm refuses for this brand."""
    others = _OF_OS_ZONES if brand in MACHINES else _OF_MACHINES
    return others | {key for key, brands in _ONLY_OF.items() if brand not in brands}


def kind_of(brand: str, *, docker: bool) -> Kind:
    """What a zone is that is there already."""
    if brand in MACHINES:
        return Kind.MACHINE
    return Kind.CONTAINER if docker else Kind.FULL


def known(name: str, *, docker: bool) -> Brand:
    """The brand of a zone that is there already."""
    kind = kind_of(name, docker=docker)
    every = (brand for brands in _OF_TYPE.values() for brand in brands)
    return next((b for b in every if (b.name, b.kind) == (name, kind)), Brand(name, kind))


def check_processes(brand: str, what: str) -> None:
    """NotSupported where the global zone sees no processes and files of the guest: exec, top, cp."""
    if brand in MACHINES:
        raise NotSupported(
            f"{what} is not possible in a zone of brand {brand}: it is a machine with a kernel of its own, "
            "reached over its network or its console"
        )
