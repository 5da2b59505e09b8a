"""Images in and out: save, load, import, push, distribution; lists, conflicts and filters; what clients are told of it."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from compat.answers import Recording, normal
from compat.clients import API, CLI
from compat.images import Image, Registry, archive, busybox_layer, digest, layer
from compat.scenarios import Scenario, Step, check, quiet, scenario

DAEMON = "Error response from daemon: "
ZERO = "0" * 64
AUTH = {"X-Registry-Auth": "e30="}
IMPORT = "sh -c 'docker import {tmp}/root.tar in:plain'"
CONFIG = "{{json .Config.Cmd}} {{json .Config.Env}} {{json .Config.Entrypoint}} {{json .Config.Labels}} {{.Config.WorkingDir}}"

SCENARIOS = [
    scenario(
        "save and load",
        "docker tag bb saved:one",
        "docker tag bb saved:two",
        "docker tag white saved:three",
        "docker save -o {tmp}/s.tar saved",
        "docker rmi saved:one saved:two saved:three",
        Step("docker load -q -i {tmp}/s.tar", sort=True),
        Step("docker images --format '{{.Repository}}:{{.Tag}} {{.ID}}' saved", sort=True),
        "docker run --rm saved:three ls d o",
        Step("docker save -o {tmp}/one.tar saved:two"),
        quiet("docker rmi saved:one saved:two saved:three"),
        "docker load -q -i {tmp}/one.tar",
        "docker images --format '{{.Tag}}' saved",
        "docker rmi saved:two",
    ),
    scenario(
        "a saved archive comes in however it is compressed",
        "docker tag rich saved:rich",
        "docker save -o {tmp}/s.tar saved:rich",
        "sh -c 'gzip -c {tmp}/s.tar | docker load -q'",
        "sh -c 'bzip2 -c {tmp}/s.tar | docker load -q'",
        "sh -c 'xz -c {tmp}/s.tar | docker load -q'",
        "sh -c 'docker save saved:rich | docker load -q'",
        "docker rmi saved:rich",
    ),
    scenario(
        "an id is saved without a name",
        quiet("docker pull {registry}/fresh"),
        "sh -c 'docker save $(docker images -q --no-trunc {registry}/fresh) > {tmp}/id.tar'",
        quiet("docker rmi {registry}/fresh"),
        "sh -c 'docker load -q -i {tmp}/id.tar'",
        "sh -c 'docker images -f dangling=true --format \"{{.Repository}} {{.Tag}} {{.ID}}\"'",
        quiet("sh -c 'docker rmi $(docker images -q -f dangling=true)'"),
    ),
    scenario(
        "what cannot be saved",
        Step("docker save nothere", compare="exit"),
        Step("docker save -o {tmp}/n.tar nothere"),
        Step("docker save -o {tmp}/n.tar nothere:x"),
        Step("docker save -o {tmp}/n.tar bb nothere"),
        Step("docker save -o {tmp}/n.tar UPPER", compare="exit"),
    ),
    scenario(
        "a tag that is loaded leaves its old image without one",
        "docker tag white moved:x",
        "docker save -o {tmp}/m.tar moved:x",
        quiet("docker pull {registry}/none"),
        "docker tag {registry}/none moved:x",
        "docker rmi {registry}/none",
        "docker load -q -i {tmp}/m.tar",
        "docker images --format '{{.Repository}} {{.ID}}' moved",
        "docker images -f dangling=true --format '{{.Repository}} {{.ID}}'",
        quiet("sh -c 'docker rmi moved:x $(docker images -q -f dangling=true)'"),
    ),
    scenario(
        "import",
        Step(IMPORT),
        "docker history --format '{{.CreatedBy}}|{{.Comment}}|{{.Size}}' in:plain",
        f"docker image inspect -f '{CONFIG} {{{{.Comment}}}} {{{{.Os}}}} {{{{len .RootFS.Layers}}}}' in:plain",
        "sh -c 'gzip -c {tmp}/root.tar | docker import -m said - in:gz'",
        "sh -c 'bzip2 -c {tmp}/root.tar | docker import - in:bz2'",
        "sh -c 'xz -c {tmp}/root.tar | docker import - in:xz'",
        "docker image inspect -f '{{.RootFS.Layers}} {{.Comment}}' in:plain in:gz in:bz2 in:xz",
        'sh -c \'docker import -c "CMD [\\"sh\\"]" -c "ENV A=b C=d" -c "ENTRYPOINT [\\"env\\"]" '
        '-c "LABEL k=v" -c "WORKDIR /w" {tmp}/root.tar in:changed\'',
        f"docker image inspect -f '{CONFIG}' in:changed",
        "sh -c 'docker import - < {tmp}/root.tar'",
        "docker run --rm in:plain cat /said",
        quiet("sh -c 'docker rmi in:plain in:gz in:bz2 in:xz in:changed'"),
        quiet("sh -c 'docker rmi $(docker images -q -f dangling=true)'"),
    ),
    scenario(
        "what cannot be imported",
        Step("sh -c 'docker import - UPPER < {tmp}/root.tar'", compare="exit"),
        Step("sh -c 'docker import - a@sha256:" + ZERO + " < {tmp}/root.tar'", compare="exit"),
        Step(
            "sh -c 'docker import -c \"RUN x\" - a < {tmp}/root.tar'",
        ),
        Step(
            "sh -c 'docker import -c \"NOTHING x\" - a < {tmp}/root.tar'",
        ),
        "sh -c 'docker import --platform nintendo64 - a < {tmp}/root.tar'",
        "sh -c 'docker import --platform macos - a < {tmp}/root.tar'",
        "sh -c 'docker import http://127.0.0.1:1/x a'",
        Step(
            "sh -c 'docker import http://{registry}/v2/none a'",
        ),
    ),
    scenario(
        "push",
        "docker tag rich {registry}/pushed/rich:one",
        "docker tag rich {registry}/pushed/rich:two",
        Step("docker push -q {registry}/pushed/rich:one"),
        Step("docker push -q -a {registry}/pushed/rich"),
        Step(
            "docker push {registry}/pushed/rich:one",
        ),
        "docker image inspect -f '{{len .RepoDigests}}' rich",
        "docker rmi {registry}/pushed/rich:one {registry}/pushed/rich:two",
        quiet("docker pull {registry}/pushed/rich:two"),
        "docker image inspect -f '{{.Id}}' rich",
        "docker run --rm {registry}/pushed/rich:two",
        quiet("docker rmi {registry}/pushed/rich:two"),
    ),
    scenario(
        "what cannot be pushed",
        "docker push {registry}/pushed/nothere:x",
        "docker tag bb {registry}/pushed/bb:there",
        "docker push {registry}/pushed/bb:nothere",
        "docker push UPPER",
        "docker tag bb 127.0.0.1:1/x",
        Step("docker push 127.0.0.1:1/x", compare="exit stdout"),
        quiet("docker rmi 127.0.0.1:1/x {registry}/pushed/bb:there"),
    ),
    scenario(
        "an image without layers",
        "docker load -q -i {tmp}/none.tar",
        "docker image inspect -f '{{.Size}} {{.RootFS.Layers}}' none",
        "docker history --format '{{.CreatedBy}}|{{.Size}}' none",
        "docker save -o {tmp}/again.tar none",
        quiet("docker rmi none"),
        "docker load -q -i {tmp}/again.tar",
        "docker rmi none",
    ),
    scenario(
        "a layer of no size",
        "docker load -q -i {tmp}/empty.tar",
        "docker history --format '{{.CreatedBy}}|{{.Size}}' empty",
        "docker save -o {tmp}/again.tar empty",
        quiet("docker rmi empty"),
        "docker load -q -i {tmp}/again.tar",
        "docker run --rm empty cat /etc/mark",
        "docker rmi empty",
    ),
    scenario(
        "dangling, before, since, until",
        quiet("docker pull {registry}/fresh"),
        "docker tag {registry}/fresh f:fresh",
        "docker images --filter reference=f:fresh --filter before=bb --format '{{.Tag}}'",
        "docker images --filter reference=f:fresh --filter since=nothere --format '{{.Tag}}'",
        Step(
            "docker images --filter reference=f:fresh --filter until=2024-01-01 --format '{{.Tag}}'",
        ),
        Step(
            "docker images --filter reference=f:fresh --filter until=2025-01-01 --format '{{.Tag}}'",
        ),
        Step(
            "docker images --filter reference=f:fresh --filter until=10m --format '{{.Tag}}'",
        ),
        "docker images --filter reference='f:fr*' --filter dangling=false --format '{{.Tag}}'",
        Step(
            "docker images --filter reference='docker.io/library/f' --format '{{.Tag}}'",
            stdout="fresh\n",
            why="with or without the registry",
        ),
        "docker images --filter reference='*:fresh' --format '{{.Repository}}'",
        "docker images --filter reference='{registry}/*' --format '{{.Tag}}'",
        Step("docker images f:fresh --format '{{.Tag}}'"),
        "docker images --filter dangling=true --format '{{.Tag}}'",
        quiet("docker rmi f:fresh {registry}/fresh"),
    ),
    scenario(
        "conflicts",
        quiet("docker pull {registry}/fresh"),
        "docker tag {registry}/fresh c:one",
        Step(
            "sh -c 'docker rmi $(docker images -q c:one)'",
        ),
        quiet("docker run -d --name busy c:one sleep 1000"),
        "docker rmi c:one",
        Step(
            "docker rmi {registry}/fresh",
            stderr="re:.*\\(cannot be forced\\) - image is being used by running container ID12\\n",
            why="the same",
            compare="exit",
        ),
        quiet("docker rm -f busy"),
        quiet("sh -c 'docker rmi -f $(docker images -q {registry}/fresh)'"),
        "docker images --format '{{.Repository}}' c",
        Step("docker rmi ' '", compare="exit"),
    ),
]


@dataclass(frozen=True)
class Row:
    """A request that must be refused."""

    name: str
    request: str
    body: Any = None
    headers: dict[str, str] | None = None
    ours: tuple[int, str] | None = None
    why: str = ""

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


MIPS = quote('{"os":"linux","architecture":"mips64"}')
ROWS = [
    Row("save unknown", "GET /images/nothere/get"),
    Row("save unknown tag", "GET /images/nothere:x/get"),
    Row(
        "save a bad name",
        "GET /images/UPPER/get",
    ),
    Row(
        "save unknown id",
        f"GET /images/get?names=sha256:{ZERO}",
        ours=(404, f"No such image: sha256:{ZERO}"),
        why="no path of the machine is in an answer",
    ),
    Row(
        "push a bad name",
        "POST /images/UPPER/push",
        headers=AUTH,
    ),
    Row(
        "push a bad tag",
        "POST /images/x/push?tag=a%20b",
        headers=AUTH,
    ),
    Row(
        "push without credentials",
        "POST /images/x/push",
    ),
    Row("import platform", "POST /images/create?fromSrc=-&platform=nintendo64"),
    Row("import another system", "POST /images/create?fromSrc=-&platform=macos"),
    Row(
        "import platform slash",
        "POST /images/create?fromSrc=-&platform=%2F",
    ),
    Row(
        "import platform blank",
        "POST /images/create?fromSrc=-&platform=%20",
    ),
    Row(
        "import bad name",
        "POST /images/create?fromSrc=-&repo=UPPER",
    ),
    Row("import digest", f"POST /images/create?fromSrc=-&repo=a@sha256:{ZERO}"),
    Row("import bad tag", "POST /images/create?fromSrc=-&repo=a&tag=b%20c"),
    Row(
        "import run",
        "POST /images/create?fromSrc=-&changes=RUN%20x",
    ),
    Row("import from nowhere", "POST /images/create?fromSrc=http://127.0.0.1:1/x"),
    Row(
        "distribution bad name",
        "GET /distribution/UPPER/json",
    ),
    Row("distribution unknown", "GET /distribution/{registry}/nothere:x/json"),
    Row("distribution nowhere", "GET /distribution/127.0.0.1:1/x/json"),
    Row(
        "history of a bad name",
        "GET /images/UPPER/history",
    ),
    Row(
        "inspect of an empty name",
        "GET /images//json",
    ),
    Row("inspect another platform", f"GET /images/bb/json?platform={MIPS}"),
    Row("history of another platform", f"GET /images/bb/history?platform={MIPS}"),
    Row("save another platform", f"GET /images/bb/get?platform={MIPS}"),
    Row("remove another platform", f"DELETE /images/bb?platforms={MIPS}"),
    Row("push another platform", f"POST /images/bb/push?platform={MIPS}"),
    Row("push another platform of nothing", f"POST /images/nothere/push?platform={MIPS}"),
    Row("push a platform that is rubbish", "POST /images/bb/push?platform=rubbish"),
    Row("push half a platform", "POST /images/bb/push?platform=%7B%7D"),
    Row("save a platform that is rubbish", "GET /images/bb/get?platform=rubbish"),
    Row("history of a platform that is rubbish", "GET /images/bb/history?platform=rubbish"),
    Row("save no name", "GET /images/get?names="),
    Row(
        "a filter before unknown",
        "GET /images/json?filters=%7B%22before%22%3A%5B%22nothere%22%5D%7D",
    ),
    Row("remove a blank name", "DELETE /images/%20"),
]


def _tar(files: dict[str, bytes]) -> bytes:
    return layer(list(files.items()))


@pytest.fixture(scope="module")
def made(workdir: Path, registry: str) -> Path:
    """A root to import and archives to load; an image that is in the registry only."""
    folder = workdir / "made"
    folder.mkdir()
    root = io.BytesIO()
    with tarfile.open(fileobj=root, mode="w") as tar:
        with tarfile.open(fileobj=io.BytesIO(busybox_layer("imported"))) as source:
            for member in source:
                tar.addfile(member, source.extractfile(member) if member.isreg() else None)
        info = tarfile.TarInfo("said")
        info.size = 6
        tar.addfile(info, io.BytesIO(b"hello\n"))
    (folder / "root.tar").write_bytes(root.getvalue())
    layers = [busybox_layer("empty"), bytes(1024), layer([("x/", None)])]
    for image in (Image("none", []), Image("empty", layers)):
        (folder / f"{image.name}.tar").write_bytes(archive({f"{image.name}:latest": image}))
    Registry(registry).push(Image("none", [layer([("only", b"here")])]))
    return folder


@pytest.fixture
def prepared(api: API, cli: CLI, baseline: Path, made: Path, tmp_path: Path) -> Iterator[None]:
    """Those files are in the test's own folder; afterwards images are as they were."""
    for path in made.iterdir():
        (tmp_path / path.name).symlink_to(path)
    before = _tags(api)
    yield
    for row in api.ok("GET", "/containers/json?all=1"):
        api("DELETE", f"/containers/{row['Id']}?force=1&v=1")
    for tag in _tags(api) - before:
        api("DELETE", f"/images/{tag}?force=1")
    if before - _tags(api):
        cli.ok(f"load -q -i {baseline}")
    for row in api.ok("GET", "/images/json?filters=%7B%22dangling%22%3A%5B%22true%22%5D%7D"):
        api("DELETE", f"/images/{row['Id']}?force=1")


