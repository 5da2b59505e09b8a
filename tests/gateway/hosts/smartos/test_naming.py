"""Names of zones on etherstubs: by the global zone's name server, and by /etc/hosts where there is none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dockerapi.errors import APIError, Forbidden
from gateway.settings import Settings
from gateway.zones.host import Network, NetworkPlan, NetworkRequest, Zone
from gateway.zones.metadata import Link, decode, encode
from gateway.zones.spec import ZoneUUID
from tests.contract.conftest import (  # noqa: F401 (fixture)
    DEADLINE_S,
    Bench,
    global_zone,
    kept,
    opened,
    smartos_settings,
    zone_spec,
)
from tests.fakes import sshd
from tests.fakes.globalzone.process import FakeGZ

pytestmark = pytest.mark.root

HAS_SSHD = Path(sshd.PROGRAM).exists()
SLEEP = ("sleep", "1000")


@pytest.fixture
async def near(smartos_settings: Settings) -> AsyncIterator[Bench]:  # noqa: F811
    """The host in the global zone itself."""
    async with kept(opened(smartos_settings)) as bench:
        yield bench
        await cleared(bench)


@pytest.fixture
async def far(global_zone: FakeGZ, short_dir: Path) -> AsyncIterator[Bench]:  # noqa: F811
    """The host on another machine."""
    pytest.importorskip("asyncssh")
    if not HAS_SSHD:
        pytest.skip("there is no sshd")
    names = ("PATH", "ZONEGATE_FAKE_GZ")
    server = sshd.start(short_dir / "ssh", {name: global_zone.environment[name] for name in names})
    smartos = {
        "host": server.url,
        "identity_file": server.identity_file,
        "known_hosts": server.known_hosts,
    }
    settings = global_zone.settings(
        data_root=short_dir / "data", exec_root=short_dir / "run", smartos=smartos
    )
    try:
        async with kept(opened(settings)) as bench:
            yield bench
            await cleared(bench)
    finally:
        server.stop()


async def cleared(bench: Bench) -> None:
    """No zone and no network."""
    for zone in bench.zones.list():
        await bench.zones.delete(zone.uuid)
    for network in bench.host.networks.list():
        if network.plan is not None:
            await bench.host.networks.remove(network.id)


async def join(bench: Bench, network: Network, alias: str, *links: Link) -> Zone:
    """A zone that runs on a network."""
    spec = zone_spec(*SLEEP, alias=alias, instance=bench._given["instance"], kernel_version="4.10")
    nic = bench.host.networks.lease(ZoneUUID(spec.uuid), NetworkRequest(network.id))
    data = decode(spec.internal_metadata)
    runtime = data.runtime.model_copy(update={"links": links})
    told = encode(data.model_copy(update={"runtime": runtime}))
    spec = spec.model_copy(update={"nics": (nic,), "internal_metadata": told})
    return await bench.zones.start((await bench.zones.create(spec)).uuid)


def file(machine: FakeGZ, zone: Zone, name: str) -> str:
    """Of /etc, as vmadm wrote it."""
    return (machine.root / "zones" / zone.uuid / "config" / name).read_text()


def vm(machine: FakeGZ, zone: Zone) -> dict[str, object]:
    """As vmadm shows it."""
    found: dict[str, object] = json.loads(machine.run("vmadm", "get", zone.uuid).stdout)
    return found


async def until_hosts(machine: FakeGZ, zone: Zone, *, has: str = "", lacks: str = "") -> None:
    """Its /etc/hosts has caught up."""
    async with asyncio.timeout(DEADLINE_S):
        while has not in (text := file(machine, zone, "hosts")) or (lacks and lacks in text):  # noqa: ASYNC110 (files of another process)
            await asyncio.sleep(0.02)


async def test_a_zone_asks_the_gateway_of_its_network(
    near: Bench,
    global_zone: FakeGZ,  # noqa: F811
) -> None:
    network = await near.host.networks.create(NetworkPlan("back"))
    web, db = await join(near, network, "web"), await join(near, network, "db")
    assert file(global_zone, web, "resolv.conf").splitlines()[-1] == f"nameserver {network.gateway}"
    code, out, _ = await near.exec(web, "ping", "-c", "1", "-W", "5", "db")
    assert code == 0
    assert out.startswith(f"PING db ({db.spec.nics[0].ip})".encode())
    assert near.zones.get(web.uuid).spec.resolvers == web.spec.resolvers
    assert network.gateway not in (web.spec.resolvers or ())
    assert not file(global_zone, web, "hosts").count("db")


async def test_what_is_not_on_the_network_is_not_answered(
    near: Bench,
    global_zone: FakeGZ,  # noqa: F811
) -> None:
    back = await near.host.networks.create(NetworkPlan("back"))
    front = await near.host.networks.create(NetworkPlan("front"))
    web, db = await join(near, front, "web"), await join(near, back, "db")
    code, _, err = await near.exec(web, "ping", "-c", "1", "-W", "5", "db")
    assert (code, err) == (1, b"ping: bad address 'db'\n")
    code, _, _ = await near.exec(web, "ping", "-c", "1", "-W", "1", str(db.spec.nics[0].ip))
    assert code == 1


async def test_nics_of_a_zone_come_and_go_with_its_update(
    near: Bench,
    global_zone: FakeGZ,  # noqa: F811
) -> None:
    back = await near.host.networks.create(NetworkPlan("back"))
    front = await near.host.networks.create(NetworkPlan("front"))
    zone = await join(near, back, "web")
    nic = near.host.networks.lease(zone.uuid, NetworkRequest(front.id))
    nic = nic.model_copy(update={"interface": "eth1", "primary": None})
    spec = zone.spec.model_copy(update={"nics": (*zone.spec.nics, nic)})
    updated = await near.zones.update(zone.uuid, spec)
    found = vm(global_zone, zone)
    assert [one["nic_tag"] for one in found["nics"]] == [back.nic_tag, front.nic_tag]  # type: ignore[attr-defined]
    assert updated.spec.nics[1].mac
    assert [key for key in found["tags"] if key.startswith("zonegate:network:")] == [  # type: ignore[attr-defined]
        f"zonegate:network:{one.network_uuid}" for one in updated.spec.nics
    ]
    await near.zones.restart(zone.uuid, signal=None, timeout_s=0)
    assert b"eth1" in (await near.exec(zone, "ip", "addr"))[1]
    left = updated.spec.model_copy(update={"nics": updated.spec.nics[:1]})
    await near.zones.update(zone.uuid, left)
    near.host.networks.release(zone.uuid, front.id)
    assert len(vm(global_zone, zone)["nics"]) == 1  # type: ignore[arg-type]
    with pytest.raises(Forbidden, match="has its nic until its next start"):
        await near.host.networks.remove("front")
    await near.zones.restart(zone.uuid, signal=None, timeout_s=0)
    await near.host.networks.remove("front")


async def test_over_ssh_names_are_lines_that_follow(
    far: Bench,
    global_zone: FakeGZ,  # noqa: F811
) -> None:
    network = await far.host.networks.create(NetworkPlan("back"))
    db = await join(far, network, "db")
    web = await join(far, network, "web")
    line = f"{db.spec.nics[0].ip}\tdb {db.metadata.id[:12]}\n"
    assert line in file(global_zone, web, "hosts")
    await until_hosts(global_zone, db, has=f"{web.spec.nics[0].ip}\tweb ")
    await far.zones.rename(db.uuid, "store")
    await until_hosts(global_zone, web, has="\tstore ", lacks="\tdb ")
    assert (await far.exec(web, "ping", "-c", "1", "-W", "5", "store"))[0] == 0
    await far.zones.stop(db.uuid, signal="SIGKILL", timeout_s=0)
    await until_hosts(global_zone, web, lacks="store")


async def test_a_link_is_a_line_and_variables_for_the_start(
    near: Bench,
    global_zone: FakeGZ,  # noqa: F811
) -> None:
    network = near.host.networks.get("bridge")
    db = await join(near, network, "db")
    web = await join(near, network, "web", Link(id=db.metadata.id, name="db", alias="sql"))
    hosts = file(global_zone, web, "hosts")
    assert f"{db.spec.nics[0].ip}\tsql {db.spec.hostname} db\n" in hosts
    assert b"SQL_NAME=/web/sql\n" in (await near.exec(web, "env"))[1]
    for zone in (web, db):
        await near.zones.stop(zone.uuid, signal="SIGKILL", timeout_s=0)
    with pytest.raises(APIError, match="Cannot link to a non running container: /db AS /web/sql"):
        await near.zones.start(web.uuid)
