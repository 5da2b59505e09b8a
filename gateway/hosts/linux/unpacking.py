"""A layer's tar written into a folder by a process of its own (untar.py), fed from a thread; what that found."""

from __future__ import annotations

import fcntl
import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from dockerapi.errors import APIError, InvalidParameter
from gateway.hosts import untar
from gateway.hosts.command import Child, Spawner
from gateway.hosts.finishing import finish
from imgsources.datasets import Readable

_BLOCK = 1 << 20

T = TypeVar("T")


@dataclass(slots=True)
class Report:
    """What the writer said of one layer."""

    size: int = 0
    opaque: bool = False
    implied: list[bytes] = field(default_factory=list)


class LayerWriter:
    """The folder of a dataset that is being made; `mode` as untar.py has them.  A LayerTree."""

    def __init__(
        self, folder: Path, mode: str, spawner: Spawner, feeders: ThreadPoolExecutor
    ) -> None:
        self._folder = folder
        self._mode = mode
        self._spawner = spawner
        self._feeders = feeders
        self.report = Report()

    async def apply(self, tar: Readable) -> None:
        """Write one uncompressed layer tar by a process of its own."""
        tar_read, tar_write = os.pipe2(os.O_CLOEXEC)
        with suppress(OSError):  # more than the default needs no privilege up to pipe-max-size
            fcntl.fcntl(tar_write, fcntl.F_SETPIPE_SZ, _BLOCK)
        answer = os.memfd_create("untar")
        try:
            child = await self._start(tar_read, tar_write, answer)
            await self._feed(child, tar, tar_write)
            status = await child.wait()
            text = os.pread(answer, _BLOCK * 64, 0)
        finally:
            os.close(answer)
        if status == 1:
            raise InvalidParameter(f"failed to register layer: {_last_line(text)}")
        if status != 0:
            raise APIError(f"failed to register layer: {_last_line(text) or f'status {status}'}")
        self._add(text)

    async def _start(self, tar_read: int, tar_write: int, answer: int) -> Child:
        argv = untar.command(str(self._folder), self._mode)
        try:
            return await self._spawner.spawn(argv, fds={0: tar_read, 1: answer, 2: answer})
        except BaseException:
            os.close(tar_write)
            raise
        finally:
            os.close(tar_read)

    async def _feed(self, child: Child, tar: Readable, tar_write: int) -> None:
        """Pump the tar into the writer from a thread; however this ends, the thread has ended too."""
        try:
            await finish(self._feeders, lambda: _pump(tar, tar_write), on_cancel=child.kill)
        except BaseException:
            child.kill()
            await child.wait()
            raise

    def _add(self, text: bytes) -> None:
        report = json.loads(text)
        self.report.size += report["bytes"]
        self.report.opaque |= report["opaque"]
        self.report.implied += [bytes.fromhex(path) for path in report["implied"]]


def _pump(tar: Readable, pipe: int) -> None:
    try:
        while block := tar.read(_BLOCK):
            view = memoryview(block)
            while view:
                view = view[os.write(pipe, view) :]
    except BrokenPipeError:
        return  # the writer refused the layer, or was killed; its status tells
    finally:
        os.close(pipe)


def _last_line(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