def _tags(api: API) -> set[str]:
    return {tag for row in api.ok("GET", "/images/json") for tag in row["RepoTags"] or []}


@pytest.mark.usefixtures("prepared")
@pytest.mark.parametrize("case", SCENARIOS, ids=str)
def test_the_commands_answer_as_dockerd_does(
    case: Scenario, recording: Recording, cli: CLI, names: dict[str, str], fill: dict[str, str]
) -> None:
    check(case, recording, cli, names, fill)


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_the_request_is_refused_as_dockerd_does(
    case: Row, recording: Recording, api: API, names: dict[str, str], fill: dict[str, str]
) -> None:
    method, path = case.request.split(" ", 1)
    answer = api(method, path.replace("{registry}", fill["registry"]), case.body, case.headers)
    actual = {"status": answer.status, "message": normal(answer.message, names)}
    if recording.taking:
        recording.put(case.name, actual)
        return
    expected = recording.get(case.name)
    if case.ours is not None and not recording.exact:
        expected = {"status": case.ours[0], "message": normal(case.ours[1], names)}
    assert actual == expected, case.why


# --- what no recorded text shows


def _messages(api: API, method: str, path: str, body: Any = None, **headers: str) -> list[Any]:
    answer = api(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
    assert answer.status == 200, answer.body
    return [json.loads(line) for line in answer.body.splitlines() if line.strip()]


@pytest.mark.usefixtures("prepared")
def test_a_push_ends_with_tag_digest_and_size(api: API, registry: str) -> None:
    assert api("POST", f"/images/bb/tag?repo={registry}/aux&tag=v").status == 201
    messages = _messages(api, "POST", f"/images/{registry}/aux/push?tag=v", X_Registry_Auth="e30=")
    assert messages[0] == {"status": f"The push refers to repository [{registry}/aux]"}
    assert {"Preparing"} <= {message.get("status") for message in messages}
    aux = messages[-1]["aux"]
    assert messages[-1] == {"progressDetail": {}, "aux": aux}
    assert messages[-2] == {"status": f"v: digest: {aux['Digest']} size: {aux['Size']}"}
    digests = api.ok("GET", f"/images/{registry}/aux:v/json")["RepoDigests"]
    assert f"{registry}/aux@{aux['Digest']}" in digests
    described = api.ok("GET", f"/distribution/{registry}/aux:v/json")["Descriptor"]
    assert (described["digest"], described["size"]) == (aux["Digest"], aux["Size"])


def test_a_saved_archive_is_a_docker_archive_and_an_oci_layout(api: API) -> None:
    raw = api("GET", "/images/get?names=rich&names=bb").body
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        members = {member.name: member for member in tar}
        rows = json.loads(tar.extractfile("manifest.json").read())  # type: ignore[union-attr]
        for row in rows:
            config = tar.extractfile(row["Config"]).read()  # type: ignore[union-attr]
            tars = [tar.extractfile(name).read() for name in row["Layers"]]  # type: ignore[union-attr]
            document = json.loads(config)
            assert [digest(one) for one in tars] == document["rootfs"]["diff_ids"]
            created = {members[name].mtime for name in (row["Config"], *row["Layers"])}
            assert created == {1704164645}
        assert json.loads(tar.extractfile("oci-layout").read()) == {"imageLayoutVersion": "1.0.0"}  # type: ignore[union-attr]
        index = json.loads(tar.extractfile("index.json").read())  # type: ignore[union-attr]
    assert {row["RepoTags"][0] for row in rows} == {"rich:latest", "bb:latest"}
    names = {entry["annotations"]["io.containerd.image.name"] for entry in index["manifests"]}
    assert names == {"docker.io/library/rich:latest", "docker.io/library/bb:latest"}
    assert api("GET", "/images/get?names=rich&names=bb").body == raw


@pytest.mark.usefixtures("prepared")
def test_an_oci_layout_without_a_docker_manifest_is_loaded(api: API, cli: CLI, kind: str) -> None:
    if kind == "dockerd":
        pytest.skip("its graph drivers load docker archives alone")
    image = Image("oci", [busybox_layer("oci"), layer([("oci-said", b"hello\n")])])
    tars = [gzip.compress(image.layers[0], 1, mtime=0), image.layers[1]]
    config = image.config_bytes()
    oci = "application/vnd.oci.image"
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "config": _described(f"{oci}.config.v1+json", config),
            "layers": [
                _described(f"{oci}.layer.v1.tar+gzip", tars[0]),
                _described(f"{oci}.layer.v1.tar", tars[1]),
            ],
        }
    ).encode()
    entry = _described(f"{oci}.manifest.v1+json", manifest)
    entry["annotations"] = {"io.containerd.image.name": "docker.io/library/oci:loaded"}
    files = {f"blobs/sha256/{digest(raw)[7:]}": raw for raw in (*tars, config, manifest)}
    files["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    assert "Loaded image: oci:loaded" in cli("load -q", _tar(files)).stdout
    assert api.ok("GET", "/images/oci:loaded/json")["Id"] == digest(config)
    assert cli.ok("run --rm oci:loaded cat /oci-said") == "hello"


def _described(media_type: str, raw: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(raw), "size": len(raw)}


@pytest.mark.usefixtures("prepared")
def test_what_is_told_of_images_in_and_out(api: API, cli: CLI, registry: str) -> None:
    since = int(time.time())
    name = f"{registry}/told:x"
    cli.ok(f"tag bb {name}")
    cli.ok(f"push -q {name}")
    saved = api("GET", f"/images/get?names={name}").body
    cli.ok(f"rmi {name}")
    assert api("POST", "/images/load?quiet=1", saved).status == 200
    cli.ok(f"rmi {name}")
    cli.ok(f"pull -q {name}")
    cli.ok(f"rmi {name}")
    template = "{{.Action}} {{.ID}} {{.Actor.Attributes.name}}"
    wanted = f"events --since {since} --until {since + 100000} --filter type=image --format"
    lines: list[str] = []
    with cli.popen(f"{wanted} '{template}'", stdout=subprocess.PIPE) as following:
        assert following.stdout is not None
        for raw in following.stdout:
            lines.append(raw.decode().strip())
            if lines[-1].startswith(f"pull {name}"):
                break
        following.terminate()
    image = api.ok("GET", "/images/bb/json")["Id"]
    short, familiar = name, name.removesuffix(":x")
    begun = lines.index(f"tag {image} {name}")
    shown = [line for line in lines[begun:] if image in line or familiar in line]
    actions = [line.split()[0] for line in shown]
    assert actions[:4] == ["tag", "push", "save", "untag"], lines
    assert [action for action in actions if action in ("load", "pull")] == ["load", "pull"]
    assert f"push {short} {familiar}" in shown
    assert f"pull {short} {familiar}" in shown
    assert f"load {image} {image}" in shown


def test_rows_of_the_list_by_version(api: API) -> None:
    def row(request: str) -> Any:
        return next(r for r in api.ok("GET", request) if "rich:latest" in r["RepoTags"])

    rich = row("/images/json")
    assert (rich["Containers"], rich["SharedSize"]) == (0, -1)
    assert "VirtualSize" not in rich
    assert "VirtualSize" not in row("=/v1.44/images/json")
    old = row("=/v1.43/images/json")
    assert old["VirtualSize"] == old["Size"] > 0
    shared = row("=/v1.51/images/json?shared-size=1")
    assert 0 < shared["SharedSize"] <= shared["Size"]
