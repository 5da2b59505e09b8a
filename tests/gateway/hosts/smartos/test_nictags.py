"""What nictagadm prints, and names that it takes."""

from __future__ import annotations

import re
import secrets

import pytest

from gateway.hosts.smartos.egress import vnic_name
from gateway.hosts.smartos.nictags import NicTag, is_ours, parse, stub_name


def test_tags_are_read_as_nictagadm_lists_them() -> None:
    listing = (
        "admin,00:0c:29:00:00:01,e1000g0,normal\nmanta,-,aggr0,aggr\nstub_0,-,-,etherstub\n"
        "sdc_overlay/1234,-,-,overlay rule\n"
    )
    tags = parse(listing)
    assert tags["admin"] == NicTag("admin", "00:0c:29:00:00:01", "e1000g0", "normal")
    assert [tag.type for tag in tags.values()] == ["normal", "aggr", "etherstub", "overlay rule"]


def test_platforms_that_print_no_type_are_understood() -> None:
    tags = parse("admin,00:0c:29:00:00:01,e1000g0\naggr,-,aggr0\nstub_0,-,-\n")
    assert [tag.type for tag in tags.values()] == ["normal", "normal", "etherstub"]


@pytest.mark.parametrize("instance", ["z", "zonegate", "a_2345678_b"])
def test_names_of_links_are_what_illumos_takes(instance: str) -> None:
    network_id = secrets.token_hex(32)
    for name in (stub_name(instance, network_id), vnic_name(instance, network_id)):
        assert len(name) <= 31
        assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*[^0-9]0", name), "no leading zeros in the number"
    assert is_ours(instance, stub_name(instance, network_id))
    assert not is_ours(instance, stub_name(f"{instance}x"[:11], network_id)) or len(instance) == 11
    assert not is_ours(instance, f"{instance}_0")
