"""API versions: parsing, negotiation, and what an older version's answers look like.  No I/O.

    /v1.41/containers/json   the client speaks 1.41
    /containers/json         the newest

Engines make answers in the newest shape; the `*_for` functions take away or put back what the client's
version did not or did have.  Shims of request bodies are in `routes.shims`, beside the models' users.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from dockerapi.errors import InvalidParameter, PageNotFound

_PREFIX = re.compile(r"/v([0-9.]+)(/.*)", re.DOTALL)


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """Compared number by number: 1.9 < 1.41."""

    major: int
    minor: int

    @classmethod
    def parse(cls, text: str) -> Version:
        """`1.41`, or `1` for 1.0; PageNotFound for anything that is no version."""
        major, _, minor = text.partition(".")
        # int() takes more than digits (`1_0`), and the path gets here as the client sent it.
        if not (major.isdecimal() and (minor.isdecimal() or minor == "")) or len(text) > 12:
            raise PageNotFound
        return cls(int(major), int(minor or 0))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


MINIMUM = Version(1, 24)
CURRENT = Version(1, 51)


class ClientTooOld(InvalidParameter):
    """dockerd 28 answers this one as plain text: clients that old read no JSON."""

    def __init__(self, asked: str) -> None:
        super().__init__(
            f"client version {asked} is too old. Minimum supported API version is {MINIMUM}, "
            "please upgrade your client to a newer version"
        )


def negotiate(path: str) -> tuple[Version, str]:
    """The version asked for and the path without it; InvalidParameter when out of our range."""
    found = _PREFIX.fullmatch(path)
    if found is None:
        return CURRENT, path
    text, rest = found.groups()
    return _in_range(text), rest


@lru_cache(maxsize=64)
def _in_range(text: str) -> Version:
    asked = Version.parse(text)
    if asked < MINIMUM:
        raise ClientTooOld(text)
    if asked > CURRENT:
        raise InvalidParameter(
            f"client version {text} is too new. Maximum supported API version is {CURRENT}"
        )
    return asked


Answer = dict[str, Any]
_Shim = Callable[[Answer], None]


def _apply(answer: Answer, version: Version, shims: list[tuple[str, _Shim]]) -> None:
    """Every shim whose version is above the client's; `1.44` means: new in 1.44."""
    for text, shim in shims:
        if version < Version.parse(text):
            shim(answer)


def _without(*keys: str) -> _Shim:
    def shim(answer: Answer) -> None:
        for key in keys:
            answer.pop(key, None)

    return shim


def _short_id_aliases(answer: Answer) -> None:
    """Until 1.45 the aliases on user networks held the short id and the hostname."""
    short, hostname = answer.get("Id", "")[:12], (answer.get("Config") or {}).get("Hostname", "")
    networks = (answer.get("NetworkSettings") or {}).get("Networks") or {}
    for name, endpoint in networks.items():
        if name in {"bridge", "host", "none", "default"} or name.startswith("container:"):
            continue
        aliases = [*(endpoint.get("Aliases") or ()), short, hostname]
        endpoint["Aliases"] = list(dict.fromkeys(alias for alias in aliases if alias))


def _host_annotations(answer: Answer) -> None:
    (answer.get("HostConfig") or {}).pop("Annotations", None)


_INSPECT: list[tuple[str, _Shim]] = [
    ("1.45", _short_id_aliases),
    ("1.48", _without("ImageManifestDescriptor")),
]


def inspect_for(version: Version, answer: Answer) -> Answer:
    """A container's inspect as `version` has it; `answer` stays as it is."""
    if version >= Version(1, 48):
        return answer
    answer = _copy(answer)
    _apply(answer, version, _INSPECT)
    return answer


_ROW: list[tuple[str, _Shim]] = [
    ("1.46", _host_annotations),
    ("1.48", _without("ImageManifestDescriptor")),
]
_ROW_WORDS = (b'"Annotations"', b'"ImageManifestDescriptor"')


def rows_need_change(version: Version, rows: bytes) -> bool:
    """Whether the serialised container list has anything that `version` does not know."""
    return version < Version(1, 48) and any(word in rows for word in _ROW_WORDS)


def row_for(version: Version, row: Answer) -> Answer:
    """One entry of the container list; `row` is changed."""
    _apply(row, version, _ROW)
    return row


def _virtual_size(answer: Answer) -> None:
    answer["VirtualSize"] = answer.get("Size", 0)


def _none_names(answer: Answer) -> None:
    """Until 1.43 an image without a name had one: `<none>:<none>`."""
    if not answer.get("RepoTags") and not answer.get("RepoDigests"):
        answer["RepoTags"] = ["<none>:<none>"]
        answer["RepoDigests"] = ["<none>@<none>"]


