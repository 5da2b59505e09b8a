"""The config of an image made of a container: what the client asks for, the container's, one more layer.  Pure.

request's Config | container's  --changes-->  merged with the container's  -->  Config of the image
parent's document + diff_id + history entry                                -->  config blob
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dockerapi.models.base import JSONObject
from dockerapi.models.containers import ContainerCreate
from gateway.translate.changes import changed
from imgsources.oci import Digest

# What Go writes only where there is something.
_LEFT_OUT = (
    "ExposedPorts",
    "Healthcheck",
    "ArgsEscaped",
    "NetworkDisabled",
    "MacAddress",
    "StopSignal",
    "Shell",
)
_KEPT = ("architecture", "variant", "os", "os.version", "os.features")


@dataclass(frozen=True, slots=True)
class Committed:
    """A container as it is when it is made an image: full id, Config, and which daemon does it when (RFC 3339)."""

    container_id: str
    config: Mapping[str, Any]
    created: str
    version: str
    author: str = ""
    comment: str = ""


def requested(body: ContainerCreate) -> JSONObject | None:
    """Config of the request's body; None if it asks for nothing."""
    if not body.model_fields_set - {"host_config", "networking_config"}:
        return None
    shown = body.model_dump(
        by_alias=True, mode="json", exclude={"host_config", "networking_config"}
    )
    if body.healthcheck is not None:
        shown["Healthcheck"] = _without_zeros(shown["Healthcheck"])
    return tidy(shown)


def image_config(
    asked: Mapping[str, Any] | None, container: Mapping[str, Any], changes: Sequence[str]
) -> JSONObject:
    """Config of the new image.  InvalidParameter in dockerd's words for a change that cannot be."""
    return tidy(_merged(changed(container if asked is None else asked, changes), container))


def _merged(own: JSONObject, container: Mapping[str, Any]) -> JSONObject:
    """What `own` leaves open comes from the container; lists of things are joined."""
    merged = dict(own)
    for key in ("User", "WorkingDir", "StopSignal"):
        merged[key] = own.get(key) or container.get(key)
    for key in ("ExposedPorts", "Volumes"):
        merged[key] = {**(own.get(key) or {}), **(container.get(key) or {})} or own.get(key)
    merged["Labels"] = {**(container.get("Labels") or {}), **(own.get("Labels") or {})} or None
    merged["Env"] = _env(own.get("Env") or [], container.get("Env") or [])
    if not own.get("Entrypoint"):
        if not own.get("Cmd"):
            merged["Cmd"] = container.get("Cmd")
        if own.get("Entrypoint") is None:
            merged["Entrypoint"] = container.get("Entrypoint")
    if container.get("Healthcheck"):
        merged["Healthcheck"] = {
            **container["Healthcheck"],
            **_without_zeros(own.get("Healthcheck") or {}),
        }
    return merged


def _env(own: Sequence[str], container: Sequence[str]) -> list[str]:
    names = {entry.partition("=")[0] for entry in own}
    return [*own, *(entry for entry in container if entry.partition("=")[0] not in names)]


def _without_zeros(health: Mapping[str, Any]) -> JSONObject:
    return {key: value for key, value in health.items() if value}


def tidy(config: Mapping[str, Any]) -> JSONObject:
    """A Config as an image has it: what is empty left out as Go does."""
    kept = {key: value for key, value in config.items() if key not in _LEFT_OUT or value}
    if kept.get("StopTimeout") is None:  # 0 is a timeout
        kept.pop("StopTimeout", None)
    for key in ("User", "WorkingDir"):
        kept[key] = kept.get(key) or ""
    return kept


def config_blob(
    parent: Mapping[str, Any], made: Committed, config: Mapping[str, Any], diff_id: Digest | None
) -> bytes:
    """The config of the image on top of `parent`, another image's config document.

    `diff_id` None: the container changed nothing, and then there is no layer, as in dockerd.
    """
    entry: JSONObject = {
        "created": made.created,
        "author": made.author,
        "created_by": " ".join(made.config.get("Cmd") or []),
        "comment": made.comment,
        "empty_layer": diff_id is None,
    }
    below = (parent.get("rootfs") or {}).get("diff_ids") or []
    document: JSONObject = {
        **{key: parent[key] for key in _KEPT if parent.get(key)},
        "author": made.author,
        "config": config,
        "container": made.container_id,
        "container_config": made.config,
        "created": made.created,
        "docker_version": made.version,
        "history": [
            *(parent.get("history") or []),
            {key: value for key, value in entry.items() if value},
        ],
        "rootfs": {
            "type": "layers",
            "diff_ids": [*below, *([] if diff_id is None else [diff_id])],
        },
    }
    if not made.author:
        del document["author"]
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
