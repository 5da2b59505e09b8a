# ruff: noqa: ASYNC240 - a test has its loop for itself
"""Blobs are fetched whole or not at all; a tar comes out only if it hashes to its diff_id."""

from __future__ import annotations

import asyncio
import bz2
import gzip
import hashlib
import lzma
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dockerapi.errors import APIError, DataLoss, DigestMismatch, NotFound
from gateway.hosts.command import run
from imgsources.layers import BlobTar, fetch, partial_path
from imgsources.oci import Descriptor, Digest, ImageConfig, Manifest, Platform
from imgsources.retries import Retries
from imgsources.sources import RemoteImage, TransferBroken
from tests.fakes.registry import layer_tar

CONTENT = bytes(range(256)) * 12_000


def digest(content: bytes) -> Digest:
    return Digest(f"sha256:{hashlib.sha256(content).hexdigest()}")


def descriptor(content: bytes = CONTENT) -> Descriptor:
    return Descriptor("layer", digest(content), len(content))


IMAGE = RemoteImage(
    None,
    Manifest("m", Digest("sha256:0"), descriptor(b""), ()),
    ImageConfig(b"", Digest("sha256:0"), Platform("linux", "amd64"), "", (), {}, ()),
    None,
)


class Flaky:
    """A source that breaks off after each of these many bytes, then serves the rest."""

    def __init__(self, *breaks: int, content: bytes = CONTENT) -> None:
        self._breaks = list(breaks)
        self._content = content
        self.offsets: list[int] = []
        self.stalled = asyncio.Event()

    async def resolve(self, *_: object) -> RemoteImage:
        return IMAGE

    @asynccontextmanager
    async def open_blob(
        self, _image: RemoteImage, _descriptor: Descriptor, *, offset: int = 0
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        self.offsets.append(offset)
        yield self._blocks(offset)

    async def _blocks(self, offset: int) -> AsyncIterator[bytes]:
        limit = self._breaks.pop(0) if self._breaks else None
        end = len(self._content) if limit is None else min(len(self._content), offset + abs(limit))
        for start in range(offset, end, 100_000):
            yield self._content[start : min(end, start + 100_000)]
        if limit is not None and limit < 0:
            self.stalled.set()
            await asyncio.Event().wait()
        if limit is not None:
            raise TransferBroken("unexpected EOF")


async def fetched(source: Flaky, folder: Path, **options: Any) -> bytes:
    options.setdefault("retries", Retries(5, second_s=0))
    wanted = options.pop("wanted", descriptor())
    path = await fetch(source, IMAGE, wanted, folder, progress=lambda _: None, **options)
    assert path == partial_path(folder, wanted.digest)
    return path.read_bytes()


async def test_a_blob_arrives_whole(tmp_path: Path) -> None:
    assert await fetched(Flaky(), tmp_path / "new") == CONTENT


async def test_a_broken_transfer_goes_on_where_it_stopped(tmp_path: Path) -> None:
    source = Flaky(1_200_000, 0, 300_000)
    told: list[str] = []
    assert await fetched(source, tmp_path, tell=told.append) == CONTENT
    assert source.offsets == [0, 1_200_000, 1_200_000, 1_500_000]
    assert not told, "where there is progress it goes on at once"


async def test_a_transfer_that_brings_nothing_waits_longer_each_time(tmp_path: Path) -> None:
    source, told = Flaky(0, 0, 10, 0, 0), list[str]()
    assert await fetched(source, tmp_path, tell=told.append) == CONTENT
    assert source.offsets == [0, 0, 0, 10, 10, 10], "an answer without a byte is asked for twice"
    first, second, third = (
        [f"Retrying in {n} seconds" for n in range(k, 1, -1)] for k in (5, 10, 15)
    )
    last = ["Retrying in 1 second"]
    assert told == first + last + second + last + third + last


async def test_a_stalled_transfer_goes_on_where_it_stopped(tmp_path: Path) -> None:
    source = Flaky(-500_000)
    assert await fetched(source, tmp_path, stall_s=0.05) == CONTENT
    assert source.offsets == [0, 500_000]


async def test_progress_is_told_and_never_goes_back(tmp_path: Path) -> None:
    seen: list[int] = []
    source = Flaky(1_500_000)
    await fetch(source, IMAGE, descriptor(), tmp_path, progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == len(CONTENT)


async def test_tries_are_bounded_and_the_file_stays(tmp_path: Path) -> None:
    source = Flaky(1000, *[0] * 10)
    with pytest.raises(TransferBroken):
        await fetched(source, tmp_path, retries=Retries(3, second_s=0))
    assert source.offsets == [0, 1000, 1000, 1000, 1000]
    assert partial_path(tmp_path, descriptor().digest).stat().st_size == 1000


async def test_what_a_killed_process_left_is_used(tmp_path: Path) -> None:
    partial_path(tmp_path, descriptor().digest).write_bytes(CONTENT[:777])
    source = Flaky()
    assert await fetched(source, tmp_path) == CONTENT
    assert source.offsets == [777]


async def test_a_whole_file_needs_no_source(tmp_path: Path) -> None:
    partial_path(tmp_path, descriptor().digest).write_bytes(CONTENT)
    source = Flaky()
    assert await fetched(source, tmp_path) == CONTENT
    assert source.offsets == []


@pytest.mark.parametrize("left", [b"wrong" * 100, CONTENT + b"more", b"x" * len(CONTENT)])
async def test_a_leftover_that_is_wrong_is_fetched_again(tmp_path: Path, left: bytes) -> None:
    partial_path(tmp_path, descriptor().digest).write_bytes(left)
    assert await fetched(Flaky(), tmp_path) == CONTENT


async def test_wrong_bytes_are_a_digest_mismatch_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(DigestMismatch):
        await fetched(Flaky(content=b"x" * len(CONTENT)), tmp_path)
    assert list(tmp_path.iterdir()) == []


async def test_too_many_bytes_are_data_loss_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataLoss, match="larger than the 5 bytes"):
        await fetched(Flaky(), tmp_path, wanted=Descriptor("l", descriptor().digest, 5))
    assert list(tmp_path.iterdir()) == []


async def test_a_refusal_of_the_source_is_not_tried_again(tmp_path: Path) -> None:
    class Refusing(Flaky):
        async def _blocks(self, offset: int) -> AsyncIterator[bytes]:
            raise NotFound("blob unknown")
            yield b""

    source = Refusing()
    with pytest.raises(NotFound):
        await fetched(source, tmp_path)
    assert source.offsets == [0]


async def test_a_cancelled_fetch_keeps_what_came(tmp_path: Path) -> None:
    source = Flaky(-300_000)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(fetched(source, tmp_path))
        async with asyncio.timeout(10):
            await source.stalled.wait()
        task.cancel()
    assert partial_path(tmp_path, descriptor().digest).read_bytes() == CONTENT[:300_000]


async def test_a_fetch_that_is_cancelled_while_it_opens_leaves_nothing_open(tmp_path: Path) -> None:
    path = partial_path(tmp_path, descriptor().digest)
    path.write_bytes(bytes(64 << 20))  # is hashed first, which takes a while
    async with asyncio.TaskGroup() as group:
        task = group.create_task(fetched(Flaky(), tmp_path))
        await asyncio.sleep(0.01)
        task.cancel()
    assert path not in [file.resolve() for file in Path("/proc/self/fd").iterdir()]


# --- decompression

Compress = Callable[[bytes], bytes]
FORMATS: dict[str, Compress] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


def unpacked(folder: Path, blob: bytes, diff_id: Digest, size: int = 1 << 20) -> bytes:
    path = folder / "blob"
    path.write_bytes(blob)
    tar = BlobTar(path, diff_id, lambda _: None)
    try:
        return b"".join(iter(lambda: tar.read(size), b""))
    finally:
        tar.close()


@pytest.fixture(params=["with isal", "without isal"])
def _isal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without isal":
        for name in ("isal", "isal.igzip_lib", "isal.isal_zlib"):
            monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.usefixtures("_isal")
@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(parts=st.lists(st.binary(max_size=3000), max_size=4), size=st.integers(1, 5000))
def test_what_was_compressed_comes_out_again(
    tmp_path: Path, name: str, parts: list[bytes], size: int
) -> None:
    """Several members one after the other are one stream."""
    parts.insert(0, b"no magic number")
    content = b"".join(parts) * 3
    blob = b"".join(map(FORMATS[name], parts)) * 3
    assert unpacked(tmp_path, blob, digest(content), size) == content


def test_a_tar_is_a_tar_whatever_its_first_name(tmp_path: Path) -> None:
    tar = layer_tar({"BZh": b"1"})
    assert unpacked(tmp_path, tar, digest(tar)) == tar


@pytest.mark.usefixtures("_isal")
@pytest.mark.parametrize("name", ["gzip", "bzip2", "xz"])
def test_a_blob_cut_short_says_so(tmp_path: Path, name: str) -> None:
    blob = FORMATS[name](CONTENT)
    with pytest.raises(DataLoss, match=f"{name}: unexpected EOF"):
        unpacked(tmp_path, blob[:-5], digest(CONTENT))


@pytest.mark.parametrize("at_start", [True, False])
def test_frames_to_be_skipped_are_no_content(tmp_path: Path, at_start: bool) -> None:
    frame, skipped = FORMATS["zstd"](CONTENT), b"\x53\x2a\x4d\x18\x04\0\0\0skip"
    blob = skipped + frame if at_start else frame + skipped
    assert unpacked(tmp_path, blob, digest(CONTENT)) == CONTENT


def test_zstd_cut_short_is_no_layer(tmp_path: Path) -> None:
    with pytest.raises(DataLoss):
        unpacked(tmp_path, FORMATS["zstd"](CONTENT)[:-5], digest(CONTENT))


@pytest.mark.usefixtures("_isal")
@pytest.mark.parametrize("name", ["gzip", "bzip2", "xz", "zstd"])
def test_a_damaged_blob_is_data_loss(tmp_path: Path, name: str) -> None:
    blob = bytearray(FORMATS[name](CONTENT))
    blob[len(blob) // 2 : len(blob) // 2 + 8] = b"\xff\x00\xff\x00\xff\x00\xff\x00"
    with pytest.raises(DataLoss):
        unpacked(tmp_path, bytes(blob), digest(CONTENT))


@pytest.mark.usefixtures("_isal")
def test_padding_after_gzip_is_no_member(tmp_path: Path) -> None:
    assert unpacked(tmp_path, gzip.compress(CONTENT) + bytes(700), digest(CONTENT)) == CONTENT


@pytest.mark.usefixtures("_isal")
def test_garbage_after_gzip_is_data_loss(tmp_path: Path) -> None:
    with pytest.raises(DataLoss):
        unpacked(tmp_path, gzip.compress(CONTENT) + b"garbage, and more of it", digest(CONTENT))


@pytest.mark.parametrize("name", FORMATS)
def test_another_diff_id_is_a_digest_mismatch(tmp_path: Path, name: str) -> None:
    with pytest.raises(DigestMismatch):
        unpacked(tmp_path, FORMATS[name](CONTENT), digest(b"another"))


@pytest.mark.parametrize("name", ["gzip", "zstd", "xz", "bzip2"])
def test_a_bomb_comes_out_in_blocks_of_the_size_asked_for(tmp_path: Path, name: str) -> None:
    path = tmp_path / "blob"
    path.write_bytes(FORMATS[name](bytes(50_000_000)))
    tar = BlobTar(path, digest(b""), lambda _: None)
    assert 0 < len(tar.read(1000)) <= 1000
    tar.close()


@pytest.mark.root
async def test_a_full_disk_is_told_and_not_tried_again(tmp_path: Path) -> None:
    await run(["/bin/mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)], timeout_s=5)
    source = Flaky()
    try:
        with pytest.raises(APIError, match="no space left on device"):
            await fetched(source, tmp_path)
    finally:
        await run(["/bin/umount", str(tmp_path)], timeout_s=5)
    assert source.offsets == [0]
