"""nftables by libnftables in this process: the rules of one instance, as text, and the context that runs them.

All rules of an instance are in tables of its own, `inet zonegate_NAME` and `bridge zonegate_NAME`.  Other people's
tables are read (`dropping_chains`) and never changed.  Rules go in as text only: libnftables 1.0.6 dies of SIGSEGV on
JSON *input* of a dnat to a concatenated map, though it prints exactly that JSON.

    raw         packets of zones to 127.x: dropped, route_localnet would let them in
    prerouting, output -> published     the ports map says where a local port leads
    postrouting masquerade: host's loopback to a zone; hairpin; zones to the outside
    forward     zones of one network (`pairs`); nothing in or out of an internal one; answers and published ports;
                what is open by the network's gateway mode (`unprotected`, `routed`, `reached`, `trusted`, each with a set
                for each version of IP); nothing else into a bridge
    senders     (bridge) a zone's port lets in packets from the zone's own MAC and addresses alone

Rules are the same for any number of networks and zones: what comes and goes are elements of sets, which nfnetlink.py
brings to the kernel.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Literal

from dockerapi.errors import CommandFailed, NotSupported
from gateway.hosts.linux.nfnetlink import Element, Field, Interface, Mac, Port, Protocol

_LIBRARY = "libnftables.so.1"
_JSON = 1 << 4


@dataclass(frozen=True, slots=True)
class BridgedNetwork:
    """A network as the rules see it.

    `connects`: whether packets pass between its own zones; `masquerades`: whether they leave under the host's address.
    `unprotected`, `routed`: versions of IP in which zones are reached at their own addresses, at all ports or the published ones.
    """

    bridge: str
    subnets: tuple[IPv4Network | IPv6Network, ...]
    connects: bool = True
    masquerades: bool = True
    internal: bool = False
    unprotected: frozenset[int] = frozenset()
    routed: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Sender:
    """A port of a bridge, and who may send there."""

    port: str
    mac: str
    addresses: tuple[IPv4Address | IPv6Address, ...]


@dataclass(frozen=True, slots=True)
class Redirect:
    """A local port and the zone's port that it leads to.  `address` None = any of the machine's, in `to`'s version of IP."""

    protocol: Literal["tcp", "udp"]
    address: IPv4Address | IPv6Address | None
    port: int
    to: IPv4Address | IPv6Address
    to_port: int


@dataclass(frozen=True, slots=True)
class Opening:
    """A port of a zone that is reached at the zone's own address.  `interface` "" = from anywhere."""

    protocol: Literal["tcp", "udp"]
    to: IPv4Address | IPv6Address
    to_port: int
    interface: str = ""


def table_of(name: str) -> str:
    """Table name of an instance."""
    return f"zonegate_{name}"


