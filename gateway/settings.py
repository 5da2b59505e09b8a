"""What the gateway was told: defaults < TOML file < ZONEGATE_* < flags.

Names are dockerd's where dockerd has the setting.  One frozen value; nothing reads the environment later.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from dockerapi.errors import InvalidParameter


class AddressPool(BaseModel):
    """--default-address-pool base=CIDR,size=N: user networks take subnets of /size from it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: str
    size: Annotated[int, Field(ge=1, le=126)]

    @field_validator("base")
    @classmethod
    def _is_network(cls, base: str) -> str:
        return str(ipaddress.ip_network(base, strict=False))

    @property
    def version(self) -> int:
        """Of IP: 4 or 6."""
        return ipaddress.ip_network(self.base).version

    @model_validator(mode="after")
    def _has_room(self) -> Self:
        base = ipaddress.ip_network(self.base)
        if base.prefixlen > self.size or self.size > base.max_prefixlen - 2:
            raise ValueError(f"{self.base} has no subnet of size /{self.size}")
        return self

    @classmethod
    def parse(cls, text: str) -> AddressPool:
        """`base=10.99.0.0/16,size=24`.  InvalidParameter."""
        parts = dict(part.partition("=")[::2] for part in text.split(","))
        try:
            return cls.model_validate(parts)
        except ValidationError as error:
            raise InvalidParameter(
                f"invalid default address pool {text}: {_reasons(error)}"
            ) from error


def _absolute(path: Path) -> Path:
    """The server's children have other working directories."""
    return path.absolute()


def _label(text: str) -> str:
    if not text.partition("=")[0].strip() or "=" not in text:
        raise ValueError(f"bad attribute format: {text}")
    return text


def _mirror(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ValueError(f'invalid mirror: unsupported scheme "{parts.scheme}" in "{url}"')
    if not parts.netloc or parts.query or parts.fragment or " " in url:
        raise ValueError(f'invalid mirror: "{url}" is not a base URI')
    return url


_REGISTRY = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9a-fA-F:.]+\])(?::[0-9]{1,5})?"
)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _insecure_registry(text: str) -> str:
    if "://" in text:
        raise ValueError(f"insecure registry {text} should not contain '://'")
    if "/" in text:
        return str(ipaddress.ip_network(text, strict=False))
    if not _REGISTRY.fullmatch(text) and not _is_address(text):
        raise ValueError(f'insecure registry {text} is not valid: invalid host "{text}"')
    return text


def _interface(name: str) -> str:
    # Linux: 16 bytes with the zero at the end, no slash, no white space, and no colon.
    if len(name.encode()) > 15 or name in (".", "..") or set(name) & set("/: \t\n"):
        raise ValueError(f'"{name}" is no name of an interface')
    return name


def _name_server(text: str) -> str:
    return str(ipaddress.ip_address(text))


_Path = Annotated[Path, AfterValidator(_absolute)]


def _global_zone(url: str) -> str:
    if not url:
        return url
    parts = urlsplit(url)
    if parts.scheme != "ssh" or not parts.hostname or parts.path.strip("/") or parts.query:
        raise ValueError(f'"{url}" is not ssh://[user@]host[:port]')
    return url


