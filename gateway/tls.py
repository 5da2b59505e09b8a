"""TLS for tcp listeners, from dockerd's --tls* settings, with ends that come one at a time.

asyncio's and uvloop's TLS know no half-closed connection: they end both directions, or ignore the
end.  The docker CLI ends a container's stdin with a close_notify and goes on reading, so the records
are made here (MemoryBIO, no threads) and the API's protocol gets this transport instead of the loop's:

    client <-- ciphertext --> loop's transport <--> TLSTransport <-- plain bytes --> protocol

    from the client           to the protocol        from the protocol    to the client
    close_notify              eof_received           write_eof()          close_notify
    FIN without it, RST       connection_lost        close()              close_notify, FIN, linger
    neither for HANDSHAKE_S   (was never made)       abort()              RST

Which listeners there are, and who may use them without TLS, is for `listeners` to say.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any, cast

from dockerapi.errors import InvalidParameter
from gateway.settings import Settings

log = logging.getLogger(__name__)

HANDSHAKE_S = 10.0
LINGER_S = 2.0
BUFFER_SIZE = 256 * 1024
_RECORD = 16 * 1024  # SSL_read gives one record at most
_METHODS = (b"GET /", b"HEAD ", b"POST ", b"PUT /", b"DELET", b"OPTIO")
_SPOKE_HTTP = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
"""Go's words, which the docker CLI shows."""


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """None without --tls and --tlsverify; with --tlsverify clients must show a certificate of the CA.

    InvalidParameter names the file that is missing or unreadable.
    """
    if not (settings.tls or settings.tlsverify):
        return None
    if settings.tlscert is None or settings.tlskey is None:
        raise InvalidParameter("--tls needs --tlscert and --tlskey")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A renegotiation would make a write wait for a read; TLS 1.3 has none anyway.
    context.options |= ssl.OP_NO_RENEGOTIATION
    # Python 3.13 asks for extensions that certificates made by Docker's own recipe may lack.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    for file in (settings.tlscert, settings.tlskey, settings.tlscacert):
        try:
            if file is not None:
                file.read_bytes()
        except OSError as error:  # the ssl module's has no name of a file
            raise InvalidParameter(f"cannot read {file}: {error.strerror}") from error
    try:
        # With no password of ours OpenSSL would ask for one on the terminal, and wait.
        context.load_cert_chain(settings.tlscert, settings.tlskey, password=lambda: "")
        if settings.tlsverify:
            if settings.tlscacert is None:
                raise InvalidParameter("--tlsverify needs --tlscacert")
            context.load_verify_locations(settings.tlscacert)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise InvalidParameter(f"TLS certificates cannot be used: {error}") from error
    return context


async def listen(
    protocol: Callable[[], asyncio.Protocol], listener: socket.socket, context: ssl.SSLContext
) -> TLSServer:
    """Accept on a bound socket; every client that completes the handshake gets a `protocol()`."""
    server = TLSServer(protocol, context)
    server.accepting = await asyncio.get_running_loop().create_server(
        lambda: TLSTransport(server), sock=listener
    )
    return server


class TLSServer:
    """A listener and its connections.  `protocol` is what each of them speaks inside."""

    def __init__(self, protocol: Callable[[], asyncio.Protocol], context: ssl.SSLContext) -> None:
        self.protocol = protocol
        self.context = context
        self.connections: set[TLSTransport] = set()
        self.accepting: asyncio.Server | None = None
        self.closing = False

    def close(self) -> None:
        """Accept no more, drop who has no protocol (yet, or any more); the others are the API's to end."""
        self.closing = True
        if self.accepting is not None:
            self.accepting.close()
        for connection in list(self.connections):
            connection.drop_if_idle()


