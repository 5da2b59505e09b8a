"""Images as clients read them: rows, inspect, history; and which of them a filter means.  Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from dockerapi.errors import InvalidParameter
from dockerapi.filters import Filters
from dockerapi.models.base import JSONObject
from gateway.translate.status import go_time
from imgsources.catalog import Image

_SECOND = 1_000_000_000
_CONFIG = (
    "User",
    "ExposedPorts",
    "Env",
    "Entrypoint",
    "Cmd",
    "Volumes",
    "WorkingDir",
    "Labels",
    "StopSignal",
    "ArgsEscaped",
    "Healthcheck",
    "OnBuild",
    "Shell",
)
"""Configs that dockerd wrote have those of a container beside these."""
_UNITS = {"ns": 1, "us": 1000, "ms": 10**6, "s": _SECOND, "m": 60 * _SECOND, "h": 3600 * _SECOND}


def row(
    image: Image,
    tags: Sequence[str],
    repo_digests: Sequence[str],
    *,
    shared_size: int,
    containers: int,
) -> JSONObject:
    """One entry of GET /images/json; `shared_size` -1: not asked for."""
    return {
        "Id": image.id,
        "ParentId": image.parent or "",
        "RepoTags": list(tags),
        "RepoDigests": list(repo_digests),
        "Created": created_ns(image) // _SECOND,
        "Size": image.size,
        "SharedSize": shared_size,
        "Labels": image.config.config.get("Labels"),
        "Containers": containers,
    }


def inspect(image: Image, storage_driver: str) -> JSONObject:
    """GET /images/X/json."""
    config = image.config
    shown: JSONObject = {
        "Id": image.id,
        "RepoTags": [str(reference) for reference in image.references],
        "RepoDigests": list(image.repo_digests),
        "Parent": image.parent or "",
        "Comment": _comment(image),
        "Created": config.created,
        "DockerVersion": config.docker_version,
        "Author": config.author,
        "Config": _config(image),
        "Architecture": config.platform.architecture,
        "Variant": config.platform.variant,
        "Os": config.platform.os,
        "Size": image.size,
        "GraphDriver": {
            "Data": {"Dataset": image.uuid} if image.uuid else {},
            "Name": storage_driver,
        },
        "RootFS": {"Type": "layers", "Layers": list(config.diff_ids)},
        "Metadata": {"LastTagTime": go_time(image.last_tagged_ns)},
    }
    for key in ("Created", "Variant"):
        if not shown[key]:
            del shown[key]
    return shown | _made_of(image)


def _made_of(image: Image) -> JSONObject:
    """The container that it is a commit of, which only older clients ask for."""
    if image.parent is None:
        return {}
    document = json.loads(image.config.raw)
    named = {"Container": document["container"]} if document.get("container") else {}
    return {**named, "ContainerConfig": document.get("container_config")}


def _comment(image: Image) -> str:
    """Its own, else of the last thing that was done to make it."""
    last = image.config.history[-1].get("comment") if image.config.history else ""
    return image.config.comment or str(last or "")


def _config(image: Image) -> JSONObject:
    """What an image can set, as found, with the keys that clients look up unasked."""
    always: JSONObject = {
        "User": "",
        "Cmd": None,
        "Volumes": None,
        "WorkingDir": "",
        "Entrypoint": None,
        "OnBuild": None,
        "Labels": None,
    }
    found = image.config.config
    return always | {key: found[key] for key in _CONFIG if found.get(key) is not None}


def history(
    image: Image, sizes: Sequence[int], ancestors: Sequence[Image] = ()
) -> list[JSONObject]:
    """Newest first.  `sizes` of the layers, base first; an image without history shows its layers.

    The newest entries are known by the image's id and those of its ancestors, nearest first.
    """
    entries = image.config.history or tuple({} for _ in sizes)
    left = list(sizes)
    rows: list[JSONObject] = []
    for entry in entries:
        size = 0 if entry.get("empty_layer") or not left else left.pop(0)
        rows.append(
            {
                "Id": "<missing>",
                "Created": _time_ns(str(entry.get("created") or "")) // _SECOND,
                "CreatedBy": entry.get("created_by", ""),
                "Tags": None,
                "Size": size,
                "Comment": entry.get("comment", ""),
            }
        )
    rows.reverse()
    for row, known in zip(rows, (image, *ancestors), strict=False):
        tags = [str(reference) for reference in known.references]
        row |= {"Id": known.id, "Tags": tags or None}
    return rows


def created_ns(image: Image) -> int:
    """When it was built; 0 if it does not say."""
    return _time_ns(image.config.created)


def _time_ns(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return 0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0, int(moment.timestamp())) * _SECOND + moment.microsecond * 1000


class ImageTests:
    """Filters of the image list.  InvalidParameter, NoSuchImage for what cannot be meant."""

    def __init__(self, filters: Filters, get: Callable[[str], Image], now_ns: int) -> None:
        self._filters = filters
        self._dangling = filters.boolean("dangling")
        self._before = [created_ns(get(text)) for text in filters.get("before")]
        self._since = [created_ns(get(text)) for text in filters.get("since")]
        self._until = [until_ns(text, now_ns) for text in filters.get("until")]
        self._patterns = [glob(text) for text in filters.get("reference")]

    def holds(self, image: Image) -> bool:
        """All of them but `reference`, which chooses among an image's names."""
        moment = created_ns(image)
        labels = image.config.config.get("Labels") or {}
        unnamed = not image.references
        return (
            (self._dangling is None or self._dangling is unnamed)
            and all(moment < limit for limit in (*self._before, *self._until))
            and all(moment > limit for limit in self._since)
            and self._filters.match_labels(labels)
            and not ("label!" in self._filters and self._filters.match_labels(labels, "label!"))
        )

    def names(self, image: Image) -> tuple[list[str], list[str]]:
        """RepoTags and RepoDigests to show."""
        tags = [str(reference) for reference in image.references]
        digests = list(image.repo_digests)
        if not self._patterns:
            return tags, digests
        return [t for t in tags if self._fits(t)], [d for d in digests if self._fits(d)]

    def _fits(self, text: str) -> bool:
        bare = text.partition("@")[0]
        head, colon, tail = bare.rpartition(":")
        name = head if colon and "/" not in tail else bare
        forms = {text, name}
        first = name.partition("/")[0]
        if "." not in first and ":" not in first and first != "localhost":
            prefix = "docker.io/" if "/" in name else "docker.io/library/"
            forms |= {prefix + form for form in tuple(forms)}
        return any(pattern.fullmatch(form) for pattern in self._patterns for form in forms)


