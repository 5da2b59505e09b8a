"""/build, /commit, and what BuildKit clients ask for."""

from __future__ import annotations

import contextlib
from typing import NoReturn, TypeVar

from dockerapi import web
from dockerapi.engine import BuildQuery, CommitQuery
from dockerapi.errors import APIError, InvalidParameter, NotSupported
from dockerapi.models.base import JSONObject
from dockerapi.models.containers import ContainerCreate
from dockerapi.routes import bodies, parameters
from dockerapi.routes.base import Call, Route, json_answer
from dockerapi.versions import Version

T = TypeVar("T")
V1_32 = Version(1, 32)
NO_BUILDKIT = "BuildKit is not supported by zonegate: set DOCKER_BUILDKIT=0"
_NUMBERS = (
    ("memory", "Memory"),
    ("memswap", "MemorySwap"),
    ("cpushares", "CpuShares"),
    ("cpuperiod", "CpuPeriod"),
    ("cpuquota", "CpuQuota"),
)
"""What is no number counts for none, but for shmsize: so in dockerd."""
_TEXTS = (
    ("cpusetcpus", "CpusetCpus"),
    ("cpusetmems", "CpusetMems"),
    ("cgroupparent", "CgroupParent"),
    ("networkmode", "NetworkMode"),
    ("isolation", "Isolation"),
)


async def commit(call: Call) -> web.StreamResponse:
    """POST /commit.  The CLI sends no body, or null.

    Differs: the container runs on as soon as its layer is written aside: `unpause` comes before `commit` in the events.

    SmartOS: there is no freezer, a running container is taken as it runs.
    """
    query = CommitQuery(
        repo=call.text("repo"),
        tag=call.text("tag"),
        author=call.text("author"),
        comment=call.text("comment"),
        # An empty value is no value here, not "no".
        pause=call.boolean("pause") if call.text("pause") else True,
        changes=tuple(call.texts("changes")),
    )
    body = await call.body(ContainerCreate, empty=True)
    made = await call.finish(call.engine.commits.commit(call.text("container"), query, body))
    return json_answer(made, 201)


async def build(call: Call) -> web.StreamResponse:
    """POST /build, by the classic builder.

    Differs: `version=2` asks for BuildKit and is refused (501).

    Unread: outputs: of BuildKit alone.
    """
    version = call.text("version")
    if version == "2":
        raise NotSupported(NO_BUILDKIT)
    if version not in ("", "1"):
        raise InvalidParameter(f'invalid version "{version}"')
    messages = await call.engine.builds.build(_query(call), call.blocks())
    return await call.progress(messages)


def _query(call: Call) -> BuildQuery:
    removes_always = call.boolean("forcerm")
    return BuildQuery(
        tags=tuple(tag for tag in call.texts("t") if tag),
        dockerfile=call.text("dockerfile"),
        remote=call.text("remote"),
        target=call.text("target"),
        platform=call.text("platform") if call.since(V1_32) else "",
        arguments=_json(call, "buildargs", "build args", dict),
        labels=_json(call, "labels", "labels", dict),
        cache_from=tuple(_json(call, "cachefrom", "cache-from", list)),
        use_cache=not call.boolean("nocache"),
        pull=call.boolean("pull"),
        remove=removes_always or not call.text("rm") or call.boolean("rm"),
        force_remove=removes_always,
        quiet=call.boolean("q"),
        squash=call.boolean("squash"),
        host_config=_host_config(call),
        logins=parameters.registry_logins(call.request.headers.get("X-Registry-Config")),
    )


def _host_config(call: Call) -> JSONObject:
    """What the client asks of the containers of the build, as HostConfig has it."""
    found: JSONObject = {}
    for name, key in _NUMBERS:
        with contextlib.suppress(APIError):
            if (value := call.integer(name)) is not None:
                found[key] = value
    if size := call.text("shmsize"):
        found["ShmSize"] = parameters.integer(size, "ParseInt")
    found |= {key: text for name, key in _TEXTS if (text := call.text(name))}
    if hosts := [host for host in call.texts("extrahosts") if host]:
        found["ExtraHosts"] = hosts
    if ulimits := _json(call, "ulimits", "ulimit settings", list):
        found["Ulimits"] = ulimits
    if options := _json(call, "securityopt", "security options", list):
        found["SecurityOpt"] = options
    return found


def _json(call: Call, name: str, what: str, kind: type[T]) -> T:
    """A parameter that is JSON itself."""
    text = call.text(name)
    if not text:
        return kind()
    try:
        value = bodies.parse(text)
    except InvalidParameter as error:
        words = error.message.removeprefix("invalid JSON: ")
        raise InvalidParameter(f"error reading {what}: {words}") from error
    if value is None:
        return kind()
    if not isinstance(value, kind):
        raise InvalidParameter(f"error reading {what}: it is no JSON {kind.__name__}")
    return value


async def prune(call: Call) -> web.StreamResponse:
    """POST /build/prune.  `docker system prune` asks for it.

    Differs: steps of builds are images, which `docker image prune` removes; there is no cache beside them.

    Unread: all, keep-storage, max-used-space, min-free-space, reserved-space: there is no cache to choose from.
    """
    call.filters()
    return json_answer(await call.engine.builds.prune())


async def cancel(call: Call) -> NoReturn:
    """POST /build/cancel: builds that have an id are BuildKit's; the others end with their connection."""
    if not call.text("id"):
        raise InvalidParameter("build ID not provided")
    raise NotSupported(NO_BUILDKIT)


async def no_buildkit(_call: Call) -> NoReturn:
    """There is no BuildKit: set DOCKER_BUILDKIT=0 (501)."""
    raise NotSupported(NO_BUILDKIT)


ROUTES = (
    Route("POST", "/build", build),
    Route("POST", "/build/prune", prune),
    Route("POST", "/build/cancel", cancel),
    Route("POST", "/commit", commit),
    Route("POST", "/session", no_buildkit),
    Route("POST", "/grpc", no_buildkit),
)
