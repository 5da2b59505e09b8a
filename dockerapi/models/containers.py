"""Bodies of the container routes.  Field by field: v1.51 of the Engine API."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from dockerapi.models.base import Body, Boolean, Whole


def _string_list(value: Any) -> Any:
    """Cmd, Entrypoint, capabilities may be one string; a null among several is an empty one."""
    if isinstance(value, list):
        return ["" if text is None else text for text in value]
    return [value] if isinstance(value, str) else value


def _number(value: Any) -> Any:
    return 0 if value == "" else value


Strings = Annotated[list[str], BeforeValidator(_string_list)]
Integer = Annotated[Whole, BeforeValidator(_number)]


class HealthConfig(Body):
    """Durations in nanoseconds; 0 = inherit."""

    test: list[str] = Field(default_factory=list)
    interval: Whole = 0
    timeout: Whole = 0
    start_period: Whole = 0
    start_interval: Whole = 0
    retries: Whole = 0


class PortBinding(Body):
    """Where a port is published; HostPort may be "", "0", a number or a range."""

    host_ip: str = ""
    host_port: str = ""


class RestartPolicy(Body):
    """Name: "", no, always, unless-stopped, on-failure."""

    name: str = ""
    maximum_retry_count: Whole = 0


class LogConfig(Body):
    """Driver and its options."""

    type: str = ""
    config: dict[str, str] = Field(default_factory=dict)


class DeviceMapping(Body):
    """--device."""

    path_on_host: str = ""
    path_in_container: str = ""
    cgroup_permissions: str = "rwm"


class Ulimit(Body):
    """--ulimit; -1 = unlimited."""

    name: str = ""
    soft: Whole = 0
    hard: Whole = 0


class ThrottleDevice(Body):
    """A disk and its rate: bytes or operations a second."""

    path: str = ""
    rate: Whole = Field(0, ge=0)


class WeightDevice(Body):
    """A disk and its weight among others'."""

    path: str = ""
    weight: Whole = Field(0, ge=0)


class DeviceRequest(Body):
    """--gpus, and devices that a driver hands out."""

    driver: str = ""
    count: Whole = 0
    device_ids: list[str] | None = None
    capabilities: list[list[str]] | None = None
    options: dict[str, str] | None = None


class BindOptions(Body):
    """Of a mount of type bind."""

    propagation: str = ""
    non_recursive: Boolean = False
    create_mountpoint: Boolean = False
    read_only_non_recursive: Boolean = False
    read_only_force_recursive: Boolean = False


class VolumeDriver(Body):
    """Driver of a volume that the mount makes."""

    name: str = ""
    options: dict[str, str] = Field(default_factory=dict)


class VolumeOptions(Body):
    """Of a mount of type volume."""

    no_copy: Boolean = False
    labels: dict[str, str] = Field(default_factory=dict)
    driver_config: VolumeDriver | None = None
    subpath: str = ""


class TmpfsOptions(Body):
    """Of a mount of type tmpfs; size in bytes, mode as a number."""

    size_bytes: Whole = 0
    mode: Whole = 0
    options: list[list[str]] = Field(default_factory=list)


class ImageOptions(Body):
    """Of a mount of type image."""

    subpath: str = ""


class Mount(Body):
    """One entry of HostConfig.Mounts."""

    type: str = ""
    source: str = ""
    target: str = ""
    read_only: Boolean = False
    consistency: str = ""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    tmpfs_options: TmpfsOptions | None = None
    image_options: ImageOptions | None = None