class TLSTransport(asyncio.Transport, asyncio.Protocol):
    """Protocol of the loop's transport on one side, transport of the API's protocol on the other.

    handshake --> open --> closing (sent close_notify, waits for the client's FIN) --> lost
    """

    def __init__(self, server: TLSServer) -> None:
        super().__init__()
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = server.context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._raw: asyncio.Transport | None = None
        self._inner: asyncio.Protocol | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._peer = ""
        self._pending: list[bytes] = []  # plain bytes that came while the protocol had paused
        self._paused = False
        self._ended = False  # the client's close_notify has come
        self._told_end = False  # and the protocol knows
        self._raw_ended = False
        self._sent_end = False
        self._closing = False
        self._lost = False

    # -- the loop's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Waits for the handshake, not for long."""
        raw = cast("asyncio.Transport", transport)  # uvloop's has the methods, not the base class
        self._raw = raw
        self._peer = _shown(raw.get_extra_info("peername"))
        raw.set_write_buffer_limits(high=BUFFER_SIZE, low=BUFFER_SIZE // 2)
        _keep_alive(raw.get_extra_info("socket"))
        self._server.connections.add(self)
        self._timer = self._loop.call_later(HANDSHAKE_S, self._handshake_is_late)

    def data_received(self, data: bytes) -> None:
        """Ciphertext."""
        if self._closing:
            return
        self._incoming.write(data)
        if self._inner is None and not self._shake_hands(data):
            return
        self._decrypt()
        self._deliver()

    def eof_received(self) -> bool:
        """After a close_notify the client may still read; without one it is gone, or somebody cut the line."""
        self._raw_ended = True
        if self._closing:
            return False  # what is still to be written will be
        if self._ended:
            return True
        log.debug("%s left without saying so", self._peer)
        self.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Of the socket: the protocol's is lost too."""
        self._lost = self._closing = True
        self._pending.clear()
        self._stop_timer()
        self._server.connections.discard(self)
        if self._inner is not None:
            self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """The client reads slowly."""
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        """And again; a closing connection has now sent all."""
        if self._inner is not None:
            self._inner.resume_writing()
        if self._closing:
            self._linger()

    # -- handshake

    def _shake_hands(self, data: bytes) -> bool:
        """Whether it is done."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except ssl.SSLError as error:
            log.info("TLS handshake with %s failed: %s", self._peer, _reason(error))
            if error.reason == "HTTP_REQUEST" and data[:5] in _METHODS and self._raw is not None:
                self._raw.write(_SPOKE_HTTP)
            else:
                self._flush()  # the alert
            self._end(said=False)
            return False
        self._stop_timer()
        self._flush()
        self._inner = self._server.protocol()
        self._inner.connection_made(self)
        return True

    def _handshake_is_late(self) -> None:
        log.debug("%s did not complete the TLS handshake in %.0f s", self._peer, HANDSHAKE_S)
        self.abort()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- client to protocol

    def _decrypt(self) -> None:
        """All that is there, even for a paused protocol: what a pause may leave is one read of the socket's."""
        pieces: list[bytes] = []
        try:
            while not self._ended and not self._closing:
                piece = self._tls.read(_RECORD)
                pieces.append(piece)
                self._ended = not piece
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:  # the same end, when ours was first
            self._ended = True
        except ssl.SSLError as error:
            self._fail(error)
            return
        self._flush()  # TLS 1.3 answers a key update
        if plain := b"".join(pieces):
            self._pending.append(plain)

    def _deliver(self) -> None:
        # A hijack puts another protocol in the place of aiohttp's: `_inner` may change in the loop.
        while self._inner and self._pending and not self._paused and not self._closing:
            self._inner.data_received(self._pending.pop(0))
        if self._ended and not (self._pending or self._paused or self._closing or self._told_end):
            self._told_end = True
            if self._inner and not self._inner.eof_received():
                self.close()

    def _fail(self, error: ssl.SSLError) -> None:
        log.info("TLS with %s failed: %s", self._peer, _reason(error))
        self._flush()  # the alert
        self.abort()

    # -- protocol to client

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """RuntimeError after write_eof, as with the loop's transports; after close() nothing happens."""
        if self._sent_end and not self._closing:
            raise RuntimeError("Cannot call write() after write_eof()")
        view = memoryview(data).cast("B")
        try:
            while view and not self._closing:
                # Piece by piece: the ciphertext of a large answer is not held twice.
                view = view[self._tls.write(view[:BUFFER_SIZE]) :]
                self._flush()
        except ssl.SSLError as error:
            self._fail(error)

    def can_write_eof(self) -> bool:
        """It is what this class is for."""
        return True

    def write_eof(self) -> None:
        """The client sees the end; what it sends still arrives."""
        if self._sent_end or self._closing:
            return
        self._sent_end = True
        self._say_end()

    def _say_end(self) -> None:
        with contextlib.suppress(ssl.SSLError):  # "want read": the client has not said its end yet
            self._tls.unwrap()
        self._flush()

    def _flush(self) -> None:
        if self._raw is not None and self._outgoing.pending:
            self._raw.write(self._outgoing.read())

    # -- the end

    def close(self) -> None:
        """Sends what is written and the close_notify; then the client has `LINGER_S` to end its side.

        A socket closed with unread input is reset, and a client may lose the last answer by that.
        """
        if self._closing:
            return
        if not self._sent_end:
            self._say_end()
        self._end(said=True)

    def _end(self, *, said: bool) -> None:
        raw = self._raw
        if raw is None or self._closing:
            return
        log.debug("closing %s%s", self._peer, "" if said else " before any request")
        self._closing = True
        self._pending.clear()
        self._stop_timer()
        if self._raw_ended or self._server.closing:
            raw.close()
            return
        if self._paused:
            raw.resume_reading()  # else its FIN would not be seen
        try:
            raw.write_eof()
        except OSError:  # reset in this moment
            raw.abort()
            return
        raw.set_write_buffer_limits(high=0)  # resume_writing() when all is sent
        if raw.get_write_buffer_size() == 0:
            self._linger()

    def _linger(self) -> None:
        if self._timer is None and self._raw is not None and not self._lost:
            self._timer = self._loop.call_later(LINGER_S, self._raw.abort)

    def abort(self) -> None:
        """Both directions, now."""
        self._closing = True
        if self._raw is not None:
            self._raw.abort()

    def drop_if_idle(self) -> None:
        """At the server's end: nobody waits for a handshake or for a lingering client."""
        if self._inner is None:
            self.abort()
        elif self._closing and self._raw is not None:
            self._raw.close()

    def is_closing(self) -> bool:
        """As asyncio has it."""
        return self._closing

    # -- the rest of a transport

    def pause_reading(self) -> None:
        """The socket is left alone; at most what was just read from it is kept."""
        if not self._paused and not self._closing:
            self._paused = True
            if self._raw is not None and not self._raw_ended:
                self._raw.pause_reading()

    def resume_reading(self) -> None:
        """What was kept comes first, in a later turn of the loop."""
        if self._paused and not self._closing:
            self._paused = False
            self._loop.call_soon(self._deliver)
            if self._raw is not None and not self._raw_ended:
                self._raw.resume_reading()

    def is_reading(self) -> bool:
        """As asyncio has it."""
        return not self._paused and not self._closing

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """From the next event on."""
        if not isinstance(protocol, asyncio.Protocol):
            raise TypeError("TLS carries a stream")
        self._inner = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Who gets the events; the transport itself before the handshake is done."""
        return self._inner or self

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """In bytes of ciphertext."""
        if self._raw is not None and not self._closing:
            self._raw.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """In bytes of ciphertext."""
        return 0 if self._raw is None else self._raw.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`sslcontext`, `ssl_object`, `peercert` and `cipher`, and what the socket's transport knows."""
        match name:
            case "ssl_object":
                return self._tls
            case "sslcontext":
                return self._server.context
            case "peercert":
                return self._tls.getpeercert()
            case "cipher":
                return self._tls.cipher()
        return default if self._raw is None else self._raw.get_extra_info(name, default)


def _keep_alive(sock: socket.socket | None) -> None:
    """A client that half-closed, then went away, sends nothing more: only a probe's RST tells."""
    if sock is None:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):  # illumos has not all of them everywhere
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _shown(peername: Any) -> str:
    return "{}:{}".format(*peername[:2]) if isinstance(peername, tuple) else "a client"


def _reason(error: ssl.SSLError) -> str:
    said: str | None = getattr(error, "verify_message", None)
    return said or (error.reason or str(error)).replace("_", " ").lower()
