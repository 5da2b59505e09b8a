"""vmadm's VM objects as specs, its errors in our tree, signals by name."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerapi.errors import (
    APIError,
    CommandFailed,
    Conflict,
    InvalidParameter,
    NoSuchContainer,
    NotFound,
    NotModified,
    NotRunning,
)
from gateway.hosts.smartos import vmadm
from gateway.zones.metadata import decode
from gateway.zones.spec import Filesystem, Nic, ZoneSpec
from tests.contract.conftest import zone_spec

UUID = "00000000-0000-4000-8000-000000000001"


def _as_vm(spec: ZoneSpec) -> dict[str, Any]:
    """What `vmadm get` shows after a create: a good deal more than was sent."""
    path = f"/zones/{spec.uuid}"
    etc = [
        {"source": f"{path}/config/{name}", "target": f"/etc/{name}", "type": "lofs", "options": []}
        for name in ("hosts", "hostname", "resolv.conf")
    ]
    shown: dict[str, Any] = spec.payload()
    for entry in shown["filesystems"]:
        if "/" not in entry["source"]:
            entry["source"] = f"{path}/volumes/{entry['source']}"
    for nic in shown["nics"]:
        nic |= {"gateways": ["10.0.0.1"], "physical": "net0"}
    shown["filesystems"] += etc
    shown["internal_metadata"] |= {"docker:restartcount": 2, "docker:restartdelay": 400}
    return shown | {
        "zonepath": path,
        "zpool": "zones",
        "state": "stopped",
        "max_lwps": 2000,
        "owner_uuid": "00000000-0000-0000-0000-000000000000",
        "limit_priv": ["default"],
        "internal_metadata_namespaces": ["docker"],
    }


def _spec() -> ZoneSpec:
    return zone_spec(
        "sh", "-c", "true", alias="web",
        nics=[Nic(nic_tag="admin", ip="10.0.0.5", netmask="255.255.255.0", primary=True)],
        filesystems=[
            Filesystem(source="/opt/data", target="/mnt", options=("ro",)),
            Filesystem(source="11111111-2222-3333-4444-555555555555", target="/data"),
        ],
        env=("A=1",),
    )  # fmt: skip


def test_a_spec_is_found_again_in_its_vm_object() -> None:
    spec = _spec()
    found = vmadm.spec(_as_vm(spec))
    assert found.filesystems == spec.filesystems
    assert found.internal_metadata == spec.internal_metadata
    assert (found.nics[0].ip, found.nics[0].nic_tag) == ("10.0.0.5", "admin")
    assert found.max_lwps == 2000
    assert decode(found.internal_metadata) == decode(spec.internal_metadata)


def test_a_global_zone_below_a_folder_has_its_paths_there() -> None:
    spec = _spec()
    vm = vmadm.located(_as_vm(spec), "/tmp/gz")
    assert vmadm.zonepath(vm) == f"/tmp/gz/zones/{spec.uuid}"
    assert vmadm.spec(vm).filesystems == spec.filesystems
    assert vmadm.located(_as_vm(spec), "/") == _as_vm(spec)


def test_a_property_that_no_payload_may_have_does_not_hide_a_zone() -> None:
    spec = _spec()
    found = vmadm.spec(_as_vm(spec) | {"cpu_shares": 99999999, "vcpus": 1, "disks": []})
    assert (found.cpu_shares, found.vcpus, found.alias) == (None, None, "web")


def test_what_is_noted_while_a_zone_waits_for_an_attach_is_no_change_of_it() -> None:
    vm = _as_vm(_spec()) | {"customer_metadata": {"a": "b"}}
    waiting = vm | {
        "customer_metadata": {"a": "b", "__dockerinit_waiting_for_attach": "12345"},
        "internal_metadata": {**vm["internal_metadata"], "docker:wait_for_attach": "12345"},
    }
    assert vmadm.spec(waiting) == vmadm.spec(vm)


def test_an_unknown_brand_is_no_zone_of_ours() -> None:
    with pytest.raises(ValueError, match="brand"):
        vmadm.spec(_as_vm(_spec()) | {"brand": "builder"})


@pytest.mark.parametrize(
    ("tags", "ours"),
    [({"zonegate": "test"}, True), ({"zonegate": "other"}, False), ({}, False), (None, False)],
)
def test_zones_are_ours_by_their_tag(tags: object, ours: bool) -> None:
    assert vmadm.is_ours({"uuid": UUID, "tags": tags}, "test") is ours


@pytest.mark.parametrize(
    ("stderr", "kind"),
    [
        (f"zoneadm: {UUID}: No such zone configured", NoSuchContainer),
        (f"Unable to start VM {UUID}: VM is already 'running'", NotModified),
        (f"VM {UUID} is not running", NotRunning),
        (f"VM {UUID} already exists", Conflict),
        ("Unable to find image: 11111111-0000-0000-0000-000000000000", NotFound),
        ("Invalid value(s) for: max_swap", InvalidParameter),
        ("Missing required properties: kernel_version", InvalidParameter),
        ("cannot create 'zones/x': out of space", CommandFailed),
        ("node: segmentation fault", CommandFailed),
    ],
)
def test_what_vmadm_says_becomes_an_error_of_ours(stderr: str, kind: type[APIError]) -> None:
    found = vmadm.error(CommandFailed("vmadm", 1, stderr), UUID)
    assert type(found) is kind
    assert UUID in found.message or stderr in found.message


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01T00:00:01.000Z", 1_000_000_000),
        ("2014-10-24T20:12:11.973Z", 1414181531_973_000_000),
        ("2014-10-24T20:12:11Z", 1414181531_000_000_000),
        ("", 0),
        (None, 0),
        ("never", 0),
    ],
)
def test_times_are_nanoseconds(text: object, ns: int) -> None:
    assert vmadm.time_ns(text) == ns


@given(st.datetimes(min_value=datetime(1970, 1, 1)))  # noqa: DTZ001 (hypothesis wants it bare)
def test_times_are_exact_to_the_millisecond(moment: datetime) -> None:
    text = moment.isoformat(timespec="milliseconds") + "Z"
    assert vmadm.time_ns(text) % 1_000_000_000 == moment.microsecond // 1000 * 1_000_000


@pytest.mark.parametrize(
    ("given", "sent"),
    [("SIGTERM", "SIGTERM"), ("usr1", "SIGUSR1"), ("SIGIO", "SIGPOLL"), ("CLD", "SIGCHLD")],
)
def test_signals_go_by_name(given: str, sent: str) -> None:
    assert vmadm.signal_name(given) == sent


@pytest.mark.parametrize("name", ["SIG42", "9", "STKFLT", "RTMIN+3", ""])
def test_signals_that_the_platform_has_not_are_refused(name: str) -> None:
    with pytest.raises(InvalidParameter, match=f"Invalid signal: {name}".replace("+", r"\+")):
        vmadm.signal_name(name)
