"""conmon and the OCI runtime: what they are told, what they answer, where they leave their files.

conmon holds a zone's streams, log and exit code, so that the gateway can be killed without any zone noticing.

    Bundle      one folder per running zone: config.json pid conmon.pid attach ctl persist/
    create      conmon -> runtime create; the process waits at exec.fifo until `start`
    exits/ID    the exit code as text, written by conmon when everything was logged and delivered

What the runtime refuses is worded as dockerd words it in `start_failure`, since clients look for these texts.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dockerapi.errors import CommandFailed, StartFailure
from gateway.hosts.command import Spawner, run
from gateway.hosts.linux.reaper import reap_when_ended
from gateway.hosts.linux.sealed import SealedProgram

CREATE_TIMEOUT_S = 60.0
OOM = "oom"
"""conmon's file: the kernel killed something of the zone for memory.  Empty, and opened anew each time."""
_START_TIMEOUT_S = 20.0
_CONNECT_TIMEOUT_S = 5.0
_BACKLOG_WAIT_S = 0.001


@dataclass(frozen=True, slots=True)
class Runtime:
    """An OCI runtime with its state folder, and conmon.

    `by_fifo`: starting by the fifo was seen to work.  `sealed`: `program` in a form that starts quicker.
    """

    conmon: str
    program: str
    state: Path
    exits: Path
    by_fifo: bool = False
    env: Mapping[str, str] | None = None
    sealed: SealedProgram | None = None

    @property
    def name(self) -> str:
        """crun or runc."""
        return Path(self.program).name

    @property
    def command(self) -> str:
        """What is executed."""
        return self.sealed.path() if self.sealed else self.program

    def close(self) -> None:
        """No command after this."""
        if self.sealed:
            self.sealed.close()

    def argv(self, *arguments: str) -> list[str]:
        """A command of the runtime's."""
        return [self.command, "--root", str(self.state), *arguments]


@dataclass(frozen=True, slots=True)
class Bundle:
    """The folder of one running zone."""

    path: Path

    @property
    def config(self) -> Path:
        """What the runtime reads."""
        return self.path / "config.json"

    @property
    def oomed(self) -> bool:
        """Whether conmon saw the kernel kill something of this zone for memory."""
        return (self.persist / OOM).exists()

    @property
    def persist(self) -> Path:
        """Where conmon leaves what is to be known of a run."""
        return self.path / "persist"

    def pid(self) -> int:
        """Of the zone's first process; 0 before it is made."""
        return _read_int(self.path / "pid")

    def conmon_pid(self) -> int:
        """0 before conmon has detached."""
        return _read_int(self.path / "conmon.pid")

    def is_of(self, pid: int) -> bool:
        """Whether a process is this bundle's conmon, or a child of it: a number alone may be reused."""
        for number in (pid, _parent(pid)):
            with suppress(OSError):
                if str(self.path).encode() in Path(f"/proc/{number}/cmdline").read_bytes().split(
                    b"\0"
                ):
                    return True
        return False

    def connect(self, prepare: Callable[[socket.socket], None] | None = None) -> socket.socket:
        """A new attach client; OSError when conmon has gone.  `prepare`: what the socket needs before."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        if prepare is not None:
            prepare(sock)
        folder = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # Through the descriptor: a socket's path may have 107 bytes, a data folder's more.
            sock.connect(f"/proc/self/fd/{folder}/attach")
        except OSError:
            sock.close()
            raise
        finally:
            os.close(folder)
        return sock

    def resize(self, height: int, width: int) -> None:
        """Tell conmon the terminal's size.  One whose process has just ended has none."""
        try:
            self._control(f"1 {height} {width}\n")
        except OSError as error:
            if error.errno not in (errno.ENXIO, errno.ENOENT):
                raise

    def reopen_log(self) -> None:
        """Have conmon open its log file anew, after a rename."""
        self._control("2 0 0\n")

    def _control(self, line: str) -> None:
        # O_NONBLOCK: ENXIO when conmon has gone, instead of waiting for a reader for ever.
        descriptor = os.open(self.path / "ctl", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)


