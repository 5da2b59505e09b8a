"""Image references: grammar, familiar form and full form.

    [registry[:port]/]path[:tag][@sha256:hex]
    busybox                 -> docker.io/library/busybox:latest
    ghcr.io/a/b@sha256:...  -> as it is

The full name is the key of the catalog; the familiar name is what clients see in RepoTags.
"""

from __future__ import annotations

from dataclasses import dataclass

from imgsources.oci import Digest


@dataclass(frozen=True, slots=True)
class Reference:
    """A named image.  `registry` and `path` are in full form: docker.io, library/busybox."""

    registry: str
    path: str
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """InvalidParameter("invalid reference format ...") in dockerd's words; no default tag is added."""
        raise NotImplementedError

    @property
    def familiar_name(self) -> str:
        """Without tag and digest, as clients see it: busybox, me/app, localhost:5000/x."""
        raise NotImplementedError

    @property
    def full_name(self) -> str:
        """Without tag and digest: docker.io/library/busybox."""
        raise NotImplementedError

    def with_default_tag(self) -> Reference:
        """`:latest` where there is neither tag nor digest."""
        raise NotImplementedError

    def __str__(self) -> str:
        """Familiar form with tag and digest."""
        raise NotImplementedError
