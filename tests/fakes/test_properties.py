"""The strict check of vmadm payloads against the property table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.globalzone.properties import (
    BRANDS,
    PROPERTIES,
    check_create,
    check_update,
    create_problems,
    takes,
    whole_number,
)

UUID = "11111111-2222-3333-4444-555555555555"
LX: dict[str, Any] = {
    "brand": "lx",
    "image_uuid": UUID,
    "kernel_version": "4.10",
    "docker": True,
    "max_swap": 512,
    "nics": [{"nic_tag": "admin", "ip": "10.0.0.2", "netmask": "255.255.255.0", "primary": True}],
    "filesystems": [{"source": "/a", "target": "/b", "type": "lofs", "options": ["ro"]}],
    "tags": {"zonegate": "x", "n": 1, "b": False},
    "internal_metadata": {"docker:cmd": "[]"},
}
BHYVE: dict[str, Any] = {
    "brand": "bhyve",
    "vcpus": 2,
    "ram": 1024,
    "disks": [
        {"image_uuid": UUID, "image_size": 10240, "boot": True, "model": "virtio"},
        {"size": 1024, "model": "virtio"},
    ],
    "nics": [{"nic_tag": "admin", "ips": ["dhcp"], "model": "virtio"}],
}


def test_good_payloads_of_each_kind_have_no_problems() -> None:
    assert check_create(LX) == []
    assert check_create(BHYVE) == []
    assert check_create({"brand": "joyent", "image_uuid": UUID}) == []
    assert check_create({"brand": "kvm"}) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"typo": 1}, "typo: unknown on create"),
        ({"vcpus": 1}, "vcpus: unknown on create"),
        ({"add_nics": []}, "add_nics: unknown on create"),
        ({"state": "running"}, "state: unknown on create"),
        ({"max_swap": 128}, "max_swap: 128 is below 256"),
        ({"max_swap": "512"}, ""),
        ({"max_swap": " 0x200 "}, ""),
        ({"max_swap": "512m"}, "max_swap: '512m' is no whole number"),
        ({"max_swap": True}, "max_swap: True is no whole number"),
        ({"max_swap": 512.5}, "max_swap: 512.5 is no whole number"),
        ({"docker": "true"}, ""),
        ({"docker": 0}, "docker: 0 is no boolean"),
        ({"docker": "yes"}, "docker: 'yes' is no boolean"),
        ({"alias": 5}, "alias: 5 is no text"),
        ({"uuid": UUID.upper().replace("1", "A")}, "uuid:"),
        ({"tags": {"a": ["x"]}}, "tags: the value of a"),
        ({"tags": {"a": None}}, "tags: the value of a"),
        (
            {"internal_metadata": {"docker:cmd": ["sh"]}},
            "internal_metadata: the value of docker:cmd",
        ),
        ({"limit_priv": ["a,b"]}, "limit_priv: element"),
        ({"resolvers": "8.8.8.8,8.8.4.4"}, ""),
        ({"resolvers": ["router"]}, "resolvers: 'router' is no address"),
        ({"zfs_root_recsize": 3000}, "zfs_root_recsize: 3000 is no power of two"),
        ({"zfs_root_recsize": 0}, ""),
        ({"zfs_root_compression": "best"}, "zfs_root_compression: 'best' is none of"),
        ({"internal_metadata_namespaces": ["a:b"]}, "internal_metadata_namespaces: 'a:b'"),
        ({"nics": {}}, "nics: {} is no list of objects"),
        ({"nics": [{"ip": "dhcp"}]}, "nics.0.nic_tag: required"),
        ({"nics": [{"nic_tag": "a-b"}]}, "nics.0.nic_tag: 'a-b'"),
        ({"nics": [{"nic_tag": "a", "ip": "10.0.0.2"}]}, "nics.0.netmask: needed with ip"),
        ({"nics": [{"nic_tag": "a", "ips": ["10.0.0.2"]}]}, "nics.0.ips: '10.0.0.2' has no prefix"),
        ({"nics": [{"nic_tag": "a", "model": "virtio"}]}, "nics.0.model: unknown"),
        ({"nics": [{"nic_tag": "a", "vlan_id": 4096}]}, "nics.0.vlan_id: 4096 is above 4095"),
        ({"nics": [{"nic_tag": "a", "mac": "x"}]}, "nics.0.mac: 'x' is no MAC"),
        ({"nics": [{"nic_tag": "a", "primary": True}] * 2}, "nics: more than one primary"),
        ({"filesystems": [{"source": "/a", "subdir": "x"}]}, "filesystems.0.subdir: unknown"),
        ({"routes": {"10.0.0.0/24": "nics[0]"}}, ""),
        ({"routes": {"fd00::/64": "10.0.0.1"}}, "routes.fd00::/64"),
    ],
    ids=str,
)
def test_what_vmadm_refuses_of_an_lx_zone_is_named(change: dict[str, Any], words: str) -> None:
    problems = check_create(LX | change)
    if words:
        assert len(problems) == 1
        assert problems[0].startswith(words)
    else:
        assert problems == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"filesystems": []}, "filesystems: unknown"),
        ({"docker": True}, "docker: unknown"),
        ({"kernel_version": "4"}, "kernel_version: unknown"),
        ({"tmpfs": 1}, "tmpfs: unknown"),
        ({"nics": [{"nic_tag": "a"}]}, "nics.0.model: required without nic_driver"),
        ({"disks": [{"model": "virtio"}]}, "disks.0.size: required without image_uuid"),
        ({"disks": [{"size": 1}]}, "disks.0.model: required without disk_driver"),
        ({"disks": [{"size": 1, "model": "ide"}]}, "disks.0.model: 'ide' is none of"),
        (
            {"disks": [{"size": 1, "image_uuid": UUID, "model": "virtio"}]},
            "disks.0.size: not with image_uuid",
        ),
        (
            {"disks": [{"size": 1, "model": "virtio", "boot": True}] * 2},
            "disks: more than one boot disk",
        ),
    ],
    ids=str,
)
def test_what_vmadm_refuses_of_a_bhyve_machine_is_named(change: dict[str, Any], words: str) -> None:
    problems = check_create(BHYVE | change)
    assert len(problems) == 1
    assert problems[0].startswith(words)


def test_what_a_brand_needs_must_be_there() -> None:
    assert check_create({"image_uuid": UUID}) == ["brand: required"]
    assert check_create({"brand": "lxc"}) == ["brand: no such brand: lxc"]
    kinds = {problem.path: problem.kind for problem in create_problems({"brand": "lx"})}
    assert kinds == {"image_uuid": "missing_properties", "kernel_version": "missing_properties"}


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({"alias": "x", "quota": "5", "set_tags": {"a": 1}, "remove_tags": ["b"]}, ""),
        ({"add_nics": [{"nic_tag": "admin", "ip": "dhcp"}]}, ""),
        ({"add_nics": [{"ip": "dhcp"}]}, "add_nics.0.nic_tag: required"),
        ({"update_nics": [{"mac": "2:0:0:0:0:1", "vlan_id": 7}]}, ""),
        ({"update_nics": [{"vlan_id": 7}]}, "update_nics.0.mac: required"),
        ({"remove_filesystems": ["/a"]}, ""),
        ({"tags": {}}, "tags: unknown on update"),
        ({"image_uuid": UUID}, "image_uuid: unknown on update"),
        ({"set_internal_metadata": {"docker:cmd": []}}, "set_internal_metadata: the value of"),
        ({"add_disks": []}, "add_disks: unknown on update"),
    ],
    ids=str,
)
def test_what_vmadm_refuses_of_an_update_is_named(payload: dict[str, Any], words: str) -> None:
    problems = check_update(payload, "lx")
    assert problems == [] if not words else problems[0].startswith(words)


def test_every_row_of_the_table_has_a_type_that_is_checked() -> None:
    refused: dict[str, Any] = {
        "uuid": "x",
        "list-of-strings": [None],
        "flat-object": "x",
        "object-array": "x",
        "zpool": "",
    }
    for name, row in PROPERTIES.items():
        for brand in BRANDS:
            if takes(row, brand, "create") and name != "brand":
                bad = refused.get(row["type"], {})
                found = [p for p in check_create({"brand": brand, name: bad}) if name in p]
                assert found, (name, brand)


def test_the_hand_written_specs_are_good() -> None:
    folder = Path(__file__).parents[1] / "gateway/payloads/handwritten"
    paths = sorted(folder.glob("*.json"))
    assert len(paths) == 3
    for path in paths:
        assert check_create(json.loads(path.read_text())) == [], path.name


@given(st.integers(min_value=-(2**53), max_value=2**53))
def test_a_number_and_its_text_mean_the_same(number: int) -> None:
    assert whole_number(number) == number
    assert whole_number(f" {number} ") == number


@given(st.recursive(st.none() | st.booleans() | st.text() | st.integers() | st.floats(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))  # fmt: skip
def test_no_value_of_any_kind_breaks_the_check(value: Any) -> None:
    for name in (*PROPERTIES, "nonsense"):
        check_create({"brand": "lx", name: value})
        check_create({"brand": "bhyve", name: value})
    for key in ("add_nics", "update_filesystems", "remove_tags", "set_tags"):
        check_update({key: value}, "lx")
