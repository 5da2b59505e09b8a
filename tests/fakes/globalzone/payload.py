"""From a payload of `vmadm create` to the machine's object: conversions, defaults, what docker forces.  Pure.

In vmadm's own order: numbers and lists are converted, defaults filled in and memory adjusted, docker's side
effects applied, values checked, what is unknown dropped with a warning, addresses of nics brought to their new form,
booleans converted.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.fakes.globalzone.properties import (
    BRANDS,
    NESTED,
    PROPERTIES,
    Problem,
    create_problems,
    takes,
    whole_number,
)

NOBODY = "00000000-0000-0000-0000-000000000000"
HVM = ("bhyve", "kvm")
_INIT = {
    "lx": "/native/usr/vm/sbin/dockerinit",
    "joyent-minimal": "/usr/vm/sbin/dockerinit",
}
_HVM_PRIVILEGES = [
    "default",
    "-file_link_any",
    "-net_access",
    "-proc_fork",
    "-proc_info",
    "-proc_session",
]
_DEFAULTS: dict[str, Any] = {
    "autoboot": True,
    "billing_id": NOBODY,
    "owner_uuid": NOBODY,
    "cpu_shares": 100,
    "max_lwps": 2000,
    "max_msg_ids": 4096,
    "max_sem_ids": 4096,
    "max_shm_ids": 4096,
    "zfs_io_priority": 100,
    "zpool": "zones",
    "customer_metadata": {},
    "internal_metadata": {},
    "routes": {},
    "tags": {},
}
_ABSENT_WHEN_FALSE = ("do_not_inventory", "firewall_enabled", "maintain_resolvers")
_ONLY_FOR_CREATION = ("nowait", "mdata_exec_timeout", "add_pci_devices", "dataset_uuid")
_CPU_SHARES_MAX = 65535


@dataclass(frozen=True, slots=True)
class Prepared:
    """What creation makes of a payload; `problems` are what it refuses, `dropped` what it warns of."""

    vm: dict[str, Any]
    problems: list[Problem]
    dropped: list[str]


def prepare(payload: Mapping[str, Any], *, uuid: str) -> Prepared:
    """The object of a new machine as far as the payload decides it; `uuid` where it names none."""
    vm = _converted(payload)
    brand = str(vm.setdefault("brand", "joyent"))
    if brand not in BRANDS:
        return Prepared(vm, [Problem("bad_brand", "brand", f"no such brand: {brand}")], [])
    _fill_in(vm, brand, uuid)
    _docker(vm, brand)
    problems = create_problems(vm)
    dropped = [problem.path for problem in problems if problem.kind == "bad_properties"]
    refused = [problem for problem in problems if problem.kind != "bad_properties"]
    for path in dropped:
        _drop(vm, path)
    if not refused:
        _finish(vm, brand)
    return Prepared(vm, refused, dropped)


def _converted(payload: Mapping[str, Any]) -> dict[str, Any]:
    vm: dict[str, Any] = {}
    for key, value in payload.items():
        kind = PROPERTIES.get(key, {}).get("type")
        if kind == "integer":
            number = int(value) if isinstance(value, bool) else whole_number(value)
            if number is None and (value is None or (isinstance(value, str) and not value.strip())):
                continue
            vm[key] = value if number is None else number
        elif kind in ("list-of-strings", "list-of-integers") and isinstance(value, str):
            vm[key] = [part for part in value.split(",") if part]
        elif kind == "string" and value in (None, "") and key != "kernel_version":
            continue
        else:
            vm[key] = value
    return vm


def _fill_in(vm: dict[str, Any], brand: str, uuid: str) -> None:
    for old in ("dataset_uuid", "zone_dataset_uuid"):
        if old in vm:
            vm.setdefault("image_uuid", vm.pop(old))
    vm.setdefault("uuid", uuid)
    vm.setdefault("zonename", vm["uuid"])
    for key, value in _DEFAULTS.items():
        if vm.get(key) is None:
            vm[key] = value.copy() if isinstance(value, dict) else value
    vm.setdefault("hostname", vm["zonename"])
    vm.setdefault("limit_priv", _HVM_PRIVILEGES.copy() if brand in HVM else ["default"])
    vm.setdefault("quota", BRANDS[brand]["default_quota_gib"])
    if isinstance(vm["cpu_shares"], int):
        vm["cpu_shares"] = min(vm["cpu_shares"], _CPU_SHARES_MAX)
    if brand in HVM:
        vm.setdefault("vcpus", 1)
    else:
        vm.setdefault("dns_domain", "local")
        vm.setdefault("restart_init", True)
    _memory(vm, brand)


def _memory(vm: dict[str, Any], brand: str) -> None:
    """The table's memory_rules.  What is no number is left for the check to refuse."""
    keys = (
        "ram",
        "max_physical_memory",
        "max_locked_memory",
        "max_swap",
        "tmpfs",
        "max_shm_memory",
    )
    if any(key in vm and not isinstance(vm[key], int) for key in keys):
        return
    asked = "ram" in vm
    ram = vm.setdefault("ram", 256)
    physical = vm.setdefault(
        "max_physical_memory", ram + BRANDS[brand].get("memory_overhead_default_mib", 0)
    )
    if brand in HVM:
        lowest = ram + BRANDS[brand]["memory_overhead_min_mib"]
        physical = vm["max_physical_memory"] = max(physical, lowest)
        vm["max_locked_memory"] = max(vm.get("max_locked_memory", physical), lowest)
    elif not asked:
        vm["ram"] = physical  # shown for consistency
    vm["max_locked_memory"] = min(vm.get("max_locked_memory", physical), physical)
    vm["max_swap"] = max(vm.get("max_swap", max(physical, 256)), physical)
    vm.setdefault("max_shm_memory", physical)
    if BRANDS[brand]["uses_tmpfs"]:
        vm["tmpfs"] = min(vm.get("tmpfs", physical), physical)


