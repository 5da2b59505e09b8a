"""What a platform must do, by protocol: `Host` and its parts.

    stopped --start--> running --exit--> stopped | restarting --(restart policy)--> running
                       running <--pause/unpause--> paused
    any --delete--> gone

Each method does one whole thing: on return the zone is in that state.  Implementations serialise
mutations of one zone themselves (one lock per UUID), keep all zones in memory and never start a
process to list or get.  The host applies the restart policy.  Errors are `dockerapi.errors`.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from dockerapi.errors import APIError
from dockerapi.framing import Stdio, StreamId
from gateway.zones.metadata import DockerMetadata, PublishedPort
from gateway.zones.spec import Nic, ZoneSpec, ZoneState, ZoneUUID
from imgsources.datasets import DatasetStore
from imgsources.oci import ImageUUID


@dataclass(frozen=True, slots=True)
class Zone:
    """A zone as its host knows it; a new value at every change.

    Times are nanoseconds since the epoch, 0 = never.  `exit_status` follows vmadm: the code, or the
    negative number of the signal (-9).  `restart_count` counts the policy's restarts since the last
    start by hand.  `error` is why the last start failed, in the runtime's words; `start_exit_code` then 126/127/128.
    """

    spec: ZoneSpec
    metadata: DockerMetadata
    state: ZoneState
    created_ns: int
    started_ns: int = 0
    finished_ns: int = 0
    pid: int = 0
    exit_status: int = 0
    restart_count: int = 0
    oom_killed: bool = False
    error: str = ""
    start_exit_code: int = 0
    ports: tuple[PublishedPort, ...] = ()
    """Published ports as taken on the host; empty unless running."""
    manually_stopped: bool = False
    root: str = ""
    """Mount point of the root filesystem on the host, "" when it has none."""

    @property
    def uuid(self) -> ZoneUUID:
        """Of the spec."""
        return ZoneUUID(self.spec.uuid)

    @property
    def is_running(self) -> bool:
        """Its first process lives (paused included)."""
        return self.state in (ZoneState.RUNNING, ZoneState.PAUSED)


class ZoneChange(enum.Enum):
    """What happened to a zone."""

    CREATED = "created"
    STARTED = "started"
    STOPPED = "stopped"
    DELETED = "deleted"
    UPDATED = "updated"
    PAUSED = "paused"
    UNPAUSED = "unpaused"
    OOM = "oom"
    KILLED = "killed"


@dataclass(frozen=True, slots=True)
class ZoneEvent:
    """One change, with the zone as it was right after (for DELETED: right before).

    STOPPED with `zone.state` RESTARTING: the policy will start it again.  KILLED: a stop that was in vain goes on
    with SIGKILL.  OOM: a process was killed for want of memory, which may or may not be the zone's end.
    """

    change: ZoneChange
    zone: Zone
    time_ns: int


@dataclass(frozen=True, slots=True)
class AttachStreams:
    """Which streams an attach takes.  `logs`: what was logged before comes first, and each byte once."""

    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    logs: bool = False


@dataclass(frozen=True, slots=True)
class Process:
    """What exec runs.  `user` "" = the zone's own user; `env` is added to the zone's."""

    argv: tuple[str, ...]
    env: tuple[str, ...] = ()
    workdir: str = ""
    user: str = ""
    tty: bool = False
    privileged: bool = False
    attach_stdin: bool = False
    attach_stdout: bool = True
    attach_stderr: bool = True
    console_size: tuple[int, int] | None = None
    killable: bool = False
    """Whoever starts it may `kill` it."""


class ZoneProcess(Protocol):
    """A process that exec started."""

    @property
    def pid(self) -> int:
        """On the host; 0 before it runs and after it ended."""
        ...

    @property
    def stdio(self) -> Stdio | None:
        """None when detached."""
        ...

    async def wait(self) -> int:
        """Its exit code as Docker shows it (128+n for a signal).  May be called by many."""
        ...

    async def kill(self) -> None:
        """SIGKILL to a `killable` one; nothing happens once it has ended."""
        ...


@dataclass(frozen=True, slots=True)
class LogQuery:
    """Which log lines.  Times are nanoseconds since the epoch, None = no bound; `tail` None = all.

    `tail` counts lines of both streams before the choice of stream, as dockerd does.
    """

    stdout: bool = True
    stderr: bool = True
    since_ns: int | None = None
    until_ns: int | None = None
    tail: int | None = None
    follow: bool = False
    timestamps: bool = False
    prefix: str = ""
    """Text before each line, after its timestamp (docker logs --details)."""
    frames: bool = False
    """Each line as a frame, ready for the client (dockerapi.framing): a log is cut into lines once only."""


class ZoneHost(Protocol):
    """Zones on one platform.  Methods raise NotFound for an unknown UUID."""

    def list(self) -> Sequence[Zone]:
        """This instance's zones from memory, oldest first."""
        ...

    def get(self, uuid: ZoneUUID) -> Zone:
        """From memory."""
        ...

    async def create(self, spec: ZoneSpec) -> Zone:
        """A stopped zone with its own root cloned from `image_uuid`; all or nothing.

        NotFound: no such dataset.  Conflict: the alias is taken.  InvalidParameter: the host cannot run this spec.
        """
        ...

    async def start(self, uuid: ZoneUUID) -> Zone:
        """Running, or already ended.  NotModified if it runs, Conflict if paused.

        InvalidParameter with the runtime's text if the command cannot be started; the zone then keeps
        `error` and `start_exit_code`.
        """
        ...

    def before_start(self, call: Callable[[Zone], Awaitable[None]]) -> None:
        """What is done before each start, by hand or by policy; its APIError is that of the start."""
        ...

    async def not_started(self, uuid: ZoneUUID, error: APIError) -> Zone:
        """A start has failed before it came here: the zone keeps `error` as if it had failed here."""
        ...

    async def stop(self, uuid: ZoneUUID, *, signal: str | None, timeout_s: float | None) -> Zone:
        """Signal, wait, SIGKILL; no restart by policy.  None = the zone's own; timeout_s < 0 waits without end.

        NotModified if it does not run.  Ends a pending policy restart.
        """
        ...

    async def restart(self, uuid: ZoneUUID, *, signal: str | None, timeout_s: float | None) -> Zone:
        """Stop if it runs, then start, under one lock; `restart_count` is 0 afterwards."""
        ...

    async def kill(self, uuid: ZoneUUID, signal: str) -> None:
        """Send a signal by name (SIGTERM); returns at once.  Conflict if not running.

        By dockerd's rules it also ends the restart policy of this run: unless the zone has a stop signal of its own
        and this is neither that nor SIGKILL.  One that waits for its restart stays down.
        """
        ...

    async def pause(self, uuid: ZoneUUID) -> Zone:
        """Freeze all processes.  Conflict if stopped or paused; NotSupported where there is no freezer."""
        ...

    async def unpause(self, uuid: ZoneUUID) -> Zone:
        """Thaw.  Conflict if not paused."""
        ...

    async def delete(self, uuid: ZoneUUID) -> None:
        """Stopped first if it runs (SIGKILL); root, logs, nics, own volumes gone or on their way to it."""
        ...

    async def rename(self, uuid: ZoneUUID, alias: str) -> Zone:
        """Conflict if the alias is taken."""
        ...

    async def update(self, uuid: ZoneUUID, spec: ZoneSpec) -> Zone:
        """The zone as `spec` has it, which differs in limits, restart policy, nics and our own metadata only.

        Limits hold at once where it runs, the policy from its next exit on.  Of nics those that are new (by
        network_uuid) are plugged and those that are no more unplugged: at once where the platform can, else (SmartOS) at
        the next start.  Leases are the caller's.  If a nic cannot be plugged
        nothing is changed: APIError, Forbidden (`Address already in use`).
        """
        ...

    async def attach(self, uuid: ZoneUUID, streams: AttachStreams) -> Stdio:
        """Live streams, from now on; for a stopped zone from its next start on, nothing lost."""
        ...

    def expect_exec(self, uuid: ZoneUUID, user: str) -> None:
        """An exec as `user` ("" = the zone's own) was announced and will likely follow: time to do ahead what it would
        wait for.  InvalidParameter, in dockerd's words, where it is known now that there is no such user or group."""
        ...

    async def exec(self, uuid: ZoneUUID, process: Process) -> ZoneProcess:
        """Run a further process.  Conflict unless running; InvalidParameter with the runtime's text
        (see `StartFailure`) if it cannot be started."""
        ...

    async def resize(self, uuid: ZoneUUID, height: int, width: int) -> None:
        """Terminal size of the zone's first process.  Conflict if not running."""
        ...

    async def root_size(self, uuid: ZoneUUID) -> int:
        """Bytes that the zone has written to its own root, volumes not counted."""
        ...

    def logs(self, uuid: ZoneUUID, query: LogQuery) -> AsyncIterator[tuple[StreamId, bytes]]:
        """Blocks of whole log text, lines of one stream joined up to some 64 KiB, ready to be framed.

        With `follow` ends when the zone stops (and is not restarting), is deleted, or `until_ns` passes.
        """
        ...

    def events(self) -> AsyncIterator[ZoneEvent]:
        """Every change from now on, in order; for one consumer, the engine."""
        ...


