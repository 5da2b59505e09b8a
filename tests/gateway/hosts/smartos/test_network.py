"""Networks of the SmartOS host against a fake global zone: leases, etherstubs, rules; and that nothing is left."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import AsyncIterator
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any

import pytest

from dockerapi.errors import APIError, Conflict, Forbidden, InvalidParameter, NotFound, NotSupported
from gateway.hosts.networks import uuid_of
from gateway.hosts.smartos.addresses import addresses_of
from gateway.hosts.smartos.local import LocalGlobalZone
from gateway.hosts.smartos.network import SmartOSNetworks
from gateway.settings import AddressPool, Settings
from gateway.zones.host import AddressRange, Network, NetworkPlan, NetworkRequest
from gateway.zones.spec import Nic, ZoneUUID
from tests.fakes.globalzone import datalinks, fwrules
from tests.fakes.globalzone.process import FakeGZ
from tests.fakes.globalzone.programs import fwadm

pytestmark = pytest.mark.root
IMAGE = "00000000-0000-0000-0000-0000000000aa"
MTU = "com.docker.network.driver.mtu"


@pytest.fixture(scope="module", autouse=True)
def _image(fake: FakeGZ) -> None:
    assert fake.run("zfs", "create", f"zones/{IMAGE}").returncode == 0
    (fake.root / "zones" / IMAGE / "root/etc").mkdir(parents=True)
    assert fake.run("zfs", "snapshot", f"zones/{IMAGE}@final").returncode == 0
    manifest = {"uuid": IMAGE, "v": 2, "name": "x", "type": "docker", "os": "linux"}
    (fake.root / f"var/imgadm/images/zones-{IMAGE}.json").write_text(
        json.dumps({"manifest": manifest, "zpool": "zones"})
    )


@pytest.fixture
def settings(fake: FakeGZ, tmp_path: Path) -> Settings:
    return told(fake, tmp_path)


def told(fake: FakeGZ, folder: Path, name: str = "", **smartos: Any) -> Settings:
    """Settings of an instance with its own files."""
    more = {"name": name} if name else {}
    return fake.settings(
        smartos=smartos,
        data_root=folder,
        default_address_pools=(AddressPool(base="172.26.0.0/16", size=24),),
        **more,
    )


@pytest.fixture
async def networks(gz: LocalGlobalZone, settings: Settings) -> AsyncIterator[SmartOSNetworks]:
    opened = await SmartOSNetworks.open(gz, settings)
    yield opened
    await opened.close()
    await _clear(gz, settings)


async def _clear(gz: LocalGlobalZone, settings: Settings) -> None:
    """The fake machine is shared by the tests of this module."""
    last = await SmartOSNetworks.open(gz, settings)
    for network in last.list():
        if network.name not in ("bridge", "host", "none"):
            await last.remove(network.id)
    await last.adopt([])
    await last.close()


def new_uuid() -> ZoneUUID:
    return ZoneUUID(str(uuid.uuid4()))


def ask(network: str = "bridge", **more: str) -> NetworkRequest:
    return NetworkRequest(network, **more)


def plan(name: str, **more: Any) -> NetworkPlan:
    """`subnet`, `gateway`, `ip_range`, `aux` of IPv4, and whatever else a plan has."""
    ipv4 = {key: more.pop(key) for key in ("subnet", "gateway", "ip_range", "aux") if key in more}
    return NetworkPlan(name, ipv4=AddressRange(**ipv4), **more)


def links(fake: FakeGZ) -> datalinks.Links:
    return datalinks.load(fake.root, fake.options)


def traces(fake: FakeGZ, name: str) -> list[str]:
    """Whatever an instance has on the machine."""
    state = links(fake)
    rules = [one["rule"] for one in fwadm.load(fake.root).values() if name in one["created_by"]]
    nat = [one for one in datalinks.nat_rules(fake.root) if "172.26" in one]
    return (
        [one for one in (*state.etherstubs, *state.vnics, *state.interfaces) if name in one]
        + rules
        + nat
    )


def make_vm(fake: FakeGZ, nics: list[Nic], **more: Any) -> dict[str, Any]:
    """A stopped zone, by vmadm itself."""
    payload = {
        "brand": "lx", "kernel_version": "4.3.0", "image_uuid": IMAGE, "autoboot": False,
        "docker": True, "uuid": new_uuid(), "firewall_enabled": True, "max_swap": 512,
        "nics": [nic.model_dump(exclude_none=True) for nic in nics],
    }  # fmt: skip
    payload |= more
    done = fake.run("vmadm", "create", stdin=json.dumps(payload))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(fake.run("vmadm", "get", payload["uuid"]).stdout)
    return found


# -- the default network


async def test_a_lease_on_the_default_network_is_as_the_settings_have_it(
    gz: LocalGlobalZone, fake: FakeGZ, tmp_path: Path
) -> None:
    first = fake.subnet.network_address + 100
    networks = await SmartOSNetworks.open(
        gz, told(fake, tmp_path, range=f"{first}-{first + 2}", vlan_id=7, mtu=1400)
    )
    nic = networks.lease(new_uuid(), ask())
    assert (nic.nic_tag, nic.ip, nic.netmask) == ("admin", str(first), "255.255.255.0")
    assert (nic.gateway, nic.vlan_id, nic.mtu, nic.mac) == (fake.gateway, 7, 1400, None)
    assert nic.network_uuid == uuid_of(networks.get("bridge").id)
    others = [networks.lease(new_uuid(), ask()).ip for _ in range(2)]
    assert others == [str(first + 1), str(first + 2)]
    with pytest.raises(APIError, match="no available IPv4 addresses"):
        networks.lease(new_uuid(), ask())
    await networks.close()


async def test_without_a_subnet_the_default_network_says_what_to_set(
    gz: LocalGlobalZone, fake: FakeGZ, tmp_path: Path
) -> None:
    networks = await SmartOSNetworks.open(gz, told(fake, tmp_path, subnet="", gateway=""))
    assert [network.name for network in networks.list()] == ["bridge", "host", "none"]
    with pytest.raises(InvalidParameter, match=r"set smartos\.subnet.*--network none"):
        networks.lease(new_uuid(), ask())
    await networks.close()


async def test_a_mac_is_taken_as_asked_for_and_an_address_only_on_user_networks(
    networks: SmartOSNetworks,
) -> None:
    assert networks.lease(new_uuid(), ask(mac="02:AB:00:00:00:01")).mac == "02:ab:00:00:00:01"
    with pytest.raises(InvalidParameter, match="user defined networks only"):
        networks.lease(new_uuid(), ask(address="10.0.0.9"))
    with pytest.raises(NotFound, match="network nowhere not found"):
        networks.lease(new_uuid(), ask("nowhere"))


async def test_host_and_none_have_no_addresses(networks: SmartOSNetworks) -> None:
    with pytest.raises(NotSupported, match="SmartOS: a zone always has an IP stack of its own"):
        networks.lease(new_uuid(), ask("host"))
    with pytest.raises(InvalidParameter, match="network none has no addresses to give"):
        networks.lease(new_uuid(), ask("none"))


@pytest.mark.parametrize(
    "wrong",
    [{"gateway": "192.0.2.1"}, {"range": "192.0.2.1-192.0.2.9"}, {"subnet": "192.0.2.0/24"}],
)
async def test_settings_that_do_not_belong_together_are_refused_at_start(
    gz: LocalGlobalZone, fake: FakeGZ, tmp_path: Path, wrong: dict[str, str]
) -> None:
    with pytest.raises(InvalidParameter, match=r"is not in smartos\.subnet"):
        await SmartOSNetworks.open(gz, told(fake, tmp_path, **wrong))


async def test_addresses_of_other_zones_and_of_the_machine_are_nobodys(
    gz: LocalGlobalZone, fake: FakeGZ, tmp_path: Path
) -> None:
    base = fake.subnet.network_address
    # The router is somewhere else here, so that the machine's own address is not kept free as the router's.
    networks = await SmartOSNetworks.open(
        gz, told(fake, tmp_path, range=f"{base + 1}-{base + 4}", gateway=str(base + 200))
    )
    networks.addresses.learn_foreign(
        "other", [{"ip": str(base + 2), "ips": [f"{base + 2}/24", "dhcp"]}]
    )
    networks.addresses.learn_foreign(
        "third", [{"ips": [f"{base + 4}/24", "fd00::1/64", "addrconf"]}]
    )
    uuid_ = new_uuid()
    assert networks.lease(uuid_, ask()).ip == str(base + 3)
    with pytest.raises(APIError):
        networks.lease(new_uuid(), ask())
    networks.addresses.learn_foreign("other", [])
    networks.addresses.forget_foreign("third")
    networks.addresses.forget_foreign("third")
    found = {networks.lease(new_uuid(), ask()).ip for _ in range(2)}
    assert found == {str(base + 2), str(base + 4)}
    await networks.close()


async def test_an_address_given_up_that_is_another_zones_by_now_is_nobodys(
    gz: LocalGlobalZone, fake: FakeGZ, tmp_path: Path
) -> None:
    first = fake.subnet.network_address + 50
    settings = told(fake, tmp_path, range=f"{first}-{first}")
    before = await SmartOSNetworks.open(gz, settings)
    assert before.lease(new_uuid(), ask()).ip == str(first)
    await before.close()
    after = await SmartOSNetworks.open(gz, settings)
    after.addresses.learn_foreign("other", [{"ip": str(first)}])
    await after.adopt([])
    with pytest.raises(APIError, match="no available IPv4 addresses"):
        after.lease(new_uuid(), ask())
    await after.close()


def test_addresses_are_read_from_nics_as_vmadm_shows_them() -> None:
    nics: list[dict[str, object]] = [
        {"ip": "10.0.0.5", "ips": ["10.0.0.5/24", "10.0.0.6/24"]},
        {"ip": "dhcp", "ips": ["dhcp", "fd00::5/64", "addrconf"]},
        {"mac": "02:00:00:00:00:01"},
    ]
    assert addresses_of(nics) == tuple(map(ip_address, ("10.0.0.5", "10.0.0.6", "fd00::5")))


async def test_ids_and_leases_outlive_the_gateway(gz: LocalGlobalZone, settings: Settings) -> None:
    before = await SmartOSNetworks.open(gz, settings)
    kept, lost = new_uuid(), new_uuid()
    nic = before.lease(kept, ask())
    other = before.lease(lost, ask())
    await before.close()
    after = await SmartOSNetworks.open(gz, settings)
    assert [n.id for n in after.list()] == [n.id for n in before.list()]
    after.learn(kept, [nic])
    await after.adopt([])
    assert after.lease(new_uuid(), ask()).ip not in (nic.ip, other.ip), "fresh ones come first"
    await after.close()


async def test_a_missing_nic_tag_is_said_and_stops_nothing(
    gz: LocalGlobalZone, fake: FakeGZ, tmp_path: Path
) -> None:
    networks = await SmartOSNetworks.open(gz, told(fake, tmp_path, nic_tag="external"))
    assert "external of the default network does not exist" in "".join(networks.warnings())
    await networks.close()


# -- networks of the user's


async def test_a_network_is_made_and_removed_with_all_that_belongs_to_it(
    networks: SmartOSNetworks, fake: FakeGZ, settings: Settings
) -> None:
    made = await networks.create(plan("web", labels={"a": "b"}, options={MTU: "8000"}))
    assert (made.subnet, made.gateway, made.internal) == ("172.26.0.0/24", "172.26.0.1", True)
    assert made.labels == {"a": "b"}
    assert "smartos.egress_nic" in networks.note(made)
    state = links(fake)
    vnic = made.nic_tag.removesuffix("_0") + "_gw0"
    assert made.nic_tag in state.etherstubs
    assert state.vnics[vnic] == made.nic_tag
    assert state.interfaces[vnic].addresses == {f"{vnic}/v4": "172.26.0.1/24"}
    assert state.interfaces[vnic].forwarding == "off"
    zone = new_uuid()
    nic = networks.lease(zone, ask("web"))
    assert (nic.nic_tag, nic.ip, nic.mtu) == (made.nic_tag, "172.26.0.2", 8000)
    assert (nic.gateway, nic.vlan_id) == (None, None), "it leads nowhere"
    networks.release(zone)
    await networks.remove("web")
    assert traces(fake, settings.name) == []
    with pytest.raises(NotFound):
        networks.get("web")


async def test_an_egress_nic_leads_out_until_the_last_network_is_gone(
    gz: LocalGlobalZone, fake: FakeGZ, tmp_path: Path
) -> None:
    settings = told(fake, tmp_path, egress_nic="e1000g0")
    networks = await SmartOSNetworks.open(gz, settings)
    one, two = await networks.create(plan("one")), await networks.create(plan("two"))
    assert not one.internal
    assert networks.note(one) == ""
    assert networks.lease(new_uuid(), ask("two")).gateway == two.gateway
    networks = await SmartOSNetworks.open(gz, settings)
    assert datalinks.nat_rules(fake.root) == [
        f"map e1000g0 {net.subnet} -> 0.0.0.0/32{tail}"
        for net in (one, two)
        for tail in (" portmap tcp/udp auto", "")
    ]
    assert links(fake).interfaces["e1000g0"].forwarding == "on"
    assert links(fake).interfaces[f"{one.nic_tag[:-2]}_gw0"].forwarding == "on"
    await networks.adopt([])
    await networks.remove("one")
    assert links(fake).interfaces["e1000g0"].forwarding == "on"
    await networks.remove("two")
    assert links(fake).interfaces["e1000g0"].forwarding == "off"
    assert traces(fake, settings.name) == []
    await networks.close()


async def test_forwarding_that_the_admin_began_goes_on(
    gz: LocalGlobalZone, fake: FakeGZ, tmp_path: Path
) -> None:
    forwarding = ("-p", "forwarding=%s", "-m", "ipv4", "e1000g0")
    fake.run("ipadm", "set-ifprop", "-t", *(a.replace("%s", "on") for a in forwarding))
    networks = await SmartOSNetworks.open(gz, told(fake, tmp_path, egress_nic="e1000g0"))
    await networks.create(plan("one"))
    await networks.remove("one")
    assert links(fake).interfaces["e1000g0"].forwarding == "on"
    fake.run("ipadm", "set-ifprop", "-t", *(a.replace("%s", "off") for a in forwarding))
    await networks.close()


async def test_an_internal_network_has_nothing_of_the_global_zone(
    networks: SmartOSNetworks, fake: FakeGZ, settings: Settings
) -> None:
    made = await networks.create(plan("inside", internal=True))
    assert made.internal
    assert networks.note(made) == ""
    assert not [name for name in links(fake).vnics if settings.name in name]


async def test_what_the_client_says_of_addresses_is_kept_and_checked(
    networks: SmartOSNetworks, fake: FakeGZ
) -> None:
    made = await networks.create(
        plan("own", subnet="172.26.9.0/24", gateway="172.26.9.254", ip_range="172.26.9.128/25")
    )
    assert made.gateway == "172.26.9.254"
    zone = new_uuid()
    assert networks.lease(zone, ask("own")).ip == "172.26.9.128"
    assert networks.lease(zone, ask("own", address="172.26.9.5")).ip == "172.26.9.5"
    with pytest.raises(Forbidden, match="Address already in use"):
        networks.lease(new_uuid(), ask("own", address="172.26.9.5"))
    with pytest.raises(InvalidParameter, match="no configured subnet contains"):
        networks.lease(new_uuid(), ask("own", address="10.1.1.1"))
    with pytest.raises(Forbidden, match="Pool overlaps"):
        await networks.create(plan("a", subnet="172.26.8.0/22"))
    with pytest.raises(Forbidden, match="Pool overlaps"):
        await networks.create(plan("a", subnet=str(fake.subnet)))
    with pytest.raises(InvalidParameter, match=r"it should be 172\.26\.4\.0/24"):
        await networks.create(plan("a", subnet="172.26.4.9/24"))
    with pytest.raises(InvalidParameter, match="no matching subnet for gateway"):
        await networks.create(plan("a", subnet="172.26.4.0/24", gateway="172.26.5.1"))
    with pytest.raises(InvalidParameter, match="invalid ip-range"):
        await networks.create(plan("a", subnet="172.26.4.0/24", ip_range="172.26.5.0/25"))
    with pytest.raises(Conflict, match="network with name own already exists"):
        await networks.create(plan("own"))
    with pytest.raises(Forbidden, match="predefined bridge"):
        await networks.create(plan("bridge"))
    with pytest.raises(NotSupported, match="enable_icc"):
        await networks.create(plan("a", options={"com.docker.network.bridge.enable_icc": "false"}))
    with pytest.raises(Forbidden, match="has active endpoints"):
        await networks.remove("own")
    with pytest.raises(Forbidden, match="pre-defined"):
        await networks.remove("none")
    networks.release(zone)


async def test_a_network_of_the_machine_is_joined_by_its_nic_tag(
    networks: SmartOSNetworks, fake: FakeGZ
) -> None:
    made = await networks.create(
        plan(
            "lan",
            driver="macvlan",
            options={"parent": "admin.20"},
            subnet="172.26.20.0/24",
            gateway="172.26.20.1",
            aux={"printer": "172.26.20.2"},
        )
    )
    assert (made.driver, made.internal, made.nic_tag) == ("macvlan", False, "admin")
    zone = new_uuid()
    nic = networks.lease(zone, ask("lan"))
    assert (nic.nic_tag, nic.vlan_id, nic.gateway) == ("admin", 20, "172.26.20.1")
    assert nic.ip == "172.26.20.3"
    networks.release(zone, made.id)
    assert not [name for name in links(fake).etherstubs if made.id[:8] in name]
    for wrong in ({}, {"parent": "nowhere0"}, {"parent": "admin.9999"}):
        with pytest.raises(InvalidParameter):
            await networks.create(plan("b", driver="macvlan", options=wrong, subnet="10.9.9.0/24"))
    with pytest.raises(InvalidParameter, match="needs the subnet"):
        await networks.create(plan("b", driver="macvlan", options={"parent": "admin"}))
    await networks.remove("lan")
    with pytest.raises(NotFound, match='plugin "weave" not found'):
        await networks.create(plan("c", driver="weave"))


async def test_subnets_of_other_zones_are_passed_over(networks: SmartOSNetworks) -> None:
    networks.addresses.learn_foreign("other", [{"ip": "172.26.0.77"}])
    assert (await networks.create(plan("next"))).subnet == "172.26.1.0/24"


FAULTS = [
    ("nictagadm", "add"),
    ("dladm", "create-vnic"),
    ("ipadm", "create-if"),
    ("ipadm", "create-addr"),
    ("ipnat", "-f"),
    ("ipadm", "set-ifprop"),
    ("ipadm", "forwarding=on"),
    ("fwadm", "add"),
]


@pytest.mark.parametrize(("program", "match"), FAULTS)
@pytest.mark.parametrize("after", [False, True])
async def test_a_network_that_could_not_be_made_leaves_nothing(
    gz: LocalGlobalZone, fake: FakeGZ, tmp_path: Path, program: str, match: str, after: bool
) -> None:
    settings = told(fake, tmp_path, egress_nic="e1000g0")
    networks = await SmartOSNetworks.open(gz, settings)
    fake.fault(program, match, times=1, stderr="no luck today", code=1, after=after)
    with pytest.raises(APIError, match="no luck today"):
        await networks.create(plan("web"))
    assert traces(fake, settings.name) == []
    await networks.create(plan("web"))
    await networks.remove("web")
    await networks.close()


@pytest.mark.parametrize(("program", "match"), FAULTS)
async def test_what_a_killed_gateway_left_is_swept_at_the_next_start(
    gz: LocalGlobalZone, fake: FakeGZ, tmp_path: Path, program: str, match: str
) -> None:
    settings = told(fake, tmp_path, egress_nic="e1000g0")
    networks = await SmartOSNetworks.open(gz, settings)
    fake.fault(program, match, times=1, after=True, stderr="killed")
    # Nor is there anybody to clean up: every program fails from then on.
    for other in ("fwadm", "ipnat", "ipadm", "dladm", "nictagadm"):
        fake.fault(other, "delete" if other != "ipnat" else "-r", stderr="killed")
    with pytest.raises(APIError):
        await networks.create(plan("web"))
    fake.clear_faults()
    again = await SmartOSNetworks.open(gz, settings)
    assert traces(fake, settings.name) == []
    assert "web" not in [network.name for network in again.list()]
    assert again.warnings() == ()
    assert links(fake).interfaces["e1000g0"].forwarding == "off"
    await again.close()


REMOVALS = [
    ("fwadm", "delete", False),
    ("ipnat", "-r", False),
    ("ipnat", "-r", True),
    ("dladm", "delete-vnic", False),
    ("dladm", "delete-vnic", True),
    ("nictagadm", "delete", False),
    ("nictagadm", "delete", True),
    ("ipadm", "forwarding=off", False),
    ("ipadm", "forwarding=off", True),
]


@pytest.mark.parametrize(("program", "match", "after"), REMOVALS)
async def test_what_a_gateway_killed_at_a_removal_left_is_swept_at_the_next_start(
    gz: LocalGlobalZone, fake: FakeGZ, tmp_path: Path, program: str, match: str, after: bool
) -> None:
    """One by one the parts go: a removal ends before a part, or right after it."""
    settings = told(fake, tmp_path, egress_nic="e1000g0")
    networks = await SmartOSNetworks.open(gz, settings)
    await networks.create(plan("web"))
    fake.fault(program, match, times=1, after=after, stderr="killed")
    with pytest.raises(APIError, match="killed"):
        await networks.remove("web")
    fake.clear_faults()
    again = await SmartOSNetworks.open(gz, settings)
    assert traces(fake, settings.name) == []
    assert "web" not in [network.name for network in again.list()]
    assert again.warnings() == ()
    assert links(fake).interfaces["e1000g0"].forwarding == "off"
    await again.close()


async def test_networks_come_back_after_a_reboot_of_the_machine(
    gz: LocalGlobalZone, fake: FakeGZ, tmp_path: Path
) -> None:
    settings = told(fake, tmp_path, egress_nic="e1000g0")
    networks = await SmartOSNetworks.open(gz, settings)
    made = await networks.create(plan("web"))
    before = traces(fake, settings.name)
    datalinks.reboot(fake.root)
    assert traces(fake, settings.name) != before
    again = await SmartOSNetworks.open(gz, settings)
    assert sorted(traces(fake, settings.name)) == sorted(before)
    assert again.get("web") == made
    await again.remove("web")
    assert traces(fake, settings.name) == []
    await again.close()


async def test_an_egress_nic_taken_from_the_settings_leads_out_no_more(
    gz: LocalGlobalZone, fake: FakeGZ, tmp_path: Path
) -> None:
    networks = await SmartOSNetworks.open(gz, told(fake, tmp_path, "swap", egress_nic="e1000g0"))
    await networks.create(plan("web"))
    after = await SmartOSNetworks.open(gz, told(fake, tmp_path, "swap"))
    assert after.get("web").internal
    assert datalinks.nat_rules(fake.root) == []
    assert links(fake).interfaces["e1000g0"].forwarding == "off"
    await after.remove("web")
    await after.close()


async def test_a_network_that_a_stopped_zone_of_anybodys_is_on_stays(
    networks: SmartOSNetworks, fake: FakeGZ, settings: Settings
) -> None:
    await networks.create(plan("web"))
    before = traces(fake, settings.name)
    zone = new_uuid()
    vm = make_vm(fake, [networks.lease(zone, ask("web"))])
    networks.release(zone)
    with pytest.raises(Forbidden, match="has active endpoints"):
        await networks.remove("web")
    assert traces(fake, settings.name) == before
    assert fake.run("vmadm", "delete", vm["uuid"]).returncode == 0


async def test_strays_of_this_instance_go_and_those_of_others_stay(
    gz: LocalGlobalZone, fake: FakeGZ, settings: Settings
) -> None:
    name = settings.name
    for tag in (f"{name}_0123abcd_0", f"{name}x_0123abcd_0", f"{name}_0"):
        assert fake.run("nictagadm", "add", "-l", tag).returncode == 0
    over = ("-t", "-l", f"{name}_0123abcd_0")
    assert fake.run("dladm", "create-vnic", *over, f"{name}_0123abcd_gw0").returncode == 0
    networks = await SmartOSNetworks.open(gz, settings)
    left = [stub for stub in links(fake).etherstubs if stub.startswith(name)]
    assert left == [f"{name}x_0123abcd_0", f"{name}_0"]
    for tag in left:
        fake.run("nictagadm", "delete", tag)
    await networks.close()


async def test_a_tool_that_fails_at_start_is_said_and_stops_nothing(
    gz: LocalGlobalZone, fake: FakeGZ, settings: Settings
) -> None:
    for program in ("fwadm", "ipadm", "nictagadm"):
        fake.fault(program, stderr=f"{program} is broken", code=1)
    networks = await SmartOSNetworks.open(gz, settings)
    words = "\n".join(networks.warnings())
    for program in ("fwadm", "ipadm", "nictagadm"):
        assert re.search(rf": {program}: {program} is broken", words)
    assert networks.lease(new_uuid(), ask()).ip
    await networks.close()


# -- who reaches whom


def passes(
    fake: FakeGZ, source: dict[str, Any], target: dict[str, Any], what: str, port: int
) -> bool:
    """Whether the rules of the machine let a packet of one zone into another, at any of its addresses."""
    vms = [json.loads(fake.run("vmadm", "get", vm["uuid"]).stdout) for vm in (source, target)]
    return any(
        fwrules.parse(rule["rule"]).lets_in(vms[1], IPv4Address(nic["ip"]), what, port, vms)
        for rule in fwadm.load(fake.root).values()
        if rule["enabled"] and rule["owner_uuid"] == vms[1]["owner_uuid"]
        for nic in source["nics"]
    )


async def test_members_of_a_network_reach_each_other_and_nobody_else_reaches_them(
    networks: SmartOSNetworks, fake: FakeGZ
) -> None:
    await networks.create(plan("web"))
    await networks.create(plan("db"))

    def member(*on: str) -> dict[str, Any]:
        zone = new_uuid()
        nics = [
            networks.lease(zone, ask(name)).model_copy(
                update={"interface": f"eth{n}", "primary": None if n else True}
            )
            for n, name in enumerate(on)
        ]
        return make_vm(fake, nics, uuid=zone, tags=networks.tags(nics))

    web, other, db, both = member("web"), member("web"), member("db"), member("web", "db")
    vms = [web, other, db, both]
    for what, port in (("tcp", 1), ("udp", 65535), ("icmp", 8)):
        assert passes(fake, web, other, what, port)
        assert passes(fake, both, web, what, port)
        assert passes(fake, db, both, what, port)
        assert not passes(fake, web, db, what, port)
        assert not passes(fake, db, web, what, port)
    texts = fake.run("fwadm", "rules", web["uuid"], "-j").stdout
    assert len(json.loads(texts)) == 5, "one rule has one protocol"
    for vm in vms:
        assert fake.run("vmadm", "delete", vm["uuid"]).returncode == 0
        networks.release(vm["uuid"])


async def test_networks_made_at_once_do_not_get_in_each_others_way(
    networks: SmartOSNetworks,
) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(networks.create(plan(f"n{n}"))) for n in range(4)]
    made: list[Network] = [task.result() for task in tasks]
    assert len({network.subnet for network in made}) == 4


async def test_a_network_has_both_versions_of_ip(
    gz: LocalGlobalZone, networks: SmartOSNetworks, settings: Settings, fake: FakeGZ
) -> None:
    made = await networks.create(plan("six", ipv6=AddressRange("fd00:77::/64")))
    assert made.ipv6 is not None
    assert (made.ipv6.subnet, made.ipv6.gateway) == ("fd00:77::/64", "fd00:77::1")
    zones = new_uuid(), new_uuid(), new_uuid()
    first = networks.lease(zones[0], ask("six"))
    assert first.ips is not None
    assert first.ips[1] == "fd00:77::2/64"
    second = networks.lease(zones[1], ask("six", address6="fd00:77::99"))
    assert second.ips == (f"{second.ip}/24", "fd00:77::99/64")
    with pytest.raises(InvalidParameter, match="no configured subnet"):
        networks.lease(zones[2], ask("six", address6="fd00:78::99"))
    with pytest.raises(Forbidden, match="Pool overlaps"):
        await networks.create(plan("other", ipv6=AddressRange("fd00:77::/80")))
    for zone in zones:
        networks.release(zone)
    chosen = await networks.create(plan("chosen", ipv6=AddressRange()))
    assert chosen.ipv6 is not None
    assert chosen.ipv6.subnet.startswith("fd")
    listing = fake.run("ipadm", "show-addr", "-p", "-o", "addrobj,addr").stdout
    assert r"/v6:fd00\:77\:\:1/64" in listing
    # Another life of the gateway, and a machine that has booted meanwhile.
    await networks.close()
    datalinks.reboot(fake.root)
    after = await SmartOSNetworks.open(gz, settings)
    assert after.get("six").ipv6 == made.ipv6
    assert fake.run("ipadm", "show-addr", "-p", "-o", "addrobj,addr").stdout.count("/v6:fd") == 2
    await after.close()


async def test_an_address_goes_to_who_is_there_and_from_who_does_not_run(
    networks: SmartOSNetworks,
) -> None:
    await networks.create(plan("n"))
    states: dict[ZoneUUID, bool] = {}
    networks.addresses.runs = states.get
    holder, comer = new_uuid(), new_uuid()
    address = str(IPv4Address(networks.get("n").gateway) + 8)
    asked = NetworkRequest("n", address=address)
    networks.lease(holder, asked)
    states[holder] = False
    # vmadm would refuse to make a zone with it; one that is about to start may have it.
    with pytest.raises(Forbidden, match="Address already in use"):
        networks.lease(comer, asked)
    states[comer] = False
    nic = networks.lease(comer, asked)
    ours = uuid_of(networks.get("n").id)
    assert networks.rivals(comer, [nic]) == {holder: {ours}}
    networks.give_up(holder, {ours})
    assert networks.rivals(comer, [nic]) == {}
    states[comer] = True
    with pytest.raises(Forbidden, match="Address already in use"):
        networks.lease(holder, asked)
    networks.release(comer)
