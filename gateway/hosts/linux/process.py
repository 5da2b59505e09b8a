"""The `process` object of OCI: what runs, as whom, with which environment and rights.  Pure.

For the first process of a zone (`oci_process`) and for exec (`exec_process`), which the runtime takes
as it is: nothing of the zone's own process is added to it, so it must be complete.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.hosts.linux.machine import CAPABILITIES, UNLIMITED, Machine
from gateway.hosts.linux.users import Identity
from gateway.zones.host import Process
from gateway.zones.metadata import DockerMetadata, Runtime
from gateway.zones.spec import ZoneSpec

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NOFILE = "RLIMIT_NOFILE"
_MOST_FILES = 1 << 20  # fs.nr_open, unless somebody changed it
_LEAST_FILES = 64
"""crun and runc set the limit before they have opened everything that they need."""
INIT_TARGET = "/sbin/docker-init"
"""Where the init program is seen in the zone."""


def oci_process(
    spec: ZoneSpec, metadata: DockerMetadata, identity: Identity, machine: Machine
) -> dict[str, Any]:
    """The zone's first process."""
    runtime = metadata.runtime
    argv = list(metadata.argv)
    if uses_init(runtime):
        argv = [INIT_TARGET, "--", *argv]
    environment = override(_base_environment(spec, tty=metadata.tty), metadata.env)
    return _process(
        argv=argv,
        env=environment,
        cwd=metadata.workdir,
        tty=metadata.tty,
        console_size=runtime.console_size,
        identity=identity,
        runtime=runtime,
        capabilities=granted(runtime, machine),
        machine=machine,
    )


def exec_process(
    spec: ZoneSpec,
    metadata: DockerMetadata,
    process: Process,
    identity: Identity,
    machine: Machine,
) -> dict[str, Any]:
    """A further process; `identity` is of `process.user`, or of the zone's own user where that is ""."""
    environment = override(_base_environment(spec, tty=process.tty), metadata.env)
    capabilities = (
        _masked(CAPABILITIES, machine) if process.privileged else granted(metadata.runtime, machine)
    )
    return _process(
        argv=list(process.argv),
        env=override(environment, process.env),
        cwd=process.workdir or metadata.workdir,
        tty=process.tty,
        console_size=process.console_size,
        identity=identity,
        runtime=metadata.runtime,
        capabilities=capabilities,
        machine=machine,
    )


def uses_init(runtime: Runtime) -> bool:
    """Only where the zone has process numbers of its own: elsewhere it would not be number 1."""
    return runtime.init and not runtime.pid


def granted(runtime: Runtime, machine: Machine) -> list[str]:
    """The zone's capabilities: all of the machine's for a privileged one.

    A capability outside of our own bounding set cannot be given; asking for it fails the whole start.
    """
    return _masked(CAPABILITIES if runtime.privileged else runtime.capabilities, machine)


def override(defaults: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """dockerd's merge of environments: a value replaces in place, a name without `=` takes away."""
    merged: list[str | None] = list(defaults)
    places = {entry.partition("=")[0]: index for index, entry in enumerate(defaults)}
    for entry in overrides:
        name, equals, _ = entry.partition("=")
        place = places.get(name)
        if not equals:
            if place is not None:
                merged[place] = None
        elif place is not None:
            merged[place] = entry
        else:
            merged.append(entry)
    return [entry for entry in merged if entry is not None]


def _base_environment(spec: ZoneSpec, *, tty: bool) -> list[str]:
    environment = [f"PATH={DEFAULT_PATH}", f"HOSTNAME={spec.hostname or ''}"]
    return [*environment, "TERM=xterm"] if tty else environment


def _with_home(environment: list[str], identity: Identity) -> list[str]:
    # runc looks HOME up in passwd and puts it last; an empty value counts as none.
    if any(entry.startswith("HOME=") and entry != "HOME=" for entry in environment):
        return environment
    kept = [entry for entry in environment if entry != "HOME="]
    return [*kept, f"HOME={identity.home}"]


def _masked(names: Sequence[str], machine: Machine) -> list[str]:
    return [name for name in names if name in machine.bounding]


def _process(
    *,
    argv: list[str],
    env: list[str],
    cwd: str,
    tty: bool,
    console_size: tuple[int, int] | None,
    identity: Identity,
    runtime: Runtime,
    capabilities: list[str],
    machine: Machine,
) -> dict[str, Any]:
    process: dict[str, Any] = {
        "terminal": tty,
        "user": {
            "uid": identity.uid,
            "gid": identity.gid,
            "additionalGids": list(identity.additional_gids),
        },
        "args": argv,
        "env": _with_home(env, identity),
        "cwd": cwd or "/",
        "capabilities": _capability_sets(capabilities, identity),
        "noNewPrivileges": runtime.no_new_privileges,
        # Always said: a process inherits conmon's, which may be -1000.
        "oomScoreAdj": max(runtime.oom_score_adj, machine.oom_score_adj),
    }
    if tty and console_size:
        process["consoleSize"] = {"height": console_size[0], "width": console_size[1]}
    if limits := _rlimits(runtime, machine):
        process["rlimits"] = limits
    if runtime.apparmor not in ("", "unconfined"):
        process["apparmorProfile"] = runtime.apparmor
    return process


def _capability_sets(names: list[str], identity: Identity) -> dict[str, list[str]]:
    # Another user gets the bounding set only: that is what execve would leave of the rest, and an
    # inheritable set would let files with capabilities escape it (CVE-2022-24769).
    if identity.uid != 0:
        return {"bounding": names}
    return {"bounding": names, "effective": names, "permitted": names}


def few_files(runtime: Runtime, machine: Machine) -> tuple[int, int] | None:
    """Soft and hard limit of open files where they are too few for the runtime itself: to be set once it is done."""
    for limit in runtime.rlimits:
        if limit.type == _NOFILE and 0 <= limit.soft < _LEAST_FILES:
            most = min(machine.rlimits.get(_NOFILE, _MOST_FILES), _MOST_FILES)
            return limit.soft, most if limit.hard < 0 else min(limit.hard, most)
    return None


def _rlimits(runtime: Runtime, machine: Machine) -> list[dict[str, Any]]:
    limits = []
    for limit in runtime.rlimits:
        if limit.type == _NOFILE and few_files(runtime, machine):
            continue
        ceiling = machine.rlimits.get(limit.type, UNLIMITED)
        hard = min(limit.hard % (UNLIMITED + 1), ceiling)  # -1 is "unlimited"
        soft = min(limit.soft % (UNLIMITED + 1), hard)
        limits.append({"type": limit.type, "soft": soft, "hard": hard})
    return limits
