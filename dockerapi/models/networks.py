"""Bodies of the network routes."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from dockerapi.models.base import Body, Boolean
from dockerapi.models.containers import EndpointSettings


class IPAMConfig(Body):
    """One subnet; all as text, "" = not given."""

    subnet: str = ""
    ip_range: str = Field("", alias="IPRange")
    gateway: str = ""
    aux_addresses: dict[str, str] | None = Field(None, alias="AuxiliaryAddresses")


class IPAM(Body):
    """Who gives out addresses, and which."""

    driver: str = ""
    options: dict[str, str] | None = None
    config: list[IPAMConfig | None] | None = None


class ConfigReference(Body):
    """A network that another takes its configuration from."""

    network: str = ""


class NetworkCreate(Body):
    """POST /networks/create.  None = not given."""

    name: str = ""
    driver: str = ""
    scope: str = ""
    enable_ipv4: Boolean | None = Field(None, alias="EnableIPv4")
    enable_ipv6: Boolean | None = Field(None, alias="EnableIPv6")
    ipam: IPAM | None = Field(None, alias="IPAM")
    internal: Boolean = False
    attachable: Boolean = False
    ingress: Boolean = False
    config_only: Boolean = False
    config_from: ConfigReference | None = None
    options: dict[str, str] | None = None
    labels: dict[str, str] | None = None
    check_duplicate: Any = None


class NetworkConnect(Body):
    """POST /networks/{id}/connect."""

    container: str = ""
    endpoint_config: EndpointSettings | None = None


class NetworkDisconnect(Body):
    """POST /networks/{id}/disconnect."""

    container: str = ""
    force: Boolean = False
