"""`docker:*` internal_metadata: what dockerinit, vmadm and vmadmd read, and two keys of our own.

vmadm's metadata is flat, so lists and maps are JSON text.  `DockerMetadata` holds them parsed;
`encode` and `decode` are inverse.  Facts per key: docs/zone-spec.md.

Our own keys carry what vmadm and docker:* have no word for:
`zonegate:runtime`  what a host must act on, in OCI words (`Runtime`)
`zonegate:create`   Config, HostConfig and NetworkingConfig as `docker inspect` shows them; hosts leave it alone

A zone without `docker: true` (a full zone, a machine) has no docker:* keys, which only dockerinit and vmadmd
would act on: the same keys are under `zonegate:` there (`zonegate:id`, `zonegate:imagename` ...).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from gateway.zones.spec import Flat

RUNTIME_KEY = "zonegate:runtime"
CREATE_KEY = "zonegate:create"


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rlimit(_Frozen):
    """`type` is RLIMIT_NOFILE and so on."""

    type: str
    soft: int
    hard: int


class Device(_Frozen):
    """A host device made visible; `permissions` of r, w, m."""

    source: str
    target: str
    permissions: str = "rwm"


class DeviceRequest(_Frozen):
    """Devices that a driver of the host is to choose (--gpus)."""

    driver: str = ""
    capabilities: tuple[tuple[str, ...], ...] = ()


class Tmpfs(_Frozen):
    """A tmpfs mount; `options` as for mount(8): size=64m, mode=1777, noexec."""

    target: str
    options: tuple[str, ...] = ()
    is_mount: bool = False
    """Asked for in HostConfig.Mounts: docker counts it among the container's mounts then."""


class PublishedPort(_Frozen):
    """A port of the zone to be reached on the host.

    In a spec `host_port` may be 0 (choose one) and `host_port_end` above it (choose within the range).
    In `Zone.ports` it is the port that was taken.
    """

    protocol: Literal["tcp", "udp", "sctp"] = "tcp"
    zone_port: int
    host_ip: str = ""
    host_port: int = 0
    host_port_end: int = 0


class DeviceLimit(_Frozen):
    """A limit of one disk, by the path of its node on the host."""

    path: str
    value: int


class Endpoint(_Frozen):
    """What a zone asked of one of its networks beyond its nic.

    `aliases`: names of its own there; `links`: CONTAINER:ALIAS, names that it alone knows others by.
    `static`: the client named its address (4, 6).  `options`: DriverOpts.  `link_local`: further addresses, of links' own ranges.
    """

    aliases: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    static: tuple[int, ...] = ()
    gateway_priority: int = 0
    options: dict[str, str] = Field(default_factory=dict)
    link_local: tuple[str, ...] = ()


class Link(_Frozen):
    """A legacy link: the other container by id, and by the name that it had; what it is called here."""

    id: str
    name: str
    alias: str


class Resources(_Frozen):
    """Limits in OCI units (bytes, microseconds); None = not asked for."""

    memory: int | None = None
    memory_reservation: int | None = None
    memory_swap: int | None = None
    """Memory plus swap in bytes; -1 = no limit."""
    memory_swappiness: int | None = None
    cpu_shares: int | None = None
    cpu_quota: int | None = None
    cpu_period: int | None = None
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    pids: int | None = None
    blkio_weight: int | None = None
    oom_kill_disable: bool = False
    cpu_realtime_period: int | None = None
    cpu_realtime_runtime: int | None = None
    kernel_memory_tcp: int | None = None
    blkio_weight_device: tuple[DeviceLimit, ...] = ()
    blkio_device_read_bps: tuple[DeviceLimit, ...] = ()
    blkio_device_write_bps: tuple[DeviceLimit, ...] = ()
    blkio_device_read_iops: tuple[DeviceLimit, ...] = ()
    blkio_device_write_iops: tuple[DeviceLimit, ...] = ()


