"""Volumes: making, using, sharing and removing them, against what dockerd answered."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from compat.answers import Recording
from compat.clients import API
from compat.daemons import Daemon
from compat.exchanges import Exchange, Step, ask, check, exchange, run
from compat.leftovers import new, settled, snapshot

NEW = "/v1.51"
LX = "is not supported for a container of brand lx on SmartOS"
NO_SUCH_MOUNT = "re:start 500 error while mounting volume '.*': failed to mount local volume: .*"
NOTHING_TO_FILL = NO_SUCH_MOUNT.replace("start 500", "create 500 failed to populate volume:")
PLAYED = "re:0 .*"
"""A tmpfs on /tmp is vmadm's, and not played."""
SHOWN = "Name Driver Labels Options Scope"
BIND = {"type": "none", "o": "bind", "device": "{tmp}/there"}


def make(name: str, smartos: str | None = None, **more: object) -> Step:
    """A volume; its answer is not looked at beyond the status."""
    return ask("POST /volumes/create", {"Name": name, **more}, smartos=smartos)


def drop(name: str) -> Step:
    """It must be free."""
    return ask(f"DELETE /volumes/{name}")


def mount(kind: str, source: str, target: str, **more: object) -> dict[str, object]:
    """A HostConfig with one entry of Mounts."""
    return {"Mounts": [{"Type": kind, "Source": source, "Target": target, **more}]}


def subpath(path: str) -> dict[str, object]:
    """A part of the volume `parts` on /v."""
    return mount("volume", "parts", "/v", VolumeOptions={"Subpath": path})


def picture(source: str, **more: object) -> dict[str, object]:
    """An image on /v."""
    return mount("image", source, "/v", **more)


FILTER = "GET /volumes?filters=%7B%22{0}%22%3A%5B%22{1}%22%5D%7D"
NOT_A_PART = f"create 501 VolumeOptions.Subpath {LX}: a loopback mount would follow a link in the volume out of it"

