"""Which store a data root has: the one that was asked for, the one that it has already, the first that can be.

    settings.storage_driver  ->  what datasets or zones are there of  ->  overlay2, else that of the disk it is on

dockerd's names of drivers and options, and its words where it refuses them.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from dockerapi.errors import APIError, InvalidParameter
from gateway.hosts import trees
from gateway.hosts.linux import overlay
from gateway.hosts.linux.store import RootStore
from gateway.hosts.volumes import byte_size
from gateway.settings import Settings

log = logging.getLogger(__name__)

DRIVERS = {"overlay2": "overlay", "btrfs": "btrfs", "zfs": "zfs"}
"""Driver -> its folder below the data root."""
_OPTIONS = {"overlay2": (), "btrfs": ("btrfs.min_space",), "zfs": ("zfs.fsname",)}
_PROBE = ".overlay-"
_FAILED = "error initializing graphdriver"


async def open_store(settings: Settings) -> RootStore:
    """The store of a data root.  APIError with the reason where there can be none."""
    root = settings.data_root
    await asyncio.to_thread(_sweep, root)
    driver = await asyncio.to_thread(chosen, settings)
    folder, options = root / DRIVERS[driver], options_of(driver, settings.storage_opts)
    log.info("storage driver %s", driver)
    # Only the chosen one is imported.
    if driver == "btrfs":
        from gateway.hosts.linux.btrfsdatasets import BtrfsDatasets  # noqa: PLC0415

        await asyncio.to_thread(folder.mkdir, mode=0o700, parents=True, exist_ok=True)
        return await BtrfsDatasets.open(folder, least_size=_least(options))
    if driver == "zfs":
        from gateway.hosts.linux.zfsdatasets import ZFSDatasets  # noqa: PLC0415

        await asyncio.to_thread(folder.mkdir, mode=0o700, parents=True, exist_ok=True)
        return await ZFSDatasets.open(folder, options.get("zfs.fsname", ""))
    from gateway.hosts.linux.datasets import OverlayDatasets  # noqa: PLC0415

    return await OverlayDatasets.open(folder)


def chosen(settings: Settings) -> str:
    """The driver; APIError.  Blocking."""
    root, wanted = _existing(settings.data_root), settings.storage_driver
    kind = overlay.kind_of(root)
    there = prior(settings.data_root)
    driver = choose(wanted, there, kind, lambda: can_overlay(root))
    if wanted == "overlay2" and not there and not can_overlay(root):
        raise APIError(f"{_FAILED}: driver not supported: overlay2", detail=f"on {kind}")
    named = any(text.startswith("zfs.fsname=") for text in settings.storage_opts)
    if driver != "overlay2" and kind != driver and not (driver == "zfs" and named):
        raise APIError(
            f"{_FAILED}: prerequisites for driver not satisfied (wrong filesystem?): {driver}"
        )
    options_of(driver, settings.storage_opts)
    return driver


def possible(root: Path) -> list[str]:
    """Drivers that a data root, there or not, can have.  Blocking."""
    root = _existing(root)
    kind = overlay.kind_of(root)
    found = ["overlay2"] if can_overlay(root) else []
    return [*found, kind] if kind in ("btrfs", "zfs") else found


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def choose(wanted: str, there: Sequence[str], kind: str, has_overlay: Callable[[], bool]) -> str:
    """`there`: drivers whose datasets or zones the data root has; `kind`: of the file system it is on.  APIError."""
    if others := [driver for driver in there if driver != wanted]:
        if wanted:
            raise InvalidParameter(
                f"{_FAILED}: the data root has images or containers of the storage driver {others[0]}, "
                f"which {wanted} cannot show: remove them, or choose another data root"
            )
        if len(others) > 1:
            raise InvalidParameter(
                f"{_FAILED}: the data root contains several valid graphdrivers: {', '.join(others)}; "
                "cleanup or explicitly choose storage driver (-s <DRIVER>)"
            )
        return others[0]
    if wanted:
        return wanted
    if has_overlay():
        return "overlay2"
    if kind in ("btrfs", "zfs"):
        return kind
    raise APIError(
        f"{_FAILED}: no overlay can be mounted on {kind}, and it is neither btrfs nor zfs"
    )


def prior(root: Path) -> list[str]:
    """Drivers of which the data root has a dataset or a zone."""
    return [
        driver
        for driver, name in DRIVERS.items()
        if any(_has_entries(root / name / kind) for kind in ("datasets", "zones"))
    ]


def options_of(driver: str, given: Sequence[str]) -> Mapping[str, str]:
    """--storage-opt KEY=VALUE...; InvalidParameter for what the driver does not know."""
    found = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise InvalidParameter(f"{_FAILED}: unable to parse storage-opt {text}: {driver}")
        key = key.strip().lower()
        if key not in _OPTIONS[driver]:
            words = (
                f"overlay2: unknown option {key}"
                if driver == "overlay2"
                else f"Unknown option {key}"
            )
            raise InvalidParameter(f"{_FAILED}: {words}: {driver}")
        found[key] = value.strip()
    return found


def _least(options: Mapping[str, str]) -> int:
    text = options.get("btrfs.min_space")
    if text is None:
        return 0
    try:
        return byte_size(text)
    except ValueError as error:
        raise InvalidParameter(f"{_FAILED}: {error}: btrfs") from error


def _has_entries(folder: Path) -> bool:
    return folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())


def _sweep(root: Path) -> None:
    """What a probe left whose process was killed."""
    for place in root.glob(f"{_PROBE}*"):
        overlay.unmount(place / "merged")
        trees.remove(str(place))


def can_overlay(folder: Path) -> bool:
    """Whether an overlay can write into this file system."""
    with tempfile.TemporaryDirectory(prefix=_PROBE, dir=folder) as place:
        parts = {name: Path(place, name) for name in ("lower", "upper", "work", "merged")}
        for path in parts.values():
            path.mkdir()
        try:
            overlay.mount(
                parts["merged"],
                lowers=[parts["lower"]],
                upper=parts["upper"],
                work=parts["work"],
            )
        except OSError:
            return False
        overlay.unmount(parts["merged"])
        return True
