"""Signals by name, as Docker's clients write them."""

from __future__ import annotations

import re
import signal

from dockerapi.errors import InvalidParameter

# libc keeps 32 and 33 to itself: SIGRTMIN is 34 for every program, and docker counts from there.
_RTMIN, _RTMAX = 34, 64
_ALIASES = {"SIGCLD": signal.SIGCHLD, "SIGPOLL": signal.SIGIO, "SIGIOT": signal.SIGABRT}
_NAMES: dict[str, int] = {
    **{item.name: int(item) for item in signal.Signals},
    **{name: int(number) for name, number in _ALIASES.items()},
    "SIGSTKFLT": 16,
    "SIGRTMIN": _RTMIN,
    "SIGRTMAX": _RTMAX,
}
_REAL_TIME = re.compile(r"^SIGRT(MIN\+|MAX-)(\d{1,2})$")


def number(name: str) -> int:
    """Of `SIGTERM`, `term`, `15`, `RTMIN+3`; InvalidParameter in dockerd's words."""
    if name.isascii() and name.isdigit() and 1 <= int(name) <= _RTMAX:
        return int(name)
    upper = name.upper()
    full = upper if upper.startswith("SIG") else f"SIG{upper}"
    if full in _NAMES:
        return _NAMES[full]
    if match := _REAL_TIME.match(full):
        offset = int(match[2])
        found = _RTMIN + offset if match[1] == "MIN+" else _RTMAX - offset
        if _RTMIN <= found <= _RTMAX:
            return found
    raise InvalidParameter(f"Invalid signal: {name}")
