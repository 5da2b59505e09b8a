"""save, load and import over the engine: which images are meant, what comes back, what is refused, what is told."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from dockerapi.engine import ImportQuery
from dockerapi.errors import APIError, InvalidParameter, NoSuchImage, NotFound, NotSupported
from tests.fakes.registry import image_config, layer_tar, sha256
from tests.gateway.engine.conftest import Bench

TAR = layer_tar({"etc/": b"", "etc/said": b"hello\n"})


async def sent(raw: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(raw), 1000):
        yield raw[at : at + 1000]


async def imported(bench: Bench, raw: bytes = TAR, **query: Any) -> str:
    """The id of the image."""
    asked = ImportQuery(source="-", **query)
    lines = await bench.gateway.image_files.import_image(asked, sent(raw))
    return str([line async for line in lines][-1]["status"])


async def loaded(bench: Bench, raw: bytes, *, quiet: bool = True) -> list[dict[str, Any]]:
    lines = await bench.gateway.image_files.load(sent(raw), quiet=quiet, platform="")
    return [line async for line in lines]


async def saved(bench: Bench, *names: str, platform: str = "") -> bytes:
    blocks = await bench.gateway.image_files.save(names, platform=platform)
    return b"".join([block async for block in blocks])


def rows(raw: bytes) -> list[dict[str, Any]]:
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        manifest = tar.extractfile("manifest.json")
        assert manifest is not None
        found: list[dict[str, Any]] = json.loads(manifest.read())
        return found


@pytest.mark.parametrize("packed", [bytes, gzip.compress, bz2.compress, lzma.compress])
async def test_an_import_is_the_same_layer_however_it_is_compressed(
    bench: Bench, packed: Callable[[bytes], bytes]
) -> None:
    image = bench.catalog.get(await imported(bench, packed(TAR), repo="in", tag="x"))
    assert image.config.diff_ids == (sha256(TAR),)
    assert [str(name) for name in image.references] == ["in:x"]
    assert (image.config.comment, image.config.history[0]["comment"]) == ("Imported from -",) * 2
    assert await bench.told() == ["image tag", "image import"]
    with tarfile.open(fileobj=io.BytesIO(await saved(bench, "in:x"))) as tar:
        layer = tar.extractfile(f"blobs/sha256/{sha256(TAR)[7:]}")
        assert layer is not None
        assert layer.read() == TAR


async def test_an_import_is_changed_as_asked(bench: Bench) -> None:
    image_id = await imported(
        bench, message="said", platform="linux/arm64", changes=('CMD ["sh"]', "ENV a=b")
    )
    image = bench.catalog.get(image_id)
    assert image.config.config == {"Cmd": ["sh"], "Env": ["a=b"]}
    assert (str(image.config.platform), image.config.comment) == ("linux/arm64", "said")
    assert image.references == ()


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"repo": "UPPER"}, "invalid reference format"),
        ({"repo": "a@sha256:" + "0" * 64}, "cannot import digest reference"),
        ({"repo": "a", "tag": "b c"}, "invalid tag format"),
        ({"repo": "sha256", "tag": "x"}, "refusing to create an ambiguous tag"),
        ({"platform": "macos"}, "operating system is not supported"),
        ({"changes": ("RUN x",)}, "RUN is not a valid change command"),
    ],
)
async def test_a_bad_import_is_refused_before_the_archive_is_read(
    bench: Bench, query: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidParameter, match=words):
        await bench.gateway.image_files.import_image(ImportQuery(source="-", **query), sent(TAR))


async def test_what_is_saved_comes_back_as_it_was(bench: Bench) -> None:
    image_id = await imported(bench, repo="in", tag="x")
    raw = await saved(bench, "in:x")
    await bench.gateway.images.remove("in:x", force=False, noprune=False)
    assert await loaded(bench, raw) == [{"stream": "Loaded image: in:x\n"}]
    assert bench.catalog.get("in:x").id == image_id
    assert await saved(bench, "in:x") == raw


async def test_progress_is_told_unless_quiet(bench: Bench) -> None:
    await imported(bench, repo="in", tag="x")
    raw = await saved(bench, "in:x")
    await bench.gateway.images.remove("in:x", force=False, noprune=False)
    lines = await loaded(bench, raw, quiet=False)
    assert lines[0]["status"] == "Loading layer"
    assert lines[0]["id"] == sha256(TAR)[7:19]


async def test_names_say_which_images_and_tags_are_saved(bench: Bench) -> None:
    first = await imported(bench, repo="in", tag="one")
    await bench.gateway.images.tag("in:one", repo="in", tag="two")
    second = await imported(bench, gzip.compress(layer_tar({"b": b"2"})), repo="in", tag="three")
    names = {row["Config"][-64:]: row["RepoTags"] for row in rows(await saved(bench, "in"))}
    assert names == {first[7:]: ["in:one", "in:two"], second[7:]: ["in:three"]}
    assert rows(await saved(bench, "in:two", "in:one"))[0]["RepoTags"] == ["in:two", "in:one"]
    for by_id in (first, first[7:], first[7:19]):
        assert rows(await saved(bench, by_id))[0]["RepoTags"] is None
    assert len(rows(await saved(bench, first, "in:one"))) == 1


async def test_what_cannot_be_saved(bench: Bench) -> None:
    with pytest.raises(NoSuchImage, match=r"No such image: nope$"):
        await saved(bench, "nope")
    with pytest.raises(NotFound, match="reference does not exist"):
        await saved(bench, "nope:x")
    with pytest.raises(NoSuchImage):
        await saved(bench, "sha256:" + "0" * 64)
    with pytest.raises(NotSupported, match="another program made"):
        await saved(bench, "busybox")
    await imported(bench, repo="in", tag="x", platform="linux/amd64")
    with pytest.raises(APIError, match=r"no suitable export target found for platform linux/arm64"):
        await saved(bench, "in:x", platform="linux/arm64")


async def test_a_tag_that_is_loaded_is_taken_from_who_has_it(bench: Bench) -> None:
    await imported(bench, repo="in", tag="x")
    raw = await saved(bench, "in:x")
    other = await imported(bench, gzip.compress(layer_tar({"b": b"2"})), repo="in", tag="x")
    lines = [line["stream"] for line in await loaded(bench, raw)]
    assert lines == [
        f"The image in:x already exists, renaming the old one with ID {other} to empty string\n",
        "Loaded image: in:x\n",
    ]
    assert bench.catalog.get(other).references == ()


async def test_rubbish_is_neither_loaded_nor_imported(bench: Bench) -> None:
    with pytest.raises(APIError):
        await loaded(bench, b"rubbish" * 1000)
    with pytest.raises(APIError):
        await imported(bench, gzip.compress(TAR)[:-20])
    assert [str(image.references[0]) for image in bench.catalog.images()] == ["busybox:latest"]


async def test_a_layer_that_is_not_what_the_config_says_is_not_loaded(bench: Bench) -> None:
    out = io.BytesIO()
    config = image_config([layer_tar({"other": b""})])
    manifest = json.dumps([{"Config": "c", "RepoTags": ["x:1"], "Layers": ["l"]}]).encode()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in (("c", config), ("l", TAR), ("manifest.json", manifest)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    with pytest.raises(APIError, match="filesystem layer verification failed"):
        await loaded(bench, out.getvalue())
    with pytest.raises(NoSuchImage):
        bench.catalog.get("x:1")
