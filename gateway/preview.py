"""`zonegate spec`: the vmadm JSON that a `docker run` would create, without a daemon.

The image's config comes from the catalog in the data root, else from the registry or image server (nothing of
its layers is fetched), else from a file: an image config, or an image server's manifest as `imgadm get` has it.
Nothing is written.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import socket
import sys
from collections.abc import Sequence

import aiohttp
from pydantic import ValidationError
from yarl import URL

from dockerapi.errors import InvalidParameter, NoSuchImage, NotSupported
from dockerapi.models.containers import ContainerCreate
from gateway.engine import names
from gateway.hosts.linux import offline as linux
from gateway.hosts.smartos import offline as smartos
from gateway.hosts.smartos.facts import facts as smartos_facts
from gateway.settings import Settings
from gateway.translate import smartos as platform
from gateway.translate.facts import Identity, ImageFacts, Surroundings
from gateway.translate.mounts import MountPoint
from gateway.translate.run_arguments import RunRequest
from gateway.translate.to_zone import NO_IMAGE, mount_points, plan, zone_spec
from gateway.zones import brands
from gateway.zones.spec import Nic, is_uuid
from imgsources import imgapi, oci
from imgsources.catalog import Catalog
from imgsources.oci import ImageConfig, Platform, parse_config
from imgsources.references import Reference
from imgsources.registry import RegistryClient


async def payload(
    settings: Settings,
    request: RunRequest,
    *,
    image_config: bytes | None,
    image_uuid: str | None,
    uuid: str | None,
    image_manifest: bytes | None = None,
    image_type: str | None = None,
) -> dict[str, object]:
    """The payload; ids that are given are used, others are drawn.

    InvalidParameter, NoSuchImage and the registry's errors, in the words that `docker run` would show.
    """
    try:
        body = ContainerCreate.model_validate(request.body)
    except ValidationError as error:
        raise InvalidParameter(f"invalid arguments: {error.errors()[0]['msg']}") from error
    if image_manifest is not None:
        facts = _from_manifest(_object(image_manifest, "--image-manifest"))
    elif image_type not in (None, "docker"):
        facts = _of_type(str(image_type), image_uuid)
    elif image_config is not None:
        facts = _from_file(image_config)
    else:
        facts = await _image(settings, body.image, request.platform)
    if image_uuid is not None:
        facts = dataclasses.replace(facts, uuid=_checked(image_uuid, "--image-uuid"))
    first = _checked(uuid, "--uuid").replace("-", "") if uuid else secrets.token_hex(16)
    identity = Identity(
        first + secrets.token_hex(16),
        names.checked(request.name) if request.name else names.generate(lambda _: False),
    )
    wanted = _next_nic(settings)
    found = plan(body, facts, identity, _surroundings(settings, wanted))
    if found.joins or body.host_config.volumes_from:
        raise InvalidParameter(
            "another container's namespaces or volumes are known to a running gateway only"
        )
    if found.requests and wanted is None:
        raise InvalidParameter(
            "network bridge has no addresses to give: set smartos.subnet, or run with --network none"
        )
    nics: Sequence[Nic] = [wanted] if found.requests and wanted else []
    points = [_placed(point, settings) for point in mount_points(found, ())]
    return zone_spec(found, nics=nics, points=points).payload()


def _next_nic(settings: Settings) -> Nic | None:
    state = settings.data_root / "networks"
    if settings.backend == "smartos":
        return smartos.next_nic(settings, state)
    return linux.next_nic(settings, state)


def _from_manifest(manifest: dict[str, object]) -> ImageFacts:
    """As an image server has it, or within what `imgadm get` prints."""
    inner = manifest.get("manifest", manifest)
    if not isinstance(inner, dict) or inner.get("type") not in imgapi.TYPES:
        raise InvalidParameter(
            f"--image-manifest: a manifest of an image of type {', '.join(imgapi.TYPES)} is needed"
        )
    _checked(str(inner.get("uuid")), "--image-manifest: uuid")
    remote = imgapi.remote_image(inner, URL("https://localhost"))
    return dataclasses.replace(
        _from_config(remote.config, remote.uuids[-1]), type=str(inner["type"]), manifest=inner
    )


def _of_type(kind: str, uuid: str | None) -> ImageFacts:
    """An image of which nothing is known but this."""
    if kind not in brands.IMAGE_TYPES:
        raise InvalidParameter(f"--image-type: {kind} is none of {', '.join(brands.IMAGE_TYPES)}")
    if uuid is None:
        raise InvalidParameter(f"--image-type {kind} needs --image-uuid")
    os = {"zone-dataset": "smartos"}.get(kind, "linux")
    return ImageFacts(id="", uuid=_checked(uuid, "--image-uuid"), os=os, type=kind)


async def _image(settings: Settings, text: str, wanted: str | None) -> ImageFacts:
    root = settings.data_root / "images"
    if root.is_dir():
        try:
            image = Catalog(root).get(text)
        except NoSuchImage:
            pass
        else:
            facts = _from_config(image.config, image.uuid or "")
            return dataclasses.replace(facts, type=image.type, manifest=image.imgapi)
    return await _from_registry(settings, text, wanted)


async def _from_registry(settings: Settings, text: str, wanted: str | None) -> ImageFacts:
    reference = Reference.parse(text).with_default_tag()
    chosen = Platform(*wanted.split("/")) if wanted else None
    async with aiohttp.ClientSession(auto_decompress=False, trust_env=True) as session:
        servers = imgapi.ImageServers(session, settings.smartos.image_servers)
        if is_uuid(text) or servers.serve(reference):
            remote = await (
                servers.resolve_uuid(text, chosen)
                if is_uuid(text)
                else servers.resolve(reference, chosen)
            )
            return _from_manifest(dict(remote.imgapi))
        client = RegistryClient(
            session,
            mirrors=settings.registry_mirrors,
            insecure=settings.insecure_registries,
            auth=None,
        )
        remote = await client.resolve(reference, chosen)
    digests = [layer.digest for layer in remote.manifest.layers]
    return _from_config(remote.config, oci.image_uuid(digests) if digests else "")


def _from_file(raw: bytes) -> ImageFacts:
    """An image config by hand need not say which layers it has."""
    document = _object(raw, "--image-config")
    if "rootfs" not in document:
        raw = json.dumps({**document, "rootfs": {"type": "layers", "diff_ids": []}}).encode()
    return _from_config(parse_config(raw), NO_IMAGE)


def _object(raw: bytes, flag: str) -> dict[str, object]:
    try:
        document = json.loads(raw)
    except ValueError as error:
        raise InvalidParameter(f"{flag}: {error}") from error
    if not isinstance(document, dict):
        raise InvalidParameter(f"{flag}: not a JSON object")
    return document


def _from_config(config: ImageConfig, uuid: str) -> ImageFacts:
    return ImageFacts(id=config.digest, uuid=uuid, config=config.config, os=config.platform.os)


def _checked(uuid: str, flag: str) -> str:
    if not is_uuid(uuid):
        raise InvalidParameter(f"{flag}: {uuid!r} is not a UUID in lower-case hex")
    return uuid


def _surroundings(settings: Settings, nic: Nic | None) -> Surroundings:
    known = Surroundings(
        instance=settings.name,
        hostname=socket.gethostname(),
        ncpu=os.cpu_count() or 1,
        dns=settings.dns,
        host_gateway=(nic and nic.gateway) or "",
        zone_defaults=platform.zone_defaults(settings),
    )
    if settings.backend != "smartos":
        return known
    facts = smartos_facts({}, settings, resolvers=settings.dns)
    return dataclasses.replace(
        known,
        # How many CPUs it has, the machine alone knows.
        ncpu=sys.maxsize,
        cgroup_version=facts.cgroup_version,
        runtimes=facts.runtimes,
        default_runtime=facts.default_runtime,
        limits=facts.limits,
        platform=facts.platform,
        interface=settings.smartos.interface,
    )


def _placed(point: MountPoint, settings: Settings) -> MountPoint:
    """A volume's folder is where the host would make it; an anonymous one gets a name."""
    if point.type == "image":
        raise NotSupported("a mount of an image: its dataset is known to a running gateway only")
    if point.type != "volume":
        return point
    name = point.name or secrets.token_hex(32)
    folder = settings.data_root / "volumes" / name / "_data"
    return dataclasses.replace(point, name=name, source=str(folder))
