"""What vmadm takes in a payload: the strict check of `vmadm validate`, by the property table beside this file.

    check_create(payload) -> []                      it is a payload that vmadm takes whole
                          -> ["max_swap: below 256"] what it refuses, or drops in silence (unknown keys)

Stricter than `vmadm create` on purpose: that one drops what it does not know, and a typo is lost.  Whether an
image, a nic tag or an address is there is the machine's to know: machines.py.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

TABLE: dict[str, Any] = json.loads((Path(__file__).parent / "vmadm-properties.json").read_text())
BRANDS: dict[str, dict[str, Any]] = TABLE["brands"]
PROPERTIES: dict[str, dict[str, Any]] = {row["name"]: row for row in TABLE["properties"]}
NESTED: dict[str, dict[str, dict[str, Any]]] = {
    kind: {row["name"]: row for row in TABLE[kind]}
    for kind in ("nics", "filesystems", "disks", "pci_devices")
}
FORMS: dict[str, dict[str, Any]] = TABLE["list_update_forms"]
UUID = re.compile(r"[a-f0-9]{8}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{12}")

_MAC = re.compile(r"([0-9a-fA-F]{1,2}:){5}[0-9a-fA-F]{1,2}|[0-9a-fA-F]{12}")
_NAMESPACE = re.compile(r"[A-Za-z0-9._-]+")
_PCI_SLOT = re.compile(r"(\d+:)?(\d+:)?\d+")
_DHCP_ID = re.compile(r"0x([0-9a-fA-F]{2})+")
_WHOLE = re.compile(r"\s*(0[xX][0-9a-fA-F]+|[+-]?\d+(\.0*)?([eE]\+?\d+)?)\s*")
_MAX_IPS, _MAX_ALLOWED_IPS, _MAX_ADDRESSES = 20, 13, 32

Payload = Mapping[str, Any]
Action = Literal["create", "update"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong; `kind` as `vmadm validate` sorts them."""

    kind: Literal["bad_brand", "bad_properties", "bad_values", "missing_properties"]
    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def check_create(payload: Payload) -> list[str]:
    """What is wrong with a payload of `vmadm create`; empty if it is taken whole."""
    return [str(problem) for problem in create_problems(payload)]


def check_update(payload: Payload, brand: str) -> list[str]:
    """What is wrong with a payload of `vmadm update` for a machine of this brand."""
    return [str(problem) for problem in update_problems(payload, brand)]


def create_problems(payload: Payload) -> list[Problem]:
    """As `check_create`, sorted by kind."""
    brand = payload.get("brand")
    if brand is None:
        return [Problem("missing_properties", "brand", "required")]
    if not isinstance(brand, str) or brand not in BRANDS:
        return [Problem("bad_brand", "brand", f"no such brand: {brand}")]
    problems = list(_properties(payload, str(brand), "create"))
    problems += [
        Problem("missing_properties", key, f"required for brand {brand}")
        for key in BRANDS[str(brand)]["required_on_create"]
        if key not in payload
    ]
    return [*problems, *cross_check(payload, str(brand))]


def update_problems(payload: Payload, brand: str) -> list[Problem]:
    """As `check_update`, sorted by kind."""
    if brand not in BRANDS:
        return [Problem("bad_brand", "brand", f"no such brand: {brand}")]
    return list(_properties(payload, brand, "update"))


def takes(row: Mapping[str, Any], brand: str, action: Action) -> bool:
    """Whether a row of the table is for this brand; builder has the allowances of joyent."""
    brands = row.get(action, [])
    name = "joyent" if brand == "builder" else brand
    return brands == "all" or name in brands


def form_of(key: str) -> tuple[str, str] | None:
    """`add_nics` -> ("nics", "add"); None if the key is no form of an update."""
    for name, forms in FORMS.items():
        for form in ("add", "update", "remove", "set"):
            if form in forms and forms[form]["property"] == key:
                return name, form
    return None


# --- each property ------------------------------------------------------------------------------------


def _properties(payload: Payload, brand: str, action: Action) -> Iterator[Problem]:
    for key, value in payload.items():
        form = form_of(key) if action == "update" else None
        if form is not None:
            yield from _form(key, value, brand, *form)
            continue
        row = PROPERTIES.get(key)
        if row is None or not takes(row, brand, action):
            yield Problem("bad_properties", key, f"unknown on {action} for brand {brand}")
            continue
        yield from _value(key, value, row, brand)
        if key in NESTED and isinstance(value, list):
            yield from _objects(key, key, value, brand, "create")


