"""Health checks: what Config.Healthcheck asks for, what a probe's result makes of a container's health.  Pure.

    starting --success--> healthy --`retries` failures in a row--> unhealthy --success--> healthy
        `------`retries` failures after the start period------------^
    not probed (paused, stopped): unhealthy, as dockerd shows it

Rules and defaults are moby's.  When probes run is engine/health.py's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

STARTING, HEALTHY, UNHEALTHY, NONE = "starting", "healthy", "unhealthy", "none"
OUTPUT_LIMIT = 4096
"""Bytes of a probe's output that are kept."""
_LOG_LENGTH = 5
_SECOND = 1_000_000_000
_INTERVAL_NS = 30 * _SECOND
_TIMEOUT_NS = 30 * _SECOND
_START_INTERVAL_NS = 5 * _SECOND
_RETRIES = 3
_SHELL = ["/bin/sh", "-c"]


@dataclass(frozen=True, slots=True)
class Check:
    """A health check with every default filled in.  Times are nanoseconds."""

    argv: tuple[str, ...]
    interval_ns: int = _INTERVAL_NS
    timeout_ns: int = _TIMEOUT_NS
    start_period_ns: int = 0
    start_interval_ns: int = _START_INTERVAL_NS
    retries: int = _RETRIES

    def wait_ns(self, status: str, up_ns: int) -> int:
        """How long until the next probe of a container that has run for `up_ns`."""
        is_early = status == STARTING and up_ns < self.start_period_ns
        return self.start_interval_ns if is_early else self.interval_ns


@dataclass(frozen=True, slots=True)
class Result:
    """What one probe came to.  `exit_code` -1: it could not run, or took too long."""

    start_ns: int
    end_ns: int
    exit_code: int
    output: str


@dataclass(frozen=True, slots=True)
class Health:
    """State.Health; a new value at every change."""

    status: str = STARTING
    streak: int = 0
    log: tuple[Result, ...] = ()

    def after(self, result: Result, check: Check, started_ns: int) -> Health:
        """With one more result, of a container that runs since `started_ns`."""
        log = (*self.log, result)[-_LOG_LENGTH:]
        if result.exit_code == 0:
            return Health(HEALTHY, 0, log)
        is_early = result.start_ns - started_ns < check.start_period_ns
        if self.status == STARTING and is_early:
            return replace(self, log=log)
        streak = self.streak + 1
        return Health(UNHEALTHY if streak >= check.retries else self.status, streak, log)

    def restarted(self) -> Health:
        """A new run begins; results of the last one stay to be read."""
        return Health(log=self.log)

    def unwatched(self) -> Health:
        """Nobody looks any more."""
        return replace(self, status=UNHEALTHY)

    @property
    def text(self) -> str:
        """What `docker ps` puts into brackets."""
        return "health: starting" if self.status == STARTING else self.status


def check_of(config: Mapping[str, Any]) -> Check | None:
    """What is to be run in a container of this Config; None without a health check."""
    wanted = config.get("Healthcheck")
    argv = _argv(wanted.get("Test") or (), config.get("Shell") or _SHELL) if wanted else ()
    if not wanted or not argv:
        return None
    return Check(
        argv,
        interval_ns=wanted.get("Interval") or _INTERVAL_NS,
        timeout_ns=wanted.get("Timeout") or _TIMEOUT_NS,
        start_period_ns=wanted.get("StartPeriod") or 0,
        start_interval_ns=wanted.get("StartInterval") or _START_INTERVAL_NS,
        retries=wanted.get("Retries") or _RETRIES,
    )


def _argv(test: Any, shell: list[str]) -> tuple[str, ...]:
    match list(test):
        case ["CMD", *command]:
            return tuple(command)
        case ["CMD-SHELL", *command]:
            return (*shell, *command)
        case _:  # NONE; a word that dockerd does not know either checks nothing
            return ()


def output_text(data: bytes) -> str:
    """Of a probe, as the log keeps it; dots say that there was more."""
    text = data[:OUTPUT_LIMIT].decode(errors="replace")
    return f"{text}..." if len(data) > OUTPUT_LIMIT else text


def exceeded(timeout_ns: int, output: str) -> str:
    """What the log says of a probe that was ended."""
    words = f"Health check exceeded timeout ({go_duration(timeout_ns)})"
    return f"{words}: {output}" if output else words


def go_duration(ns: int) -> str:
    """As Go prints a time.Duration: 1.5s, 2m0s, 300ms."""
    if ns < _SECOND:
        for unit, size in (("ms", 1_000_000), ("µs", 1_000), ("ns", 1)):
            if ns >= size:
                return f"{_decimal(ns, size)}{unit}"
        return "0s"
    minutes, rest = divmod(ns, 60 * _SECOND)
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{head}{_decimal(rest, _SECOND)}s"


def _decimal(value: int, unit: int) -> str:
    whole, part = divmod(value, unit)
    digits = str(part).rjust(len(str(unit)) - 1, "0").rstrip("0") if part else ""
    return f"{whole}.{digits}" if digits else str(whole)
