"""Specs of every brand: what they have, what they refuse, and that JSON gives them back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from dockerapi.errors import InvalidParameter, NotSupported
from gateway.zones import brands
from gateway.zones.brands import Kind
from gateway.zones.spec import Disk, Nic, ZoneSpec
from tests.fakes.globalzone.properties import PROPERTIES, check_create

UUID = "11111111-2222-3333-4444-555555555555"
DISK = Disk(model="virtio", boot=True, image_uuid=UUID, image_size=10240)
NIC = Nic(nic_tag="admin", interface="net0", ip="10.0.0.2", netmask="255.0.0.0", primary=True)
EACH: dict[str, dict[str, Any]] = {
    "lx docker": {
        "brand": "lx",
        "image_uuid": UUID,
        "kernel_version": "4.10",
        "internal_metadata": {"docker:id": "ab" * 32},
    },
    "lx": {"brand": "lx", "image_uuid": UUID, "kernel_version": "4.10", "nics": (NIC,)},
    "joyent": {"brand": "joyent", "image_uuid": UUID, "nics": (NIC,), "max_swap": 256},
    "joyent-minimal": {"brand": "joyent-minimal", "image_uuid": UUID, "docker": True},
    "bhyve": {
        "brand": "bhyve",
        "ram": 1024,
        "vcpus": 2,
        "bootrom": "uefi",
        "flexible_disk_size": 20480,
        "disks": (DISK.model_copy(update={"size": 20480}),),
        "nics": (NIC.model_copy(update={"model": "virtio"}),),
        "customer_metadata": {"root_authorized_keys": "ssh-ed25519 AAAA"},
    },
    "kvm": {"brand": "kvm", "ram": 512, "disks": (DISK,), "cpu_type": "host"},
}


def made(**fields: Any) -> ZoneSpec:
    return ZoneSpec(uuid=UUID, alias="one", **fields)


@pytest.mark.parametrize("name", EACH)
def test_vmadm_takes_a_spec_of_each_brand(name: str) -> None:
    assert check_create(made(**EACH[name]).payload()) == []


@pytest.mark.parametrize("name", EACH)
def test_a_payload_read_again_is_the_same_spec(name: str) -> None:
    spec = made(**EACH[name])
    assert ZoneSpec.model_validate_json(json.dumps(spec.payload())) == spec


@pytest.mark.parametrize("brand", ["lx", "joyent", "joyent-minimal", "bhyve", "kvm"])
def test_a_brand_refuses_what_the_property_table_does(brand: str) -> None:
    fields = set(ZoneSpec.model_fields) & PROPERTIES.keys()
    refused = {n for n in fields if PROPERTIES[n]["create"] not in ("all", None)}
    refused = {n for n in refused if brand not in PROPERTIES[n]["create"]}
    assert refused == brands.refused(brand)


def test_every_field_is_a_property_of_vmadm() -> None:
    assert set(ZoneSpec.model_fields) <= PROPERTIES.keys()


@pytest.mark.parametrize(
    "fields",
    [
        {"brand": "joyent", "image_uuid": UUID, "docker": True},
        {"brand": "joyent", "image_uuid": UUID, "kernel_version": "4.10"},
        {"brand": "joyent", "image_uuid": UUID, "vcpus": 2},
        {"brand": "joyent"},
        {"brand": "bhyve", "tmpfs": 1},
        {"brand": "bhyve", "nics": (NIC,)},
        {"brand": "lx", "image_uuid": UUID, "nics": (NIC.model_copy(update={"model": "virtio"}),)},
        {"brand": "kvm", "bootrom": "uefi"},
        {"brand": "other", "image_uuid": UUID},
    ],
)
def test_what_a_brand_has_not_is_no_spec(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        made(**fields)


def test_a_docker_zone_has_docker_and_no_init_that_comes_back() -> None:
    spec = made(**EACH["lx docker"])
    assert (spec.docker, spec.restart_init) == (True, False)
    full = made(**EACH["lx"])
    assert (full.docker, full.restart_init) == (None, None)


@pytest.mark.parametrize(
    ("image", "asked", "required", "brand", "kind"),
    [
        ("docker", "", "", "lx", Kind.CONTAINER),
        ("lx-dataset", "", "", "lx", Kind.FULL),
        ("zone-dataset", "", "", "joyent", Kind.FULL),
        ("zone-dataset", "joyent-minimal", "", "joyent-minimal", Kind.CONTAINER),
        ("zvol", "", "", "bhyve", Kind.MACHINE),
        ("zvol", "", "kvm", "kvm", Kind.MACHINE),
        ("zvol", "bhyve", "kvm", "bhyve", Kind.MACHINE),
    ],
)
def test_an_image_says_what_zone_it_becomes(
    image: str, asked: str, required: str, brand: str, kind: Kind
) -> None:
    found = brands.choose(image, asked=asked, required=required)
    assert (found.name, found.kind) == (brand, kind)
    assert brands.kind_of(brand, docker=kind is Kind.CONTAINER) is kind
    assert brands.known(brand, docker=kind is Kind.CONTAINER) == found


def test_a_brand_that_does_not_run_the_image_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="runs as bhyve or kvm"):
        brands.choose("zvol", asked="lx")
    with pytest.raises(NotSupported, match="lxd"):
        brands.choose("lxd")


def test_the_global_zone_sees_into_zones_but_not_into_machines() -> None:
    brands.check_processes("joyent", "exec")
    with pytest.raises(NotSupported, match="exec is not possible in a zone of brand kvm"):
        brands.check_processes("kvm", "exec")
