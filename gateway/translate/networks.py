"""A network of Docker's API <-> a network of the host: what a create body asks for, and what list and inspect show.

Words for what is wrong are moby's.  Which options a driver has, and which subnets are free, the host knows.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import replace

from dockerapi.errors import APIError, Forbidden, InvalidParameter, NotFound
from dockerapi.models.base import JSONObject
from dockerapi.models.networks import IPAM, IPAMConfig, NetworkCreate
from gateway.translate.networking import listed, stable_id
from gateway.translate.status import go_time
from gateway.zones.host import AddressRange, Network, NetworkPlan
from gateway.zones.members import Member, ipv4, ipv6

PREDEFINED = ("bridge", "host", "none")
_NO_NAMES = (*PREDEFINED, "default")
_ENABLE_IPV4, _ENABLE_IPV6 = "com.docker.network.enable_ipv4", "com.docker.network.enable_ipv6"
_TRUE = {"1", "t", "T", "TRUE", "true", "True"}
_FALSE = {"0", "f", "F", "FALSE", "false", "False"}


def plan(body: NetworkCreate, configuration: Network | None = None) -> NetworkPlan:
    """InvalidParameter, Forbidden, NotFound in dockerd's words; NotSupported for what is not built.

    `configuration`: what the body names to take its configuration from, None where there is no such network.
    """
    _check(body)
    if source := body.config_from and body.config_from.network:
        return _configured(body, source, configuration)
    options = dict(body.options or {})
    enable_ipv4 = _enabled(body.enable_ipv4, options, _ENABLE_IPV4, default=True)
    enable_ipv6 = _enabled(body.enable_ipv6, options, _ENABLE_IPV6, default=False)
    if not enable_ipv4 and not enable_ipv6 and not body.config_only:
        if body.driver in ("", "bridge"):
            raise InvalidParameter("IPv4 or IPv6 must be enabled")
        raise APIError("operation not supported")
    given = body.ipam.config if body.ipam and body.ipam.config else []
    configs = [config or IPAMConfig() for config in given]
    if complaints := [text for config in configs for text in _complaints(config, enable_ipv6)]:
        raise InvalidParameter(f"invalid network config:\n{listed(complaints)}")
    found: dict[int, AddressRange] = {}
    for config in configs:
        version = ipaddress.ip_network(config.subnet).version
        if version in found:
            raise Forbidden(f"{body.driver or 'bridge'} driver doesn't support multiple subnets")
        found[version] = AddressRange(
            config.subnet, config.gateway, config.ip_range, dict(config.aux_addresses or {})
        )
        if (version == 4 or enable_ipv6) and not body.config_only:
            _check_distinct(found[version], body.name)
    _check_ipam(body, found)
    six = found.get(6, AddressRange()) if enable_ipv6 else None
    return NetworkPlan(
        name=body.name,
        driver="null" if body.config_only else body.driver or "bridge",
        ipv4=found.get(4, AddressRange()),
        ipv6=six and replace(six),
        internal=body.internal,
        attachable=body.attachable,
        options=options,
        ipam_options=body.ipam.options if body.ipam else None,
        labels=dict(body.labels or {}),
        enable_ipv4=enable_ipv4,
        config_only=body.config_only,
    )


def _configured(body: NetworkCreate, source: str, configuration: Network | None) -> NetworkPlan:
    """What the configuration says, but for the name, the driver and what is the network operator's."""
    found = configuration.plan if configuration else None
    if found is None or not found.config_only:
        raise NotFound(f'configuration network "{source}" does not exist')
    ipam = body.ipam or IPAM()
    driver = ipam.driver not in ("", "default")
    if driver or body.enable_ipv6 or body.labels or ipam.config or ipam.options:
        raise Forbidden(
            "user specified configurations are not supported if the network depends on a configuration network"
        )
    if body.options:
        raise Forbidden(
            "network driver options are not supported if the network depends on a configuration network"
        )
    for wanted in (found.ipv4, found.ipv6):
        if wanted is not None and wanted.subnet:
            _check_distinct(wanted, body.name)
    return replace(
        found,
        name=body.name,
        driver=body.driver or "bridge",
        internal=body.internal,
        attachable=body.attachable,
        config_only=False,
        config_from=found.name,
    )


