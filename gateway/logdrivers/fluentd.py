"""The log driver fluentd: the forward protocol, version 1, by tcp, tls or a unix socket.

    message = [tag, time, {container_id, container_name, source, log, ...}, option]
    option  = nil, or {"chunk": id}: then the far end answers {"ack": id} when it has the message

The far end's log of many messages is one of each of them here: what was not acknowledged is sent again.
"""

from __future__ import annotations

import base64
import importlib
import os
import ssl
import struct
from collections.abc import Sequence
from typing import Any

from dockerapi.errors import APIError, NotSupported
from dockerapi.framing import StreamId
from gateway.logdrivers import Message, Sink, Source
from gateway.logdrivers.wire import Stream
from gateway.translate import log_options

_ACK_TIMEOUT_S = 30.0
_NAMES = {StreamId.STDOUT: "stdout", StreamId.STDERR: "stderr"}


async def open_sink(source: Source) -> Sink:
    """Connected; with `fluentd-async` the connection may wait for the far end.  APIError in dockerd's words."""
    try:
        msgpack = importlib.import_module("msgpack")
    except ImportError as error:
        raise NotSupported("log driver fluentd needs the Python package msgpack") from error
    options = source.options
    address = log_options.fluentd_address(options)
    tls = ssl.create_default_context() if address.scheme == "tcp+tls" else None
    sink = _Forward(Stream(address, tls), source, msgpack)
    asynchronous = any(
        log_options.is_true(options.get(name, ""))
        for name in ("fluentd-async", "fluentd-async-connect")
    )
    try:
        await sink.dial()
    except APIError:
        if not asynchronous:
            raise
    return sink


def record(source: Source, message: Message) -> dict[str, str | bytes]:
    """What is told of one message."""
    found: dict[str, str | bytes] = {
        "container_id": source.container_id,
        "container_name": source.name,
        "source": _NAMES[message.stream],
        "log": message.text,
        **source.attributes,
    }
    if message.piece is not None:
        found |= {
            "partial_message": "true",
            "partial_id": message.piece.id,
            "partial_ordinal": str(message.piece.ordinal),
            "partial_last": "true" if message.piece.is_last else "false",
        }
    return found


class _Forward:
    def __init__(self, stream: Stream, source: Source, msgpack: Any) -> None:
        options = source.options
        self._stream = stream
        self._source = source
        self._msgpack = msgpack
        self._precise = log_options.is_true(options.get("fluentd-sub-second-precision", ""))
        self._acknowledged = log_options.is_true(options.get("fluentd-request-ack", ""))

    async def dial(self) -> None:
        await self._stream.dial()

    async def send(self, messages: Sequence[Message]) -> None:
        if not self._acknowledged:
            await self._stream.send(b"".join(self._encode(message, None) for message in messages))
            return
        for message in messages:
            chunk = base64.b64encode(os.urandom(16)).decode()
            await self._stream.send(self._encode(message, {"chunk": chunk}))
            await self._until_acknowledged(chunk)

    def _encode(self, message: Message, option: dict[str, str] | None) -> bytes:
        fields = record(self._source, message)
        # Text as a string, whatever its bytes are: fluentd's own client in Go does so.
        fields = {key: _text(value) for key, value in fields.items()}
        body = [self._source.tag, self._time(message.time_ns), fields, option]
        packed = self._msgpack.packb(body, use_bin_type=True, unicode_errors="surrogateescape")
        return bytes(packed)

    def _time(self, time_ns: int) -> object:
        seconds, rest = divmod(time_ns, 10**9)
        if not self._precise:
            return seconds
        return self._msgpack.ExtType(0, struct.pack(">II", seconds, rest))

    async def _until_acknowledged(self, chunk: str) -> None:
        unpacker = self._msgpack.Unpacker(raw=False)
        while True:
            unpacker.feed(await self._stream.receive(_ACK_TIMEOUT_S))
            for answer in unpacker:
                if isinstance(answer, dict) and answer.get("ack") == chunk:
                    return

    async def close(self) -> None:
        await self._stream.close()


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("utf-8", "surrogateescape")
