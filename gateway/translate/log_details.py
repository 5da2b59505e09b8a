"""What `docker logs --details` puts before each line: labels, variables and the tag that the log options name."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from urllib.parse import quote_plus

from dockerapi.errors import InvalidParameter
from gateway.translate import from_zone
from gateway.zones.host import Zone

_FIELD = re.compile(r"\{\{\s*\.(\w+)\s*\}\}")
_TAG: Mapping[str, Callable[[Zone], str]] = {
    "ID": lambda zone: zone.metadata.id[:12],
    "FullID": lambda zone: zone.metadata.id,
    "Name": lambda zone: zone.spec.alias or "",
    "ImageID": lambda zone: zone.metadata.image_id.removeprefix("sha256:")[:12],
    "ImageFullID": lambda zone: zone.metadata.image_id,
    "ImageName": lambda zone: zone.metadata.image_name,
    "Hostname": lambda zone: zone.spec.hostname or "",
    "Command": lambda zone: " ".join(zone.metadata.argv),
    "DaemonName": lambda _: "docker",
}


def check(options: Mapping[str, str]) -> None:
    """InvalidParameter for an expression or a template that cannot be followed."""
    for name in ("labels-regex", "env-regex"):
        try:
            re.compile(options.get(name, ""))
        except re.error as error:
            raise InvalidParameter(f"invalid log opt '{name}': {error}") from error
    tag = options.get("tag", "")
    if "{{" in _FIELD.sub("", tag) or not set(_FIELD.findall(tag)) <= set(_TAG):
        raise InvalidParameter(f"invalid log opt 'tag': template {tag} is not understood")


def prefix(zone: Zone) -> str:
    """`k=v,k2=v2 `, sorted by key."""
    options = zone.metadata.log_config
    env = dict(entry.partition("=")[::2] for entry in from_zone.config(zone).get("Env") or [])
    found = _chosen(from_zone.labels(zone), options.get("labels"), options.get("labels-regex"))
    found |= _chosen(env, options.get("env"), options.get("env-regex"))
    if options.get("tag"):
        found["tag"] = _FIELD.sub(lambda match: _TAG[match[1]](zone), options["tag"])
    words = (f"{quote_plus(key)}={quote_plus(value)}" for key, value in sorted(found.items()))
    return ",".join(words) + " "


def _chosen(values: Mapping[str, str], names: str | None, pattern: str | None) -> dict[str, str]:
    named = set((names or "").split(","))
    return {
        key: value
        for key, value in values.items()
        if key in named or (pattern and re.search(pattern, key))
    }
