"""What `zfs diff` prints."""

from __future__ import annotations

import pytest

from gateway.hosts.smartos.files import _joined, parse_diff
from gateway.zones.host import ChangeKind

ROOT = "/zones/z/root"


@pytest.mark.parametrize(
    "path",
    [
        rb"a\040b\134c\011\303\274",  # illumos
        rb"a\0040b\0134c\0011\0303\0274",  # OpenZFS
    ],
)
def test_names_are_escaped_in_one_of_two_ways(path: bytes) -> None:
    found = parse_diff(b"+\t/zones/z/root/" + path + b"\n", ROOT)
    assert found == [("/a b\\c\t\u00fc", ChangeKind.ADDED)]


def test_a_digit_after_a_blank_is_none_of_it() -> None:
    assert parse_diff(rb"+	/zones/z/root/a\0401", ROOT) == [("/a 1", ChangeKind.ADDED)]


def test_other_datasets_and_link_counts_are_passed_over() -> None:
    output = (
        b"M\t/zones/z/config/x\nM\t/zones/z/root/one\t(+1)\nR\t/zones/z/root/a\t/zones/z/root/b\n"
    )
    assert parse_diff(output, ROOT) == [
        ("/one", ChangeKind.MODIFIED),
        ("/a", ChangeKind.DELETED),
        ("/b", ChangeKind.ADDED),
    ]


@pytest.mark.parametrize("order", [b"-+", b"+-"])
def test_a_file_in_anothers_place_is_modified_in_either_order(order: bytes) -> None:
    output = b"".join(b"%c\t/zones/z/root/conf\n" % kind for kind in order)
    assert _joined(parse_diff(output, ROOT)) == {"/conf": ChangeKind.MODIFIED}
