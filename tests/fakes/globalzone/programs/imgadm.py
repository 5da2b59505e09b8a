"""imgadm: list, get, import, install, delete, ancestry, sources over root/var/imgadm and the pool.

An image server's file stands for a zfs send stream: a tar of the root, compressed as the manifest says; of a
zvol, the bytes of its disk.  `install` of a docker layer has imgadm's own faults: whiteouts are applied
after the tar, opaque ones not at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import getopt
import hashlib
import json
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from gateway.hosts import trees
from tests.fakes.globalzone.call import Call, Failed
from tests.fakes.globalzone.gz import GZ
from tests.fakes.globalzone.programs.chroot_gtar import extract

Manifest = dict[str, Any]

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_TYPES = ("zone-dataset", "lx-dataset", "zvol", "docker", "other")
_MAGIC = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}
_BLOCK = 1 << 20


async def main(gz: GZ, call: Call) -> int:
    """One command; its exit code."""
    if not call.arguments:
        raise Failed("imgadm: error (Usage): no command given", 1)
    command, *arguments = call.arguments
    if command == "--version":
        await call.out("imgadm 3.10.4\n")
        return 0
    imgadm = _Imgadm(gz, call, command)
    run = getattr(imgadm, f"do_{command}", None)
    if run is None:
        raise Failed(f'imgadm: error (UnknownCommand): unknown command: "{command}"')
    try:
        await run(arguments)
    except getopt.GetoptError as error:
        raise imgadm.error("UnknownOption", f'unknown option: "-{error.opt}"') from error
    return 0


class _Imgadm:
    """One run."""

    def __init__(self, gz: GZ, call: Call, command: str) -> None:
        self._gz = gz
        self._call = call
        self._command = command
        self._database = gz.root / "var/imgadm/images"

    def error(self, code: str, text: str) -> Failed:
        return Failed(f"imgadm {self._command}: error ({code}): {text}")

    # --- what is there

    async def do_list(self, arguments: list[str]) -> None:
        options, filters = getopt.getopt(arguments, "Hjo:s:ad", ["docker"])
        rows = [self._row(manifest) for manifest in self._manifests()]
        for key, _, value in (one.partition("=") for one in filters):
            rows = [row for row in rows if str(row["manifest"].get(key)) == value]
        if any(option == "-j" for option, _ in options):
            await self._call.out(json.dumps(rows, indent=2) + "\n")
            return
        lines = ["UUID                                  NAME  VERSION  OS  TYPE  PUB"]
        for row in rows:
            manifest = row["manifest"]
            cells = [manifest[key] for key in ("uuid", "name", "version", "os", "type")]
            lines.append("  ".join([*cells, manifest.get("published_at", "-")[:10]]))
        await self._call.out("\n".join(lines) + "\n")

    async def do_get(self, arguments: list[str]) -> None:
        options, names = getopt.getopt(arguments, "crP:")
        row = self._row(self._installed(self._one(names)))
        if any(option == "-c" for option, _ in options):
            name = f"{self._gz.pool.name}/{row['manifest']['uuid']}"
            row["children"] = {"clones": [one.name for one in self._gz.pool.clones(name)]}
        await self._call.out(json.dumps(row, indent=2) + "\n")

    async def do_ancestry(self, arguments: list[str]) -> None:
        options, names = getopt.getopt(arguments, "jHo:P:")
        uuid: str | None = self._one(names)
        rows = []
        while uuid is not None:
            manifest = self._installed(uuid)
            rows.append(self._row(manifest))
            uuid = manifest.get("origin")
        text = json.dumps(rows, indent=2)
        if ("-j", "") not in options:
            text = "\n".join(row["manifest"]["uuid"] for row in rows)
        await self._call.out(text + "\n")

    async def do_sources(self, arguments: list[str]) -> None:
        options, _ = getopt.getopt(arguments, "ja:d:ft:k", ["add-docker-hub"])
        path = self._gz.root / "var/imgadm/imgadm.conf"
        config = json.loads(path.read_text()) if path.exists() else {}
        sources = config.get("sources", [{"url": "https://images.smartos.org", "type": "imgapi"}])
        flags = dict(options)
        if "-a" in flags:
            sources.append({"url": flags["-a"], "type": flags.get("-t", "imgapi")})
        if "-d" in flags:
            sources = [one for one in sources if one["url"] != flags["-d"]]
        path.write_text(json.dumps(config | {"sources": sources}))
        lines = "".join(f"{one['url']}\n" for one in sources)
        await self._call.out(json.dumps(sources, indent=2) + "\n" if "-j" in flags else lines)

    # --- what comes and goes

    async def do_import(self, arguments: list[str]) -> None:
        options, names = getopt.getopt(arguments, "qP:S:")
        flags = dict(options)
        uuid = self._one(names)
        if self._has(uuid):
            manifest = self._installed(uuid)
            await self._say(f"Image {uuid} ({_named(manifest)}) is already installed, skipping")
            return
        async with aiohttp.ClientSession() as session:
            url, manifest = await self._found(session, uuid, flags.get("-S"))
            await self._say(f'Importing {uuid} ({_named(manifest)}) from "{url}"')
            await self._say(f"Gather image {uuid} ancestry")
            missing = [manifest]
            while (origin := missing[-1].get("origin")) and not self._has(origin):
                missing.append(await self._fetched(session, url, origin))
            size = sum(one["files"][0]["size"] for one in missing)
            plural = "s" if len(missing) > 1 else ""
            await self._say(
                f"Must download and install {len(missing)} image{plural} ({size / (1 << 20):.1f} MiB)"
            )
            for one in reversed(missing):
                async with self._locked(one["uuid"]):
                    await self._downloaded(session, url, one)

    async def do_install(self, arguments: list[str]) -> None:
        options, _ = getopt.getopt(arguments, "qP:m:f:")
        flags = dict(options)
        if "-m" not in flags or "-f" not in flags:
            raise self.error("Usage", "missing option: -m MANIFEST and -f FILE")
        manifest = json.loads(await asyncio.to_thread(Path(flags["-m"]).read_text))
        self._check(manifest)
        uuid = manifest["uuid"]
        if self._has(uuid):
            await self._say(f"Image {uuid} ({_named(manifest)}) is already installed, skipping")
            return
        origin = manifest.get("origin")
        if origin and not self._has(origin):
            raise self.error("OriginNotInstalled", f'origin image "{origin}" is not installed')
        await self._say(f"Installing image {uuid} ({_named(manifest)})")
        async with self._locked(uuid):
            await self._installed_from(manifest, Path(flags["-f"]), "")
        await self._say(f"Installed image {uuid}")

    async def do_delete(self, arguments: list[str]) -> None:
        _, names = getopt.getopt(arguments, "P:")
        uuid = self._one(names)
        self._installed(uuid)
        name = f"{self._gz.pool.name}/{uuid}"
        if clones := [one.name for one in self._gz.pool.clones(name)]:
            raise self.error(
                "ImageHasDependentClones",
                f'image "{uuid}" has dependent clones: {", ".join(sorted(clones))}',
            )
        await self._gz.pool.destroy(name, recursive=True)
        self._entry(uuid).unlink(missing_ok=True)
        await self._call.out(f"Deleted image {uuid}\n")

    # --- steps

    async def _found(
        self, session: aiohttp.ClientSession, uuid: str, source: str | None
    ) -> tuple[str, Manifest]:
        path = self._gz.root / "var/imgadm/imgadm.conf"
        configured = json.loads(path.read_text()).get("sources", []) if path.exists() else []
        for url in [source] if source else [one["url"] for one in configured]:
            with contextlib.suppress(FileNotFoundError):
                return url, await self._fetched(session, url, uuid)
        raise self.error(
            "ActiveImageNotFound",
            f"an active image with uuid {uuid} was not found in image sources",
        )

    async def _fetched(self, session: aiohttp.ClientSession, url: str, uuid: str) -> Manifest:
        base, _, query = url.partition("?")
        address = f"{base.rstrip('/')}/images/{uuid}{'?' + query if query else ''}"
        try:
            async with session.get(address) as answer:
                if answer.status == 404:
                    raise FileNotFoundError(uuid)
                manifest: Manifest = await answer.json()
        except aiohttp.ClientError as error:
            raise self.error("Connection", f"{url}: {error}") from error
        self._check(manifest)
        return manifest

    def _check(self, manifest: Manifest) -> None:
        if manifest.get("type") not in _TYPES:
            raise self.error(
                "NotSupported", f'cannot install image of type "{manifest.get("type")}"'
            )
        if not _UUID.fullmatch(manifest.get("uuid", "")):
            raise self.error("InvalidManifest", 'manifest is invalid: "uuid"')

    async def _downloaded(
        self, session: aiohttp.ClientSession, url: str, manifest: Manifest
    ) -> None:
        uuid, wanted = manifest["uuid"], manifest["files"][0]
        folder = self._gz.root / "var/tmp/.imgadm-downloads"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{uuid}.file"
        digest, size = hashlib.sha1(usedforsecurity=False), 0
        base, _, query = url.partition("?")
        address = f"{base.rstrip('/')}/images/{uuid}/file{'?' + query if query else ''}"
        async with session.get(address) as answer:
            if answer.status != 200:
                raise self.error("Download", f"{address}: HTTP {answer.status}")
            with path.open("wb") as out:
                async for block in answer.content.iter_chunked(_BLOCK):
                    out.write(block)
                    digest.update(block)
                    size += len(block)
                    await self._call.out(f"\rDownload 1 image  {100 * size // wanted['size']}%")
        await self._call.out("\n")
        if size != wanted["size"] or digest.hexdigest() != wanted["sha1"]:
            path.unlink()
            raise self.error("DownloadError", f"{uuid}: checksum or size of the file is wrong")
        await self._say(f"Downloaded image {uuid} ({size / (1 << 20):.1f} MiB)")
        try:
            await self._installed_from(manifest, path, url)
        finally:
            path.unlink()
        await self._say(f"Imported image {uuid}")

    async def _installed_from(self, manifest: Manifest, file: Path, url: str) -> None:
        pool, uuid = self._gz.pool, manifest["uuid"]
        name = f"{pool.name}/{uuid}"
        if pool.exists(f"{name}-partial"):
            await pool.destroy(f"{name}-partial", recursive=True)
        try:
            await self._partial(manifest, file, f"{name}-partial")
        except BaseException:
            if pool.exists(f"{name}-partial"):
                await pool.destroy(f"{name}-partial", recursive=True)
            raise
        await pool.snapshot(f"{name}-partial@final")
        row = {"manifest": manifest, "zpool": pool.name, "source": url}
        self._entry(uuid).write_text(json.dumps(row, indent=2))
        await pool.rename(f"{name}-partial", name)

    async def _partial(self, manifest: Manifest, file: Path, name: str) -> None:
        pool = self._gz.pool
        if manifest["type"] == "zvol":
            made = await pool.create(name, {"volsize": str(manifest.get("image_size", 0) << 20)})
            await asyncio.to_thread(shutil.copyfile, file, pool.folder(made) / "disk")
            return
        origin = manifest.get("origin")
        if origin:
            made = await pool.clone(f"{pool.name}/{origin}@final", name)
        else:
            made = await pool.create(name)
            (made.mountpoint / "root").mkdir()
        with file.open("rb") as opened:
            head = opened.read(262)
        compression = _MAGIC.get(head[:2], "none")
        if compression == "none" and not head.endswith(b"ustar"):
            return  # a stream of which no test wants to see anything
        if compression == "zstd":
            raise self.error("Unsupported", f"{file}: unknown compression of the layer")
        await extract(self._gz, str(made.mountpoint), "root", str(file), compression)
        if manifest["type"] == "docker":
            await asyncio.to_thread(_late_whiteouts, made.mountpoint / "root")

    @contextlib.asynccontextmanager
    async def _locked(self, uuid: str) -> AsyncIterator[None]:
        """By a file that is not there before, as the real one; held while the images are made."""
        path = self._gz.root / "var/run" / f"img.{uuid}.import.lock"
        while True:
            try:
                path.open("x").close()
                break
            except FileExistsError:
                await asyncio.sleep(0.05)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)

    # --- the database

    def _entry(self, uuid: str) -> Path:
        return self._database / f"{self._gz.pool.name}-{uuid}.json"

    def _has(self, uuid: str) -> bool:
        return self._gz.pool.exists(f"{self._gz.pool.name}/{uuid}") and self._entry(uuid).exists()

    def _installed(self, uuid: str) -> Manifest:
        if not self._has(uuid):
            raise self.error(
                "ImageNotInstalled", f'image "{uuid}" was not found on zpool "{self._gz.pool.name}"'
            )
        manifest: Manifest = json.loads(self._entry(uuid).read_text())["manifest"]
        return manifest

    def _manifests(self) -> list[Manifest]:
        """Entries whose dataset is there: as the real one, which lists datasets."""
        start = f"{self._gz.pool.name}-"
        names = sorted(path.name for path in self._database.glob(f"{start}*.json"))
        uuids = [name.removeprefix(start).removesuffix(".json") for name in names]
        return [self._installed(uuid) for uuid in uuids if self._has(uuid)]

    def _row(self, manifest: Manifest) -> dict[str, Any]:
        row: dict[str, Any] = json.loads(self._entry(manifest["uuid"]).read_text())
        name = f"{self._gz.pool.name}/{manifest['uuid']}"
        return row | {"cloneCount": len(self._gz.pool.clones(name))}

    def _one(self, names: list[str]) -> str:
        if len(names) != 1:
            raise self.error("Usage", f"incorrect number of args ({len(names)})")
        if not _UUID.fullmatch(names[0]):
            raise self.error("InvalidUUID", f'invalid uuid: "{names[0]}"')
        return names[0]

    async def _say(self, text: str) -> None:
        await self._call.out(text + "\n")


def _named(manifest: Manifest) -> str:
    return f"{manifest['name']}@{manifest['version']}"


def _late_whiteouts(root: Path) -> None:
    """As imgadm does them, with what is wrong about it."""
    for marker in list(root.rglob(".wh.*")):
        for path in (marker.with_name(marker.name[4:]), marker):
            with contextlib.suppress(FileNotFoundError):
                trees.remove(str(path))
