"""The restart policy, by dockerd's rules.  Pure: times and exits come in, a delay comes out.

    always            every exit, unless stopped by hand; after a restart of the gateway even then
    unless-stopped    every exit, unless stopped by hand
    on-failure[:N]    exits other than 0, at most N times

The delay doubles from 100 ms to a minute; a run of ten seconds makes it 100 ms again.  Timers are the
zones' business (zones.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 60.0
STEADY_RUN_S = 10.0

Name = Literal["no", "always", "unless-stopped", "on-failure"]


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """`attempts` bounds on-failure; 0 = no bound."""

    name: Name = "no"
    attempts: int = 0

    @classmethod
    def parse(cls, text: str) -> RestartPolicy:
        """docker:restartpolicy; ValueError for what dockerd has no word for."""
        word, _, bound = text.partition(":")
        match word:
            case "" | "no":
                return cls()
            case "always" | "unless-stopped":
                return cls(word)
            case "on-failure":
                return cls(word, int(bound or 0))
            case _:
                raise ValueError(f"unknown restart policy {text!r}")

    def wants(self, *, exit_code: int, restarts: int, stopped_by_hand: bool) -> bool:
        """Whether a zone that ended so starts again."""
        match self.name:
            case "no":
                return False
            case "always":
                return True
            case "unless-stopped":
                return not stopped_by_hand
            case "on-failure":
                return exit_code != 0 and (self.attempts == 0 or restarts < self.attempts)


@dataclass(frozen=True, slots=True)
class BackOff:
    """The delay before the last restart; 0 = there was none."""

    delay_s: float = 0.0

    def after(self, ran_s: float) -> BackOff:
        """The delay before the next one, after a run of `ran_s` seconds."""
        if ran_s >= STEADY_RUN_S or self.delay_s == 0:
            return replace(self, delay_s=FIRST_DELAY_S)
        return replace(self, delay_s=min(self.delay_s * 2, LONGEST_DELAY_S))
