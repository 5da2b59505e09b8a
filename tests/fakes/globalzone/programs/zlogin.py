"""zlogin(8): into a zone's standard streams (-I), or with a command, with or without a terminal (-i).

As the real one: a su that is seen from the global zone runs commands that have no terminal, with all words joined and
only those with blanks quoted; `~` at the beginning of a line is taken out of terminal input unless there is -E; the
environment is zlogin's own, not the zone's.  One thing is not shown: where a command without a terminal dies of a
signal, the real one ends with 0.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import getopt
import os
import signal
import struct
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from dockerapi.errors import APIError
from dockerapi.framing import StreamId
from gateway.hosts.command import default_spawner
from gateway.hosts.linux.rooted import read_in_root
from gateway.zones.host import Process, ZoneProcess
from gateway.zones.spec import ZoneUUID
from tests.fakes.globalzone import native, scratch, zoneipadm
from tests.fakes.globalzone.call import Call, Failed
from tests.fakes.globalzone.gz import GZ
from tests.fakes.globalzone.machine import Machine
from tests.fakes.globalzone.zoneadmd import Busy, Client

_RETRIES = 30
_RETRY_S = 0.1  # the real one waits a second
_BEGUN_POLL_S = 0.02
_BLOCK = 1 << 16
_LX_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PATH = "/usr/sbin:/usr/bin"
_USAGE = "usage:\tzlogin [ -dinNQCES ] [ -e cmdchar ] [-l user] zonename [utility [argument...]]"
_ENOEXEC = 8
_LINKS = 16
_FILE_LIMIT = 1 << 20


async def main(gz: GZ, call: Call) -> int:
    """Exit code of the command, or 0 once the connection to the streams is over."""
    try:
        flags, rest = getopt.getopt(call.arguments, "diNnECIR:Se:l:Q")
    except getopt.GetoptError as error:
        raise Failed(f"zlogin: {error}\n{_USAGE}", 2) from error
    options = dict(flags)
    if not rest:
        raise Failed(_USAGE, 2)
    machine = gz.machines.vms.get(rest[0])
    if machine is None:
        raise Failed(f"zlogin: zone '{rest[0]}' unknown")
    if "-I" in options:
        if rest[1:]:
            raise Failed("zlogin: Commands may not be specified for console login.", 2)
        return await _attach(call, machine, options)
    if "-S" in options and rest[1:]:
        return await _scratch(gz, call, machine, rest[1:])
    if "-C" in options or not rest[1:]:
        raise Failed("zlogin: the fake global zone has neither consoles nor logins")
    if not machine.is_up or machine.is_hvm:
        state = machine.vm.get("zone_state", "installed")
        raise Failed(f"zlogin: login allowed only to running zones ({machine.uuid} is '{state}').")
    return await _command(gz, call, machine, options, rest[1:])


# --- standard streams


async def _attach(call: Call, machine: Machine, options: dict[str, str]) -> int:
    if not machine.is_docker:
        raise Failed("zlogin: 'zlog-mode' is not configured on the zone")
    client = await _connected(call, machine, eof="-N" not in options)
    is_raw = machine.zoneadmd is not None and machine.zoneadmd.is_terminal
    with _raw(call.fds[0], wanted=is_raw):
        try:
            async with asyncio.TaskGroup() as group:
                reader = group.create_task(_input(call, client, quiet="-E" in options))
                window = group.create_task(_signals(call, client))
                copying = group.create_task(_copy_output(call, client))
                # The end of our input ends it all: it closes the socket that output comes by.
                await asyncio.wait([reader, copying], return_when=asyncio.FIRST_COMPLETED)
                for task in (reader, window, copying):
                    task.cancel()
        finally:
            client.hang_up()
    return 0


async def _connected(call: Call, machine: Machine, *, eof: bool) -> Client:
    for _ in range(_RETRIES):
        if machine.zoneadmd is not None:
            try:
                return machine.zoneadmd.attach(os.getpid(), eof=eof)
            except Busy as busy:
                raise Failed(f"zlogin: Zone is already in use by process ID {busy.pid}.") from busy
        await asyncio.sleep(_RETRY_S)
    raise Failed(f"zlogin: unable to connect for {_RETRIES} seconds")


async def _copy_output(call: Call, client: Client) -> None:
    with suppress(BrokenPipeError):
        async for stream, data in client.output():
            await (call.out(data) if stream is StreamId.STDOUT else call.err(data))


async def _input(call: Call, client: Client, *, quiet: bool) -> None:
    escape = Escape()
    while data := await _read(call.fds[0]):
        if not quiet:
            data, over = escape.feed(data)
            if over:
                return
        await client.write(data)


async def _signals(call: Call, client: Client) -> None:
    while True:
        with suppress(OSError):  # no terminal
            await client.resize(*_window(call.fds[0]))
        while (number := await call.signals.get()) != signal.SIGWINCH:
            if number == signal.SIGUSR1:
                client.eof = not client.eof


class Escape:
    """`~.` at the beginning of a line; any other `~` there is lost."""

    def __init__(self) -> None:
        self._at_beginning = True
        self._after_tilde = False

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What is passed on, and whether the connection shall end."""
        passed = bytearray()
        for byte in data:
            if self._at_beginning and byte == ord("~"):
                self._at_beginning, self._after_tilde = False, True
                continue
            if self._after_tilde and byte == ord("."):
                return bytes(passed), True
            self._after_tilde = False
            passed.append(byte)
            self._at_beginning = byte in b"\r\n\x03\x15\x1a"
        return bytes(passed), False


