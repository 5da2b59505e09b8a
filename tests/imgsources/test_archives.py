"""Archives: what docker save and OCI layouts hold, and what a bad one says."""

import bz2
import gzip
import io
import json
import lzma
import tarfile

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dockerapi.errors import APIError, DataLoss, InvalidParameter, NotFound
from imgsources.archives import open_archive
from imgsources.oci import Platform, parse_platform
from imgsources.references import Reference
from tests.fakes.registry import image_config, layer_tar, sha256

LAYERS = [layer_tar({"a": b"1" * 5000}), layer_tar({"b": b"2"})]
CONFIG = image_config(LAYERS)


def tar_of(files):
    """A tar of files; a text value is a symlink, ("hard", name) a hard link."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items() if isinstance(files, dict) else files:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
                continue
            info.type = tarfile.SYMTYPE if isinstance(content, str) else tarfile.LNKTYPE
            info.linkname = content if isinstance(content, str) else content[1]
            tar.addfile(info)
    return out.getvalue()


def saved(*, config=CONFIG, layers=("l0/layer.tar", "l1/layer.tar"), tags=("x:1",), **changes):
    """What docker save of old wrote, as files."""
    entry = {"Config": f"{sha256(config)[7:]}.json", "RepoTags": tags, "Layers": layers}
    return {
        entry["Config"]: config,
        "l0/layer.tar": LAYERS[0],
        "l1/layer.tar": LAYERS[1],
        "manifest.json": json.dumps([{**entry, **changes}]).encode(),
    }


@pytest.fixture
def opened(tmp_path):
    def open_bytes(raw, **options):
        path = tmp_path / "archive"
        path.write_bytes(raw if isinstance(raw, bytes) else tar_of(raw))
        return open_archive(path, **options)

    return open_bytes


async def refusal(opened, raw, kind):
    with pytest.raises(kind) as caught:
        async with opened(raw):
            pass
    return caught.value.message


async def blob(archive, image, number, offset=0):
    out = b""
    layer = image.manifest.layers[number]
    async with archive.open_blob(image, layer, offset=offset) as blocks:
        async for block in blocks:
            out += block
    return out


def zstd(raw):
    return zstandard.ZstdCompressor().compress(raw)


COMPRESSIONS = {
    "none": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd,
    "two gzip members": lambda raw: gzip.compress(raw[:700]) + gzip.compress(raw[700:]),
    "two zstd frames": lambda raw: zstd(raw[:700]) + zstd(raw[700:]),
}


@pytest.mark.parametrize("compression", COMPRESSIONS)
async def test_a_saved_image_is_read_however_it_is_compressed(opened, tmp_path, compression):
    async with opened(COMPRESSIONS[compression](tar_of(saved()))) as archive:
        (image,) = archive.images
        assert image.config.digest == sha256(CONFIG)
        assert [layer.digest for layer in image.manifest.layers] == [sha256(raw) for raw in LAYERS]
        assert archive.references(image) == (Reference.parse("x:1"),)
        assert await blob(archive, image, 0) == LAYERS[0]
        assert await blob(archive, image, 1, offset=100) == LAYERS[1][100:]
        assert [path.name for path in tmp_path.iterdir()] == ["archive"]


async def test_layers_may_be_compressed_each(opened):
    files = saved() | {"l0/layer.tar": gzip.compress(LAYERS[0])}
    async with opened(files) as archive:
        (image,) = archive.images
        layer = image.manifest.layers[0]
        assert layer.digest == sha256(files["l0/layer.tar"])
        assert layer.media_type.endswith(".gzip")
        assert image.config.diff_ids[0] == sha256(LAYERS[0])


async def test_links_between_layers_are_followed_inside_the_archive(opened):
    config = image_config([LAYERS[0]] * 3)
    files = saved(config=config, layers=["l0/layer.tar", "l2/layer.tar", "l3/layer.tar"])
    files |= {"l2/layer.tar": "../l0/layer.tar", "l3/layer.tar": ("hard", "l2/layer.tar")}
    async with opened(files) as archive:
        (image,) = archive.images
        assert {layer.digest for layer in image.manifest.layers} == {sha256(LAYERS[0])}


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../../etc/passwd", "l0/layer.tar"])
async def test_links_out_of_the_archive_or_in_circles_lead_nowhere(opened, target):
    message = await refusal(opened, saved() | {"l0/layer.tar": target}, InvalidParameter)
    assert message.startswith("invalid archive: l0/layer.tar: ")


async def test_several_images_and_tags_share_layers(opened):
    files = saved(tags=["x:1", "me/y:2"])
    other = image_config([LAYERS[0]], config={"Cmd": ["other"]})
    first = json.loads(files["manifest.json"])[0]
    second = {"Config": "other.json", "RepoTags": None, "Layers": ["./l0/layer.tar"]}
    files |= {"other.json": other, "manifest.json": json.dumps([first, second]).encode()}
    async with opened(files) as archive:
        one, two = archive.images
        assert [str(tag) for tag in archive.references(one)] == ["x:1", "me/y:2"]
        assert archive.references(two) == ()
        assert one.manifest.layers[0] == two.manifest.layers[0]
        assert await archive.resolve(Reference.parse("me/y:2"), None) == one
        with pytest.raises(NotFound):
            await archive.resolve(Reference.parse("me/y:3"), None)
        with pytest.raises(NotFound):
            await archive.resolve(Reference.parse("x:1"), Platform("linux", "s390x"))


async def test_an_image_without_layers_is_one(opened):
    config = image_config([])
    async with opened(saved(config=config, layers=None)) as archive:
        assert archive.images[0].manifest.layers == ()


async def test_of_two_files_of_one_name_the_last_counts(opened):
    files = [("manifest.json", b"[]"), *saved().items()]
    async with opened(tar_of(files)) as archive:
        assert len(archive.images) == 1


@pytest.mark.parametrize(
    ("raw", "kind", "words"),
    [
        (b"", InvalidParameter, "invalid archive: "),
        (b"no tar" * 200, InvalidParameter, "invalid archive: "),
        (gzip.compress(tar_of(saved()))[:-20], InvalidParameter, "invalid archive: gzip: "),
        (lzma.compress(tar_of(saved()))[:-20], InvalidParameter, "invalid archive: xz: "),
        (b"\x28\xb5\x2f\xfd" + b"junk" * 99, InvalidParameter, "invalid archive: zstd: "),
        ({"x": b""}, InvalidParameter, "invalid archive: does not contain a manifest.json"),
        (saved() | {"manifest.json": b"{"}, InvalidParameter, "invalid archive: manifest.json: "),
        (saved() | {"manifest.json": b"{}"}, InvalidParameter, "is not a list of images"),
        (saved(Config=None), InvalidParameter, "manifest.json names no config"),
        (saved(Config="../x"), InvalidParameter, "invalid archive: ../x: no such file in it"),
        (saved(Layers=[1]), InvalidParameter, "is not a list of texts"),
        (saved(layers=["l0/layer.tar"]), DataLoss, "layers length mismatch: expected 2, got 1"),
        (saved(layers=["l0/layer.tar", "no"]), InvalidParameter, "no: no such file in it"),
        (saved(tags=["X:1"]), InvalidParameter, 'invalid tag "X:1": invalid reference format'),
        (saved(tags=["x"]), InvalidParameter, 'invalid tag "x"'),
        (
            saved(layers=["l0/layer.tar", "blobs/sha256/" + "0" * 64])
            | {"blobs/sha256/" + "0" * 64: b"x"},
            DataLoss,
            "hashes to sha256:",
        ),
    ],
)
async def test_what_is_wrong_with_an_archive_is_said(opened, tmp_path, raw, kind, words):
    assert words in await refusal(opened, raw, kind)
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]


async def test_a_cut_archive_is_refused_or_fails_to_read(opened):
    whole = tar_of(saved())
    with pytest.raises(APIError):
        async with opened(whole[: len(whole) // 2]):
            pass


# OCI layouts ------------------------------------------------------------------------------------------


def layout(*, platforms=("linux/amd64",), annotations=None, lost=()):
    files = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}

    def add(media_type, raw, **others):
        files[f"blobs/sha256/{sha256(raw)[7:]}"] = raw
        return {"mediaType": media_type, "digest": sha256(raw), "size": len(raw), **others}

    oci = "application/vnd.oci.image"
    manifests = []
    for platform in platforms:
        os, architecture = platform.split("/")
        layers = [add(f"{oci}.layer.v1.tar+gzip", gzip.compress(raw, mtime=0)) for raw in LAYERS]
        config = image_config(LAYERS, architecture=architecture, os=os)
        document = {"schemaVersion": 2, "config": add(f"{oci}.config.v1+json", config)}
        raw = json.dumps({**document, "layers": layers}).encode()
        entry = add(f"{oci}.manifest.v1+json", raw)
        manifests.append({**entry, "platform": {"os": os, "architecture": architecture}})
        if platform in lost:
            del files[f"blobs/sha256/{entry['digest'][7:]}"]
    entry = manifests[0]
    if len(manifests) > 1:
        index = json.dumps({"schemaVersion": 2, "manifests": manifests}).encode()
        entry = add(f"{oci}.index.v1+json", index)
    entry = {**entry, "annotations": annotations or {}}
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    return files


@pytest.mark.parametrize(
    ("annotations", "tags"),
    [
        ({"io.containerd.image.name": "docker.io/library/x:1"}, ["x:1"]),
        ({"org.opencontainers.image.ref.name": "ghcr.io/a/b"}, ["ghcr.io/a/b:latest"]),
        ({"org.opencontainers.image.ref.name": "latest"}, []),
        ({}, []),
    ],
)
async def test_an_oci_layout_is_read_with_its_names(opened, annotations, tags):
    async with opened(layout(annotations=annotations)) as archive:
        (image,) = archive.images
        assert [str(tag) for tag in archive.references(image)] == tags
        assert gzip.decompress(await blob(archive, image, 0)) == LAYERS[0]
        assert image.manifest.layers[0].media_type.endswith("+gzip")


async def test_images_of_another_platform_than_asked_for_are_left_alone(opened):
    for text, count in (("linux/amd64", 1), ("linux/arm64", 0)):
        async with opened(saved(), platform=parse_platform(text)) as archive:
            assert len(archive.images) == count


async def test_the_platform_is_chosen_among_those_that_were_saved(opened):
    files = layout(platforms=("linux/amd64", "linux/arm64"))
    for text in ("linux/amd64", "linux/arm64"):
        async with opened(files, platform=parse_platform(text)) as archive:
            assert str(archive.images[0].config.platform) == text
    files = layout(platforms=("linux/amd64", "linux/arm64"), lost=("linux/arm64",))
    with pytest.raises(NotFound, match="no matching manifest for linux/arm64"):
        async with opened(files, platform=parse_platform("linux/arm64")):
            pass


async def test_a_blob_that_does_not_hash_to_its_name_is_refused(opened):
    files = layout()
    name = next(name for name, raw in files.items() if raw.startswith(b"\x1f\x8b"))
    files[name] = b"\x1f\x8b other"
    assert "hashes to" in await refusal(opened, files, DataLoss)


async def test_a_docker_save_with_an_oci_layout_inside_is_read_by_its_manifest(opened):
    digests = [sha256(raw)[7:] for raw in LAYERS]
    names = [f"blobs/sha256/{digest}" for digest in digests]
    entry = {"Config": f"blobs/sha256/{sha256(CONFIG)[7:]}", "RepoTags": ["x:1"], "Layers": names}
    files = dict(zip(names, LAYERS, strict=True)) | {entry["Config"]: CONFIG}
    files |= {"index.json": b"{}", "manifest.json": json.dumps([entry]).encode()}
    async with opened(files) as archive:
        assert [str(tag) for tag in archive.references(archive.images[0])] == ["x:1"]


GOOD = tar_of(saved())


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
async def test_a_damaged_archive_never_fails_in_another_way(opened, data):
    damaged = bytearray(GOOD[: data.draw(st.integers(0, len(GOOD)))])
    for _ in range(data.draw(st.integers(0, 3))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        async with opened(bytes(damaged)) as archive:
            for image in archive.images:
                await blob(archive, image, 0)
    except APIError:
        pass
