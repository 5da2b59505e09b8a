"""What else on the machine decides over forwarded packets: read, reported, never changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dockerapi.errors import APIError, CommandFailed
from gateway.hosts.linux.nft import Nft, dropping_chains

_BRIDGE_NF = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
_LEGACY = Path("/proc/net/ip_tables_names")


def forwarding_warnings(bridge: str) -> tuple[str, ...]:
    """A sentence for each chain of others that drops what is forwarded, with the command that allows it."""
    # A context of its own: it keeps all that it ever listed, over a megabyte.
    rules = Nft()
    try:
        return _warnings(rules, bridge)
    finally:
        rules.close()


def _warnings(rules: Nft, bridge: str) -> tuple[str, ...]:
    listing = rules.run("list chains")
    user_chain = '"name": "DOCKER-USER"' in listing
    return tuple(
        _sentence(chain, bridge, user_chain)
        for chain in dropping_chains(listing)
        if not _accepts(_rules_of(rules, chain), bridge)
    )


def _sentence(chain: str, bridge: str, user_chain: bool) -> str:
    family, table, name = chain.split(" ", 2)
    if (family, table, name) == ("ip", "filter", "FORWARD"):
        insert = f"iptables -I {'DOCKER-USER' if user_chain else 'FORWARD'}"
        allow = f"{insert} -i {bridge} -j ACCEPT; {insert} -o {bridge} -j ACCEPT"
    else:
        insert = f"nft insert rule {family} {table} {name}"
        allow = f"{insert} iifname {bridge} accept; {insert} oifname {bridge} accept"
    reach = "containers cannot reach the outside, nor be reached by published ports from there"
    if _read(_BRIDGE_NF) == "1":
        reach += ", nor reach each other (net.bridge.bridge-nf-call-iptables is 1)"
    return f"IPv4 forwarding is dropped by table {family} {table} chain {name}: {reach}; allow it with: {allow}"


def _rules_of(rules: Nft, chain: str) -> list[dict[str, Any]]:
    family, table, _ = chain.split(" ", 2)
    try:
        listing = json.loads(rules.run(f"list table {family} {table}"))
    except CommandFailed:
        return []  # gone meanwhile
    return [row["rule"] for row in listing.get("nftables", []) if "rule" in row]


def _accepts(rules: list[dict[str, Any]], bridge: str) -> bool:
    """Whether somebody has let our bridge's packets through, both ways."""
    seen = set()
    for rule in rules:
        expressions = rule.get("expr", [])
        if not any("accept" in e for e in expressions):
            continue
        for expression in expressions:
            match = expression.get("match", {})
            if match.get("right") == bridge and isinstance(match.get("left"), dict):
                seen.add(match["left"].get("meta", {}).get("key"))
    return {"iifname", "oifname"} <= seen


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def probe() -> dict[str, str]:
    """For `zonegate doctor`: facts about packet filtering on this machine, by name.  Blocking."""
    facts = {
        "ip_forward": _read(Path("/proc/sys/net/ipv4/ip_forward")) or "unknown",
        "bridge-nf-call-iptables": _read(_BRIDGE_NF) or "absent",
        "iptables-legacy": "in use: " + " ".join(_read(_LEGACY).split())
        if _read(_LEGACY)
        else "no",
    }
    try:
        rules = Nft()
        try:
            listing = rules.run("list chains")
        finally:
            rules.close()
    except APIError as error:
        return facts | {"libnftables": f"unusable: {error.message}"}
    rows = json.loads(listing).get("nftables", [])
    version = next((row["metainfo"].get("version", "") for row in rows if "metainfo" in row), "")
    dropping = dropping_chains(listing)
    forward = "drop in " + ", ".join(dropping) if dropping else "accept"
    if _read(_LEGACY):
        forward += (
            "; iptables-legacy has rules that are not looked at: see iptables-legacy -S FORWARD"
        )
    return facts | {"libnftables": version or "unknown", "forward policy": forward}
