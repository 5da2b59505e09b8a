"""What dockerinit decides before the zone's program runs, in its order, and the log it leaves in the zone.

A zone whose dockerinit gives up has started and ended: its exit status is dockerinit's code, and the last
line of /var/log/sdc-dockerinit.log says why.  Codes: the order of the enumeration in docker-common.h.
"""

from __future__ import annotations

import datetime
import enum
import os
import posixpath
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gateway.hosts.linux.rooted import make_folders, open_in_root, read_in_root
from gateway.hosts.linux.users import identify
from gateway.zones.metadata import DockerMetadata

LOG = "/var/log/sdc-dockerinit.log"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LIMIT = 4 << 20


class Code(enum.IntEnum):
    """Exit codes of dockerinit; 1 is told by abort(3)."""

    UNEXPECTED = 1
    CHDIR = 2
    EXEC_FAILED = 3
    GID_NAN = 5
    NO_COMMAND = 13
    NOT_FOUND = 17
    PARSE_JSON = 20
    STAT_CMD = 25
    STAT_DIR = 26
    STAT_EXEC = 27
    UID_NAN = 29
    ATTACH_TIMED_OUT = 45


@dataclass(frozen=True, slots=True)
class Fatal:
    """It gives up."""

    code: Code
    text: str

    @property
    def wait_status(self) -> int:
        """As wait(2) has it: abort(3) is signal 6."""
        return 6 if self.code is Code.UNEXPECTED else self.code << 8


@dataclass(frozen=True, slots=True)
class Ready:
    """Its program can be run; `user` is "" where no setuid is done."""

    user: str


def check(root: Path, metadata: DockerMetadata, *, by_name: bool = False) -> Ready | Fatal:
    """User, working directory, command: whatever is wrong first.

    Public sources disagree about numbers of users and groups: looked up as such, or (`by_name`) as names.
    """
    user = (_user_by_name if by_name else _user)(root, metadata.user)
    if isinstance(user, Fatal):
        return user
    workdir = metadata.workdir or "/"
    try:
        make_folders(root, workdir)
    except OSError as error:
        return Fatal(Code.CHDIR, f"chdir({workdir}) failed: {error.strerror}")
    if not metadata.argv:
        return Fatal(Code.NO_COMMAND, "No command specified")
    return _command(root, metadata.argv[0], workdir, metadata.env) or Ready(user)


def _check_format(root: Path, path: str) -> Fatal | None:
    """What execve(2) would refuse: no program at all, or a script without its interpreter."""
    content = read_in_root(root, path, 256)
    if content is None or content.startswith(b"\x7fELF"):
        return None
    interpreter = content[2:].split(b"\n")[0].split()[:1] if content.startswith(b"#!") else []
    if interpreter and _mode(root, os.fsdecode(interpreter[0])) is not None:
        return None
    reason = "No such file or directory" if interpreter else "Exec format error"
    return Fatal(Code.EXEC_FAILED, f"execve({path}) failed: {reason}")


def _user(root: Path, wanted: str) -> str | Fatal:
    if not wanted:
        return ""
    passwd = read_in_root(root, "/etc/passwd", _LIMIT) or b""
    group = read_in_root(root, "/etc/group", _LIMIT) or b""
    name, _, group_name = wanted.partition(":")
    lines = [line.split(b":") for line in passwd.splitlines()]
    known = any(name.encode() in (line[0], line[2]) for line in lines if len(line) > 3)
    if not known and not name.isdigit():
        return Fatal(Code.UID_NAN, f"UID is not a number: {name}")
    groups = [line.split(b":") for line in group.splitlines()]
    named = any(line[0] == group_name.encode() for line in groups)
    if group_name and not named and not group_name.isdigit():
        return Fatal(Code.GID_NAN, f"GID is not a number: {group_name}")
    # A number without an entry: dockerinit has no passwd structure and leaves setuid out.  It runs as root.
    if not known:
        return ""
    identify(wanted, (), passwd, group)
    return wanted


def _user_by_name(root: Path, wanted: str) -> str | Fatal:
    """The reading where a number that is not 0 needs an entry of that name, and is left out without."""
    if not wanted:
        return ""
    name, _, group_name = wanted.partition(":")
    found = _id_by_name(root, "/etc/passwd", name)
    if found is None:
        return "" if _strtoll(name) else Fatal(Code.UID_NAN, f"UID is not a number: {name}")
    uid, gid = found[2], found[3]
    if group_name:
        entry = _id_by_name(root, "/etc/group", group_name)
        if entry is None and not _strtoll(group_name):
            return Fatal(Code.GID_NAN, f"GID is not a number: {group_name}")
        gid = entry[2] if entry else "0"
    return f"{uid}:{gid}"


def _id_by_name(root: Path, path: str, name: str) -> list[str] | None:
    content = (read_in_root(root, path, _LIMIT) or b"").decode("utf-8", "surrogateescape")
    lines = [line.split(":") for line in content.splitlines()]
    # Of 0 both readings find the entry of the number.
    is_zero = name.isdigit() and int(name) == 0
    return next(
        (e for e in lines if len(e) > 3 and (e[2] == "0" if is_zero else e[0] == name)), None
    )


def _strtoll(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _command(root: Path, command: str, workdir: str, env: Sequence[str]) -> Fatal | None:
    if "/" in command:
        mode = _mode(root, posixpath.join(workdir, command))
        if mode is None:
            return Fatal(Code.STAT_CMD, f"stat({command}): No such file or directory")
        path = posixpath.join(workdir, command)
        return _executable(command, mode) or _check_format(root, path)
    path = next((e.partition("=")[2] for e in reversed(env) if e.startswith("PATH=")), _PATH)
    for folder in path.split(":"):
        mode = _mode(root, posixpath.join(workdir, folder or ".", command))
        if mode is not None and _executable(command, mode) is None:
            return _check_format(root, posixpath.join(workdir, folder or ".", command))
    return Fatal(Code.NOT_FOUND, f"'{command}' not found in PATH")


def _executable(command: str, mode: int) -> Fatal | None:
    if stat.S_ISDIR(mode):
        return Fatal(Code.STAT_DIR, f"stat({command}): is a directory")
    if not mode & 0o111:
        return Fatal(Code.STAT_EXEC, f"stat({command}): is not executable")
    return None


def _mode(root: Path, path: str) -> int | None:
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        descriptor = open_in_root(top, path, os.O_PATH)
    except OSError:
        return None
    finally:
        os.close(top)
    try:
        return os.fstat(descriptor).st_mode
    finally:
        os.close(descriptor)


def log(root: Path, *lines: str, anew: bool = False) -> None:
    """Append lines to the log in the zone; an image without room for it gets none."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    now = now.replace("+00:00", "Z")
    text = "".join(f"{now} {line}\n" for line in lines)
    with suppress(OSError):
        make_folders(root, posixpath.dirname(LOG))
        top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | (os.O_TRUNC if anew else 0)
            descriptor = open_in_root(top, LOG, flags, 0o644)
        finally:
            os.close(top)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)


def told(fatal: Fatal) -> str:
    """The log's last line of a start that failed, without its time."""
    return f"FATAL (code: {int(fatal.code)}): {fatal.text}"
