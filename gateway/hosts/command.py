"""The only place that starts a process.

A `Spawner` starts programs by posix_spawn from one thread of its own, a `Child` is waited for through
its pidfd: no thread per child, no signal handler, no fork of the server's memory.  Where there are no
pidfds (illumos) a thread waits for each child, without reaping it: that is the loop's, so that a signal
cannot hit a process that came to have the same pid.

The thread may have left the process's mount namespace (`enter`): children then see that namespace,
while the server itself keeps the machine's.  Measured: 1.0-1.2 ms a spawn, as fast as without.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dockerapi.errors import CommandFailed
from dockerapi.framing import StreamId
from gateway.hosts.inlet import Inlet, Outlet, pipe

_STDERR_LIMIT = 65536

starting = threading.Lock()
"""Held while a process is being started: who has it knows that `started` is complete."""
started: set[int] = set()
"""Processes that a `Child` waits for, from before they can be seen until they are reaped."""


class Child:
    """A process that we started and must wait for."""

    def __init__(self, pid: int, argv: Sequence[str]) -> None:
        self.pid = pid
        self.argv = tuple(argv)
        self._loop = asyncio.get_running_loop()
        self._status: asyncio.Future[int] = self._loop.create_future()
        self._pidfd = -1
        self._reaped = False
        if hasattr(os, "pidfd_open"):
            try:
                self._pidfd = os.pidfd_open(pid)
            except OSError:  # no descriptor is free: nobody could wait for it
                os.kill(pid, signal.SIGKILL)
                started.discard(pid)
                os.waitpid(pid, 0)
                raise
            self._loop.add_reader(self._pidfd, self._reap)
        else:
            # A daemon: a child that outlives the server must not hold it up.
            threading.Thread(target=self._watch, name=f"child-{pid}", daemon=True).start()

    def _watch(self) -> None:
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        with contextlib.suppress(RuntimeError):  # the loop was closed before the child ended
            self._loop.call_soon_threadsafe(self._reap)

    def _reap(self) -> None:
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
        started.discard(self.pid)  # before its number may be another's
        _, status = os.waitpid(self.pid, 0)
        self._reaped = True
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        if not self._status.done():
            self._status.set_result(os.waitstatus_to_exitcode(status))

    @property
    def ended(self) -> bool:
        """Whether it has been reaped."""
        return self._status.done()

    async def wait(self) -> int:
        """Its exit code, or the negative number of the signal that ended it.  For any number of callers."""
        return await asyncio.shield(self._status)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Signal it; nothing happens once it has ended (its pid is its own until it is reaped)."""
        if self._reaped:
            return
        with contextlib.suppress(ProcessLookupError):
            if self._pidfd >= 0:
                signal.pidfd_send_signal(self._pidfd, number)
            else:
                os.kill(self.pid, number)