class Runtime(_Frozen):
    """What a host must act on beyond vmadm's words.

    Namespace values: "" = its own, "host", or "zone:UUID" (at create not there yet: "zone:NAME") to join another
    zone's; `ipc` may be "shareable": its own, which others may join together with /dev/shm; or "none": without it.
    `seccomp`: "default", "unconfined", or the JSON text of a profile.
    """

    capabilities: tuple[str, ...] = ()
    """CAP_ names; bounding, permitted and effective set of root."""
    privileged: bool = False
    no_new_privileges: bool = False
    seccomp: str = "default"
    apparmor: str = ""
    rlimits: tuple[Rlimit, ...] = ()
    sysctls: dict[str, str] = Field(default_factory=dict)
    devices: tuple[Device, ...] = ()
    device_cgroup_rules: tuple[str, ...] = ()
    device_requests: tuple[DeviceRequest, ...] = ()
    writable_cgroups: bool | None = None
    """Whether the zone may change its own cgroups; None = if it is privileged."""
    tmpfs: tuple[Tmpfs, ...] = ()
    shm_size: int = 67108864
    """Bytes."""
    mount_options: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Target of a filesystem -> further options of its bind: propagation, nocopy, nonrecursive."""
    readonly_rootfs: bool = False
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    """Further groups of the process, names or numbers (--group-add)."""
    network: str = ""
    pid: str = ""
    ipc: str = ""
    uts: str = ""
    cgroup: str = ""
    cgroup_parent: str = ""
    init: bool = False
    oom_score_adj: int = 0
    stop_signal: str = ""
    """Signal name; "" = SIGTERM."""
    stop_timeout_s: int | None = None
    """None = 10."""
    stdin_once: bool = False
    console_size: tuple[int, int] | None = None
    """Height, width."""
    published_ports: tuple[PublishedPort, ...] = ()
    endpoints: dict[str, Endpoint] = Field(default_factory=dict)
    """By network_uuid of the nic; a network where nothing was asked for may be missing."""
    resources: Resources = Field(default_factory=Resources)
    root_size: int = 0
    """Bytes that the root may take, of which `quota` is the next GiB; 0 = as `quota` says."""
    links: tuple[Link, ...] = ()
    hosts_entries: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    annotations: dict[str, str] = Field(default_factory=dict)


class DockerMetadata(_Frozen):
    """The docker:* keys, parsed."""

    id: str
    """64 hex; the first 32 are the zone's UUID without dashes."""
    docker: bool = True
    """Whether the zone has docker: true."""
    image_name: str = ""
    """What the client typed."""
    image_id: str = ""
    """Config digest, sha256:..."""
    cmd: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    workdir: str = ""
    user: str = ""
    tty: bool = False
    open_stdin: bool = False
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    restart_policy: str = ""
    """"" = no; always, on-failure, on-failure:N, unless-stopped."""
    log_driver: str = "json-file"
    log_config: dict[str, str] = Field(default_factory=dict)
    extra_hosts: tuple[str, ...] = ()
    """NAME:IP, split at the first colon."""
    dns_search: tuple[str, ...] = ()
    volumes_from: tuple[str, ...] = ()
    publish_all_ports: bool = False
    tcp_unpublished_ports: tuple[int, ...] = ()
    udp_unpublished_ports: tuple[int, ...] = ()
    runtime: Runtime = Field(default_factory=Runtime)
    create: dict[str, Any] = Field(default_factory=dict)

    @property
    def argv(self) -> tuple[str, ...]:
        """Entrypoint and command, as dockerinit joins them."""
        return self.entrypoint + self.cmd


def _list_text(values: tuple[Any, ...]) -> str:
    """With a blank after each comma, as admins write these by hand; dockerinit takes any JSON."""
    return json.dumps(list(values), ensure_ascii=False)


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, sort_keys=True)


_DOCKER, _OURS = "docker:", "zonegate:"
_STRINGS = {
    "docker:id": "id",
    "docker:imagename": "image_name",
    "docker:imageid": "image_id",
    "docker:workdir": "workdir",
    "docker:user": "user",
    "docker:logdriver": "log_driver",
}
_FLAGS = {
    "docker:tty": "tty",
    "docker:open_stdin": "open_stdin",
    "docker:attach_stdin": "attach_stdin",
    "docker:attach_stdout": "attach_stdout",
    "docker:attach_stderr": "attach_stderr",
    "docker:publish_all_ports": "publish_all_ports",
}
_LISTS = {
    "docker:extraHosts": "extra_hosts",
    "docker:dnssearch": "dns_search",
    "docker:volumesfrom": "volumes_from",
    "docker:tcp_unpublished_ports": "tcp_unpublished_ports",
    "docker:udp_unpublished_ports": "udp_unpublished_ports",
}
# dockerinit reads these three whether they are empty or not.
_REQUIRED_LISTS = {"docker:cmd": "cmd", "docker:entrypoint": "entrypoint", "docker:env": "env"}