@dataclass(frozen=True, slots=True)
class PathStatus:
    """What lstat(2) says of a path in a zone.  `mode` is st_mode with its type bits; `link_target` of a symlink.

    `name` is the last component as `docker cp` names it: "/" for the root.
    """

    name: str
    size: int
    mode: int
    mtime_ns: int
    link_target: str = ""


class ChangeKind(enum.IntEnum):
    """Numbers of GET /containers/{id}/changes."""

    MODIFIED = 0
    ADDED = 1
    DELETED = 2


@dataclass(frozen=True, slots=True)
class PathChange:
    """A path of a zone that is not as its image has it."""

    path: str
    kind: ChangeKind


class ZoneFiles(Protocol):
    """Files of a zone, running or not, volumes and binds included where not said otherwise.

    Paths are the zone's, resolved inside its root as its processes would: no link leads out.  Errors in
    dockerd's words: NotFound(`Could not find the file PATH in container ID`), InvalidParameter, Forbidden.
    """

    async def status(self, uuid: ZoneUUID, path: str) -> PathStatus:
        """The last component is not followed."""
        ...

    async def read(
        self, uuid: ZoneUUID, path: str
    ) -> tuple[PathStatus, AsyncGenerator[bytes, None]]:
        """A tar of the path: entries begin with its last component, with `./` for a path that ends in `/.`.

        Whoever does not read it to the end closes the iterator.
        """
        ...

    async def write(
        self,
        uuid: ZoneUUID,
        path: str,
        tar: AsyncIterator[bytes],
        *,
        no_overwrite_dir_non_dir: bool,
        copy_uid_gid: bool,
    ) -> None:
        """Extract a tar (plain, gzip, bzip2, xz) into the directory `path`.

        `copy_uid_gid`: files get the zone's user, else the archive's numbers.  InvalidParameter if `path` is no directory;
        Forbidden where the root or volume is read-only.
        """
        ...

    async def changes(self, uuid: ZoneUUID) -> Sequence[PathChange]:
        """Against the image, sorted by path; volumes, binds and what the host itself put there not counted."""
        ...

    async def export(self, uuid: ZoneUUID) -> AsyncGenerator[bytes, None]:
        """A plain tar of the root, volumes and binds not counted."""
        ...

    async def layer(self, uuid: ZoneUUID) -> AsyncGenerator[bytes, None]:
        """The changes as the tar of an image layer, deletions as whiteouts; for commit."""
        ...