SAID_AT_ONCE = "what of a body can be known to be wrong is said at create"
EXCHANGES = [
    exchange(
        "making a volume",
        ask("POST /volumes/create", {"Name": "vol1", "Labels": {"a": "1"}}, show=SHOWN),
        ask("POST /volumes/create", {"Name": "vol1", "Labels": {"b": "2"}, "DriverOpts": {}}, show=SHOWN),
        ask("GET /volumes/vol1", show=SHOWN),
        ask("POST /volumes/create", {"Name": "vol2", "Driver": "local", "Labels": {}, "DriverOpts": {}}, show="Name Driver Scope"),
        ask(FILTER.format("name", "vol"), show="Volumes.Name Warnings"),
        ask(FILTER.format("name", "%5Evol%5B2-9%5D%24"), show="Volumes.Name"),
        ask(FILTER.format("name", "%5Eol"), show="Volumes.Name"),
        ask(FILTER.format("label", "a"), show="Volumes.Name"),
        ask(FILTER.format("label", "a=2"), show="Volumes.Name"),
        ask(FILTER.format("driver", "other"), show="Volumes.Name"),
        ask(FILTER.format("rubbish", "x")),
        ask(FILTER.format("dangling", "zz")),
        ask("GET /volumes?filters=zz"), ask("GET /volumes/"),
        ask("POST /volumes/create", show="Driver Labels"), ask("POST /volumes/prune"),
        ask("POST /volumes/create", {"Name": 5}), ask("POST /volumes/create", {"Name": "vol3", "Labels": ["a"]}),
        ask("PUT /volumes/vol1", {}),
        drop("vol1"), drop("vol2"), drop("vol1"),
        ask("DELETE /volumes/vol1?force=1"),
    ),
    exchange(
        "names and drivers that are none",
        ask("POST /volumes/create", {"Name": "a/b"}),
        ask("POST /volumes/create", {"Name": "x"}),
        ask("POST /volumes/create", {"Name": "vol1", "Driver": "other"}),
        ask("GET /volumes/vol1"),
        run("true", {"Binds": ["vol1:/v"], "VolumeDriver": "other"}),
        ask("GET /volumes/vol1"),
    ),
    exchange(
        "drivers of mounts that are none",
        run("true", {"Binds": ["/v"], "VolumeDriver": "other"}),
        run("true", mount("volume", "vol1", "/v", VolumeOptions={"DriverConfig": {"Name": "other"}})),
        ask("GET /volumes/vol1"),
    ),
    exchange(
        "options of the local driver",
        ask("POST /volumes/create", {"Name": "vol1", "DriverOpts": {"foo": "1"}}),
        ask("POST /volumes/create", {"Name": "vol1", "DriverOpts": {"type": "tmpfs"}}),
        ask("POST /volumes/create", {"Name": "vol1", "DriverOpts": {"device": "tmpfs"}}),
        ask("POST /volumes/create", {"Name": "vol1", "DriverOpts": {"o": "bind"}}),
        ask("POST /volumes/create", {"DriverOpts": {"zz": "1"}}),
        ask("POST /volumes/create", {"Name": "vol1", "DriverOpts": {"size": "10m"}}, smartos="201"),
        ask("DELETE /volumes/vol1?force=1"),
        run("true", mount("volume", "vol1", "/v", VolumeOptions={"DriverConfig": {"Options": {"foo": "1"}}})),
        ask("GET /volumes/vol1"),
    ),
    exchange(
        "a volume that binds a folder",
        ask("POST /volumes/create", {"Name": "bound", "DriverOpts": BIND}, show=SHOWN),
        run("cat /v/file; echo new > /v/new", {"Binds": ["bound:/v"]}),
        run("ls /v; touch /v/x 2>&1", {"Binds": ["bound:/v:ro"]}),
        run("ls /v", {"Binds": ["{tmp}/there:/v"]}),
        ask("POST /volumes/prune?filters=%7B%22label%22%3A%5B%22nothing%22%5D%7D", show="VolumesDeleted SpaceReclaimed"),
        drop("bound"),
        run("cat /v/file", {"Binds": ["{tmp}/there:/v"]}),
    ),
    exchange(
        "a volume that mounts a tmpfs",
        run("df /v | tail -1 | tr -s ' ' | cut -d' ' -f1,2; stat -c %u /v",
            mount("volume", "memory", "/v", VolumeOptions={"DriverConfig": {"Options": {"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=7"}}}),
            ),
        ask("GET /volumes/memory", show="Options"),
        drop("memory"),
    ),
    exchange(
        "a volume that cannot be mounted",
        ask("POST /volumes/create", {"Name": "lost", "DriverOpts": {"type": "none", "o": "bind", "device": "/nope"}}),
        run("true", {"Binds": ["lost:/v:nocopy"]}, smartos=NO_SUCH_MOUNT),
        run("true", {"Binds": ["lost:/v"]}, smartos=NO_SUCH_MOUNT),
        run("true", {"Binds": ["lost:/bin"]}, smartos=NOTHING_TO_FILL),
        drop("lost"),
    ),
    exchange(
        "what a volume's options forbid",
        make("fixed", DriverOpts=BIND | {"o": "bind,ro"}),
        run("cat /v/file; touch /v/new 2>&1", {"Binds": ["fixed:/v"]}),
        drop("fixed"),
        make("strict", DriverOpts={"type": "tmpfs", "device": "tmpfs", "o": "size=1m,nosuid,nodev,noexec"}),
        run("grep ' /v ' /proc/mounts | cut -d' ' -f4 | tr , '\n' | grep ^no", {"Binds": ["strict:/v"]}),
        drop("strict"),
        make("odd", DriverOpts={"type": "tmpfs", "device": "tmpfs", "o": "zz=1"},
             smartos="501 volume option o=zz=1 is not supported on SmartOS: its mount has no such option"),
        run("true", {"Binds": ["odd:/v"]}, smartos="0"),
        run("true", {"Binds": ["odd:/bin"]}, smartos="0"),
        ask("DELETE /volumes/odd"),
        make("away", DriverOpts={"type": "nfs", "device": ":/nope", "o": "addr=127.0.0.1,nfsvers=4"}),
        run("true", {"Binds": ["away:/v"]}, smartos="re:create 500 error while mounting volume '.*': failed to mount local volume: .*"),
        drop("away"),
        make("disk", DriverOpts={"type": "zzfs", "device": "/dev/null"},
             smartos="501 a volume of type zzfs is not supported on SmartOS: the global zone mounts folders (o=bind), tmpfs and nfs"),
        run("true", {"Binds": ["disk:/v"]}, smartos="0"),
        ask("DELETE /volumes/disk"),
    ),
    exchange(
        "a tmpfs over a mount",
        run("df /tmp | tail -1 | tr -s ' ' | cut -d' ' -f1,2; ls /tmp", {"Tmpfs": {"/tmp": "size=2m"}} | mount("bind", "{tmp}/there", "/tmp"), smartos=PLAYED),
        run("df /tmp | tail -1 | tr -s ' ' | cut -d' ' -f1,2",
            {"Tmpfs": {"/tmp": "size=2m"}} | mount("tmpfs", "", "/tmp", TmpfsOptions={"SizeBytes": 1048576}), smartos=PLAYED),
        ask("POST /containers/create?name=made", {"Image": "bb", "HostConfig": {"Tmpfs": {"/tmp": ""}} | mount("volume", "under", "/tmp")}),
        ask("GET /containers/made/json", show="Mounts.Name Mounts.Destination Mounts.Type"),
        ask("DELETE /containers/made?v=1"),
        drop("under"),
        run("ls -d /rel", Volumes={"rel": {}}),
    ),
    exchange(
        "what the image has is copied when the container is made",
        ask("POST /containers/create?name=made", {"Image": "rich", "HostConfig": {"Binds": ["data:/srv/data", "other:/bin:nocopy"]}}),
        run("ls -ln /v | tail -1 | tr -s ' ' | cut -d' ' -f1,3,4,9; cat /v/seed", {"Binds": ["data:/v"]}),
        run("ls /v", {"Binds": ["other:/v"]}),
        ask("HEAD /containers/made/archive?path=/srv/data/seed"),
        ask("DELETE /containers/made"),
        run("rm /v/seed", {"Binds": ["data:/v"]}),
        run("ls /srv/data", {"Binds": ["data:/srv/data"]}, image="rich", User="0"),
        run("rm -f /v/seed; echo own > /v/own", {"Binds": ["data:/v"]}),
        run("ls /srv/data", {"Binds": ["data:/srv/data"]}, image="rich"),
        run("ls /srv/data | wc -l", {"Binds": ["{tmp}/empty:/srv/data"]}, image="rich"),
        run("ls /srv/data", {}, image="rich"),
        run("ls /srv/data | wc -l", mount("volume", "copied", "/srv/data", VolumeOptions={"NoCopy": True}), image="rich"),
        drop("data"), drop("other"), drop("copied"),
    ),
    exchange(
        "owner and mode of the image's folder are the volume's",
        ask("POST /containers/create?name=made", {"Image": "bb", "Cmd": ["sh", "-c", "mkdir /own; echo 1 > /own/file; chown -R 7:8 /own; chmod 1711 /own; chmod 640 /own/file"]}),
        ask("POST /containers/made/start"), ask("POST /containers/made/wait"),
        ask("POST /commit?container=made&repo=owned", {}),
        run("stat -c '%u %g %a' /own /own/file", {"Binds": ["owned:/own"]}, image="owned"),
        run("stat -c '%u %g %a' /own", {"Binds": ["bare:/own:nocopy"]}, image="owned"),
        run("stat -c '%u %g %a' /own", {}, image="owned", Volumes={"/own": {}}),
        drop("owned"), drop("bare"),
        ask("DELETE /containers/made"), ask("DELETE /images/owned"),
    ),
    exchange(
        "a volume on a file of the image",
        run("true", {"Binds": ["data:/bin/busybox"]},
            ours="create 500 source /bin/busybox is not directory", why="no path of the machine is told", smartos="re:.*"),
        ask("DELETE /volumes/data?force=1"),
    ),
    exchange(
        "what wins over a volume of the image",
        run("cat /srv/data/file", {"Binds": ["{tmp}/there:/srv/data"]}, image="rich"),
        ask("POST /containers/create?name=made", {"Image": "rich", "HostConfig": {"Tmpfs": {"/srv/data": "size=1m"}}},
            smartos="501 a tmpfs on /srv/data is not supported on SmartOS: a zone has one on /tmp or none"),
        ask("GET /containers/made/json", show="Mounts", smartos="404 No such container: made"),
        ask("DELETE /containers/made?v=1", smartos="404 No such container: made"),
        ask("POST /containers/create?name=made", {"Image": "rich", "HostConfig": {"Binds": ["mine:/srv/data/"]}}),
        ask("GET /containers/made/json", show="Mounts.Name Mounts.Destination Mounts.Type Mounts.RW Mounts.Mode"),
        ask("DELETE /containers/made?v=1"),
        drop("mine"),
        run("true", {"Binds": ["mine:/a", "other:/a/"]}),
        run("true", {"Binds": ["mine:/a"], "Tmpfs": {"/a": ""}}),
        run("true", {"Binds": ["mine:/a"], **mount("volume", "other", "/a")}),
    ),
    exchange(
        "volumes of another container",
        ask("POST /containers/create?name=first", {"Image": "bb", "Cmd": ["true"], "HostConfig": {"Binds": ["one:/v", "{tmp}/there:/w"]}}),
        ask("POST /containers/create?name=second", {"Image": "bb", "Cmd": ["true"], "Volumes": {"/x": {}}, "HostConfig": {"Binds": ["two:/v"]}}),
        run("echo 1 > /v/who; cat /w/file", {"VolumesFrom": ["first"]}),
        run("echo 2 > /v/who; ls -d /x", {"VolumesFrom": ["second:z"]}),
        run("echo x > /v/who", {"VolumesFrom": ["first:ro"]}),
        run("cat /v/who", {"VolumesFrom": ["first", "second"]}),
        run("cat /v/who", {"VolumesFrom": ["second", "first:ro"]}),
        run("cat /v/who", {"VolumesFrom": ["first"], "Binds": ["two:/v"]}),
        ask("POST /containers/create?name=alone", {"Image": "bb", "HostConfig": {"Binds": ["one:/v:z"]}}),
        ask("POST /containers/create?name=third", {"Image": "bb", "HostConfig": {"VolumesFrom": ["alone:z"]}}),
        ask("GET /containers/third/json", show="Mounts.Name Mounts.Destination Mounts.Type Mounts.RW Mounts.Mode Mounts.Propagation"),
        ask("DELETE /containers/third?v=1"), ask("DELETE /containers/alone"),
        run("true", {"VolumesFrom": [""]}), run("true", {"VolumesFrom": ["first:nocopy"]}),
        run("true", {"VolumesFrom": ["first:zz"]}), run("true", {"VolumesFrom": ["nobody"]}),
        drop("one"),
        ask("DELETE /containers/first?v=1"), ask("DELETE /containers/second?v=1"),
        drop("one"), drop("two"),
    ),
    exchange(
        "volumes in use, and dangling",
        make("used", Labels={"mark": "1"}),
        ask("POST /containers/create?name=made", {"Image": "bb", "Cmd": ["true"], "HostConfig": {"Binds": ["used:/v"]}}),
        drop("used"),
        ask("DELETE /volumes/used?force=1"),
        ask(FILTER.format("dangling", "false").replace("%7D", "%2C%22name%22%3A%5B%22used%22%5D%7D"), show="Volumes.Name"),
        ask(FILTER.format("dangling", "true").replace("%7D", "%2C%22name%22%3A%5B%22used%22%5D%7D"), show="Volumes.Name"),
        ask("DELETE /containers/made?v=1"),
        ask("GET /volumes/used", show="Name"),
        *(ask(f"POST /volumes/prune?filters=%7B%22all%22%3A%5B{value}%5D%7D") for value in ("%22zz%22", "%22%22", "%221%22,%220%22")),
        ask("POST =/v1.41/volumes/prune?filters=%7B%22label%22%3A%5B%22mark%22%5D%7D", show="VolumesDeleted"),
        drop("used"),
    ),
    exchange(
        "mounts that cannot be meant",
        run("true", mount("volume", "", "/v", ReadOnly=True)),
        run("true", mount("npipe", "x", "/v")), run("true", mount("cluster", "x", "/v")),
        run("true", mount("image", "", "/v"), version=NEW),
        run("true", mount("image", "bb", "/v", BindOptions={}), version=NEW),
        run("true", picture("bb")),
        run("true", subpath("in"), smartos=NOT_A_PART),
        run("true", mount("volume", "", "/v", VolumeOptions={"Subpath": "x"}), version=NEW),
        run("true", subpath("../x"), version=NEW),
        run("true", subpath("/x"), version=NEW),
        run("true", mount("bind", "/nope", "/v")),
        run("true", mount("bind", "{tmp}", "/v", BindOptions={"ReadOnlyNonRecursive": True}), version=NEW,
            ours="create 400 mount options conflict: !ReadOnly && BindOptions.ReadOnlyNonRecursive", why=SAID_AT_ONCE),
        run("true", mount("bind", "{tmp}", "/v", ReadOnly=True, BindOptions={"ReadOnlyNonRecursive": True, "ReadOnlyForceRecursive": True}), version=NEW,
            ours="create 400 mount options conflict: ReadOnlyNonRecursive && BindOptions.ReadOnlyForceRecursive", why=SAID_AT_ONCE),
        ask("DELETE /volumes/parts", smartos="404 get parts: no such volume"),
    ),
    exchange(
        "sources that are made",
        run("ls -d /v", {"Binds": ["{tmp}/made/deep:/v"]}),
        run("ls -d /v", mount("bind", "{tmp}/made/deep", "/v")),
        run("ls -d /v", mount("bind", "{tmp}/other/deep", "/v", BindOptions={"CreateMountpoint": True}), version=NEW, smartos="0 /v"),
        run("ls -d /v", mount("bind", "{tmp}/third/deep", "/v", BindOptions={"CreateMountpoint": True})),
    ),
    exchange(
        "parts of a volume",
        make("parts"),
        run("mkdir -p /v/in/deep /v/empty; echo 1 > /v/in/file; ln -s in /v/good; ln -s /etc /v/bad; ln -s ../.. /v/up", {"Binds": ["parts:/v"]}),
        *(
            run("ls /v; cat /v 2>&1", subpath(path), version=NEW, smartos=NOT_A_PART)
            for path in ("in", "good/deep/..", "in/file", "nope", "bad", "up")
        ),
        run("cat /srv/data/seed", mount("volume", "parts", "/srv/data", VolumeOptions={"Subpath": "empty"}), image="rich", version=NEW, smartos=NOT_A_PART),
        drop("parts"),
    ),
    exchange(
        "images as mounts",
        run("ls /v/bin/entry; cat /v/srv/data/seed; touch /v/x 2>&1 || echo refused", picture("rich"), version=NEW),
        run("cat /v/seed", picture("rich", ImageOptions={"Subpath": "srv/data"}), version=NEW),
        run("ls /v", picture("white", ImageOptions={"Subpath": "d"}), version=NEW),
        run("true", picture("rich", ImageOptions={"Subpath": "nope"}), version=NEW,
            ours="re:start 404 cannot access path ROOT/.*/nope: lstat ROOT/.*/nope: no such file or directory",
            why="where the image is mounted is our own affair", smartos="re:create 404 cannot access path .*"),
        run("true", picture("nothere"), version=NEW),
    ),
]  # fmt: skip


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """`there` with a file in it, and `empty`."""
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("content\n")
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.parametrize("subject", EXCHANGES, ids=str)
def test_volumes_go_as_with_dockerd(
    subject: Exchange,
    recording: Recording,
    api: API,
    daemon: Daemon,
    names: dict[str, str],
    fill: dict[str, str],
    folders: Path,
) -> None:
    before = snapshot(daemon)
    check(subject, recording, api, fill, names)
    if daemon.kind == "zonegate" and daemon.platform is None:
        assert settled(lambda: new(before, snapshot(daemon)), 4) == {}
    assert (folders / "there" / "file").read_text() == "content\n"


