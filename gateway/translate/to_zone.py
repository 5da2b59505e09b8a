"""From a create body to the payload of `vmadm create`, in two steps.

    plan(body, image, ...) -> Plan         everything is checked; says what must be made first
    zone_spec(plan, ...)   -> ZoneSpec     once volumes have folders and nics have addresses

Limits go in twice: in vmadm's words where it has one, and exactly in `Runtime.resources`.

A zone is a container (dockerinit runs the command), a full zone (its own init, `docker exec` for the rest)
or a machine; `zones.brands` says which images become what.  What only SmartOS has is `smartos`' and `machines`'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import ValidationError

from dockerapi.errors import InvalidParameter, NotSupported
from dockerapi.models.base import JSONObject
from dockerapi.models.containers import ContainerCreate, HostConfig, RestartPolicy
from gateway.translate import (
    endpoints,
    limits,
    machines,
    mounts,
    networking,
    ports,
    security,
    smartos,
)
from gateway.translate.config import config
from gateway.translate.endpoints import Joined
from gateway.translate.facts import Identity, ImageFacts, Surroundings
from gateway.translate.host_config import DEFAULT_SHM_SIZE, host_config, log_max_size
from gateway.translate.mounts import MountPoint
from gateway.translate.rootsize import root_size
from gateway.zones import brands
from gateway.zones import metadata as zone_metadata
from gateway.zones.brands import Brand, Kind
from gateway.zones.host import Network, NetworkRequest
from gateway.zones.metadata import DockerMetadata, Link, Runtime
from gateway.zones.spec import LABEL_PREFIX, TAG_INSTANCE, Flat, Nic, ZoneSpec

KERNEL_VERSION = "4.10"
NO_IMAGE = "00000000-0000-0000-0000-000000000000"
"""image_uuid of a container of an image without layers."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A create body understood.  `volumes_from`: container and whether writable."""

    body: ContainerCreate
    image: ImageFacts
    identity: Identity
    around: Surroundings
    config: JSONObject
    host_config: JSONObject
    requests: tuple[NetworkRequest, ...]
    warnings: tuple[str, ...]
    brand: Brand
    links: tuple[Link, ...] = ()
    joins: Mapping[str, str] = field(default_factory=dict)
    """Namespace (network, pid, ipc) -> the container that owns it, as typed."""


def plan(
    body: ContainerCreate, image: ImageFacts, identity: Identity, around: Surroundings
) -> Plan:
    """InvalidParameter, NotSupported in the words the client shows."""
    networking.check_modes(body)
    mode = networking.network_mode(body.host_config)
    brand = _brand(body, image, around)
    shown = config(
        body,
        image,
        hostname=_hostname(body, identity, around, mode),
        needs_command=brand.kind is Kind.CONTAINER,
    )
    host = host_config(body, around)
    # These check as they parse; a wrong body must fail before anything is made.
    security.capabilities(body.host_config)
    security.security_options(body.host_config)
    limits.rlimits(body.host_config.ulimits)
    _published(body, shown, mode)
    mounts.mount_points(body, shown["Volumes"] or {}, ())
    mounts.tmpfs(body)
    lacking: list[str] = []
    if around.platform == "smartos":
        lacking = [*smartos.check(body, brand), *smartos.stop_signal_warnings(shown, brand)]
    return Plan(
        body=body,
        image=image,
        identity=identity,
        around=around,
        config=shown,
        host_config=host,
        requests=networking.requests(networking.endpoints(body)),
        warnings=(*_warnings(body, shown, around, mode), *lacking),
        brand=brand,
        joins=_joins(body, mode),
    )


def mount_points(found: Plan, inherited: Sequence[MountPoint]) -> tuple[MountPoint, ...]:
    """What to mount; volumes without source must be made first."""
    return mounts.mount_points(found.body, found.config["Volumes"] or {}, inherited)


