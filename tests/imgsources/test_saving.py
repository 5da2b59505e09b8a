"""Archives that save writes: read back by load's own reader, the same bytes for the same images."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from dockerapi.errors import APIError, DigestMismatch, NotSupported
from imgsources.archives import open_archive
from imgsources.blobs import LayerBlobs
from imgsources.catalog import Catalog, Image
from imgsources.oci import Descriptor, Manifest, parse_config, sha256
from imgsources.references import Reference
from imgsources.saving import Saved, saved
from imgsources.sources import RemoteImage
from tests.fakes.registry import compress, image_config, layer_tar

BASE, TOP = layer_tar({"base": b"b" * 3_000_000}), layer_tar({"top": b"t"})


@pytest.fixture
def blobs(tmp_path: Path) -> LayerBlobs:
    blobs = LayerBlobs(tmp_path / "layers")
    for tar in (BASE, TOP):
        raw = compress(tar, "gzip")
        path = blobs.new()
        path.write_bytes(raw)
        blobs.adopt(path, sha256(raw), len(tar))
    return blobs


def image(catalog: Catalog, *tars: bytes, diff_ids: tuple[bytes, ...] = ()) -> Image:
    config = parse_config(image_config(diff_ids or tars))
    raws = [compress(tar, "gzip") for tar in tars]
    layers = tuple(Descriptor("", sha256(raw), len(raw)) for raw in raws)
    manifest = Manifest("", sha256(b"m"), Descriptor("", config.digest, 1), layers)
    remote = RemoteImage(None, manifest, config, None)
    return catalog.put(remote, references=[], size=0, now_ns=1)


async def written(images: list[Saved], blobs: LayerBlobs) -> bytes:
    return b"".join([block async for block in saved(images, blobs)])


def one(image: Image, *names: str) -> Saved:
    return Saved(image, tuple(Reference.parse(name) for name in names), 1_767_323_045 * 10**9)


async def test_what_is_saved_is_loaded_as_it_was(tmp_path: Path, blobs: LayerBlobs) -> None:
    catalog = Catalog(tmp_path / "catalog")
    first, second = image(catalog, BASE, TOP), image(catalog, BASE)
    raw = await written([one(first, "a:1", "b:1"), one(second)], blobs)
    (tmp_path / "saved.tar").write_bytes(raw)
    async with open_archive(tmp_path / "saved.tar") as archive:
        found = archive.images
        assert [remote.config.digest for remote in found] == [first.id, second.id]
        assert archive.references(found[0]) == (Reference.parse("a:1"), Reference.parse("b:1"))
        assert archive.references(found[1]) == ()
        assert [layer.digest for layer in found[0].manifest.layers] == [sha256(BASE), sha256(TOP)]


async def test_the_oci_layout_in_it_says_the_same(tmp_path: Path, blobs: LayerBlobs) -> None:
    made = image(Catalog(tmp_path / "catalog"), BASE, TOP)
    raw = await written([one(made, "a:1")], blobs)
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        files = {m.name: tar.extractfile(m).read() for m in tar if m.isreg()}  # type: ignore[union-attr]
        times = {m.name: m.mtime for m in tar}
    # dockerd's manifests are of no time.
    assert [name for name, mtime in times.items() if not mtime] == [
        "blobs/sha256",
        *(f"blobs/sha256/{d['digest'][7:]}" for d in json.loads(files["index.json"])["manifests"]),
        "index.json",
        "manifest.json",
        "oci-layout",
        "repositories",
    ]
    assert set(times.values()) == {0, 1_767_323_045}
    del files["manifest.json"]
    again = io.BytesIO()
    with tarfile.open(fileobj=again, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    (tmp_path / "layout.tar").write_bytes(again.getvalue())
    async with open_archive(tmp_path / "layout.tar") as archive:
        (remote,) = archive.images
        assert remote.config.digest == made.id
        assert archive.references(remote) == (Reference.parse("a:1"),)


async def test_the_same_images_give_the_same_bytes_and_shared_layers_once(
    tmp_path: Path, blobs: LayerBlobs
) -> None:
    catalog = Catalog(tmp_path / "catalog")
    images = [one(image(catalog, BASE, TOP), "a:1"), one(image(catalog, BASE), "b:1")]
    raw = await written(images, blobs)
    assert raw == await written(images, blobs)
    assert len(raw) < len(BASE) + len(TOP) + 20_000
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        names = tar.getnames()
        assert names == sorted(names)
        rows = json.loads(tar.extractfile("manifest.json").read())  # type: ignore[union-attr]
    assert [row["RepoTags"] for row in rows] == [["a:1"], ["b:1"]]


async def test_a_blob_that_is_not_what_it_was_breaks_the_archive_off(
    tmp_path: Path, blobs: LayerBlobs
) -> None:
    wrong = image(Catalog(tmp_path / "catalog"), BASE, diff_ids=(TOP,))
    with pytest.raises(DigestMismatch):
        await written([one(wrong, "a:1")], blobs)


async def test_what_cannot_be_saved_says_so_at_once(tmp_path: Path, blobs: LayerBlobs) -> None:
    catalog = Catalog(tmp_path / "catalog")
    blobs.drop(())
    with pytest.raises(NotSupported, match="another program made"):
        saved([one(image(catalog, BASE), "a:1")], blobs)
    with pytest.raises(APIError, match="empty export - not implemented"):
        saved([one(image(catalog), "a:1")], blobs)
