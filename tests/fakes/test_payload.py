"""What creation and updates make of a machine's object, and how changes are told and found."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.globalzone.call import Failed
from tests.fakes.globalzone.objects import changes, matches
from tests.fakes.globalzone.payload import prepare
from tests.fakes.globalzone.update import applied

UUID = "11111111-2222-4333-8444-555555555555"
SPECS = Path(__file__).parents[1] / "gateway/payloads/handwritten"
LX: dict[str, Any] = {"brand": "lx", "image_uuid": UUID, "kernel_version": "4.10"}


def made(payload: dict[str, Any]) -> dict[str, Any]:
    result = prepare(payload, uuid=UUID)
    assert result.problems == []
    return result.vm


def test_the_hand_written_busybox_gets_what_vmadm_adds() -> None:
    vm = made(json.loads((SPECS / "docker-zone.json").read_text()))
    assert vm["tmpfs"] == 256  # asked for 1024: lowered to the memory
    assert vm["ram"] == vm["max_shm_memory"] == 256
    assert vm["max_sem_ids"] == vm["max_shm_ids"] == vm["max_msg_ids"] == 4096
    assert vm["limit_priv"] == ["default"]
    assert vm["owner_uuid"] == vm["billing_id"] == "00000000-0000-0000-0000-000000000000"
    assert vm["zpool"] == "zones"
    assert vm["zonename"] == UUID
    assert vm["autoboot"] is True
    assert vm["restart_init"] is False
    assert vm["init_name"] == "/native/usr/vm/sbin/dockerinit"
    assert vm["internal_metadata_namespaces"] == ["docker"]
    assert vm["internal_metadata"]["docker:id"][:32] == UUID.replace("-", "")
    assert len(vm["internal_metadata"]["docker:id"]) == 64
    nic = vm["nics"][0]
    assert nic["ips"] == ["10.110.110.146/24"]
    assert nic["gateways"] == ["10.110.110.1"]
    assert (nic["ip"], nic["netmask"]) == ("10.110.110.146", "255.255.255.0")
    assert nic["mac"]


def test_a_full_zone_gets_no_dockers_defaults() -> None:
    vm = made(json.loads((SPECS / "lx-zone.json").read_text()))
    assert vm["restart_init"] is True
    assert "init_name" not in vm
    assert vm["internal_metadata"] == {}
    assert vm["nics"][0]["interface"] == "eth0"
    assert vm["nics"][0]["primary"] is True
    assert (
        made(json.loads((SPECS / "joyent-zone.json").read_text()))["nics"][0]["interface"] == "net0"
    )


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        ({}, {"max_physical_memory": 256, "max_swap": 256, "tmpfs": 256, "max_locked_memory": 256}),
        ({"ram": 512}, {"max_physical_memory": 512, "max_swap": 512, "ram": 512}),
        ({"max_physical_memory": 1024}, {"max_swap": 1024, "ram": 1024, "tmpfs": 1024}),
        ({"max_physical_memory": 1024, "max_swap": 300}, {"max_swap": 1024}),
        ({"max_physical_memory": 512, "max_locked_memory": 1024}, {"max_locked_memory": 512}),
        ({"max_physical_memory": "1024", "tmpfs": 0}, {"max_physical_memory": 1024, "tmpfs": 0}),
        ({"cpu_shares": 100000}, {"cpu_shares": 65535}),
        ({"brand": "bhyve", "ram": 1024}, {"max_physical_memory": 2304, "max_locked_memory": 2304}),
        ({"brand": "bhyve", "ram": 1024, "max_physical_memory": 1}, {"max_physical_memory": 1280}),
        ({"firewall_enabled": "true", "docker": "1"}, {"firewall_enabled": True, "docker": True}),
    ],
    ids=str,
)
def test_memory_and_types_follow_the_tables_rules(
    asked: dict[str, Any], got: dict[str, Any]
) -> None:
    payload = asked if asked.get("brand") == "bhyve" else LX | asked
    vm = made(payload)
    assert {key: vm[key] for key in got} == got


def test_false_flags_are_absent() -> None:
    vm = made(
        LX | {"firewall_enabled": False, "maintain_resolvers": False, "do_not_inventory": 0 == 1}
    )
    assert not {"firewall_enabled", "maintain_resolvers", "do_not_inventory"} & set(vm)


def test_unknown_keys_are_dropped_and_told() -> None:
    payload = LX | {"firewall": {}, "nics": [{"nic_tag": "admin", "ip": "dhcp", "colour": "red"}]}
    result = prepare(payload, uuid=UUID)
    assert result.problems == []
    assert sorted(result.dropped) == ["firewall", "nics.0.colour"]
    assert "firewall" not in result.vm
    assert "colour" not in result.vm["nics"][0]


def test_docker_on_a_joyent_zone_leaves_its_traces() -> None:
    result = prepare({"brand": "joyent", "image_uuid": UUID, "docker": True}, uuid=UUID)
    assert result.dropped == ["docker"]
    assert "docker" not in result.vm
    assert "docker:id" in result.vm["internal_metadata"]
    assert result.vm["restart_init"] is False


def test_without_a_brand_it_is_joyent() -> None:
    assert made({"image_uuid": UUID})["brand"] == "joyent"


def test_values_that_creation_refuses_are_told() -> None:
    result = prepare(LX | {"max_swap": 100, "max_physical_memory": 64}, uuid=UUID)
    assert [problem.path for problem in result.problems] == ["max_swap"]


# --- updates


@pytest.fixture
def vm() -> dict[str, Any]:
    return made(
        LX
        | {
            "docker": True,
            "alias": "a",
            "tags": {"zonegate": "x", "old": 1},
            "max_physical_memory": 1024,
            "max_swap": 2048,
            "nics": [{"nic_tag": "admin", "ip": "10.0.0.2", "netmask": "255.255.255.0"}],
            "filesystems": [{"source": "/a", "target": "/b", "type": "lofs"}],
        }
    )


def updated(vm: dict[str, Any], **payload: Any) -> dict[str, Any]:
    return applied(vm, payload, running=False).vm


def test_maps_are_changed_by_key(vm: dict[str, Any]) -> None:
    new = updated(vm, set_tags={"new": 2, "old": 3}, remove_tags=["old", "zonegate"])
    assert new["tags"] == {"new": 2, "old": 3}
    assert vm["tags"] == {"zonegate": "x", "old": 1}
    kept = updated(vm, remove_internal_metadata=["docker:id"])["internal_metadata"]
    assert "docker:id" in kept


def test_memory_keeps_its_distances(vm: dict[str, Any]) -> None:
    new = updated(vm, max_physical_memory=512)
    assert (new["max_swap"], new["max_locked_memory"], new["tmpfs"]) == (1536, 512, 512)
    assert updated(vm, max_physical_memory=2048)["max_swap"] == 3072


def test_nics_and_filesystems_are_changed_by_their_keys(vm: dict[str, Any]) -> None:
    mac = vm["nics"][0]["mac"]
    new = updated(vm, update_nics=[{"mac": mac, "ip": "10.0.0.9", "netmask": "255.255.0.0"}])
    assert new["nics"][0]["ips"] == ["10.0.0.9/16"]
    new = updated(new, add_nics=[{"nic_tag": "admin", "ip": "dhcp"}], remove_nics=[mac])
    assert [nic["ips"] for nic in new["nics"]] == [["dhcp"]]
    assert new["nics"][0]["primary"] is True
    result = applied(
        vm,
        {"remove_filesystems": ["/b"], "add_filesystems": [{"source": UUID, "target": "/c"}]},
        running=True,
    )
    assert [item["target"] for item in result.vm["filesystems"]] == ["/c"]
    assert result.new_filesystems == [{"source": UUID, "target": "/c"}]


@pytest.mark.parametrize(
    "payload",
    [
        {"max_swap": "x"},
        {"set_tags": {"a": []}},
        {"update_nics": [{"mac": "02:00:00:00:00:01", "vlan_id": 1}]},
        {"add_nics": [{"nic_tag": "a", "ip": "10.0.0.3"}]},
    ],
    ids=str,
)
def test_bad_updates_are_refused(vm: dict[str, Any], payload: dict[str, Any]) -> None:
    with pytest.raises(Failed):
        applied(vm, payload, running=False)


def test_what_an_update_may_not_hold_is_dropped(vm: dict[str, Any]) -> None:
    result = applied(vm, {"alias": "b", "image_uuid": UUID, "nonsense": 1}, running=False)
    assert result.dropped == ["image_uuid", "nonsense"]
    assert result.vm["alias"] == "b"


def test_disks_need_a_machine_that_is_stopped() -> None:
    vm = made({"brand": "bhyve", "ram": 1024, "disks": []})
    payload = {"add_disks": [{"size": 10, "model": "virtio"}]}
    with pytest.raises(Failed, match="stopped"):
        applied(vm, payload, running=True)
    assert len(applied(vm, payload, running=False).vm["disks"]) == 1


# --- changes and filters

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=3), _JSON), st.dictionaries(st.text(max_size=3), _JSON))
def test_changes_lead_from_one_object_to_the_other(
    old: dict[str, Any], new: dict[str, Any]
) -> None:
    result: Any = copy.deepcopy(old)
    for change in sorted(changes(old, new), key=lambda c: c["action"] == "removed"):
        *way, last = change["path"]
        at = result
        for step in way:
            at = at[step]
        if change["action"] == "removed":
            at[last] = ...
        elif isinstance(at, list) and last == len(at):
            at.append(change["newValue"])
        else:
            at[last] = change["newValue"]
    assert _without_gaps(result) == new


def _without_gaps(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_gaps(v) for k, v in value.items() if v is not ...}
    if isinstance(value, list):
        return [_without_gaps(item) for item in value if item is not ...]
    return value


VM = {
    "state": "running",
    "docker": True,
    "ram": 256,
    "tags": {"zonegate": "x", "docker:label:a.b": "c"},
    "nics": [{"ip": "10.0.0.2"}, {"ip": "10.0.0.3"}],
}


@pytest.mark.parametrize(
    ("key", "wanted", "fits"),
    [
        ("docker", "true", True),
        ("state", "stopped", False),
        ("state", "~^run", True),
        ("ram", "256", True),
        ("tags.zonegate", "x", True),
        ("tags.zonegate", "y", False),
        ("tags.docker:label:a.b", "c", True),
        ("nics.*.ip", "10.0.0.3", True),
        ("nics.0.ip", "10.0.0.3", False),
        ("alias", "x", False),
        ("alias", "-", True),
    ],
)
def test_filters_of_lookup(key: str, wanted: str, fits: bool) -> None:
    assert matches(VM, {key: wanted}) is fits
