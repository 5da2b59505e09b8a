"""vmadm(8): its commands, what its errors mean, and its VM objects as zone specs.

A VM object (`vmadm get`, `lookup -j`, `events -j`) has the keys of the create payload and many more; the
spec is picked out of it.  What follows from a change of one is decided in observed.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ValidationError

from dockerapi.errors import (
    APIError,
    CommandFailed,
    Conflict,
    InvalidParameter,
    NoSuchContainer,
    NotFound,
    NotModified,
    NotRunning,
)
from gateway.hosts.smartos.globalzone import GlobalZone
from gateway.zones import brands
from gateway.zones.spec import TAG_INSTANCE, Disk, Filesystem, Nic, ZoneSpec, is_uuid

VM = Mapping[str, Any]
"""A VM object: what `vmadm get U` prints."""

NO_PID = 4294967295
"""Init is dead and the zone not down yet: (pid_t)-1."""

# vmadm takes 0.3 to 1 s of node's own; what is waited for beyond that is the zone.
_QUICK_S = 60.0
_CREATE_S = 600.0
_START_S = 330.0  # vmadm itself gives up after 300
_DELETE_S = 600.0
_STOP_MARGIN_S = 90.0  # after its SIGKILL vmadm waits ten seconds more, then halts the zone


async def create(gz: GlobalZone, spec: ZoneSpec) -> None:
    """`vmadm create`: the zone is there and stopped.  vmadm takes away what it made when it fails."""
    payload = json.dumps(spec.payload()).encode()
    await _run(gz, spec.uuid, "create", stdin=payload, timeout_s=_CREATE_S)


async def start(gz: GlobalZone, uuid: str) -> None:
    """Up, or already down again.  NotModified if it ran."""
    await _run(gz, uuid, "start", uuid, timeout_s=_START_S)


async def stop(gz: GlobalZone, uuid: str, *, timeout_s: float, docker: bool = True) -> None:
    """SIGTERM, wait, SIGKILL, halt; autoboot is off afterwards.  Fine if it does not run.

    `timeout_s` is at least one second: vmadm reads `-t 0` as "no -t" and waits ten.  Only a zone with
    `docker: true` takes -t; others are halted when vmadm has lost patience.
    """
    seconds = max(1, round(timeout_s))
    grace = ("-t", str(seconds)) if docker else ()
    await _run(gz, uuid, "stop", uuid, *grace, timeout_s=seconds + _STOP_MARGIN_S)


async def halt(gz: GlobalZone, uuid: str) -> None:
    """`vmadm stop -F`: down at once, autoboot off."""
    await _run(gz, uuid, "stop", uuid, "-F", timeout_s=_STOP_MARGIN_S)


async def kill(gz: GlobalZone, uuid: str, signal: str) -> None:
    """A signal for init, by name: numbers are illumos's, and not those of Linux.  NotRunning."""
    await _run(gz, uuid, "kill", "-s", signal, uuid, timeout_s=_QUICK_S)


async def update(gz: GlobalZone, uuid: str, changes: Mapping[str, Any]) -> None:
    """`vmadm update` with a payload of changes: `{"alias": ...}`, `{"set_internal_metadata": {...}}`."""
    payload = json.dumps(dict(changes)).encode()
    await _run(gz, uuid, "update", uuid, stdin=payload, timeout_s=_QUICK_S)


def changes(before: ZoneSpec, after: ZoneSpec) -> dict[str, Any]:
    """The payload of `vmadm update` that makes one of the other: properties; metadata, tags and nics by their forms.  Pure."""
    old, new = before.payload(), after.payload()
    found = {key: value for key, value in new.items() if old.get(key) != value}
    found |= dict.fromkeys(old.keys() - new.keys())
    for name in ("internal_metadata", "tags", "nics"):
        found.pop(name, None)
    for name in ("internal_metadata", "tags"):
        was, now = getattr(before, name), getattr(after, name)
        if added := {key: value for key, value in now.items() if was.get(key) != value}:
            found[f"set_{name}"] = added
        if removed := sorted(was.keys() - now.keys()):
            found[f"remove_{name}"] = removed
    return found | _nic_changes(before, after)


