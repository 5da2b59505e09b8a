"""What `vmadm update` makes of a machine's object: plain properties, and the add_, update_, remove_, set_ forms.  Pure.

Values of the table's `live` rows act at once, everything else at the next boot: the machine reads its
object then.  Memory follows the table's rules for an update.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.globalzone.call import Failed
from tests.fakes.globalzone.payload import HVM, name_interfaces, upgraded
from tests.fakes.globalzone.properties import (
    FORMS,
    PROPERTIES,
    cross_check,
    form_of,
    update_problems,
    whole_number,
)

_CONFIG_KEYS = ("docker:linkHosts", "docker:extraHosts", "docker:dnssearch")


@dataclass(slots=True)
class Updated:
    """`new_filesystems` are the added ones, inside `vm`: their sources may ask for volumes."""

    vm: dict[str, Any]
    dropped: list[str]
    new_filesystems: list[dict[str, Any]] = field(default_factory=list)


def applied(vm: Mapping[str, Any], payload: Mapping[str, Any], *, running: bool) -> Updated:
    """The object after the update; Failed for what vmadm refuses."""
    brand = str(vm["brand"])
    problems = update_problems(payload, brand)
    refused = [problem for problem in problems if problem.kind != "bad_properties"]
    if refused:
        raise Failed("Invalid value(s) for: " + ", ".join(map(str, refused)))
    dropped = [problem.path for problem in problems]
    result = Updated(copy.deepcopy(dict(vm)), dropped)
    for key, value in payload.items():
        if key in dropped:
            continue
        form = form_of(key)
        if form is None:
            _plain(result.vm, key, value)
        elif form[0] in ("nics", "filesystems", "disks", "pci_devices"):
            if form[0] in ("disks", "pci_devices") and running:
                raise Failed(f"{key}: the VM has to be stopped")
            _list(result, *form, value)
    _primary(result.vm, payload)
    _maps(result.vm, payload, dropped)
    _memory(result.vm, vm, payload)
    name_interfaces(result.vm["nics"], brand)
    wrong = [
        str(p) for p in cross_check({"nics": result.vm["nics"]}, brand) if p.kind == "bad_values"
    ]
    if wrong:
        raise Failed("Invalid value(s) for: " + ", ".join(wrong))
    return result


def _plain(vm: dict[str, Any], key: str, value: Any) -> None:
    kind = PROPERTIES[key]["type"]
    if kind == "integer":
        number = whole_number(value)
        if number is None:
            vm.pop(key, None)
        else:
            vm[key] = number
    elif kind == "boolean":
        vm[key] = value in (True, 1, "1", "true")
        if vm[key] is False and key in (
            "do_not_inventory",
            "firewall_enabled",
            "maintain_resolvers",
        ):
            del vm[key]
    elif kind.startswith("list-of") and isinstance(value, str):
        vm[key] = [part for part in value.split(",") if part]
    elif value in (None, ""):
        vm.pop(key, None)
    else:
        vm[key] = value
    if key == "docker" and vm.get("docker"):
        vm["restart_init"] = False


def _list(result: Updated, name: str, form: str, items: Any) -> None:
    identity = FORMS[name]["key"]
    have: list[dict[str, Any]] = result.vm.setdefault(name, [])
    if form == "remove":
        gone = items.split(",") if isinstance(items, str) else items
        result.vm[name] = [item for item in have if item.get(identity) not in gone]
        return
    for item in items:
        known = next((i for i in have if i.get(identity) == item.get(identity)), None)
        if form == "add":
            if known is not None and item.get(identity):
                raise Failed(f"{name}: {item[identity]} is there already")
            new = _nic(item) if name == "nics" else dict(item)
            have.append(new)
            if name == "filesystems":
                result.new_filesystems.append(new)
        elif known is None:
            raise Failed(f"{name}: no {identity} {item.get(identity)}")
        else:
            _merge(known, item, name)


def _merge(known: dict[str, Any], item: Mapping[str, Any], name: str) -> None:
    changed = {**known, **item}
    if name == "nics":
        # The old keys are of no account beside the lists, unless they are what is given.
        if "ip" in item and "ips" not in item:
            changed.pop("ips", None)
        if "gateway" in item and "gateways" not in item:
            changed.pop("gateways", None)
        changed = _nic(changed)
    known.clear()
    known.update({key: value for key, value in changed.items() if value not in (None, "")})


def _nic(nic: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return upgraded(nic)
    except (KeyError, ValueError) as error:
        raise Failed(f"Invalid value(s) for: nics.*.ip: {error}") from error


def _primary(vm: dict[str, Any], payload: Mapping[str, Any]) -> None:
    """vmadm(8): setting a new primary unsets the old; setting two is an error."""
    rows = [*(payload.get("add_nics") or ()), *(payload.get("update_nics") or ())]
    chosen = {row.get("mac") for row in rows if row.get("primary")}
    if len(chosen) == 1:
        for nic in vm["nics"]:
            if nic.get("mac") not in chosen:
                nic.pop("primary", None)


def _maps(vm: dict[str, Any], payload: Mapping[str, Any], dropped: list[str]) -> None:
    """A key both removed and set ends up set."""
    for name, forms in FORMS.items():
        if "set" not in forms:
            continue
        values = dict(vm.get(name, {}))
        removed = payload.get(f"remove_{name}", [])
        for key in removed.split(",") if isinstance(removed, str) else removed:
            if key != "docker:id":  # never removed
                values.pop(key, None)
        if f"set_{name}" not in dropped:
            values |= payload.get(f"set_{name}") or {}
        vm[name] = values


def _memory(vm: dict[str, Any], old: Mapping[str, Any], payload: Mapping[str, Any]) -> None:
    if "max_physical_memory" in payload and vm.get("max_physical_memory"):
        before, after = old["max_physical_memory"], vm["max_physical_memory"]
        for key in ("max_locked_memory", "max_swap"):
            if key not in payload:
                vm[key] = max(old[key] + after - before, 0)
        if "tmpfs" in vm and "tmpfs" not in payload and before:
            vm["tmpfs"] = round(old["tmpfs"] * after / before)
    physical = vm["max_physical_memory"]
    vm["max_locked_memory"] = min(vm["max_locked_memory"], physical)
    vm["max_swap"] = max(vm["max_swap"], physical)
    if vm["max_swap"] < 256:
        raise Failed("Invalid value(s) for: max_swap: below 256")
    if "tmpfs" in vm:
        vm["tmpfs"] = min(vm["tmpfs"], physical)
    if vm["brand"] in HVM and physical < vm["ram"]:
        raise Failed("Invalid value(s) for: max_physical_memory: below ram")
    if vm["brand"] not in HVM and "ram" not in payload:
        vm["ram"] = physical


def rewrites_files(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether vmadm writes hosts and resolv.conf of a docker zone anew."""
    keys = [old["internal_metadata"].get(key) for key in _CONFIG_KEYS]
    if keys != [new["internal_metadata"].get(key) for key in _CONFIG_KEYS]:
        return True
    return bool(new.get("maintain_resolvers")) and old["resolvers"] != new["resolvers"]
