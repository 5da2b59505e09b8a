"""What this machine can do, found out once at start by running one tiny zone; what `zonegate doctor` shows.

crun in a private mount namespace, sealed or not -> runc -> nothing (APIError with both complaints)
is the compiled seccomp filter effective?    does starting by the fifo work?
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import os
import secrets
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dockerapi.errors import APIError, CommandFailed
from gateway.hosts.command import Spawner, run
from gateway.hosts.linux import conmon, seccomp
from gateway.hosts.linux.cgroups import Cgroups
from gateway.hosts.linux.conmon import Bundle, Runtime, Streams
from gateway.hosts.linux.reaper import reap_when_ended
from gateway.hosts.linux.sealed import SealedProgram

log = logging.getLogger(__name__)

_CLONE_NEWNS, _CLONE_FS = 0x20000, 0x200
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 1 << 18
_MNT_DETACH = 2
_PROBE_TIMEOUT_S = 10.0
_UNIFIED = "/sys/fs/cgroup/unified"
_V1 = tuple(f"/sys/fs/cgroup/{name}" for name in ("pids", "memory", "devices", "freezer", "cpu"))
_SYSTEM = ("/bin", "/usr", "/lib", "/lib64", "/lib32")
_PLACES = ("/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin", "/bin", "/sbin")

_libc = ctypes.CDLL(None, use_errno=True)


def leave_mount_namespace() -> None:
    """For the spawner's thread: a mount namespace of its own, without the unified hierarchy.

    crun refuses a hybrid layout whose unified mount lists controllers; here there is none to be seen.  It makes
    folders in that place all the same, which nobody could remove later, or fails where systemd has made
    it read-only: so one of the other hierarchies stands there, in which crun has the same folder already.
    Propagation stays as it was copied, or binds with rshared would not reach the host any more.  What is
    mounted on the machine later comes in only by way of shared mounts: call it again to have it all.
    """
    _checked(_libc.unshare(_CLONE_FS), "unshare")
    if not Path(_UNIFIED).is_dir():
        return
    machines = os.open(f"/proc/{os.getpid()}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _checked(_libc.setns(machines, _CLONE_NEWNS), "setns")
    finally:
        os.close(machines)
    _checked(_libc.unshare(_CLONE_NEWNS), "unshare")
    where = b"/sys/fs/cgroup"
    _libc.mount(None, where, None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None)
    _libc.umount2(_UNIFIED.encode(), _MNT_DETACH)
    for other in _V1:
        if Path(other).is_mount():
            _libc.mount(other.encode(), _UNIFIED.encode(), None, ctypes.c_ulong(_MS_BIND), None)
            break


def _checked(result: int, call: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{call}: {os.strerror(error)}")


def find_program(*names: str) -> str:
    """Absolute path of the first that is installed, "" if none is."""
    for name in names:
        folders = [*os.environ.get("PATH", "").split(":"), *_PLACES]
        for folder in folders:
            path = Path(folder, name)
            if folder.startswith("/") and os.access(path, os.X_OK):
                return str(path)
    return ""


def in_chroot() -> bool:
    """Whether our root is not that of our mount namespace.  Blocking, for a moment.

    A runtime's pivot_root changes the former alone, and entering the namespace leads to the latter.
    """
    with ThreadPoolExecutor(1) as alone:
        return not os.path.samestat(Path("/").stat(), alone.submit(_root_of_namespace).result())


def _root_of_namespace() -> os.stat_result:
    _checked(_libc.unshare(_CLONE_FS), "unshare")
    own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _checked(_libc.setns(own, _CLONE_NEWNS), "setns")
    finally:
        os.close(own)
    return Path("/").stat()


@dataclass(frozen=True, slots=True)
class Found:
    """The runtime to use, and whether crun's annotation with a compiled filter is effective."""

    runtime: Runtime
    bpf: bool
    warnings: tuple[str, ...] = ()


async def find_runtime(
    spawner: Spawner, cgroups: Cgroups, *, parent: str, state: Path, exits: Path, scratch: Path
) -> Found:
    """Run one zone with crun, else with runc; APIError with their complaints if neither works."""
    if await asyncio.to_thread(in_chroot):
        raise APIError(
            "this is a chroot, where a container's exec would see the machine's root: "
            "use pivot_root, or a container with a mount namespace of its own"
        )
    programs = {
        "conmon": find_program("conmon"),
        "crun": find_program("crun"),
        "runc": find_program("runc"),
    }
    if not programs["conmon"]:
        raise APIError("conmon is not installed: apt-get install conmon crun")
    complaints: list[str] = []
    for name in ("crun", "runc"):
        if not programs[name]:
            complaints.append(f"{name}: not installed")
            continue
        runtime = Runtime(programs["conmon"], programs[name], state, exits, by_fifo=True)
        try:
            found = await _try_sealed(spawner, cgroups, parent, runtime, scratch)
        except APIError as error:
            complaints.append(f"{name}: {error.message} {error.detail}".strip())
            continue
        return replace(found, warnings=(*complaints, *found.warnings))
    raise APIError("no OCI runtime works here: " + "; ".join(complaints))


