"""Signals by name and number, as moby's signal package reads them."""

from __future__ import annotations

import signal

from dockerapi.errors import InvalidParameter

_RTMIN = 34
_RTMAX = 64
_NUMBERS = {s.name: int(s) for s in signal.Signals if not s.name.startswith("SIGRT")}
_NUMBERS |= {"SIGIOT": 6, "SIGCLD": 17, "SIGPOLL": 29, "SIGUNUSED": 31, "SIGSTKFLT": 16}
_NUMBERS |= {"SIGRTMIN": _RTMIN, "SIGRTMAX": _RTMAX}
_NUMBERS |= {f"SIGRTMIN+{n}": _RTMIN + n for n in range(1, 16)}
_NUMBERS |= {f"SIGRTMAX-{n}": _RTMAX - n for n in range(1, 15)}
_NAMES = {int(s): s.name for s in signal.Signals if not s.name.startswith("SIGRT")}
_NAMES |= {16: "SIGSTKFLT", _RTMIN: "SIGRTMIN", _RTMAX: "SIGRTMAX"}
_NAMES |= {_RTMIN + n: f"SIGRTMIN+{n}" for n in range(1, 30)}


def signal_name(text: str) -> str:
    """`9`, `kill`, `SIGKILL` -> SIGKILL.  InvalidParameter(`invalid signal: X`)."""
    if text.isdecimal():
        name = _NAMES.get(int(text), "")
    else:
        upper = text.upper()
        name = upper if upper.startswith("SIG") else f"SIG{upper}"
    if name not in _NUMBERS and name not in _NAMES.values():
        raise InvalidParameter(f"invalid signal: {text}")
    return name


def sent_signal(text: str) -> str:
    """The same, for a signal that is to be sent: a number that no signal has is refused in other words."""
    try:
        return signal_name(text)
    except InvalidParameter as error:
        number = int(text) if text.removeprefix("-").isdecimal() else 0
        if number == 0:
            raise
        raise InvalidParameter(f"the linux daemon does not support signal {number}") from error


def signal_number(text: str) -> int:
    """Its number."""
    name = signal_name(text)
    if name in _NUMBERS:
        return _NUMBERS[name]
    return next(number for number, known in _NAMES.items() if known == name)
