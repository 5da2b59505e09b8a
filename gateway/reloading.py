"""SIGHUP: settings are read again from where they came from, and what can change while the server runs does.

That are the numbers of transfers (`max_concurrent_downloads`, `max_concurrent_uploads`, `max_download_attempts`), mirrors
and insecure registries, labels and the log's level; everything else waits for the next start.  Settings that are wrong
change nothing.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dockerapi.errors import APIError
from gateway.settings import Settings

log = logging.getLogger(__name__)

_RELOADED = (
    "max_concurrent_downloads",
    "max_concurrent_uploads",
    "max_download_attempts",
    "registry_mirrors",
    "insecure_registries",
    "labels",
    "log_level",
)


class InForce:
    """The settings that hold now: those of the start, and of later ones what needs no start."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def take(self, settings: Settings) -> Settings:
        """Of other settings what can change while we run; what holds then."""
        update = {name: getattr(settings, name) for name in _RELOADED}
        self.settings = self.settings.model_copy(update=update)
        return self.settings


@contextmanager
def reloading(read: Callable[[], Settings], take: Callable[[Settings], None]) -> Iterator[None]:
    """While the block runs, SIGHUP hands `take` what `read` gives.  Never ends the process, as it would by itself."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, _reload, read, take)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


def _reload(read: Callable[[], Settings], take: Callable[[Settings], None]) -> None:
    try:
        settings = read()
    except (APIError, OSError) as error:
        log.error("settings are not reloaded: %s", error)  # noqa: TRY400 - one line for whoever wrote them
        return
    logging.getLogger().setLevel(settings.log_level.upper())
    take(settings)
    log.info("settings are reloaded")