async def _try_sealed(
    spawner: Spawner, cgroups: Cgroups, parent: str, runtime: Runtime, scratch: Path
) -> Found:
    """From a sealed copy where that works.  runc stays as it is: ten times as large, and rarely used."""
    if runtime.name == "crun":
        try:
            sealed = SealedProgram(runtime.program, runtime.state.with_name("sealed"))
        except OSError as error:
            log.info("no sealed copy of %s: %s", runtime.program, error)
        else:
            try:
                quick = replace(runtime, sealed=sealed)
                return await _try(spawner, cgroups, parent, quick, scratch)
            except APIError as error:
                log.info("%s does not run from a sealed copy: %s", runtime.program, error.message)
                sealed.close()
            except BaseException:
                sealed.close()
                raise
    return await _try(spawner, cgroups, parent, runtime, scratch)


async def _try(
    spawner: Spawner, cgroups: Cgroups, parent: str, runtime: Runtime, scratch: Path
) -> Found:
    """By fifo and with the compiled filter; without the fifo where that does nothing."""
    wants_bpf = runtime.name == "crun"
    status = await _probe(spawner, cgroups, parent, runtime, scratch, bpf=wants_bpf)
    if status is None and runtime.by_fifo:
        runtime = replace(runtime, by_fifo=False)
        status = await _probe(spawner, cgroups, parent, runtime, scratch, bpf=wants_bpf)
    if status is None:
        raise APIError("a zone that was started did not end")
    bpf = wants_bpf and "Seccomp:\t2" in status
    warnings = (
        ()
        if bpf or not wants_bpf
        else ("crun takes no compiled seccomp filter: starts are slower",)
    )
    return Found(runtime, bpf, warnings)


async def _probe(
    spawner: Spawner, cgroups: Cgroups, parent: str, runtime: Runtime, scratch: Path, *, bpf: bool
) -> str | None:
    """/proc/self/status as a zone sees it; None if it does not end in time."""
    name = f"probe-{secrets.token_hex(4)}"
    bundle = Bundle(scratch / name)
    path = cgroups.path(name, parent)
    try:
        _lay_out(bundle, path, bpf=bpf)
        output = bundle.path / "ctr.log"
        streams = Streams(terminal=False, open_stdin=False, stdin_once=False, log=output)
        await conmon.create(spawner, runtime, bundle, name, streams)
        pidfd = os.pidfd_open(bundle.conmon_pid())
        try:
            await conmon.start(spawner, runtime, name)
            if not await _ended(pidfd):
                return None
        finally:
            os.close(pidfd)
        return await asyncio.to_thread(output.read_text)
    finally:
        _kill(bundle)
        await cgroups.remove(path)
        await asyncio.to_thread(_sweep, runtime, name, bundle)


async def _ended(pidfd: int) -> bool:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(pidfd, ended.set)
    try:
        async with asyncio.timeout(_PROBE_TIMEOUT_S):
            await ended.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(pidfd)
    return True


def _kill(bundle: Bundle) -> None:
    for pid in (bundle.pid(), bundle.conmon_pid()):
        if not pid:
            continue
        if bundle.is_of(pid):
            with suppress(ProcessLookupError):
                os.kill(pid, 9)
        reap_when_ended(pid)


def _sweep(runtime: Runtime, name: str, bundle: Bundle) -> None:
    (runtime.exits / name).unlink(missing_ok=True)
    shutil.rmtree(runtime.state / name, ignore_errors=True)
    shutil.rmtree(bundle.path, ignore_errors=True)


def _lay_out(bundle: Bundle, cgroup: str, *, bpf: bool) -> None:
    root = bundle.path / "rootfs"
    (bundle.path / "persist").mkdir(parents=True)
    for folder in ("proc", "dev"):
        (root / folder).mkdir(parents=True)
    bundle.config.write_text(json.dumps(_config(root, cgroup, bpf=bpf)))


def _filter() -> str:
    return seccomp.encoded_bpf(seccomp.profile_of("default"), frozenset(), (6, 0))


def _config(root: Path, cgroup: str, *, bpf: bool) -> dict[str, Any]:
    """The machine's own programs, read-only, in namespaces of their own."""
    mounts: list[dict[str, Any]] = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
    ]
    for folder in _SYSTEM:
        if Path(folder).is_dir():
            (root / folder.lstrip("/")).mkdir()
            options = ["rbind", "ro", "rprivate"]
            source = str(Path(folder).resolve())
            mounts.append(
                {"destination": folder, "type": "bind", "source": source, "options": options}
            )
    annotations = {seccomp.ANNOTATION: _filter()} if bpf else {}
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": ["cat", "/proc/self/status"],
            "env": ["PATH=/usr/bin:/bin"],
            "cwd": "/",
        },
        "root": {"path": str(root)},
        "mounts": mounts,
        "annotations": annotations,
        "linux": {
            "cgroupsPath": cgroup,
            # Version 2 takes these as a program of the kernel's, which not every runtime may load here.
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network")],
        },
    }


async def version(program: str) -> str:
    """What `PROGRAM --version` calls itself, "" if it does not say."""
    if not program:
        return ""
    try:
        output = await run([program, "--version"], timeout_s=10)
    except CommandFailed:
        return ""
    first = output.decode(errors="replace").splitlines()[0] if output else ""
    return first.rpartition(" ")[2]