def _nic_changes(before: ZoneSpec, after: ZoneSpec) -> dict[str, Any]:
    """Nics by their MACs, which new ones have as well."""
    old = {nic.mac: nic for nic in before.nics}
    new = {nic.mac: nic for nic in after.nics}
    forms = {
        "remove_nics": [mac for mac in old if mac not in new],
        "update_nics": [
            nic.model_dump(mode="json", exclude_none=True)
            for mac, nic in new.items()
            if mac in old and nic != old[mac]
        ],
        "add_nics": [
            nic.model_dump(mode="json", exclude_none=True)
            for mac, nic in new.items()
            if mac not in old
        ],
    }
    return {key: rows for key, rows in forms.items() if rows}


async def delete(gz: GlobalZone, uuid: str) -> None:
    """The zone and its datasets are gone; stopped first if it runs."""
    await _run(gz, uuid, "delete", uuid, timeout_s=_DELETE_S)


async def get(gz: GlobalZone, uuid: str) -> VM:
    """One VM object.  NoSuchContainer."""
    found: VM = json.loads(await _run(gz, uuid, "get", uuid, timeout_s=_QUICK_S))
    return found


async def lookup(gz: GlobalZone) -> list[VM]:
    """Every VM object of the machine, whoever made it."""
    found: list[VM] = json.loads(await _run(gz, "", "lookup", "-j", timeout_s=_QUICK_S))
    return found


async def _run(
    gz: GlobalZone, uuid: str, *arguments: str, timeout_s: float, stdin: bytes = b""
) -> bytes:
    try:
        return await gz.run(("vmadm", *arguments), timeout_s=timeout_s, stdin=stdin)
    except CommandFailed as failed:
        raise error(failed, uuid) from failed


_REASONS: tuple[tuple[str, type[APIError] | None], ...] = (
    (r"no such zone configured|no such zone:|no such vm|\benoent\b.*zone", NoSuchContainer),
    (r"already '?running|ealreadyrunning", NotModified),
    (r"not running|enotrunning|vm is not '?running", NotRunning),
    (r"already exists|alias.*(in use|taken)", Conflict),
    (
        r"image.*(not found|does not exist|unable to find|not installed|must be installed)"
        r"|unable to (find|get|load) image",
        NotFound,
    ),
    (r"out of space|quota exceeded|no space left", None),
    (
        r"invalid (value|propert|payload|parameter|nic|brand|json)|missing (required )?(propert|value|parameter)"
        r"|bad_(values|properties|brand)|missing_properties|not a valid|must be|cannot (set|have|use)|unknown key",
        InvalidParameter,
    ),
)


def error(failed: CommandFailed, uuid: str) -> APIError:
    """What a failed vmadm wants to say.  What it says besides goes to the log."""
    text = failed.stderr.lower()
    for pattern, kind in _REASONS:
        if not re.search(pattern, text, re.DOTALL):
            continue
        if kind is None:
            break
        if kind in (NoSuchContainer, NotRunning):
            return kind(uuid)
        return kind(failed.message, detail=failed.stderr)
    return failed


HOSTS_KEY, ENV_KEY = "docker:linkHosts", "docker:linkEnv"
"""Of the zone's neighbours: naming.py's."""
RESOLVERS_KEY = "zonegate:resolvers"
"""JSON: the resolvers that a zone was made with, where it has a name server of ours for them."""
_VOLATILE = frozenset(
    (
        "docker:restartcount",
        "docker:restartdelay",
        "docker:wait_for_attach",
        HOSTS_KEY,
        ENV_KEY,
        RESOLVERS_KEY,
    )
)
"""Keys that are written into a zone while it lives: by vmadmd, by an attach, of its neighbours."""

_VOLATILE_OF_CUSTOMER = "__dockerinit_waiting_for_attach"
"""dockerinit's own note, while it waits."""


# -- VM objects ------------------------------------------------------------------------------------


def is_ours(vm: VM, instance: str) -> bool:
    """Whether the zone belongs to this instance: all others are nobody's business here."""
    tags = vm.get("tags")
    return isinstance(tags, dict) and tags.get(TAG_INSTANCE) == instance


def zonepath(vm: VM) -> str:
    """/zones/U."""
    return str(vm.get("zonepath") or f"/{vm.get('zpool', 'zones')}/{vm['uuid']}")


