"""`--link NAME:ALIAS`: links as clients write them, in dockerd's words.  Pure.  What links do: zones.links."""

from __future__ import annotations

from collections.abc import Sequence

from dockerapi.errors import InvalidParameter
from dockerapi.models.containers import HostConfig

_DEFAULT = ("", "default", "bridge")


def parse(text: str) -> tuple[str, str]:
    """Container and alias; `/name:/parent/alias` too, as inspect shows it.  InvalidParameter."""
    if not text:
        raise InvalidParameter("empty string specified for links")
    name, colon, alias = text.partition(":")
    if ":" in alias:
        raise InvalidParameter(f"bad format for links: {text}")
    if name.startswith("/"):
        return name[1:], alias.rpartition("/")[2] or name[1:]
    return name, alias if colon else name


def legacy(host: HostConfig) -> Sequence[tuple[str, str]]:
    """Container and alias of every link on the default network; elsewhere dockerd passes them over."""
    found = [parse(text) for text in host.links or ()]
    if found and host.network_mode == "host":
        raise InvalidParameter(
            "conflicting options: host type networking can't be used with links."
            " This would result in undefined behavior"
        )
    return found if host.network_mode in _DEFAULT else ()
