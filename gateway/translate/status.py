"""A zone's state in Docker's words: status, exit code, times, and the texts of `docker ps`."""

from __future__ import annotations

from datetime import UTC, datetime

from dockerapi.models.base import JSONObject
from gateway.translate.health import Health
from gateway.zones.host import Zone
from gateway.zones.spec import ZoneState

ZERO_TIME = "0001-01-01T00:00:00Z"
_SECOND = 1_000_000_000


def go_time(ns: int) -> str:
    """RFC3339Nano as Go prints it: no trailing zeros; 0 is Go's zero time."""
    if ns <= 0:
        return ZERO_TIME
    seconds, fraction = divmod(ns, _SECOND)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    digits = f".{fraction:09d}".rstrip("0") if fraction else ""
    return f"{text}{digits}Z"


def exit_code(zone: Zone) -> int:
    """128 + n for a signal; of a failed start what the shell would say."""
    if zone.error and zone.start_exit_code:
        return zone.start_exit_code
    return zone.exit_status if zone.exit_status >= 0 else 128 - zone.exit_status


def status(zone: Zone) -> str:
    """created, running, paused, restarting, removing, exited."""
    match zone.state:
        case ZoneState.RUNNING:
            return "running"
        case ZoneState.PAUSED:
            return "paused"
        case ZoneState.RESTARTING:
            return "restarting"
        case ZoneState.STOPPING:
            # Halting is still running for Docker; what has no process any more is on its way out.
            return "running" if zone.pid else "removing"
        case ZoneState.STOPPED:
            return "exited" if zone.finished_ns else "created"


def state(zone: Zone, health: Health | None = None) -> JSONObject:
    """State of inspect; `health` None: nobody checks it."""
    word = status(zone)
    up = word in ("running", "paused", "restarting")
    return {
        "Status": word,
        "Running": up,
        "Paused": word == "paused",
        "Restarting": word == "restarting",
        "OOMKilled": zone.oom_killed,
        "Dead": False,
        "Pid": zone.pid if word in ("running", "paused") else 0,
        "ExitCode": 0 if word in ("running", "paused") else exit_code(zone),
        "Error": zone.error,
        "StartedAt": go_time(zone.started_ns),
        "FinishedAt": go_time(_finished(zone, word)),
    } | ({"Health": _health(health)} if health else {})


def _health(health: Health) -> JSONObject:
    return {
        "Status": health.status,
        "FailingStreak": health.streak,
        "Log": [
            {
                "Start": go_time(result.start_ns),
                "End": go_time(result.end_ns),
                "ExitCode": result.exit_code,
                "Output": result.output,
            }
            for result in health.log
        ],
    }


def _finished(zone: Zone, word: str) -> int:
    return 0 if word == "created" else zone.finished_ns


def status_text(zone: Zone, now_ns: int, health: Health | None = None) -> str:
    """Status of a row: `Up 2 seconds (healthy)`, `Exited (1) 3 seconds ago`, `Created`."""
    match status(zone):
        case "running":
            words = f" ({health.text})" if health else ""
            return f"Up {duration(now_ns - zone.started_ns)}{words}"
        case "paused":
            return f"Up {duration(now_ns - zone.started_ns)} (Paused)"
        case "restarting":
            return f"Restarting ({exit_code(zone)}) {duration(now_ns - zone.finished_ns)} ago"
        case "exited":
            return f"Exited ({exit_code(zone)}) {duration(now_ns - zone.finished_ns)} ago"
        case "removing":
            return "Removal In Progress"
        case _:
            return "Created"


def duration(ns: int) -> str:
    """docker/go-units HumanDuration."""
    seconds = max(0, ns) // _SECOND
    minutes, hours = seconds // 60, round(seconds / 3600)
    steps = (
        (seconds < 1, "Less than a second"),
        (seconds == 1, "1 second"),
        (seconds < 60, f"{seconds} seconds"),
        (minutes == 1, "About a minute"),
        (minutes < 60, f"{minutes} minutes"),
        (hours == 1, "About an hour"),
        (hours < 48, f"{hours} hours"),
        (hours < 24 * 7 * 2, f"{hours // 24} days"),
        (hours < 24 * 30 * 2, f"{hours // 24 // 7} weeks"),
        (hours < 24 * 365 * 2, f"{hours // 24 // 30} months"),
    )
    return next((text for holds, text in steps if holds), f"{hours // 24 // 365} years")
