"""Which store a data root has, and what is said where it can have none."""

from __future__ import annotations

from pathlib import Path

import pytest

from dockerapi.errors import APIError, InvalidParameter
from gateway.hosts.linux import overlay
from gateway.hosts.linux.storechoice import can_overlay, choose, open_store, options_of, prior
from gateway.settings import Settings, load


@pytest.mark.parametrize(
    ("wanted", "there", "kind", "has_overlay", "chosen"),
    [
        ("", [], "ext4", True, "overlay2"),
        ("", [], "btrfs", True, "overlay2"),
        ("", [], "zfs", False, "zfs"),
        ("", [], "btrfs", False, "btrfs"),
        ("", ["btrfs"], "btrfs", True, "btrfs"),
        ("btrfs", [], "btrfs", True, "btrfs"),
        ("btrfs", ["btrfs"], "btrfs", True, "btrfs"),
        ("overlay2", ["overlay2"], "ext4", True, "overlay2"),
    ],
)
def test_a_driver_is_the_wanted_one_or_that_of_before_or_the_first_that_can_be(
    wanted: str, there: list[str], kind: str, has_overlay: bool, chosen: str
) -> None:
    assert choose(wanted, there, kind, lambda: has_overlay) == chosen


@pytest.mark.parametrize(
    ("wanted", "there", "words"),
    [
        ("overlay2", ["btrfs"], "images or containers of the storage driver btrfs"),
        ("btrfs", ["btrfs", "overlay2"], "images or containers of the storage driver overlay2"),
        ("", ["btrfs", "overlay2"], "contains several valid graphdrivers: btrfs, overlay2"),
        ("", [], "no overlay can be mounted on tmpfs"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(wanted: str, there: list[str], words: str) -> None:
    with pytest.raises(APIError, match=f"error initializing graphdriver: .*{words}"):
        choose(wanted, there, "tmpfs", lambda: False)


@pytest.mark.parametrize(
    ("driver", "option", "words"),
    [
        ("overlay2", "btrfs.min_space=1g", "overlay2: unknown option btrfs.min_space: overlay2"),
        ("btrfs", "foo=1", "Unknown option foo: btrfs"),
        ("btrfs", "foo", "unable to parse storage-opt foo: btrfs"),
    ],
)
def test_an_option_that_the_driver_does_not_know_is_refused(
    driver: str, option: str, words: str
) -> None:
    with pytest.raises(InvalidParameter, match=f"error initializing graphdriver: {words}"):
        options_of(driver, [option])


def test_options_are_taken_as_dockerd_takes_them() -> None:
    assert options_of("btrfs", ["BTRFS.min_space = 1g "]) == {"btrfs.min_space": "1g"}
    assert options_of("zfs", ["zfs.fsname=tank/zg"]) == {"zfs.fsname": "tank/zg"}


def test_a_data_root_has_the_driver_of_its_datasets_and_zones(tmp_path: Path) -> None:
    assert prior(tmp_path) == []
    for folder in ("overlay/datasets/.partial-x", "overlay/zones", "btrfs/zones/z"):
        (tmp_path / folder).mkdir(parents=True)
    assert prior(tmp_path) == ["btrfs"]


@pytest.mark.root
def test_whether_an_overlay_can_be_had_is_tried(tmp_path: Path) -> None:
    assert can_overlay(tmp_path)
    assert [*tmp_path.iterdir()] == []
    assert [target for target, _ in overlay.mounts() if target.startswith(str(tmp_path))] == []


@pytest.mark.root
@pytest.mark.parametrize("driver", ["btrfs", "zfs"])
async def test_a_driver_of_another_file_system_is_refused(tmp_path: Path, driver: str) -> None:
    settings = Settings(data_root=tmp_path, storage_driver=driver)
    with pytest.raises(APIError, match=rf"prerequisites .* \(wrong filesystem\?\): {driver}"):
        await open_store(settings)


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


@pytest.mark.root
async def test_what_a_killed_probe_left_is_swept(tmp_path: Path) -> None:
    parts = {name: tmp_path / ".overlay-x" / name for name in ("lower", "upper", "work", "merged")}
    for path in parts.values():
        path.mkdir(parents=True)
    overlay.mount(
        parts["merged"], lowers=[parts["lower"]], upper=parts["upper"], work=parts["work"]
    )
    store = await open_store(Settings(data_root=tmp_path))
    store.close()
    overlay.unmount(tmp_path / "overlay")
    assert names(tmp_path) == ["overlay"]


@pytest.mark.root
async def test_overlays_are_refused_where_none_can_be_written(tmp_path: Path) -> None:
    # An overlay on an overlay cannot be.
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    where = tmp_path / "merged"
    overlay.mount(
        where, lowers=[tmp_path / "lower"], upper=tmp_path / "upper", work=tmp_path / "work"
    )
    try:
        with pytest.raises(APIError, match="driver not supported: overlay2"):
            await open_store(Settings(data_root=where, storage_driver="overlay2"))
        with pytest.raises(APIError, match="no overlay can be mounted on overlay"):
            await open_store(Settings(data_root=where))
        assert names(where) == []
    finally:
        overlay.unmount(where)


def test_the_driver_is_a_setting() -> None:
    found = load(
        file=None,
        environment={"ZONEGATE_STORAGE_DRIVER": "btrfs", "ZONEGATE_STORAGE_OPTS": "btrfs.min_space=1g"},
        flags={},
    )  # fmt: skip
    assert (found.storage_driver, found.storage_opts) == ("btrfs", ("btrfs.min_space=1g",))
    with pytest.raises(InvalidParameter, match="storage_driver"):
        load(file=None, environment={}, flags={"storage_driver": "aufs"})
    with pytest.raises(InvalidParameter, match="on SmartOS it is zfs"):
        load(file=None, environment={}, flags={"backend": "smartos", "storage_driver": "btrfs"})
