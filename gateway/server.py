"""Puts the parts together: host, images, engine, API; listeners, signals, shutdown.

    settings -> open_host -> Host --+
                catalog, puller ----+--> Gateway (engine) --> APIServer (dockerapi) --> sockets

The server owns the root TaskGroup; the host's and the engine's loops are its children.  Containers
outlive it: a shutdown ends streams and waits, never zones.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import gc
import logging
import os
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import aiohttp

from dockerapi.app import APIServer
from dockerapi.errors import APIError, InvalidParameter
from dockerapi.models.system import AuthConfig
from gateway.engine import Gateway
from gateway.listeners import is_tcp, open_listeners
from gateway.reloading import InForce, reloading
from gateway.settings import Settings
from gateway.tls import TLSServer, listen, server_context
from gateway.zones.host import Host
from imgsources.catalog import Catalog
from imgsources.imgapi import ImageServers
from imgsources.puller import Puller
from imgsources.registry import RegistryClient
from imgsources.retries import Retries
from imgsources.transport import Answers, Credentials

log = logging.getLogger(__name__)

SERVER_VERSION = "28.5.2"
"""The dockerd whose behaviour we show: clients parse it out of `Server:` and /version."""

CERTIFICATES = Path("/etc/docker/certs.d")
"""CAs and client certificates of registries, laid out as dockerd has them."""


_NAMES = Path("/run/zonegate-names")
"""Locks of the names that instances have, one for each network namespace that has such an instance."""
_TRIM_EVERY_S = 5.0
_TRIM_SHARE = 100
"""Of the time at most one in so many goes to it."""


async def serve(settings: Settings, reread: Callable[[], Settings] | None = None) -> None:
    """Serve until SIGTERM or SIGINT; on SIGHUP take what `reread` gives.

    APIError with the reason where it cannot start; nothing is left then.
    """
    ready = asyncio.Event()
    try:
        with _stop_signal() as stopped:
            await _serve(settings, reread or (lambda: settings), ready, stopped)
    except (OSError, ExceptionGroup) as error:
        reason = "" if ready.is_set() else _reason(error)
        if not reason:
            raise
        log.debug("cannot start", exc_info=error)
        raise APIError(reason) from error


async def _serve(
    settings: Settings,
    reread: Callable[[], Settings],
    ready: asyncio.Event,
    stopped: asyncio.Event,
) -> None:
    context = server_context(settings)
    systemd = _taken_from_environment("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
    with _owned(_roots(settings)), _alone_with_its_name(settings), _pidfile(settings.pidfile):
        listeners = open_listeners(
            settings.hosts,
            group=settings.group,
            with_tls=context is not None,
            environment=systemd,
        )
        try:
            async with _opened(settings, reread) as api:
                servers = [await _listen(api, listener, context) for listener in listeners]
                for host in settings.hosts:
                    log.info("API listen on %s", host)
                ready.set()
                _notify(systemd, "READY=1")
                await stopped.wait()
                log.info("stopping: containers run on")
                _notify(systemd, "STOPPING=1")
                for server in servers:
                    server.close()
                await api.shutdown(settings.shutdown_timeout)
        finally:
            _remove_sockets(settings, listeners)


def _reason(error: Exception) -> str:
    """What keeps the server from starting, on one line; "" for a fault of ours."""
    match error:
        case APIError():
            return error.message
        case OSError():
            where = f": {error.filename}" if error.filename else ""
            return f"cannot start: {error.strerror or error}{where}"
        case ExceptionGroup():
            reasons = [_reason(inner) for inner in error.exceptions]
            return "; ".join(reasons) if all(reasons) else ""
    return ""


async def _listen(
    api: APIServer, listener: socket.socket, context: ssl.SSLContext | None
) -> asyncio.Server | TLSServer:
    loop = asyncio.get_running_loop()
    if not is_tcp(listener):
        return await loop.create_unix_server(api, sock=listener)
    if context is None:
        return await loop.create_server(api, sock=listener)
    return await listen(api, listener, context)


@contextlib.asynccontextmanager
async def _opened(settings: Settings, reread: Callable[[], Settings]) -> AsyncIterator[APIServer]:
    """Everything but the sockets; the background loops run while the block does."""
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(
            aiohttp.ClientSession(
                auto_decompress=False, trust_env=True, cookie_jar=aiohttp.DummyCookieJar()
            )
        )
        group = await stack.enter_async_context(_cancelled_at_end())
        host = await _open_host(settings, group)
        stack.push_async_callback(host.close)
        catalog = await asyncio.to_thread(Catalog, settings.data_root / "images")
        puller = Puller(
            host.datasets,
            catalog,
            settings.data_root / "downloads",
            group=group,
            max_concurrent_downloads=settings.max_concurrent_downloads,
            retries=Retries(settings.max_download_attempts),
        )

        answers: Answers = {}
        in_force = InForce(settings)

        def registry(auth: AuthConfig | None) -> RegistryClient:
            return RegistryClient(
                session,
                known=catalog.config,
                mirrors=in_force.settings.registry_mirrors,
                insecure=in_force.settings.insecure_registries,
                certificates=CERTIFICATES,
                answers=answers,
                auth=_credentials(auth),
            )

        engine = Gateway(
            host,
            catalog,
            puller,
            settings=settings,
            registry=registry,
            group=group,
            servers=ImageServers(session, settings.smartos.image_servers),
        )

        def take(other: Settings) -> None:
            engine.reload(in_force.take(other))
            answers.clear()  # who was insecure may not be any more

        stack.enter_context(reloading(reread, take))
        group.create_task(host.run())
        group.create_task(engine.run())
        # Layers of a pull that a kill cut short, which no image came to need.
        group.create_task(puller.collect())
        group.create_task(_give_memory_back())
        yield APIServer(engine, group, server_version=SERVER_VERSION)


def _credentials(auth: AuthConfig | None) -> Credentials | None:
    if auth is None:
        return None
    return Credentials(auth.username, auth.password, auth.identitytoken, auth.registrytoken)


async def _give_memory_back() -> None:
    """Every few seconds: cycles that ended containers left are freed, and free pages returned.

    glibc by itself keeps free pages that lie between blocks in use, 2-3 MB of them after a busy
    moment.  A look costs some milliseconds; where libc is another one, pages stay.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    # What start-up made lives as long as we do: out of the collector's sight, nobody waits for it to
    # be searched, and cycles go now and not after hundreds of containers (10 KB each).
    gc.collect()
    gc.freeze()
    took_s = 0.0
    while True:
        # Among hundreds of zones a look takes a tenth of a second, in which nobody is answered.
        await asyncio.sleep(max(_TRIM_EVERY_S, took_s * _TRIM_SHARE))
        began = time.perf_counter()
        gc.collect()
        if trim:
            trim(0)
        took_s = time.perf_counter() - began


