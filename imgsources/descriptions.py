"""Layers as Docker 1.9 and before described them, which dockerd 28 still writes into every saved archive.

Each layer has one, with an id that hashes it together with all layers below; the last layer's has what the image's
config says.  Nothing names these blobs, and nothing reads them: with them an archive is dockerd's, to the byte.
Bytes are those of Go's encoding/json, keys in the order of its structs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from imgsources.oci import Digest, ImageConfig, chain_ids, sha256

_EPOCH = "1970-01-01T00:00:00Z"
_ALWAYS: Mapping[str, Any] = {
    "Hostname": "",
    "Domainname": "",
    "User": "",
    "AttachStdin": False,
    "AttachStdout": False,
    "AttachStderr": False,
    "Tty": False,
    "OpenStdin": False,
    "StdinOnce": False,
    "Env": None,
    "Cmd": None,
    "Image": "",
    "Volumes": None,
    "WorkingDir": "",
    "Entrypoint": None,
    "OnBuild": None,
    "Labels": None,
}
_CONTAINER = (
    *("Hostname", "Domainname", "User", "AttachStdin", "AttachStdout", "AttachStderr"),
    *("ExposedPorts", "Tty", "OpenStdin", "StdinOnce", "Env", "Cmd", "Healthcheck", "ArgsEscaped"),
    *("Image", "Volumes", "WorkingDir", "Entrypoint", "NetworkDisabled", "MacAddress", "OnBuild"),
    *("Labels", "StopSignal", "StopTimeout", "Shell"),
)
_HEALTH = ("Test", "Interval", "Timeout", "StartPeriod", "StartInterval", "Retries")
_ESCAPED = str.maketrans({c: f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"})


def descriptions(config: ImageConfig) -> list[bytes]:
    """A blob for each layer of an image, base first."""
    document = json.loads(config.raw)
    parent: Digest | None = None
    found: list[bytes] = []
    for chain in (chains := chain_ids(config.diff_ids)):
        is_last = len(found) == len(chains) - 1
        described = _described(document if is_last else {"created": _EPOCH})
        identifier = _identifier(described, chain, parent)
        named = {"id": identifier[7:], **({"parent": parent[7:]} if parent else {})}
        system = {"os": document["os"]} if document.get("os") else {}
        found.append(go_json({**named, **described, **system}))
        parent = identifier
    return found


def _identifier(described: Mapping[str, Any], chain: str, parent: Digest | None) -> Digest:
    below = {"parent": parent} if parent else {}
    whole = {**described, "layer_id": chain, **below}
    return sha256(go_json(dict(sorted(whole.items()))))


def _described(document: Mapping[str, Any]) -> dict[str, Any]:
    """Of an image's config what such a description has room for, without id and parent."""
    described: dict[str, Any] = _set(document, ("comment",))
    described["created"] = _go_time(document.get("created"))
    described |= _set(document, ("container",))
    described["container_config"] = _container(_mapping(document.get("container_config")))
    described |= _set(document, ("docker_version", "author"))
    if isinstance(document.get("config"), dict):
        described["config"] = _container(document["config"])
    described |= _set(document, ("architecture", "variant", "os"))
    size = document.get("Size") or document.get("size")
    return described | ({"Size": size} if size else {})


def _container(config: Mapping[str, Any]) -> dict[str, Any]:
    """A container's config: keys that every one has, and of the others those that are set."""
    full = {**_ALWAYS, **{key: value for key, value in config.items() if value is not None}}
    found: dict[str, Any] = {}
    for key in _CONTAINER:
        value = full.get(key)
        if key == "Healthcheck" and isinstance(value, dict):
            found[key] = _set(value, _HEALTH)
        elif isinstance(value, dict) and (value or key in _ALWAYS):
            found[key] = dict(sorted(value.items()))
        elif value or key in _ALWAYS or (key == "StopTimeout" and value is not None):
            found[key] = value
    return found


def _set(document: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: document[key] for key in keys if document.get(key)}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _go_time(text: object) -> str | None:
    """As Go writes a time that it has read: no zeros at the end of a fraction, Z for +00:00."""
    if not text or not isinstance(text, str):
        return None
    text = re.sub(r"\.(\d*?)0*(?=[Z+-]|$)", lambda m: f".{m[1]}" if m[1] else "", text)
    return re.sub(r"[+-]00:00$", "Z", text)


def go_json(document: Mapping[str, Any]) -> bytes:
    """An object as encoding/json writes it: no spaces, what HTML means something by escaped."""
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    return text.translate(_ESCAPED).encode(errors="replace")
