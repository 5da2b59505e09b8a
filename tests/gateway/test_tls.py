"""Listeners with TLS: each direction ends for itself, and nothing is lost, held back or left behind."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import hashlib
import ipaddress
import json
import logging
import os
import queue
import shutil
import signal
import socket
import ssl
import struct
import subprocess  # noqa: TID251 - the docker CLI is a process
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvloop
from compat.clients import CLI
from compat.daemons import Daemon, own_bridge
from compat.images import archive, catalogue
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from dockerapi.errors import InvalidParameter
from gateway import tls
from gateway.settings import Settings

MB = 1024 * 1024
DEADLINE_S = 20.0


# -- certificates


@dataclass(frozen=True)
class Issuer:
    """A CA that writes NAME-key.pem and NAME-cert.pem into a folder."""

    folder: Path
    name: x509.Name
    key: ec.EllipticCurvePrivateKey

    def issue(self, name: str, usage: x509.ObjectIdentifier, expired: bool = False) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(subject, self.name, key, expired=expired).add_extension(
            x509.ExtendedKeyUsage([usage]), critical=False
        )
        if usage == ExtendedKeyUsageOID.SERVER_AUTH:
            addresses = [
                x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
                x509.DNSName("localhost"),
            ]
            builder = builder.add_extension(x509.SubjectAlternativeName(addresses), critical=False)
        _save(self.folder, name, key, builder.sign(self.key, hashes.SHA256()))


def issuer(folder: Path, name: str) -> Issuer:
    folder.mkdir(exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        _builder(subject, subject, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    _save(folder, name, key, certificate)
    return Issuer(folder, subject, key)


def _builder(
    subject: x509.Name, by: x509.Name, key: ec.EllipticCurvePrivateKey, *, expired: bool = False
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    end = now + datetime.timedelta(days=-1 if expired else 1)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=2))
        .not_valid_after(end)
    )


def _save(
    folder: Path, name: str, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate
) -> None:
    (folder / f"{name}-key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    (folder / f"{name}-cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca, server, client, expired (of ca), and stranger (of another CA)."""
    folder = tmp_path_factory.mktemp("certificates")
    ca = issuer(folder, "ca")
    ca.issue("server", ExtendedKeyUsageOID.SERVER_AUTH)
    ca.issue("client", ExtendedKeyUsageOID.CLIENT_AUTH)
    ca.issue("expired", ExtendedKeyUsageOID.CLIENT_AUTH, expired=True)
    issuer(folder, "other").issue("stranger", ExtendedKeyUsageOID.CLIENT_AUTH)
    return folder


def settings(folder: Path, *, verify: bool = True) -> Settings:
    return Settings(
        tls=True,
        tlsverify=verify,
        tlscacert=folder / "ca-cert.pem",
        tlscert=folder / "server-cert.pem",
        tlskey=folder / "server-key.pem",
    )


# -- a server in a thread


class Recorder(asyncio.Protocol):
    """The API's side of one connection: counts and hashes what comes, does what the test asks for."""

    def __init__(self) -> None:
        self.received = 0
        self.digest = hashlib.sha256()
        self.text = b""
        self.keeps_half = True
        self.echo = False
        self.writable = threading.Event()
        self.writable.set()
        self.events: queue.Queue[str] = queue.Queue()
        self.changed = threading.Condition()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.digest.update(data)
        self.text = (self.text + data)[:1000]
        with self.changed:
            self.received += len(data)
            self.changed.notify_all()
        if self.echo:
            self.transport.write(data)

    def eof_received(self) -> bool:
        self.events.put("eof")
        return self.keeps_half

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.events.put("lost")

    def event(self) -> str:
        return self.events.get(timeout=DEADLINE_S)

    def wait_for(self, size: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.received >= size, DEADLINE_S), self.received


