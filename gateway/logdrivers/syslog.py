"""The log driver syslog: RFC 3164, RFC 5424, and the machine's own daemon; by udp, tcp, tls and unix sockets.

    (nothing)     <30>Nov 22 13:38:45 TAG[PID]: text
    rfc3164       <30>Nov 22 13:38:45 HOST TAG[PID]: text
    rfc5424       <30>1 2026-11-22T13:38:45Z HOST TAG PID TAG - text           micro: with microseconds

Standard output is of severity info, standard error of severity err.  The time is the line's own.
"""

from __future__ import annotations

import datetime
import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dockerapi.errors import APIError, InvalidParameter
from dockerapi.framing import StreamId
from gateway.logdrivers import Message, Sink, Source
from gateway.logdrivers.wire import Datagrams, LineSink, Stream
from gateway.translate import log_options
from gateway.translate.log_options import Address

_SEVERITY = {StreamId.STDOUT: 6, StreamId.STDERR: 3}
_LOCAL = ("/dev/log", "/var/run/syslog", "/var/run/log")

Format = Callable[[int, Source, Message], bytes]


async def open_sink(source: Source) -> Sink:
    """Connected to the daemon.  APIError in dockerd's words."""
    options = source.options
    address = log_options.syslog_address(options)
    form = options.get("syslog-format", "")
    # As dockerd has it: lengths in the newer format alone.
    is_counted = address.scheme == "tcp+tls" and form.startswith("rfc5424")
    encode = Encoder(source, log_options.facility(options), form, _octets if is_counted else _lines)
    address = _own() if address == Address() else address
    sink = _sink(address, options, encode)
    await sink.dial()
    return sink


class Encoder:
    """Messages of one container in bytes."""

    def __init__(
        self, source: Source, facility: int, form: str, frame: Callable[[bytes], bytes]
    ) -> None:
        self._source = source
        self._facility = facility << 3
        self._format = _FORMATS[form]
        self._frame = frame

    def __call__(self, message: Message) -> bytes:
        """One message; a newline ends it."""
        priority = self._facility | _SEVERITY[message.stream]
        return self._frame(self._format(priority, self._source, message))


def _lines(message: bytes) -> bytes:
    return message + b"\n"


def _octets(message: bytes) -> bytes:
    """RFC 5425: each message with its length before it."""
    return b"%d %b\n" % (len(message) + 1, message)


def _moment(message: Message) -> datetime.datetime:
    seconds, rest = divmod(message.time_ns, 10**9)  # a float would round
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC).astimezone()
    return moment.replace(microsecond=rest // 1000)


def _unix(priority: int, source: Source, message: Message) -> bytes:
    moment = _moment(message)
    head = (
        f"<{priority}>{moment:%b} {moment.day:2d} {moment:%H:%M:%S} {source.tag}[{os.getpid()}]: "
    )
    return head.encode() + message.text


def _rfc3164(priority: int, source: Source, message: Message) -> bytes:
    moment = _moment(message)
    stamp = f"{moment:%b} {moment.day:2d} {moment:%H:%M:%S}"
    head = f"<{priority}>{stamp} {source.hostname} {source.tag}[{os.getpid()}]: "
    return head.encode() + message.text


def _rfc5424(priority: int, source: Source, message: Message, *, digits: str = "seconds") -> bytes:
    stamp = _moment(message).isoformat(timespec=digits).replace("+00:00", "Z")
    tag = source.tag
    head = f"<{priority}>1 {stamp} {source.hostname} {tag} {os.getpid()} {tag} - "
    return head.encode() + message.text


def _rfc5424_micro(priority: int, source: Source, message: Message) -> bytes:
    return _rfc5424(priority, source, message, digits="microseconds")


_FORMATS: dict[str, Format] = {
    "": _unix,
    "rfc3164": _rfc3164,
    "rfc5424": _rfc5424,
    "rfc5424micro": _rfc5424_micro,
}


def _own() -> Address:
    """The machine's own daemon."""
    for path in _LOCAL:
        if Path(path).is_socket():
            return Address("unixgram", path=path)
    raise APIError("Unix syslog delivery error")


def _sink(address: Address, options: dict[str, str], encode: Encoder) -> LineSink[Any]:
    if address.path and not Path(address.path).exists():
        raise InvalidParameter(f"stat {address.path}: no such file or directory")
    if address.scheme in ("udp", "unixgram"):
        return LineSink(Datagrams(address), lambda messages: list(map(encode, messages)))
    stream = Stream(address, _tls(address, options))
    return LineSink(stream, lambda messages: b"".join(map(encode, messages)))


def _tls(address: Address, options: dict[str, str]) -> ssl.SSLContext | None:
    if address.scheme != "tcp+tls":
        return None
    context = ssl.create_default_context()
    if authority := options.get("syslog-tls-ca-cert"):
        try:
            context = ssl.create_default_context(cafile=authority)
        except (OSError, ssl.SSLError) as error:
            raise InvalidParameter(
                f'could not read CA certificate "{authority}": {_file_words(authority, error)}'
            ) from error
    if log_options.is_true(options.get("syslog-tls-skip-verify", "")):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate := options.get("syslog-tls-cert"):
        key = options.get("syslog-tls-key", "")
        try:
            context.load_cert_chain(certificate, key or None)
        except (OSError, ssl.SSLError) as error:
            words = _file_words(certificate, error)
            raise InvalidParameter(f"could not load X509 key pair: {words}") from error
    return context


def _file_words(path: str, error: Exception) -> str:
    if isinstance(error, ssl.SSLError) or not isinstance(error, OSError):
        return str(error)
    return f"open {path}: {(error.strerror or '').lower()}"
