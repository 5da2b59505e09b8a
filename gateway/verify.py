"""`zonegate images verify`: whether the images of a data root are whole: catalog, kept blobs, datasets.

Nothing is changed, and a gateway may run meanwhile: what it adds or removes in that time can then be told as a fault.
Everything is read once more, which takes as long as reading all images takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dockerapi.errors import InvalidParameter
from gateway.settings import Settings
from imgsources.layers import BlobTar
from imgsources.verify import Known, KnownLayer, examine, read


async def verify(settings: Settings) -> tuple[int, int, list[str]]:
    """(images, layers, faults); a fault is one line.  APIError where the platform cannot be asked."""
    images = settings.data_root / "images"
    if not images.is_dir():
        raise InvalidParameter(f"{settings.data_root} is no data root: it has no folder images")
    known = read(images, settings.data_root / "layers")
    wrong = {layer.uuid: words for layer in known.layers if (words := examine(layer))}
    faults = [*known.faults, *dict.fromkeys(wrong.values())]
    if settings.backend == "smartos":
        faults += await _on_smartos(settings, known)
    else:
        faults += _on_linux(settings, [(layer, layer.uuid not in wrong) for layer in known.layers])
    return len(known.images), len(known.layers), faults


def _on_linux(settings: Settings, layers: Sequence[tuple[KnownLayer, bool]]) -> Iterator[str]:
    """`layers` with whether their blob can be compared with."""
    from gateway.hosts.linux import verify as linux  # noqa: PLC0415

    folder = linux.datasets(settings)
    there = linux.present(folder)
    for layer, is_comparable in layers:
        if layer.uuid not in there:
            yield f"dataset {layer.uuid}, layer {layer.digest} of image {layer.image}: missing"
        elif there[layer.uuid] != layer.origin:
            yield f"dataset {layer.uuid}: it stands on {there[layer.uuid]}, not on {layer.origin}"
        elif layer.blob is not None and is_comparable and linux.is_readable(folder / layer.uuid):
            tar = BlobTar(layer.blob.open(), layer.diff_id, lambda _: None)
            try:
                wrong = linux.differences(folder / layer.uuid / "layer", tar.read)
            finally:
                tar.close()
            yield from (f"dataset {layer.uuid}: {line}" for line in wrong)


async def _on_smartos(settings: Settings, known: Known) -> list[str]:
    from gateway.hosts.smartos.verify import missing  # noqa: PLC0415

    return await missing(settings, {layer.uuid: layer.origin for layer in known.layers})
