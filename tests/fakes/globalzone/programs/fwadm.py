"""fwadm: add, update, list, get, rules, vms, delete, enable, disable, status; rules in ROOT/var/fw/rules.

Nothing is enforced; what a rule is about is right.  Errors end with 1, each on a line of its own.
"""

from __future__ import annotations

import asyncio
import getopt
import json
import os
import time
import uuid as uuids
from pathlib import Path
from typing import Any

from tests.fakes.globalzone import fwrules
from tests.fakes.globalzone.call import Call, Failed
from tests.fakes.globalzone.gz import GZ

_FIELDS = (
    "created_by",
    "description",
    "enabled",
    "global",
    "owner_uuid",
    "rule",
    "uuid",
    "version",
    "log",
)
_LONG = ["desc=", "dryrun", "enable", "file=", "global", "owner_uuid=", "stdout", "json"]
_LONG += ["delim=", "fields=", "parseable", "verbose"]
_SHORT = {
    "--file": "-f",
    "--enable": "-e",
    "--global": "-g",
    "--owner_uuid": "-O",
    "--json": "-j",
    "--delim": "-d",
    "--fields": "-o",
    "--parseable": "-p",
}

Rule = dict[str, Any]


async def main(gz: GZ, call: Call) -> int:
    """See the module."""
    commands = {
        "add": _add,
        "update": _update,
        "list": _list,
        "get": _get,
        "rules": _rules,
        "vms": _vms,
        "delete": _delete,
        "enable": _enable,
        "disable": _enable,
        "status": _status,
    }
    if not call.arguments or call.arguments[0] not in commands:
        raise Failed(f'fwadm: error: unknown command: "{"".join(call.arguments[:1])}"', 2)
    try:
        found, rest = getopt.gnu_getopt(call.arguments[1:], "ef:gO:jd:o:pvh", _LONG)
    except getopt.GetoptError as error:
        raise Failed(
            f'fwadm {call.arguments[0]}: error: unknown option: "{error.opt}"', 2
        ) from error
    options = {_SHORT.get(name, name): value for name, value in found}
    return await commands[call.arguments[0]](gz, call, options, rest)


def load(root: Path) -> dict[str, Rule]:
    """All rules of a global zone, by uuid."""
    folder = root / "var/fw/rules"
    files = sorted(folder.glob("*.json")) if folder.exists() else []
    return {file.stem: json.loads(file.read_text()) for file in files}


def _save(gz: GZ, rule: Rule) -> None:
    folder = gz.root / "var/fw/rules"
    folder.mkdir(parents=True, exist_ok=True)
    ordered = {key: rule[key] for key in _FIELDS if key in rule}
    (folder / f"{rule['uuid']}.json").write_text(json.dumps(ordered, indent=2))


async def _payload(gz: GZ, call: Call, options: dict[str, str], rest: list[str]) -> list[Rule]:
    if rest and "-f" not in options:
        rule: Rule = {"rule": " ".join(rest)}
        if "-O" in options:
            rule["owner_uuid"] = options["-O"]
        if "-g" in options:
            rule["global"] = True
        if "--desc" in options:
            rule["description"] = options["--desc"]
        return [rule | ({"enabled": True} if "-e" in options else {})]
    name = options.get("-f", "-")
    if name == "-" and os.isatty(call.fds[0]):
        raise Failed("Must supply file!")
    try:
        given = name in ("-", "/dev/stdin")
        text = await (call.read_stdin() if given else asyncio.to_thread(gz.path(name).read_bytes))
        document = json.loads(text)
    except FileNotFoundError:
        raise Failed(f'File "{name}" does not exist.') from None
    except ValueError as error:
        raise Failed(f"Error parsing JSON: {error}") from None
    rules = [document] if "rule" in document else document.get("rules", [])
    if not rules:
        raise Failed("Payload must contain one of: rules, localVMs, remoteVMs")
    return [rule | ({"enabled": True} if "-e" in options else {}) for rule in rules]