class Server:
    """A TLSServer on a loop in a thread of its own; `accepted` gets the protocols."""

    def __init__(
        self, factory: Callable[[], asyncio.AbstractEventLoop], context: ssl.SSLContext
    ) -> None:
        self._factory, self._context = factory, context
        self.accepted: queue.Queue[Recorder] = queue.Queue()
        self.loop: asyncio.AbstractEventLoop
        self.server: tls.TLSServer
        self.port = 0
        self._ready = threading.Event()
        self._stop: asyncio.Event
        self.prepare: Callable[[Recorder], None] = lambda _: None
        self.errors: list[dict[str, object]] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Server:
        self._thread.start()
        assert self._ready.wait(DEADLINE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()
        assert self.errors == []

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=self._factory) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self.loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self.loop.set_exception_handler(lambda _, context: self.errors.append(context))
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        self.port = listener.getsockname()[1]
        self.server = await tls.listen(self._protocol, listener, self._context)
        self._ready.set()
        await self._stop.wait()
        self.server.close()
        for connection in list(self.server.connections):
            connection.abort()
        while self.server.connections:  # noqa: ASYNC110 - a turn or two of the loop
            await asyncio.sleep(0)
        if self.server.accepting is not None:
            await self.server.accepting.wait_closed()

    def _protocol(self) -> Recorder:
        recorder = Recorder()
        self.prepare(recorder)
        self.accepted.put(recorder)
        return recorder

    def connection(self) -> Recorder:
        return self.accepted.get(timeout=DEADLINE_S)

    def do(self, act: Callable[[], object]) -> None:
        """In the loop's thread; returns when it is done, raises what it raises."""

        async def run() -> None:
            act()

        asyncio.run_coroutine_threadsafe(run(), self.loop).result(DEADLINE_S)


