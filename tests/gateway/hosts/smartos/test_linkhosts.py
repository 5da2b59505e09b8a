"""Names of other containers for a zone's /etc/hosts."""

from __future__ import annotations

from gateway.hosts.smartos.linkhosts import Neighbour, link_hosts


def test_each_neighbour_has_a_line_with_its_names_once() -> None:
    found = link_hosts(
        [
            Neighbour("172.26.0.3", ("web", "abc123", "web")),
            Neighbour("172.26.0.2", ("db", "")),
            Neighbour("172.26.0.3", ("web", "abc123")),
        ]
    )
    assert found == "172.26.0.2\tdb\n172.26.0.3\tweb abc123\n"


def test_who_has_no_address_or_no_name_is_left_out() -> None:
    assert link_hosts([Neighbour("", ("web",)), Neighbour("172.26.0.2", ("",))]) == ""
