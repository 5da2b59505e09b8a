"""What the routes ask of an engine, one protocol per noun.

Bodies come as models, answers go as JSON objects ready to be serialised, streams as `Stdio` or
iterators.  `ref` is a name, a full id or a unique id prefix.  Errors are `dockerapi.errors`.
Times are nanoseconds since the epoch.  A method that returns an iterator or a waiter has checked its
arguments before it returns, so that what is wrong still becomes a status.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from dockerapi.filters import Filters
from dockerapi.framing import Stdio, StreamId
from dockerapi.models.base import JSONObject
from dockerapi.models.containers import ContainerCreate, ContainerUpdate
from dockerapi.models.execs import ExecCreate, ExecStart
from dockerapi.models.networks import NetworkConnect, NetworkCreate, NetworkDisconnect
from dockerapi.models.system import AuthConfig
from dockerapi.models.volumes import VolumeCreate


@dataclass(frozen=True, slots=True)
class AttachQuery:
    """Query of attach.  `logs` replays what was written before; `stream` goes on live."""

    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    stream: bool = False
    logs: bool = False
    detach_keys: str | None = None


@dataclass(frozen=True, slots=True)
class LogsQuery:
    """Query of logs; `tail` None = all, bounds None = none."""

    stdout: bool = False
    stderr: bool = False
    follow: bool = False
    since_ns: int | None = None
    until_ns: int | None = None
    timestamps: bool = False
    tail: int | None = None
    details: bool = False


@dataclass(frozen=True, slots=True)
class LogStream:
    """Log blocks, and whether they are a terminal's (sent raw).

    `framed`: each line is a frame already.
    """

    tty: bool
    blocks: AsyncIterator[tuple[StreamId, bytes]]
    framed: bool = False


@dataclass(frozen=True, slots=True)
class ListQuery:
    """Query of the container list."""

    all: bool = False
    limit: int = 0
    size: bool = False
    filters: Filters | None = None


@dataclass(frozen=True, slots=True)
class EventsQuery:
    """Query of events."""

    since_ns: int | None = None
    until_ns: int | None = None
    filters: Filters | None = None


@dataclass(frozen=True, slots=True)
class CommitQuery:
    """Query of commit.  `changes` are Dockerfile instructions; `repo` "" = the image gets no name."""

    repo: str = ""
    tag: str = ""
    author: str = ""
    comment: str = ""
    pause: bool = True
    changes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BuildQuery:
    """Query of build.  `host_config` are the limits of its containers, in the keys of HostConfig.

    `arguments` None: named without a value.  `logins` by registry, "" if the name is Docker Hub's.
    """

    tags: tuple[str, ...] = ()
    dockerfile: str = ""
    remote: str = ""
    target: str = ""
    platform: str = ""
    arguments: Mapping[str, str | None] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    cache_from: tuple[str, ...] = ()
    use_cache: bool = True
    pull: bool = False
    remove: bool = True
    force_remove: bool = False
    quiet: bool = False
    squash: bool = False
    host_config: JSONObject = field(default_factory=dict)
    logins: Mapping[str, AuthConfig] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ImportQuery:
    """Query of import.  `source` is an URL, "-" = the body; `changes` are Dockerfile instructions."""

    source: str
    repo: str = ""
    tag: str = ""
    message: str = ""
    platform: str = ""
    changes: tuple[str, ...] = ()


class Containers(Protocol):
    """What `docker container` does."""

    async def create(
        self, body: ContainerCreate, *, name: str | None, platform: str | None
    ) -> JSONObject:
        """{Id, Warnings}."""
        ...

    async def list(self, query: ListQuery) -> bytes:
        """The JSON array and a line end, serialised from kept rows."""
        ...

    def listed(self, query: ListQuery) -> bytes:
        """The same at once, without sizes."""
        ...

    async def inspect(self, ref: str, *, size: bool) -> JSONObject:
        """The newest shape; the route takes away what an older version lacks."""
        ...

    async def start(self, ref: str) -> None: ...
    async def stop(self, ref: str, *, signal: str | None, timeout_s: int | None) -> None: ...
    async def restart(self, ref: str, *, signal: str | None, timeout_s: int | None) -> None: ...
    async def kill(self, ref: str, *, signal: str) -> None:
        """`signal` as the client sent it, "" = KILL."""
        ...

    async def pause(self, ref: str) -> None: ...
    async def unpause(self, ref: str) -> None: ...
    async def rename(self, ref: str, name: str) -> None: ...
    async def update(self, ref: str, body: ContainerUpdate) -> JSONObject:
        """{Warnings}."""
        ...

    async def remove(self, ref: str, *, force: bool, volumes: bool, link: bool) -> None: ...
    async def prune(self, filters: Filters) -> JSONObject:
        """{ContainersDeleted, SpaceReclaimed}."""
        ...

    async def resize(self, ref: str, height: int, width: int) -> None: ...

    async def wait(self, ref: str, condition: str) -> Awaitable[JSONObject]:
        """Registered when this returns; the awaitable gives {StatusCode[, Error]}."""
        ...

    async def attach(self, ref: str, query: AttachQuery) -> Stdio:
        """Streams with the replay and detach keys applied."""
        ...

    async def logs(self, ref: str, query: LogsQuery) -> LogStream: ...


@dataclass(frozen=True, slots=True)
class Archive:
    """A path's stat object {name, size, mode, mtime, linkTarget}, and a tar of it."""

    stat: JSONObject
    blocks: AsyncGenerator[bytes, None]


