"""A committed image as a source: the layer's file, what is read from it, and what the catalog keeps."""

import io
import json
import tarfile

import pytest

from dockerapi.errors import NotFound
from imgsources.catalog import Catalog
from imgsources.commits import Commit, write_layer
from imgsources.oci import DOCKER_MANIFEST, Descriptor, Manifest, parse_config, sha256
from imgsources.references import Reference
from imgsources.sources import RemoteImage

BASE = sha256(b"base")


async def cut(data, size=7):
    for start in range(0, len(data), size):
        yield data[start : start + size]


def tar(*names):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return out.getvalue()


def parent(catalog):
    config = parse_config(json.dumps({"rootfs": {"diff_ids": [BASE]}}).encode())
    layers = (Descriptor("x", BASE, 1),)
    manifest = Manifest(DOCKER_MANIFEST, sha256(b"m"), Descriptor("", config.digest, 1), layers)
    remote = RemoteImage(None, manifest, config, None)
    return catalog.put(remote, references=[Reference.parse("base")], size=1, now_ns=1)


def child(*diff_ids):
    return json.dumps({"rootfs": {"diff_ids": [BASE, *diff_ids]}, "container": "c"}).encode()


async def test_a_layer_is_hashed_as_it_is_written(tmp_path):
    data = tar("a", "b")
    layer = await write_layer(cut(data), tmp_path / "layer")
    assert (layer.digest, layer.size, layer.is_empty) == (sha256(data), len(data), False)
    assert layer.path.read_bytes() == data


@pytest.mark.parametrize("data", [b"", tar(), bytes(1024)])
async def test_a_tar_without_entries_is_empty(tmp_path, data):
    assert (await write_layer(cut(data, 1000), tmp_path / "layer")).is_empty


async def test_the_new_layer_is_there_and_the_parents_are_not(tmp_path):
    image = parent(Catalog(tmp_path / "catalog"))
    layer = await write_layer(cut(b"0123456789"), tmp_path / "layer")
    commit = Commit(image, child(layer.digest), layer)
    below, own = commit.image.manifest.layers
    assert commit.blob_path(own) == tmp_path / "layer"
    with pytest.raises(NotFound, match="is not there any more"):
        commit.blob_path(below)


async def test_the_catalog_remembers_on_what_it_stands(tmp_path):
    catalog = Catalog(tmp_path / "catalog")
    base = parent(catalog)
    made = catalog.put(Commit(base, child(), None).image, references=[], size=1, now_ns=2)
    assert made.uuids == base.uuids
    again = Catalog(tmp_path / "catalog")
    assert again.get(made.id).parent == base.id
    assert again.children(base.id) == (made.id,)
    assert again.ancestors(again.get(made.id)) == (again.get(base.id),)
    again.remove(base.id)
    assert again.ancestors(again.get(made.id)) == ()


def test_no_image_is_its_own_parent(tmp_path):
    catalog = Catalog(tmp_path / "catalog")
    base = parent(catalog)
    again = catalog.put(Commit(base, base.config.raw, None).image, references=[], size=1, now_ns=2)
    assert (again.id, again.parent, catalog.ancestors(again)) == (base.id, None, ())
