"""Large streams with checksums: attach and exec, both directions, slow readers, many at once; and what the server grows by.

Bytes are of a generator that the container cannot know: what comes back must have the digest of what went in.
"""

from __future__ import annotations

import hashlib
import os
import select
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from compat.clients import API, Hijack
from compat.daemons import Daemon
from compat.wire import Wire

_BLOCK = 1 << 20
_LOG = {"LogConfig": {"Type": "none"}}
_ONCE = {"OpenStdin": True, "AttachStdin": True, "StdinOnce": True}
_WATCH_S = 0.2


@dataclass(frozen=True)
class Transfer:
    """One way that bytes take."""

    name: str
    seconds: float
    megabytes: float
    is_whole: bool
    grown: int
    """Bytes that the server's memory grew by while it was under way, at most."""

    def __str__(self) -> str:
        rate = self.megabytes / self.seconds
        whole = "whole" if self.is_whole else "NOT WHOLE"
        return f"{self.name}: {self.megabytes:.0f} MB in {self.seconds:.1f} s ({rate:.0f} MB/s), {whole}, memory +{self.grown / 1e6:.1f} MB"


class _Memory(threading.Thread):
    """Looks at the server's memory until it is told to stop."""

    def __init__(self, server: Daemon) -> None:
        super().__init__(daemon=True)
        self._server = server
        self._over = threading.Event()
        self._before = self.most = server.memory()

    def run(self) -> None:
        while not self._over.wait(_WATCH_S):
            self.most = max(self.most, self._server.memory())

    def stop(self) -> int:
        self._over.set()
        self.join()
        return max(self.most, self._server.memory()) - self._before


def blocks(size: int, seed: bytes) -> Iterator[bytes]:
    """`size` bytes that no compression or luck could make up."""
    stream = hashlib.shake_256(seed).digest(_BLOCK)
    for number in range(0, size, _BLOCK):
        turn = number // _BLOCK % _BLOCK
        yield (stream[turn:] + stream[:turn])[: min(_BLOCK, size - number)]


def digest(pieces: Iterable[bytes | memoryview]) -> str:
    """SHA-256."""
    total = hashlib.sha256()
    for piece in pieces:
        total.update(piece)
    return total.hexdigest()


def payloads(attached: Hijack, *, pause_s: float = 0) -> Iterator[memoryview]:
    """What comes in frames, a part at a time; `pause_s` between two reads is a slow reader."""
    frames = Unframed()
    yield from frames.feed(attached.taken())
    while block := attached.socket.recv(_BLOCK):
        yield from frames.feed(block)
        if pause_s:
            time.sleep(pause_s)


