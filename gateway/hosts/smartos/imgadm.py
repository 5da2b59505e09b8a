"""imgadm: manifests and database entries as it writes them, its commands, its lock.

    /var/imgadm/images/POOL-UUID.json   {"manifest": {...}, "zpool": POOL, "source": URL}
    /var/run/img.UUID.import.lock       there while somebody makes that image's dataset

Images of docker are written here and applied by datasets.py (imgadm's own import of them mishandles opaque
whiteouts, and knows no zstd); images of an IMGAPI server are imgadm's to fetch.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from dockerapi.errors import APIError, CommandFailed, Conflict, NotFound, Unavailable
from dockerapi.framing import StreamId
from gateway.hosts.smartos.globalzone import GlobalZone
from imgsources.datasets import LayerInfo
from imgsources.oci import ImageUUID
from imgsources.references import Reference

Manifest = dict[str, Any]
"""As IMGAPI and imgadm write it."""

NO_OWNER = "00000000-0000-0000-0000-000000000000"
HUB = "https://docker.io"

_DATABASE = "var/imgadm/images"
_TIMEOUT_S = 120.0
_IMPORT_TIMEOUT_S = 3600.0
_LOCK_POLL_S = 0.5
_KEPT_CONFIG = ("Cmd", "Entrypoint", "Env", "WorkingDir")
_UNKNOWN_DATE = "1970-01-01T00:00:00.000Z"
_FRACTION = re.compile(r"(\.\d{6})\d+")
_ENTRY = re.compile(r"(?P<zpool>.+)-(?P<uuid>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.json")
# `imgadm: error (ImageNotFound): no image with uuid ... was found`
_ERROR = re.compile(r"error \((\w+)\): (.*)", re.DOTALL)
_DESCRIPTION_LIMIT = 255


# --- values


def layer_manifest(uuid: ImageUUID, origin: ImageUUID | None, layer: LayerInfo) -> Manifest:
    """The manifest of one layer's dataset, as imgadm makes it of a docker image."""
    repository, tags = layer.repository, []
    for text in layer.tags:
        reference = Reference.parse(text)
        repository = repository or reference.familiar_name
        tags.append(reference.tag)
    manifest: Manifest = {
        "v": 2,
        "uuid": uuid,
        "owner": NO_OWNER,
        "name": "docker-layer",
        "version": layer.digest.removeprefix("sha256:")[:12],
        "disabled": False,
        "public": True,
        "published_at": published_at(layer.created),
        "type": "docker",
        "os": "linux",
    }
    if layer.description:
        manifest["description"] = layer.description[:_DESCRIPTION_LIMIT]
    if origin is not None:
        manifest["origin"] = origin
    manifest["tags"] = {
        "docker:repo": repository,
        "docker:id": layer.digest,
        "docker:architecture": layer.architecture,
        **{f"docker:tag:{tag}": True for tag in tags if tag},
        "docker:config": {
            key: layer.config.get(key) for key in _KEPT_CONFIG if key in layer.config
        },
    }
    return manifest


def published_at(created: str) -> str:
    """`created` of an image config in imgadm's form, milliseconds in UTC; the epoch where it is no time."""
    text = _FRACTION.sub(r"\1", created.strip())
    try:
        when = datetime.datetime.fromisoformat(text)
    except ValueError:
        return _UNKNOWN_DATE
    with suppress(OverflowError):
        when = when.astimezone(datetime.UTC) if when.tzinfo else when.replace(tzinfo=datetime.UTC)
        return f"{when.year:04}-{when:%m-%dT%H:%M:%S}.{when.microsecond // 1000:03d}Z"
    return _UNKNOWN_DATE


def entry(manifest: Manifest, *, zpool: str, source: str = HUB) -> bytes:
    """A file of the database."""
    return json.dumps({"manifest": manifest, "zpool": zpool, "source": source}, indent=2).encode()


def entry_path(root: str, zpool: str, uuid: str) -> str:
    """Of an image's database entry."""
    return f"{root.rstrip('/')}/{_DATABASE}/{zpool}-{uuid}.json"


def source_of(layer: LayerInfo) -> str:
    """The registry that a layer came from, as imgadm names its sources."""
    name = layer.tags[0] if layer.tags else layer.repository
    if not name:
        return HUB
    host = Reference.parse(name).registry
    return f"https://{host}"


