"""What the options of a network's driver ask for, in dockerd's words for what is wrong with them.  Pure.

Keys of others than Docker's are kept and mean nothing here, as in dockerd.  Of Docker's own, one that is not known
here is refused: it would be silently ignored else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Literal, cast, get_args

from dockerapi.errors import APIError, InvalidParameter, NotSupported
from gateway.hosts.linux.netlink import IPVLAN_FLAGS, IPVLAN_MODES, MACVLAN_MODES
from gateway.hosts.networks import MTU, check_driver, mtu_of
from gateway.zones.host import NetworkPlan

Driver = Literal["bridge", "macvlan", "ipvlan"]
GatewayMode = Literal["nat", "nat-unprotected", "routed", "isolated"]
_BRIDGE = "com.docker.network.bridge."
_PREFIX = "com.docker.network.container_iface_prefix"
_SPOOFING = "zonegate.network.allow_spoofing"
_NAME_SIZE = 16
"""IFNAMSIZ: of an interface's name with the zero behind it."""
_TRUE = {"1", "t", "T", "TRUE", "true", "True"}
_FALSE = {"0", "f", "F", "FALSE", "false", "False"}
_KNOWN = {
    "bridge": {
        _BRIDGE + "name",
        _BRIDGE + "enable_icc",
        _BRIDGE + "enable_ip_masquerade",
        _BRIDGE + "host_binding_ipv4",
        _BRIDGE + "gateway_mode_ipv4",
        _BRIDGE + "gateway_mode_ipv6",
        _BRIDGE + "inhibit_ipv4",
        _BRIDGE + "trusted_host_interfaces",
    },
    "macvlan": {"parent", "macvlan_mode"},
    "ipvlan": {"parent", "ipvlan_mode", "ipvlan_flag"},
}


@dataclass(frozen=True, slots=True)
class Options:
    """`interface`: the bridge's name or the parent, "" = the host chooses.  `mode` and `flags` as numbers of the kernel.

    `binding`: address of published ports for which the client named none, "" = any.
    `prefix` of interface names in zones.
    """

    driver: Driver
    interface: str = ""
    connects: bool = True
    masquerades: bool = True
    binding: str = ""
    mtu: int | None = None
    prefix: str = "eth"
    guarded: bool = True
    mode: int = 0
    flags: int = 0
    on_link: bool = False
    """No gateway is needed, nor asked: everything is straight behind the interface (ipvlan l3)."""
    mode4: GatewayMode = "nat"
    mode6: GatewayMode = "nat"
    inhibits4: bool = False
    """The bridge has no IPv4 address: the gateway is somebody else's."""
    trusted: tuple[str, ...] = ()
    """Interfaces of the machine from which published ports are reached at the zones' own addresses."""

    def gateway_mode(self, version: int) -> GatewayMode:
        """How zones are reached, and reach others, in one version of IP."""
        return self.mode4 if version == 4 else self.mode6

    def versions(self, *modes: GatewayMode) -> frozenset[int]:
        """Versions of IP in one of these modes."""
        return frozenset(version for version in (4, 6) if self.gateway_mode(version) in modes)


def parse(plan: NetworkPlan) -> Options:
    """InvalidParameter, Forbidden, NotFound in dockerd's words; NotSupported for an option that is not built."""
    driver = plan.driver
    check_driver(driver, _KNOWN)
    _refuse_unknown(driver, plan.options)
    found = {"mtu": _mtu(plan.options), "prefix": plan.options.get(_PREFIX) or "eth"}
    if driver == "bridge":
        return _bridge(plan, found)
    interface = plan.options.get("parent", "")
    if driver == "macvlan":
        mode = plan.options.get("macvlan_mode") or "bridge"
        if mode not in MACVLAN_MODES:
            raise InvalidParameter(
                f"requested macvlan mode '{mode}' is not valid, 'bridge' mode is the macvlan driver default"
            )
        return Options("macvlan", interface, mode=MACVLAN_MODES[mode], **found)  # type: ignore[arg-type]
    mode, flag = (
        plan.options.get("ipvlan_mode") or "l2",
        plan.options.get("ipvlan_flag") or "bridge",
    )
    if mode not in IPVLAN_MODES:
        raise InvalidParameter(
            f"requested ipvlan mode '{mode}' is not valid, 'l2' mode is the ipvlan driver default"
        )
    if flag not in IPVLAN_FLAGS:
        raise InvalidParameter(
            f"requested ipvlan flag '{flag}' is not valid, 'bridge' is the ipvlan driver default"
        )
    return Options(
        "ipvlan", interface, mode=IPVLAN_MODES[mode], flags=IPVLAN_FLAGS[flag],
        on_link=mode != "l2", **found,  # type: ignore[arg-type]
    )  # fmt: skip


