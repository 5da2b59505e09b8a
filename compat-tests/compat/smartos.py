"""A SmartOS machine for `--backend smartos`: the platform's programs, played by tests/fakes/globalzone.

With `over_ssh` the gateway reaches it as another machine, through a real OpenSSH server.
"""

from __future__ import annotations

from pathlib import Path

from tests.fakes import sshd
from tests.fakes.globalzone import process


class SmartOS:
    """One machine; a `compat.daemons.Platform`."""

    def __init__(self, folder: Path, *, over_ssh: bool, **options: str) -> None:
        self.gz = process.start(folder / "gz", **options)
        self._sshd = sshd.start(folder / "ssh", self.gz.environment) if over_ssh else None

    def flags(self, folder: Path) -> list[str]:
        """The backend, and a config file with what `[smartos]` needs."""
        rows = {
            "root": str(self.gz.root),
            "nic_tag": "admin",
            "subnet": str(self.gz.subnet),
            "gateway": self.gz.gateway,
        }
        if self._sshd is not None:
            rows |= {
                "host": self._sshd.url,
                "identity_file": str(self._sshd.identity_file),
                "known_hosts": str(self._sshd.known_hosts),
            }
        config = folder / "config.toml"
        config.write_text("[smartos]\n" + "".join(f'{k} = "{v}"\n' for k, v in rows.items()))
        return ["--backend", "smartos", "--config", str(config)]

    @property
    def environment(self) -> dict[str, str]:
        """Of a gateway in the global zone; over SSH it needs none of it."""
        return self.gz.environment

    def stop(self) -> None:
        """Zones, mounts and processes are gone."""
        if self._sshd is not None:
            self._sshd.stop()
        self.gz.stop()
