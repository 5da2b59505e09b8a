"""Key spelling of Docker's JSON, and the base of all request bodies.

Attributes are snake_case, keys PascalCase; what the rule does not give stands in `IRREGULAR`.
Unknown keys are kept out silently, as Go's decoder does; null means "not given".
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Strict, model_validator

JSONObject = dict[str, Any]
"""An answer, ready to be serialised, keys as on the wire."""

Boolean = Annotated[bool, Strict()]
Whole = Annotated[int, Strict()]
"""A text is neither of them, whatever it says, as for Go's decoder."""

_TEXTS = (list[str], list[str] | None, dict[str, str], dict[str, str] | None)

IRREGULAR = {
    "io_maximum_iops": "IOMaximumIOps",
    "io_maximum_bandwidth": "IOMaximumBandwidth",
    "blkio_device_read_iops": "BlkioDeviceReadIOps",
    "blkio_device_write_iops": "BlkioDeviceWriteIOps",
    "ipam_config": "IPAMConfig",
    "ip_address": "IPAddress",
    "ip_prefix_len": "IPPrefixLen",
    "ipv4_address": "IPv4Address",
    "ipv6_address": "IPv6Address",
    "ipv6_gateway": "IPv6Gateway",
    "global_ipv6_address": "GlobalIPv6Address",
    "global_ipv6_prefix_len": "GlobalIPv6PrefixLen",
    "link_local_ips": "LinkLocalIPs",
    "endpoint_id": "EndpointID",
    "network_id": "NetworkID",
    "dns_names": "DNSNames",
    "device_ids": "DeviceIDs",
    "container_id_file": "ContainerIDFile",
    "username": "username",
    "password": "password",
    "serveraddress": "serveraddress",
    "identitytoken": "identitytoken",
    "auth": "auth",
    "email": "email",
    "registrytoken": "registrytoken",
}


def wire_name(attribute: str) -> str:
    """`restart_policy` -> `RestartPolicy`."""
    return IRREGULAR.get(attribute) or "".join(
        part[0].upper() + part[1:] for part in attribute.split("_")
    )


class Body(BaseModel):
    """A request body.  Go matches keys without regard to case, so does this."""

    model_config = ConfigDict(alias_generator=wire_name, populate_by_name=True, extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _as_go_reads_it(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        aliases, texts = _keys(cls)
        found = {
            aliases.get(key.lower(), key): value for key, value in data.items() if value is not None
        }
        return found | {key: _without_null(found[key]) for key in texts & found.keys()}


@cache
def _keys(body: type[Body]) -> tuple[dict[str, str], frozenset[str]]:
    """The keys of a body by their small letters, and those of lists and maps of texts."""
    names = {field.alias or name: field.annotation for name, field in body.model_fields.items()}
    texts = frozenset(key for key, kind in names.items() if kind in _TEXTS)
    return {key.lower(): key for key in names}, texts


def _without_null(value: Any) -> Any:
    """For Go's decoder a null among texts is an empty one."""
    if isinstance(value, dict):
        return {key: "" if text is None else text for key, text in value.items()}
    return ["" if text is None else text for text in value] if isinstance(value, list) else value
