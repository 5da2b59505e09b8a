"""Network modes and endpoints: which networks a container joins, and what inspect shows of it."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterator, Mapping, Sequence

from dockerapi.errors import InvalidParameter, NotSupported
from dockerapi.models.base import JSONObject
from dockerapi.models.containers import ContainerCreate, EndpointSettings, HostConfig
from gateway.zones.host import Network, NetworkRequest, Zone
from gateway.zones.members import dns_names, ipv4, ipv6, nic_on

IFNAME = "com.docker.network.endpoint.ifname"
SYSCTLS = "com.docker.network.endpoint.sysctls"
_NOT_ON_SMARTOS = {
    IFNAME: "a zone's interfaces are named by its brand",
    SYSCTLS: "there is no Linux kernel to set them in",
}
_OWN_STACK = ("host", "none")
_PREDEFINED = ("bridge", "default", *_OWN_STACK)
"""Networks without addresses.  A container on one of them is on no other."""


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
            f"invalid isolation ({host.isolation}): linux only supports 'default'"
        )


def _check_endpoints(body: ContainerCreate, mode: str) -> None:
    """Endpoints that would not be made are refused, not passed over."""
    given = body.networking_config.endpoints_config
    alone = mode in ("host", "none") or bool(target(mode))
    if alone and any(name != mode for name in given):
        raise InvalidParameter(
            "conflicting options: cannot attach both user-defined and non-user-defined network-modes"
        )
    for name, settings in given.items():
        if settings is None:
            raise InvalidParameter(f"invalid config for network {name}: EndpointsConfig is nil")
        refuse_unbuilt(settings)


def refuse_unbuilt(settings: EndpointSettings, platform: str = "linux") -> None:
    """NotSupported for what no host, or none of this platform, does of an endpoint's settings."""
    if platform == "smartos":
        for key, reason in _NOT_ON_SMARTOS.items():
            if key in (settings.driver_opts or {}):
                raise NotSupported(f"endpoint option {key} is not supported on SmartOS: {reason}")
    for key in settings.driver_opts or {}:
        if key.startswith("com.docker.network.") and key not in (IFNAME, SYSCTLS):
            raise NotSupported(f"endpoint option {key} is not supported by zonegate")
    if (settings.ipam_config or {}).get("LinkLocalIPs") and platform == "smartos":
        raise NotSupported(
            "link-local addresses are not supported on SmartOS: a nic has one address of each version"
        )