def located(vm: VM, root: str) -> VM:
    """With the zone's paths as they are reached from here: below `root`, which is / on every real machine."""
    prefix, path = root.rstrip("/"), zonepath(vm)
    if not prefix:
        return vm
    entries = [
        {**entry, "source": prefix + str(entry["source"])}
        if str(entry.get("source", "")).startswith(f"{path}/")
        else entry
        for entry in vm.get("filesystems") or ()
    ]
    return {**vm, "zonepath": prefix + path, "filesystems": entries}


def spec(vm: VM) -> ZoneSpec:
    """The create payload that a VM object answers to.  ValueError where there is none (an unknown brand).

    What vmadm added is left out: the three files of /etc that it mounts, where it put own volumes, its
    counts of restarts, and properties that such a zone's payload may not have.
    """
    refused = brands.refused(str(vm.get("brand")))
    values = {key: value for key, value in _picked(vm, ZoneSpec).items() if key not in refused}
    values["disks"] = [_picked(disk, Disk) for disk in values.pop("disks", ())] or None
    values["nics"] = [_picked(nic, Nic) for nic in vm.get("nics") or ()]
    config = f"{zonepath(vm)}/config/"
    values["filesystems"] = [
        _picked(entry, Filesystem) | {"source": _source(str(entry.get("source", "")), vm)}
        for entry in vm.get("filesystems") or ()
        if not str(entry.get("source", "")).startswith(config)
    ]
    metadata = values.get("internal_metadata") or {}
    if RESOLVERS_KEY in metadata:
        values["resolvers"] = json.loads(str(metadata[RESOLVERS_KEY]))
    values["internal_metadata"] = {k: v for k, v in metadata.items() if k not in _VOLATILE}
    if _VOLATILE_OF_CUSTOMER in values.get("customer_metadata", ()):
        noted = values["customer_metadata"]
        values["customer_metadata"] = {k: v for k, v in noted.items() if k != _VOLATILE_OF_CUSTOMER}
    while True:
        try:
            # By way of JSON: only there a strict model takes lists for tuples.
            return ZoneSpec.model_validate_json(json.dumps(values))
        except ValidationError as invalid:
            problem = invalid.errors()[0]
            place = problem["loc"]
            required = not place or ZoneSpec.model_fields[str(place[0])].is_required()
            if required or values.pop(str(place[0]), None) is None:
                text = f"{'.'.join(map(str, place))}: {problem['msg']}"
                raise ValueError(text) from invalid


def _picked(values: VM, model: type[BaseModel]) -> dict[str, Any]:
    return {key: values[key] for key in model.model_fields if values.get(key) is not None}


def _source(source: str, vm: VM) -> str:
    """A volume of the zone's own by the UUID that was asked for."""
    folder, _, name = source.rpartition("/")
    return name if folder == f"{zonepath(vm)}/volumes" and is_uuid(name) else source


def time_ns(text: object) -> int:
    """`2014-10-24T20:12:11.973Z` as nanoseconds since the epoch; 0 for what is no time."""
    if not isinstance(text, str) or not text:
        return 0
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return 0
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    delta = aware - datetime(1970, 1, 1, tzinfo=UTC)
    return ((delta.days * 86400 + delta.seconds) * 1_000_000 + delta.microseconds) * 1000


# -- signals ---------------------------------------------------------------------------------------

_SIGNALS = frozenset({
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "EMT", "FPE", "KILL", "BUS", "SEGV", "SYS", "PIPE", "ALRM",
    "TERM", "USR1", "USR2", "CHLD", "PWR", "WINCH", "URG", "POLL", "STOP", "TSTP", "CONT", "TTIN", "TTOU",
    "VTALRM", "PROF", "XCPU", "XFSZ",
})  # fmt: skip
_ALIASES = {"CLD": "CHLD", "IO": "POLL", "IOT": "ABRT"}


def signal_name(name: str) -> str:
    """`SIGTERM`, `term`, `TERM` -> `SIGTERM`.  InvalidParameter in dockerd's words.

    Only names: 10 is USR1 to a Linux client and BUS to vmadm.  illumos has no SIGSTKFLT, and vmadm knows
    no names of real-time signals.
    """
    bare = name.upper().removeprefix("SIG")
    bare = _ALIASES.get(bare, bare)
    if bare not in _SIGNALS:
        raise InvalidParameter(f"Invalid signal: {name}")
    return f"SIG{bare}"