@dataclass(frozen=True, slots=True)
class InterfaceCounters:
    """Since the interface came up, as seen from inside the zone."""

    rx_bytes: int = 0
    rx_packets: int = 0
    rx_errors: int = 0
    rx_dropped: int = 0
    tx_bytes: int = 0
    tx_packets: int = 0
    tx_errors: int = 0
    tx_dropped: int = 0


@dataclass(frozen=True, slots=True)
class BlockCount:
    """Bytes or operations of one device; `op` as Docker writes it: Read, Write, Total."""

    major: int
    minor: int
    op: str
    value: int


@dataclass(frozen=True, slots=True)
class Sample:
    """What a running zone has used up to `time_ns`.  CPU times in nanoseconds, memory in bytes; None = not known."""

    time_ns: int
    cpu_total_ns: int
    cpu_user_ns: int
    cpu_system_ns: int
    machine_cpu_ns: int
    """CPU time of the whole machine, all of its CPUs together."""
    online_cpus: int
    per_cpu_ns: tuple[int, ...] = ()
    periods: int = 0
    throttled_periods: int = 0
    throttled_ns: int = 0
    memory_usage: int | None = None
    memory_max_usage: int | None = None
    memory_limit: int | None = None
    memory_failures: int | None = None
    memory: Mapping[str, int] = field(default_factory=dict)
    """Rows of memory.stat by name."""
    pids: int | None = None
    pids_limit: int | None = None
    networks: Mapping[str, InterfaceCounters] | None = None
    """None: the zone has no network of its own."""
    blocks: Mapping[str, tuple[BlockCount, ...]] = field(default_factory=dict)
    """By Docker's name: io_service_bytes_recursive, io_serviced_recursive."""