def ruleset(name: str, elements: Iterable[Element] = (), *, guards: bool = True) -> str:
    """One transaction that makes the tables anew: at no moment is a live zone's port unreachable.

    Without `guards` there are no rules for bridges.
    """
    guard = _bridge_rules(name) if guards else ""
    return f"""add table inet {table_of(name)}
delete table inet {table_of(name)}
table inet {table_of(name)} {{
 set bridges {{ type ifname; }}
 set internal {{ type ifname; }}
 set pairs {{ type ifname . ifname; }}
 set subnets {{ type ipv4_addr; flags interval; }}
 set subnets6 {{ type ipv6_addr; flags interval; }}
 set leaving {{ type ipv4_addr; flags interval; }}
 set leaving6 {{ type ipv6_addr; flags interval; }}
 set unprotected {{ type ifname; }}
 set unprotected6 {{ type ifname; }}
 set routed {{ type ifname; }}
 set routed6 {{ type ifname; }}
 set reached {{ type ipv4_addr . inet_proto . inet_service; }}
 set reached6 {{ type ipv6_addr . inet_proto . inet_service; }}
 set trusted {{ type ifname . ipv4_addr . inet_proto . inet_service; }}
 set trusted6 {{ type ifname . ipv6_addr . inet_proto . inet_service; }}
 map ports {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
 map ports_at {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
 map ports6 {{ type inet_proto . inet_service : ipv6_addr . inet_service; }}
 map ports_at6 {{ type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }}
 chain raw {{ type filter hook prerouting priority -300; iifname @bridges ip daddr 127.0.0.0/8 drop; }}
 chain prerouting {{ type nat hook prerouting priority -100; fib daddr type local jump published; }}
 chain output {{ type nat hook output priority -100; fib daddr type local jump published; }}
 chain published {{
  meta nfproto ipv4 dnat ip to ip daddr . meta l4proto . th dport map @ports_at
  meta nfproto ipv4 dnat ip to meta l4proto . th dport map @ports
  ip6 daddr ::1 return
  meta nfproto ipv6 dnat ip6 to ip6 daddr . meta l4proto . th dport map @ports_at6
  meta nfproto ipv6 dnat ip6 to meta l4proto . th dport map @ports6
 }}
 chain postrouting {{ type nat hook postrouting priority 100;
  ip saddr 127.0.0.0/8 oifname @bridges masquerade
  ip saddr @subnets oifname @bridges ct status dnat masquerade
  ip6 saddr @subnets6 oifname @bridges ct status dnat masquerade
  ip saddr @leaving oifname != @bridges masquerade
  ip6 saddr @leaving6 oifname != @bridges masquerade
 }}
 chain forward {{ type filter hook forward priority 0;
  iifname . oifname @pairs accept
  iifname @internal drop
  oifname @internal drop
  ct state established,related accept
  ct status dnat accept
  meta nfproto ipv4 iifname != @bridges oifname @unprotected accept
  meta nfproto ipv6 iifname != @bridges oifname @unprotected6 accept
  ip protocol icmp oifname @routed accept
  meta nfproto ipv6 meta l4proto ipv6-icmp oifname @routed6 accept
  ip daddr . meta l4proto . th dport @reached accept
  ip6 daddr . meta l4proto . th dport @reached6 accept
  iifname . ip daddr . meta l4proto . th dport @trusted accept
  iifname . ip6 daddr . meta l4proto . th dport @trusted6 accept
  oifname @bridges drop
 }}
}}
{guard}{"".join(map(text_of, elements))}"""


def _bridge_rules(name: str) -> str:
    """Besides its address a port may send from none (it looks whether anybody has it) and a link-local one.

    What there is most of is looked at first: one lookup per packet.
    """
    return f"""add table bridge {table_of(name)}
delete table bridge {table_of(name)}
table bridge {table_of(name)} {{
 set ports {{ type ifname; }}
 set macs {{ type ifname . ether_addr; }}
 set own {{ type ifname . ether_addr . ipv4_addr; }}
 set own6 {{ type ifname . ether_addr . ipv6_addr; }}
 chain senders {{ type filter hook prerouting priority -300;
  ether type ip iifname . ether saddr . ip saddr @own accept
  ether type ip6 iifname . ether saddr . ip6 saddr @own6 accept
  iifname != @ports accept
  iifname . ether saddr != @macs drop
  ether type arp iifname . arp saddr ether . arp saddr ip @own accept
  ether type arp arp saddr ip 0.0.0.0 accept
  ether type ip6 ip6 saddr {{ ::, fe80::/10 }} accept
  drop
 }}
}}
"""


def network_elements(name: str, network: BridgedNetwork) -> Iterator[Element]:
    """What lets a network's packets pass."""
    bridge = Interface(network.bridge)
    yield _inet(name, "bridges", bridge)
    if network.internal:
        yield _inet(name, "internal", bridge)
    if network.connects:
        yield _inet(name, "pairs", bridge, bridge)
    for subnet in network.subnets:
        six = "6" if subnet.version == 6 else ""
        yield Element("inet", table_of(name), f"subnets{six}", subnet)
        if network.internal:
            continue
        if network.masquerades and subnet.version not in network.routed:
            yield Element("inet", table_of(name), f"leaving{six}", subnet)
        for place, versions in (("unprotected", network.unprotected), ("routed", network.routed)):
            if subnet.version in versions:
                yield _inet(name, f"{place}{six}", bridge)


