"""The catalog: how images are found, how names move, what a crash leaves."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from dockerapi.errors import DataLoss, InvalidParameter, NoSuchImage
from imgsources.catalog import Catalog
from imgsources.oci import DOCKER_MANIFEST, Descriptor, Manifest, chain_uuids, parse_config, sha256
from imgsources.references import Reference
from imgsources.sources import RemoteImage


def remote(seed, *, layers=1, name=None, digest=None):
    """An image as a source would show it; `seed` decides its id."""
    digests = [sha256(f"{seed}-{number}".encode()) for number in range(layers)]
    raw = json.dumps({"rootfs": {"diff_ids": digests}, "config": {"Env": [f"S={seed}"]}}).encode()
    config = parse_config(raw)
    descriptors = tuple(Descriptor("application/x", digest, 10) for digest in digests)
    manifest = Manifest(
        DOCKER_MANIFEST, sha256(b"m" + raw), Descriptor("", config.digest, 1), descriptors
    )
    reference = Reference.parse(name) if name else None
    return RemoteImage(reference, manifest, config, digest)


def put(catalog, seed, *names, now_ns=1, is_tagged=True, **options):
    references = [Reference.parse(name) for name in names]
    return catalog.put(
        remote(seed, **options),
        references=references,
        size=5,
        now_ns=now_ns,
        is_tagged=is_tagged,
    )


@pytest.fixture
def catalog(tmp_path):
    return Catalog(tmp_path / "catalog")


def reopened(tmp_path):
    return Catalog(tmp_path / "catalog")


def test_an_image_is_found_by_every_name_a_client_may_use(catalog):
    digest = sha256(b"index")
    image = put(catalog, "a", "busybox", name="busybox", digest=digest)
    encoded = image.id.removeprefix("sha256:")
    for text in (
        "busybox",
        "busybox:latest",
        "docker.io/library/busybox",
        image.id,
        encoded,
        encoded[:12],
        f"sha256:{encoded[:12]}",
        f"busybox@{digest}",
        f"busybox:other@{digest}",
    ):
        assert catalog.get(text).id == image.id
    assert image.repo_digests == (f"busybox@{digest}",)
    assert [str(tag) for tag in image.references] == ["busybox:latest"]
    assert image.uuids == chain_uuids([layer.digest for layer in image.layers])
    assert image.uuid == image.uuids[-1]


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("nope", "nope:latest"),
        ("nope:1", "nope:1"),
        ("docker.io/library/nope", "nope:latest"),
        ("busybox:" + "a" * 64, "busybox:" + "a" * 64),
        ("a" * 64, "sha256:" + "a" * 64),
        ("sha256:" + "a" * 64, "sha256:" + "a" * 64),
        ("nope@sha256:" + "a" * 64, "nope@sha256:" + "a" * 64),
    ],
)
def test_an_unknown_image_is_named_as_dockerd_does(catalog, typed, shown):
    put(catalog, "a", "busybox")
    with pytest.raises(NoSuchImage) as caught:
        catalog.get(typed)
    assert caught.value.message == f"No such image: {shown}"


@pytest.mark.parametrize("text", ["", "busybox:sha256:" + "a" * 64, "BUSYBOX", "a b"])
def test_what_is_no_name_is_a_bad_request(catalog, text):
    with pytest.raises(InvalidParameter, match="invalid reference format"):
        catalog.get(text)


def test_a_prefix_of_two_ids_finds_neither(catalog):
    images = [put(catalog, str(number), f"x:{number}") for number in range(17)]
    firsts = [image.id[7] for image in images]
    shared = next(first for first in firsts if firsts.count(first) > 1)
    with pytest.raises(NoSuchImage):
        catalog.get(shared)


def test_a_name_wins_over_an_id_that_begins_like_it(catalog):
    image = put(catalog, "a", "x")
    other = put(catalog, "b", f"{image.id[7:11]}")
    assert catalog.get(image.id[7:11]).id == other.id


def test_a_tag_that_moves_leaves_its_image_dangling(catalog, tmp_path):
    old = put(catalog, "a", "x:1", name="x:1", digest=sha256(b"one"))
    new = put(catalog, "b", "x:1", name="x:1", digest=sha256(b"two"), now_ns=2)
    for state in (catalog, reopened(tmp_path)):
        assert state.get("x:1").id == new.id
        assert state.get(old.id).references == ()
        assert state.get(old.id).repo_digests == (f"x@{sha256(b'one')}",)
        assert state.get(new.id).last_tagged_ns == 2


def test_what_is_put_again_keeps_its_names_and_age(catalog):
    put(catalog, "a", "x:1")
    again = put(catalog, "a", "y", now_ns=9)
    assert [str(tag) for tag in again.references] == ["x:1", "y:latest"]
    assert (again.added_ns, again.last_tagged_ns) == (1, 9)
    assert len(catalog.images()) == 1


def test_names_that_come_with_an_image_are_no_tagging(catalog, tmp_path):
    put(catalog, "a", "x:1", now_ns=7, is_tagged=False)
    for state in (catalog, reopened(tmp_path)):
        assert (state.get("x:1").added_ns, state.get("x:1").last_tagged_ns) == (7, 0)
    catalog.tag(catalog.get("x:1").id, Reference.parse("y:2"), now_ns=8)
    assert catalog.get("x:1").last_tagged_ns == 8


def test_everything_is_there_after_a_restart(catalog, tmp_path):
    put(catalog, "a", "x:1", "me/y", layers=3, name="x", digest=sha256(b"i"))
    put(catalog, "b", now_ns=2)
    put(catalog, "empty", "scratch", layers=0, now_ns=3)
    assert reopened(tmp_path).images() == catalog.images()
    assert catalog.get("scratch").uuids == ()
    assert catalog.get("scratch").uuid is None


def test_tagging_and_untagging(catalog, tmp_path):
    image = put(catalog, "a", "x:1", name="x:1", digest=sha256(b"i"))
    catalog.tag(image.id, Reference.parse("x:2"), now_ns=7)
    catalog.tag(image.id, Reference.parse("y"))
    assert catalog.untag(Reference.parse("x:1")) == ("x:1",)
    assert catalog.untag(Reference.parse("x:2")) == ("x:2", f"x@{sha256(b'i')}")
    assert [str(tag) for tag in reopened(tmp_path).get(image.id).references] == ["y:latest"]
    with pytest.raises(NoSuchImage, match="No such image: x:2"):
        catalog.untag(Reference.parse("x:2"))


def test_tags_that_would_mislead_are_refused(catalog):
    image = put(catalog, "a", "x")
    with pytest.raises(InvalidParameter, match="refusing to create an ambiguous tag using digest"):
        catalog.tag(image.id, Reference.parse("sha256:abc"))
    with pytest.raises(InvalidParameter, match="cannot import digest reference"):
        catalog.tag(image.id, Reference.parse(f"x@{sha256(b'i')}"))


def test_a_removed_image_is_gone_with_its_names_and_files(catalog, tmp_path):
    image = put(catalog, "a", "x", name="x", digest=sha256(b"i"))
    catalog.remove(image.id)
    for state in (catalog, reopened(tmp_path)):
        assert state.images() == ()
        with pytest.raises(NoSuchImage):
            state.get("x")
    assert [path.name for path in (tmp_path / "catalog").rglob("*") if path.is_file()] == [
        "references.json"
    ]


def test_datasets_are_needed_as_long_as_one_image_has_them(catalog):
    one = put(catalog, "a", "x", layers=2)
    raw = json.dumps({"rootfs": {"diff_ids": [one.layers[0].digest]}}).encode()
    config = parse_config(raw)
    manifest = Manifest("", sha256(raw), Descriptor("", config.digest, 1), one.layers[:1])
    base = catalog.put(RemoteImage(None, manifest, config, None), references=[], size=1, now_ns=2)
    assert catalog.needed_datasets() == frozenset(one.uuids)
    assert set(catalog.dataset_users(one.uuids[0])) == {one.id, base.id}
    catalog.remove(one.id)
    assert catalog.needed_datasets() == frozenset(base.uuids)


def test_a_damaged_config_is_left_out_and_not_served(catalog, tmp_path):
    image = put(catalog, "a", "x")
    put(catalog, "b", "y")
    (tmp_path / "catalog/configs" / image.id[7:]).write_bytes(b"{}")
    state = reopened(tmp_path)
    assert [str(tag) for found in state.images() for tag in found.references] == ["y:latest"]


def test_damaged_names_are_reported_not_forgotten(catalog, tmp_path):
    put(catalog, "a", "x")
    (tmp_path / "catalog/references.json").write_text("{")
    with pytest.raises(DataLoss, match=r"references\.json is damaged"):
        reopened(tmp_path)


def test_leftovers_of_a_killed_process_are_removed(catalog, tmp_path):
    put(catalog, "a", "x")
    root = tmp_path / "catalog"
    for leftover in (root / ".new-1", root / "images/.new-2", root / "configs" / ("f" * 64)):
        leftover.write_bytes(b"half")
    reopened(tmp_path)
    assert not any(path.read_bytes() == b"half" for path in root.rglob("*") if path.is_file())


WRITER = """
import json, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from test_catalog import put, Catalog
catalog = Catalog(Path(sys.argv[1]))
for number in range(100000):
    image = put(catalog, str(number), "x:latest", f"x:{number % 3}", now_ns=number)
    if number % 2:
        catalog.remove(image.id)
    print(number, flush=True)
"""


@pytest.mark.parametrize("lines", [1, 2, 5, 9])
async def test_a_catalog_is_whole_after_a_kill_at_any_point(tmp_path, lines):
    root = tmp_path / "catalog"
    folder = str(Path(__file__).parent)
    process = await asyncio.create_subprocess_exec(  # noqa: TID251
        sys.executable, "-c", WRITER, str(root), folder, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    for _ in range(lines):
        await process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    rest = await process.stdout.read()
    await process.wait()
    done = lines - 1 + len(rest.splitlines())
    state = Catalog(root)
    # Even numbers stay; what was reported is there, what was under way may be.
    found = {image.config.config["Env"][0] for image in state.images()}
    assert {f"S={number}" for number in range(0, done + 1, 2)} <= found
    assert not list(root.rglob(".new-*"))
    holders = [image for image in state.images() if Reference.parse("x:latest") in image.references]
    assert len(holders) <= 1
