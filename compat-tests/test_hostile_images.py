"""Images whose links lead out of their root: nothing of the machine is read, made or changed."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from compat.clients import CLI
from compat.images import Image, archive, busybox_layer


def links(outside: Path, entries: dict[str, str | bytes]) -> bytes:
    """A layer of links (`-> target`) and files; OUT is a folder of the machine."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type = tarfile.SYMTYPE
                info.linkname = content.replace("OUT", str(outside))
            else:
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return out.getvalue()


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of the machine with a user of its own."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "passwd").write_text("intruder:x:4711:4711::/:/bin/sh\n")
    (folder / "group").write_text("intruders:x:4711:\n")
    (folder / "secret").write_text("secret\n")
    return folder


@pytest.fixture
def hostile(cli: CLI, tmp_path: Path, outside: Path) -> Iterator[str]:
    """Every link that a start follows leads outside."""
    base = busybox_layer("hostile")
    up = "../" * 30
    layer = links(
        outside,
        {
            "etc/passwd": f"{up}OUT/passwd",
            "etc/group": "OUT/group",
            "etc/mtab": "OUT/mtab",
            "etc/resolv.conf": "OUT/resolv.conf",
            "etc/hosts": f"{up}OUT/hosts",
            "job": "OUT/job",
            "data": "OUT",
            "tmpfs": "OUT/tmpfs",
            ".dockerenv": "OUT/dockerenv",
        },
    )
    path = tmp_path / "hostile.tar"
    path.write_bytes(archive({"hostile:latest": Image("hostile", [base, layer])}))
    cli.ok(f"load -q -i {path}")
    yield "hostile"
    cli.ok("rmi -f hostile")


def listing(folder: Path) -> dict[str, str]:
    return {entry.name: entry.read_text() for entry in folder.iterdir()}


@pytest.mark.parametrize(
    "options",
    [
        "",
        "-u intruder",
        "-u root:intruders",
        "--group-add intruders",
        "-w /job/below",
        "-w /data/below",
        "-w /job/../data/x",
        "-v /data",
        "-v /data/below",
        "-v vhostile:/data",
        "--tmpfs /tmpfs",
        "--tmpfs /data/tmpfs",
        "-v /etc/hostname:/data/file:ro",
        "-v /etc:/data/folder:ro",
        "--mount type=volume,dst=/job/volume",
        "--device /dev/null:/data/null",
        "--init",
        "--read-only",
    ],
)
def test_no_link_of_an_image_leads_out_of_its_root(
    cli: CLI, hostile: str, outside: Path, options: str
) -> None:
    before = listing(outside)
    script = "cat /data/secret /job/secret; id; ls /data/ 2>&1"
    result = cli(["run", "--rm", *options.split(), hostile, "sh", "-c", script])
    assert "4711" not in result.stdout
    assert "secret\n" not in result.stdout
    assert listing(outside) == before
    assert not os.path.lexists(outside / "job")
