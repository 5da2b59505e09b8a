"""Request bodies of older clients, made to mean today what they meant then.  Pure."""

from __future__ import annotations

from dockerapi.errors import InvalidParameter
from dockerapi.models.containers import BindOptions, ContainerCreate, HostConfig, Mount
from dockerapi.models.execs import ExecCreate, ExecStart
from dockerapi.versions import Version

V1_40, V1_41, V1_42 = Version(1, 40), Version(1, 41), Version(1, 42)
V1_43, V1_44, V1_45 = Version(1, 43), Version(1, 44), Version(1, 45)
V1_48 = Version(1, 48)


def create_from(version: Version, body: ContainerCreate) -> ContainerCreate:
    """Takes away what `version` did not know; InvalidParameter for what it refused."""
    if version < V1_44:
        _one_endpoint(body)
    host = body.host_config
    changes = _host_changes(version, host)
    if host.mounts:
        changes["mounts"] = [_mount_from(version, mount) for mount in host.mounts]
    update: dict[str, object] = {"host_config": host.model_copy(update=changes)}
    if version < V1_44 and body.healthcheck is not None:
        update["healthcheck"] = body.healthcheck.model_copy(update={"start_interval": 0})
    if version < V1_44:
        update["networking_config"] = body.networking_config.model_copy(
            update={
                "endpoints_config": {
                    name: endpoint and endpoint.model_copy(update={"mac_address": ""})
                    for name, endpoint in body.networking_config.endpoints_config.items()
                }
            }
        )
    return body.model_copy(update=update)


def _one_endpoint(body: ContainerCreate) -> None:
    names = sorted(body.networking_config.endpoints_config)
    if len(names) > 1:
        raise InvalidParameter(
            f"Container cannot be connected to network endpoints: {', '.join(names)}"
        )


def _host_changes(version: Version, host: HostConfig) -> dict[str, object]:
    changes: dict[str, object] = {}
    if version < V1_40:
        changes |= {"kernel_memory_tcp": 0, "pids_limit": None}
        if not host.ipc_mode:
            changes["ipc_mode"] = "shareable"
    if version < V1_41 and not host.cgroupns_mode:
        changes["cgroupns_mode"] = "host"
    if version < V1_42:
        changes["console_size"] = [0, 0]
    else:
        # Removed in 1.42; dockerd ignores it from there on.
        changes["kernel_memory"] = 0
    if version < V1_43:
        changes["annotations"] = None
    return changes


def _mount_from(version: Version, mount: Mount) -> Mount:
    if mount.volume_options is not None and version < V1_45 and mount.volume_options.subpath:
        raise InvalidParameter("VolumeOptions.Subpath needs API v1.45 or newer")
    if mount.type == "image" and version < V1_48:
        raise InvalidParameter('Mount type "Image" needs API v1.48 or newer')
    return mount.model_copy(update={"bind_options": _bind_options_from(version, mount)})


def _bind_options_from(version: Version, mount: Mount) -> BindOptions | None:
    # Read-only did not reach what is mounted below, before 1.44.
    alone = version < V1_44 and mount.type == "bind" and mount.read_only
    if mount.bind_options is None and not alone:
        return None
    changes: dict[str, object] = {}
    if version < V1_40:
        changes["non_recursive"] = False
    if version < V1_42:
        changes["create_mountpoint"] = False
    if version < V1_44:
        changes |= {"read_only_non_recursive": alone, "read_only_force_recursive": False}
    return (mount.bind_options or BindOptions()).model_copy(update=changes)


def exec_create_from(version: Version, body: ExecCreate) -> ExecCreate:
    """The console's size came with 1.42 and means nothing without a console."""
    if version < V1_42 or not body.tty:
        return body.model_copy(update={"console_size": None})
    return body


def exec_start_from(version: Version, body: ExecStart) -> ExecStart:
    """As for create."""
    if version < V1_42 or not body.tty:
        return body.model_copy(update={"console_size": None})
    return body
