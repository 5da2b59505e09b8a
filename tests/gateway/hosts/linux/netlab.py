"""Servers and clients in network namespaces, for tests with real packets."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import threading
import time
import uuid as uuids
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from gateway.hosts.linux import nft
from gateway.hosts.linux.network import LinuxNetworks
from gateway.settings import AddressPool
from gateway.zones.host import NetworkRequest
from gateway.zones.metadata import PublishedPort
from gateway.zones.spec import Nic, ZoneUUID

T = TypeVar("T")
LIBC = ctypes.CDLL(None, use_errno=True)
NEWNET = 0x40000000
POOLS = (AddressPool(base="10.201.0.0/16", size=24),)
OUTSIDE = "198.51.100.2"
"""Of the machine that has no route to the zones."""
HOST = "198.51.100.1"
"""Of the zones' machine, where that other one sees it."""


def there(path: str | Path) -> bool:
    return Path(path).exists()


def content(path: str) -> str:
    return Path(path).read_text()


def new_uuid() -> ZoneUUID:
    return ZoneUUID(str(uuids.uuid4()))


def within(path: str | int, act: Callable[[], T]) -> T:
    """Do something in another network namespace: a thread goes there and ends; its sockets stay there."""
    results: list[T] = []
    errors: list[BaseException] = []

    def go() -> None:
        fd = os.open(path, os.O_RDONLY) if isinstance(path, str) else path
        try:
            assert LIBC.setns(fd, NEWNET) == 0
            results.append(act())
        except BaseException as error:  # noqa: BLE001 - raised again by the caller
            errors.append(error)
        finally:
            if isinstance(path, str):
                os.close(fd)

    thread = threading.Thread(target=go)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


@contextlib.contextmanager
def answering(
    path: str | int, port: int, kind: socket.SocketKind = socket.SOCK_STREAM
) -> Iterator[None]:
    """A server in a namespace that tells each client from which address it came."""

    def listen() -> socket.socket:
        server = socket.socket(socket.AF_INET, kind)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("0.0.0.0", port))
        if kind == socket.SOCK_STREAM:
            server.listen(16)
        return server

    server = within(path, listen)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                if kind == socket.SOCK_DGRAM:
                    data, peer = server.recvfrom(100)
                    if data == b"stop":
                        return
                    server.sendto(peer[0].encode(), peer)
                    continue
                connection, peer = server.accept()
                with connection:
                    connection.sendall(peer[0].encode())

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        if kind == socket.SOCK_STREAM:
            server.shutdown(socket.SHUT_RDWR)
        else:
            own = server.getsockname()[1]
            within(path, lambda: _send(b"stop", own))
        thread.join()
        server.close()


def _send(data: bytes, port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(data, ("127.0.0.1", port))


def ask(
    path: str | int | None,
    address: str,
    port: int,
    kind: socket.SocketKind = socket.SOCK_STREAM,
    timeout_s: float = 2.0,
) -> str:
    """Who the server says we are.  OSError if it cannot be reached."""

    def go() -> str:
        with socket.socket(socket.AF_INET, kind) as client:
            client.settimeout(timeout_s)
            client.connect((address, port))
            if kind == socket.SOCK_DGRAM:
                client.send(b"?")
            return client.recv(100).decode()

    return go() if path is None else within(path, go)


async def zone(
    networks: LinuxNetworks, *ports: PublishedPort, endpoint: str = "web"
) -> tuple[ZoneUUID, Nic, str]:
    uuid = new_uuid()
    nic = networks.lease(uuid, NetworkRequest("bridge"))
    attachment = await networks.connect(uuid, [nic], ports, endpoint=endpoint)
    return uuid, nic, attachment.netns_path


def rules_of(name: str) -> str:
    rules = nft.Nft()
    try:
        return rules.run(f"list table inet zonegate_{name}")
    finally:
        rules.close()


def wait_until(condition: Callable[[], bool], deadline_s: float = 5.0) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "nothing changed in time"
        threading.Event().wait(0.01)
