"""Legacy links as values: lines, variables, names."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dockerapi.errors import InvalidParameter
from dockerapi.models.containers import HostConfig
from gateway.translate.links import legacy, parse
from gateway.zones import links
from gateway.zones.host import Zone
from gateway.zones.metadata import DockerMetadata, Link, PublishedPort, Runtime
from gateway.zones.spec import Nic, ZoneSpec, ZoneState

ON = "00000000-0000-0000-0000-0000000000aa"


def zone(
    name: str, number: int, *, on: str = ON, state: ZoneState = ZoneState.RUNNING, **more: object
) -> Zone:
    """At 10.0.0.NUMBER; `more` of its metadata."""
    uuid = f"00000000-0000-0000-0000-{number:012}"
    nic = Nic(nic_tag="x", ip=f"10.0.0.{number}", netmask="255.255.255.0", network_uuid=on)
    spec = ZoneSpec(
        uuid=uuid, brand="lx", image_uuid=uuid, alias=name, hostname=f"{name}-host", nics=(nic,)
    )
    return Zone(spec, DockerMetadata(id=f"{number:064}", **more), state, 0)  # type: ignore[arg-type]


def linked(owner: Zone, *others: Zone) -> tuple[links.Linked, ...]:
    return links.linked(owner, {one.metadata.id: one for one in others}.get)


def to(other: Zone, alias: str) -> Link:
    return Link(id=other.metadata.id, name=other.spec.alias, alias=alias)


def test_a_link_is_a_line_with_every_name_once() -> None:
    db = zone("db", 2)
    web = zone("web", 3, runtime=Runtime(links=(to(db, "sql"), to(db, "db"))))
    assert links.hosts(web, linked(web, db)) == (
        "10.0.0.2\tsql db-host db",
        "10.0.0.2\tdb db-host",
    )


def test_a_container_on_another_network_has_no_line() -> None:
    db = zone("db", 2, on="00000000-0000-0000-0000-0000000000bb")
    web = zone("web", 3, runtime=Runtime(links=(to(db, "db"),)))
    assert links.hosts(web, linked(web, db)) == ()
    assert links.environment(web, linked(web, db)) == ()


def test_variables_are_those_of_dockerd() -> None:
    db = zone(
        "db", 2, env=("A=1", "HOME=/x", "PATH=/y", "BARE"), tcp_unpublished_ports=(82, 80, 81),
        runtime=Runtime(published_ports=(PublishedPort(protocol="udp", zone_port=53),)),
    )  # fmt: skip
    web = zone("web", 3, runtime=Runtime(links=(to(db, "my-db"),)))
    found = links.environment(web, linked(web, db))
    assert found[0] == "MY_DB_PORT=tcp://10.0.0.2:80"
    assert "MY_DB_PORT_80_TCP_END=tcp://10.0.0.2:82" in found
    assert "MY_DB_PORT_53_UDP_PROTO=udp" in found
    assert found[-2:] == ("MY_DB_NAME=/web/my-db", "MY_DB_ENV_A=1")


def test_two_ports_are_a_range_and_one_is_none() -> None:
    db = zone("db", 2, tcp_unpublished_ports=(80, 81, 83), udp_unpublished_ports=(82,))
    web = zone("web", 3, runtime=Runtime(links=(to(db, "db"),)))
    ends = [one for one in links.environment(web, linked(web, db)) if "_END" in one]
    assert ends == ["DB_PORT_80_TCP_END=tcp://10.0.0.2:81", "DB_PORT_80_TCP_PORT_END=81"]


def test_a_link_outlives_what_it_leads_to() -> None:
    db = zone("db", 2)
    web = zone("web", 3, runtime=Runtime(links=(to(db, "db"),)))
    assert links.refusal(web, linked(web, db)) == ""
    words = "Cannot link to a non running container: /db AS /web/db"
    assert links.refusal(web, linked(web)) == words
    assert links.shown(web, linked(web)) == ["/db:/web/db"]
    renamed = zone("store", 2, state=ZoneState.STOPPED)
    assert links.refusal(web, linked(web, renamed)) == words.replace("/db AS", "/store AS")
    assert links.shown(web, linked(web, renamed)) == ["/store:/web/db"]
    assert links.shown(db, ()) is None


def test_a_link_needs_a_network_of_both() -> None:
    db = zone("db", 2)
    alone = replace(db, spec=db.spec.model_copy(update={"nics": ()}))
    web = zone("web", 3, runtime=Runtime(links=(to(db, "db"),)))
    words = f"container {db.metadata.id} not attached to default bridge network"
    assert links.refusal(web, linked(web, alone)) == words


def test_a_linked_container_has_a_name_for_each_link() -> None:
    db = zone("db", 2)
    others = [
        zone(name, n, runtime=Runtime(links=(to(db, "x"),))) for n, name in enumerate("zb", 3)
    ]
    assert links.names([db, *others]) == {db.metadata.id: ("/b/x", "/z/x")}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("db", ("db", "db")),
        ("db:sql", ("db", "sql")),
        ("/db:/web/sql", ("db", "sql")),
        ("db:", ("db", "")),
    ],
)
def test_links_are_read_as_dockerd_reads_them(text: str, found: tuple[str, str]) -> None:
    assert parse(text) == found


@pytest.mark.parametrize("text", ["", "a:b:c"])
def test_what_is_no_link_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameter):
        parse(text)


def test_links_hold_on_the_default_network_alone() -> None:
    def of(mode: str) -> object:
        return legacy(HostConfig.model_validate({"Links": ["db:x"], "NetworkMode": mode}))

    assert of("default") == [("db", "x")]
    assert of("bridge") == [("db", "x")]
    assert of("mine") == ()
    with pytest.raises(InvalidParameter, match="host type networking can't be used with links"):
        of("host")