def _checked(rule: Rule) -> Rule:
    """Complete and in normal form; Failed with every complaint on a line."""
    errors: list[str] = [] if rule.get("rule") else ["No rule specified"]
    text = ""
    try:
        text = fwrules.parse(str(rule["rule"])).text() if not errors else ""
    except Failed as error:
        errors.append(str(error))
    if not fwrules.UUID.fullmatch(str(rule.setdefault("uuid", str(uuids.uuid4())))):
        errors.append("Invalid rule UUID")
    if "owner_uuid" in rule and not fwrules.UUID.fullmatch(str(rule["owner_uuid"])):
        errors.append("Invalid owner UUID")
    if rule.setdefault("enabled", False) not in (True, False, "true", "false"):
        errors.append("enabled must be true or false")
    for key in ("created_by", "description"):
        value = rule.get(key, "")
        if not isinstance(value, str):
            errors.append(f"{key} must be a string")
        elif len(value) > 255:
            errors.append(f"{key} must be shorter than 255 characters")
    if rule.get("global") and "owner_uuid" in rule:
        errors.append("cannot specify both global and owner_uuid")
    if "global" not in rule and "owner_uuid" not in rule:
        errors.append("owner_uuid required")
    if errors:
        raise Failed("\n".join(errors))
    rule.setdefault("created_by", "fwadm")
    version = f"{time.time_ns() // 1_000_000}.{os.getpid():06d}"
    return rule | {"rule": text, "version": rule.get("version", version)}


def _check_vms(gz: GZ, rule: Rule) -> None:
    parsed = fwrules.parse(rule["rule"])
    sides = (parsed.sources, parsed.targets)
    named = [t.value for side in sides for t in side if t.kind == "vm"]
    missing = [uuid for uuid in named if uuid not in gz.machines.vms]
    tags = any(t.kind == "tag" for side in sides for t in side)
    if named and len(missing) == len(named) and not tags:
        raise Failed(f"No VMs found that match rule: {rule['rule']}")
    if missing and len(missing) < len(named):
        lines = [f"Missing vm {uuid} for rule: {rule['rule']}" for uuid in missing]
        raise Failed("\n".join(lines))


async def _store(gz: GZ, call: Call, options: dict[str, str], rules: list[Rule], done: str) -> int:
    checked = [_checked(rule) for rule in rules]
    for rule in checked:
        _check_vms(gz, rule)
    if "--dryrun" not in options:
        for rule in checked:
            _save(gz, rule)
    await _told(call, options, checked, done)
    return 0


async def _told(call: Call, options: dict[str, str], rules: list[Rule], done: str) -> None:
    if "-j" in options:
        await call.out(json.dumps({"vms": [], "rules": rules}, indent=2) + "\n")
        return
    await call.out(f"{done} rules:\n")
    for rule in rules:
        await call.out(
            f"{rule['uuid']} {'true   ' if rule['enabled'] else 'false  '} {rule['rule']}\n"
        )


async def _add(gz: GZ, call: Call, options: dict[str, str], rest: list[str]) -> int:
    return await _store(gz, call, options, await _payload(gz, call, options, rest), "Added")


async def _update(gz: GZ, call: Call, options: dict[str, str], rest: list[str]) -> int:
    uuid = rest.pop(0) if rest and fwrules.UUID.fullmatch(rest[0]) else None
    rules = await _payload(gz, call, options, rest)
    if uuid is not None and len(rules) == 1:
        rules[0]["uuid"] = uuid
    known = load(gz.root)
    for rule in rules:
        if "uuid" not in rule:
            raise Failed(f"Missing UUID of rule: {json.dumps(rule)}")
        if rule["uuid"] not in known:
            raise Failed(f"Unknown rule: {rule['uuid']}")
    merged = [known[r["uuid"]] | {"version": f"{time.time_ns()}"} | r for r in rules]
    return await _store(gz, call, options, merged, "Updated")


