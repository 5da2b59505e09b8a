"""Kept blobs: named by what they are, found again after a restart, gone when nobody needs them."""

from __future__ import annotations

from pathlib import Path

from imgsources.blobs import LayerBlobs, remove
from imgsources.compression import GzipFile
from imgsources.layers import BlobTar
from imgsources.oci import Digest, sha256
from tests.fakes.registry import compress, layer_tar

TAR = layer_tar({"a": b"1" * 5000})


def kept(blobs: LayerBlobs, raw: bytes) -> Digest:
    path = blobs.new()
    path.write_bytes(raw)
    blobs.adopt(path, sha256(raw), len(TAR))
    return sha256(raw)


def test_a_blob_is_found_again_after_a_restart(tmp_path: Path) -> None:
    digest = kept(LayerBlobs(tmp_path), compress(TAR, "zstd"))
    blob = LayerBlobs(tmp_path).find(digest)
    assert blob is not None
    assert (blob.digest, blob.tar_size, blob.compression) == (digest, len(TAR), "zstd")
    assert blob.size == len(compress(TAR, "zstd"))


def test_a_tar_is_kept_as_gzip_with_a_digest_of_its_own(tmp_path: Path) -> None:
    blobs = LayerBlobs(tmp_path)
    path = blobs.new()
    copy = GzipFile(path)
    copy.write(TAR)
    gzip = Digest(copy.finish())
    blobs.adopt(path, sha256(TAR), len(TAR), gzip=gzip)
    for again in (blobs, LayerBlobs(tmp_path)):
        blob = again.find(sha256(TAR))
        assert blob is not None
        assert blob.digest == gzip == sha256(blob.path.read_bytes())
        tar = BlobTar(blob.path, sha256(TAR), lambda _: None)
        assert b"".join(iter(lambda tar=tar: tar.read(1000), b"")) == TAR
        tar.close()


def test_a_tar_that_came_plain_is_packed_when_there_is_time(tmp_path: Path) -> None:
    blobs = LayerBlobs(tmp_path)
    path = blobs.new()
    path.write_bytes(TAR)
    blobs.adopt(path, sha256(TAR), len(TAR), is_tar=True)
    again = LayerBlobs(tmp_path)
    assert again.unpacked() == [sha256(TAR)]
    assert again.pack(sha256(TAR), lambda: True).compression == ""  # type: ignore[union-attr]
    packed = again.pack(sha256(TAR))
    assert packed is not None
    assert (packed.compression, packed.tar_size) == ("gzip", len(TAR))
    assert packed.digest == sha256(packed.path.read_bytes())
    assert again.unpacked() == []
    assert LayerBlobs(tmp_path).find(sha256(TAR)) == packed
    assert len(list(tmp_path.iterdir())) == 1


def test_a_tar_inside_of_an_archive_stays_there_until_it_is_packed(tmp_path: Path) -> None:
    archive = tmp_path / "sent"
    archive.write_bytes(b"head" + TAR + b"tail")
    blobs = LayerBlobs(tmp_path / "layers")
    blobs.adopt_part(archive, 4, sha256(TAR), len(TAR))
    archive.unlink()
    again = LayerBlobs(tmp_path / "layers")
    part = again.open(sha256(TAR))
    assert part.read(1 << 20) == TAR
    part.close()
    packed = again.pack(sha256(TAR))
    assert packed is not None
    assert packed.compression == "gzip"
    assert [path.name for path in (tmp_path / "layers").iterdir()] == [packed.path.name]


def test_an_archive_goes_with_the_last_that_needs_it(tmp_path: Path) -> None:
    archive = tmp_path / "sent"
    archive.write_bytes(TAR)
    blobs = LayerBlobs(tmp_path / "layers")
    blobs.adopt_part(archive, 0, sha256(TAR), len(TAR))
    blobs.adopt_part(archive, 0, sha256(b"other"), 512)
    remove(blobs.drop({sha256(TAR)}))
    assert blobs.find(sha256(TAR)) is not None
    assert len(list((tmp_path / "layers").iterdir())) == 2
    remove(blobs.drop(()))
    assert not any((tmp_path / "layers").iterdir())


def test_what_nobody_needs_goes(tmp_path: Path) -> None:
    blobs = LayerBlobs(tmp_path)
    first, second = kept(blobs, compress(TAR, "gzip")), kept(blobs, compress(TAR, "zstd"))
    gone = blobs.drop({first})
    assert blobs.digests() == {first}
    assert blobs.find(second) is None
    remove(gone)
    assert len(list(tmp_path.iterdir())) == 1


def test_what_a_killed_process_left_goes_when_it_is_opened(tmp_path: Path) -> None:
    blobs = LayerBlobs(tmp_path)
    digest = kept(blobs, compress(TAR, "gzip"))
    blobs.new().write_bytes(b"half")
    (tmp_path / "rubbish").write_bytes(b"")
    again = LayerBlobs(tmp_path)
    assert again.digests() == {digest}
    assert len(list(tmp_path.iterdir())) == 1


def test_the_same_tar_from_two_pulls_is_kept_once(tmp_path: Path) -> None:
    blobs = LayerBlobs(tmp_path)
    for level in (b"one", b"two"):
        path = blobs.new()
        path.write_bytes(level)
        blobs.adopt(path, sha256(TAR), len(TAR), gzip=sha256(level))
    blob = blobs.find(sha256(TAR))
    assert blob is not None
    assert blob.path.read_bytes() == b"one"
    assert len(list(tmp_path.iterdir())) == 1
