"""Files that a client names by URL: fetched into a file, with what the server said of them."""

from __future__ import annotations

import email.utils
import posixpath
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import aiofiles
import aiohttp
from yarl import URL

from dockerapi.errors import APIError, Forbidden, InvalidParameter, NotFound, Unauthorized
from imgsources.answers import MAX_ERROR_BYTES, go_words

_BLOCK = 1 << 18
_STALLED_S = 60
_KINDS = {400: InvalidParameter, 401: Unauthorized, 403: Forbidden, 404: NotFound}
_TEXT = ("text/", "application/x-dockerfile")


@dataclass(frozen=True, slots=True)
class Fetched:
    """`name` is the last part of the URL's path, "" if it has none; `mtime_s` 0 where the server does not say."""

    name: str
    size: int
    mtime_s: int
    is_text: bool


async def fetch(url: str, path: Path) -> Fetched:
    """Into `path`, redirects followed.  NotFound, or APIError with what went wrong, in Go's words."""
    timeout = aiohttp.ClientTimeout(total=None, connect=30, sock_read=_STALLED_S)
    size = 0
    try:
        # auto_decompress: what a server calls a gzip-encoded tar is the archive itself.
        async with (
            aiohttp.ClientSession(
                timeout=timeout, auto_decompress=False, trust_env=True
            ) as session,
            session.get(url) as answer,
            aiofiles.open(path, "wb") as out,
        ):
            if answer.status >= 400:
                said = (await answer.content.read(MAX_ERROR_BYTES)).decode(errors="replace").strip()
                kind = _KINDS.get(answer.status, APIError)
                raise kind(
                    f"failed to GET {url} with status {answer.status} {answer.reason or ''}".rstrip()
                    + (f": {said}" if said else "")
                )
            async for block in answer.content.iter_chunked(_BLOCK):
                size += len(block)
                await out.write(block)
            headers = answer.headers
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        words = str(error) if isinstance(error, ValueError) else go_words(error, URL(url))
        raise APIError(f'Get "{url}": {words}') from error
    return Fetched(
        posixpath.basename(unquote(urlsplit(url).path)),
        size,
        _seconds(headers.get("Last-Modified", "")),
        headers.get("Content-Type", "").startswith(_TEXT),
    )


def _seconds(date: str) -> int:
    try:
        return int(email.utils.parsedate_to_datetime(date).timestamp())
    except ValueError:
        return 0
