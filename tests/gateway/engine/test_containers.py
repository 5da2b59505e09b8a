"""Containers: lookup, state matrix, waits, --rm, lists, in dockerd's words."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from dockerapi.engine import AttachQuery, EventsQuery, ListQuery, LogsQuery
from dockerapi.errors import (
    APIError,
    Conflict,
    InvalidParameter,
    NameInUse,
    NoSuchContainer,
    NoSuchImage,
    NotFound,
    NotModified,
    NotSupported,
    StartFailure,
)
from dockerapi.filters import Filters
from dockerapi.framing import StreamId
from dockerapi.models.containers import ContainerCreate
from gateway.engine.containers import foreign_warnings
from gateway.engine.roster import Roster
from gateway.zones.host import ZoneChange
from gateway.zones.spec import ZoneState
from imgsources.oci import Platform, default_platform
from tests.gateway.engine.conftest import Bench


async def rows(bench: Bench, **filters: list[str]) -> list[dict[str, Any]]:
    """All rows that the filters let through."""
    query = ListQuery(all=True, filters=Filters(filters))
    return list(json.loads(await bench.gateway.containers.list(query)))


async def names(bench: Bench, **filters: list[str]) -> list[str]:
    """Their names."""
    return [row["Names"][0][1:] for row in await rows(bench, **filters)]


async def test_the_id_begins_with_the_zones_uuid(bench: Bench) -> None:
    docker_id = await bench.create("web")
    assert len(docker_id) == 64
    assert bench.host.zones.list()[0].uuid.replace("-", "") == docker_id[:32]


async def test_a_container_is_found_by_id_name_and_prefix(bench: Bench) -> None:
    docker_id = await bench.create("web")
    for ref in (docker_id, "web", "/web", docker_id[:6]):
        assert (await bench.inspect(ref))["Id"] == docker_id
    with pytest.raises(NoSuchContainer, match="No such container: nope"):
        await bench.inspect("nope")


async def test_a_name_wins_over_the_prefix_of_an_id(bench: Bench) -> None:
    first = await bench.create()
    second = await bench.create(first[:5])
    assert (await bench.inspect(first[:5]))["Id"] == second


async def test_an_ambiguous_prefix_is_an_error(bench: Bench) -> None:
    ids = [await bench.create() for _ in range(17)]
    first = next(a[0] for a in ids if sum(b[0] == a[0] for b in ids) > 1)
    with pytest.raises(InvalidParameter, match="multiple IDs found with provided prefix"):
        await bench.inspect(first)


async def test_a_taken_name_is_refused_with_the_holders_id(bench: Bench) -> None:
    holder = await bench.create("web")
    with pytest.raises(NameInUse) as caught:
        await bench.create("web")
    assert holder in caught.value.message
    assert '"/web"' in caught.value.message


@pytest.mark.parametrize("name", ["a", "-ab", "a b", "ä-name"])
async def test_a_bad_name_is_refused(bench: Bench, name: str) -> None:
    with pytest.raises(InvalidParameter, match="Invalid container name"):
        await bench.create(name)


async def test_an_unknown_image_is_not_found(bench: Bench) -> None:
    with pytest.raises(NoSuchImage, match="No such image: nope:1"):
        await bench.create(Image="nope:1")


async def test_an_empty_body_is_refused(bench: Bench) -> None:
    with pytest.raises(InvalidParameter, match="config cannot be empty"):
        await bench.gateway.containers.create(ContainerCreate(), name=None, platform=None)


async def test_another_platform_is_not_found(bench: Bench) -> None:
    body = ContainerCreate.model_validate({"Image": "busybox"})
    with pytest.raises(NotFound, match="does not match the specified platform"):
        await bench.gateway.containers.create(body, name=None, platform="linux/s390x")


def test_an_image_for_another_machine_is_told_of() -> None:
    assert foreign_warnings(default_platform()) == []
    (told,) = foreign_warnings(Platform("linux", "mips64le"))
    assert told.startswith("The requested image's platform (linux/mips64le) does not match")


async def test_a_failed_create_leaves_nothing(bench: Bench) -> None:
    bench.host.zones.create_fails = Conflict("no")
    with pytest.raises(Conflict):
        await bench.create("web", Volumes={"/v": {}})
    assert bench.host.volumes.list() == ()
    assert bench.host.networks.leases == []
    bench.host.zones.create_fails = None
    await bench.create("web")


async def test_a_missing_bind_source_is_refused_at_create(bench: Bench) -> None:
    mount = {"Type": "bind", "Source": "/nope", "Target": "/x"}
    with pytest.raises(InvalidParameter, match="bind source path does not exist: /nope"):
        await bench.create(HostConfig={"Mounts": [mount]})


async def test_starting_twice_changes_nothing(bench: Bench) -> None:
    docker_id = await bench.started()
    with pytest.raises(NotModified):
        await bench.gateway.containers.start(docker_id)


async def test_a_paused_container_cannot_be_started_or_attached_to(bench: Bench) -> None:
    docker_id = await bench.started("web")
    await bench.gateway.containers.pause("web")
    with pytest.raises(Conflict, match="cannot start a paused container"):
        await bench.gateway.containers.start("web")
    with pytest.raises(Conflict, match="is paused, unpause the container before attach"):
        await bench.gateway.containers.attach("web", AttachQuery(stream=True))
    with pytest.raises(Conflict, match=f"Container {docker_id} is already paused"):
        await bench.gateway.containers.pause("web")
    await bench.gateway.containers.unpause("web")
    with pytest.raises(APIError, match="is not paused") as caught:
        await bench.gateway.containers.unpause("web")
    assert caught.value.status == 500


async def test_a_command_that_is_missing_leaves_its_error_in_the_state(bench: Bench) -> None:
    await bench.create("web", Cmd=["nosuch"])
    with pytest.raises(StartFailure):
        await bench.gateway.containers.start("web")
    state = (await bench.inspect("web"))["State"]
    assert (state["Status"], state["ExitCode"]) == ("created", 127)
    assert "not found" in state["Error"]


async def test_a_network_that_is_missing_fails_at_start_only(bench: Bench) -> None:
    docker_id = await bench.create(HostConfig={"NetworkMode": "nope"})
    with pytest.raises(NotFound, match="network nope not found"):
        await bench.gateway.containers.start(docker_id)
    assert (await bench.inspect(docker_id))["HostConfig"]["NetworkMode"] == "nope"


async def test_stop_kill_and_resize_need_a_running_container(bench: Bench) -> None:
    docker_id = await bench.create("web")
    with pytest.raises(NotModified):
        await bench.gateway.containers.stop("web", signal=None, timeout_s=None)
    with pytest.raises(Conflict, match=r"cannot kill container: web: container .* is not running"):
        await bench.gateway.containers.kill("web", signal="TERM")
    with pytest.raises(Conflict, match=f"container {docker_id} is not running"):
        await bench.gateway.containers.resize("web", 10, 10)


@pytest.mark.parametrize(
    ("signal", "words"),
    [
        ("0", "invalid signal: 0"),
        ("SIG42", "invalid signal: SIG42"),
        ("FOO", "invalid signal: FOO"),
        ("99", "the linux daemon does not support signal 99"),
        ("-1", "the linux daemon does not support signal -1"),
    ],
)
async def test_an_unknown_signal_is_refused(bench: Bench, signal: str, words: str) -> None:
    await bench.started("web")
    with pytest.raises(InvalidParameter, match=f"^cannot kill container: web: {words}$"):
        await bench.gateway.containers.kill("web", signal=signal)


async def test_kill_returns_when_the_container_is_down(bench: Bench) -> None:
    await bench.started("web")
    await bench.gateway.containers.kill("web", signal="HUP")
    assert (await bench.inspect("web"))["State"]["Running"]
    await bench.gateway.containers.kill("web", signal="")
    assert (await bench.inspect("web"))["State"]["ExitCode"] == 137


async def test_a_wait_is_registered_before_the_start(bench: Bench) -> None:
    docker_id = await bench.create()
    ending = await bench.gateway.containers.wait(docker_id, "next-exit")
    await bench.gateway.containers.start(docker_id)
    bench.host.zones.exit(bench.uuid(docker_id), 3)
    assert await ending == {"StatusCode": 3}


async def test_next_exit_does_not_mean_the_last_one(bench: Bench) -> None:
    docker_id = await bench.started()
    bench.host.zones.exit(bench.uuid(docker_id), 3)
    assert await (await bench.gateway.containers.wait(docker_id, "")) == {"StatusCode": 3}
    ending = await bench.gateway.containers.wait(docker_id, "next-exit")
    await bench.gateway.containers.start(docker_id)
    bench.host.zones.exit(bench.uuid(docker_id), 4)
    assert await ending == {"StatusCode": 4}


async def test_an_exit_that_the_policy_mends_answers_waits(bench: Bench) -> None:
    docker_id = await bench.started()
    ending = await bench.gateway.containers.wait(docker_id, "not-running")
    bench.host.zones.exit(bench.uuid(docker_id), 1, again=True)
    assert await ending == {"StatusCode": 1}
    assert (await bench.inspect(docker_id))["State"]["Status"] == "restarting"


async def test_an_unknown_condition_is_refused(bench: Bench) -> None:
    await bench.create("web")
    with pytest.raises(InvalidParameter, match='invalid condition: "zz"'):
        _ = await bench.gateway.containers.wait("web", "zz")


async def test_a_signals_number_is_an_exit_code_over_128(bench: Bench) -> None:
    docker_id = await bench.started()
    bench.host.zones.exit(bench.uuid(docker_id), -9)
    assert (await bench.inspect(docker_id))["State"]["ExitCode"] == 137


async def test_rm_removes_the_container_and_its_volumes_and_the_exit_code_survives(
    bench: Bench,
) -> None:
    docker_id = await bench.create(Volumes={"/v": {}}, HostConfig={"AutoRemove": True})
    assert len(bench.host.volumes.list()) == 1
    ending = await bench.gateway.containers.wait(docker_id, "removed")
    await bench.gateway.containers.start(docker_id)
    bench.host.zones.exit(bench.uuid(docker_id), 6)
    assert await ending == {"StatusCode": 6}
    with pytest.raises(NoSuchContainer):
        await bench.inspect(docker_id)
    assert bench.host.volumes.list() == ()


async def test_volumes_go_before_their_container_is_told_of_as_gone(bench: Bench) -> None:
    docker_id = await bench.started(Volumes={"/v": {}})
    await bench.gateway.containers.remove(docker_id, force=True, volumes=True, link=False)
    assert (await bench.told())[-5:] == [
        "network disconnect",
        "volume unmount",
        "container die",
        "volume destroy",
        "container destroy",
    ]


async def test_the_network_is_remembered_when_the_addresses_are_gone(bench: Bench) -> None:
    async def shown() -> dict[str, Any]:
        networks = (await bench.inspect(docker_id))["NetworkSettings"]["Networks"]
        return dict(networks["bridge"])

    docker_id = await bench.create()
    assert (await shown())["NetworkID"] == ""
    await bench.gateway.containers.start(docker_id)
    joined = (await shown())["NetworkID"]
    await bench.gateway.containers.stop(docker_id, signal=None, timeout_s=0)
    assert joined
    assert ((await shown())["NetworkID"], (await shown())["IPAddress"]) == (joined, "")


async def test_rm_of_a_container_that_cannot_start(bench: Bench) -> None:
    docker_id = await bench.create(Cmd=["nosuch"], HostConfig={"AutoRemove": True})
    ending = await bench.gateway.containers.wait(docker_id, "removed")
    with pytest.raises(StartFailure):
        await bench.gateway.containers.start(docker_id)
    assert await ending == {"StatusCode": 127}


async def test_rm_of_a_container_whose_network_is_missing(bench: Bench) -> None:
    docker_id = await bench.create(HostConfig={"NetworkMode": "nope", "AutoRemove": True})
    ending = await bench.gateway.containers.wait(docker_id, "removed")
    with pytest.raises(NotFound, match="network nope not found"):
        await bench.gateway.containers.start(docker_id)
    async with asyncio.timeout(5):
        assert set(await ending) >= {"StatusCode"}
    with pytest.raises(NoSuchContainer):
        await bench.inspect(docker_id)


async def test_a_restart_does_not_remove_a_container_with_rm(bench: Bench) -> None:
    docker_id = await bench.started("web", HostConfig={"AutoRemove": True})
    await bench.gateway.containers.restart("web", signal=None, timeout_s=1)
    assert (await bench.inspect(docker_id))["State"]["Running"]
    assert (await bench.told())[-7:] == [
        "container kill",
        "network disconnect",
        "container stop",
        "container die",
        "network connect",
        "container start",
        "container restart",
    ]


async def test_a_running_container_is_removed_by_force_only(bench: Bench) -> None:
    await bench.started("web")
    with pytest.raises(
        Conflict, match="container is running: stop the container before removing or force remove"
    ):
        await bench.gateway.containers.remove("web", force=False, volumes=False, link=False)
    ending = await bench.gateway.containers.wait("web", "removed")
    await bench.gateway.containers.remove("web", force=True, volumes=False, link=False)
    assert await ending == {"StatusCode": 137}
    with pytest.raises(NoSuchContainer):
        await bench.gateway.containers.remove("web", force=True, volumes=False, link=False)


async def test_a_link_is_removed_and_both_containers_stay(bench: Bench) -> None:
    await bench.create("db")
    await bench.create("web", HostConfig={"Links": ["db:sql"]})
    assert (await bench.inspect("web"))["HostConfig"]["Links"] == ["/db:/web/sql"]
    assert (await bench.inspect("web/sql"))["Name"] == "/db"
    with pytest.raises(APIError, match="cannot remove the default link name"):
        await bench.gateway.containers.remove("db", force=False, volumes=False, link=True)
    with pytest.raises(NoSuchContainer):
        await bench.gateway.containers.remove("web/x", force=False, volumes=False, link=True)
    await bench.gateway.containers.remove("web/sql", force=False, volumes=False, link=True)
    assert (await bench.inspect("web"))["HostConfig"]["Links"] is None
    assert (await bench.inspect("db"))["Name"] == "/db"


async def test_a_link_to_nobody_is_refused(bench: Bench) -> None:
    with pytest.raises(InvalidParameter, match="could not get container for nobody"):
        await bench.create("web", HostConfig={"Links": ["nobody:x"]})


async def test_named_volumes_stay_and_anonymous_ones_go(bench: Bench) -> None:
    await bench.create("web", Volumes={"/a": {}}, HostConfig={"Binds": ["data:/b"]})
    shown = {m["Destination"]: m for m in (await bench.inspect("web"))["Mounts"]}
    assert shown["/b"]["Name"] == "data"
    assert shown["/a"]["Type"] == "volume"
    await bench.gateway.containers.remove("web", force=False, volumes=True, link=False)
    assert [volume.name for volume in bench.host.volumes.list()] == ["data"]


async def test_what_a_cut_off_creation_left_goes_at_the_next_start(bench: Bench) -> None:
    for name in ("kept", "used", "other"):
        await bench.create(name, Volumes={"/a": {}})
    await bench.create("user", HostConfig={"VolumesFrom": ["used"]})
    kept, used, other = (volume.name for volume in bench.host.volumes.list())
    await bench.gateway.containers.remove("kept", force=False, volumes=False, link=False)
    await bench.host.zones.delete(bench.uuid((await bench.inspect("used"))["Id"]))
    await bench.told()
    await bench.host.volumes.create("lost", labels={}, options={}, owner="nobody")
    await bench.gateway.volumes.sweep()
    assert [volume.name for volume in bench.host.volumes.list()] == [kept, used, other]


async def test_volumes_from_gives_the_others_mounts(bench: Bench) -> None:
    await bench.create("data", HostConfig={"Binds": ["data:/b", "/:/host:ro"]})
    await bench.create("user", HostConfig={"VolumesFrom": ["data:ro"]})
    mounts = (await bench.inspect("user"))["Mounts"]
    assert [(m["Destination"], m["RW"]) for m in mounts] == [("/b", False), ("/host", False)]
    with pytest.raises(InvalidParameter, match="No such container: nope"):
        await bench.create(HostConfig={"VolumesFrom": ["nope"]})


async def test_renaming(bench: Bench) -> None:
    await bench.create("one")
    await bench.create("two")
    with pytest.raises(Conflict, match="Error when allocating new name: Conflict"):
        await bench.gateway.containers.rename("one", "two")
    with pytest.raises(InvalidParameter, match="same name as its current name"):
        await bench.gateway.containers.rename("one", "/one")
    with pytest.raises(InvalidParameter, match="Neither old nor new names may be empty"):
        await bench.gateway.containers.rename("one", "")
    await bench.gateway.containers.rename("one", "three")
    assert (await bench.inspect("three"))["Name"] == "/three"
    await bench.create("one")


async def test_a_run_is_told_in_dockerds_order(bench: Bench) -> None:
    docker_id = await bench.create("web", HostConfig={"Binds": ["data:/b"]})
    await bench.gateway.containers.attach(docker_id, AttachQuery(stream=True, stdout=True))
    await bench.gateway.containers.start(docker_id)
    ending = await bench.gateway.containers.wait(docker_id, "not-running")
    bench.host.zones.exit(bench.uuid(docker_id), 0)
    await ending
    await bench.gateway.containers.remove(docker_id, force=False, volumes=False, link=False)
    assert await bench.told() == [
        "volume create",
        "container create",
        "container attach",
        "volume mount",
        "network connect",
        "container start",
        "network disconnect",
        "volume unmount",
        "container die",
        "container destroy",
    ]


async def test_attach_replays_the_log_and_ends_at_the_detach_keys(bench: Bench) -> None:
    docker_id = await bench.started(Tty=True, OpenStdin=True)
    bench.host.zones.log = [(StreamId.STDOUT, b"before ")]
    query = AttachQuery(stdin=True, stdout=True, stream=True, logs=True, detach_keys="ctrl-a,a")
    stdio = await bench.gateway.containers.attach(docker_id, query)
    inner = bench.host.zones.streams[bench.uuid(docker_id)]
    inner.chunks.put_nowait((StreamId.STDOUT, b"now"))
    await stdio.write(b"x\x01")
    await stdio.write(b"a")
    assert b"".join([chunk async for _, chunk in stdio.output()]) == b"before now"
    assert inner.written == b"x"
    assert "container detach" in await bench.told()


async def test_bad_detach_keys_are_refused(bench: Bench) -> None:
    await bench.started("web")
    with pytest.raises(InvalidParameter, match=r"Invalid detach keys \(ctrl-\) provided"):
        await bench.gateway.containers.attach("web", AttachQuery(detach_keys="ctrl-"))


async def test_logs_need_a_stream_and_a_driver_that_keeps_them(bench: Bench) -> None:
    await bench.create("web", HostConfig={"LogConfig": {"Type": "none"}})
    with pytest.raises(InvalidParameter, match="you must choose at least one stream"):
        await bench.gateway.containers.logs("web", LogsQuery())
    with pytest.raises(NotSupported, match="configured logging driver does not support reading"):
        await bench.gateway.containers.logs("web", LogsQuery(stdout=True))


async def test_log_details_are_the_labels_that_the_options_name(bench: Bench) -> None:
    options = {"Type": "json-file", "Config": {"labels": "a,b", "env": "E"}}
    await bench.create("web", Labels={"a": "1 2"}, Env=["E=f"], HostConfig={"LogConfig": options})
    stream = await bench.gateway.containers.logs("web", LogsQuery(stdout=True, details=True))
    assert [block async for block in stream.blocks] == []
    assert bench.host.zones.queries[0].prefix == "E=f,a=1+2 "


async def test_log_details_have_what_expressions_and_the_tag_say(bench: Bench) -> None:
    config = {"labels-regex": "^a", "env-regex": "E$", "tag": "{{.Name}}/{{ .ImageName }}"}
    options = {"Type": "json-file", "Config": config}
    labels, env = {"ab": "1", "ba": "2"}, ["ONE=1", "TWO=2"]
    await bench.create("web", Labels=labels, Env=env, HostConfig={"LogConfig": options})
    stream = await bench.gateway.containers.logs("web", LogsQuery(stdout=True, details=True))
    assert [block async for block in stream.blocks] == []
    assert bench.host.zones.queries[0].prefix == "ONE=1,ab=1,tag=web%2Fbusybox "


async def test_the_list_shows_newest_first_and_what_runs(bench: Bench) -> None:
    await bench.create("old")
    await bench.started("new", ExposedPorts={"80/tcp": {}})
    assert await names(bench) == ["new", "old"]
    running = json.loads(await bench.gateway.containers.list(ListQuery()))
    assert [row["State"] for row in running] == ["running"]
    assert running[0]["Status"].startswith("Up ")
    assert running[0]["Ports"] == [{"PrivatePort": 80, "Type": "tcp"}]


async def test_a_row_follows_the_zone_and_the_tag(bench: Bench) -> None:
    docker_id = await bench.started("web")
    assert (await rows(bench))[0]["Image"] == "busybox"
    bench.host.zones.exit(bench.uuid(docker_id), 1)
    assert (await rows(bench))[0]["Status"].startswith("Exited (1)")
    bench.image("busybox", layers=("b",))
    assert (await rows(bench))[0]["Image"].startswith("sha256:")


async def test_filters_of_the_list(bench: Bench) -> None:
    one = await bench.started("one", Labels={"a": "1"}, HostConfig={"Binds": ["data:/b"]})
    two = await bench.started("two", Labels={"a": "2"}, ExposedPorts={"80/tcp": {}})
    await bench.create("three")
    assert await names(bench, expose=["70-90/tcp"]) == ["two"]
    bench.host.zones.exit(bench.uuid(two), 4)
    image = bench.catalog.get("busybox")
    cases: list[tuple[dict[str, list[str]], list[str]]] = [
        ({"id": [one[:10]]}, ["one"]),
        ({"name": ["^/t"]}, ["three", "two"]),
        ({"name": ["one", "two"]}, ["two", "one"]),
        ({"label": ["a"]}, ["two", "one"]),
        ({"label": ["a", "a=1"]}, ["one"]),
        ({"status": ["exited", "created"]}, ["three", "two"]),
        ({"exited": ["4"]}, ["two"]),
        ({"before": ["two"]}, ["one"]),
        ({"since": ["two"]}, ["three"]),
        ({"ancestor": ["busybox"]}, ["three", "two", "one"]),
        ({"ancestor": [image.id[7:19]]}, ["three", "two", "one"]),
        ({"ancestor": ["nope"]}, []),
        ({"network": ["bridge"]}, ["three", "two", "one"]),
        ({"network": ["host"]}, []),
        ({"volume": ["data"]}, ["one"]),
        ({"volume": ["/b"]}, ["one"]),
        ({"expose": ["70-90/tcp"]}, []),
        ({"name": ["("]}, []),
        ({"publish": ["80"]}, []),
        ({"health": ["none"]}, ["three", "two", "one"]),
        ({"is-task": ["false"]}, ["three", "two", "one"]),
    ]
    for filters, expected in cases:
        assert await names(bench, **filters) == expected, filters


@pytest.mark.parametrize(
    ("filters", "text"),
    [
        ({"foo": ["x"]}, "invalid filter 'foo'"),
        ({"status": ["rubbish"]}, "invalid filter 'status=rubbish': invalid value for state"),
        ({"exited": ["x"]}, "invalid filter 'exited=x': strconv.Atoi: parsing \"x\""),
        ({"health": ["x"]}, "invalid filter 'health=x': invalid value for health"),
        ({"publish": ["80:80"]}, "filter for 'publish' should not contain ':': 80:80"),
        (
            {"publish": ["99999"]},
            'error while looking up for publish 99999: strconv.ParseUint: parsing "99999": value out of range',
        ),
    ],
)
async def test_filters_that_are_none(
    bench: Bench, filters: dict[str, list[str]], text: str
) -> None:
    with pytest.raises(APIError, match=text.replace("(", r"\(")):
        await rows(bench, **filters)


async def test_a_limit_means_all_and_a_size_is_shown_when_asked(bench: Bench) -> None:
    await bench.create("one")
    await bench.create("two")
    found = json.loads(await bench.gateway.containers.list(ListQuery(limit=1, size=True)))
    assert [row["Names"] for row in found] == [["/two"]]
    assert (found[0]["SizeRw"], found[0]["SizeRootFs"]) == (5, 105)
    assert "SizeRw" not in await bench.inspect("one")


async def test_a_thousand_containers_are_a_thousand_rows(bench: Bench) -> None:
    made = [await bench.create() for _ in range(1000)]
    rows = json.loads(await bench.gateway.containers.list(ListQuery(all=True)))
    assert [row["Id"] for row in rows] == made[::-1]


async def test_zones_of_an_earlier_life_are_known_and_swept(bench: Bench) -> None:
    docker_id = await bench.create("web")
    assert Roster(bench.host.zones).find("web").metadata.id == docker_id


async def test_a_network_may_be_joined_that_is_made_later(bench: Bench) -> None:
    docker_id = await bench.create(HostConfig={"NetworkMode": "container:later"})
    with pytest.raises(NotFound, match="No such container: later"):
        await bench.gateway.containers.start(docker_id)
    await bench.create("later")
    await bench.gateway.containers.start("later")
    await bench.gateway.containers.start(docker_id)


@pytest.mark.parametrize("mode", ["PidMode", "IpcMode"])
async def test_joining_a_container_that_is_not_there_is_no_missing_image(
    bench: Bench, mode: str
) -> None:
    with pytest.raises(InvalidParameter, match="No such container: nope"):
        await bench.create(HostConfig={mode: "container:nope"})


async def test_joining_a_container_that_does_not_run(bench: Bench) -> None:
    await bench.create("owner")
    docker_id = await bench.create(HostConfig={"NetworkMode": "container:owner"})
    with pytest.raises(Conflict, match="cannot join network namespace of a non running container"):
        await bench.gateway.containers.start(docker_id)
    await bench.gateway.containers.start("owner")
    await bench.gateway.containers.start(docker_id)
    shown = await bench.inspect(docker_id)
    owner = (await bench.inspect("owner"))["Id"]
    assert shown["HostConfig"]["NetworkMode"] == f"container:{owner}"
    assert shown["NetworkSettings"]["Networks"] == {}


async def test_a_restart_stopped_while_it_waits_answers_waits(bench: Bench) -> None:
    docker_id = await bench.started()
    bench.host.zones.exit(bench.uuid(docker_id), 1, again=True)
    await asyncio.sleep(0)
    ending = await bench.gateway.containers.wait(docker_id, "not-running")
    await bench.gateway.containers.stop(docker_id, signal=None, timeout_s=None)
    assert await ending == {"StatusCode": 1}
    assert bench.host.zones.list()[0].state is ZoneState.STOPPED


async def test_what_the_host_kills_is_told_when_it_happens(bench: Bench) -> None:
    uuid = bench.uuid(await bench.started("web"))
    query = EventsQuery(filters=Filters({"event": ["oom", "kill"]}))
    stream = await bench.gateway.system.events(query)
    async with asyncio.timeout(5):
        bench.host.zones.change(uuid, ZoneChange.OOM, oom_killed=True)
        assert json.loads(await anext(stream))["Action"] == "oom"
        bench.host.zones.change(uuid, ZoneChange.KILLED)
        assert json.loads(await anext(stream))["Actor"]["Attributes"]["signal"] == "9"
    over = await bench.gateway.containers.wait("web", "")
    bench.host.zones.exit(uuid, 137)
    await over
    assert (await bench.inspect("web"))["State"]["OOMKilled"]
    assert (await bench.told()).count("container oom") == 1


async def test_what_waits_for_its_restart_counts_as_running(bench: Bench) -> None:
    uuid = bench.uuid(await bench.started("web"))
    bench.host.zones.exit(uuid, 3, again=True)
    with pytest.raises(NotModified):
        await bench.gateway.containers.start("web")
    with pytest.raises(Conflict, match="is restarting, wait until the container is running"):
        await bench.gateway.containers.pause("web")
    with pytest.raises(Conflict, match="container is restarting: stop the container"):
        await bench.gateway.containers.remove("web", force=False, volumes=False, link=False)
    await bench.gateway.containers.stop("web", signal=None, timeout_s=None)
    told = await bench.told()
    assert "container kill" not in told
    assert told[-1] == "container stop"
