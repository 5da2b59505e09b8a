"""Image references: grammar, familiar form and full form.

    [registry[:port]/]path[:tag][@sha256:hex]
    busybox                 -> docker.io/library/busybox:latest
    ghcr.io/a/b@sha256:...  -> as it is

The grammar is distribution's; what is refused is refused in dockerd's words.  The full name is the key
of the catalog; the familiar name is what clients see in RepoTags.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from dockerapi.errors import InvalidParameter
from imgsources.oci import Digest

DEFAULT_REGISTRY = "docker.io"
DEFAULT_TAG = "latest"
MAX_PATH_LENGTH = 255

_LEGACY_REGISTRY = "index.docker.io"
_OFFICIAL = "library/"

_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"

_REFERENCE = re.compile(
    rf"(?P<registry>{_HOST})/(?P<path>{_COMPONENT}(?:/{_COMPONENT})*)"
    rf"(?::(?P<tag>[0-9A-Za-z_][0-9A-Za-z_.-]{{0,127}}))?"
    rf"(?:@(?P<digest>{_DIGEST}))?"
)
_IDENTIFIER = re.compile(r"[a-f0-9]{64}")
_INVALID = "invalid reference format"


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
        if _IDENTIFIER.fullmatch(text):
            raise InvalidParameter(
                f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings"
            )
        registry, rest = _split_registry(text)
        name = rest.partition(":")[0]
        if name.lower() != name:
            raise InvalidParameter(f"{_INVALID}: repository name ({name}) must be lowercase")
        match = _REFERENCE.fullmatch(f"{registry}/{rest}")
        if match is None:
            raise InvalidParameter(_INVALID)
        if len(match["path"]) > MAX_PATH_LENGTH:
            raise InvalidParameter(
                f"{_INVALID}: repository name must not be more than {MAX_PATH_LENGTH} characters"
            )
        digest = None if match["digest"] is None else _checked_digest(match["digest"])
        return cls(registry, match["path"], match["tag"], digest)

    @property
    def familiar_name(self) -> str:
        """Without tag and digest, as clients see it: busybox, me/app, localhost:5000/x."""
        if self.registry != DEFAULT_REGISTRY:
            return self.full_name
        official = self.path.removeprefix(_OFFICIAL)
        return self.path if "/" in official else official

    @property
    def full_name(self) -> str:
        """Without tag and digest: docker.io/library/busybox."""
        return f"{self.registry}/{self.path}"

    @property
    def full(self) -> str:
        """Full form with tag and digest; `parse` gives the same value back."""
        return self.full_name + self._suffix()

    def with_default_tag(self) -> Reference:
        """`:latest` where there is neither tag nor digest."""
        if self.tag is not None or self.digest is not None:
            return self
        return replace(self, tag=DEFAULT_TAG)

    def with_tag(self, tag: str) -> Reference:
        """The same repository under another tag, without a digest; InvalidParameter if malformed."""
        return Reference.parse(f"{self.full_name}:{tag}")

    def with_digest(self, digest: Digest) -> Reference:
        """The same repository by digest alone."""
        return replace(self, tag=None, digest=digest)

    def __str__(self) -> str:
        """Familiar form with tag and digest."""
        return self.familiar_name + self._suffix()

    def _suffix(self) -> str:
        tag = "" if self.tag is None else f":{self.tag}"
        return tag if self.digest is None else f"{tag}@{self.digest}"


def _split_registry(text: str) -> tuple[str, str]:
    """(registry, rest) with both in full form; the first component is a host only if it looks like one."""
    first, slash, rest = text.partition("/")
    if not slash or not _is_host(first):
        first, rest = DEFAULT_REGISTRY, text
    if first == _LEGACY_REGISTRY:
        first = DEFAULT_REGISTRY
    # The tag of `x:a/b` is malformed either way; only the name decides whether this is official.
    if first == DEFAULT_REGISTRY and "/" not in rest:
        rest = _OFFICIAL + rest
    return first, rest


def _is_host(component: str) -> bool:
    # A namespace cannot have capitals, so a component that has some can only be a host name.
    return (
        component == "localhost"
        or "." in component
        or ":" in component
        or component.lower() != component
    )


def _checked_digest(text: str) -> Digest:
    algorithm, _, encoded = text.partition(":")
    if algorithm != "sha256":
        raise InvalidParameter(f"{_INVALID}: unsupported digest algorithm")
    if len(encoded) != 64:
        raise InvalidParameter(f"{_INVALID}: invalid checksum digest length")
    if encoded.lower() != encoded:
        raise InvalidParameter(f"{_INVALID}: invalid checksum digest format")
    return Digest(text)
