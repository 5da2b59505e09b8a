"""--storage-opt on the Linux host: how many bytes a root may take, refused in the words of the storage driver at hand."""

from __future__ import annotations

from dockerapi.errors import APIError
from dockerapi.models.containers import HostConfig
from gateway.translate.limits import byte_size


def root_size(host: HostConfig, driver: str) -> int:
    """Bytes, 0 = no limit; `driver` "" = not known, then any of them may be right.  APIError."""
    size = 0
    for key, text in (host.storage_opt or {}).items():
        if key.lower() != "size":
            raise APIError(f"Unknown option {key}")
        if driver == "overlay2":
            raise APIError(
                "--storage-opt is supported only for overlay over xfs with 'pquota' mount option"
            )
        try:
            size = byte_size(text)
        except ValueError as error:
            raise APIError(str(error)) from error
        if not size and driver == "btrfs":
            raise APIError("btrfs: invalid storage size: 0B")
    return size
