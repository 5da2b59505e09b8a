"""TLS contexts for tcp listeners, from dockerd's --tls* settings."""

from __future__ import annotations

import ssl

from dockerapi.errors import InvalidParameter
from gateway.settings import Settings


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """None without --tls and --tlsverify; with --tlsverify clients must show a certificate of the CA.

    InvalidParameter names the file that is missing or unreadable.
    """
    if not (settings.tls or settings.tlsverify):
        return None
    if settings.tlscert is None or settings.tlskey is None:
        raise InvalidParameter("--tls needs --tlscert and --tlskey")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.tlscert, settings.tlskey)
        if settings.tlsverify:
            if settings.tlscacert is None:
                raise InvalidParameter("--tlsverify needs --tlscacert")
            context.load_verify_locations(settings.tlscacert)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise InvalidParameter(f"TLS certificates cannot be used: {error}") from error
    return context
