"""zonecfg(8): shows a zone's configuration.  Changing it is vmadm's business, and refused here."""

from __future__ import annotations

from typing import Any

from tests.fakes.globalzone.call import Call, Failed
from tests.fakes.globalzone.gz import GZ

_USAGE = "usage:\tzonecfg -z zone info [zonename|zonepath|brand|autoboot|attr|fs|net]"


async def main(gz: GZ, call: Call) -> int:
    """`zonecfg -z U info`, and `info attr name=zlog-mode` of one resource."""
    words = list(call.arguments)
    if len(words) < 3 or words[0] not in ("-z", "-u"):
        raise Failed(_USAGE, 2)
    machine = gz.machines.vms.get(words[1])
    if machine is None:
        raise Failed(f"{words[1]}: No such zone configured")
    command, *rest = " ".join(words[2:]).split()
    if command != "info":
        raise Failed(f"zonecfg: fake global zone: {command} is not to be had: use vmadm", 99)
    kind = rest[0] if rest else ""
    wanted = dict(pair.partition("=")[::2] for pair in rest[1:])
    await call.out(_info(machine.vm, kind, wanted))
    return 0


def _info(vm: dict[str, Any], kind: str, wanted: dict[str, str]) -> str:
    plain = {
        "zonename": vm["zonename"],
        "zonepath": vm["zonepath"],
        "brand": vm["brand"],
        "autoboot": "true" if vm["autoboot"] else "false",
        "ip-type": "exclusive",
    }
    text = "".join(f"{k}: {v}\n" for k, v in plain.items() if kind in ("", k))
    for name, resources in (("attr", _attributes(vm)), ("fs", _fs(vm)), ("net", _net(vm))):
        if kind not in ("", name):
            continue
        for resource in resources:
            if all(resource.get(key) == value for key, value in wanted.items()):
                text += f"{name}:\n" + "".join(f"\t{k}: {v}\n" for k, v in resource.items())
    return text


def _attributes(vm: dict[str, Any]) -> list[dict[str, str]]:
    values = {
        "vm-version": "1",
        "owner-uuid": vm["owner_uuid"],
        "alias": vm.get("alias"),
        "docker": "true" if vm.get("docker") else None,
        "kernel-version": vm.get("kernel_version"),
        "init-name": vm.get("init_name"),
        "zlog-mode": vm.get("zlog_mode"),
        "zlog-max-size": vm.get("zlog_max_size"),
    }
    return [
        {"name": name, "type": "string", "value": str(value)}
        for name, value in values.items()
        if value is not None
    ]


def _fs(vm: dict[str, Any]) -> list[dict[str, str]]:
    return [
        {
            "dir": item["target"],
            "special": item["source"],
            "type": item.get("type", "lofs"),
            "options": f"[{','.join(item.get('options', []))}]",
        }
        for item in vm.get("filesystems", [])
    ]


def _net(vm: dict[str, Any]) -> list[dict[str, str]]:
    return [
        {
            "physical": nic["interface"],
            "mac-addr": nic["mac"],
            "global-nic": nic["nic_tag"],
            "vlan-id": str(nic.get("vlan_id", 0)),
        }
        for nic in vm["nics"]
    ]
