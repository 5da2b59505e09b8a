"""The log driver journald: systemd's native protocol, one datagram an entry.

    FIELD=value\\n          or, where the value has a newline or is no text,
    FIELD\\n length (8 bytes, little endian) value\\n

An entry that is too large for a datagram goes as a sealed file, whose descriptor is sent.
"""

from __future__ import annotations

import array
import asyncio
import errno
import fcntl
import os
import re
import socket
import struct
from collections.abc import Sequence

from dockerapi.errors import APIError
from dockerapi.framing import StreamId
from gateway.logdrivers import JOURNAL, Message, Sink, Source
from gateway.translate.status import go_time

_PRIORITY = {StreamId.STDOUT: "6", StreamId.STDERR: "3"}


async def open_sink(source: Source) -> Sink:
    """APIError where there is no journal."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.setblocking(False)
    try:
        sock.connect(str(JOURNAL))
    except OSError as error:
        sock.close()
        raise APIError("journald is not enabled on this host") from error
    return _Journal(sock, source)


def field(name: str, value: str | bytes) -> bytes:
    """One field of an entry."""
    data = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
    if b"\n" in data:
        return b"%b\n%b%b\n" % (name.encode(), struct.pack("<Q", len(data)), data)
    return b"%b=%b\n" % (name.encode(), data)


def field_name(key: str) -> str:
    """A label's or variable's: capitals, digits and underscores, none of these at the beginning."""
    return re.sub(r"[^A-Z0-9]", "_", key.upper()).lstrip("_")


def entry(source: Source, message: Message) -> bytes:
    """A message as the journal keeps it."""
    fields: list[tuple[str, str | bytes]] = [
        ("MESSAGE", message.text),
        ("PRIORITY", _PRIORITY[message.stream]),
        ("CONTAINER_ID", source.container_id[:12]),
        ("CONTAINER_ID_FULL", source.container_id),
        ("CONTAINER_NAME", source.name.removeprefix("/")),
        ("CONTAINER_TAG", source.tag),
        ("IMAGE_NAME", source.image_name),
        ("SYSLOG_IDENTIFIER", source.tag),
        ("SYSLOG_TIMESTAMP", go_time(message.time_ns)),
    ]
    if message.piece is not None:
        fields += [
            ("CONTAINER_PARTIAL_MESSAGE", "false" if message.piece.is_last else "true"),
            ("CONTAINER_PARTIAL_ID", message.piece.id),
            ("CONTAINER_PARTIAL_ORDINAL", str(message.piece.ordinal)),
            ("CONTAINER_PARTIAL_LAST", "true" if message.piece.is_last else "false"),
        ]
    fields += [
        (name, value) for key, value in source.attributes.items() if (name := field_name(key))
    ]
    return b"".join(field(name, value) for name, value in fields)


class _Journal:
    def __init__(self, sock: socket.socket, source: Source) -> None:
        self._socket = sock
        self._source = source

    async def send(self, messages: Sequence[Message]) -> None:
        loop = asyncio.get_running_loop()
        for message in messages:
            data = entry(self._source, message)
            try:
                await loop.sock_sendall(self._socket, data)
            except OSError as error:
                if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
                    raise
                self._send_file(data)

    def _send_file(self, data: bytes) -> None:
        descriptor = os.memfd_create("journal-entry", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
        try:
            with os.fdopen(os.dup(descriptor), "wb") as file:
                file.write(data)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))
            self._socket.sendmsg([b""], [rights])
        finally:
            os.close(descriptor)

    async def close(self) -> None:
        self._socket.close()
