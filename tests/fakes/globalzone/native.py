"""/native of lx zones: the platform's own programs, which run in a zone whatever its image is.

Copies of this computer's bash, env, tar and setpriv, made to find their loader and libraries below /native, and
dockerexec as a script for that bash.  What dockerexec asks of the metadata agent it gets in a variable.
"""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dockerapi.errors import APIError
from gateway.hosts.command import run
from gateway.hosts.linux.rooted import read_in_root
from gateway.hosts.linux.users import identify
from tests.fakes.globalzone.machine import Machine

FOLDER = "native"
_PROGRAMS = {
    "bash": "bash",
    "env": "env",
    "gtar": "tar",
    "mkdir": "mkdir",
    "readlink": "readlink",
    "rm": "rm",
    "setpriv": "setpriv",
}
_LIBRARY = re.compile(r"(?:=> )?(/\S+) \(0x")
_LOADER = b"/native/lib/ld.so"
_VARIABLE = "FAKE_MDATA"
_FILE_LIMIT = 1 << 20

_DOCKEREXEC = r"""#!/native/usr/bin/bash
dlog() { printf '%(%Y-%m-%dT%H:%M:%S)T.000Z %s\n' -1 "$1" >&2; }
fatal() { dlog "FATAL (code: $1): $2"; exit "$1"; }
eval "$FAKE_MDATA"
[ $# -gt 0 ] || fatal 13 'no command specified on cmdline, argc: 1'
for line in "${lines[@]}"; do dlog "$line"; done
[ -z "$failed" ] || fatal $failed "$reason"
dlog "WORKDIR '$workdir'"
/native/usr/bin/mkdir -p -- "$workdir" 2>/dev/null
cd -- "$workdir" 2>/dev/null || fatal 2 "chdir($workdir) failed: Not a directory"
for entry in "${env[@]}"; do
  dlog "ENV[$((n++))] $entry"
  case $entry in PATH=*) PATH=${entry#PATH=} ;; esac
done
dlog 'DROP PRIVS'
case $1 in
*/*)
  [ -e "$1" ] || fatal 25 "stat($1): No such file or directory"
  [ ! -d "$1" ] || fatal 26 "stat($1): is a directory"
  [ -x "$1" ] || fatal 27 "stat($1): is not executable" ;;
*)
  IFS=:
  for folder in $PATH; do
    dlog "TRYPATH \"$folder/$1\""
    [ -f "$folder/$1" ] && [ -x "$folder/$1" ] && found=1 && break
  done
  unset IFS
  [ -n "$found" ] || fatal 17 "'$1' not found in PATH" ;;
esac
dlog EXEC
exec /native/usr/bin/setpriv $identity -- /native/usr/bin/env -i "${env[@]}" "$@"
"""

_OWN = re.compile(rf"(?<![\w/])/usr/(?:bin/(?:{'|'.join(_PROGRAMS)})|vm/sbin/dockerexec)(?!\w)")
_made: dict[Path, asyncio.Lock] = {}


async def make(root: Path) -> Path:
    """`root`/native, complete; APIError where this computer lacks one of the programs."""
    folder = root / FOLDER
    async with _made.setdefault(folder, asyncio.Lock()):
        if not (folder / "usr/vm/sbin/dockerexec").exists():
            await _fill(folder)
    return folder


async def _fill(folder: Path) -> None:
    for name in ("lib", "usr/bin", "usr/vm/sbin"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, ours in _PROGRAMS.items():
        found = shutil.which(ours)
        if found is None:
            raise APIError(f"the fake global zone needs {ours} of this computer")
        listed = await run(["/usr/bin/ldd", found], timeout_s=10)
        for library in _LIBRARY.findall(listed.decode()):
            target = folder / "lib" / Path(library).name
            if Path(library).name.startswith("ld-linux"):
                target = folder / "lib/ld.so"
            if not target.exists():
                _put(target, _moved(library))
        _put(folder / "usr/bin" / name, _moved(found))
    _put(folder / "usr/vm/sbin/dockerexec", _DOCKEREXEC.encode())


def _put(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o755)


def _moved(path: str) -> bytes:
    """A program with the paths that are compiled in led to /native; everything keeps its length."""
    program = Path(path).read_bytes()
    loader = re.search(rb"/lib64/ld-linux-x86-64\.so\.2\0", program)
    if loader is not None:
        program = program.replace(loader[0], _LOADER.ljust(len(loader[0]), b"\0"), 1)
    for found in (b"/usr/lib/x86_64-linux-gnu/", b"/lib/x86_64-linux-gnu/"):
        here = b"/native/lib/" + b"./" * ((len(found) - 12) // 2)
        program = program.replace(found, here)
    return program.replace(b"/etc/ld.so.cache", b"/etc/ld.so.nativ")


def located(brand: str, argv: Sequence[str]) -> list[str]:
    """Zones of the platform's own brands have its programs in /usr: here they are below /native all the same."""
    if brand == "lx":
        return list(argv)
    return [_OWN.sub(r"/native\g<0>", word) for word in argv]


def environment_of(machine: Machine) -> list[str]:
    """docker:env, after docker:linkEnv."""
    metadata = machine.vm["internal_metadata"]
    return [
        entry
        for key in ("docker:linkEnv", "docker:env")
        for entry in json.loads(str(metadata.get(key, "[]")))
        if "=" in entry
    ]


def metadata_variable(machine: Machine) -> str:
    """What dockerexec is to know, as shell text."""
    metadata: dict[str, Any] = machine.vm["internal_metadata"]
    user = str(metadata.get("docker:user", ""))
    values: dict[str, str | list[str]] = {"failed": "", "reason": "", "identity": ""}
    passwd = read_in_root(machine.root, "/etc/passwd", _FILE_LIMIT) or b""
    group = read_in_root(machine.root, "/etc/group", _FILE_LIMIT) or b""
    home = "/"
    try:
        identity = identify(user, (), passwd, group)
    except APIError:
        values |= {"failed": "29", "reason": f"UID is not a number: {user.partition(':')[0]}"}
    else:
        # Without a passwd entry there is no setuid: it stays root.
        if identity.name or user in ("", "0"):
            home = identity.home
            groups = ",".join(map(str, identity.additional_gids))
            values["identity"] = f"--reuid={identity.uid} --regid={identity.gid} --groups={groups}"
    environment = {
        "TERM": "xterm",
        "HOME": home,
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOSTNAME": str(machine.vm.get("hostname", "")),
    }
    environment |= dict(entry.split("=", 1) for entry in environment_of(machine))
    keys = ("docker:user", "docker:workdir", "docker:linkEnv", "docker:env")
    values |= {
        "workdir": str(metadata.get("docker:workdir") or "/"),
        "env": [f"{name}={value}" for name, value in environment.items()],
        "lines": [
            f"MDATA {key}={metadata[key]}" if key in metadata else f"INFO no metadata for '{key}'"
            for key in keys
        ],
    }
    return f"{_VARIABLE}={' '.join(f'{k}={_quoted(v)}' for k, v in values.items())}"


def _quoted(value: str | list[str]) -> str:
    if isinstance(value, str):
        return shlex.quote(value)
    return f"({' '.join(map(shlex.quote, value))})"