async def client(
    bundle: Bundle, prepare: Callable[[socket.socket], None] | None = None
) -> socket.socket:
    """`Bundle.connect`, in its turn: conmon's backlog has room for ten.  OSError when conmon has gone."""
    async with asyncio.timeout(_CONNECT_TIMEOUT_S):
        while True:
            try:
                return bundle.connect(prepare)
            except BlockingIOError:
                await asyncio.sleep(_BACKLOG_WAIT_S)


def _parent(pid: int) -> int:
    with suppress(OSError, ValueError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def _read_int(path: Path) -> int:
    try:
        return int(path.read_text() or 0)
    except (FileNotFoundError, ValueError):
        return 0


@dataclass(frozen=True, slots=True)
class Streams:
    """How conmon holds the streams; `terminal` must be config.json's, or conmon hangs for ever.

    `log` None = not kept.  `stdin_once`: the leaving of a client ends stdin.
    """

    terminal: bool
    open_stdin: bool
    stdin_once: bool
    log: Path | None
    program: str = ""
    """argv[0], for error texts."""


def create_argv(runtime: Runtime, bundle: Bundle, name: str, streams: Streams) -> list[str]:
    """conmon's command line for a new zone."""
    path = str(bundle.path)
    log = f"k8s-file:{streams.log}" if streams.log else "none"
    argv = [runtime.conmon, "--api-version", "1", "-c", name, "-u", name, "-n", name]
    argv += ["-r", runtime.command, "-b", path, "-p", f"{path}/pid", "-P", f"{path}/conmon.pid"]
    argv += ["--exit-dir", str(runtime.exits), "--persist-dir", f"{path}/persist"]
    argv += ["--full-attach", "-l", log, "--no-sync-log", "--log-level", "error"]
    argv += ["--runtime-arg", "--root", "--runtime-arg", str(runtime.state)]
    if streams.terminal:
        argv.append("-t")
    if streams.open_stdin:
        argv.append("-i")
        if not streams.stdin_once:
            argv.append("--leave-stdin-open")
    return argv


async def create(
    spawner: Spawner, runtime: Runtime, bundle: Bundle, name: str, streams: Streams
) -> int:
    """The pid of a process that waits to be started.  StartFailure in dockerd's words.

    After a failure nothing of conmon or the runtime runs on; `discard_state` is the caller's.
    """
    read, write = os.pipe2(os.O_CLOEXEC)
    complaints = os.open(bundle.path / "stderr", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        env = {**(runtime.env or _environment()), "_OCI_SYNCPIPE": "3"}
        argv = create_argv(runtime, bundle, name, streams)
        try:
            child = await spawner.spawn(
                argv, env=env, fds={2: complaints, 3: write}, cwd=bundle.path
            )
        finally:
            os.close(write)
        try:
            async with asyncio.timeout(CREATE_TIMEOUT_S):
                answer = await _answer(read)
                await child.wait()
        except TimeoutError as error:
            raise start_failure(
                "", f"no answer within {CREATE_TIMEOUT_S:g} s", streams.program
            ) from error
        finally:
            if not child.ended:
                child.kill()
                await child.wait()
        return _created(answer, _text(complaints), streams)
    except BaseException:
        _end_conmon(bundle)
        raise
    finally:
        os.close(read)
        os.close(complaints)


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH") or "/usr/sbin:/usr/bin:/sbin:/bin"}


@dataclass(frozen=True, slots=True)
class _Answer:
    pid: int
    message: str


async def _answer(descriptor: int) -> _Answer:
    """conmon's one line on the sync pipe, or what stands for it when there is none."""
    os.set_blocking(descriptor, False)
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    text = b""
    try:
        while not text.endswith(b"\n"):
            await ready.wait()
            ready.clear()
            try:
                data = os.read(descriptor, 65536)
            except BlockingIOError:
                continue
            if not data:
                break
            text += data
    finally:
        loop.remove_reader(descriptor)
    try:
        body = json.loads(text)
    except ValueError:
        return _Answer(-1, "")
    # Newer conmons say "pid" where API version 1 says "data".
    return _Answer(int(body.get("data", body.get("pid", -1))), str(body.get("message", "")))


def _created(answer: _Answer, complaints: str, streams: Streams) -> int:
    if answer.pid <= 0:
        raise start_failure(answer.message, complaints, streams.program)
    return answer.pid


def _text(descriptor: int) -> str:
    return os.pread(descriptor, 65536, 0).decode(errors="replace").strip()


def _end_conmon(bundle: Bundle) -> None:
    for pid in (bundle.pid(), bundle.conmon_pid()):
        if pid > 0:
            with suppress(ProcessLookupError):
                os.kill(pid, 9)
            reap_when_ended(pid)


async def start(spawner: Spawner, runtime: Runtime, name: str) -> None:
    """Let a created process go; StartFailure if it cannot."""
    if runtime.by_fifo and open_fifo(runtime, name):
        return
    try:
        await run(runtime.argv("start", name), timeout_s=_START_TIMEOUT_S, spawner=spawner)
    except CommandFailed as error:
        raise start_failure(error.stderr, error.message) from error


def open_fifo(runtime: Runtime, name: str) -> bool:
    """What `crun start` does, without its 5.6 ms; False if the process does not wait there (yet)."""
    path = runtime.state / name / "exec.fifo"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENOENT):
            return False
        raise
    try:
        os.write(descriptor, b"\0")
    finally:
        os.close(descriptor)
    path.unlink(missing_ok=True)
    return True


_PREFIX = (
    "failed to create task for container: failed to create shim task: OCI runtime create failed: "
    "runc create failed: unable to start container process: error during container init: "
)
EXEC_PREFIX = "OCI runtime exec failed: exec failed: unable to start container process: "


def start_failure(message: str, complaints: str, program: str = "") -> StartFailure:
    """The error of a first process that could not be started, from what conmon and the runtime said."""
    reason, code = reworded(message or complaints, program)
    return StartFailure(_PREFIX + reason, code, detail=f"{message}\n{complaints}")


_NOT_IN_PATH = re.compile(r"executable file [`'\"](.*?)[`'\"] not found in \$PATH")
_CHDIR = re.compile(r"chdir [`'\"](.*?)[`'\"]: ([\w ]+)$")
# How runc writes its log.
_LOGRUS = re.compile(r'^time="[^"]*" level=\w+ msg="(.*)"$')
# conmon's log prefix, and the times that runtimes put before their words.
_LINE = re.compile(r"^(?:\[conmon:\w+\]: )?(?:\d{4}-\d\d-\d\dT\S+Z:? )?(.*)$")


def reworded(text: str, program: str) -> tuple[str, int]:
    """crun's complaint in runc's words, and the exit code that dockerd makes of it.

    `program` is argv[0], which crun does not always name.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = _LINE.sub(r"\1", lines[-1]) if lines else "the runtime ended without a word"
    if match := _LOGRUS.match(last):
        last = match[1].replace('\\"', '"')
    last = last.rpartition("error during container init: ")[2]
    last = last.rpartition("unable to start container process: ")[2]
    if match := _NOT_IN_PATH.search(last):
        last = f'exec: "{match[1]}": executable file not found in $PATH'
        if "/" in match[1]:
            last = f'exec: "{match[1]}": stat {match[1]}: no such file or directory'
    elif not program and last.startswith("open executable: "):
        last = 'exec: "": executable file not found in $PATH'
    elif last == "open executable: Permission denied":
        last = f'exec: "{program}": permission denied'
    elif last == "open executable: Operation not permitted":
        # What the kernel says to the execution of a folder.
        last = f'exec: "{program}": is a directory: permission denied'
    elif match := _CHDIR.search(last):
        last = f'chdir to cwd ("{match[1]}") set in config.json failed: {match[2].lower()}'
    return last, _code(last)


def _code(text: str) -> int:
    """dockerd's exit code for a failed start: by words, as the CLI's."""
    lowered = text.lower()
    if "executable file not found" in lowered or "no such file or directory" in lowered:
        return 127
    if any(
        words in lowered for words in ("permission denied", "is a directory", "not a directory")
    ):
        return 126
    return 128
