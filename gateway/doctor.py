"""`zonegate doctor`: what this machine can do, what it lacks, and what follows from that.

Each platform examines itself, in its `checkup` module; only that of the chosen one is imported.
"""

from __future__ import annotations

from gateway.hosts.checkup import Finding
from gateway.settings import Settings


async def examine(settings: Settings) -> list[Finding]:
    """Everything, most important first."""
    if settings.backend == "smartos":
        from gateway.hosts.smartos.checkup import examine as of_smartos  # noqa: PLC0415

        return await of_smartos(settings)
    from gateway.hosts.linux.checkup import examine as of_linux  # noqa: PLC0415

    return await of_linux(settings)