# --- commands


async def _scratch(gz: GZ, call: Call, machine: Machine, words: Sequence[str]) -> int:
    """sh -c of all words joined, in the scratch zone of one that `zoneadm mount` has readied."""
    if machine.vm.get("zone_state") != "mounted":
        raise Failed(f"zlogin: zone '{machine.uuid}' is not mounted")
    argv = [sys.executable, "-IS", scratch.__file__, str(machine.root), " ".join(words)]
    for filesystem in machine.vm.get("filesystems", []):
        if not filesystem["target"].startswith(
            "/etc/"
        ):  # files, which the scratch zone does without
            argv += [str(gz.path(filesystem["source"])), filesystem["target"]]
            argv += [",".join(filesystem.get("options", []))]
    child = await default_spawner().spawn(argv, fds=dict(enumerate(call.fds)))
    try:
        return await child.wait()
    finally:
        child.kill()


async def _command(
    gz: GZ, call: Call, machine: Machine, options: dict[str, str], words: Sequence[str]
) -> int:
    on_terminal = "-i" in options and os.isatty(call.fds[0])
    if "-i" in options and not on_terminal:
        # The real one executes an array that it never filled in.
        raise Failed("zlogin: exec failure: Bad address")
    if arguments := zoneipadm.called(words):
        return await zoneipadm.main(gz, machine, arguments)
    argv = list(words)
    home = _home(machine)
    if not on_terminal:
        argv = _with_su(gz, machine, argv)
        if home and not (machine.root / home.lstrip("/")).is_dir():
            await call.err(
                f"zlogin: Could not chdir to home directory {home}: No such file or directory\n"
            )
    process = Process(
        argv=tuple(native.located(machine.brand, argv)),
        env=tuple(_environment(call, machine, home, on_terminal=on_terminal)),
        workdir=home if home and (machine.root / home.lstrip("/")).is_dir() else "/",
        user="0",
        tty=on_terminal,
        attach_stdin=True,
        attach_stdout=True,
        attach_stderr=True,
        console_size=_window(call.fds[0]) if on_terminal else None,
    )
    return await _run(gz, call, machine, process)


async def _run(gz: GZ, call: Call, machine: Machine, process: Process) -> int:
    if not process.argv[0].startswith("/"):  # execve(2) knows no PATH
        return await _exec_failure(call, process, "No such file or directory")
    await _until_begun(gz, machine)
    try:
        running = await gz.host.zones.exec(ZoneUUID(machine.uuid), process)
    except APIError as error:
        reason = "Permission denied" if "permission denied" in error.message else ""
        return await _exec_failure(call, process, reason or "No such file or directory")
    with _raw(call.fds[0], wanted=process.tty):
        return await _carry(call, running, process)


async def _until_begun(gz: GZ, machine: Machine) -> None:
    """A zone whose dockerinit still waits runs, and the real one lets anybody in; here it is its program that makes it
    one."""
    uuid = ZoneUUID(machine.uuid)
    while machine.is_docker and machine.is_up and not machine.ended.done():
        if any(zone.uuid == uuid and zone.is_running for zone in gz.host.zones.list()):
            return
        await asyncio.wait([machine.ended], timeout=_BEGUN_POLL_S)