def _refuse_unknown(driver: str, options: Mapping[str, str]) -> None:
    known = _KNOWN[driver] | {MTU, _PREFIX, _SPOOFING}
    for key in options:
        theirs = key.startswith("com.docker.network.") or ("." not in key and driver != "bridge")
        if (theirs or key.startswith("zonegate.")) and key not in known:
            raise NotSupported(f"network option {key} is not supported by zonegate")


def _bridge(plan: NetworkPlan, found: Mapping[str, object]) -> Options:
    options = plan.options
    binding = options.get(_BRIDGE + "host_binding_ipv4", "")
    if binding:
        try:
            address = IPv4Address(binding)
        except ValueError as error:
            raise InvalidParameter(
                f"failed to parse {_BRIDGE}host_binding_ipv4 value: {binding} (nil ip)"
            ) from error
        binding = "" if address.is_unspecified else str(address)
    return Options(
        "bridge",
        _name(options.get(_BRIDGE + "name", "")),
        connects=_flag(options, _BRIDGE + "enable_icc", default=True),
        masquerades=_flag(options, _BRIDGE + "enable_ip_masquerade", default=True),
        binding=binding,
        guarded=not _flag(options, _SPOOFING, default=False),
        mode4=_gateway_mode(plan, _BRIDGE + "gateway_mode_ipv4"),
        mode6=_gateway_mode(plan, _BRIDGE + "gateway_mode_ipv6"),
        inhibits4=_flag(options, _BRIDGE + "inhibit_ipv4", default=False),
        trusted=_interfaces(options.get(_BRIDGE + "trusted_host_interfaces", "")),
        **found,  # type: ignore[arg-type]
    )


def _name(text: str) -> str:
    """Of a bridge.  APIError in the kernel's words for one that no interface can have, as dockerd passes them on."""
    if len(text.encode()) >= _NAME_SIZE:
        raise APIError("numerical result out of range", detail=f"bridge name {text}")
    if text in (".", "..") or re.search(r"[\s/:]", text):
        raise APIError("invalid argument", detail=f"bridge name {text}")
    return text


def _gateway_mode(plan: NetworkPlan, key: str) -> GatewayMode:
    text = plan.options.get(key) or "nat"
    if text not in get_args(GatewayMode):
        raise InvalidParameter(f"failed to parse {key} value: {text} (unknown gateway mode {text})")
    if text == "isolated" and not plan.internal:
        raise APIError("gateway mode 'isolated' can only be used for an internal network")
    return cast(GatewayMode, text)


def _interfaces(text: str) -> tuple[str, ...]:
    """Colons are between them, as in dockerd; names that could be none are left out."""
    return tuple(name for name in text.split(":") if name and len(name) < 16 and '"' not in name)


def _flag(options: Mapping[str, str], key: str, *, default: bool) -> bool:
    text = options.get(key)
    if text is None:
        return default
    if text not in _TRUE | _FALSE:
        raise InvalidParameter(
            f'failed to parse {key} value: {text} (strconv.ParseBool: parsing "{text}": invalid syntax)'
        )
    return text in _TRUE


def _mtu(options: Mapping[str, str]) -> int | None:
    number = mtu_of(options)
    if number and not 68 <= number <= 65535:
        # What dockerd has from the kernel.
        raise APIError("invalid argument", detail=f"MTU {number}")
    return number or None
