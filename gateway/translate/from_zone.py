"""From a zone to what Docker's clients read: inspect, and the row of the container list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, cast

from dockerapi.models.base import JSONObject
from gateway.translate import networking, ports, status
from gateway.translate.health import Health
from gateway.translate.mounts import MountPoint
from gateway.zones.host import Network, Zone

_EMPTY: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Places:
    """Where the host keeps things, and what inspect must name of it.

    `pool`: where SmartOS mounts its zones; None = Linux, they are in the data root.
    """

    data_root: PurePath
    exec_root: PurePath
    storage_driver: str
    pool: PurePath | None = None

    def files(self, uuid: str) -> tuple[PurePath, PurePath]:
        """Folder of a zone's hosts, hostname and resolv.conf; its log."""
        if self.pool is not None:
            return self.pool / uuid / "config", self.pool / uuid / "logs" / "stdio.log"
        folder = self.data_root / "zones" / uuid
        return folder / "etc", folder / "ctr.log"


def config(zone: Zone) -> JSONObject:
    """Config as the client sent it, the image's filled in."""
    return cast(JSONObject, zone.metadata.create.get("Config", _EMPTY))


def host_config(zone: Zone) -> JSONObject:
    """HostConfig likewise."""
    return cast(JSONObject, zone.metadata.create.get("HostConfig", _EMPTY))


def network_mode(zone: Zone) -> str:
    """As the client asked for it."""
    return str(host_config(zone).get("NetworkMode", "bridge"))


def mount_points(zone: Zone) -> tuple[MountPoint, ...]:
    """As they were planned, volumes with their folders."""
    return tuple(MountPoint.read(data) for data in zone.metadata.create.get("Mounts", ()))


def auto_remove(zone: Zone) -> bool:
    """--rm."""
    return bool(host_config(zone).get("AutoRemove"))


def labels(zone: Zone) -> dict[str, str]:
    """The container's, image's included."""
    return cast("dict[str, str]", config(zone).get("Labels") or {})


def networks_joined(zone: Zone) -> dict[str, JSONObject]:
    """Network -> what was asked of it."""
    return cast("dict[str, JSONObject]", zone.metadata.create.get("NetworkingConfig", _EMPTY))


def inspect(
    zone: Zone,
    *,
    networks: Mapping[str, Network],
    places: Places,
    exec_ids: Sequence[str] = (),
    health: Health | None = None,
    links: Sequence[str] | None = None,
) -> JSONObject:
    """The newest shape, with the payload of the zone as `Zone`."""
    data = zone.metadata
    argv = data.argv
    folder, log = places.files(zone.uuid)
    has_begun = bool(zone.started_ns or zone.error)
    return {
        "Id": data.id,
        "Created": status.go_time(zone.created_ns),
        "Path": argv[0] if argv else "",
        "Args": list(argv[1:]),
        "State": status.state(zone, health),
        "Image": data.image_id,
        "ResolvConfPath": str(folder / "resolv.conf") if has_begun else "",
        "HostnamePath": str(folder / "hostname") if has_begun else "",
        "HostsPath": str(folder / "hosts") if has_begun else "",
        "LogPath": str(log) if has_begun and _log_type(zone) == "json-file" else "",
        "Name": f"/{zone.spec.alias}",
        "RestartCount": zone.restart_count,
        "Driver": places.storage_driver,
        "Platform": "linux" if zone.spec.brand == "lx" else "smartos",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": data.runtime.apparmor,
        "ExecIDs": list(exec_ids) or None,
        "HostConfig": {**host_config(zone), "Links": links},
        "GraphDriver": {"Data": _graph(zone, places), "Name": places.storage_driver},
        "Mounts": [point.shown() for point in mount_points(zone)],
        "Config": _config_shown(zone),
        "NetworkSettings": network_settings(zone, networks, places),
        "Zone": zone.spec.payload(),
    }


def _config_shown(zone: Zone) -> JSONObject:
    """With the MAC address that was asked for on the network of NetworkMode, where clients before API 1.44 gave it."""
    mode = network_mode(zone)
    asked = networks_joined(zone).get("bridge" if mode == "default" else mode, _EMPTY)
    mac = asked.get("MacAddress")
    return {"MacAddress": mac, **config(zone)} if mac else config(zone)