# --- the database's files


async def known(gz: GlobalZone, root: str, zpool: str) -> frozenset[ImageUUID]:
    """Every image that the database has an entry for, whether its dataset is there or not."""
    try:
        names = await gz.names(f"{root.rstrip('/')}/{_DATABASE}")
    except NotFound:
        return frozenset()  # nothing was ever imported
    found = (_ENTRY.fullmatch(name) for name in names)
    # A pool may be called zones-2.
    return frozenset(
        ImageUUID(match["uuid"]) for match in found if match and match["zpool"] == zpool
    )


async def read_entry(gz: GlobalZone, root: str, zpool: str, uuid: str) -> Manifest:
    """The manifest in the database; NotFound, and APIError if it is no entry."""
    raw = await gz.read(entry_path(root, zpool, uuid))
    try:
        manifest = json.loads(raw)["manifest"]
        return dict(manifest)
    except (ValueError, KeyError, TypeError) as error:
        raise APIError(f"imgadm's entry of image {uuid} is unreadable") from error


async def write_entry(
    gz: GlobalZone, root: str, manifest: Manifest, *, zpool: str, source: str
) -> None:
    """The image is known from now on."""
    path = entry_path(root, zpool, manifest["uuid"])
    body = entry(manifest, zpool=zpool, source=source)
    try:
        await gz.write(path, body, mode=0o644)
    except NotFound:
        await gz.make_folder(path.rpartition("/")[0])
        await gz.write(path, body, mode=0o644)


# --- commands


async def list_images(gz: GlobalZone) -> list[Manifest]:
    """Manifests of every installed image (`imgadm list -j`)."""
    rows = _parsed(await _run(gz, "list", "-j"))
    return [row["manifest"] for row in rows] if isinstance(rows, list) else []


async def get_image(gz: GlobalZone, uuid: str) -> Manifest:
    """The manifest of an installed image; NotFound."""
    return dict(_parsed(await _run(gz, "get", uuid))["manifest"])


async def import_image(
    gz: GlobalZone,
    uuid: str,
    *,
    source: str,
    zpool: str,
    progress: Callable[[str], None] | None = None,
) -> Manifest:
    """Have imgadm fetch an image and its origins from an IMGAPI server; the manifest.

    Already installed is fine.  `progress` gets each line that imgadm prints.  NotFound if the server has no
    such image; APIError with imgadm's words for the rest.
    """
    program = await gz.spawn(["imgadm", "import", "-P", zpool, "-S", source, uuid])
    errors = bytearray()
    try:
        async with asyncio.timeout(_IMPORT_TIMEOUT_S):
            async for stream, line in _lines(program.output()):
                if stream is StreamId.STDERR:
                    errors += line + b"\n"
                elif progress is not None and (text := line.decode(errors="replace").strip()):
                    progress(text)
            status = await program.wait()
    except TimeoutError as error:
        raise Unavailable(f"imgadm has not imported image {uuid} within an hour") from error
    finally:
        await program.close()
    if status != 0:
        raise _meaning(CommandFailed("imgadm", status, errors.decode(errors="replace")))
    return await get_image(gz, uuid)


async def delete_image(gz: GlobalZone, uuid: str, *, zpool: str) -> None:
    """Dataset and entry; NotFound, and Conflict while zones or images stand on it."""
    await _run(gz, "delete", "-P", zpool, uuid)


async def _run(gz: GlobalZone, *arguments: str) -> bytes:
    try:
        return await gz.run(["imgadm", *arguments], timeout_s=_TIMEOUT_S)
    except CommandFailed as error:
        raise _meaning(error) from error


def _meaning(error: CommandFailed) -> APIError:
    """imgadm's error code as one of ours."""
    found = _ERROR.search(error.stderr)
    if found is None:
        return error
    code, text = found[1], " ".join(found[2].split())
    if code.endswith("NotFound") or code == "ImageNotInstalled":
        return NotFound(text, detail=error.stderr)
    if code in ("ImageHasDependentClones", "ImageHasDependents"):
        return Conflict(text, detail=error.stderr)
    return APIError(f"imgadm: {text}", detail=error.stderr)


