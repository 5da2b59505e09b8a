"""The machine's links and addresses, as files: what nictagadm, dladm, ipadm and ipnat keep.

    ROOT/usbkey/config           nic tags and etherstubs: outlives a reboot
    ROOT/var/run/datalinks.json  vnics, interfaces, addresses, forwarding: does not
    ROOT/var/run/ipnat.rules     one map rule a line: does not either

What of it this computer's kernel sees: stubs.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.fakes.globalzone.gz import GZ

PHYSICAL = "e1000g0"
"""The one physical nic, with the global zone's own address on it."""


@dataclass(slots=True)
class Interface:
    """An IP interface: addresses with prefix by address object, and whether it forwards."""

    addresses: dict[str, str] = field(default_factory=dict)
    forwarding: str = "off"
    forwarding6: str = "off"


@dataclass(slots=True)
class Links:
    """`vnics`: name -> link below.  `load` reads, `save` writes."""

    root: Path
    etherstubs: list[str]
    vnics: dict[str, str]
    interfaces: dict[str, Interface]
    ipfilter: bool = True
    """Whether network/ipfilter runs."""

    def save(self) -> None:
        """Both kinds of state."""
        config = self.root / "usbkey/config"
        config.parent.mkdir(parents=True, exist_ok=True)
        lines = config.read_text().splitlines() if config.exists() else []
        lines = [line for line in lines if not line.startswith("etherstub=")]
        if self.etherstubs:
            lines.append(f"etherstub={','.join(self.etherstubs)}")
        config.write_text("".join(f"{line}\n" for line in lines))
        volatile = {
            "vnics": self.vnics,
            "interfaces": {name: asdict(one) for name, one in self.interfaces.items()},
            "ipfilter": self.ipfilter,
        }
        (self.root / "var/run/datalinks.json").write_text(json.dumps(volatile, indent=1))


def load(root: Path, options: Mapping[str, str]) -> Links:
    """As the files say; of a new machine the physical nic with the first address of the option `subnet`."""
    config = root / "usbkey/config"
    stubs: list[str] = []
    for line in config.read_text().splitlines() if config.exists() else []:
        if line.startswith("etherstub="):
            stubs = [name for name in line.removeprefix("etherstub=").split(",") if name]
    file = root / "var/run/datalinks.json"
    if not file.exists():
        return Links(root, stubs, {}, _plumbed(options))
    state = json.loads(file.read_text())
    interfaces = {name: Interface(**one) for name, one in state["interfaces"].items()}
    return Links(root, stubs, state["vnics"], interfaces, state["ipfilter"])


def _plumbed(options: Mapping[str, str]) -> dict[str, Interface]:
    found = {"lo0": Interface({"lo0/v4": "127.0.0.1/8"})}
    if "subnet" in options:
        subnet = IPv4Network(options["subnet"])
        first = next(subnet.hosts())
        found[PHYSICAL] = Interface({f"{PHYSICAL}/_a": f"{first}/{subnet.prefixlen}"})
    return found


def of(gz: GZ) -> Links:
    """Of a global zone; its nic tags are told of etherstubs as well."""
    links = load(gz.root, gz.options)
    for name in [n for n, tag in gz.nic_tags.items() if tag["type"] == "etherstub"]:
        if name not in links.etherstubs:
            del gz.nic_tags[name]
    for name in links.etherstubs:
        gz.nic_tags.setdefault(name, {"mac": "-", "link": "-", "type": "etherstub"})
    return links


def nat_rules(root: Path) -> list[str]:
    """Rules of ipnat, in order."""
    file = root / "var/run/ipnat.rules"
    return file.read_text().splitlines() if file.exists() else []


def reboot(root: Path) -> None:
    """What a reboot of the machine takes away."""
    for name in ("datalinks.json", "ipnat.rules"):
        (root / "var/run" / name).unlink(missing_ok=True)
