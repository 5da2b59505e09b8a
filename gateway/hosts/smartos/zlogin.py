"""How zlogin is called, and what is wrapped around a command in a zone.  Pure, but for `su_seen`.

    zlogin -Q -E -I [-N] ZONE           standard streams of the zone's first process
    zlogin -Q ZONE COMMAND              a command with pipes: through the zone's su, where zlogin sees one
    zlogin -Q -E -i ZONE COMMAND        a command with a terminal: executed as it is

-Q: no words of zlogin's own.  -E: else a `~` at the beginning of a line is taken out of the input, and `~.` ends the
connection.  -N: our end is not the end of the process's standard input.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Sequence

from gateway.hosts.smartos.globalzone import GlobalZone

_SOCKETS = "var/run/zones"
_BUSY = re.compile(rb"already in use by process ID (\d+)")
_LINKS = 16
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# Says its result as dockerexec does, so that both are read by the same rules; the number is its pid.
# declare +x: what bash adds to the environment of its own accord; of `_` and SHLVL nothing keeps it.
WRAPPER = """\
say() { printf '1970-01-01T00:00:00.000Z %s\\n' "$1" >&2; }
die() { say "FATAL (code: $1): $2"; exit "$1"; }
w=$1; shift
if [ -n "$w" ] && ! cd -- "$w" 2>/dev/null; then
  [ -e "$w" ] || die 2 "chdir($w) failed: No such file or directory"
  [ -d "$w" ] || die 2 "chdir($w) failed: Not a directory"
  die 2 "chdir($w) failed: Permission denied"
fi
case $1 in
*/*)
  [ -e "$1" ] || die 25 "stat($1): No such file or directory"
  [ ! -d "$1" ] || die 26 "stat($1): is a directory"
  [ -x "$1" ] || die 27 "stat($1): is not executable" ;;
*) type -P -- "$1" >/dev/null || die 17 "'$1' not found in PATH" ;;
esac
declare +x PWD OLDPWD
say "EXEC $$"
exec -- "$@"
"""


# passwd and group as the zone sees them, a NUL between them; before that $1, if it is not empty, is put to passwd.
ACCOUNTS = """\
if [ -n "$1" ] && [ -f /etc/passwd ]; then
  IFS= read -r -d '' c </etc/passwd
  case $c in '' | *$'\\n') ;; *) printf '\\n' >>/etc/passwd ;; esac
  printf '%s\\n' "$1" >>/etc/passwd
fi 2>/dev/null
show() { while IFS= read -r l || [ -n "$l" ]; do printf '%s\\n' "$l"; done; }
[ ! -f /etc/passwd ] || show </etc/passwd
printf '\\0'
[ ! -f /etc/group ] || show </etc/group
"""


def accounts_argv(brand: str, entry: str) -> list[str]:
    """The command that says them."""
    return [native(brand, "/usr/bin/bash"), "-c", ACCOUNTS, "zonegate", entry]


def attach_argv(zone: str, *, eof: bool) -> list[str]:
    """`eof`: the end of our input is one for the process."""
    return ["zlogin", "-Q", "-E", "-I", *([] if eof else ["-N"]), zone]


def command_argv(zone: str, command: Sequence[str], *, tty: bool, su: bool) -> list[str]:
    """`su`: what `su_seen` says.

    Where zlogin sees a su it runs `su root -c WORDS`, with all words joined and those that hold a blank put into quotes,
    whatever else they hold; a single word is taken as it is.  So there the command is one word, quoted by us.
    """
    if tty:
        return ["zlogin", "-Q", "-E", "-i", zone, *command]
    return ["zlogin", "-Q", zone, *([shlex.join(command)] if su else command)]


def server_socket(zone: str, root: str = "/") -> str:
    """There while zoneadmd serves the zone's standard streams.  `root`: of the platform's own files."""
    return posixpath.join(root, _SOCKETS, f"{zone}.server_out")


def busy_process(output: bytes) -> str | None:
    """The id of the process that has the streams, if this is how zlogin says so."""
    match = _BUSY.search(output)
    return match[1].decode() if match else None


def native(brand: str, path: str) -> str:
    """Where a program of the platform is within a zone."""
    return f"/native{path}" if brand == "lx" else path


def wrapped(
    brand: str,
    command: Sequence[str],
    *,
    env: Sequence[str] = (),
    workdir: str = "",
    clear: bool = False,
) -> list[str]:
    """`command` with more environment (NAME=VALUE; a NAME alone is taken away) and another folder.

    By the platform's own programs, so that it needs nothing of the image.  `clear`: none but this environment.
    """
    removed = [name for name in env if "=" not in name and _IDENTIFIER.fullmatch(name)]
    script = "".join(f"unset -v {name}\n" for name in removed) + WRAPPER
    shell = [native(brand, "/usr/bin/bash"), "-c", script, "zonegate", workdir, *command]
    added = [entry for entry in env if "=" in entry]
    if not added and not clear:
        return shell
    return [native(brand, "/usr/bin/env"), *(["-i"] if clear else []), *added, *shell]


def as_user(brand: str, user: str, command: Sequence[str]) -> list[str]:
    """`command` by the zone's own su, which must be called as root; the environment is su's."""
    text = f"exec {shlex.join(command)}"
    if brand == "lx":
        # A user whose shell is no shell (nologin) can run commands all the same.
        return ["su", "-s", native(brand, "/usr/bin/bash"), "-c", text, user]
    return ["su", user, "-c", text]


async def su_seen(gz: GlobalZone, zonepath: str, root: str = "/") -> bool:
    """Whether zlogin finds a su in this zone.

    It looks from the global zone: an absolute link of the image leads there.  Of the two paths that it tries, the
    first (/usr/bin/su) goes into a buffer of the size of a pointer, and so is never found.
    """
    path = f"{zonepath}/root/bin/su"
    return await _leads_to_something(gz, path, root)


async def _leads_to_something(gz: GlobalZone, path: str, root: str) -> bool:
    """stat(2) by way of lstat(2): whether a path leads to something, every link followed."""
    seen, names, links = "/", path.strip("/").split("/"), 0
    while names:
        name = names.pop(0)
        if name in ("", "."):
            continue
        if name == "..":
            seen = posixpath.dirname(seen)
            continue
        candidate = posixpath.join(seen, name)
        status = await gz.status(candidate)
        if status is None:
            return False
        if not status.link:
            seen = candidate
            continue
        links += 1
        if links > _LINKS:
            return False
        target = status.link
        if target.startswith("/"):
            seen, target = root, target.strip("/")
        names = [*target.split("/"), *names]
    return True