def test_an_anonymous_volume_is_named_and_labelled(api: API) -> None:
    made = api.ok("POST", "=/v1.51/volumes/create", {})
    assert len(made["Name"]) == 64
    assert made["Labels"] == {"com.docker.volume.anonymous": ""}
    named = api.ok("POST", "=/v1.51/volumes/create", {"Name": "kept"})
    again = api.ok("POST", "=/v1.51/volumes/create", {"Name": "kept"})
    assert named["CreatedAt"] == again["CreatedAt"]
    pruned = api.ok("POST", "=/v1.51/volumes/prune")
    assert made["Name"] in pruned["VolumesDeleted"]
    assert "kept" not in pruned["VolumesDeleted"]
    both = api.ok("POST", "=/v1.51/volumes/prune?filters=%7B%22all%22%3A%5B%221%22%5D%7D")
    assert "kept" in both["VolumesDeleted"]


def test_many_may_be_made_with_one_new_volume(api: API) -> None:
    host = {"Binds": ["together:/bin"]}
    bodies = [{"Image": "bb", "Cmd": ["true"], "HostConfig": host} for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(lambda body: api("POST", "/containers/create", body), bodies))
    assert [answer.status for answer in made] == [201] * 6, [answer.message for answer in made]
    for answer in made:
        api.ok("DELETE", f"/containers/{answer.json()['Id']}")
    api.ok("DELETE", "/volumes/together")


def test_a_mounted_image_is_not_removed(api: API) -> None:
    mounted = {"Mounts": [{"Type": "image", "Source": "white", "Target": "/v"}]}
    body = {"Image": "bb", "Cmd": ["true"], "HostConfig": mounted}
    name = api.ok("POST", "=/v1.51/containers/create", body)["Id"]
    refused = api("DELETE", "/images/white")
    assert (refused.status, "is using its referenced image" in refused.message) == (409, True)
    api.ok("DELETE", f"/containers/{name}")