def glob(pattern: str) -> re.Pattern[str]:
    """Go's path.Match: * and ? stop at slashes.  InvalidParameter for a broken class."""
    text, place = "", 0
    while place < len(pattern):
        char = pattern[place]
        place += 1
        if char == "*":
            text += "[^/]*"
        elif char == "?":
            text += "[^/]"
        elif char == "[":
            end = pattern.find("]", place + 1)
            if end < 0:
                raise InvalidParameter(
                    f"invalid filter 'reference={pattern}': syntax error in pattern"
                )
            inner = pattern[place:end].replace("\\", "\\\\")
            text += f"[{inner}]"
            place = end + 1
        else:
            text += re.escape(char)
    return re.compile(text)


def _moment(text: str) -> datetime:
    """An ISO 8601 time; ValueError."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        # Half a megabyte for the forms that hardly anybody writes: 2026-11, 2026-W47-1.
        from dateutil.parser import isoparse  # noqa: PLC0415

        return isoparse(text)


def until_ns(text: str, now_ns: int) -> int:
    """A unix time, an RFC 3339 time, or a Go duration before now."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return int(float(text) * _SECOND)
    parts = re.findall(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h)", text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return now_ns - int(sum(float(number) * _UNITS[unit] for number, unit in parts))
    try:
        moment = _moment(text)
    except ValueError as error:
        raise InvalidParameter(f"invalid filter 'until={text}'") from error
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()) * _SECOND
