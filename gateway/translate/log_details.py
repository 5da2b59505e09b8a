"""What log options say of a container besides its output: labels, variables, the tag.  Pure.

`docker logs --details` puts it before each line; drivers that send logs elsewhere send it along.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote_plus

from dockerapi.errors import InvalidParameter
from gateway.translate import from_zone
from gateway.translate.gotemplate import Template, TemplateError
from gateway.translate.status import go_time
from gateway.zones.host import Zone

_OF = "*logger.Info"
_TEXTS = (
    "ID", "FullID", "Name", "ImageID", "ImageFullID", "ImageName", "Hostname", "Command", "DaemonName", "LogPath",
    "ContainerID", "ContainerName", "ContainerEntrypoint", "ContainerImageID", "ContainerImageName", "ContainerCreated",
)  # fmt: skip
_NO_ZONE: dict[str, object] = dict.fromkeys(_TEXTS, "") | {
    "ContainerArgs": [],
    "ContainerEnv": [],
    "ContainerLabels": {},
    "Config": {},
}


def check(options: Mapping[str, str]) -> None:
    """InvalidParameter for an expression or a template that cannot be followed."""
    for name in ("labels-regex", "env-regex"):
        try:
            re.compile(options.get(name, ""))
        except re.error as error:
            raise InvalidParameter(f"error parsing regexp: {_go_words(error)}") from error
    try:
        Template(options.get("tag", ""), of=_OF).check(_NO_ZONE)
    except TemplateError as error:
        words = str(error).replace("executing at", 'executing "log-tag" at')
        raise InvalidParameter(f"template: log-tag:{words}") from error


def _go_words(error: re.error) -> str:
    """What Go's regexp says of the commonest faults."""
    pattern = str(error.pattern)
    if "unterminated subpattern" in error.msg:
        return f"missing closing ): `{pattern}`"
    if "unterminated character set" in error.msg:
        return f"missing closing ]: `{pattern[error.pos or 0 :]}`"
    if "nothing to repeat" in error.msg:
        return f"missing argument to repetition operator: `{pattern[error.pos or 0 :][:1]}`"
    return f"{error.msg}: `{pattern}`"


def tag(zone: Zone, default: str = "") -> str:
    """The tag that the options ask for, or the template `default`."""
    data, config = zone.metadata, from_zone.config(zone)
    words = data.argv or ("",)
    template = Template(data.log_config.get("tag") or default, of=_OF)
    return template.render(
        {
            "ID": data.id[:12],
            "FullID": data.id,
            "Name": zone.spec.alias or "",
            "ImageID": data.image_id.removeprefix("sha256:")[:12],
            "ImageFullID": data.image_id,
            "ImageName": data.image_name,
            "Hostname": zone.spec.hostname or "",
            "Command": command(zone),
            "DaemonName": "docker",
            "LogPath": "",
            "ContainerID": data.id,
            "ContainerName": f"/{zone.spec.alias}",
            "ContainerEntrypoint": words[0],
            "ContainerArgs": list(words[1:]),
            "ContainerImageID": data.image_id,
            "ContainerImageName": data.image_name,
            "ContainerCreated": go_time(zone.created_ns),
            "ContainerEnv": list(config.get("Env") or []),
            "ContainerLabels": dict(from_zone.labels(zone)),
            "Config": dict(data.log_config),
        }
    )


def command(zone: Zone) -> str:
    """The program and its arguments, in one."""
    return " ".join(zone.metadata.argv)


def attributes(zone: Zone) -> dict[str, str]:
    """Labels and variables that the options name."""
    options = zone.metadata.log_config
    env = dict(entry.partition("=")[::2] for entry in from_zone.config(zone).get("Env") or [])
    found = _chosen(from_zone.labels(zone), options.get("labels"), options.get("labels-regex"))
    return found | _chosen(env, options.get("env"), options.get("env-regex"))


def prefix(zone: Zone) -> str:
    """`k=v,k2=v2 `, sorted by key."""
    found = attributes(zone)
    if zone.metadata.log_config.get("tag"):
        found["tag"] = tag(zone)
    words = (f"{quote_plus(key)}={quote_plus(value)}" for key, value in sorted(found.items()))
    return ",".join(words) + " "


def _chosen(values: Mapping[str, str], names: str | None, pattern: str | None) -> dict[str, str]:
    named = set((names or "").split(","))
    return {
        key: value
        for key, value in values.items()
        if key in named or (pattern and re.search(pattern, key))
    }