@dataclass(frozen=True, slots=True)
class ProcessTable:
    """What `docker top` shows."""

    titles: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


class ZoneGauges(Protocol):
    """What zones use, read when asked for."""

    async def sample(self, uuid: ZoneUUID) -> Sample | None:
        """None if it does not run."""
        ...

    async def processes(self, uuid: ZoneUUID, ps_args: str) -> ProcessTable:
        """`ps_args` as for ps(1), "" = -ef.  Conflict if not running; APIError with ps's words."""
        ...


@dataclass(frozen=True, slots=True)
class NetworkRequest:
    """What a zone asks of a network: addresses or None for any, a MAC or None.

    An address that is asked for may be another zone's meanwhile: they cannot run at the same time then.
    """

    network: str
    """Name or id."""
    address: str | None = None
    mac: str | None = None
    address6: str | None = None


@dataclass(frozen=True, slots=True)
class AddressRange:
    """Addresses of a network in one IP version, as text; "" = the host chooses (of a plan), there is none (of a network).

    `ip_range` is the CIDR inside `subnet` that zones get addresses from of the host's choice; `aux` name -> address
    that no zone gets.
    """

    subnet: str = ""
    gateway: str = ""
    ip_range: str = ""
    aux: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NetworkPlan:
    """A network to be made; `ipv6` None: without IPv6.  What is in the ranges is consistent: `translate.networks` has looked.

    `config_only`: nothing but a configuration for others, of which `config_from` names the one that was taken.
    """

    name: str
    driver: str = "bridge"
    ipv4: AddressRange = field(default_factory=AddressRange)
    ipv6: AddressRange | None = None
    internal: bool = False
    attachable: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    ipam_options: Mapping[str, str] | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    enable_ipv4: bool = True
    config_only: bool = False
    config_from: str = ""


@dataclass(frozen=True, slots=True)
class Network:
    """A network of the host.  `id` is 64 hex, its first 32 the network_uuid of nics.

    `subnet`, `gateway`, `ip_range` and `aux` are IPv4's as they are; `ipv6` None: it has none.
    `plan` is what its maker asked for, None for the predefined ones.
    """

    id: str
    name: str
    driver: str
    created_ns: int
    subnet: str = ""
    gateway: str = ""
    nic_tag: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    internal: bool = False
    ip_range: str = ""
    aux: Mapping[str, str] = field(default_factory=dict)
    ipv6: AddressRange | None = None
    plan: NetworkPlan | None = None


