"""What every store of datasets refuses alike: those that are not there, are there already, or that others stand on.  Pure."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Protocol, TypeVar

from dockerapi.errors import Conflict, NotFound
from imgsources.oci import ImageUUID


class Stacked(Protocol):
    """A dataset, as far as this matters here."""

    @property
    def origin(self) -> ImageUUID | None:
        """The dataset that it stands on."""
        ...


T = TypeVar("T")


def named(datasets: Mapping[ImageUUID, T], uuid: ImageUUID) -> T:
    """The dataset of this name; NotFound."""
    try:
        return datasets[uuid]
    except KeyError:
        raise NotFound(f"no such dataset: {uuid}") from None


def refuse_existing(datasets: Container[ImageUUID], uuid: ImageUUID) -> None:
    """Conflict where the name is taken."""
    if uuid in datasets:
        raise Conflict(f"dataset {uuid} already exists")


def refuse_origin(
    datasets: Mapping[ImageUUID, Stacked],
    uuid: ImageUUID,
    in_the_making: Container[ImageUUID | None],
) -> None:
    """Conflict where another dataset stands on it; `in_the_making`: origins of those that are not there yet."""
    if children := [name for name, dataset in datasets.items() if dataset.origin == uuid]:
        raise Conflict(f"dataset {uuid} is the origin of dataset {children[0]}")
    if uuid in in_the_making:
        raise Conflict(f"dataset {uuid} is the origin of a dataset that is being made")