def _check_namespace(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known and not target(value):
        raise InvalidParameter(f"invalid {name} mode: {value}")


def _check_container_mode(body: ContainerCreate, ref: str) -> None:
    host = body.host_config
    if not ref:
        raise InvalidParameter("invalid network mode: invalid container format container:<name|id>")
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
    """Network -> settings, the one of the network mode first; {} for container:X."""
    mode = network_mode(body.host_config)
    given = {
        "bridge" if name == "default" else name: settings or EndpointSettings()
        for name, settings in body.networking_config.endpoints_config.items()
    }
    if target(mode):
        return {}
    if body.network_disabled:
        return {"none": EndpointSettings()}
    first = given.pop(mode, EndpointSettings())
    if body.mac_address and not first.mac_address:
        first = first.model_copy(update={"mac_address": body.mac_address})
    return {mode: first} | given


def requests(wanted: Mapping[str, EndpointSettings]) -> tuple[NetworkRequest, ...]:
    """What to lease.  InvalidParameter for what cannot be, whatever the network is."""
    found = tuple(_request(name, settings) for name, settings in wanted.items())
    return tuple(one for one in found if one.network not in _OWN_STACK)


def _request(name: str, settings: EndpointSettings) -> NetworkRequest:
    if name not in _PREDEFINED:
        check_created(name, settings)
    ipam = settings.ipam_config or {}
    return NetworkRequest(
        network=name,
        address=ipam.get("IPv4Address") or None,
        mac=settings.mac_address.lower().replace("-", ":") or None,
        address6=ipam.get("IPv6Address") or None,
    )


def listed(complaints: Sequence[str]) -> str:
    """Several errors as one text: a list, unless there is one alone."""
    if len(complaints) == 1:
        return complaints[0].strip()
    return "* " + "\n* ".join(text.replace("\n", "\n\t") for text in complaints)


def check_created(name: str, settings: EndpointSettings, network: Network | None = None) -> None:
    """As `check_endpoint`, in the words of a create; `name` as the client called it."""
    try:
        check_endpoint(network.name if network else name, settings, network)
    except InvalidParameter as error:
        raise InvalidParameter(f"invalid config for network {name}: {error.message}") from error


def check_endpoint(name: str, settings: EndpointSettings, network: Network | None = None) -> None:
    """`invalid endpoint settings: ...` with everything that is wrong; `network` None: it is not known yet."""
    check_mac(settings)
    found = list(_complaints(name, settings))
    if network is not None:
        ipam = settings.ipam_config or {}
        found += [
            text
            for version in (4, 6)
            if (text := _misfit(ipam.get(f"IPv{version}Address") or "", version, network))
        ]
    if found:
        raise InvalidParameter(f"invalid endpoint settings:\n{listed(found)}")


def check_mac(settings: EndpointSettings) -> None:
    """One that is none is told of alone, before everything else, as by dockerd."""
    if settings.mac_address and not _is_mac(settings.mac_address):
        raise InvalidParameter(f"invalid MAC address {settings.mac_address}")


def _complaints(name: str, settings: EndpointSettings) -> Iterator[str]:
    ipam = settings.ipam_config or {}
    if name in _PREDEFINED:
        if ipam.get("IPv4Address") or ipam.get("IPv6Address"):
            yield "user specified IP address is supported on user defined networks only"
        if settings.aliases:
            yield "network-scoped alias is supported only for containers in user defined networks"
    for version in (4, 6):
        text = ipam.get(f"IPv{version}Address") or ""
        if text and not _is_address(text, version):
            yield f"invalid IPv{version} address: {text}"
    for text in ipam.get("LinkLocalIPs") or ():
        if not _is_address(text, 4) and not _is_address(text, 6):
            yield f"invalid link-local IP address: {text}"
    yield from _sysctl_complaints((settings.driver_opts or {}).get(SYSCTLS, ""))


def _sysctl_complaints(text: str) -> Iterator[str]:
    for sysctl in filter(None, text.split(",")):
        words = sysctl.split(".", 4)
        fits = len(words) == 5 and words[3] in ("IFNAME", "ifname")
        if not fits or words[1] not in ("ipv4", "ipv6", "mpls"):
            yield (
                f"unrecognised network interface sysctl '{sysctl}'; represent 'net.X.Y.ethN.Z=V' as"
                " 'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'"
            )


def _misfit(text: str, version: int, network: Network) -> str:
    """Why the network cannot give this address."""
    if not text:
        return ""
    subnet = _configured(network, version)
    if not subnet:
        return (
            "user specified IP address is supported only when connecting to networks with user"
            " configured subnets"
        )
    if _is_address(text, version) and ipaddress.ip_address(text) in ipaddress.ip_network(subnet):
        return ""
    return f"no configured subnet or ip-range contain the IP address {text}"


def _configured(network: Network, version: int) -> str:
    """The subnet that somebody chose: the network's maker, or, of bridge, the settings."""
    if network.plan is None:
        return network.subnet if version == 4 else network.ipv6.subnet if network.ipv6 else ""
    asked = network.plan.ipv4 if version == 4 else network.plan.ipv6
    return asked.subnet if asked and (version == 6 or network.plan.enable_ipv4) else ""


def _is_address(text: str, version: int) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return address.version == version and not address.is_unspecified


def _is_mac(text: str) -> bool:
    parts = text.replace("-", ":").split(":")
    return len(parts) == 6 and all(
        len(part) == 2 and set(part) <= set("0123456789abcdefABCDEF") for part in parts
    )


def resolvers(host: HostConfig, fallback: Sequence[str]) -> tuple[str, ...] | None:
    """--dns, else the daemon's; None = the machine's."""
    for text in host.dns or []:
        try:
            ipaddress.ip_address(text)
        except ValueError as error:
            raise InvalidParameter(
                f'bad nameserver address {text}: ParseAddr("{text}"): unable to parse IP'
            ) from error
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


def publishes(zone: Zone, network: Network) -> bool:
    """Whether a zone is on it, and its ports could lead there: it is a bridge that was not asked to be internal."""
    closed = network.plan.internal if network.plan else network.internal
    return network.driver == "bridge" and not closed and nic_on(zone, network) is not None


def endpoint_rows(
    zone: Zone, asked: Mapping[str, JSONObject], networks: Mapping[str, Network]
) -> JSONObject:
    """NetworkSettings.Networks: addresses while it runs; afterwards only the id of the network it had joined.

    `asked`, `networks`: by name of the network.
    """
    return {name: _endpoint_row(zone, row, networks.get(name)) for name, row in asked.items()}


def _endpoint_row(zone: Zone, asked: JSONObject, network: Network | None) -> JSONObject:
    known = asked.get("NetworkID", "")
    if network is not None and known not in ("", network.id):
        network = None  # another one has the name by now
    live = network if zone.is_running else None
    nic = nic_on(zone, live) if live else None
    four, six = (ipv4(nic), ipv6(nic)) if nic else (None, None)
    has_run = zone.started_ns > 0
    # Where it has been it keeps its names, though the network may be gone.
    is_named = network.plan is not None if network else bool(known)
    is_named = is_named and (has_run or live is not None)
    names = dns_names(zone, asked.get("Aliases") or ()) if is_named else None
    return {
        "IPAMConfig": asked.get("IPAMConfig"),
        "Links": asked.get("Links"),
        "Aliases": asked.get("Aliases"),
        "MacAddress": (nic.mac if nic else asked.get("MacAddress")) or "",
        "DriverOpts": asked.get("DriverOpts"),
        "GwPriority": asked.get("GwPriority") or 0,
        "NetworkID": (network.id if network else known) if live or has_run else "",
        "EndpointID": stable_id(zone.metadata.id, live.id) if live else "",
        "Gateway": (nic and nic.gateway) or "",
        "IPAddress": str(four.ip) if four else "",
        "IPPrefixLen": four.network.prefixlen if four else 0,
        "IPv6Gateway": live.ipv6.gateway
        if six and live and live.ipv6 and not live.internal
        else "",
        "GlobalIPv6Address": str(six.ip) if six else "",
        "GlobalIPv6PrefixLen": six.network.prefixlen if six else 0,
        "DNSNames": list(names) if names else None,
    }