def _form(key: str, value: Any, brand: str, name: str, form: str) -> Iterator[Problem]:
    row = FORMS[name][form]
    brands = row["brands"]
    if brands != "all" and brand not in brands:
        yield Problem("bad_properties", key, f"unknown on update for brand {brand}")
        return
    found = list(_value(key, value, row, brand))
    yield from found
    if found or form not in ("add", "update") or name not in NESTED:
        return
    yield from _objects(key, name, value, brand, "create" if form == "add" else "update")
    if (name, form) == ("nics", "add"):
        for index, nic in enumerate(_dicts(value)):
            for key_of_nic, reason in _nic(nic):
                yield Problem("bad_values", f"{key}.{index}.{key_of_nic}", reason)
    if form == "update":
        identity = FORMS[name]["key"]
        for index, item in enumerate(value):
            if identity not in item:
                yield Problem("missing_properties", f"{key}.{index}.{identity}", "required")


def _objects(
    key: str, kind: str, items: Sequence[Any], brand: str, action: Action
) -> Iterator[Problem]:
    rows = NESTED[kind]
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            continue  # said of the whole list
        for name, value in item.items():
            path = f"{key}.{index}.{name}"
            row = rows.get(name)
            if row is None or not takes(row, brand, action):
                yield Problem("bad_properties", path, f"unknown on {action} for brand {brand}")
            else:
                yield from _value(path, value, row, brand)
        if action == "create":
            for name, row in rows.items():
                needed = row.get("required_on_create", [])
                if (needed == "all" or brand in needed) and name not in item:
                    yield Problem("missing_properties", f"{key}.{index}.{name}", "required")


def _value(path: str, value: Any, row: Mapping[str, Any], brand: str) -> Iterator[Problem]:
    if "also_accepted" in row and value in row["also_accepted"] and not isinstance(value, bool):
        return
    reason = _TYPES[row["type"]](value)
    if reason is None:
        reason = _bounds(value, row, brand)
    if reason is not None:
        yield Problem("bad_values", path, reason)


def _bounds(value: Any, row: Mapping[str, Any], brand: str) -> str | None:
    number = whole_number(value) if row["type"] == "integer" else None
    if number is not None:
        if "min" in row and number < row["min"]:
            return f"{number} is below {row['min']}"
        if "max" in row and number > row["max"]:
            return f"{number} is above {row['max']}"
        if row.get("power_of_two") and number & (number - 1):
            return f"{number} is no power of two"
    allowed = row.get("values")
    if isinstance(allowed, dict):
        allowed = allowed.get(brand)
    # Read by the table's note: media is not checked against its two values.
    if allowed and row["name"] != "media" and value not in (*allowed, "", None):
        return f"{value!r} is none of {', '.join(allowed)}"
    return None


