"""Ports and rules of zones that run: a real server in a zone of the fake machine, reached by a published port."""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from dockerapi.errors import APIError, CommandFailed, NotSupported
from gateway.hosts.smartos import firewall
from gateway.hosts.smartos.local import LocalGlobalZone
from gateway.hosts.smartos.network import SmartOSNetworks
from gateway.hosts.smartos.reach import relays
from gateway.settings import AddressPool, Settings
from gateway.zones.host import NetworkPlan, NetworkRequest, Zone
from gateway.zones.metadata import DockerMetadata, PublishedPort, Runtime, encode
from gateway.zones.spec import Nic, ZoneSpec, ZoneState
from tests.fakes.globalzone import fwrules
from tests.fakes.globalzone.process import FakeGZ
from tests.fakes.globalzone.programs import fwadm

pytestmark = pytest.mark.root
IMAGE = "00000000-0000-0000-0000-0000000000bb"
SERVER = "echo there >/tmp/name; exec httpd -f -p 80 -h /tmp"
DEADLINE_S = 20.0
_PLACES = itertools.count(10, 10)


@pytest.fixture(scope="module", autouse=True)
def _image(fake: FakeGZ) -> None:
    """Busybox, as a dataset that imgadm knows."""
    assert fake.run("zfs", "create", f"zones/{IMAGE}").returncode == 0
    root = fake.root / "zones" / IMAGE / "root"
    for folder in ("bin", "etc", "tmp", "dev", "proc", "sys"):
        (root / folder).mkdir(parents=True)
    (root / "bin/busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (root / "bin/busybox").chmod(0o755)
    for applet in ("sh", "httpd", "sleep"):
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    assert fake.run("zfs", "snapshot", f"zones/{IMAGE}@final").returncode == 0
    manifest = {"uuid": IMAGE, "v": 2, "name": "bb", "type": "docker", "os": "linux"}
    (fake.root / f"var/imgadm/images/zones-{IMAGE}.json").write_text(
        json.dumps({"manifest": manifest, "zpool": "zones"})
    )


@pytest.fixture
def settings(fake: FakeGZ, tmp_path: Path) -> Settings:
    pools = (AddressPool(base="172.27.0.0/16", size=24),)
    # No address is used twice: zones here do not announce themselves as those of illumos do, and this computer
    # would go on sending to the MAC of the one before.
    first = fake.subnet.network_address + next(_PLACES)
    return fake.settings(
        smartos={"range": f"{first}-{first + 9}"}, data_root=tmp_path, default_address_pools=pools
    )


@pytest.fixture
async def networks(gz: LocalGlobalZone, settings: Settings) -> AsyncIterator[SmartOSNetworks]:
    opened = await SmartOSNetworks.open(gz, settings)
    yield opened
    for network in opened.list()[3:]:
        await opened.remove(network.id)
    await opened.adopt([])
    await opened.close()


def make_zone(
    fake: FakeGZ,
    networks: SmartOSNetworks,
    *ports: PublishedPort,
    on: tuple[str, ...] = ("bridge",),
    tagged: bool = True,
    firewall: bool = True,
) -> Zone:
    """Made by vmadm, stopped."""
    docker_id = secrets.token_hex(32)
    zone_uuid = str(uuid.UUID(docker_id[:32]))
    nics: list[Nic] = []
    for n, name in enumerate(on):
        leased = networks.lease(zone_uuid, NetworkRequest(name))
        nics.append(
            leased.model_copy(update={"interface": f"eth{n}", "primary": None if n else True})
        )
    metadata = DockerMetadata(
        id=docker_id, cmd=("sh", "-c", SERVER), env=("PATH=/bin",), workdir="/",
        runtime=Runtime(published_ports=ports),
    )  # fmt: skip
    spec = ZoneSpec(
        uuid=zone_uuid, brand="lx", kernel_version="4.3.0", image_uuid=IMAGE, alias=f"z{docker_id[:8]}",
        firewall_enabled=firewall or None, max_swap=512, nics=tuple(nics),
        tags=dict(networks.tags(nics)) if tagged else {}, internal_metadata=encode(metadata),
    )  # fmt: skip
    done = fake.run("vmadm", "create", stdin=json.dumps(spec.payload()))
    assert done.returncode == 0, done.stderr
    return Zone(spec, metadata, ZoneState.STOPPED, 0)


def running(fake: FakeGZ, zone: Zone) -> Zone:
    done = fake.run("vmadm", "start", zone.uuid)
    assert done.returncode == 0, done.stderr
    return replace(zone, state=ZoneState.RUNNING)


def delete(fake: FakeGZ, *zones: Zone) -> None:
    for zone in zones:
        assert fake.run("vmadm", "delete", zone.uuid).returncode == 0


def rules(fake: FakeGZ, zone: Zone) -> list[str]:
    """Of the zone's own ports."""
    return [r["rule"] for r in fwadm.load(fake.root).values() if zone.uuid in r["rule"]]


def sources(fake: FakeGZ, zone: Zone) -> set[str]:
    """Who is let in by rules of the zone's own."""
    return {target.value for rule in rules(fake, zone) for target in fwrules.parse(rule).sources}


def by_hand(fake: FakeGZ, settings: Settings, zone: Zone, text: str) -> None:
    """A rule of ours from another life of the gateway."""
    rule = firewall.rule(settings.name, text, f"zonegate: ports of {zone.uuid}")
    done = fake.run("fwadm", "add", stdin=firewall.payload(settings.name, [rule]).decode())
    assert done.returncode == 0, done.stderr


async def fetch(port: int, host: str = "127.0.0.1") -> bytes:
    """/name by HTTP; again while the server is not yet there."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(b"GET /name HTTP/1.0\r\n\r\n")
                answer = await reader.read()
            except ConnectionResetError:
                answer = b""
            finally:
                writer.close()
            if b"200 OK" in answer:
                return answer.rpartition(b"\r\n\r\n")[2]


HTTP = PublishedPort(zone_port=80)
LOOPBACK = PublishedPort(zone_port=80, host_ip="127.0.0.1")


async def test_a_server_in_a_zone_is_reached_by_its_published_port(
    networks: SmartOSNetworks, fake: FakeGZ
) -> None:
    zone = make_zone(fake, networks, HTTP)
    taken = await networks.connect(zone)
    zone = running(fake, zone)
    for one in taken:
        assert (
            await fetch(one.host_port, "::1" if ":" in one.host_ip else "127.0.0.1") == b"there\n"
        )
    assert rules(fake, zone) == [f"FROM any TO vm {zone.uuid} ALLOW tcp PORT 80"]
    await networks.disconnect(zone.uuid)
    await networks.disconnect(zone.uuid)
    assert rules(fake, zone) == []
    with pytest.raises(OSError, match="Connect call failed"):
        await asyncio.open_connection("127.0.0.1", taken[0].host_port)
    delete(fake, zone)


async def test_a_port_published_on_loopback_opens_the_zone_to_the_proxy_alone(
    networks: SmartOSNetworks, fake: FakeGZ
) -> None:
    zone = make_zone(fake, networks, LOOPBACK)
    (taken,) = await networks.connect(zone)
    zone = running(fake, zone)
    assert await fetch(taken.host_port) == b"there\n"
    assert sources(fake, zone) == {str(fake.subnet.network_address + 1)}
    await networks.disconnect(zone.uuid)
    assert rules(fake, zone) == []
    delete(fake, zone)


async def test_rules_go_although_the_addresses_they_were_made_for_are_others_now(
    networks: SmartOSNetworks, fake: FakeGZ, gz: LocalGlobalZone, settings: Settings
) -> None:
    first, second = make_zone(fake, networks, LOOPBACK), make_zone(fake, networks, LOOPBACK)
    for zone in (first, second):
        by_hand(fake, settings, zone, f"FROM ip 192.0.2.9 TO vm {zone.uuid} ALLOW tcp PORT 80")
    again = await SmartOSNetworks.open(gz, settings)
    await again.connect(first)
    first = running(fake, first)
    await again.disconnect(first.uuid)
    assert rules(fake, first) == []
    await again.connect(first)
    by_hand(fake, settings, first, f"FROM ip 192.0.2.9 TO vm {first.uuid} ALLOW tcp PORT 80")
    await again.close()
    last = await SmartOSNetworks.open(gz, settings)
    await last.adopt([first, second])
    assert sources(fake, first) == {str(fake.subnet.network_address + 1)}
    assert rules(fake, second) == []
    await last.disconnect(first.uuid)
    await last.close()
    delete(fake, first, second)


def test_connections_come_from_the_global_zones_addresses_on_the_network() -> None:
    subnet = IPv4Network("10.1.0.0/24")
    near, far = IPv4Interface("10.1.0.2/24"), IPv4Interface("192.0.2.2/24")
    loopback = IPv4Interface("127.0.0.1/8")
    assert relays(subnet, None, [loopback, near, far]) == (near.ip,)
    assert relays(subnet, None, [loopback, far]) == (far.ip,), "by a router: from any of its own"
    assert relays(subnet, far.ip, [loopback, near, far]) == (near.ip, far.ip)
    assert relays(subnet, IPv4Address("10.1.0.9"), []) == (IPv4Address("10.1.0.9"),)
    assert relays(subnet, None, [loopback]) == ()


async def test_ports_and_rules_are_the_same_after_a_restart_of_the_gateway(
    networks: SmartOSNetworks, gz: LocalGlobalZone, fake: FakeGZ, settings: Settings
) -> None:
    stays, stopped = make_zone(fake, networks, HTTP), make_zone(fake, networks, HTTP)
    taken = await networks.connect(stays)
    await networks.connect(stopped)
    stays = running(fake, stays)
    await networks.close()
    again = await SmartOSNetworks.open(gz, settings)
    assert await again.adopt([stays, stopped]) == {stays.uuid: taken}
    assert await fetch(taken[0].host_port) == b"there\n"
    assert len(rules(fake, stays)) == 1
    assert rules(fake, stopped) == [], "it stopped while nobody looked"
    await again.disconnect(stays.uuid)
    assert await again.adopt([]) == {}
    assert not [r for r in fwadm.load(fake.root).values() if settings.name in r["created_by"]]
    delete(fake, stays, stopped)
    await again.close()


async def test_a_zone_that_was_started_meanwhile_gets_ports_at_the_next_start_of_the_gateway(
    networks: SmartOSNetworks, fake: FakeGZ
) -> None:
    zone = running(fake, make_zone(fake, networks, HTTP))
    taken = await networks.adopt([zone])
    assert await fetch(taken[zone.uuid][0].host_port) == b"there\n"
    assert len(rules(fake, zone)) == 1
    await networks.disconnect(zone.uuid)
    delete(fake, zone)


async def test_a_zone_without_the_tags_of_its_networks_gets_them(
    networks: SmartOSNetworks, fake: FakeGZ
) -> None:
    zone = make_zone(fake, networks, tagged=False)
    await networks.connect(zone)
    vm: dict[str, Any] = json.loads(fake.run("vmadm", "get", zone.uuid).stdout)
    assert vm["tags"] == networks.tags(zone.spec.nics)
    await networks.disconnect(zone.uuid)
    delete(fake, zone)


async def test_a_zone_whose_firewall_is_off_needs_no_rules(
    networks: SmartOSNetworks, fake: FakeGZ, settings: Settings
) -> None:
    zone = make_zone(fake, networks, HTTP, firewall=False)
    fake.fault("fwadm", stderr="must not be run")
    fake.fault("vmadm", "update", stderr="must not be run")
    assert await networks.connect(zone)
    await networks.disconnect(zone.uuid)
    fake.clear_faults()
    delete(fake, zone)


async def test_a_rule_that_cannot_be_added_leaves_no_port_taken(
    networks: SmartOSNetworks, fake: FakeGZ
) -> None:
    zone = make_zone(fake, networks, HTTP)
    fake.fault("fwadm", "add", stderr="no space left", times=1)
    with pytest.raises(CommandFailed, match="no space left"):
        await networks.connect(zone)
    assert rules(fake, zone) == []
    taken = await networks.connect(zone)
    other = make_zone(fake, networks, PublishedPort(zone_port=80, host_port=taken[0].host_port))
    with pytest.raises(APIError, match="port is already allocated"):
        await networks.connect(other)
    assert rules(fake, other) == []
    await networks.disconnect(zone.uuid)
    assert await networks.connect(other)
    await networks.disconnect(other.uuid)
    delete(fake, zone, other)


async def test_a_firewall_that_hangs_is_an_error_and_leaves_no_port_taken(
    networks: SmartOSNetworks, fake: FakeGZ, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(firewall, "_TIMEOUT_S", 0.3)
    zone = make_zone(fake, networks, HTTP)
    fake.fault("fwadm", "add", hang=True, times=1)
    fake.fault("fwadm", "list", hang=True, times=1)
    with pytest.raises(CommandFailed, match=r"fwadm: no end within 0\.3 s"):
        await networks.connect(zone)
    monkeypatch.setattr(firewall, "_TIMEOUT_S", 60.0)
    assert await networks.connect(zone)
    await networks.disconnect(zone.uuid)
    delete(fake, zone)


async def test_nothing_is_published_of_a_zone_on_internal_networks_only(
    networks: SmartOSNetworks, fake: FakeGZ
) -> None:
    await networks.create(NetworkPlan("inside", internal=True))
    alone = make_zone(fake, networks, HTTP, on=("inside",))
    assert await networks.connect(alone) == ()
    both = make_zone(fake, networks, HTTP, on=("inside", "bridge"))
    taken = await networks.connect(both)
    running(fake, both)
    assert await fetch(taken[0].host_port) == b"there\n"
    for zone in (alone, both):
        await networks.disconnect(zone.uuid)
        networks.release(zone.uuid)
    delete(fake, alone, both)


class Remote(LocalGlobalZone):
    """A machine that is not this one, as far as anybody can tell."""

    calls: list[tuple[str, int]]

    @property
    def is_local(self) -> bool:
        return False

    async def connect(
        self, host: str, port: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self.calls.append((host, port))
        raise OSError("no server there")


async def test_over_ssh_a_zone_on_a_network_of_this_machines_is_reached_straight(
    gz: LocalGlobalZone, fake: FakeGZ, settings: Settings
) -> None:
    async with Remote() as remote:
        remote.calls = []
        networks = await SmartOSNetworks.open(remote, settings)
        udp = PublishedPort(protocol="udp", zone_port=53, host_ip="127.0.0.1")
        zone = make_zone(fake, networks, HTTP, udp)
        taken = await networks.connect(zone)
        assert sources(fake, zone) == {"any", str(fake.subnet.network_address + 1)}
        zone = running(fake, zone)
        assert await fetch(taken[0].host_port) == b"there\n"
        assert remote.calls == []
        await networks.disconnect(zone.uuid)
        await networks.adopt([])
        delete(fake, zone)
        await networks.close()


async def test_over_ssh_a_zone_on_an_etherstub_is_reached_by_the_connection(
    gz: LocalGlobalZone, fake: FakeGZ, settings: Settings
) -> None:
    async with Remote() as remote:
        remote.calls = []
        networks = await SmartOSNetworks.open(remote, settings)
        await networks.create(NetworkPlan("web"))
        zone = make_zone(fake, networks, LOOPBACK, on=("web",))
        (first, *_) = await networks.connect(zone)
        assert sources(fake, zone) == {networks.get("web").gateway}
        reader, writer = await asyncio.open_connection("127.0.0.1", first.host_port)
        async with asyncio.timeout(DEADLINE_S):
            assert await reader.read() == b""
        writer.close()
        assert remote.calls == [(zone.spec.nics[0].ip, 80)]
        udp = PublishedPort(protocol="udp", zone_port=53)
        other = make_zone(fake, networks, udp, on=("web",))
        with pytest.raises(NotSupported, match="over SSH"):
            await networks.connect(other)
        for one in (zone, other):
            await networks.disconnect(one.uuid)
            networks.release(one.uuid)
        delete(fake, zone, other)
        await networks.remove("web")
        await networks.adopt([])
        await networks.close()


async def test_sctp_is_refused(networks: SmartOSNetworks, fake: FakeGZ) -> None:
    zone = make_zone(fake, networks, PublishedPort(protocol="sctp", zone_port=80))
    with pytest.raises(NotSupported, match="sctp"):
        await networks.connect(zone)
    delete(fake, zone)
