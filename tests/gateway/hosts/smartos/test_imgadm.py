"""imgadm's manifests, entries and words; its commands against the fake one."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerapi.errors import APIError, Conflict, NotFound
from gateway.hosts.smartos import imgadm
from gateway.hosts.smartos.local import LocalGlobalZone
from imgsources.datasets import LayerInfo
from imgsources.oci import chain_uuids, sha256
from tests.fakes.globalzone.process import FakeGZ
from tests.fakes.imgapi import FakeImageServer
from tests.gateway.hosts.test_untar import archive, entry

DIGESTS = [sha256(b"base"), sha256(b"top")]
UUIDS = chain_uuids(DIGESTS)


def test_the_manifest_of_a_layer_is_imgadms() -> None:
    layer = LayerInfo(
        DIGESTS[1],
        sha256(b"tar"),
        5,
        tags=("busybox:latest", "busybox:1.36"),
        config={"Cmd": ["sh"], "Entrypoint": None, "Env": ["A=b"], "WorkingDir": "", "User": "x"},
        repository="busybox",
        created="2024-05-01T10:20:30.123456789Z",
        architecture="amd64",
        description="d" * 300,
    )
    assert imgadm.layer_manifest(UUIDS[1], UUIDS[0], layer) == {
        "v": 2,
        "uuid": UUIDS[1],
        "owner": "00000000-0000-0000-0000-000000000000",
        "name": "docker-layer",
        "version": DIGESTS[1][7:19],
        "disabled": False,
        "public": True,
        "published_at": "2024-05-01T10:20:30.123Z",
        "type": "docker",
        "os": "linux",
        "description": "d" * 255,
        "origin": UUIDS[0],
        "tags": {
            "docker:repo": "busybox",
            "docker:id": DIGESTS[1],
            "docker:architecture": "amd64",
            "docker:tag:latest": True,
            "docker:tag:1.36": True,
            "docker:config": {
                "Cmd": ["sh"],
                "Entrypoint": None,
                "Env": ["A=b"],
                "WorkingDir": "",
            },
        },
    }


def test_a_base_layer_has_no_origin_and_an_image_without_a_date_a_default() -> None:
    layer = LayerInfo(DIGESTS[0], sha256(b"tar"), 5, tags=("quay.io/me/app:1",))
    manifest = imgadm.layer_manifest(UUIDS[0], None, layer)
    assert "origin" not in manifest
    assert "description" not in manifest
    assert manifest["published_at"] == "1970-01-01T00:00:00.000Z"
    assert manifest["tags"]["docker:repo"] == "quay.io/me/app"
    assert imgadm.source_of(layer) == "https://quay.io"
    assert imgadm.source_of(LayerInfo(DIGESTS[0], DIGESTS[0], 1)) == "https://docker.io"


@pytest.mark.parametrize(
    ("created", "expected"),
    [
        ("2024-05-01T10:20:30Z", "2024-05-01T10:20:30.000Z"),
        ("2024-05-01T12:20:30.5+02:00", "2024-05-01T10:20:30.500Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000Z"),
        ("0001-01-01T00:00:00+05:00", "1970-01-01T00:00:00.000Z"),
        ("yesterday", "1970-01-01T00:00:00.000Z"),
    ],
)
def test_dates_are_in_milliseconds_of_utc(created: str, expected: str) -> None:
    assert imgadm.published_at(created) == expected


@given(created=st.text(max_size=40))
def test_any_text_gives_a_date(created: str) -> None:
    assert imgadm.published_at(created).endswith("Z")


@pytest.mark.root
async def test_images_come_with_their_origins_and_go(fake: FakeGZ, gz: LocalGlobalZone) -> None:
    async with FakeImageServer.serve() as server:
        base = server.add("base", "1", file=archive(entry("a", b"1")))
        top = server.add("top", "1", file=archive(entry("b", b"1")), origin=base["uuid"])
        lines: list[str] = []
        await imgadm.import_image(
            gz, top["uuid"], source=server.url, zpool="zones", progress=lines.append
        )
        assert "Must download and install 2 images (0.0 MiB)" in lines
    assert {one["uuid"] for one in await imgadm.list_images(gz)} == {base["uuid"], top["uuid"]}
    assert await imgadm.get_image(gz, top["uuid"]) == top
    assert await imgadm.known(gz, str(fake.root), "zones") == {base["uuid"], top["uuid"]}
    assert await imgadm.read_entry(gz, str(fake.root), "zones", base["uuid"]) == base
    assert {path.name for path in (fake.root / "zones" / top["uuid"] / "root").iterdir()} == {
        "a",
        "b",
    }
    with pytest.raises(Conflict, match="dependent clones"):
        await imgadm.delete_image(gz, base["uuid"], zpool="zones")
    for image in (top, base):
        await imgadm.delete_image(gz, image["uuid"], zpool="zones")
    with pytest.raises(NotFound, match="was not found on zpool"):
        await imgadm.get_image(gz, base["uuid"])
    with pytest.raises(NotFound):
        await imgadm.delete_image(gz, base["uuid"], zpool="zones")


@pytest.mark.root
async def test_imgadms_failures_are_told_in_its_words(fake: FakeGZ, gz: LocalGlobalZone) -> None:
    async with FakeImageServer.serve() as server:
        lxd = server.add("lxd", "1", type="lxd")
        with pytest.raises(APIError, match='imgadm: cannot install image of type "lxd"'):
            await imgadm.import_image(gz, lxd["uuid"], source=server.url, zpool="zones")
        with pytest.raises(NotFound, match="was not found in image sources"):
            await imgadm.import_image(gz, UUIDS[0], source=server.url, zpool="zones")
        damaged = server.add("damaged", "1")
        server.files[damaged["uuid"]] += b"x"
        with pytest.raises(APIError, match="checksum or size"):
            await imgadm.import_image(gz, damaged["uuid"], source=server.url, zpool="zones")
    fake.fault("imgadm", "list", stderr="Segmentation Fault", code=139, times=1)
    with pytest.raises(APIError, match="Segmentation Fault"):
        await imgadm.list_images(gz)
    assert not list((fake.root / "var/run").glob("img.*"))


@pytest.mark.root
async def test_imgadms_own_import_of_a_layer_is_why_we_have_ours(fake: FakeGZ) -> None:
    """The fake has the faults of the real one: opaque folders keep what is below, a whiteout takes the new file."""
    manifests = [
        imgadm.layer_manifest(
            UUIDS[n], UUIDS[0] if n else None, LayerInfo(DIGESTS[n], DIGESTS[n], 1)
        )
        for n in range(2)
    ]
    tars = [
        archive(entry("op/old", b"1"), entry("f", b"1")),
        archive(entry("op/.wh..wh..opq"), entry("op/new", b"1"), entry(".wh.f"), entry("f", b"2")),
    ]
    for manifest, tar in zip(manifests, tars, strict=True):
        (fake.root / "m.json").write_text(json.dumps(manifest))
        (fake.root / "layer.tar").write_bytes(tar)
        done = fake.run(
            "imgadm", "install", "-m", f"{fake.root}/m.json", "-f", f"{fake.root}/layer.tar"
        )
        assert done.returncode == 0, done.stderr
    root = fake.root / "zones" / UUIDS[1] / "root"
    assert sorted(str(path.relative_to(root)) for path in root.rglob("*")) == [
        "op",
        "op/new",
        "op/old",
    ]
    ancestry = json.loads(fake.run("imgadm", "ancestry", "-j", UUIDS[1]).stdout)
    assert [row["manifest"]["uuid"] for row in ancestry] == [UUIDS[1], UUIDS[0]]