class Spawner:
    """Starts programs from one long-lived thread.

    `enter` runs in that thread before the first spawn, to unshare what children should not share, and
    whenever `renew` is called.  Nothing else of the program may run there.
    """

    def __init__(self, enter: Callable[[], None] | None = None) -> None:
        self._enter = enter or (lambda: None)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spawner", initializer=self._enter)
        # A cwd of the child's is set by chdir in the thread: harmless only if the thread has a
        # filesystem context of its own, which unsharing the mount namespace brings along.
        self._own_cwd = enter is not None

    async def spawn(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        fds: Mapping[int, int] | None = None,
        cwd: str | Path | None = None,
    ) -> Child:
        """Start `argv[0]` (an absolute path).

        `fds`: number in the child -> our descriptor; 0, 1, 2 that are not named are /dev/null; nothing else
        is inherited.  `env` None = ours.  FileNotFoundError and the like come from posix_spawn.
        """
        if cwd is not None and not self._own_cwd:
            raise ValueError("a working directory needs a spawner with a namespace of its own")
        environment = dict(os.environ if env is None else env)
        given = {0: -1, 1: -1, 2: -1} | dict(fds or {})
        started = asyncio.get_running_loop().run_in_executor(
            self._thread, _posix_spawn, list(argv), environment, given, cwd
        )
        try:
            pid = await asyncio.shield(started)
        except asyncio.CancelledError:
            # Until the thread is done the caller may not close its descriptors; and nobody will wait for
            # the child.
            await asyncio.wait([started])
            if started.exception() is None:
                Child(started.result(), argv).kill()
            raise
        return Child(pid, argv)

    async def renew(self) -> None:
        """Run `enter` again: children started from now on see the machine as it is now."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._enter)

    def close(self) -> None:
        """End the thread; children run on."""
        self._thread.shutdown(wait=False)


def _posix_spawn(
    argv: list[str], environment: dict[str, str], fds: dict[int, int], cwd: str | Path | None
) -> int:
    # First lift every descriptor above the numbers asked for, so that no dup2 overwrites the source of
    # a later one; posix_spawn's dup2 also clears close-on-exec.
    floor = max(fds) + 1
    lifted: list[int] = []
    actions: list[tuple[int, int, int] | tuple[int, int, str, int, int]] = []
    try:
        for number, descriptor in fds.items():
            if descriptor < 0:
                actions.append((os.POSIX_SPAWN_OPEN, number, "/dev/null", os.O_RDWR, 0))
                continue
            copy = _dup_above(descriptor, floor)
            lifted.append(copy)
            actions.append((os.POSIX_SPAWN_DUP2, copy, number))
        if cwd is not None:
            os.chdir(cwd)
        with starting:
            pid = os.posix_spawn(
                argv[0],
                argv,
                environment,
                file_actions=actions,
                setsigmask=(),
                setsigdef=(signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGXFSZ),
            )
            started.add(pid)
        return pid
    finally:
        for copy in lifted:
            os.close(copy)


def _dup_above(descriptor: int, floor: int) -> int:
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, floor)


_default: list[Spawner] = []


def default_spawner() -> Spawner:
    """One for programs that need no namespace of their own."""
    if not _default:
        _default.append(Spawner())
    return _default[0]


async def run(
    argv: Sequence[str],
    *,
    timeout_s: float,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    spawner: Spawner | None = None,
) -> bytes:
    """Standard output of a program that must succeed.

    CommandFailed if it does not or takes longer than `timeout_s`; it is killed and reaped before
    this returns, also when the caller is cancelled.
    """
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    in_read, in_write = os.pipe()
    program = Path(argv[0]).name
    try:
        child = await (spawner or default_spawner()).spawn(
            argv, env=env, fds={0: in_read, 1: out_write, 2: err_write}
        )
    except OSError as error:
        for descriptor in (out_read, err_read, in_write):
            os.close(descriptor)
        raise CommandFailed(program, 127, f"{argv[0]}: {error.strerror}") from error
    finally:
        for descriptor in (in_read, out_write, err_write):
            os.close(descriptor)
    try:
        async with asyncio.timeout(timeout_s), asyncio.TaskGroup() as group:
            output = group.create_task(_read_all(out_read, None))
            errors = group.create_task(_read_all(err_read, _STDERR_LIMIT))
            group.create_task(_write_all(in_write, stdin))
            status = await child.wait()
    except TimeoutError as error:
        raise CommandFailed(program, -1, f"no end within {timeout_s:g} s") from error
    finally:
        if not child.ended:
            child.kill()
            await child.wait()
    if status != 0:
        raise CommandFailed(program, status, errors.result().decode(errors="replace"))
    return output.result()


# Not by the loop's pipe transports: uvloop closes a pipe's number twice, and in between a thread may have come to
# own it.  Seen as "Bad file descriptor" of whatever was opened at that moment.


async def _read_all(descriptor: int, limit: int | None) -> bytes:
    inlet = Inlet({descriptor: pipe(descriptor, StreamId.STDOUT)}, os.close)
    kept = bytearray()
    try:
        while chunks := await inlet.next():
            for _, data in chunks:
                if limit is None or len(kept) < limit:
                    kept += data
    finally:
        inlet.close()
    return bytes(kept)


async def _write_all(descriptor: int, data: bytes) -> None:
    os.set_blocking(descriptor, False)
    outlet = Outlet(descriptor)
    try:
        # What the program does not want is dropped; its exit status tells whether that was right.
        await outlet.write(data)
    finally:
        outlet.close()
        os.close(descriptor)
