"""vmadm(8): its command line, exit texts and codes.  What it does is done by machines.py."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from tests.fakes.globalzone.call import Call, Failed
from tests.fakes.globalzone.gz import GZ
from tests.fakes.globalzone.machine import now, shown
from tests.fakes.globalzone.objects import values
from tests.fakes.globalzone.properties import create_problems, update_problems

USAGE = "Usage: /usr/sbin/vmadm <command> [options]"
_DEFAULT_GRACE_S = 10.0
_UUID_LENGTH = 36
_LIST_FIELDS = "uuid,type,ram,state,alias"

# The platform's own numbers: those of Linux mean other signals.
_NAMES = ["HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "EMT", "FPE", "KILL", "BUS", "SEGV", "SYS", "PIPE", "ALRM", "TERM", "USR1", "USR2", "CHLD", "PWR", "WINCH", "URG", "IO", "STOP", "TSTP", "CONT", "TTIN", "TTOU", "VTALRM", "PROF", "XCPU", "XFSZ"]  # fmt: skip
SIGNALS = {name: number for number, name in enumerate(_NAMES, 1)} | {"POLL": 22, "CLD": 18}


async def main(gz: GZ, call: Call) -> int:
    """Runs the command; the real one is slow in doing so (option `latency`, seconds)."""
    command, *arguments = call.arguments or [""]
    command = {"boot": "start", "halt": "stop", "destroy": "delete", "json": "get"}.get(
        command, command
    )
    act = _COMMANDS.get(command)
    if act is None:
        raise Failed(f'Invalid command: "{command}".\n{USAGE}' if command else USAGE, 2)
    if command != "events":
        await asyncio.sleep(float(gz.options.get("latency", 0)))
    return await act(gz, call, arguments)


# --- the command line


def _split(
    arguments: Sequence[str], flags: str = "", options: str = ""
) -> tuple[dict[str, str], list[str]]:
    """({letter: value, "" for a flag}, the rest)."""
    found: dict[str, str] = {}
    rest: list[str] = []
    left = list(arguments)
    while left:
        word = left.pop(0)
        if len(word) < 2 or word[0] != "-":
            rest.append(word)
            continue
        for position, letter in enumerate(word[1:], 1):
            if letter in options:
                value = word[position + 1 :] or (left.pop(0) if left else "")
                found[letter] = value
                break
            if letter not in flags + "vd":
                raise Failed(f"Unknown option: -{letter}\n{USAGE}", 2)
            found[letter] = ""
    return found, rest


def _uuid(command: str, rest: list[str]) -> str:
    text = rest.pop(0) if rest else ""
    if len(text) != _UUID_LENGTH or not re.fullmatch(r"[^-]{8}(-[^-]{4}){3}-[^-]{12}", text):
        raise Failed(f"Invalid or missing UUID for {command}\n{USAGE}", 2)
    return text


def _pairs(words: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise Failed(f"Bad arguments: unable to split {word}\n{USAGE}", 2)
        pairs[key] = value
    return pairs


async def _payload(gz: GZ, call: Call, file: str) -> dict[str, Any]:
    if file in ("", "-"):
        text = await call.read_stdin()
    else:
        # A file of the global zone, or one of the test's where there is none.
        path = gz.path(str(Path(call.cwd) / file))
        try:
            text = path.read_bytes()
        except OSError as error:
            raise Failed(f"Error reading file: {file}: {error.strerror}") from error
    try:
        payload = json.loads(text)
    except ValueError as error:
        raise Failed(f"Invalid JSON payload: {error}") from error
    if not isinstance(payload, dict):
        raise Failed("Invalid JSON payload: not an object")
    return payload


async def _warn(call: Call, dropped: Sequence[str]) -> None:
    for key in dropped:
        await call.err(f"WARNING: ignoring invalid property: {key}\n")


# --- commands


async def _create(gz: GZ, call: Call, arguments: Sequence[str]) -> int:
    found, _ = _split(arguments, options="f")
    payload = await _payload(gz, call, found.get("f", ""))
    machine, dropped = await gz.machines.create(payload, call.midway)
    await _warn(call, dropped)
    await call.err(f"Successfully created VM {machine.uuid}\n")
    return 0


async def _validate(gz: GZ, call: Call, arguments: Sequence[str]) -> int:
    found, rest = _split(arguments, options="f")
    if rest[:1] == ["create"]:
        payload = await _payload(gz, call, found.get("f", ""))
        brand, problems = payload.get("brand"), create_problems(payload)
    elif rest[:1] == ["update"] and len(rest) == 2:
        brand = rest[1]
        problems = update_problems(await _payload(gz, call, found.get("f", "")), brand)
    else:
        raise Failed(f"Will not validate without a valid action.\n{USAGE}", 2)
    if problems:
        kinds: dict[str, Any] = {}
        for problem in problems:
            kinds.setdefault(problem.kind, []).append(problem.path)
        if "bad_brand" in kinds:
            kinds["bad_brand"] = brand
        raise Failed(json.dumps(kinds, indent=2))
    await call.err(f"VALID '{rest[0]}' payload for {brand} brand VMs.\n")
    return 0


async def _start(gz: GZ, call: Call, arguments: Sequence[str]) -> int:
    _, rest = _split(arguments)
    machine = gz.machines.get(_uuid("start", rest))
    await gz.machines.start(machine)
    await call.err(f"Successfully started VM {machine.uuid}\n")
    return 0


async def _stop(gz: GZ, call: Call, arguments: Sequence[str]) -> int:
    found, rest = _split(arguments, flags="F", options="t")
    machine = gz.machines.get(_uuid("stop", rest))
    if "t" in found and not machine.is_docker:
        raise Failed("Unable to stop VM: -t is only supported for docker VMs")
    if "t" in found and not found["t"].isdigit():
        raise Failed(f"Invalid timeout: {found['t']}\n{USAGE}", 2)
    # 0 is no number to node: the default holds then.
    grace_s = float(found.get("t", 0)) or _DEFAULT_GRACE_S
    if not await gz.machines.stop(machine, grace_s=grace_s, force="F" in found):
        await call.err(f"VM {machine.uuid} is not running\n")
        return 0
    await call.err(f"Successfully completed stop for VM {machine.uuid}\n")
    return 0


async def _reboot(gz: GZ, call: Call, arguments: Sequence[str]) -> int:
    # -t is read, and handed on to nobody.
    found, rest = _split(arguments, flags="F", options="t")
    machine = gz.machines.get(_uuid("reboot", rest))
    await gz.machines.reboot(machine, force="F" in found)
    await call.err(f"Successfully completed reboot for VM {machine.uuid}\n")
    return 0


async def _kill(gz: GZ, call: Call, arguments: Sequence[str]) -> int:
    found, rest = _split(arguments, options="s")
    machine = gz.machines.get(_uuid("kill", rest))
    name = signal_name(found.get("s", "SIGTERM"))
    await gz.machines.kill(machine, name)
    await call.err(f"Successfully sent {name} to VM {machine.uuid}\n")
    return 0


def signal_name(text: str) -> str:
    """`TERM`, `sigterm`, `15` -> SIGTERM; numbers are illumos's.  Failed for what this computer lacks."""
    bare = text.upper().removeprefix("SIG")
    if bare.isdigit():
        bare = next((name for name, number in SIGNALS.items() if number == int(bare)), "")
    if bare not in SIGNALS:
        raise Failed(f"Invalid signal: {text}")
    if not hasattr(signal, f"SIG{bare}"):
        raise Failed(f"fake global zone: Linux has no SIG{bare}", 99)
    return f"SIG{bare}"