async def _open_host(settings: Settings, group: asyncio.TaskGroup) -> Host:
    """The chosen platform; only its modules are imported."""
    if settings.backend == "linux":
        from gateway.hosts.linux.host import LinuxHost

        return await LinuxHost.open(settings, group)
    from gateway.hosts.smartos.host import SmartOSHost

    return await SmartOSHost.open(settings, group)


@contextlib.asynccontextmanager
async def _cancelled_at_end() -> AsyncIterator[asyncio.TaskGroup]:
    """A TaskGroup for loops without end: they are cancelled when the block is left."""

    class _Left(Exception):
        pass

    async def leave() -> None:
        raise _Left

    try:
        async with asyncio.TaskGroup() as group:
            yield group
            group.create_task(leave())
    except* _Left:
        pass


@contextlib.contextmanager
def _stop_signal() -> Iterator[asyncio.Event]:
    """Set by SIGTERM and SIGINT.  One that comes early ends the server once it is up, when it can clean up."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    try:
        yield stopped
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _roots(settings: Settings) -> dict[Path, int]:
    """What belongs to this instance alone, with its mode where it is new.

    On Linux a start removes what it does not know below exec_root, too.  A socket may lie there, for a group that has
    no other business in it.
    """
    runs = {settings.exec_root: 0o711} if settings.backend == "linux" else {}
    return runs | {settings.data_root: 0o710}


@contextlib.contextmanager
def _owned(roots: Mapping[Path, int]) -> Iterator[None]:
    """One instance for each of `roots`; the locks go with the process, so a kill leaves none behind."""
    with contextlib.ExitStack() as locks:
        for root, mode in roots.items():
            root.mkdir(mode=mode, parents=True, exist_ok=True)
            descriptor = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            locks.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InvalidParameter(f"{root} is in use by another zonegate") from error
        yield


@contextlib.contextmanager
def _alone_with_its_name(settings: Settings) -> Iterator[None]:
    """On Linux bridge and nft tables have the instance's name: a second one would make them anew.

    Its lock goes with the process.  It lies where nobody but root can take it first.
    """
    if settings.backend != "linux":
        yield
        return
    _NAMES.mkdir(mode=0o700, exist_ok=True)
    namespace = Path("/proc/self/ns/net").stat().st_ino
    path = _NAMES / f"{settings.name}-{namespace}"
    while True:
        with path.open("w") as mark:
            try:
                fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InvalidParameter(
                    f"another zonegate is called {settings.name} here: --name tells instances apart"
                ) from error
            # Whoever had it before may have taken it away between our opening and our locking it.
            if not _is_there(path, mark.fileno()):
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def _is_there(path: Path, descriptor: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    return False


@contextlib.contextmanager
def _pidfile(path: Path | None) -> Iterator[None]:
    if path is None:
        yield
        return
    with contextlib.suppress(OSError, ValueError):
        other = int(path.read_text())
        if other != os.getpid() and _lives(other):
            raise InvalidParameter(f"process with PID {other} is still running ({path})")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{os.getpid()}\n")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _lives(pid: int) -> bool:
    """A killed gateway that its parent has not reaped yet is none that runs.  OSError without the process."""
    os.kill(pid, 0)
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True  # a /proc of another kind: what can be signalled lives
    return status.rpartition(")")[2].split()[0] not in "ZX"


def _remove_sockets(settings: Settings, listeners: list[socket.socket]) -> None:
    for listener in listeners:
        listener.close()
    for host in settings.hosts:
        if host.startswith("unix://"):
            Path(host.removeprefix("unix://")).unlink(missing_ok=True)


def _taken_from_environment(*names: str) -> dict[str, str]:
    """What systemd says to us alone: a runtime would hand descriptors of its own on to containers."""
    return {name: os.environ.pop(name) for name in names if name in os.environ}


def _notify(systemd: Mapping[str, str], state: str) -> None:
    """Tell systemd (sd_notify); nothing happens outside of it."""
    address = systemd.get("NOTIFY_SOCKET")
    if not address:
        return
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel,
        contextlib.suppress(OSError),
    ):
        channel.connect(f"\0{address[1:]}" if address.startswith("@") else address)
        channel.sendall(state.encode())