class Client:
    """TLS on a blocking socket that, unlike ssl.SSLSocket, can end its own direction and read on."""

    def __init__(self, port: int, context: ssl.SSLContext, receive_buffer: int = 0) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(DEADLINE_S)
        self.socket.connect(("127.0.0.1", port))
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="127.0.0.1")
        try:
            self._ask(self.tls.do_handshake)
        except ssl.SSLError:
            self.socket.close()
            raise
        self._flush()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self.socket.sendall(self._outgoing.read())

    def _ask(self, act: Callable[[], bytes | None]) -> bytes | None:
        while True:
            try:
                return act()
            except ssl.SSLWantReadError:
                self._flush()
                data = self.socket.recv(MB)
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self.tls.write(view[:MB]) :]
            self._flush()

    def end(self) -> None:
        """close_notify, and nothing else."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        self._flush()

    def read(self) -> bytes:
        """b"" after the server's close_notify; ssl.SSLEOFError for an end without it."""
        try:
            return self._ask(lambda: self.tls.read(MB)) or b""
        except ssl.SSLZeroReturnError:  # the same end, when ours was first
            return b""

    def rest(self) -> bytes:
        return b"".join(iter(self.read, b""))

    def reset(self) -> None:
        """What is left of a machine that lost its power and came back."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def client_context(
    folder: Path, name: str | None = "client", version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(folder / "ca-cert.pem"))
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.minimum_version = context.maximum_version = version
    if name is not None:
        context.load_cert_chain(folder / f"{name}-cert.pem", folder / f"{name}-key.pem")
    return context


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def server(request: pytest.FixtureRequest, certificates: Path) -> Iterator[Server]:
    context = tls.server_context(settings(certificates))
    assert context is not None
    with Server(request.param, context) as server:
        yield server


@pytest.fixture(params=["TLSv1_2", "TLSv1_3"])
def context(request: pytest.FixtureRequest, certificates: Path) -> ssl.SSLContext:
    return client_context(certificates, version=ssl.TLSVersion[request.param])


# -- ends


def test_a_client_ends_its_input_and_still_gets_the_output(
    server: Server, context: ssl.SSLContext
) -> None:
    with Client(server.port, context) as client:
        api = server.connection()
        client.send(b"input")
        client.end()
        assert api.event() == "eof"
        assert api.text == b"input"
        for number in range(3):
            server.do(lambda n=number: api.transport.write(b"%d" % n))
            assert client.read() == b"%d" % number
        server.do(api.transport.close)
        assert client.read() == b""
    assert api.event() == "lost"


def test_the_api_ends_its_output_and_still_gets_the_input(
    server: Server, context: ssl.SSLContext
) -> None:
    with Client(server.port, context) as client:
        api = server.connection()
        server.do(lambda: api.transport.write(b"output"))
        server.do(api.transport.write_eof)
        assert client.rest() == b"output"
        client.send(b"x" * MB)
        api.wait_for(MB)
        client.end()
        assert api.event() == "eof"
        with pytest.raises(RuntimeError, match="write_eof"):
            server.do(lambda: api.transport.write(b"more"))


def test_an_end_behind_a_paused_protocol_comes_after_the_data(
    server: Server, context: ssl.SSLContext
) -> None:
    with Client(server.port, context) as client:
        api = server.connection()
        server.do(api.transport.pause_reading)
        client.send(b"x" * 100_000)
        client.end()
        client.socket.shutdown(socket.SHUT_WR)
        server.do(api.transport.resume_reading)
        assert api.event() == "eof"
        assert api.received == 100_000
        server.do(lambda: api.transport.write(b"seen"))
        server.do(api.transport.close)
        assert client.rest() == b"seen"


def test_a_protocol_that_keeps_no_half_open_is_closed_at_the_end(
    server: Server, context: ssl.SSLContext
) -> None:
    server.prepare = lambda api: setattr(api, "keeps_half", False)
    with Client(server.port, context) as client:
        client.end()
        assert client.read() == b""
    assert [server.connection().event() for _ in "1"] == ["eof"]


def test_what_was_written_before_close_arrives_whole_though_the_client_still_sends(
    server: Server, context: ssl.SSLContext
) -> None:
    answer = os.urandom(3 * MB)
    with Client(server.port, context) as client:
        api = server.connection()
        server.do(api.transport.pause_reading)
        client.send(b"y" * 100_000)  # never read: a plain close would reset the connection
        server.do(lambda: (api.transport.write(answer), api.transport.close()))
        assert client.rest() == answer
        assert client.socket.recv(1) == b""


def test_a_client_that_never_ends_its_side_is_left_after_a_moment(
    server: Server, context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "LINGER_S", 0.1)
    with Client(server.port, context) as client:
        api = server.connection()
        server.do(api.transport.close)
        assert client.read() == b""
        assert api.event() == "lost"


@pytest.mark.parametrize("way", ["fin", "reset"])
def test_a_client_that_dies_is_a_lost_connection_and_no_end_of_input(
    server: Server, context: ssl.SSLContext, way: str
) -> None:
    client = Client(server.port, context)
    api = server.connection()
    client.send(b"half a")
    api.wait_for(6)
    client.reset() if way == "reset" else client.socket.close()
    assert api.event() == "lost"


def test_a_client_that_dies_after_its_end_is_noticed_by_its_reset(
    server: Server, context: ssl.SSLContext
) -> None:
    client = Client(server.port, context)
    api = server.connection()
    client.end()
    assert api.event() == "eof"
    client.reset()
    assert api.event() == "lost"


def test_bytes_that_are_no_record_end_the_connection_with_one_line(
    server: Server, context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with Client(server.port, context) as client:
        api = server.connection()
        client.socket.sendall(b"no record at all")
        assert api.event() == "lost"
    assert [record.exc_info for record in caplog.records] == [None]


# -- amounts


@pytest.mark.parametrize("size", [16 * MB, 10_000], ids=["at once", "in pieces"])
def test_much_arrives_unchanged_both_ways(
    server: Server, context: ssl.SSLContext, size: int
) -> None:
    data = os.urandom(16 * MB)
    server.prepare = lambda api: setattr(api, "echo", True)
    with Client(server.port, context) as client:
        api = server.connection()
        for at in range(0, len(data), size):
            client.send(data[at : at + size])
        client.end()
        assert api.event() == "eof"
        server.do(api.transport.close)
        assert hashlib.sha256(client.rest()).digest() == hashlib.sha256(data).digest()
        assert api.digest.digest() == hashlib.sha256(data).digest()


def test_a_slow_reader_stops_the_writer_until_it_reads(
    server: Server, context: ssl.SSLContext
) -> None:
    block = os.urandom(64 * 1024)
    with Client(server.port, context, receive_buffer=64 * 1024) as client:
        api = server.connection()
        written = 0
        while api.writable.is_set():
            server.do(lambda: api.transport.write(block))
            written += 1
            assert written < 1000, "nothing stops the writer"
        assert api.transport.get_write_buffer_size() < tls.BUFFER_SIZE + 2 * len(block)
        server.do(api.transport.close)
        assert client.rest() == block * written
        assert api.writable.is_set()


def test_a_slow_api_stops_the_client_until_it_reads(
    server: Server, context: ssl.SSLContext
) -> None:
    data = os.urandom(16 * MB)
    with Client(server.port, context) as client:
        api = server.connection()
        server.do(api.transport.pause_reading)
        client.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.send(data)
        assert api.received == 0
        kept = sum(len(piece) for piece in api.transport._pending)  # type: ignore[attr-defined]
        assert kept <= tls.BUFFER_SIZE
        server.do(api.transport.resume_reading)
        api.wait_for(MB)


# -- handshakes


def test_a_client_without_a_certificate_is_refused_in_one_line(
    server: Server, certificates: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    # TLS 1.3 lets the client believe that it is in until it reads.
    with Client(server.port, client_context(certificates, None)) as client:
        client.send(b"GET /_ping HTTP/1.1\r\n\r\n")
        with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
            client.read()
    (record,) = caplog.records
    assert record.getMessage().endswith("failed: peer did not return a certificate")
    assert record.exc_info is None
    assert server.accepted.empty()


@pytest.mark.parametrize(
    ("name", "alert", "line"),
    [
        ("stranger", "UNKNOWN_CA", "unable to get local issuer certificate"),
        ("expired", "CERTIFICATE_EXPIRED", "certificate has expired"),
        ("server", "CERTIFICATE", "unsuitable certificate purpose"),
    ],
)
def test_a_certificate_that_is_not_the_cas_for_clients_is_refused(
    server: Server,
    certificates: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    alert: str,
    line: str,
) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(ssl.SSLError, match=alert):
        Client(
            server.port, client_context(certificates, name, ssl.TLSVersion.TLSv1_2)
        ).socket.close()
    assert [line in record.getMessage() for record in caplog.records] == [True]
    assert server.accepted.empty()


def test_without_tlsverify_no_certificate_is_asked_for(certificates: Path) -> None:
    context = tls.server_context(settings(certificates, verify=False))
    assert context is not None
    with Server(uvloop.new_event_loop, context) as server:
        server.prepare = lambda api: setattr(api, "echo", True)
        with Client(server.port, client_context(certificates, None)) as client:
            client.send(b"hello")
            assert client.read() == b"hello"


def test_plain_http_is_told_so_in_gos_words(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), DEADLINE_S) as client:
        client.sendall(b"GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request")


def test_who_says_nothing_is_left_after_the_handshakes_time(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "HANDSHAKE_S", 0.1)
    with (
        socket.create_connection(("127.0.0.1", server.port), DEADLINE_S) as client,
        contextlib.suppress(ConnectionResetError),
    ):
        assert client.recv(1) == b""
    assert server.accepted.empty()


def test_closing_the_server_drops_unfinished_handshakes_and_lingering_clients(
    server: Server, context: ssl.SSLContext
) -> None:
    with (
        Client(server.port, context) as lingering,
        Client(server.port, context) as busy,
        socket.create_connection(("127.0.0.1", server.port), DEADLINE_S) as silent,
    ):
        first, second = server.connection(), server.connection()
        server.do(first.transport.close)
        assert lingering.read() == b""
        _until(lambda: len(server.server.connections) == 3)
        server.do(server.server.close)
        assert first.event() == "lost"
        with contextlib.suppress(ConnectionResetError):
            assert silent.recv(1) == b""
        busy.send(b"still here")
        second.wait_for(10)
        server.do(second.transport.close)
        assert busy.read() == b""
        assert second.event() == "lost"


def _until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("missing", ["tlscert", "tlskey", "tlscacert"])
def test_a_missing_file_is_named_before_anything_is_served(
    certificates: Path, missing: str
) -> None:
    given = settings(certificates)
    with pytest.raises(InvalidParameter, match="--tls"):
        tls.server_context(given.model_copy(update={missing: None}))
    with pytest.raises(InvalidParameter, match="No such file"):
        tls.server_context(given.model_copy(update={missing: Path("/nowhere.pem")}))


def test_a_key_with_a_password_is_refused_and_not_asked_for(
    certificates: Path, tmp_path: Path
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    locked = tmp_path / "locked.pem"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(InvalidParameter, match="cannot be used"):
        tls.server_context(settings(certificates).model_copy(update={"tlskey": locked}))


# -- `zonegate serve` and the docker CLI


@pytest.fixture(scope="module")
def daemon(certificates: Path) -> Iterator[tuple[Daemon, str]]:
    """A gateway of its own with busybox loaded, and its tcp address."""
    for program in ("docker", "conmon", "busybox"):
        assert shutil.which(program), f"{program} is missing: scripts/test installs it"
    root = Path("/tmp") / f"zg-tls-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    options = ["--tlsverify", "--host", f"tcp://127.0.0.1:{port}", "--debug"]
    for flag, file in (("cacert", "ca-cert"), ("cert", "server-cert"), ("key", "server-key")):
        options += [f"--tls{flag}", str(certificates / f"{file}.pem")]
    name = f"zt{os.getpid() % 1000000}"
    server = Daemon("zonegate", root, name, extra=(*own_bridge("zonegate", 3), *options))
    try:
        server.start()
        images = {f"{image.name}:latest": image for image in catalogue() if image.name == "bb"}
        (root / "images.tar").write_bytes(archive(images))
        CLI(server.url, root / "seed").ok(f"docker load -q -i {root}/images.tar")
        yield server, f"tcp://127.0.0.1:{port}"
        assert "Traceback" not in server.log.read_text()
    finally:
        try:
            if server.process is not None:
                seed = CLI(server.url, root / "seed")
                for container in seed("docker ps -aq").stdout.split():
                    seed(f"docker rm -f {container}")
                server.stop()
        finally:
            server.discard()


@pytest.fixture
def cli(daemon: tuple[Daemon, str], certificates: Path, tmp_path: Path) -> CLI:
    """`docker --tlsverify`, by DOCKER_CERT_PATH."""
    for file, name in (("ca", "ca-cert"), ("cert", "client-cert"), ("key", "client-key")):
        shutil.copy(certificates / f"{name}.pem", tmp_path / f"{file}.pem")
    cli = CLI(daemon[1], tmp_path / "config")
    cli.env |= {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(tmp_path)}
    return cli


@pytest.mark.root
def test_the_cli_talks_tls_with_flags_as_with_the_environment(
    daemon: tuple[Daemon, str], cli: CLI, certificates: Path, tmp_path: Path
) -> None:
    assert json.loads(cli.ok("docker version --format '{{json .Server}}'"))["Os"] == "linux"
    plain = CLI(daemon[1], tmp_path / "plain")
    flags = (
        f"--tlsverify --tlscacert {certificates}/ca-cert.pem --tlscert {certificates}/client-cert.pem "
        f"--tlskey {certificates}/client-key.pem"
    )
    assert plain.ok(f"docker {flags} version --format '{{{{.Server.Os}}}}'") == "linux"
    without = plain(f"docker --tlsverify --tlscacert {certificates}/ca-cert.pem version")
    assert without.exit == 1
    assert "certificate required" in without.stderr
    no_tls = plain("docker version")
    assert no_tls.exit == 1
    assert "Client sent an HTTP request to an HTTPS server" in no_tls.stderr


@pytest.mark.root
def test_run_i_sees_the_end_of_its_input_and_gives_the_output_after_it(cli: CLI) -> None:
    data = os.urandom(4 * MB)
    done = cli.ok(["run", "-i", "--rm", "bb", "sh", "-c", "sha256sum; echo after"], stdin=data)
    assert done.split() == [hashlib.sha256(data).hexdigest(), "-", "after"]


@pytest.mark.root
def test_much_output_arrives_whole(cli: CLI) -> None:
    done = cli.ok("docker run --rm bb sh -c 'seq 1 400000; echo end >&2'")
    assert done == "\n".join(map(str, range(1, 400_001)))


@pytest.mark.root
def test_exec_and_load_take_much_input(daemon: tuple[Daemon, str], cli: CLI) -> None:
    data = os.urandom(4 * MB)
    cli.ok("docker run -d --name tls-box bb sleep 1000")
    done = cli.ok("docker exec -i tls-box sha256sum", stdin=data)
    assert done.split() == [hashlib.sha256(data).hexdigest(), "-"]
    cli.ok("docker rm -f tls-box")
    loaded = cli.ok("docker load", stdin=(daemon[0].root / "images.tar").read_bytes())
    assert loaded == "Loaded image: bb:latest"


@pytest.mark.root
def test_a_terminal_over_tls(cli: CLI) -> None:
    with cli.terminal("run -it --rm bb sh") as terminal:
        terminal.until(r"# ")
        terminal.type("echo $((6*7))\n")
        terminal.until(r"\n42")
        terminal.type("exit 5\n")
        assert terminal.end() == 5


@pytest.mark.root
def test_a_killed_cli_leaves_no_connection_behind(daemon: tuple[Daemon, str], cli: CLI) -> None:
    cli.ok("docker run -d --name tls-log bb sleep 1000")
    followers = [
        cli.popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.PIPE)
        for command in ("events", "logs -f tls-log", "wait tls-log", "attach tls-log")
    ]
    port = int(daemon[1].rpartition(":")[2])
    _until(lambda: _established(port) >= len(followers))
    for follower in followers:
        follower.send_signal(signal.SIGKILL)
        follower.communicate()
    _until(lambda: _sockets(daemon[0].pid, port) == 0)
    cli.ok("docker rm -f tls-log")


def _rows(port: int, *states: str) -> list[list[str]]:
    """Rows of /proc/net/tcp for the server's side of connections to `port`."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [row for row in rows if row[1].endswith(f":{port:04X}") and row[3] in states]


def _established(port: int) -> int:
    return len(_rows(port, "01"))


def _sockets(pid: int, port: int) -> int:
    """How many connections the process still has open, whatever their state."""
    held = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            held.add(str(link.readlink()))
    return sum(f"socket:[{row[9]}]" in held for row in _rows(port, "01", "04", "05", "08", "09"))


@pytest.mark.root
def test_a_stopping_gateway_ends_what_clients_follow(
    daemon: tuple[Daemon, str], cli: CLI, certificates: Path
) -> None:
    server, address = daemon
    follower = cli.popen("events", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    _until(lambda: _established(int(address.rpartition(":")[2])) >= 1)
    with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))):
        assert server.stop() == 0
    follower.communicate(timeout=DEADLINE_S)
    server.start()
    assert cli.ok("docker version --format '{{.Server.Os}}'") == "linux"