async def _delete(gz: GZ, call: Call, arguments: Sequence[str]) -> int:
    _, rest = _split(arguments)
    uuid = _uuid("delete", rest)
    try:
        await gz.machines.delete(gz.machines.get(uuid), call.midway)
    except Failed as error:
        raise Failed(f"Failed to delete VM {uuid}: {error}") from error
    await call.err(f"Successfully deleted VM {uuid}\n")
    return 0


async def _update(gz: GZ, call: Call, arguments: Sequence[str]) -> int:
    found, rest = _split(arguments, options="f")
    machine = gz.machines.get(_uuid("update", rest))
    payload: dict[str, Any] = dict(_pairs(rest)) if rest else {}
    if not payload:
        payload = await _payload(gz, call, found.get("f", ""))
    dropped = await gz.machines.update(machine, payload)
    await _warn(call, dropped)
    await call.err(f"Successfully updated VM {machine.uuid}\n")
    return 0


async def _get(gz: GZ, call: Call, arguments: Sequence[str]) -> int:
    _, rest = _split(arguments)
    machine = gz.machines.get(_uuid("get", rest))
    await call.out(json.dumps(shown(machine.vm), indent=2) + "\n")
    return 0


async def _lookup(gz: GZ, call: Call, arguments: Sequence[str]) -> int:
    found, rest = _split(arguments, flags="j1", options="o")
    if "o" in found and "j" not in found:
        raise Failed("Cannot specify -o without -j")
    vms = gz.machines.lookup(_pairs(rest))
    if "1" in found and len(vms) != 1:
        raise Failed(f"Requested unique lookup but found {len(vms)} results.")
    if "j" not in found:
        await call.out("".join(f"{vm['uuid']}\n" for vm in vms))
        return 0
    if "o" in found:
        fields = found["o"].split(",")
        vms = [{key: vm[key] for key in fields if key in vm} for vm in vms]
    await call.out(json.dumps(vms, indent=2) + "\n")
    return 0