def _inet(name: str, place: str, *key: Field) -> Element:
    return Element("inet", table_of(name), place, key)


def sender_elements(name: str, sender: Sender) -> Iterator[Element]:
    """What lets a port send, by its own addresses alone."""
    port, mac = Interface(sender.port), Mac(sender.mac)
    table = table_of(name)
    yield Element("bridge", table, "ports", (port,))
    yield Element("bridge", table, "macs", (port, mac))
    for address in sender.addresses:
        place = "own" if address.version == 4 else "own6"
        yield Element("bridge", table, place, (port, mac, address))


def redirect_element(name: str, redirect: Redirect) -> Element:
    """What publishes a port."""
    protocol, port = Protocol[redirect.protocol.upper()], Port(redirect.port)
    at: tuple[Field, ...] = () if redirect.address is None else (redirect.address,)
    value = redirect.to, Port(redirect.to_port)
    place = ("ports_at" if at else "ports") + _six(redirect.to)
    return Element("inet", table_of(name), place, (*at, protocol, port), value)


def opening_element(name: str, opening: Opening) -> Element:
    """What lets packets through to a port."""
    key = opening.to, Protocol[opening.protocol.upper()], Port(opening.to_port)
    if opening.interface:
        return _inet(name, f"trusted{_six(opening.to)}", Interface(opening.interface), *key)
    return _inet(name, f"reached{_six(opening.to)}", *key)


def _six(address: IPv4Address | IPv6Address) -> str:
    return "6" if address.version == 6 else ""


def text_of(element: Element) -> str:
    """The command of nft's that puts it in."""
    key, value = element.key, _joined(element.value)
    shown = _joined(key) if isinstance(key, tuple) else str(key)
    row = f"{shown} : {value}" if value else shown
    return f"add element {element.family} {element.table} {element.place} {{ {row} }}\n"


def _joined(fields: Iterable[Field]) -> str:
    return " . ".join(map(_shown, fields))


def _shown(field: Field) -> str:
    match field:
        case Interface():
            return f'"{field.name}"'
        case Mac():
            return field.text
        case Port():
            return str(field.number)
        case Protocol():
            return field.name.lower()
        case _:
            return str(field)


def delete_table(name: str, *, guards: bool = True) -> str:
    """Text that removes everything of an instance, whether it is there or not."""
    return "\n".join(
        f"add table {family} {table_of(name)}\ndelete table {family} {table_of(name)}"
        for family in (("inet", "bridge") if guards else ("inet",))
    )


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
    """A libnftables context of the network namespace that the first `run` is called in.

    Blocking; for one thread at a time.  Close it once nothing more is to be run for a while: it keeps what it
    saw of the machine's rules, and a buffer of 128 KiB for each message, 14 MB after a start.
    """

    def __init__(self) -> None:
        self._library = _load()
        self._context: int | None = None

    def run(self, text: str) -> str:
        """Run commands as one transaction; what they print, as JSON.  CommandFailed with nft's words."""
        if self._context is None:
            self._context = self._new_context()
        status = self._library.nft_run_cmd_from_buffer(self._context, text.encode())
        errors = self._library.nft_ctx_get_error_buffer(self._context) or b""
        output = self._library.nft_ctx_get_output_buffer(self._context) or b""
        if status != 0:
            first = errors.decode(errors="replace").strip().partition("\n")[0]
            raise CommandFailed("nft", status, f"{text}\n{first}")
        return str(output.decode(errors="replace"))

    def _new_context(self) -> int:
        context = self._library.nft_ctx_new(0)
        if not context:
            raise NotSupported(f"{_LIBRARY} gives no context: nftables is missing in the kernel")
        self._library.nft_ctx_output_set_flags(context, _JSON)
        self._library.nft_ctx_buffer_output(context)
        self._library.nft_ctx_buffer_error(context)
        return int(context)

    def close(self) -> None:
        """Free the context; the next `run` makes one anew."""
        if self._context is not None:
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