def whole_number(value: Any) -> int | None:
    """The number that an integer property means; None if it is unset or no whole number."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        text = value.strip()
        return int(text, 16) if text[:2].lower() == "0x" else int(float(text))
    return None


def _integer(value: Any) -> str | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    return None if whole_number(value) is not None else f"{value!r} is no whole number"


def _boolean(value: Any) -> str | None:
    good = value is True or value is False or value in ("true", "false", "1")
    return (
        None if good or (value == 1 and not isinstance(value, bool)) else f"{value!r} is no boolean"
    )


def _string(value: Any) -> str | None:
    return None if value is None or isinstance(value, str) else f"{value!r} is no text"


def _uuid(value: Any) -> str | None:
    return None if isinstance(value, str) and UUID.fullmatch(value) else f"{value!r} is no UUID"


def _list(value: Any) -> str | None:
    if isinstance(value, str):
        return None
    if not isinstance(value, list):
        return f"{value!r} is no list"
    for element in value:
        if isinstance(element, bool) or not isinstance(element, str | int | float):
            return f"element {element!r} is no text"
        if "," in str(element):
            return f"element {element!r} holds a comma"
    return None


def _flat_object(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        return f"{value!r} is no object"
    for key, item in value.items():
        if not isinstance(item, str | int | float):  # a bool is an int
            return f"the value of {key} is no text, number or boolean"
    return None


def _object_array(value: Any) -> str | None:
    if not isinstance(value, list):
        return f"{value!r} is no list of objects"
    good = all(isinstance(item, dict) for item in value)
    return None if good else "an element is no object"


def _zpool(value: Any) -> str | None:
    return None if isinstance(value, str) and value else f"{value!r} is no pool"


_TYPES: dict[str, Callable[[Any], str | None]] = {
    "integer": _integer,
    "boolean": _boolean,
    "string": _string,
    "uuid": _uuid,
    "list-of-strings": _list,
    "list-of-integers": _list,
    "flat-object": _flat_object,
    "object-array": _object_array,
    "zpool": _zpool,
}


# --- across properties --------------------------------------------------------------------------------


def cross_check(payload: Payload, brand: str) -> list[Problem]:
    """What only creation looks at: nics, disks, routes, namespaces, resolvers."""
    return [
        *_nics(_dicts(payload.get("nics")), payload, brand),
        *_disks(_dicts(payload.get("disks")), payload, brand),
        *_lists(payload),
        *_routes(payload),
    ]


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _nics(nics: list[dict[str, Any]], payload: Payload, brand: str) -> Iterator[Problem]:
    if sum(1 for nic in nics if nic.get("primary")) > 1:
        yield Problem("bad_values", "nics", "more than one primary")
    for unique in ("mac", "vrrp_vrid"):
        values = [nic[unique] for nic in nics if nic.get(unique)]
        if len(set(values)) < len(values):
            yield Problem("bad_values", "nics", f"two with the same {unique}")
    addresses = [
        ip for nic in nics for ip in _texts(nic.get("ips")) if ip not in ("dhcp", "addrconf")
    ]
    addresses += [str(nic["ip"]) for nic in nics if nic.get("ip") not in (None, "dhcp", "addrconf")]
    if len(set(addresses)) < len(addresses):
        yield Problem("bad_values", "nics", "two with the same address")
    if nics and all("vrrp_vrid" in nic for nic in nics):
        yield Problem("bad_values", "nics", "every one has a vrrp_vrid")
    needs_model = BRANDS[brand].get("nic_model_required") and not payload.get("nic_driver")
    for index, nic in enumerate(nics):
        if needs_model and not nic.get("model"):
            yield Problem(
                "missing_properties", f"nics.{index}.model", "required without nic_driver"
            )
        for name, reason in _nic(nic):
            yield Problem("bad_values", f"nics.{index}.{name}", reason)


def _texts(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def _nic(nic: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    tag = nic.get("nic_tag")
    if isinstance(tag, str) and not re.fullmatch(r"[A-Za-z0-9_/]+", tag):
        yield "nic_tag", f"{tag!r}: only letters, digits, underscore and slash"
    if nic.get("mac") and not _MAC.fullmatch(str(nic["mac"])):
        yield "mac", f"{nic['mac']!r} is no MAC address"
    yield from _old_address(nic)
    for key in ("ips", "gateways", "allowed_ips", "allowed_dhcp_cids"):
        if isinstance(nic.get(key), str):
            yield key, "a text instead of a list"
    ips, allowed = _texts(nic.get("ips")), _texts(nic.get("allowed_ips"))
    yield from (("ips", reason) for ip in ips if (reason := _bad_ip(ip)))
    yield from (
        ("gateways", f"{g!r} is no IPv4 address")
        for g in _texts(nic.get("gateways"))
        if not _is_ipv4(g)
    )
    yield from (("allowed_ips", f"{a!r} is no address") for a in allowed if not _is_network(a))
    if len(ips) > _MAX_IPS:
        yield "ips", f"more than {_MAX_IPS}"
    if len(allowed) > _MAX_ALLOWED_IPS:
        yield "allowed_ips", f"more than {_MAX_ALLOWED_IPS}"
    if len(ips) + len(allowed) + ("vrrp_primary_ip" in nic) > _MAX_ADDRESSES:
        yield "ips", f"more than {_MAX_ADDRESSES} addresses together"
    for cid in _texts(nic.get("allowed_dhcp_cids")):
        if not _DHCP_ID.fullmatch(cid):
            yield "allowed_dhcp_cids", f"{cid!r} is no client id"
    if "vrrp_vrid" in nic and "vrrp_primary_ip" not in nic:
        yield "vrrp_vrid", "needs vrrp_primary_ip"


def _old_address(nic: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """`ip`, `netmask` and `gateway`: looked at only where the lists are not given."""
    ip, netmask = nic.get("ip"), nic.get("netmask")
    if ip and "ips" not in nic and ip not in ("dhcp", "addrconf"):
        if not _is_ipv4(str(ip)):
            yield "ip", f"{ip!r} is no IPv4 address"
        if not netmask:
            yield "netmask", "needed with ip"
    if netmask and not _is_netmask(str(netmask)):
        yield "netmask", f"{netmask!r} is no mask"
    if nic.get("gateway") and "gateways" not in nic and not _is_ipv4(str(nic["gateway"])):
        yield "gateway", f"{nic['gateway']!r} is no IPv4 address"


def _bad_ip(text: str) -> str | None:
    if text in ("dhcp", "addrconf"):
        return None
    if "/" not in text:
        return f"{text!r} has no prefix"
    try:
        interface = ipaddress.ip_interface(text)
    except ValueError:
        return f"{text!r} is no address"
    return (
        f"{text!r}: prefix below 8"
        if interface.version == 4 and interface.network.prefixlen < 8
        else None
    )


def _is_ipv4(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True


def _is_netmask(text: str) -> bool:
    try:
        ipaddress.IPv4Network(f"0.0.0.0/{text}")
    except ValueError:
        return False
    return "." in text


def _is_network(text: str) -> bool:
    try:
        return ipaddress.ip_network(text, strict=False).prefixlen >= 1
    except ValueError:
        return False


def _disks(disks: list[dict[str, Any]], payload: Payload, brand: str) -> Iterator[Problem]:
    if not disks:
        return
    models = BRANDS[brand].get("disk_models", [])
    if brand == "bhyve" and sum(1 for disk in disks if disk.get("boot") is True) > 1:
        yield Problem("bad_values", "disks", "more than one boot disk")
    for unique in ("uuid", "pci_slot"):
        values = [disk[unique] for disk in disks if disk.get(unique)]
        if len(set(values)) < len(values):
            yield Problem("bad_values", "disks", f"two with the same {unique}")
    for index, disk in enumerate(disks):
        path = f"disks.{index}"
        model = disk.get("model") or payload.get("disk_driver")
        if not model:
            yield Problem("missing_properties", f"{path}.model", "required without disk_driver")
        elif "model" not in disk and model not in models:
            yield Problem(
                "bad_values", f"{path}.model", f"{model!r} is none of {', '.join(models)}"
            )
        if disk.get("pci_slot") and not _PCI_SLOT.fullmatch(str(disk["pci_slot"])):
            yield Problem("bad_values", f"{path}.pci_slot", f"{disk['pci_slot']!r} is no slot")
        if disk.get("path") and disk.get("media") != "cdrom" and not disk.get("nocreate"):
            yield Problem("bad_values", f"{path}.path", "only for a cdrom or with nocreate")
        if disk.get("media", "disk") == "disk":
            yield from _disk_size(path, disk, payload)


def _disk_size(path: str, disk: Mapping[str, Any], payload: Payload) -> Iterator[Problem]:
    if "image_uuid" not in disk:
        if "size" not in disk and not disk.get("nocreate"):
            yield Problem("missing_properties", f"{path}.size", "required without image_uuid")
        for key in ("image_size", "image_name"):
            if key in disk:
                yield Problem("bad_properties", f"{path}.{key}", "only with image_uuid")
        return
    if "block_size" in disk:
        yield Problem("bad_properties", f"{path}.block_size", "not with image_uuid")
    if "size" in disk and "flexible_disk_size" not in payload:
        yield Problem("bad_properties", f"{path}.size", "not with image_uuid")


def _lists(payload: Payload) -> Iterator[Problem]:
    for name in _texts(payload.get("internal_metadata_namespaces")):
        if not _NAMESPACE.fullmatch(name):
            yield Problem("bad_values", "internal_metadata_namespaces", f"{name!r} is no name")
    resolvers = payload.get("resolvers") or []
    for text in resolvers.split(",") if isinstance(resolvers, str) else _texts(resolvers):
        try:
            ipaddress.ip_address(text)
        except ValueError:
            yield Problem("bad_values", "resolvers", f"{text!r} is no address")


def _routes(payload: Payload) -> Iterator[Problem]:
    routes = payload.get("routes")
    if not isinstance(routes, dict):
        return
    for target, gateway in routes.items():
        try:
            prefix = ipaddress.IPv4Network(target, strict=False).prefixlen
        except ValueError:
            prefix = 0
        if not 8 <= prefix <= 32:
            yield Problem("bad_values", f"routes.{target}", "no IPv4 address or network")
        named = re.fullmatch(r"nics\[\d+\]|macs\[[0-9a-fA-F:]+\]", str(gateway))
        if not isinstance(gateway, str) or not (named or _is_ipv4(gateway)):
            yield Problem("bad_values", f"routes.{target}", f"{gateway!r} is no gateway")