class SmartOSSettings(BaseModel):
    """[smartos]: where the global zone is, and what zones there get that no client asks for.

    Names of the network's values are those of the hand-written specs that admins use.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: Annotated[str, AfterValidator(_global_zone)] = ""
    """--smartos-host: "" = this machine is the global zone; else ssh://[user@]host[:port]."""
    identity_file: Path | None = None
    """Private key for SSH; None = the agent and the usual files in ~/.ssh."""
    known_hosts: Path | None = None
    """Whose host keys are trusted; None = ~/.ssh/known_hosts.  There is no way to trust any key."""
    root: str = "/"
    """Where the platform's own files (/var/imgadm, /var/run, /usr/img) begin: / on every real machine."""
    zpool: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]*$")] = "zones"
    nic_tag: Annotated[str, Field(pattern=r"^[A-Za-z0-9_/]+$")] = "admin"
    """Of the default network."""
    subnet: str = ""
    """CIDR of the default network; "" = it has no addresses to give: containers need --network none or another network."""
    range: str = ""
    """FIRST-LAST: the addresses that zones may get; "" = the whole subnet but the gateway."""
    gateway: str = ""
    """Default router; "" = none."""
    vlan_id: Annotated[int, Field(ge=0, le=4095)] = 0
    mtu: Annotated[int, Field(ge=576, le=9000)] | None = None
    interface: str = ""
    """Of a zone's first nic; "" = what the brand is used to: eth0 on lx, net0 elsewhere."""
    egress_nic: str = ""
    """Interface of the global zone that etherstub networks reach outside by, with ipnat; "" = they are internal."""
    image_servers: tuple[str, ...] = ("https://images.smartos.org",)
    """IMGAPI servers: `docker pull images.smartos.org/base-64-lts:15.4.0`."""

    @field_validator("subnet")
    @classmethod
    def _is_subnet(cls, text: str) -> str:
        return str(ipaddress.IPv4Network(text, strict=False)) if text else ""

    @field_validator("gateway")
    @classmethod
    def _is_gateway(cls, text: str) -> str:
        return str(ipaddress.IPv4Address(text)) if text else ""

    @field_validator("range")
    @classmethod
    def _is_range(cls, text: str) -> str:
        if text:
            first, _, last = text.partition("-")
            if ipaddress.IPv4Address(first.strip()) > ipaddress.IPv4Address(last.strip()):
                raise ValueError(f"{text}: the first address is above the last")
        return text


SMARTOS_ZONE_DEFAULTS: dict[str, int | str] = {
    "max_physical_memory": 1024,
    "max_locked_memory": 1024,
    "max_swap": 2048,
    "quota": 10,
    "max_lwps": 2000,
    "cpu_shares": 100,
}
"""Limits of a zone on SmartOS that neither client nor settings name: without them vmadm's own are 256 MiB and no quota."""


class Settings(BaseModel):
    """Everything that can be set.  `name` tells instances on one machine apart."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,10}$")] = "zonegate"
    """Tag of this instance's zones, its nft table, cgroup parent, and default bridge."""
    hosts: tuple[str, ...] = ("unix:///run/zonegate.sock",)
    data_root: _Path = Path("/var/lib/zonegate")
    exec_root: _Path = Path("/run/zonegate")
    pidfile: _Path | None = None
    group: str = "docker"
    backend: Literal["linux", "smartos"] = "linux"
    storage_driver: Literal["", "overlay2", "btrfs", "zfs"] = ""
    """Of the Linux host; "" = what the data root has, else overlay2, else that of the disk it is on."""
    storage_opts: tuple[str, ...] = ()
    """--storage-opt KEY=VALUE: btrfs.min_space, zfs.fsname."""
    log_level: Literal["debug", "info", "warn", "error", "fatal"] = "info"
    labels: tuple[Annotated[str, AfterValidator(_label)], ...] = ()
    registry_mirrors: tuple[Annotated[str, AfterValidator(_mirror)], ...] = ()
    insecure_registries: tuple[Annotated[str, AfterValidator(_insecure_registry)], ...] = ()
    bridge: Annotated[str, AfterValidator(_interface)] = ""
    """Name of the default network's bridge; "" = `NAME0`, none = no default network."""
    bip: str = ""
    """Address/prefix of the default bridge; "" = first free of the default pools."""
    default_address_pools: tuple[AddressPool, ...] = tuple(
        AddressPool(base=base, size=size)
        for base, size in (
            ("172.17.0.0/16", 16),
            ("172.18.0.0/15", 16),
            ("172.20.0.0/14", 16),
            ("172.24.0.0/13", 16),
            ("192.168.0.0/16", 20),
        )
    )
    """dockerd's own; what the machine or another instance uses is passed over."""
    dns: tuple[Annotated[str, AfterValidator(_name_server)], ...] = ()
    tls: bool = False
    tlsverify: bool = False
    tlscacert: Path | None = None
    tlscert: Path | None = None
    tlskey: Path | None = None
    max_concurrent_downloads: Annotated[int, Field(ge=1)] = 3
    max_concurrent_uploads: Annotated[int, Field(ge=1)] = 5
    max_download_attempts: Annotated[int, Field(ge=1)] = 5
    shutdown_timeout: Annotated[int, Field(ge=0)] = 15
    zone_defaults: dict[str, int | str] = Field(default_factory=dict)
    """Limits put into every spec that the client left open, by vmadm property; on SmartOS laid over
    `SMARTOS_ZONE_DEFAULTS`.  `kernel_version` too: what Linux an lx zone shows."""
    smartos: SmartOSSettings = Field(default_factory=SmartOSSettings)

    @model_validator(mode="after")
    def _has_store(self) -> Self:
        if self.backend == "smartos" and (
            self.storage_driver not in ("", "zfs") or self.storage_opts
        ):
            raise ValueError("storage_driver: on SmartOS it is zfs, and without options")
        return self

    @property
    def bridge_name(self) -> str:
        """Interface of the default network; "" where there is none."""
        return "" if self.bridge == "none" else self.bridge or f"{self.name}0"