def _uncounted(answer: Answer) -> None:
    """Until 1.51 nobody counted the containers of an image; `system df` did."""
    answer["Containers"] = -1


_IMAGE_ROW: list[tuple[str, _Shim]] = [
    ("1.43", _none_names),
    ("1.44", _virtual_size),
    ("1.47", _without("Manifests")),
    ("1.48", _without("Descriptor")),
    ("1.51", _uncounted),
]


def image_row_for(version: Version, row: Answer) -> Answer:
    """One entry of the image list."""
    row = dict(row)
    _apply(row, version, _IMAGE_ROW)
    return row


_CONFIG_DEFAULTS: Answer = {
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


def _whole_config(answer: Answer) -> None:
    """Until 1.50 an image's Config was a container's, with everything an image cannot set."""
    answer["Config"] = {**_CONFIG_DEFAULTS, **(answer.get("Config") or {})}


def _container_config(answer: Answer) -> None:
    """Until 1.45 the container that it was made of; of an image that was pulled nobody knows it any more."""
    answer.setdefault("ContainerConfig", dict(_CONFIG_DEFAULTS))


def _created(answer: Answer) -> None:
    """Until 1.44 what has no time had the first of all."""
    answer.setdefault("Created", "0001-01-01T00:00:00Z")


_IMAGE: list[tuple[str, _Shim]] = [
    ("1.44", _virtual_size),
    ("1.44", _created),
    ("1.45", _container_config),
    ("1.48", _without("Descriptor", "Manifests")),
    ("1.50", _whole_config),
]


def image_for(version: Version, answer: Answer) -> Answer:
    """An image's inspect."""
    answer = dict(answer)
    if version >= Version(1, 45):
        _without("Container", "ContainerConfig")(answer)
    _apply(answer, version, _IMAGE)
    return answer


def _bridge_netfilter(answer: Answer) -> None:
    answer.setdefault("BridgeNfIptables", False)
    answer.setdefault("BridgeNfIp6tables", False)


def _expected_commits(answer: Answer) -> None:
    """Until 1.49 each component's commit had the one that the daemon was built for."""
    for key in ("ContainerdCommit", "RuncCommit", "InitCommit"):
        commit = answer.get(key)
        if commit and commit.get("ID"):
            answer[key] = {**commit, "Expected": commit["ID"]}


def _kernel_memory(answer: Answer) -> None:
    answer.setdefault("KernelMemory", False)


def _runtime_paths(answer: Answer) -> None:
    """What a runtime says of itself came with 1.44."""
    answer["Runtimes"] = {
        name: {key: value for key, value in runtime.items() if key != "status"}
        for name, runtime in (answer.get("Runtimes") or {}).items()
    }


def _nondistributable(answer: Answer) -> None:
    """Until 1.47 the registries that layers not to be handed on might be pushed to."""
    answer["RegistryConfig"] = {
        "AllowNondistributableArtifactsCIDRs": None,
        "AllowNondistributableArtifactsHostnames": None,
        **(answer.get("RegistryConfig") or {}),
    }


def _security_names(answer: Answer) -> None:
    """Until 1.25 security options were bare names."""
    options = [dict(p.partition("=")[::2] for p in o.split(",")) for o in answer["SecurityOptions"]]
    answer["SecurityOptions"] = [option.get("name", "") for option in options]


_INFO: list[tuple[str, _Shim]] = [
    ("1.25", _security_names),
    ("1.42", _kernel_memory),
    ("1.44", _runtime_paths),
    ("1.46", _without("Containerd")),
    ("1.49", _expected_commits),
    ("1.47", _nondistributable),
    ("1.49", _without("FirewallBackend")),
    ("1.50", _without("DiscoveredDevices")),
    ("1.50", _bridge_netfilter),
]


def info_for(version: Version, answer: Answer) -> Answer:
    """GET /info."""
    answer = dict(answer)
    _apply(answer, version, _INFO)
    return answer


def disk_usage_for(version: Version, answer: Answer) -> Answer:
    """GET /system/df."""
    answer = dict(answer)
    cached = sum(record.get("Size", 0) for record in answer.get("BuildCache") or ())
    if cached and version < Version(1, 42):
        answer["BuilderSize"] = cached
    if answer.get("Images") is not None:
        answer["Images"] = [_counted_row(version, row) for row in answer["Images"]]
    return answer


def _counted_row(version: Version, row: Answer) -> Answer:
    return image_row_for(version, row) | {"Containers": row.get("Containers", -1)}


def _copy(answer: Answer) -> Answer:
    """Deep for the objects that shims change: the engine may keep its answer."""
    return {
        key: _copy(value) if isinstance(value, dict) else value for key, value in answer.items()
    }
