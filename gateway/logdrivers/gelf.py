"""The log driver gelf: Graylog's extended log format 1.1, by udp (compressed, in chunks) or tcp (ended by a zero).

chunk = 1e 0f, message id (8), number (1), count (1), up to 1408 bytes of the message; at most 128 of them
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from typing import Any

from dockerapi.errors import APIError
from dockerapi.framing import StreamId
from gateway.logdrivers import Message, Sink, Source
from gateway.logdrivers.wire import Datagrams, LineSink, Stream
from gateway.translate import log_options
from gateway.translate.log_options import Address
from gateway.translate.status import go_time

_CHUNK = 1420
_CHUNK_HEAD = 12
_CHUNKS = 128
_LEVEL = {StreamId.STDOUT: 6, StreamId.STDERR: 3}
_WINDOW = {"gzip": 16 + zlib.MAX_WBITS, "zlib": zlib.MAX_WBITS}


async def open_sink(source: Source) -> Sink:
    """Connected.  APIError in dockerd's words."""
    address = log_options.gelf_address(source.options)
    sink = _sink(address, source)
    try:
        await sink.dial()
    except APIError as error:
        where = f"{address.host}:{address.port}"
        words = f"gelf: cannot connect to GELF endpoint: {where} {error.message}"
        raise APIError(words) from error
    return sink


def _sink(address: Address, source: Source) -> LineSink[Any]:
    """A message without a text is none."""
    encode = Encoder(source)
    kind = source.options.get("gelf-compression-type", "gzip")
    level = int(source.options.get("gelf-compression-level", "1"))

    def datagrams(messages: Sequence[Message]) -> list[bytes]:
        whole = (compressed(encode(message), kind, level) for message in messages if message.text)
        return [chunk for data in whole for chunk in chunks(data)]

    def stream(messages: Sequence[Message]) -> bytes:
        return b"".join(encode(message) + b"\0" for message in messages if message.text)

    if address.scheme == "udp":
        return LineSink(Datagrams(address), datagrams)
    return LineSink(Stream(address), stream)


class Encoder:
    """Messages of one container as JSON."""

    def __init__(self, source: Source) -> None:
        self._about = {
            "_container_id": source.container_id,
            "_container_name": source.name.removeprefix("/"),
            "_image_id": source.image_id,
            "_image_name": source.image_name,
            "_command": source.command,
            "_tag": source.tag,
            "_created": go_time(source.created_ns),
            **{
                key if key.startswith("_") else f"_{key}": value
                for key, value in source.attributes.items()
            },
        }
        self._hostname = source.hostname

    def __call__(self, message: Message) -> bytes:
        """One message."""
        body = {
            "version": "1.1",
            "host": self._hostname,
            "short_message": message.text.decode("utf-8", "replace"),
            "timestamp": message.time_ns // 1_000_000 / 1000,
            "level": _LEVEL[message.stream],
        }
        return json.dumps(body | self._about, ensure_ascii=False, separators=(",", ":")).encode()


def compressed(data: bytes, kind: str, level: int) -> bytes:
    """By gzip, zlib or none."""
    if kind == "none":
        return data
    packer = zlib.compressobj(level, zlib.DEFLATED, _WINDOW[kind])
    return packer.compress(data) + packer.flush()


def chunks(data: bytes) -> list[bytes]:
    """The datagrams of one message; none of one that is too large for the format."""
    if len(data) <= _CHUNK:
        return [data]
    size = _CHUNK - _CHUNK_HEAD
    count = -(-len(data) // size)
    if count > _CHUNKS:
        return []
    head = b"\x1e\x0f" + os.urandom(8)
    return [
        head + bytes((number, count)) + data[number * size : (number + 1) * size]
        for number in range(count)
    ]