def zone_spec(
    found: Plan,
    *,
    nics: Sequence[Nic] = (),
    points: Sequence[MountPoint] = (),
    joined: Mapping[str, str] | None = None,
    networks: Mapping[str, Network] | None = None,
) -> ZoneSpec:
    """The payload.  `joined`: namespace -> UUID of the zone that owns it; `networks` by what the client called them."""
    body, around, identity = found.body, found.around, found.identity
    on = _joined(found, nics, networks)
    data = _metadata(found, points, joined or {}, on)
    outside, inside = _environment(found)
    labels: dict[str, Flat] = {
        LABEL_PREFIX + key: value for key, value in found.config["Labels"].items()
    }
    values: dict[str, object] = {
        "uuid": identity.uuid,
        "brand": found.brand.name,
        "alias": identity.name,
        "hostname": found.config["Hostname"] or None,
        "firewall_enabled": True,
        "resolvers": networking.resolvers(body.host_config, around.dns),
        "nics": on.nics,
        "tags": {TAG_INSTANCE: around.instance, **labels},
        "customer_metadata": outside or None,
        "internal_metadata": zone_metadata.encode(data) | inside,
    }
    if found.brand.kind is not Kind.MACHINE:
        values |= _of_os_zone(found, points)
    values |= _limits(found)
    if kernel := _kernel_version(found):
        values["kernel_version"] = kernel
    try:
        return ZoneSpec.model_validate(values)
    except ValidationError as error:
        _blame_settings(error, around)
        raise


def _brand(body: ContainerCreate, image: ImageFacts, around: Surroundings) -> Brand:
    if around.platform == "smartos":
        return smartos.brand(body, image)
    if image.type != "docker":
        raise NotSupported(f"an image of type {image.type} runs on SmartOS only")
    return brands.choose("docker")


def _of_os_zone(found: Plan, points: Sequence[MountPoint]) -> dict[str, object]:
    values: dict[str, object] = {
        "image_uuid": found.image.uuid or NO_IMAGE,
        "dns_domain": found.body.domainname or None,
        "maintain_resolvers": True,
        "filesystems": mounts.filesystems(points, mounts.tmpfs(found.body)),
    }
    if found.brand.kind is Kind.CONTAINER:
        values |= {"init_name": found.brand.init_name, "tmpfs": 0}
    return values


def _limits(found: Plan) -> dict[str, object]:
    """The client's over the settings'."""
    body, around = found.body, found.around
    if around.platform != "smartos":
        wanted = limits.vmadm_limits(body.host_config, log_max_size(body.host_config))
        return {**around.zone_defaults, **wanted, **_quota(body.host_config, around)}
    limited = smartos.defaults(around.zone_defaults, found.brand)
    limited = limits.settled(limited | smartos.wanted(body, found.image, found.brand))
    is_temporary = smartos.temporary_size(mounts.tmpfs(body)) == 0
    # A tmpfs on /tmp without a size may take what vmadm takes for the memory.
    return limited | {"tmpfs": limited.get("max_physical_memory", 256)} if is_temporary else limited


