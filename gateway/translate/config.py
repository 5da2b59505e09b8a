"""The container's Config: the client's body laid over the image's, checked in dockerd's words."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

from dockerapi.errors import InvalidParameter
from dockerapi.models.base import JSONObject
from dockerapi.models.containers import ContainerCreate, HealthConfig
from gateway.translate.facts import ImageFacts
from gateway.translate.ports import parse_port
from gateway.translate.signals import signal_name

_MILLISECOND = 1_000_000


def config(
    body: ContainerCreate, image: ImageFacts, *, hostname: str, needs_command: bool = True
) -> JSONObject:
    """Config as inspect shows it.  InvalidParameter in dockerd's words.

    Only what boots an init of its own needs no command.
    """
    _check(body)
    found = image.config
    cmd, entrypoint = _command(body, found)
    if needs_command and not cmd and not entrypoint:
        raise InvalidParameter("no command specified")
    shown: JSONObject = {
        "Hostname": hostname,
        "Domainname": body.domainname,
        "User": body.user or found.get("User") or "",
        "AttachStdin": body.attach_stdin,
        "AttachStdout": body.attach_stdout,
        "AttachStderr": body.attach_stderr,
        "Tty": body.tty,
        "OpenStdin": body.open_stdin,
        "StdinOnce": body.stdin_once,
        "Env": _env(body.env or [], found.get("Env") or []),
        "Cmd": cmd,
        "Image": body.image,
        "Volumes": _volumes(body, found),
        "WorkingDir": _clean(body.working_dir or found.get("WorkingDir") or ""),
        "Entrypoint": entrypoint,
        "OnBuild": body.on_build,
        "Labels": dict(found.get("Labels") or {}) | dict(body.labels or {}),
    }
    shown |= _optional(body, found)
    return shown


def _optional(body: ContainerCreate, found: Mapping[str, Any]) -> JSONObject:
    """Keys that dockerd leaves out when they are empty."""
    ports = _exposed(body, found)
    keys: JSONObject = {
        "ExposedPorts": {port: {} for port in ports} or None,
        "Healthcheck": _health(body.healthcheck, found.get("Healthcheck")),
        "ArgsEscaped": body.args_escaped or None,
        "NetworkDisabled": body.network_disabled or None,
        "MacAddress": body.mac_address or None,
        "StopSignal": body.stop_signal or found.get("StopSignal") or None,
        "StopTimeout": body.stop_timeout,
        "Shell": body.shell or None,
    }
    return {key: value for key, value in keys.items() if value is not None}


def _command(
    body: ContainerCreate, found: Mapping[str, Any]
) -> tuple[list[str] | None, list[str] | None]:
    cmd, entrypoint = body.cmd, body.entrypoint
    if not entrypoint:
        if not cmd:
            cmd = _strings(found.get("Cmd"))
        if entrypoint is None:
            entrypoint = _strings(found.get("Entrypoint"))
    # `--entrypoint ""` arrives as [""]: it clears the image's entrypoint and its command.
    if entrypoint == [""]:
        entrypoint = None
    return cmd, entrypoint


def _strings(value: Any) -> list[str] | None:
    if value is None:
        return None
    return [value] if isinstance(value, str) else list(value)


def _env(own: Sequence[str], image: Sequence[str]) -> list[str]:
    """The client's entries, then the image's that they do not name.  `FOO` without = erases."""
    names = {entry.partition("=")[0] for entry in own}
    return [*own, *(entry for entry in image if entry.partition("=")[0] not in names)]


def _clean(path: str) -> str:
    return path and posixpath.normpath(path).replace("//", "/")


def _volumes(body: ContainerCreate, found: Mapping[str, Any]) -> JSONObject | None:
    targets = [*(body.volumes or {}), *(found.get("Volumes") or {})]
    return {target: {} for target in targets} or None


def _exposed(body: ContainerCreate, found: Mapping[str, Any]) -> list[str]:
    names = [*(body.exposed_ports or {}), *(found.get("ExposedPorts") or {})]
    ports: dict[str, None] = {}
    for name in names:
        for port in parse_port(name):
            ports[str(port)] = None
    return list(ports)


def _health(own: HealthConfig | None, image: Mapping[str, Any] | None) -> JSONObject | None:
    """The client's health check; what it left open comes from the image's."""
    if own is None:
        return dict(image) if image else None
    shown = {key: value for key, value in own.model_dump(by_alias=True).items() if value}
    return {**(image or {}), **shown} or None


def _check(body: ContainerCreate) -> None:
    for entry in body.env or []:
        if not entry.partition("=")[0]:
            raise InvalidParameter(f"invalid environment variable: {entry}")
    if body.working_dir and not body.working_dir.startswith("/"):
        raise InvalidParameter(
            f"the working directory '{body.working_dir}' is invalid, it needs to be an absolute path"
        )
    if body.stop_signal:
        signal_name(body.stop_signal)
    if body.healthcheck is not None:
        _check_health(body.healthcheck)


def _check_health(health: HealthConfig) -> None:
    durations = {
        "Interval": health.interval,
        "Timeout": health.timeout,
        "StartPeriod": health.start_period,
        "StartInterval": health.start_interval,
    }
    for name, value in durations.items():
        if value != 0 and value < _MILLISECOND:
            raise InvalidParameter(f"{name} in Healthcheck cannot be less than 1ms")
    if health.retries < 0:
        raise InvalidParameter("Retries in Healthcheck cannot be negative")