async def _shown(call: Call, options: dict[str, str], rules: list[Rule]) -> int:
    names = options["-o"].split(",") if "-o" in options else None
    for name in names or ():
        if name not in _FIELDS:
            raise Failed(f"Invalid display field: {name}")
    if "-j" in options:
        picked = [{k: v for k, v in rule.items() if names is None or k in names} for rule in rules]
        await call.out(json.dumps(picked, indent=2) + "\n")
        return 0
    fields = names or ["uuid", "enabled", "rule"]
    delimiter = options.get("-d", ":") if "-p" in options else " "
    if "-p" not in options:
        await call.out(" ".join(field.upper() for field in fields) + "\n")
    for rule in rules:
        values = [_js(rule[f]) if rule.get(f) else "-" for f in fields]
        if "-p" in options:
            values = [value.replace(delimiter, f"\\{delimiter}") for value in values]
        await call.out(delimiter.join(values) + "\n")
    return 0


def _js(value: object) -> str:
    return "true" if value is True else str(value)


async def _list(gz: GZ, call: Call, options: dict[str, str], _: list[str]) -> int:
    return await _shown(call, options, list(load(gz.root).values()))


def _uuid(rest: list[str]) -> str:
    if not rest:
        raise Failed("Error: missing UUID")
    if not fwrules.UUID.fullmatch(rest[0]):
        raise Failed(f'Error: invalid UUID "{rest[0]}"')
    return rest[0]


def _known(gz: GZ, uuid: str) -> Rule:
    rules = load(gz.root)
    if uuid not in rules:
        raise Failed(f'Unknown rule "{uuid}"')
    return rules[uuid]


async def _get(gz: GZ, call: Call, _: dict[str, str], rest: list[str]) -> int:
    await call.out(json.dumps(_known(gz, _uuid(rest)), indent=2) + "\n")
    return 0


def _concerns(rule: Rule, vm: dict[str, Any]) -> bool:
    return fwrules.parse(rule["rule"]).concerns(vm, rule.get("owner_uuid"))


def _vm(gz: GZ, uuid: str) -> dict[str, Any]:
    if uuid not in gz.machines.vms:
        raise Failed(f'Could not find VM "{uuid}" in VM list')
    return gz.machines.vms[uuid].vm


async def _rules(gz: GZ, call: Call, options: dict[str, str], rest: list[str]) -> int:
    vm = _vm(gz, _uuid(rest))
    return await _shown(call, options, [r for r in load(gz.root).values() if _concerns(r, vm)])


async def _vms(gz: GZ, call: Call, _: dict[str, str], rest: list[str]) -> int:
    rule = _known(gz, _uuid(rest))
    found = [uuid for uuid, m in gz.machines.vms.items() if _concerns(rule, m.vm)]
    await call.out("".join(f"{uuid}\n" for uuid in found))
    return 0


async def _delete(gz: GZ, call: Call, options: dict[str, str], rest: list[str]) -> int:
    if not rest:
        raise Failed("Must specify rules to delete!")
    known = load(gz.root)
    for uuid in rest:
        _uuid([uuid])
    unknown = [uuid for uuid in rest if uuid not in known]
    if unknown:
        raise Failed("\n".join(f"Unknown rule: {uuid}" for uuid in unknown))
    if "--dryrun" not in options:
        for uuid in rest:
            (gz.root / f"var/fw/rules/{uuid}.json").unlink()
    await _told(call, options, [known[uuid] for uuid in rest], "Deleted")
    return 0


async def _enable(gz: GZ, call: Call, _: dict[str, str], rest: list[str]) -> int:
    word = call.arguments[0]
    if not rest:
        raise Failed(f"Must specify rules to {word}!")
    rules = [_known(gz, _uuid([uuid])) for uuid in rest]
    for rule in rules:
        _save(gz, rule | {"enabled": word == "enable"})
    return 0


async def _status(gz: GZ, call: Call, _: dict[str, str], rest: list[str]) -> int:
    vm = _vm(gz, _uuid(rest))
    running = vm.get("firewall_enabled") and gz.machines.vms[vm["uuid"]].state == "running"
    await call.out("running\n" if running else "stopped\n")
    return 0
