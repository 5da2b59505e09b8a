"""Names of other containers as text for a zone's /etc/hosts: the value of `docker:linkHosts`.  Pure.

vmadm puts it into the zone's hosts file at create, and again when an update changes it.  That is how containers
find each other by name where their zones cannot reach the gateway's name server.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

KEY = "docker:linkHosts"
"""Of internal_metadata."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Somebody to be found by name; the first name is the one that an address is shown with."""

    address: str
    names: tuple[str, ...]


def link_hosts(neighbours: Iterable[Neighbour]) -> str:
    """A line each, `ADDRESS<tab>NAME NAME...`, in a stable order, so that an update without a change is none.

    Names stay in the order given, each once; who has no address or no name is left out.
    """
    lines = {
        f"{one.address}\t{' '.join(dict.fromkeys(filter(None, one.names)))}\n"
        for one in neighbours
        if one.address and any(one.names)
    }
    return "".join(sorted(lines))
