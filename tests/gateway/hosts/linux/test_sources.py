"""What filesystems of zones are bound from: parts of volumes and images, opened and taken away again."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dockerapi.errors import InvalidParameter, NotFound
from gateway.hosts.linux import overlay
from gateway.hosts.linux.datasets import OverlayDatasets
from gateway.hosts.linux.sources import Sources
from gateway.hosts.linux.volumes import LinuxVolumes
from gateway.zones.host import Zone
from gateway.zones.metadata import DockerMetadata, Runtime
from gateway.zones.spec import Filesystem, ZoneSpec, ZoneState

UUID = "11111111-2222-3333-4444-555555555555"


def zone(*filesystems: Filesystem, **words: tuple[str, ...]) -> Zone:
    """One with these; `words` by target without its slash."""
    options = {f"/{target}": found for target, found in words.items()}
    spec = ZoneSpec(uuid=UUID, brand="lx", image_uuid=UUID, alias="web", filesystems=filesystems)
    data = DockerMetadata(id="a" * 64, runtime=Runtime(mount_options=options))
    return Zone(spec, data, ZoneState.STOPPED, created_ns=1)


@pytest.fixture
async def sources(tmp_path: Path) -> AsyncIterator[Sources]:
    datasets = await OverlayDatasets.open(tmp_path / "overlay")
    yield Sources(tmp_path / "zones", tmp_path / "run", LinuxVolumes(tmp_path), datasets)
    datasets.close()
    for target in reversed(mounted(tmp_path)):
        overlay.unmount(Path(target))
    overlay.unmount(tmp_path / "overlay")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A volume's: in/file, and links that stay in it and that do not."""
    folder = tmp_path / "data"
    (folder / "in").mkdir(parents=True)
    (folder / "in/file").write_text("content")
    (folder / "good").symlink_to("in")
    (folder / "bad").symlink_to("/etc")
    (folder / "up").symlink_to("../..")
    return folder


def content(path: str) -> str:
    return Path(path).read_text()


def part(folder: Path, path: str) -> Zone:
    return zone(Filesystem(source=str(folder), target="/v"), v=("volume", f"subpath={path}"))


def mounted(tmp_path: Path) -> list[str]:
    return [t for t, _ in overlay.mounts() if t.startswith(str(tmp_path / "run"))]


@pytest.mark.root
@pytest.mark.parametrize("path", ["in", "good", "in/../good"])
async def test_a_part_of_a_volume_is_bound_where_the_runtime_finds_it(
    sources: Sources, tmp_path: Path, folder: Path, path: str
) -> None:
    found = sources.hold(part(folder, path), tmp_path)
    assert content(f"{found['/v']}/file") == "content"
    assert mounted(tmp_path) == [found["/v"]]
    assert sources.settle(UUID)
    assert not sources.settle(UUID)
    assert mounted(tmp_path) == []
    assert list((tmp_path / "run/mounts").iterdir()) == []


@pytest.mark.root
async def test_a_file_may_be_a_part(sources: Sources, tmp_path: Path, folder: Path) -> None:
    with sources.open(part(folder, "in/file")) as found:
        assert content(found["/v"]) == "content"
    assert mounted(tmp_path) == []
    assert (folder / "in/file").exists()


@pytest.mark.root
@pytest.mark.parametrize(
    ("path", "error", "words"),
    [
        ("bad", InvalidParameter, "path concatenation escapes the base directory"),
        ("up", InvalidParameter, "path concatenation escapes the base directory"),
        ("bad/passwd", InvalidParameter, "path concatenation escapes the base directory"),
        ("nope", NotFound, "cannot access path .*/nope: lstat .*/nope: no such file"),
        ("in/file/x", NotFound, "cannot access path"),
    ],
)
async def test_no_part_leads_out_of_its_volume(
    sources: Sources, tmp_path: Path, folder: Path, path: str, error: type[Exception], words: str
) -> None:
    both = zone(
        Filesystem(source=str(folder), target="/first"),
        Filesystem(source=str(folder), target="/v"),
        first=("volume", "subpath=in"),
        v=("volume", f"subpath={path}"),
    )
    with pytest.raises(error, match=words):
        sources.hold(both, tmp_path)
    assert mounted(tmp_path) == []
    assert list((tmp_path / "run/mounts").iterdir()) == []


@pytest.mark.root
async def test_what_a_kill_left_goes_at_the_next_opening(
    sources: Sources, tmp_path: Path, folder: Path
) -> None:
    sources.hold(part(folder, "in"), tmp_path)
    assert mounted(tmp_path)
    sources.adopt([])
    assert mounted(tmp_path) == []
    assert (folder / "in/file").exists()