class NetworkHost(Protocol):
    """Networks and address leases.  The predefined ones are bridge, host and none."""

    def list(self) -> Sequence[Network]:
        """From memory, oldest first."""
        ...

    def get(self, ref: str) -> Network:
        """By full id, name, or unique id prefix; NotFound(`network X not found`)."""
        ...

    async def create(self, plan: NetworkPlan) -> Network:
        """All or nothing, also after a kill.  In dockerd's words: Conflict (the name), Forbidden (subnet overlaps),
        NotFound (driver), NotSupported (an option that this host cannot honour), APIError (no subnet left)."""
        ...

    async def remove(self, ref: str) -> None:
        """Nothing of it is left.  Forbidden for the predefined, and while a zone is on it: one that runs, or where
        the platform's own records need the network any zone."""
        ...

    def note(self, network: Network) -> str:
        """What its maker should know of it, "" if nothing: for the answer's Warning."""
        ...

    def lease(self, uuid: ZoneUUID, request: NetworkRequest) -> Nic:
        """A nic with static addresses, kept until `release`; those of the host's choice are nobody else's.

        InvalidParameter/Conflict/Forbidden in dockerd's words.
        """
        ...

    def leased(self, network_id: str) -> Sequence[ZoneUUID]:
        """Zones, running or not, with a lease there."""
        ...

    def release(self, uuid: ZoneUUID, network: str | None = None) -> None:
        """Give back a zone's leases, all or of one network (its id); none is fine."""
        ...


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume that outlives zones; `mountpoint` is its folder on the host.

    `owner`: the zone that an anonymous volume was made for, until somebody wants to keep it.
    """

    name: str
    mountpoint: str
    created_ns: int
    labels: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    owner: str = ""


class VolumeHost(Protocol):
    """Volumes of the driver `local`."""

    def list(self) -> Sequence[Volume]:
        """From memory."""
        ...

    def get(self, name: str) -> Volume:
        """NotFound(`get X: no such volume`)."""
        ...

    async def create(
        self, name: str, *, labels: dict[str, str], options: dict[str, str], owner: str = ""
    ) -> Volume:
        """The existing one where the name is known."""
        ...

    async def keep(self, name: str) -> None:
        """It has no owner any more; NotFound if there is none."""
        ...

    async def remove(self, name: str) -> None:
        """NotFound if there is none.  Whether it is in use is the engine's to know."""
        ...

    async def used_bytes(self, name: str) -> int:
        """What would be free if it were removed; NotFound."""
        ...


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What /info and `zonegate doctor` say of the platform."""

    storage_driver: str
    cgroup_driver: str
    cgroup_version: str
    runtimes: tuple[str, ...]
    default_runtime: str
    kernel_version: str
    operating_system: str
    os_version: str
    architecture: str
    ncpu: int
    mem_total: int
    """Bytes."""
    root_dir: str
    security_options: tuple[str, ...]
    log_drivers: tuple[str, ...]
    limits: dict[str, bool] = field(default_factory=dict)
    """MemoryLimit, SwapLimit, PidsLimit, CpuCfsQuota ... as /info names them."""
    rlimits: Mapping[str, int] = field(default_factory=dict)
    """RLIMIT_NOFILE ... -> the highest hard limit that a zone can have; absent = any."""
    oom_score_adj: int = -1000
    """The lowest that a zone can have."""
    memory_nodes: str = ""
    """Of NUMA, as a list of numbers and ranges; "": not known."""
    warnings: tuple[str, ...] = ()
    components: tuple[tuple[str, str], ...] = ()
    """Name and version of the programs used: crun, conmon."""
    status: tuple[tuple[str, str], ...] = ()
    """Rows of the storage driver."""
    platform: str = "linux"
    """linux or smartos: what its zones can be, and what must be refused."""
    resolvers: tuple[str, ...] = ()
    """Name servers of a zone for which neither client nor settings name one; () = as the machine has it."""


class Host(Protocol):
    """One platform, opened."""

    @property
    def zones(self) -> ZoneHost: ...
    @property
    def datasets(self) -> DatasetStore: ...
    @property
    def networks(self) -> NetworkHost: ...
    @property
    def volumes(self) -> VolumeHost: ...
    @property
    def facts(self) -> HostFacts: ...
    @property
    def files(self) -> ZoneFiles: ...
    @property
    def gauges(self) -> ZoneGauges: ...

    def image_folder(self, uuid: ImageUUID) -> str:
        """The source of a filesystem that shows an image, by its dataset; NotFound.

        Its mount options have the word `image`.
        """
        ...

    async def run(self) -> None:
        """The host's background work (events, restarts, clean-up); ends when cancelled."""
        ...

    async def close(self) -> None:
        """Let go of everything; zones run on."""
        ...