class Transfers:
    """Against one server, whose image `image` has sh, cat and sha256sum."""

    def __init__(self, server: Daemon) -> None:
        self._server = server
        self._api = API(server.socket)
        self._wire = Wire(self._api)

    def _measured(self, name: str, size: int, run: Callable[[], bool]) -> Transfer:
        memory = _Memory(self._server)
        memory.start()
        begun = time.monotonic()
        try:
            is_whole = run()
        finally:
            grown = memory.stop()
            for row in self._api.ok("GET", "/containers/json?all=1"):
                self._api("DELETE", f"/containers/{row['Id']}?force=1&v=1")
        return Transfer(name, time.monotonic() - begun, size / 1e6, is_whole, grown)

    def _both_ways(self, attached: Hijack, size: int, *, pause_s: float = 0) -> bool:
        """Through a `cat`: in by a thread, out here, the end of input in between."""
        seed = os.urandom(16)

        def feed() -> None:
            for block in blocks(size, seed):
                attached.send(block)
            attached.close_input()

        feeding = threading.Thread(target=feed, daemon=True)
        feeding.start()
        received = digest(payloads(attached, pause_s=pause_s))
        feeding.join(60)
        return received == digest(blocks(size, seed))

    def attach(self, size: int, *, pause_s: float = 0) -> Transfer:
        """In and out of a container's first process."""

        def run() -> bool:
            ident = self._wire.create(["cat"], **_ONCE, HostConfig=_LOG)
            with self._wire.attach(ident, "stream=1&stdin=1&stdout=1") as attached:
                self._wire.start(ident)
                return self._both_ways(attached, size, pause_s=pause_s)

        slow = " by a slow reader" if pause_s else ""
        return self._measured(f"attach, in and out{slow}", size, run)

    def exec(self, size: int) -> Transfer:
        """In and out of an exec."""

        def run() -> bool:
            made = self._wire.exec_create(self._wire.running(), ["cat"], AttachStdin=True)
            with self._wire.exec_start(made) as attached:
                return self._both_ways(attached, size)

        return self._measured("exec, in and out", size, run)

    def stdin(self, size: int) -> Transfer:
        """Into a container that tells the digest."""

        def run() -> bool:
            seed = os.urandom(16)
            ident = self._wire.create(["sha256sum"], **_ONCE)
            with self._wire.attach(ident, "stream=1&stdin=1&stdout=1") as attached:
                self._wire.start(ident)
                for block in blocks(size, seed):
                    attached.send(block)
                attached.close_input()
                told = b"".join(payloads(attached))
            return told.decode().split()[0] == digest(blocks(size, seed))

        return self._measured("attach, stdin", size, run)

    def stdout(self, size: int) -> Transfer:
        """Out of a container, logged as text."""

        def run() -> bool:
            text = (b"0123456789" * 9 + b"\n") * 1000
            command = f"yes {text[:90].decode()} | head -c {size // len(text) * len(text)}"
            ident = self._wire.create(command)
            with self._wire.attach(ident, "stream=1&stdout=1") as attached:
                self._wire.start(ident)
                received = digest(payloads(attached))
            return received == digest(text for _ in range(size // len(text)))

        return self._measured("attach, stdout, logged", size, run)

    def many(self, size: int, count: int) -> Transfer:
        """`count` clients of one container at once, each a thread of its own."""

        def run() -> bool:
            seed = os.urandom(16)
            ident = self._wire.create(["cat"], **_ONCE, HostConfig=_LOG)
            with ExitStack() as stack:
                feeding = stack.enter_context(self._wire.attach(ident, "stream=1&stdin=1"))
                clients = [
                    stack.enter_context(self._wire.attach(ident, "stream=1&stdout=1"))
                    for _ in range(count)
                ]
                self._wire.start(ident)
                readers = _Readers(clients)
                readers.start()
                for block in blocks(size, seed):
                    feeding.send(block)
                feeding.close_input()
                readers.join(600)
            return readers.digests == [digest(blocks(size, seed))] * count

        return self._measured(f"attach, {count} at once", size * count, run)


class _Readers(threading.Thread):
    """Reads many connections to their ends: one thread, so that it is the server that is measured."""

    def __init__(self, clients: list[Hijack]) -> None:
        super().__init__(daemon=True)
        self._clients = {client.socket.fileno(): client for client in clients}
        self.digests: list[str] = []

    def run(self) -> None:
        poll = select.poll()
        totals = {descriptor: hashlib.sha256() for descriptor in self._clients}
        frames = {descriptor: Unframed() for descriptor in self._clients}
        data = {descriptor: client.taken() for descriptor, client in self._clients.items()}
        for descriptor in totals:
            poll.register(descriptor, select.POLLIN)
        while data:
            for descriptor, block in data.items():
                for piece in frames[descriptor].feed(block):
                    totals[descriptor].update(piece)
            data = {}
            while len(self._clients) and not data:
                for descriptor, _ in poll.poll():
                    if block := self._clients[descriptor].socket.recv(_BLOCK):
                        data[descriptor] = block
                    else:
                        poll.unregister(descriptor)
                        del self._clients[descriptor]
        self.digests = [total.hexdigest() for total in totals.values()]


class Unframed:
    """Payloads of frames that are cut anywhere."""

    def __init__(self) -> None:
        self._head = b""
        self._left = 0

    def feed(self, data: bytes) -> Iterator[memoryview]:
        """What of these bytes is payload."""
        view = memoryview(data)
        while view:
            if self._left:
                taken, view = view[: self._left], view[self._left :]
                self._left -= len(taken)
                yield taken
                continue
            missing = 8 - len(self._head)
            self._head += bytes(view[:missing])
            view = view[missing:]
            if len(self._head) == 8:
                self._left, self._head = int.from_bytes(self._head[4:], "big"), b""
