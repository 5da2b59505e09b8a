"""Pull events as the JSON messages that the CLI draws its bars from."""

from __future__ import annotations

from dockerapi.models.base import JSONObject
from imgsources.transfers import PullEvent

_BAR = 50


def message(event: PullEvent) -> JSONObject:
    """{status, id, progressDetail, progress}, what does not apply left out as dockerd does."""
    found: JSONObject = {"status": event.status}
    # The first line names the tag in `id` and is no layer's.
    is_layer = bool(event.id) and not event.status.startswith("Pulling from ")
    if is_layer:
        found["progressDetail"] = {}
    if is_layer and event.current is not None:
        detail = {"current": event.current, "total": event.total}
        found["progressDetail"] = {key: value for key, value in detail.items() if value}
        if text := bar(event.current, event.total or 0):
            found["progress"] = text
    if event.id:
        found["id"] = event.id
    return found


def bar(current: int, total: int) -> str:
    """`[==>    ]  1.05MB/8MB`, as moby's jsonmessage prints it."""
    if current <= 0 and total <= 0:
        return ""
    if total <= 0:
        return f"{human_size(current):>8}"
    filled = min(_BAR, int(current / total * 100) // 2)
    numbers = f"{human_size(current):>8}"
    if current <= total:
        numbers += f"/{human_size(total)}"
    return f"[{'=' * filled}>{' ' * (_BAR - filled)}] {numbers}"


def human_size(size: float) -> str:
    """Four digits and a decimal unit."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000:
            return f"{size:.4g}{unit}"
        size /= 1000
    return f"{size:.4g}PB"
