"""The process behind the fake programs: python -m tests.fakes.globalzone FOLDER [key=value ...]

Says READY on standard output once the programs can be called; ends, with all its zones, at SIGTERM or when its
standard input ends (the test that started it is gone).
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import importlib
import json
import logging
import os
import signal
import socket
import sys
import traceback
from pathlib import Path

from tests.fakes.globalzone import faults
from tests.fakes.globalzone.call import Call, Failed
from tests.fakes.globalzone.gz import GZ

log = logging.getLogger("fake-gz")


async def _serve(gz: GZ, connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with connection:
        call = await asyncio.to_thread(_receive, connection)
        if call is None:
            return
        connection.setblocking(False)
        run = loop.create_task(_run(gz, call))

        def heard() -> None:
            try:
                data = connection.recv(64)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            for number in data:
                call.signals.put_nowait(number)
            if not data:  # the program was killed
                loop.remove_reader(connection)
                run.cancel()

        loop.add_reader(connection, heard)
        try:
            await asyncio.wait([run])
        finally:
            loop.remove_reader(connection)
            run.cancel()
            for descriptor in call.fds:
                os.close(descriptor)
        if not run.cancelled():
            with contextlib.suppress(OSError):
                connection.send(str(run.result()).encode())


def _receive(connection: socket.socket) -> Call | None:
    # Without CLOEXEC, which recv_fds does not hand on, a zone's conmon would inherit them, and whoever reads
    # the program's output would wait for the end of the zone.
    fds = array.array("i")
    room = socket.CMSG_LEN(3 * fds.itemsize)
    header, messages, _, _ = connection.recvmsg(4, room, socket.MSG_CMSG_CLOEXEC)
    for _, kind, data in messages:
        if kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    if len(header) < 4 or len(fds) < 3:
        return None
    size, data = int.from_bytes(header, "big"), b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:  # the program was killed
            for descriptor in fds:
                os.close(descriptor)
            return None
        data += piece
    request = json.loads(data)
    return Call(request["argv"], request["env"], request["cwd"], (fds[0], fds[1], fds[2]))


async def _served(gz: GZ, connection: socket.socket) -> None:
    """A program that is killed while it asks must not take the zone with it."""
    try:
        await _serve(gz, connection)
    except Exception:
        log.exception("a call was not served to its end")


async def _run(gz: GZ, call: Call) -> int:
    log.debug("%s", " ".join(call.argv))
    try:
        return await _program(gz, call)
    except Failed as error:
        with contextlib.suppress(OSError):
            await call.err(f"{error}\n" if str(error) else "")
        return error.code
    except BrokenPipeError:
        return -signal.SIGPIPE
    except Exception as error:  # noqa: BLE001 - a fault of the fake itself must not look like one of the program's
        if isinstance(error, ExceptionGroup) and error.split(BrokenPipeError)[1] is None:
            return -signal.SIGPIPE
        traceback.print_exc()
        with contextlib.suppress(OSError):
            await call.err(f"fake global zone: {traceback.format_exc()}")
        return 99


async def _program(gz: GZ, call: Call) -> int:
    fault = faults.strike(gz.root, call.argv)
    if fault is not None and fault.midway:
        call.midway = fault.act
    elif fault is not None and not fault.after:
        await fault.act()
    name = call.argv[0].replace("-", "_")
    program = importlib.import_module(f"tests.fakes.globalzone.programs.{name}")
    code: int = await program.main(gz, call)
    if fault is not None and fault.after:
        await fault.act()
    return code


async def _main(folder: Path, options: dict[str, str]) -> None:
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, over.set)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    path = folder / "gz.sock"
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(str(path))
    listening.listen(128)
    listening.setblocking(False)
    async with asyncio.TaskGroup() as group:
        gz = GZ(folder, group, options)
        await gz.open()

        async def accept() -> None:
            while True:
                connection, _ = await loop.sock_accept(listening)
                connection.setblocking(True)
                group.create_task(_served(gz, connection))

        tasks = [group.create_task(accept())]
        if "sweep" in options:
            over.set()
        sys.stdout.write("READY\n")
        sys.stdout.flush()
        ended = loop.create_task(reader.read())
        stopped = loop.create_task(over.wait())
        await asyncio.wait([ended, stopped], return_when=asyncio.FIRST_COMPLETED)
        for task in (*tasks, ended, stopped):
            task.cancel()
        listening.close()
        path.unlink(missing_ok=True)
        await gz.close()
        # Calls that still wait are cut off with the process, as a machine that goes down does.
        os._exit(0)


if __name__ == "__main__":
    logging.basicConfig(level=os.environ.get("ZONEGATE_FAKE_LOG", "WARNING"))
    asyncio.run(_main(Path(sys.argv[1]), dict(a.partition("=")[::2] for a in sys.argv[2:])))
