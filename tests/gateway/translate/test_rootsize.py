"""--storage-opt by driver: bytes, or dockerd's words."""

from __future__ import annotations

import pytest

from dockerapi.errors import APIError
from dockerapi.models.containers import HostConfig
from gateway.translate.rootsize import root_size


def host(**options: str) -> HostConfig:
    return HostConfig(storage_opt=options)


@pytest.mark.parametrize("driver", ["btrfs", "zfs", ""])
def test_a_size_is_bytes(driver: str) -> None:
    assert root_size(host(size="1.5g"), driver) == 3 << 29
    assert root_size(host(SIZE="10M"), driver) == 10 << 20
    assert root_size(HostConfig(), driver) == 0


@pytest.mark.parametrize(
    ("driver", "options", "words"),
    [
        ("overlay2", {"size": "1g"}, "supported only for overlay over xfs with 'pquota'"),
        ("overlay2", {"size": "zz"}, "supported only for overlay over xfs with 'pquota'"),
        ("overlay2", {"foo": "1"}, "Unknown option foo"),
        ("btrfs", {"foo": "1"}, "Unknown option foo"),
        ("btrfs", {"size": "zz"}, "invalid size: 'zz'"),
        ("btrfs", {"size": "-1"}, "invalid size: '-1'"),
        ("btrfs", {"size": ""}, "invalid size: ''"),
        ("btrfs", {"size": "0"}, "btrfs: invalid storage size: 0B"),
    ],
)
def test_what_cannot_be_is_refused_by_the_driver(
    driver: str, options: dict[str, str], words: str
) -> None:
    with pytest.raises(APIError, match=words) as caught:
        root_size(host(**options), driver)
    assert caught.type is APIError, "dockerd answers 500"