def load(
    *, file: Path | None, environment: Mapping[str, str], flags: Mapping[str, Any]
) -> Settings:
    """Settings from all sources; InvalidParameter names the setting and its source is its name there."""
    values: dict[str, Any] = {}
    if file is not None:
        values |= _from_file(file)
    for source in (_from_environment(environment), flags):
        given = {key: value for key, value in source.items() if value is not None}
        table = values.get("smartos", {}) | given.pop("smartos", {})
        values |= given | ({"smartos": table} if table else {})
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise InvalidParameter(f"invalid settings: {_reasons(error)}") from error


def _reasons(error: ValidationError) -> str:
    """On one line, each with the name of its setting."""
    lines = []
    for found in error.errors():
        place = ".".join(map(str, found["loc"]))
        text = found["msg"].removeprefix("Value error, ")
        lines.append(f"{place}: {text}" if place else text)
    return "; ".join(lines)


def _from_file(path: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text())
    except OSError as error:
        raise InvalidParameter(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidParameter(f"{path}: {error}") from error
    return {key.replace("-", "_"): value for key, value in document.items()}


_LISTS = {"hosts", "labels", "registry_mirrors", "insecure_registries", "dns", "storage_opts"}


_OF_SCRIPTS = {"HOME", "STOP_S"}
"""ZONEGATE_* that the SMF method takes itself."""


def unknown_names(environment: Mapping[str, str]) -> list[str]:
    """Variables ZONEGATE_* that set nothing: mostly misspelt.  Tables are for the file alone, too."""
    tables = {"zone_defaults", "smartos"}
    names = Settings.model_fields.keys() - tables | {
        f"smartos_{key}" for key in SmartOSSettings.model_fields
    }
    known = {f"ZONEGATE_{name}" for name in {key.upper() for key in names} | _OF_SCRIPTS}
    return sorted(
        name for name in environment if name.startswith("ZONEGATE_") and name not in known
    )


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key in Settings.model_fields:
        text = environment.get(f"ZONEGATE_{key.upper()}")
        if text is None:
            continue
        if key == "default_address_pools":
            values[key] = [AddressPool.parse(pool) for pool in text.split()]
        elif key in _LISTS:
            values[key] = text.replace(",", " ").split()
        elif key not in ("zone_defaults", "smartos"):
            values[key] = text
    smartos = {
        key: text.replace(",", " ").split() if key == "image_servers" else text
        for key in SmartOSSettings.model_fields
        if (text := environment.get(f"ZONEGATE_SMARTOS_{key.upper()}")) is not None
    }
    if smartos:
        values["smartos"] = smartos
    return values
