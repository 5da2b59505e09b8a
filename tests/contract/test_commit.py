"""A zone's changes as a layer, and a zone made of them: the same files on every host."""

from __future__ import annotations

import io
import os
import secrets
import tarfile
from pathlib import Path

import pytest

from gateway.zones.host import Zone, ZoneChange
from imgsources.commits import LayerFile, write_layer
from imgsources.datasets import LayerInfo
from imgsources.oci import Digest, ImageUUID, image_uuid
from tests.contract.conftest import IMAGE, Bench

FIRST = """
echo new >/added; chmod 4755 /added; ln /added /linked; ln -s added /pointing; mkfifo /pipe
mkdir -p /deep/er/still; chmod 1777 /deep/er; chown 7:8 /deep; echo text >/deep/er/still/file
rm /data/kept; echo more >>/etc/group; chown 33:34 /etc/passwd
rm -rf /tmp; echo file >/tmp
ln -s /etc /way; mkdir /turned; echo x >"/turned/a name with blanks"; : >/turned/empty
dd if=/dev/zero of=/holes bs=1 count=1 seek=3000000 2>/dev/null
"""
SECOND = """
rm -rf /deep; mkdir /deep; echo other >/deep/fresh
rm -rf /turned; ln -s /etc /turned
rm /tmp; mkdir /tmp; echo again >/tmp/inside
rm -rf /data; mkdir /data
rm /way; mkdir /way; echo z >/way/group; echo w >/way/new
rm /linked; mv /added /moved; rm /pointing; mkdir /pointing; echo y >/pointing/in
"""

NAMES = """
mkdir /tools /sub /old; echo perl >/tools/perl; ln /tools/perl /tools/perl5; ln /tools/perl /zz
echo one >/one; ln /one /two; ln /one /sub/three; echo other >/other; echo in >/old/in; ln /old/in /old/on
"""
RENAMED = """
rm /one; rm /other; ln /sub/three /other; ln /etc/group /linked
rm /tools/perl; echo new >>/tools/perl5; mv /old /newer
mkdir /fresh; echo a >/fresh/a; ln /fresh/a /fresh/b; ln /fresh/a /c; rm /fresh/a; ln /c /d; echo b >>/d
"""

_LOG = "var/log/sdc-dockerinit.log"

Tree = dict[str, tuple[object, ...]]


async def tree(bench: Bench, zone: Zone) -> Tree:
    """Everything in a zone's root: kind, mode, owner, size, link, content, attributes.

    Of names of one file any may be the first in a tar: all of them are shown as the file.
    """
    blocks = [block async for block in await bench.host.files.export(zone.uuid)]
    found: Tree = {}
    with tarfile.open(fileobj=io.BytesIO(b"".join(blocks))) as tar:
        for member in tar:
            name = member.name.removeprefix("./")
            file = member
            while file.islnk():
                file = tar.getmember(file.linkname)
            data = tar.extractfile(file) if file.isreg() else None
            extra = {k: v for k, v in file.pax_headers.items() if k.startswith("SCHILY.xattr")}
            found[name] = (
                file.type,
                oct(file.mode),
                (file.uid, file.gid),
                member.linkname if member.issym() else "",
                data.read() if data else b"",
                tuple(sorted(extra.items())),
            )
    # The host's own files, as every zone has them.
    for name in (".", "", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab", _LOG):
        found.pop(name, None)
    return found


async def layer_of(bench: Bench, zone: Zone, folder: Path) -> LayerFile:
    """The zone's changes as commit takes them."""
    blocks = await bench.host.files.layer(zone.uuid)
    return await write_layer(blocks, folder / f"layer-{secrets.token_hex(4)}")


async def committed(bench: Bench, zone: Zone, folder: Path, below: str) -> ImageUUID:
    """A dataset of the zone's changes on top of its image's."""
    layer = await layer_of(bench, zone, folder)
    uuid = image_uuid([Digest(f"sha256:{below}"), layer.digest])
    info = LayerInfo(layer.digest, layer.digest, layer.size)
    origin = ImageUUID(str(zone.spec.image_uuid))
    async with bench.host.datasets.extend(uuid, origin=origin, layer=info) as root:
        with layer.path.open("rb") as tar:
            await root.apply(tar)
    return uuid


async def ended(bench: Bench, script: str, image: str) -> Zone:
    zone = await bench.start("sh", "-c", script, image=image)
    await bench.seen(ZoneChange.STOPPED, zone)
    return bench.zones.get(zone.uuid)


async def test_a_zone_made_of_anothers_changes_has_its_files(bench: Bench, tmp_path: Path) -> None:
    first = await ended(bench, FIRST, IMAGE)
    one = await committed(bench, first, tmp_path, "1" * 64)
    child = await ended(bench, "true", one)
    expected = await tree(bench, first)
    assert await tree(bench, child) == expected
    assert {"added", "linked", "deep/er/still/file", "turned/empty", "holes"} <= set(expected)
    assert "data/kept" not in expected
    # Once more on top of it: what the first layer brought is taken away, replaced, moved.
    second = await ended(bench, SECOND, one)
    two = await committed(bench, second, tmp_path, "2" * 64)
    grandchild = await ended(bench, "true", two)
    expected = await tree(bench, second)
    assert await tree(bench, grandchild) == expected
    assert not {"deep/er", "data/kept", "linked", "added"} & set(expected)


async def test_a_zone_that_changed_nothing_has_an_empty_layer(bench: Bench, tmp_path: Path) -> None:
    never = await bench.create("true")
    assert (await layer_of(bench, never, tmp_path)).is_empty
    ran = await ended(bench, "true", IMAGE)
    assert (await layer_of(bench, ran, tmp_path)).is_empty
    changed = await ended(bench, "mkdir /x", IMAGE)
    assert not (await layer_of(bench, changed, tmp_path)).is_empty


async def test_two_names_of_a_file_stay_one_file(bench: Bench, tmp_path: Path) -> None:
    zone = await ended(bench, "echo x >/one; ln /one /two", IMAGE)
    image = await committed(bench, zone, tmp_path, "3" * 64)
    code, out, _ = await bench.run("stat", "-c", "%h", "/one", "/two", image=image)
    assert (code, out) == (0, b"2\n2\n")


async def test_every_name_of_a_file_is_kept(bench: Bench, tmp_path: Path) -> None:
    first = await ended(bench, NAMES, IMAGE)
    one = await committed(bench, first, tmp_path, "5" * 64)
    second = await ended(bench, RENAMED, one)
    expected = await tree(bench, second)
    assert {"zz", "two", "sub/three", "other", "linked", "newer/on", "c", "d"} <= expected.keys()
    two = await committed(bench, second, tmp_path, "6" * 64)
    assert await tree(bench, await ended(bench, "true", two)) == expected


@pytest.mark.linux_only("a zone there has no file capabilities")
async def test_capabilities_of_files_are_kept(bench: Bench, tmp_path: Path) -> None:
    zone = await bench.start("sh", "-c", "echo x >/tool; echo y >/made; sleep 100")
    while not (await bench.exec(zone, "cat", "/made"))[1]:
        pass
    value = bytes.fromhex("0100000200040000000000000000000000000000")
    os.setxattr(f"{bench.zones.get(zone.uuid).root}/tool", "security.capability", value)
    await bench.zones.stop(zone.uuid, signal="SIGKILL", timeout_s=1)
    image = await committed(bench, zone, tmp_path, "4" * 64)
    child = await bench.start("sleep", "100", image=image)
    assert os.getxattr(f"{bench.zones.get(child.uuid).root}/tool", "security.capability") == value
