"""What this host cannot run, said when a zone is created and not when it starts."""

from __future__ import annotations

from dockerapi.errors import InvalidParameter
from gateway.hosts.linux import rotation, signals
from gateway.hosts.linux.restarter import RestartPolicy
from gateway.hosts.linux.sources import check_bind, is_own_volume
from gateway.zones.host import Zone

_MADE_LATER = frozenset(("volume", "nocopy", "create", "image"))


def root_size(zone: Zone) -> int:
    """Bytes that its root may take, 0 = as many as there are."""
    return zone.metadata.runtime.root_size or (zone.spec.quota or 0) << 30


def check(zone: Zone) -> None:
    """APIError for what this host cannot run."""
    try:
        RestartPolicy.parse(zone.metadata.restart_policy)
    except ValueError as error:
        raise InvalidParameter(f"invalid restart policy: {error}") from error
    rotation.Rotation.parse(zone.metadata.log_driver, zone.metadata.log_config)
    if zone.metadata.runtime.stop_signal:
        signals.number(zone.metadata.runtime.stop_signal)
    if not zone.metadata.argv:
        raise InvalidParameter("no command specified")
    options = zone.metadata.runtime.mount_options
    for filesystem in zone.spec.filesystems:
        words = options.get(filesystem.target, ())
        if not is_own_volume(filesystem) and not _MADE_LATER & set(words):
            check_bind(filesystem.source)