async def _list(gz: GZ, call: Call, arguments: Sequence[str]) -> int:
    found, rest = _split(arguments, flags="pHh", options="os")
    fields = found.get("o", _LIST_FIELDS).split(",")
    order = found.get("s", "ram,uuid").split(",")
    vms = gz.machines.lookup(_pairs(rest))
    vms.sort(key=lambda vm: [_cell(vm, key.lstrip("+-")) for key in order])
    rows = [[_cell(vm, field) for field in fields] for vm in vms]
    if "p" in found:
        await call.out("".join(":".join(row) + "\n" for row in rows))
        return 0
    if "H" not in found:
        rows.insert(0, [field.upper() for field in fields])
    widths = [max(len(row[n]) for row in rows) for n in range(len(fields))] if rows else []
    lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)
    await call.out("".join(line.rstrip() + "\n" for line in lines))
    return 0


def _cell(vm: dict[str, Any], field: str) -> str:
    found = values(vm, field)
    return str(found[0]) if found and found[0] not in (None, "") else "-"


async def _events(gz: GZ, call: Call, arguments: Sequence[str]) -> int:
    """Runs until it is killed."""
    found, rest = _split(arguments, flags="jrf")
    uuid = _uuid("events", rest) if rest else ""
    queue = gz.machines.watch()
    try:
        if "r" in found:
            vms = {vm["uuid"]: vm for vm in gz.machines.lookup({"uuid": uuid} if uuid else {})}
            await _tell(call, {"type": "ready", "date": now(), "vms": vms}, as_json="j" in found)
        while True:
            event = await queue.get()
            if not uuid or event["uuid"] == uuid:
                await _tell(call, event, as_json="j" in found)
    finally:
        gz.machines.unwatch(queue)


async def _tell(call: Call, event: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        await call.out(json.dumps(event) + "\n")
        return
    head = f"[{event['date'][11:]}] {event.get('uuid', '')[:8]} {event['type']}"
    lines = [
        f"{head}: {one['prettyPath']} {one['action']} :: {json.dumps(one['oldValue'])}"
        f" -> {json.dumps(one['newValue'])}\n"
        for one in event.get("changes", [])
    ]
    await call.out("".join(lines) or f"{head}\n")


_Command = Callable[[GZ, Call, Sequence[str]], Awaitable[int]]
_COMMANDS: dict[str, _Command] = {
    "create": _create,
    "validate": _validate,
    "start": _start,
    "stop": _stop,
    "reboot": _reboot,
    "kill": _kill,
    "delete": _delete,
    "update": _update,
    "get": _get,
    "lookup": _lookup,
    "list": _list,
    "events": _events,
}
