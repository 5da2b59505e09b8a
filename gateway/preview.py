"""`zonegate spec`: the vmadm JSON that a `docker run` would create, without a daemon.

The image's config comes from the catalog in the data root, else from the registry (its layers are not
fetched), else from a file.  Nothing is written.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import socket
from collections.abc import Sequence

import aiohttp
from pydantic import ValidationError

from dockerapi.errors import InvalidParameter, NoSuchImage
from dockerapi.models.containers import ContainerCreate
from gateway.engine import names
from gateway.hosts.linux.offline import next_nic
from gateway.settings import Settings
from gateway.translate.facts import Identity, ImageFacts, Surroundings
from gateway.translate.mounts import MountPoint
from gateway.translate.run_arguments import RunRequest
from gateway.translate.to_zone import mount_points, plan, zone_spec
from gateway.zones.spec import Nic, is_uuid
from imgsources import oci
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
) -> dict[str, object]:
    """The payload; ids that are given are used, others are drawn.

    InvalidParameter, NoSuchImage and the registry's errors, in the words that `docker run` would show.
    """
    try:
        body = ContainerCreate.model_validate(request.body)
    except ValidationError as error:
        raise InvalidParameter(f"invalid arguments: {error.errors()[0]['msg']}") from error
    facts = (
        _from_file(image_config)
        if image_config is not None
        else await _image(settings, body.image, request.platform)
    )
    if image_uuid is not None:
        facts = dataclasses.replace(facts, uuid=_checked(image_uuid, "--image-uuid"))
    first = _checked(uuid, "--uuid").replace("-", "") if uuid else secrets.token_hex(16)
    identity = Identity(
        first + secrets.token_hex(16),
        names.checked(request.name) if request.name else names.generate(lambda _: False),
    )
    wanted = next_nic(settings, settings.data_root / "networks")
    found = plan(body, facts, identity, _surroundings(settings, wanted))
    if found.joins or body.host_config.volumes_from:
        raise InvalidParameter(
            "another container's namespaces or volumes are known to a running gateway only"
        )
    nics: Sequence[Nic] = [wanted] if found.requests else []
    points = [_placed(point, settings) for point in mount_points(found, ())]
    return zone_spec(found, nics=nics, points=points).payload()


async def _image(settings: Settings, text: str, wanted: str | None) -> ImageFacts:
    root = settings.data_root / "images"
    if root.is_dir():
        try:
            image = Catalog(root).get(text)
        except NoSuchImage:
            pass
        else:
            return _from_config(image.config, image.uuid or "")
    return await _from_registry(settings, text, wanted)


async def _from_registry(settings: Settings, text: str, wanted: str | None) -> ImageFacts:
    reference = Reference.parse(text).with_default_tag()
    async with aiohttp.ClientSession(auto_decompress=False, trust_env=True) as session:
        client = RegistryClient(
            session,
            mirrors=settings.registry_mirrors,
            insecure=settings.insecure_registries,
            auth=None,
        )
        chosen = Platform(*wanted.split("/")) if wanted else None
        remote = await client.resolve(reference, chosen)
    digests = [layer.digest for layer in remote.manifest.layers]
    return _from_config(remote.config, oci.image_uuid(digests) if digests else "")


def _from_file(raw: bytes) -> ImageFacts:
    """An image config by hand need not say which layers it has."""
    try:
        document = json.loads(raw)
    except ValueError as error:
        raise InvalidParameter(f"--image-config: {error}") from error
    if isinstance(document, dict) and "rootfs" not in document:
        raw = json.dumps({**document, "rootfs": {"type": "layers", "diff_ids": []}}).encode()
    return _from_config(parse_config(raw), "")


def _from_config(config: ImageConfig, uuid: str) -> ImageFacts:
    return ImageFacts(id=config.digest, uuid=uuid, config=config.config, os=config.platform.os)


def _checked(uuid: str, flag: str) -> str:
    if not is_uuid(uuid):
        raise InvalidParameter(f"{flag}: {uuid!r} is not a UUID in lower-case hex")
    return uuid


def _surroundings(settings: Settings, nic: Nic) -> Surroundings:
    return Surroundings(
        instance=settings.name,
        hostname=socket.gethostname(),
        ncpu=os.cpu_count() or 1,
        dns=settings.dns,
        host_gateway=nic.gateway or "",
        zone_defaults=settings.zone_defaults,
    )


def _placed(point: MountPoint, settings: Settings) -> MountPoint:
    """A volume's folder is where the host would make it; an anonymous one gets a name."""
    if point.type != "volume":
        return point
    name = point.name or secrets.token_hex(32)
    folder = settings.data_root / "volumes" / name / "_data"
    return dataclasses.replace(point, name=name, source=str(folder))