def _check_distinct(wanted: AddressRange, network: str) -> None:
    """APIError where an address that is asked for is had already: by the subnet itself, the gateway, another."""
    subnet = ipaddress.ip_network(wanted.subnet)
    ends = {subnet.network_address}
    if subnet.version == 4:
        ends.add(subnet.broadcast_address)
    taken = ends if subnet.prefixlen < subnet.max_prefixlen - 1 else set()
    if wanted.gateway:
        gateway = ipaddress.ip_address(wanted.gateway)
        if gateway in taken:
            raise APIError(f"failed to allocate gateway ({gateway}): Address already in use")
        taken.add(gateway)
    for name, text in wanted.aux.items():
        if not text:
            raise InvalidParameter(
                f"non parsable secondary ip address ({name}:) passed for network {network}"
            )
        address = ipaddress.ip_address(text)
        if address in taken:
            raise APIError(
                f"failed to allocate secondary ip address ({name}:{address}): Address already in use"
            )
        taken.add(address)


def _check_ipam(body: NetworkCreate, found: Mapping[int, AddressRange]) -> None:
    ipam = body.ipam.driver if body.ipam else ""
    if ipam == "null":
        # It gives no addresses, and there is no driver here that makes do without.
        if found:
            raise InvalidParameter(
                "null ipam driver does not handle specific address pool requests"
            )
        raise InvalidParameter(f"ipv{6 if body.enable_ipv4 is False else 4} pool is empty")


def _check(body: NetworkCreate) -> None:
    if body.ingress:
        raise Forbidden("Ingress network can only be global scope network")
    if body.scope == "swarm":
        raise Forbidden("cannot create a swarm scoped network when swarm is not active")
    if body.name in _NO_NAMES:
        raise Forbidden(f"operation is not permitted on predefined {body.name} network ")
    if not body.name.strip():
        raise InvalidParameter("invalid name: name is empty")
    if "/" in body.name:
        # Its own routes could not name it.
        raise InvalidParameter(f"invalid name: {body.name} holds a slash")
    _check_configuration(body)
    ipam = body.ipam.driver if body.ipam else ""
    if ipam not in ("", "default", "null"):
        raise NotFound(f'plugin "{ipam}" not found')


def _check_configuration(body: NetworkCreate) -> None:
    if not body.config_only:
        return
    if body.config_from and body.config_from.network:
        raise Forbidden("a configuration network cannot depend on another configuration network")
    if body.internal or body.attachable or body.ingress:
        raise Forbidden(
            "configuration network can only contain network specific fields. Network operator fields"
            " like [ ingress | internal | attachable | scope ] are not supported."
        )


def _enabled(given: bool | None, options: Mapping[str, str], key: str, *, default: bool) -> bool:
    """A field, else a label among the options that means the same."""
    if given is not None or key not in options:
        return default if given is None else given
    if options[key] not in _TRUE | _FALSE:
        raise InvalidParameter(f'driver-opt "{key}" is not a valid bool')
    return options[key] in _TRUE


def _complaints(config: IPAMConfig, enable_ipv6: bool) -> Iterator[str]:
    subnet = _prefix(config.subnet)
    if subnet is None:
        yield f"invalid subnet {config.subnet}: invalid CIDR block notation"
        return
    if subnet.version == 6 and not enable_ipv6:
        return
    if subnet.ip != subnet.network.network_address:
        yield f"invalid subnet {config.subnet}: it should be {subnet.network}"
    yield from _range_complaints(config.ip_range, subnet)
    if text := _address_complaint(config.gateway, subnet):
        yield f"invalid gateway {config.gateway}: {text}"
    for name, address in (config.aux_addresses or {}).items():
        if text := _address_complaint(address, subnet):
            yield f"invalid auxiliary address {name}: {text}"


_Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
"""A subnet as it was given: its complaints name it so, whatever its first address is."""


def _prefix(text: str) -> _Interface | None:
    """Address and length of `a.b.c.d/n`; None for anything else."""
    length = text.rpartition("/")[2]
    # Go takes no zeros before it.
    if "/" not in text or not length.isdecimal() or str(int(length)) != length:
        return None
    try:
        return ipaddress.ip_interface(text)
    except ValueError:
        return None


def _range_complaints(text: str, subnet: _Interface) -> Iterator[str]:
    if not text:
        return
    given = _prefix(text)
    if given is None:
        yield f"invalid ip-range {text}: invalid CIDR block notation"
        return
    if given.version != subnet.version:
        yield f"invalid ip-range {text}: parent subnet is an IPv{subnet.version} block"
        return
    if given.network.prefixlen < subnet.network.prefixlen:
        yield f"invalid ip-range {text}: CIDR block is bigger than its parent subnet {subnet}"
    if given.ip != given.network.network_address:
        yield f"invalid ip-range {text}: it should be {given.network}"
    if not subnet.network.overlaps(given.network):
        yield f"invalid ip-range {text}: parent subnet {subnet} doesn't contain ip-range"


def _address_complaint(text: str, subnet: _Interface) -> str:
    if not text:
        return ""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return "invalid address"
    if address.version != subnet.version:
        return f"parent subnet is an IPv{subnet.version} block"
    return (
        "" if address in subnet.network else f"parent subnet {subnet} doesn't contain this address"
    )


def shown(network: Network) -> JSONObject:
    """Of list and inspect; without its containers."""
    asked = network.plan
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": go_time(network.created_ns),
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv4": asked.enable_ipv4 if asked else True,
        "EnableIPv6": (asked.ipv6 if asked and asked.config_only else network.ipv6) is not None,
        "IPAM": {
            "Driver": "default",
            "Options": dict(asked.ipam_options)
            if asked and asked.ipam_options is not None
            else None,
            "Config": list(_ranges(network)) or None,
        },
        "Internal": network.internal,
        "Attachable": bool(asked and asked.attachable),
        "Ingress": False,
        "ConfigFrom": {"Network": asked.config_from if asked else ""},
        "ConfigOnly": bool(asked and asked.config_only),
        "Containers": {},
        "Options": dict(network.options),
        "Labels": dict(network.labels),
    }


def _ranges(network: Network) -> Iterator[JSONObject]:
    """As its maker named them; behind these, where he left the choice to us, what was chosen."""
    four = AddressRange(network.subnet, network.gateway, network.ip_range, network.aux)
    asked = (network.plan.ipv4, network.plan.ipv6) if network.plan else (None, None)
    versions = zip((four, network.ipv6), asked, strict=True)
    for is_now, was_asked in sorted(versions, key=lambda pair: not (pair[1] and pair[1].subnet)):
        found = was_asked if was_asked is not None and was_asked.subnet else is_now
        if found is None or not found.subnet:
            continue
        row: JSONObject = {
            "Subnet": found.subnet,
            "IPRange": found.ip_range,
            "Gateway": found.gateway,
            "AuxiliaryAddresses": dict(found.aux),
        }
        yield {key: value for key, value in row.items() if value}


def member_row(member: Member, network: Network) -> JSONObject:
    """Of a network's Containers."""
    four, six = ipv4(member.nic), ipv6(member.nic)
    return {
        "Name": member.zone.spec.alias,
        "EndpointID": stable_id(member.zone.metadata.id, network.id),
        "MacAddress": member.nic.mac or "",
        "IPv4Address": str(four) if four else "",
        "IPv6Address": str(six) if six else "",
    }