def _quota(host: HostConfig, around: Surroundings) -> dict[str, object]:
    """The next GiB; the bytes are in our own metadata."""
    size = root_size(host, around.storage_driver)
    return {"quota": -(-size // (1 << 30))} if size else {}


def _kernel_version(found: Plan) -> str:
    """What Linux an lx zone shows: the image's own word, the settings', ours."""
    if found.brand.name != "lx":
        return ""
    tags = found.image.manifest.get("tags") or {}
    default = found.around.zone_defaults.get("kernel_version", KERNEL_VERSION)
    return str(tags.get("kernel_version") or default)


def _nics(found: Plan, nics: Sequence[Nic]) -> tuple[Nic, ...]:
    """Named as the brand's own are; the first is the primary one."""
    first = found.around.interface
    prefix = first.rstrip("0123456789") or found.brand.interface
    start = int(first[len(prefix) :] or 0) if first else 0
    is_machine = found.brand.kind is Kind.MACHINE
    model = machines.nic_model(found.image.manifest) if is_machine else None
    return tuple(
        nic.model_copy(
            update={
                "interface": f"{prefix}{start + number}",
                "primary": True if number == 0 else None,
                "model": model,
            }
        )
        for number, nic in enumerate(nics)
    )


def _environment(found: Plan) -> tuple[dict[str, Flat], dict[str, Flat]]:
    """Where no command is run, variables are metadata: (customer's, internal's), as mdata-get looks for them."""
    if found.brand.kind is Kind.CONTAINER:
        return {}, {}
    pairs = dict(entry.partition("=")[::2] for entry in found.config["Env"])
    return (
        {key: value for key, value in pairs.items() if not key.endswith("_pw")},
        {key: value for key, value in pairs.items() if key.endswith("_pw")},
    )


def _blame_settings(error: ValidationError, around: Surroundings) -> None:
    """InvalidParameter where it is [zone_defaults] that vmadm would not take."""
    for fault in error.errors():
        key = fault["loc"][0] if fault["loc"] else ""
        if key in around.zone_defaults:
            raise InvalidParameter(f"settings: zone_defaults.{key}: {fault['msg']}") from error


def _metadata(
    found: Plan, points: Sequence[MountPoint], joined: Mapping[str, str], on: Joined
) -> DockerMetadata:
    body, shown = found.body, found.config
    host = body.host_config
    tcp, udp = _unpublished(found)
    is_smartos = found.around.platform == "smartos"
    is_container = found.brand.kind is Kind.CONTAINER
    driver = found.host_config["LogConfig"]["Type"]
    return DockerMetadata(
        id=found.identity.docker_id,
        docker=is_container,
        image_name=body.image,
        image_id=found.image.id,
        cmd=tuple(shown["Cmd"] or ()),
        entrypoint=tuple(shown["Entrypoint"] or ()),
        env=tuple(shown["Env"]) if is_container else (),
        workdir=shown["WorkingDir"],
        user=shown["User"],
        tty=body.tty,
        open_stdin=body.open_stdin,
        attach_stdin=body.attach_stdin,
        attach_stdout=body.attach_stdout,
        attach_stderr=body.attach_stderr,
        restart_policy=restart_words(host.restart_policy),
        # dockerinit knows no `local`, and would look for a program of that name.
        log_driver="json-file" if is_smartos and driver == "local" else driver,
        log_config=dict(host.log_config.config),
        extra_hosts=networking.extra_hosts(host, found.around.host_gateway),
        dns_search=tuple(host.dns_search or ()),
        publish_all_ports=host.publish_all_ports,
        tcp_unpublished_ports=tcp,
        udp_unpublished_ports=udp,
        runtime=_runtime(found, points, joined).model_copy(update={"endpoints": on.endpoints}),
        create={
            "Config": shown,
            "HostConfig": found.host_config,
            "NetworkingConfig": on.asked,
            "Mounts": [point.kept() for point in points],
        },
    )


def _runtime(found: Plan, points: Sequence[MountPoint], joined: Mapping[str, str]) -> Runtime:
    body, host = found.body, found.body.host_config
    options = security.security_options(host)
    mode = networking.network_mode(host)
    runtime = Runtime(
        capabilities=security.capabilities(host),
        privileged=host.privileged,
        no_new_privileges=options.no_new_privileges,
        seccomp=options.seccomp,
        apparmor=options.apparmor,
        rlimits=limits.rlimits(host.ulimits),
        sysctls=dict(host.sysctls or {}),
        devices=security.devices(host),
        device_cgroup_rules=tuple(host.device_cgroup_rules or ()),
        device_requests=security.device_requests(host),
        writable_cgroups=options.writable_cgroups,
        tmpfs=mounts.tmpfs(body),
        shm_size=host.shm_size or DEFAULT_SHM_SIZE,
        mount_options=mounts.mount_words(points),
        readonly_rootfs=host.readonly_rootfs,
        masked_paths=tuple(found.host_config["MaskedPaths"] or ()),
        readonly_paths=tuple(found.host_config["ReadonlyPaths"] or ()),
        groups=tuple(host.group_add or ()),
        links=found.links,
        network=_namespace(mode, joined.get("network")),
        pid=_namespace(host.pid_mode, joined.get("pid")),
        ipc=host.ipc_mode
        if host.ipc_mode in ("shareable", "none")
        else _namespace(host.ipc_mode, joined.get("ipc")),
        uts="host" if host.uts_mode == "host" else "",
        cgroup="host" if found.host_config["CgroupnsMode"] == "host" else "",
        cgroup_parent=host.cgroup_parent,
        init=bool(host.init),
        oom_score_adj=host.oom_score_adj,
        stop_signal=found.config.get("StopSignal", ""),
        stop_timeout_s=body.stop_timeout,
        # The end of a client is no end of a terminal's input, or nobody could come back to it.
        stdin_once=body.stdin_once and not body.tty,
        console_size=_console(host.console_size),
        published_ports=_published(body, found.config, mode),
        resources=limits.kept_resources(host, found.around),
        root_size=0
        if found.around.platform == "smartos"
        else root_size(host, found.around.storage_driver),
        dns_options=tuple(host.dns_options or ()),
        annotations=dict(host.annotations or {}),
    )
    return smartos.runtime(runtime) if found.around.platform == "smartos" else runtime


def _namespace(mode: str, zone: str | None) -> str:
    if zone is not None:
        return f"zone:{zone}"
    return "host" if mode == "host" else ""


def _joins(body: ContainerCreate, mode: str) -> dict[str, str]:
    modes = {
        "network": mode,
        "pid": body.host_config.pid_mode,
        "ipc": body.host_config.ipc_mode,
    }
    return {kind: ref for kind, text in modes.items() if (ref := networking.target(text))}


def _console(size: Sequence[int]) -> tuple[int, int] | None:
    if len(size) != 2 or not all(size):
        return None
    if any(not 0 < n <= 65535 for n in size):
        raise InvalidParameter("invalid console size")
    return size[0], size[1]


def _hostname(body: ContainerCreate, identity: Identity, around: Surroundings, mode: str) -> str:
    # With the host's UTS namespace alone it has a name of its own all the same, that no program sees.
    if mode == "host" or networking.target(mode):
        return body.hostname or around.hostname
    return body.hostname or identity.docker_id[:12]


def restart_words(policy: RestartPolicy) -> str:
    """docker:restartpolicy: "", always, unless-stopped, on-failure, on-failure:N."""
    if policy.name in ("", "no"):
        return ""
    if policy.name == "on-failure" and policy.maximum_retry_count:
        return f"on-failure:{policy.maximum_retry_count}"
    return policy.name


def _published(
    body: ContainerCreate, shown: JSONObject, mode: str
) -> tuple[zone_metadata.PublishedPort, ...]:
    host = body.host_config
    found = ports.published(
        host.port_bindings, shown.get("ExposedPorts", {}), all_ports=host.publish_all_ports
    )
    return () if mode in ("host", "none") or networking.target(mode) else found


def _unpublished(found: Plan) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Exposed only: sdc-docker keeps them, by protocol."""
    bound = set(ports.binding_keys(found.body.host_config.port_bindings))
    exposed = [
        port for key in found.config.get("ExposedPorts", {}) for port in ports.parse_port(key)
    ]
    free = [port for port in exposed if str(port) not in bound]
    return (
        tuple(p.number for p in free if p.protocol == "tcp"),
        tuple(p.number for p in free if p.protocol == "udp"),
    )


def _joined(found: Plan, nics: Sequence[Nic], networks: Mapping[str, Network] | None) -> Joined:
    """Its networks, by what the client called them; nics named as the brand's own are.

    `networks` None: nobody knows them, the nics are taken as they come.
    """
    asked = {
        name: endpoints.asked_of(settings)
        for name, settings in networking.endpoints(found.body).items()
    }
    if networks is None:
        return Joined(asked, {}, _nics(found, nics))
    is_machine = found.brand.kind is Kind.MACHINE
    model = machines.nic_model(found.image.manifest) if is_machine else None
    first = found.around.interface or f"{found.brand.interface}0"
    with_model = [nic.model_copy(update={"model": model}) for nic in nics]
    return endpoints.join(asked, with_model, networks, first=first)


def _warnings(
    body: ContainerCreate, shown: JSONObject, around: Surroundings, mode: str
) -> tuple[str, ...]:
    host = body.host_config
    # What a SmartOS machine cannot limit, `smartos` says with the reason.
    found = limits.check_warnings(host, around) if around.platform == "linux" else []
    found += limits.meaningless(host)
    if any(mount.type == "image" for mount in host.mounts or ()):
        found.append("Image mount is an experimental feature")
    if host.port_bindings and mode == "host":
        found.append("Published ports are discarded when using host network mode")
    if host.runtime and host.runtime not in around.runtimes:
        found.append(
            f"There is no runtime {host.runtime}. The container runs by {around.default_runtime}."
        )
    return tuple(found)
