"""nftables by libnftables in this process: the rules of one instance, as text, and the context that runs them.

All rules of an instance are in a table of its own, `inet zonegate_NAME`.  Other people's tables are read
(`dropping_chains`) and never changed.  Rules go in as text only: libnftables 1.0.6 dies of SIGSEGV on JSON
*input* of a dnat to a concatenated map, though it prints exactly that JSON.

    raw         packets of zones to 127.x: dropped, route_localnet would let them in
    prerouting, output -> published     the ports map says where a local port leads
    postrouting masquerade: host's loopback to a zone; hairpin; zones to the outside
    forward     answers and published ports; zones of one network (`same`); nothing else into a bridge
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any, Literal

from dockerapi.errors import CommandFailed, NotSupported

_LIBRARY = "libnftables.so.1"
_JSON = 1 << 4


@dataclass(frozen=True, slots=True)
class BridgedSubnet:
    """A network as the rules see it."""

    bridge: str
    subnet: IPv4Network


@dataclass(frozen=True, slots=True)
class Redirect:
    """A local port and the zone's port that it leads to.  `address` None = any of the machine's."""

    protocol: Literal["tcp", "udp"]
    address: IPv4Address | None
    port: int
    to: IPv4Address
    to_port: int


def table_of(name: str) -> str:
    """Table name of an instance."""
    return f"zonegate_{name}"


def ruleset(name: str, networks: Sequence[BridgedSubnet], redirects: Iterable[Redirect]) -> str:
    """One transaction that makes the table anew: at no moment is a live zone's port unreachable."""
    bridges = "".join(
        f'\n  add element inet {table_of(name)} bridges {{ "{n.bridge}" }}' for n in networks
    )
    subnets = "".join(
        f"\n  add element inet {table_of(name)} subnets {{ {n.subnet} }}" for n in networks
    )
    same = "".join(f'\n  iifname "{n.bridge}" oifname "{n.bridge}" accept' for n in networks)
    return f"""add table inet {table_of(name)}
delete table inet {table_of(name)}
table inet {table_of(name)} {{
 set bridges {{ type ifname; }}
 set subnets {{ type ipv4_addr; flags interval; }}
 map ports {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
 map ports_at {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
 chain raw {{ type filter hook prerouting priority -300; iifname @bridges ip daddr 127.0.0.0/8 drop; }}
 chain prerouting {{ type nat hook prerouting priority -100; fib daddr type local jump published; }}
 chain output {{ type nat hook output priority -100; fib daddr type local jump published; }}
 chain published {{
  dnat ip to ip daddr . meta l4proto . th dport map @ports_at
  dnat ip to meta l4proto . th dport map @ports
 }}
 chain postrouting {{ type nat hook postrouting priority 100;
  ip saddr 127.0.0.0/8 oifname @bridges masquerade
  ip saddr @subnets oifname @bridges ct status dnat masquerade
  ip saddr @subnets oifname != @bridges masquerade
 }}
 chain forward {{ type filter hook forward priority 0;
  ct state established,related accept
  ct status dnat accept
  iifname @bridges oifname @bridges jump same
  iifname != @bridges oifname @bridges drop
 }}
 chain same {{{same}
  drop
 }}
}}
{bridges}{subnets}
{add_redirects(name, redirects)}"""


def add_redirects(name: str, redirects: Iterable[Redirect]) -> str:
    """Text that publishes ports.  A key that is there with another value is an error of nft's."""
    return "\n".join(
        f"add element inet {table_of(name)} {_map(r)} {{ {_key(r)} : {r.to} . {r.to_port} }}"
        for r in redirects
    )


def delete_redirects(name: str, redirects: Iterable[Redirect]) -> str:
    """Text that takes them back.  One that is missing is an error of nft's."""
    return "\n".join(
        f"delete element inet {table_of(name)} {_map(r)} {{ {_key(r)} }}" for r in redirects
    )


def delete_table(name: str) -> str:
    """Text that removes everything of an instance, whether it is there or not."""
    return f"add table inet {table_of(name)}\ndelete table inet {table_of(name)}"


def _map(redirect: Redirect) -> str:
    return "ports" if redirect.address is None else "ports_at"


def _key(redirect: Redirect) -> str:
    local = f"{redirect.protocol} . {redirect.port}"
    return local if redirect.address is None else f"{redirect.address} . {local}"


def dropping_chains(listing: str) -> tuple[str, ...]:
    """`FAMILY TABLE CHAIN` of every base chain that drops forwarded IPv4 by its policy.

    `listing` is the JSON answer to `list chains`.  A drop in any base chain is final: no rule in a
    table of our own can lift it.
    """
    chains = [row["chain"] for row in json.loads(listing).get("nftables", []) if "chain" in row]
    return tuple(
        f"{c['family']} {c['table']} {c['name']}"
        for c in chains
        if c.get("hook") == "forward"
        and c.get("policy") == "drop"
        and c["family"] in ("ip", "inet")
    )


class Nft:
    """A libnftables context of the network namespace it was made in.  Blocking; for one thread at a time."""

    def __init__(self) -> None:
        self._library = _load()
        self._context = self._library.nft_ctx_new(0)
        if not self._context:
            raise NotSupported(f"{_LIBRARY} gives no context: nftables is missing in the kernel")
        self._library.nft_ctx_output_set_flags(self._context, _JSON)
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)

    def run(self, text: str) -> str:
        """Run commands as one transaction; what they print, as JSON.  CommandFailed with nft's words."""
        status = self._library.nft_run_cmd_from_buffer(self._context, text.encode())
        errors = self._library.nft_ctx_get_error_buffer(self._context) or b""
        output = self._library.nft_ctx_get_output_buffer(self._context) or b""
        if status != 0:
            first = errors.decode(errors="replace").strip().partition("\n")[0]
            raise CommandFailed("nft", status, f"{text}\n{first}")
        return str(output.decode(errors="replace"))

    def close(self) -> None:
        """Free the context."""
        if self._context:
            self._library.nft_ctx_free(self._context)
            self._context = None


def _load() -> Any:
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise NotSupported(
            f"{_LIBRARY} is missing (package libnftables1): no networks without it"
        ) from error
    # Without these, ctypes cuts pointers to 32 bits.
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    for name in ("nft_ctx_free", "nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
        getattr(library, name).restype = ctypes.c_char_p
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    return library


def version() -> str:
    """Version of the library as its file name has it, "" if it cannot be loaded."""
    try:
        ctypes.CDLL(_LIBRARY)
    except OSError:
        return ""
    return _LIBRARY