class HostConfig(Body):
    """What the container asks of its host.  None = not given."""

    binds: list[str] | None = None
    container_id_file: str = ""
    log_config: LogConfig = Field(default_factory=LogConfig)
    network_mode: str = ""
    port_bindings: dict[str, list[PortBinding] | None] = Field(default_factory=dict)
    restart_policy: RestartPolicy = Field(default_factory=RestartPolicy)
    auto_remove: Boolean = False
    volume_driver: str = ""
    volumes_from: list[str] | None = None
    mounts: list[Mount] | None = None
    console_size: list[int] = Field(default_factory=lambda: [0, 0])
    annotations: dict[str, str] | None = None
    cap_add: Strings | None = None
    cap_drop: Strings | None = None
    cgroupns_mode: str = ""
    dns: list[str] | None = None
    dns_options: list[str] | None = None
    dns_search: list[str] | None = None
    extra_hosts: list[str] | None = None
    group_add: list[str] | None = None
    ipc_mode: str = ""
    cgroup: str = ""
    links: list[str] | None = None
    oom_score_adj: Whole = 0
    pid_mode: str = ""
    privileged: Boolean = False
    publish_all_ports: Boolean = False
    readonly_rootfs: Boolean = False
    security_opt: list[str] | None = None
    storage_opt: dict[str, str] | None = None
    tmpfs: dict[str, str] | None = None
    uts_mode: str = ""
    userns_mode: str = ""
    shm_size: Integer | None = None
    sysctls: dict[str, str] | None = None
    runtime: str = ""
    isolation: str = ""
    masked_paths: list[str] | None = None
    readonly_paths: list[str] | None = None
    cpu_shares: Integer = 0
    memory: Integer = 0
    nano_cpus: Integer = 0
    cgroup_parent: str = ""
    blkio_weight: Whole = 0
    blkio_weight_device: list[WeightDevice] | None = None
    blkio_device_read_bps: list[ThrottleDevice] | None = None
    blkio_device_write_bps: list[ThrottleDevice] | None = None
    blkio_device_read_iops: list[ThrottleDevice] | None = None
    blkio_device_write_iops: list[ThrottleDevice] | None = None
    cpu_period: Integer = 0
    cpu_quota: Integer = 0
    cpu_realtime_period: Integer = 0
    cpu_realtime_runtime: Integer = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    devices: list[DeviceMapping] | None = None
    device_cgroup_rules: list[str] | None = None
    device_requests: list[DeviceRequest] | None = None
    kernel_memory: Integer = 0
    kernel_memory_tcp: Integer = Field(0, alias="KernelMemoryTCP")
    memory_reservation: Integer = 0
    memory_swap: Integer = 0
    memory_swappiness: Whole | None = None
    oom_kill_disable: Boolean | None = None
    pids_limit: Whole | None = None
    ulimits: list[Ulimit] | None = None
    cpu_count: Whole = 0
    cpu_percent: Whole = 0
    io_maximum_iops: Whole = 0
    io_maximum_bandwidth: Whole = 0
    init: Boolean | None = None


class EndpointSettings(Body):
    """What a container asks of one network."""

    ipam_config: dict[str, Any] | None = None
    links: list[str] | None = None
    aliases: list[str] | None = None
    mac_address: str = ""
    driver_opts: dict[str, str] | None = None
    network_id: str = ""
    gw_priority: Whole = 0


class NetworkingConfig(Body):
    """Networks by name, at create."""

    endpoints_config: dict[str, EndpointSettings | None] = Field(default_factory=dict)


class ContainerCreate(Body):
    """POST /containers/create."""

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: Boolean = False
    attach_stdout: Boolean = False
    attach_stderr: Boolean = False
    exposed_ports: (
        dict[str, Annotated[dict[str, Any], BeforeValidator(lambda value: value or {})]] | None
    ) = None
    tty: Boolean = False
    open_stdin: Boolean = False
    stdin_once: Boolean = False
    env: list[str] | None = None
    cmd: Strings | None = None
    healthcheck: HealthConfig | None = None
    args_escaped: Boolean = False
    image: str = ""
    volumes: dict[str, Any] | None = None
    working_dir: str = ""
    entrypoint: Strings | None = None
    network_disabled: Boolean = False
    mac_address: str = ""
    on_build: list[str] | None = None
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    stop_timeout: Whole | None = None
    shell: Strings | None = None
    host_config: HostConfig = Field(default_factory=HostConfig)
    networking_config: NetworkingConfig = Field(default_factory=NetworkingConfig)


class ContainerUpdate(Body):
    """The body of update.  None = left open."""

    restart_policy: RestartPolicy | None = None
    blkio_weight: Whole | None = None
    blkio_weight_device: list[WeightDevice] | None = None
    blkio_device_read_bps: list[ThrottleDevice] | None = None
    blkio_device_write_bps: list[ThrottleDevice] | None = None
    blkio_device_read_iops: list[ThrottleDevice] | None = None
    blkio_device_write_iops: list[ThrottleDevice] | None = None
    cpu_shares: Integer | None = None
    cpu_period: Integer | None = None
    cpu_quota: Integer | None = None
    cpu_realtime_period: Integer | None = None
    cpu_realtime_runtime: Integer | None = None
    cpuset_cpus: str | None = None
    cpuset_mems: str | None = None
    kernel_memory: Integer | None = None
    memory: Integer | None = None
    memory_reservation: Integer | None = None
    memory_swap: Integer | None = None
    nano_cpus: Integer | None = None
    pids_limit: Whole | None = None