async def _exec_failure(call: Call, process: Process, reason: str) -> int:
    await call.err(f"zlogin: exec failure: {reason}\n")
    return _ENOEXEC if process.tty else 1


async def _carry(call: Call, running: ZoneProcess, process: Process) -> int:
    """Between the program's own streams and the process's, until that ends."""
    stdio = running.stdio
    assert stdio is not None

    async def input_() -> None:
        escape = Escape()
        while data := await _read(call.fds[0]):
            if process.tty and "-E" not in call.arguments:
                data, over = escape.feed(data)
                if over:
                    break
            await stdio.write(data)
        await stdio.close_input()

    async def window() -> None:
        while await call.signals.get():
            if process.tty:
                with suppress(OSError):
                    await stdio.resize(*_window(call.fds[0]))

    async with asyncio.TaskGroup() as group:
        others = [group.create_task(input_()), group.create_task(window())]
        try:
            async for stream, data in stdio.output():
                await (call.out(data) if stream is StreamId.STDOUT else call.err(data))
            code = await running.wait()
        finally:
            await stdio.close()
            for task in others:
                task.cancel()
    return code


def _with_su(gz: GZ, machine: Machine, argv: list[str]) -> list[str]:
    """The command as a su runs it, if one is seen."""
    # The path of the first, /usr/bin/su, is cut off: it is looked for under a name that nobody has.
    if not _exists(gz, machine.root / "bin/su"):
        return argv
    if len(argv) > 1:
        argv = [f"'{word}'" if " " in word or "\t" in word else word for word in argv]
    return ["/bin/su", "root", "-c", " ".join(argv)]


def _exists(gz: GZ, path: Path) -> bool:
    """stat(2) in the global zone: absolute links begin at its own root."""
    at, names, links = gz.root, list(path.relative_to(gz.root).parts), 0
    while names:
        name = names.pop(0)
        if name == "..":
            at = at.parent if at != gz.root else at
            continue
        candidate = at / name
        if not os.path.lexists(candidate):
            return False
        if not candidate.is_symlink():
            at = candidate
            continue
        links += 1
        if links > _LINKS:
            return False
        target = candidate.readlink()
        if target.is_absolute():
            at = gz.root
        names = [part for part in target.parts if part != "/"] + names
    return True


def _home(machine: Machine) -> str:
    """Root's, by the zone's own passwd; "" without an entry."""
    content = read_in_root(machine.root, "/etc/passwd", _FILE_LIMIT) or b""
    for line in content.decode(errors="replace").splitlines():
        fields = line.split(":")
        if fields[0] == "root" and len(fields) > 5:
            return fields[5]
    return ""


def _environment(call: Call, machine: Machine, home: str, *, on_terminal: bool) -> Iterator[str]:
    """zlogin's own; what the Linux host would add of the zone's is taken away."""
    known = native.environment_of(machine)
    yield from {entry.partition("=")[0] for entry in known} | {"HOSTNAME"}
    yield f"PATH={_LX_PATH if machine.brand == 'lx' else _PATH}"
    if "TERM" in call.env:
        yield f"TERM={call.env['TERM']}"
    if not on_terminal:
        yield from (f"HOME={home or '/'}", "SHELL=/bin/sh")
        if home:
            yield from ("LOGNAME=root", "MAIL=/var/mail/root")
    if machine.is_docker:
        yield native.metadata_variable(machine)


# --- descriptors of the program


async def _read(descriptor: int) -> bytes:
    """What there is, b"" at the end; cancellation leaves nothing waiting."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    try:
        loop.add_reader(descriptor, ready.set)
    except PermissionError:  # /dev/null and files are always ready
        ready.set()
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
    try:
        return os.read(descriptor, _BLOCK)
    except OSError as error:
        if error.errno == errno.EIO:  # the terminal's other side is closed
            return b""
        raise


def _window(descriptor: int) -> tuple[int, int]:
    """Height, width; OSError without a terminal."""
    size = fcntl.ioctl(descriptor, termios.TIOCGWINSZ, bytes(8))
    height, width, _, _ = struct.unpack("HHHH", size)
    return height, width


@contextmanager
def _raw(descriptor: int, *, wanted: bool) -> Iterator[None]:
    if not wanted or not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor)
    try:
        yield
    finally:
        with suppress(termios.error):
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
