"""Bodies of the system routes, and credentials."""

from __future__ import annotations

from dockerapi.models.base import Body


class AuthConfig(Body):
    """POST /auth, and X-Registry-Auth decoded.  Lower-case keys on the wire."""

    username: str = ""
    password: str = ""
    auth: str = ""
    email: str = ""
    serveraddress: str = ""
    identitytoken: str = ""
    registrytoken: str = ""
