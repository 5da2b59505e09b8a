"""Whether the other side of a unix socket has accepted us, which connect(2) does not tell.

conmon accepts one client per round of its loop and forwards output meanwhile: who lets a process start
after `connect` alone loses the first 8 KiB now and then, and the second client another 8.  The kernel's socket
diagnosis knows: the peer of a connection that waits in the backlog has no inode yet.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
import sys
from collections.abc import Sequence

log = logging.getLogger(__name__)

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_SHOW_PEER = 4
_ATTRIBUTE_PEER = 2
_NO_COOKIE = 0xFFFFFFFF
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBHIIIII")
_ATTRIBUTE = struct.Struct("=HH")
_MESSAGE_SIZE = 16
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.0001, 0.005
# Where the kernel has no diagnosis of unix sockets: conmon needs one round of its loop.
_BLIND_WAIT_S = 0.01


async def accepted(socks: Sequence[socket.socket], *, timeout_s: float = 5.0) -> None:
    """Wait until every connected socket was accepted, or closed, or the time is over (a line in the log)."""
    if not socks:
        return
    try:
        diagnosis = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG
        )
    except OSError:
        await asyncio.sleep(_BLIND_WAIT_S)
        return
    with diagnosis:
        try:
            async with asyncio.timeout(timeout_s):
                for sock in socks:
                    await _accepted(diagnosis, sock)
        except TimeoutError:
            log.warning("conmon does not accept its clients: they may miss the first output")


async def _accepted(diagnosis: socket.socket, sock: socket.socket) -> None:
    delay = _FIRST_DELAY_S
    while (peer := _peer(diagnosis, sock)) == 0:
        await asyncio.sleep(delay)
        delay = min(delay * 2, _LONGEST_DELAY_S)
    if peer is None:
        await asyncio.sleep(_BLIND_WAIT_S)


def _peer(diagnosis: socket.socket, sock: socket.socket) -> int | None:
    """Inode of the other side, 0 before it is accepted; None if the kernel does not say (or it has gone)."""
    if sock.fileno() < 0:
        return None
    inode = os.fstat(sock.fileno()).st_ino
    size = _HEADER.size + _REQUEST.size
    header = _HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0)
    request = _REQUEST.pack(
        socket.AF_UNIX, 0, 0, 0xFFFFFFFF, inode, _SHOW_PEER, _NO_COOKIE, _NO_COOKIE
    )
    diagnosis.send(header + request)
    answer = diagnosis.recv(8192)  # the kernel has answered before send returns
    if _HEADER.unpack_from(answer)[1] != _SOCK_DIAG_BY_FAMILY:
        return None
    return _attribute(answer[_HEADER.size + _MESSAGE_SIZE :], _ATTRIBUTE_PEER)


def _attribute(data: bytes, wanted: int) -> int | None:
    position = 0
    while position + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, position)
        if kind == wanted:
            return int.from_bytes(data[position + 4 : position + 8], sys.byteorder)
        position += (length + 3) & ~3 or len(data)
    return None