# vmadmd knows neither the word nor the meaning: it gets `always` and the marker tells us.
_UNLESS_STOPPED_KEY = "zonegate:unless_stopped"


def encode(metadata: DockerMetadata) -> dict[str, Flat]:
    """The flat map for internal_metadata; empty optional keys are left out."""
    flat: dict[str, Flat] = {"docker:noipmgmtd": True}
    for key, name in _STRINGS.items():
        if value := getattr(metadata, name):
            flat[key] = value
    for key, name in _FLAGS.items():
        if getattr(metadata, name):
            flat[key] = True
    for key, name in _REQUIRED_LISTS.items():
        flat[key] = _list_text(getattr(metadata, name))
    for key, name in _LISTS.items():
        if values := getattr(metadata, name):
            flat[key] = _list_text(values)
    if metadata.log_config:
        flat["docker:logconfig"] = _text(metadata.log_config)
    flat |= _restart_words(metadata.restart_policy)
    if not metadata.docker:
        flat = _without_docker(flat)
    flat[RUNTIME_KEY] = metadata.runtime.model_dump_json(exclude_defaults=True)
    if metadata.create:
        flat[CREATE_KEY] = _text(metadata.create)
    return flat


def _restart_words(policy: str) -> dict[str, Flat]:
    if policy == "unless-stopped":
        return {"docker:restartpolicy": "always", _UNLESS_STOPPED_KEY: True}
    return {"docker:restartpolicy": policy} if policy else {}


def _without_docker(flat: Mapping[str, Flat]) -> dict[str, Flat]:
    """Nobody runs a command there: empty lists and the word to dockerinit are left out."""
    unread = {"docker:noipmgmtd", *(key for key in _REQUIRED_LISTS if flat[key] == "[]")}
    return {
        key.replace(_DOCKER, _OURS, 1) if key.startswith(_DOCKER) else key: value
        for key, value in flat.items()
        if key not in unread
    }


def _with_docker(flat: Mapping[str, Flat]) -> dict[str, Flat]:
    """Keys of a zone without docker: true by the names that the others have."""
    known = _STRINGS.keys() | _FLAGS.keys() | _REQUIRED_LISTS.keys() | _LISTS.keys()
    known |= {"docker:logconfig", "docker:restartpolicy"}
    names = {key.replace(_DOCKER, _OURS, 1): key for key in known}
    return {names.get(key, key): value for key, value in flat.items() if key not in known}


def decode(flat: Mapping[str, Flat]) -> DockerMetadata:
    """Inverse of `encode`; keys of others are passed over.  ValueError on text that is no JSON."""
    fields: dict[str, Any] = {"docker": "zonegate:id" not in flat}
    if not fields["docker"]:
        flat = _with_docker(flat)
    for key, name in _STRINGS.items():
        if key in flat:
            fields[name] = str(flat[key])
    for key, name in _FLAGS.items():
        # dockerinit compares the text, so both a boolean and the word mean yes.
        fields[name] = str(flat.get(key, "")).lower() == "true"
    for key, name in (_REQUIRED_LISTS | _LISTS).items():
        if key in flat:
            fields[name] = tuple(json.loads(str(flat[key])))
    if "docker:logconfig" in flat:
        fields["log_config"] = json.loads(str(flat["docker:logconfig"]))
    if flat.get(_UNLESS_STOPPED_KEY):
        fields["restart_policy"] = "unless-stopped"
    elif "docker:restartpolicy" in flat:
        fields["restart_policy"] = str(flat["docker:restartpolicy"])
    if RUNTIME_KEY in flat:
        fields["runtime"] = Runtime.model_validate_json(str(flat[RUNTIME_KEY]))
    if CREATE_KEY in flat:
        fields["create"] = json.loads(str(flat[CREATE_KEY]))
    return DockerMetadata(**fields)