class Files(Protocol):
    """What `docker cp`, `diff` and `export` do.  Iterators must be closed by who does not read them to the end."""

    async def stat(self, ref: str, path: str) -> JSONObject:
        """{name, size, mode, mtime, linkTarget}; `mode` in Go's bits."""
        ...

    async def read(self, ref: str, path: str) -> Archive: ...

    async def write(
        self,
        ref: str,
        path: str,
        tar: AsyncIterator[bytes],
        *,
        no_overwrite_dir_non_dir: bool,
        copy_uid_gid: bool,
    ) -> None:
        """Extract into a directory."""
        ...

    async def changes(self, ref: str) -> Sequence[JSONObject] | None:
        """[{Path, Kind}], None where nothing changed, as dockerd has it."""
        ...

    async def export(self, ref: str) -> AsyncGenerator[bytes, None]:
        """A tar of the whole root."""
        ...


class Usage(Protocol):
    """What `docker top` and `stats` show."""

    async def top(self, ref: str, ps_args: str) -> JSONObject:
        """{Titles, Processes}."""
        ...

    async def stats(
        self, ref: str, *, stream: bool, one_shot: bool
    ) -> AsyncGenerator[JSONObject, None]:
        """One object a second; without `stream` one, of two samples unless `one_shot`."""
        ...


class Execs(Protocol):
    """What `docker exec` does."""

    async def create(self, ref: str, body: ExecCreate) -> JSONObject:
        """{Id}."""
        ...

    async def start(self, exec_id: str, body: ExecStart) -> Stdio | None:
        """None when detached.  What goes wrong after the checks comes in-band on stderr."""
        ...

    async def resize(self, exec_id: str, height: int, width: int) -> None: ...
    async def inspect(self, exec_id: str) -> JSONObject: ...


class Images(Protocol):
    """What `docker image` does.  Progress messages are JSON objects."""

    async def pull(
        self, name: str, *, tag: str, platform: str, auth: AuthConfig | None
    ) -> AsyncIterator[JSONObject]:
        """`tag` may be a digest; "" means all tags.  Errors until the first message are statuses."""
        ...

    async def list(
        self, *, all: bool, digests: bool, shared_size: bool, filters: Filters
    ) -> Sequence[JSONObject]: ...

    async def inspect(self, name: str) -> JSONObject: ...
    async def history(self, name: str) -> Sequence[JSONObject]: ...
    async def tag(self, name: str, *, repo: str, tag: str) -> None: ...
    async def remove(self, name: str, *, force: bool, noprune: bool) -> Sequence[JSONObject]: ...
    async def prune(self, filters: Filters) -> JSONObject:
        """{ImagesDeleted, SpaceReclaimed}."""
        ...

    async def search(
        self, term: str, *, limit: int, filters: Filters, auth: AuthConfig | None
    ) -> Sequence[JSONObject]:
        """`limit` 0 = as many as dockerd would ask for."""
        ...


