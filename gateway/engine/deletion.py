"""What may be removed of an image, by dockerd's rules.  Pure.

A name takes itself away; with the last name goes the image, unless a container uses it.
An id takes everything away, if there are names in one repository only or the client forces it.
"""

from __future__ import annotations

from collections.abc import Sequence

from dockerapi.errors import Conflict
from imgsources.catalog import Image
from imgsources.references import Reference


def is_id_prefix(image: Image, text: str) -> bool:
    """Whether the client named the image by (part of) its id."""
    return image.id.startswith(text) or image.id[7:].startswith(text)


def is_single(image: Image) -> bool:
    """At most one tag, and all names in one repository."""
    names = {ref.familiar_name for ref in image.references}
    names |= {digest.partition("@")[0] for digest in image.repo_digests}
    return len(image.references) <= 1 and len(names) <= 1


def check_untag(image: Image, ref: str, users: Sequence[str], *, force: bool) -> None:
    """Conflict where taking the only name would leave a container's image without one."""
    if not force and is_single(image) and users:
        raise Conflict(
            f'conflict: unable to remove repository reference "{ref}" (must force) - '
            f"container {users[0][:12]} is using its referenced image {image.id[7:19]}"
        )


def check_delete(
    image: Image,
    running: Sequence[str],
    stopped: Sequence[str],
    *,
    force: bool,
    ignores_names: bool = False,
    has_children: bool = False,
) -> None:
    """Conflict in dockerd's words; `ignores_names` when its names are going anyway.

    `has_children`: other images were committed on top of it.
    """
    if has_children:
        raise _conflict(image, "cannot", "image has dependent child images")
    if running:
        raise _conflict(image, "cannot", f"image is being used by running container {running[0]}")
    if force:
        return
    if not ignores_names and (image.references or image.repo_digests):
        raise _conflict(image, "must", "image is referenced in multiple repositories")
    if stopped:
        raise _conflict(image, "must", f"image is being used by stopped container {stopped[0]}")


def _conflict(image: Image, word: str, why: str) -> Conflict:
    return Conflict(f"conflict: unable to delete {image.id[7:19]} ({word} be forced) - {why}")


def names(image: Image) -> list[Reference]:
    """Tags, then digests: the order in which they go."""
    return [*image.references, *(Reference.parse(text) for text in image.repo_digests)]