def _parsed(output: bytes) -> Any:
    try:
        return json.loads(output)
    except ValueError as error:
        raise APIError("imgadm's answer is not JSON", detail=repr(output[:200])) from error


async def _lines(
    output: AsyncIterator[tuple[StreamId, bytes]],
) -> AsyncIterator[tuple[StreamId, bytes]]:
    """Lines of both streams; a progress bar draws over its line with carriage returns."""
    rest: dict[StreamId, bytes] = {}
    async for stream, data in output:
        *lines, rest[stream] = re.split(rb"[\r\n]", rest.get(stream, b"") + data)
        for line in lines:
            yield stream, line
    for stream, line in rest.items():
        yield stream, line


# --- the lock

# O_EXCL is the only thing that makes a lock of a file: noclobber gives it to the shell.  That somebody has the lock
# cannot be seen by looking at it afterwards, he may be done by then: a folder that can be written says it.
_HELD = 75
_TAKE = (
    'set -C; if : > "$1"; then set +C; echo "$2" > "$1" && exit; rm -f "$1"; exit 1; fi; '
    f'test -w "${{1%/*}}" && exit {_HELD}; exit 1'
)


def lock_path(root: str, uuid: str) -> str:
    """imgadm's lock while an image is imported."""
    return f"{root.rstrip('/')}/var/run/img.{uuid}.import.lock"


@asynccontextmanager
async def import_lock(
    gz: GlobalZone, root: str, uuid: str, owner: str, *, held: set[str], timeout_s: float
) -> AsyncIterator[bool]:
    """Hold the lock while the block runs; gives whether somebody else had it first.

    `owner` is written into it, `held` are the images whose locks this process has: another one with our
    name in it was left behind when the machine could not be reached.  Unavailable if it is not free within
    `timeout_s`.
    """
    path = lock_path(root, uuid)
    had_to_wait = False
    async with _reserved(held, uuid):
        try:
            async with asyncio.timeout(timeout_s):
                while not await _take(gz, path, owner):
                    had_to_wait = True
                    await _break_stale(gz, path, owner)
                    await asyncio.sleep(_LOCK_POLL_S)
        except TimeoutError as error:
            raise Unavailable(
                f"image {uuid} is being imported by another program: {path} has been there for "
                f"{timeout_s:g} s (remove it if nothing runs)"
            ) from error
        try:
            yield had_to_wait
        finally:
            await gz.remove(path)


@asynccontextmanager
async def _reserved(held: set[str], uuid: str) -> AsyncIterator[None]:
    """Only one of this process tries: the puller sees to it, and this says so if it does not."""
    if uuid in held:
        raise Conflict(f"dataset {uuid} is being made")
    held.add(uuid)
    try:
        yield
    finally:
        held.discard(uuid)


async def _take(gz: GlobalZone, path: str, owner: str) -> bool:
    try:
        await gz.run(["bash", "-c", _TAKE, "zonegate-lock", path, owner], timeout_s=_TIMEOUT_S)
    except CommandFailed as error:
        if error.exit_status != _HELD:
            raise  # the folder is missing, or not ours to write
        return False
    return True


async def _break_stale(gz: GlobalZone, path: str, owner: str) -> None:
    """Remove a lock that is ours and not held, or whose owner wrote his pid into it and is gone."""
    try:
        text = (await gz.read(path, size=64)).decode(errors="replace").strip()
    except NotFound:
        return
    if text == owner or (text.isdigit() and await gz.status(f"/proc/{text}") is None):
        await gz.remove(path)


async def break_locks(gz: GlobalZone, root: str, owner: str) -> Sequence[str]:
    """Remove the locks that an earlier life of ours left; the images they were for."""
    folder = f"{root.rstrip('/')}/var/run"
    found: list[str] = []
    for name in await gz.names(folder):
        uuid = name.removeprefix("img.").removesuffix(".import.lock")
        if name != f"img.{uuid}.import.lock":
            continue
        with suppress(NotFound):
            if (await gz.read(f"{folder}/{name}", size=256)).decode(
                errors="replace"
            ).strip() == owner:
                await gz.remove(f"{folder}/{name}")
                found.append(uuid)
    return found
