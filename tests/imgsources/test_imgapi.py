"""Image servers: names, versions and UUIDs become images that docker can show; what they refuse has a reason."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import pytest
from yarl import URL

from dockerapi.errors import APIError, DataLoss, InvalidParameter, NotFound, NotSupported
from imgsources.imgapi import ImageServers, is_uuid, remote_image
from imgsources.oci import Digest, Platform, chain_uuids
from imgsources.references import Reference
from tests.fakes.imgapi import FakeImageServer, manifest


@dataclass
class Servers:
    """Two servers, and a client of both."""

    first: FakeImageServer
    second: FakeImageServer
    client: ImageServers

    def reference(self, text: str) -> Reference:
        return Reference.parse(f"{self.first.authority}/{text}")


@pytest.fixture
async def servers() -> AsyncIterator[Servers]:
    async with (
        FakeImageServer.serve() as first,
        FakeImageServer.serve() as second,
        aiohttp.ClientSession(auto_decompress=False) as session,
    ):
        urls = (first.url, f"{second.url}/?channel=dev")
        yield Servers(first, second, ImageServers(session, urls))


async def test_a_name_and_version_is_one_image(servers: Servers) -> None:
    made = servers.first.add("base-64-lts", "15.4.0")
    servers.first.add("base-64-lts", "16.4.1", published_at="2017-01-19T18:57:51Z")
    found = await servers.client.resolve(servers.reference("base-64-lts:15.4.0"), None)
    assert found.uuids == (made["uuid"],)
    assert found.imgapi == made
    assert (found.server, found.digest) == (servers.first.url, None)
    assert str(found.reference) == f"{servers.first.authority}/base-64-lts:15.4.0"
    assert servers.first.log == ["/images?state=active&name=base-64-lts"]


@pytest.mark.parametrize("tag", ["", ":latest"])
async def test_the_latest_is_the_newest_published(servers: Servers, tag: str) -> None:
    newest = servers.first.add("base", "2", published_at="2020-01-01T00:00:00Z")
    servers.first.add("base", "3", published_at="2019-01-01T00:00:00Z")
    servers.first.add("base", "4", published_at="2021-01-01T00:00:00Z", state="disabled")
    servers.first.add("base", "5", published_at="2022-01-01T00:00:00Z", type="docker")
    found = await servers.client.resolve(servers.reference(f"base{tag}"), None)
    assert found.uuids == (newest["uuid"],)


async def test_a_uuid_is_looked_for_on_every_server(servers: Servers) -> None:
    made = servers.second.add("debian-7", "20151005", type="lx-dataset")
    found = await servers.client.resolve_uuid(made["uuid"], None)
    assert found.config.platform == Platform("linux", "amd64")
    assert servers.second.log == [f"/images/{made['uuid']}?channel=dev"]
    same = await servers.client.resolve(
        Reference.parse(f"{servers.second.authority}/{made['uuid']}"), None
    )
    assert same.config.digest == found.config.digest


async def test_what_no_server_has_is_not_found_in_dockers_words(servers: Servers) -> None:
    with pytest.raises(NotFound, match="manifest unknown"):
        await servers.client.resolve(servers.reference("base:1"), None)
    with pytest.raises(NotFound, match="no image server has it"):
        await servers.client.resolve_uuid(manifest("a", "1")["uuid"], None)
    with pytest.raises(NotFound, match="name unknown"):
        await servers.client.list_tags(servers.reference("base"))


async def test_a_server_that_is_out_of_order_does_not_hide_another(servers: Servers) -> None:
    made = servers.second.add("base", "1")
    servers.first.status = 503
    assert (await servers.client.resolve_uuid(made["uuid"], None)).uuids == (made["uuid"],)
    with pytest.raises(APIError, match="out of order"):
        await servers.client.resolve_uuid(manifest("a", "1")["uuid"], None)


async def test_a_server_that_cannot_be_reached_is_told_in_gos_words() -> None:
    async with aiohttp.ClientSession() as session:
        client = ImageServers(session, ("http://127.0.0.1:1",))
        with pytest.raises(APIError, match=r'Get "http://127.0.0.1:1/images.*connection refused'):
            await client.resolve(Reference.parse("127.0.0.1:1/base"), None)


async def test_an_image_that_no_zone_is_made_of_is_refused(servers: Servers) -> None:
    made = servers.first.add("container", "1", type="lxd")
    with pytest.raises(NotSupported, match="is of type lxd"):
        await servers.client.resolve(servers.reference("container"), None)
    with pytest.raises(NotSupported, match="is of type lxd"):
        await servers.client.resolve_uuid(made["uuid"], None)
    with pytest.raises(InvalidParameter, match="no digests"):
        await servers.client.resolve(servers.reference(f"a@sha256:{'ab' * 32}"), None)


async def test_another_platform_is_not_found(servers: Servers) -> None:
    servers.first.add("base", "1")
    wanted = servers.reference("base")
    assert await servers.client.resolve(wanted, Platform("smartos", "amd64"))
    with pytest.raises(NotFound, match=r"its platform \(smartos/amd64\) does not match"):
        await servers.client.resolve(wanted, Platform("linux", "amd64"))


async def test_an_answer_that_is_damaged_is_told(servers: Servers) -> None:
    made = servers.first.add("base", "1")
    servers.first.images[made["uuid"]] = {**made, "uuid": "other"}
    with pytest.raises(DataLoss):
        await servers.client.resolve_uuid(made["uuid"], None)
    assert await servers.client.search("base") == []


async def test_all_versions_are_listed_oldest_first(servers: Servers) -> None:
    servers.first.add("base", "2", published_at="2020-01-01T00:00:00Z")
    servers.first.add("base", "1", published_at="2019-01-01T00:00:00Z")
    servers.first.add("base", "not/a/tag")
    assert await servers.client.list_tags(servers.reference("base")) == ("1", "2")


async def test_a_search_finds_names_once(servers: Servers) -> None:
    servers.first.add("base-64", "1")
    servers.first.add("base-64", "2")
    servers.first.add("pkgsrc", "1")
    servers.second.add("base-64-lts", "1", type="zvol")
    found = await servers.client.search("base")
    assert [row["name"] for row in found] == [
        f"{servers.first.authority}/base-64",
        f"{servers.second.authority}/base-64-lts",
    ]
    assert found[0]["description"] == "base-64 for tests"
    term = f"{servers.second.authority}/64"
    assert servers.client.names(term)
    assert not servers.client.names("base/64")
    assert len(await servers.client.search(term)) == 1


def test_a_manifest_is_shown_as_an_image() -> None:
    made = manifest("base", "1", file=b"12345")
    found = remote_image(made, URL("https://images.example.org"))
    assert found.config.created == made["published_at"]
    assert found.config.history[0]["created_by"] == f"imgadm import {made['uuid']}"
    assert (found.config.comment, found.config.config) == ("base for tests", {})
    assert len(found.config.diff_ids) == len(found.manifest.layers) == 1
    assert found.manifest.layers[0].size == 5
    assert remote_image(made, URL("https://other.example.org")).config == found.config
    assert chain_uuids([Digest(found.manifest.layers[0].digest)]) != found.uuids


def test_a_manifest_whose_name_is_none_of_dockers_has_no_name() -> None:
    found = remote_image(manifest("Base One", "1"), URL("https://images.example.org"))
    assert found.reference is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("96bcddda-beb7-11e5-af20-a3fb54c8ae29", True),
        ("96BCDDDA-beb7-11e5-af20-a3fb54c8ae29", False),
        ("96bcddda-beb7-11e5-af20-a3fb54c8ae29:latest", False),
        ("busybox", False),
    ],
)
def test_a_uuid_is_told_from_a_name(text: str, expected: bool) -> None:
    assert is_uuid(text) is expected
