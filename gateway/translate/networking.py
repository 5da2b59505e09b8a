"""Network modes and endpoints: which networks a container joins, and what inspect shows of it."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Mapping, Sequence

from dockerapi.errors import InvalidParameter, NotSupported
from dockerapi.models.base import JSONObject
from dockerapi.models.containers import ContainerCreate, EndpointSettings, HostConfig
from gateway.translate.facts import dashed
from gateway.zones.host import Network, NetworkRequest
from gateway.zones.spec import Nic

_MAC = re.compile(r"[0-9a-fA-F]{2}([:-][0-9a-fA-F]{2}){5}")


def network_mode(host: HostConfig) -> str:
    """What the client asked for; no answer means the default network, bridge."""
    return "bridge" if host.network_mode in ("", "default") else host.network_mode


def target(mode: str) -> str:
    """X of `container:X`, else ""."""
    kind, _, ref = mode.partition(":")
    return ref if kind == "container" else ""


def check_modes(body: ContainerCreate) -> None:
    """Modes and what cannot be combined with them, in dockerd's words."""
    host = body.host_config
    mode = network_mode(host)
    if mode.startswith("container:"):
        _check_container_mode(body, target(mode))
    _check_endpoints(body, mode)
    if (mode == "host" or target(mode)) and body.mac_address:
        raise InvalidParameter("conflicting options: mac-address and the network mode")
    if host.uts_mode == "host" and body.hostname and mode != "host":
        raise InvalidParameter("conflicting options: hostname and the UTS mode")
    _check_namespace("PID", host.pid_mode, ("", "host"))
    _check_namespace("IPC", host.ipc_mode, ("", "host", "none", "private", "shareable"))
    for name, value, known in (
        ("UTS", host.uts_mode, ("", "host")),
        ("user namespace", host.userns_mode, ("", "host")),
        ("cgroup namespace", host.cgroupns_mode, ("", "host", "private")),
    ):
        if value not in known:
            raise InvalidParameter(f"invalid {name} mode: {value}")
    if host.isolation not in ("", "default"):
        raise InvalidParameter(
            f'invalid isolation "{host.isolation}": linux only supports "default"'
        )


def _check_endpoints(body: ContainerCreate, mode: str) -> None:
    """Endpoints that would not be made are refused, not passed over."""
    given = body.networking_config.endpoints_config
    alone = mode in ("host", "none") or bool(target(mode))
    if alone and any(name != mode for name in given):
        raise InvalidParameter(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes"
        )
    for settings in given.values():
        if settings is None:
            continue
        ipam = settings.ipam_config or {}
        if settings.driver_opts:
            raise NotSupported("DriverOpts of an endpoint are not supported by zonegate yet")
        if ipam.get("IPv6Address") or ipam.get("LinkLocalIPs"):
            raise NotSupported("IPv6 and link-local addresses are not supported by zonegate yet")