def _log_type(zone: Zone) -> str:
    """The driver that was asked for; SmartOS keeps the log of `local` as it keeps all."""
    shown = host_config(zone).get("LogConfig") or {}
    return str(shown.get("Type") or zone.metadata.log_driver)


def _graph(zone: Zone, places: Places) -> JSONObject:
    """Where the root is, while it runs; of a driver that mounts nothing dockerd says no more than whose it is."""
    if places.storage_driver == "btrfs":
        return {"ID": zone.metadata.id}
    on_zfs = places.storage_driver == "zfs" and places.pool is None
    return {"Mountpoint" if on_zfs else "MergedDir": zone.root} if zone.root else {}


def network_settings(zone: Zone, networks: Mapping[str, Network], places: Places) -> JSONObject:
    """With the fields of the default network at the top, as until API 1.51."""
    rows = _endpoints(zone, networks)
    default = rows.get("bridge", _EMPTY) if zone.is_running else _EMPTY
    running = zone.is_running
    has_sandbox = running and not zone.metadata.runtime.network.startswith("zone:")
    return {
        "Bridge": "",
        "SandboxID": networking.stable_id(zone.metadata.id, "sandbox") if has_sandbox else "",
        "SandboxKey": _sandbox_key(zone, places) if has_sandbox else "",
        "Ports": ports.port_map(_exposed(zone, networks), zone.ports) if running else {},
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "EndpointID": default.get("EndpointID", ""),
        "Gateway": default.get("Gateway", ""),
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "IPAddress": default.get("IPAddress", ""),
        "IPPrefixLen": default.get("IPPrefixLen", 0),
        "IPv6Gateway": "",
        "MacAddress": default.get("MacAddress", ""),
        "Networks": rows,
    }


def _exposed(zone: Zone, networks: Mapping[str, Network]) -> Iterable[str]:
    """Ports that may be shown without being published: as in dockerd a bridge that leads out tells of them, so without one there are none."""
    exposed: Iterable[str] = config(zone).get("ExposedPorts", _EMPTY)
    has_bridge = any(
        networking.publishes(zone, networks[name])
        for name in (networks_joined(zone) if exposed else ())
        if name in networks
    )
    return exposed if has_bridge else ()


def _endpoints(zone: Zone, networks: Mapping[str, Network]) -> JSONObject:
    return networking.endpoint_rows(zone, networks_joined(zone), networks)


def _sandbox_key(zone: Zone, places: Places) -> str:
    if places.pool is not None:
        return ""
    if network_mode(zone) == "host":
        return "/proc/1/ns/net"
    return str(places.exec_root / "netns" / zone.uuid)


def _without_names(endpoints: JSONObject) -> JSONObject:
    """As the list has them: what a container is called there is told by inspect alone."""
    unknown = {"Aliases": None, "DNSNames": None}
    return {name: {**endpoint, **unknown} for name, endpoint in endpoints.items()}


def row(zone: Zone, *, image: str, networks: Mapping[str, Network], status_text: str) -> JSONObject:
    """One entry of GET /containers/json.  `image` is the name, or the id once the tag moved away."""
    data = zone.metadata
    shown = host_config(zone)
    small: JSONObject = {"NetworkMode": shown.get("NetworkMode", "bridge")}
    if shown.get("Annotations"):
        small["Annotations"] = shown["Annotations"]
    return {
        "Id": data.id,
        "Names": [f"/{zone.spec.alias}"],
        "Image": image,
        "ImageID": data.image_id,
        "Command": command_text(data.argv),
        "Created": zone.created_ns // 1_000_000_000,
        "Ports": ports.port_rows(_exposed(zone, networks), zone.ports) if zone.is_running else [],
        "Labels": labels(zone),
        "State": status.status(zone),
        "Status": status_text,
        "HostConfig": small,
        "NetworkSettings": {"Networks": _without_names(_endpoints(zone, networks))},
        "Mounts": [point.shown() for point in mount_points(zone)],
    }


def command_text(argv: Sequence[str]) -> str:
    """The command as `docker ps` shows it: arguments, not the program, with blanks in single quotes."""
    return " ".join([*argv[:1], *(f"'{part}'" if " " in part else part for part in argv[1:])])