class ImageFiles(Protocol):
    """What `docker save`, `load` and `import` do."""

    async def save(self, names: Sequence[str], *, platform: str) -> AsyncGenerator[bytes, None]:
        """A tar; `platform` "" = any."""
        ...

    async def load(
        self, archive: AsyncIterator[bytes], *, quiet: bool, platform: str
    ) -> AsyncIterator[JSONObject]: ...

    async def import_image(
        self, query: ImportQuery, body: AsyncIterator[bytes]
    ) -> AsyncIterator[JSONObject]:
        """What is wrong with the query is an error at once, the archive is read with the messages."""
        ...


class Distribution(Protocol):
    """What `docker push` and `manifest inspect` ask registries for."""

    async def push(
        self, name: str, *, tag: str, platform: str, auth: AuthConfig | None
    ) -> AsyncIterator[JSONObject]:
        """`tag` "" = all tags of the repository.  Only a malformed name is an error at once."""
        ...

    async def inspect(self, name: str, *, auth: AuthConfig | None) -> JSONObject:
        """{Descriptor, Platforms}."""
        ...


class Commits(Protocol):
    """What `docker commit` does."""

    async def commit(self, ref: str, query: CommitQuery, body: ContainerCreate) -> JSONObject:
        """{Id}.  `body` is the Config of the new image, as far as it is not the container's."""
        ...


class Builds(Protocol):
    """What `docker build` does without BuildKit."""

    async def build(
        self, query: BuildQuery, context: AsyncIterator[bytes]
    ) -> AsyncIterator[JSONObject]:
        """Progress messages.  The context is read, and its Dockerfile found to be one, when this returns."""
        ...

    async def prune(self) -> JSONObject:
        """{CachesDeleted, SpaceReclaimed}."""
        ...


class Networks(Protocol):
    """What `docker network` does."""

    async def list(self, filters: Filters) -> Sequence[JSONObject]: ...
    async def inspect(self, ref: str) -> JSONObject: ...
    async def create(self, body: NetworkCreate) -> JSONObject:
        """{Id, Warning}."""
        ...

    async def remove(self, ref: str) -> None: ...
    async def connect(self, ref: str, body: NetworkConnect) -> None: ...
    async def disconnect(self, ref: str, body: NetworkDisconnect) -> None: ...
    async def prune(self, filters: Filters) -> JSONObject:
        """{NetworksDeleted}."""
        ...


class Volumes(Protocol):
    """What `docker volume` does."""

    async def list(self, filters: Filters) -> JSONObject: ...
    async def inspect(self, name: str) -> JSONObject: ...
    async def create(self, body: VolumeCreate) -> JSONObject: ...
    async def remove(self, name: str, *, force: bool) -> None: ...
    async def prune(self, filters: Filters) -> JSONObject:
        """{VolumesDeleted, SpaceReclaimed}."""
        ...


class System(Protocol):
    """What `docker system`, `info`, `version`, `events`, `login` do."""

    def version(self) -> JSONObject: ...
    async def info(self) -> JSONObject: ...
    async def auth(self, body: AuthConfig) -> JSONObject: ...

    async def disk_usage(self, kinds: frozenset[str]) -> JSONObject:
        """{LayersSize, Images, Containers, Volumes, BuildCache}, None for what `kinds` does not have."""
        ...

    async def events(self, query: EventsQuery) -> AsyncIterator[bytes]:
        """Serialised event objects without line end; past ones first."""
        ...


class Engine(Protocol):
    """Everything the routes need."""

    @property
    def containers(self) -> Containers: ...
    @property
    def files(self) -> Files: ...
    @property
    def usage(self) -> Usage: ...
    @property
    def execs(self) -> Execs: ...
    @property
    def images(self) -> Images: ...
    @property
    def image_files(self) -> ImageFiles: ...
    @property
    def distribution(self) -> Distribution: ...
    @property
    def commits(self) -> Commits: ...
    @property
    def builds(self) -> Builds: ...
    @property
    def networks(self) -> Networks: ...
    @property
    def volumes(self) -> Volumes: ...
    @property
    def system(self) -> System: ...