def _check_namespace(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known and not target(value):
        raise InvalidParameter(f"invalid {name} mode: {value}")


def _check_container_mode(body: ContainerCreate, ref: str) -> None:
    host = body.host_config
    if not ref:
        raise InvalidParameter(
            'Invalid network mode: "container:": invalid container format container:<name|id>'
        )
    conflicts = (
        (body.hostname, "hostname and the network mode"),
        (
            host.links,
            "container type network can't be used with links. This would result in undefined behavior",
        ),
        (host.dns, "dns and the network mode"),
        (host.extra_hosts, "custom host-to-IP mapping and the network mode"),
        (
            host.port_bindings or host.publish_all_ports,
            "port publishing and the container type network mode",
        ),
        (body.exposed_ports, "port exposing and the container type network mode"),
    )
    for given, words in conflicts:
        if given:
            raise InvalidParameter(f"conflicting options: {words}")


def endpoints(body: ContainerCreate) -> dict[str, EndpointSettings]:
    """Network -> settings, the one of the network mode first; {} for host, none, container:X."""
    mode = network_mode(body.host_config)
    given = {
        "bridge" if name == "default" else name: settings or EndpointSettings()
        for name, settings in body.networking_config.endpoints_config.items()
    }
    if mode in ("host", "none") or target(mode) or body.network_disabled:
        return {}
    first = given.pop(mode, EndpointSettings())
    if body.mac_address and not first.mac_address:
        first = first.model_copy(update={"mac_address": body.mac_address})
    return {mode: first} | given


def requests(wanted: Mapping[str, EndpointSettings]) -> tuple[NetworkRequest, ...]:
    """What to lease.  InvalidParameter for an address or MAC that is none."""
    return tuple(_request(name, settings) for name, settings in wanted.items())


def _request(name: str, settings: EndpointSettings) -> NetworkRequest:
    address = (settings.ipam_config or {}).get("IPv4Address") or None
    if address is not None:
        try:
            ipaddress.IPv4Address(address)
        except ValueError as error:
            raise InvalidParameter(
                f"invalid endpoint settings:\ninvalid IPv4 address: {address}"
            ) from error
        if name == "bridge":
            raise InvalidParameter(
                "invalid endpoint settings:\nuser specified IP address is supported on user defined networks only"
            )
    if settings.aliases and name == "bridge":
        raise InvalidParameter(
            "invalid endpoint settings:\nnetwork-scoped alias is supported only for containers in user defined networks"
        )
    mac = settings.mac_address.lower().replace("-", ":") or None
    if mac is not None and not _MAC.fullmatch(mac):
        raise InvalidParameter(f"invalid MAC address: {settings.mac_address}")
    return NetworkRequest(network=name, address=address, mac=mac)


def resolvers(host: HostConfig, fallback: Sequence[str]) -> tuple[str, ...] | None:
    """--dns, else the daemon's; None = the machine's."""
    for text in host.dns or []:
        try:
            ipaddress.ip_address(text)
        except ValueError as error:
            raise InvalidParameter(f"bad nameserver address: {text}") from error
    return tuple(host.dns or fallback) or None


def extra_hosts(host: HostConfig, gateway: str) -> tuple[str, ...]:
    """NAME:IP, `host-gateway` replaced by the default network's gateway."""
    found: list[str] = []
    for entry in host.extra_hosts or []:
        separator = "=" if "=" in entry else ":"
        name, _, address = entry.partition(separator)
        if not name or not address:
            raise InvalidParameter(f'bad format for add-host: "{entry}"')
        if address == "host-gateway":
            if not gateway:
                raise InvalidParameter(
                    "unable to derive the IP value for host-gateway: there is no default network"
                )
            address = gateway
        address = address.strip("[]")
        try:
            ipaddress.ip_address(address)
        except ValueError as error:
            raise InvalidParameter(f'invalid IP address in add-host: "{address}"') from error
        found.append(f"{name}:{address}")
    return tuple(found)


def stable_id(*parts: str) -> str:
    """64 hex that stay the same for the same parts: endpoint and sandbox ids."""
    return hashlib.sha256("/".join(parts).encode()).hexdigest()


def endpoint_rows(
    docker_id: str,
    mode: str,
    wanted: Mapping[str, JSONObject],
    nics: Sequence[Nic],
    networks: Mapping[str, Network],
    *,
    running: bool,
    joined: bool,
) -> JSONObject:
    """NetworkSettings.Networks: addresses while it runs; afterwards only the id of the network it had joined."""
    if target(mode):
        return {}
    by_uuid = {nic.network_uuid: nic for nic in nics}
    rows: JSONObject = {}
    for name in wanted or {mode: {}}:
        network = networks.get(name)
        nic = by_uuid.get(dashed(network.id[:32])) if network else None
        rows[name] = _endpoint(
            docker_id, wanted.get(name, {}), nic if running else None, network, running=running
        )
        if joined and network:
            rows[name]["NetworkID"] = network.id
    return rows


def _endpoint(
    docker_id: str,
    wanted: JSONObject,
    nic: Nic | None,
    network: Network | None,
    *,
    running: bool,
) -> JSONObject:
    live = running and network is not None
    return {
        "IPAMConfig": wanted.get("IPAMConfig"),
        "Links": None,
        "Aliases": wanted.get("Aliases"),
        "MacAddress": (nic.mac if nic else wanted.get("MacAddress")) or "",
        "DriverOpts": wanted.get("DriverOpts"),
        "GwPriority": wanted.get("GwPriority", 0),
        "NetworkID": network.id if live and network else "",
        "EndpointID": stable_id(docker_id, network.id) if live and network else "",
        "Gateway": (nic and nic.gateway) or "",
        "IPAddress": (nic and nic.ip) or "",
        "IPPrefixLen": _prefix(nic),
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "DNSNames": None,
    }


def _prefix(nic: Nic | None) -> int:
    if nic is None or nic.netmask is None:
        return 0
    return ipaddress.IPv4Network(f"0.0.0.0/{nic.netmask}").prefixlen