def _docker(vm: dict[str, Any], brand: str) -> None:
    """Side effects of the flag.  They come before it is looked at whether the brand may have it."""
    if not vm.get("docker"):
        return
    vm["restart_init"] = False
    if brand in _INIT:
        vm.setdefault("init_name", _INIT[brand])
    namespaces = vm.setdefault("internal_metadata_namespaces", [])
    if isinstance(namespaces, list) and "docker" not in namespaces:
        vm["internal_metadata_namespaces"] = [*namespaces, "docker"]
    metadata = vm["internal_metadata"]
    if isinstance(metadata, dict) and "docker:id" not in metadata:
        docker_id = str(vm["uuid"]).replace("-", "") + secrets.token_hex(16)
        vm["internal_metadata"] = {**metadata, "docker:id": docker_id}


def _drop(vm: dict[str, Any], path: str) -> None:
    parts = path.split(".")
    holder: Any = vm
    for part in parts[:-1]:
        holder = holder[int(part)] if isinstance(holder, list) else holder.get(part, {})
    if isinstance(holder, dict):
        holder.pop(parts[-1], None)


def _finish(vm: dict[str, Any], brand: str) -> None:
    """What is done once the values are known to be good."""
    vm["nics"] = [upgraded(nic) for nic in vm.get("nics") or []]
    name_interfaces(vm["nics"], brand)
    for key, value in list(vm.items()):
        if PROPERTIES.get(key, {}).get("type") == "boolean":
            vm[key] = value in (True, 1, "1", "true")
    for key in _ABSENT_WHEN_FALSE:
        if vm.get(key) is False:
            del vm[key]
    for key in _ONLY_FOR_CREATION:
        vm.pop(key, None)
    if brand not in HVM:
        vm["filesystems"] = [dict(item) for item in vm.get("filesystems") or []]
    vm["resolvers"] = list(vm.get("resolvers") or [])


def upgraded(nic: Mapping[str, Any]) -> dict[str, Any]:
    """A nic with `ips` and `gateways`, and with the old keys that go with them."""
    new = dict(nic)
    if "ips" not in new:
        new["ips"] = []
        if new.get("ip") in ("dhcp", "addrconf"):
            new["ips"] = [new["ip"]]
        elif new.get("ip"):
            network = ipaddress.IPv4Network(f"0.0.0.0/{new['netmask']}")
            new["ips"] = [f"{new['ip']}/{network.prefixlen}"]
    first = next((ip for ip in new["ips"] if ":" not in ip), "")
    new.pop("netmask", None)
    new.pop("ip", None)
    if "/" in first:
        interface = ipaddress.IPv4Interface(first)
        new["ip"], new["netmask"] = str(interface.ip), str(interface.netmask)
    elif first:
        new["ip"] = first
    if "gateways" not in new and new.get("gateway"):
        new["gateways"] = [new["gateway"]]
    new.pop("gateway", None)
    if new.get("gateways"):
        new["gateway"] = new["gateways"][0]
    if new.get("primary") in (False, "", None):
        new.pop("primary", None)
    if not new.get("mac"):
        new["mac"] = random_mac()
    for key in list(new):
        if NESTED["nics"].get(key, {}).get("type") == "boolean" and new[key] in ("true", 1, "1"):
            new[key] = True
    return new


def random_mac() -> str:
    """Locally administered."""
    first, *rest = secrets.token_bytes(6)
    return ":".join(f"{byte:02x}" for byte in ((first & 0xFC) | 0x02, *rest))


def name_interfaces(nics: list[dict[str, Any]], brand: str) -> None:
    """Each nic that has none gets the next free interface of the brand's kind; the first is primary if none is."""
    prefix = BRANDS[brand]["interface_prefix"]
    used = {nic.get("interface") for nic in nics}
    numbers = (n for n in range(64) if f"{prefix}{n}" not in used)
    for nic in nics:
        if not nic.get("interface"):
            nic["interface"] = f"{prefix}{next(numbers)}"
    if nics and not any(nic.get("primary") for nic in nics):
        nics[0]["primary"] = True


def is_for(brand: str, key: str) -> bool:
    """Whether an update may hold this property."""
    row = PROPERTIES.get(key)
    return row is not None and takes(row, brand, "update")
