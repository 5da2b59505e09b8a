"""Which containers a list shows, in which order, and their rows: as dockerd showed the same ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest
from compat.answers import Recording, normal
from compat.clients import API
from compat.daemons import Daemon

KEEP = {"keep": "", "listing": ""}


@dataclass(frozen=True)
class Ask:
    """One list.  `filters` get the label of these containers added; words in braces become ids and ports."""

    name: str
    filters: dict[str, Any]
    query: str = "all=1"


def ask(case: str, /, query: str = "all=1", **filters: Any) -> Ask:
    """Keys of filters with `_` for `-`."""
    return Ask(case, {key.replace("_", "-"): v for key, v in filters.items()}, query)


CASES = [
    ask("running ones", query=""),
    ask("all"),
    ask("all, spelled as a map", id={"{web}": True}),
    ask("a false value counts", status={"created": False}),
    ask("limit", query="limit=2"),
    ask("limit with all", query="all=1&limit=1"),
    ask("limit zero", query="limit=0"),
    ask("limit below zero", query="limit=-1"),
    ask("last is the CLI's word", query="last=1"),
    ask("since and before as parameters", query="since=web&before=done"),
    ask("the whole id", id=["{web}"]),
    ask("the beginning of an id", id=["{web8}"]),
    ask("the middle of an id", id=["{middle}"]),
    ask("two ids", id=["{web}", "{made}"]),
    ask("no id", id=[]),
    ask("an id that is a pattern", id=["{web8}.*"]),
    ask("a name", name=["web"]),
    ask("a name, anchored", name=["^web$"]),
    ask("a name with slash", name=["^/web$"]),
    ask("a part of a name", name=["eb"]),
    ask("two names", name=["^web$", "^made$"]),
    ask("a pattern of names", name=["^/?(web|done)$"]),
    ask("a name that is no pattern", name=["("]),
    ask("name and status", name=["web"], status=["exited"]),
    ask("a label", label=["tier"]),
    ask("a label with its value", label=["tier=front"]),
    ask("a label with another value", label=["tier=rear"]),
    ask("two labels", label=["tier", "side"]),
    ask("a label of the image", label=["from=image"]),
    ask("created", status=["created"]),
    ask("exited or created", status=["exited", "created"]),
    ask("running, not all", query="", status=["running"]),
    ask("those that exited, not all", query="", status=["exited"]),
    ask("dead", status=["dead"]),
    ask("removing", status=["removing"]),
    ask("a status that is none", status=["rubbish"]),
    ask("exited with 3", exited=["3"]),
    ask("exited with 0 or 3", exited=["0", "3"]),
    ask("exited with 9", exited=["9"]),
    ask("exited, not all", query="", exited=["3"]),
    ask("unhealthy", health=["unhealthy"]),
    ask("without health", health=["none"]),
    ask("of an image", ancestor=["rich"]),
    ask("of an image with tag", ancestor=["rich:latest"]),
    ask("of an image by id", ancestor=["{rich}"]),
    ask("of an image by short id", ancestor=["{rich12}"]),
    ask("of an image or the other", ancestor=["rich", "bb"]),
    ask("of an image that is not there", ancestor=["nothere"]),
    ask("of a base", ancestor=["{bb12}"]),
    ask("on the network none", network=["none"]),
    ask("on the network bridge", network=["bridge"]),
    ask("on a network by id", network=["{bridge}"]),
    ask("on a network by a short id", network=["{bridge12}"]),
    ask("on a network that is not there", network=["nothere"]),
    ask("with a volume", volume=["listed"]),
    ask("with a volume by its place", volume=["/v"]),
    ask("with a bind by its source", volume=["/tmp"]),
    ask("with a bind by its place", volume=["/m"]),
    ask("with a volume that is not there", volume=["nothere"]),
    ask("with a published port", publish=["{port}"]),
    ask("with a published port, of udp", publish=["{port}/udp"]),
    ask("with a published range", publish=["1-65535/tcp"]),
    ask("with a published port of the container", publish=["80"]),
    ask(
        "with a published port that is none",
        publish=["xx"],
    ),
    ask(
        "with a published pair",
        publish=["80:80"],
    ),
    ask("with an exposed port", expose=["90"]),
    ask("with an exposed port, tcp", expose=["90/tcp"]),
    ask("with an exposed port, udp", expose=["90/udp"]),
    ask("with an exposed range", expose=["85-95"]),
    ask("with an exposed port that is published", expose=["80/tcp"]),
    ask("with an exposed port of no protocol", expose=["90/xx"]),
    ask("tasks", is_task=["true"]),
    ask("no tasks", is_task=["false"]),
    ask("rubbish tasks", is_task=["zz"]),
    ask("of an isolation", isolation=["hyperv"]),
    ask("before one", before=["done"]),
    ask("since one", since=["web"]),
    ask("between two", since=["made"], before=["done"]),
    ask("before one, not all", query="", before=["done"]),
    ask("before nobody", before=["nothere"]),
    ask(
        "since a beginning of an id",
        since=["{web8}"],
    ),
    ask("an unknown filter", rubbish=["a"]),
]


@pytest.fixture(scope="module")
def listed(daemon: Daemon) -> Iterator[dict[str, str]]:
    """Four containers, and the words that filters may use for them."""
    api = API(daemon.socket)
    words: dict[str, str] = {}
    for name, body in BODIES.items():
        labels = KEEP | body.get("Labels", {})
        made = api.ok("POST", f"/containers/create?name={name}", body | {"Labels": labels})
        words[name] = made["Id"]
        if name in ("web", "done", "well"):
            api.ok("POST", f"/containers/{name}/start")
        if name in ("done", "well"):
            api.ok("POST", f"/containers/{name}/wait")
    words |= {"web8": words["web"][:8], "middle": words["web"][20:30]}
    ports = api.ok("GET", "/containers/web/json")["NetworkSettings"]["Ports"]
    words["port"] = ports["80/tcp"][0]["HostPort"]
    words["bridge"] = api.ok("GET", "/networks/bridge")["Id"]
    words["bridge12"] = words["bridge"][:12]
    for image in ("bb", "rich"):
        words[image] = api.ok("GET", f"/images/{image}/json")["Id"]
        words[f"{image}12"] = words[image][7:19]
    yield words
    for name in BODIES:
        api("DELETE", f"/containers/{name}?force=1&v=1")
    api("DELETE", "/volumes/listed")


BODIES: dict[str, dict[str, Any]] = {
    "made": {"Image": "rich", "Labels": {"side": "left", "tier": "back"}},
    "web": {
        "Image": "bb",
        "Cmd": ["sleep", "100000"],
        "Labels": {"tier": "front"},
        "ExposedPorts": {"80/tcp": {}, "90/tcp": {}},
        "HostConfig": {
            "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]},
            "Binds": ["/tmp:/m", "listed:/v"],
        },
    },
    "done": {
        "Image": "bb",
        "Cmd": ["sh", "-c", "exit 3"],
        "HostConfig": {"NetworkMode": "none"},
        "ExposedPorts": {"90/tcp": {}},
    },
    "well": {"Image": "bb", "Cmd": ["true", "a b", "c"], "HostConfig": {"NetworkMode": "none"}},
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_the_list_shows_what_dockerd_shows(
    case: Ask, api: API, listed: dict[str, str], recording: Recording
) -> None:
    text = json.dumps(labelled(case.filters))
    for word, value in listed.items():
        text = text.replace("{" + word + "}", value)
    answer = api("GET", f"/containers/json?{case.query}&filters={quote(text)}")
    found = answer.json()
    shown: Any = [row["Names"][0] for row in found] if answer.status == 200 else found["message"]
    if isinstance(shown, str):
        shown = shown.replace(listed["web8"], "ID8")
    actual = {"status": answer.status, "shown": shown}
    if recording.taking:
        recording.put(case.name, actual)
        return
    assert actual == recording.get(case.name)


def labelled(filters: dict[str, Any]) -> dict[str, Any]:
    """With the label of these containers, in the spelling of the rest."""
    if any(isinstance(value, dict) for value in filters.values()):
        return filters | {"label": {"listing": True}}
    return filters | {"label": [*filters.get("label", ()), "listing"]}


ROW_CASES = {
    "rows": "all=1",
    "rows of those that run": "",
    "rows with sizes": "all=1&size=1",
}


@pytest.mark.parametrize("case", ROW_CASES)
def test_rows_are_dockerds(
    case: str, api: API, listed: dict[str, str], recording: Recording, names: dict[str, str]
) -> None:
    """Everything of a row but sizes, ids, times and the endpoint of a network."""
    mine = quote(json.dumps({"label": ["listing"]}))
    rows = api.ok("GET", f"/containers/json?{ROW_CASES[case]}&filters={mine}")
    port = {listed["port"]: "PORT"}
    actual = [plain(row, names | port) for row in rows]
    if recording.taking:
        recording.put(case, actual)
        return
    assert actual == recording.get(case)


def plain(row: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    kept = {key: value for key, value in row.items() if key not in ("Created", "NetworkSettings")}
    for key in ("SizeRw", "SizeRootFs"):
        if key in kept:
            kept[key] = "a number" if isinstance(kept[key], int) else kept[key]
    # dockerd leaves a size of zero out.
    kept.pop("SizeRw", None)
    kept["Networks"] = sorted(row["NetworkSettings"]["Networks"])
    kept["Mounts"] = sorted(kept["Mounts"], key=lambda mount: mount["Destination"])
    for mount in kept["Mounts"]:
        mount["Source"] = "somewhere" if mount["Type"] == "volume" else mount["Source"]
        # dockerd's is rslave where its own folder is below the source, as /tmp is here.
        mount["Propagation"] = mount["Propagation"] and "some"
    ports = [row | ({"PublicPort": "PORT"} if "PublicPort" in row else {}) for row in kept["Ports"]]
    kept["Ports"] = sorted(ports, key=lambda row: row["PrivatePort"])
    return json.loads(normal(json.dumps(kept), names))


def test_an_image_whose_tag_moved_away_is_shown_by_its_id(api: API) -> None:
    api.ok("POST", "/images/bb/tag?repo=moving&tag=1")
    image = api.ok("GET", "/images/moving:1/json")["Id"]
    made = api.ok("POST", "/containers/create", {"Image": "moving:1"})["Id"]
    mine = quote(json.dumps({"id": [made]}))
    assert api.ok("GET", f"/containers/json?all=1&filters={mine}")[0]["Image"] == "moving:1"
    api.ok("POST", "/images/rich/tag?repo=moving&tag=1")
    assert api.ok("GET", f"/containers/json?all=1&filters={mine}")[0]["Image"] == image
    api.ok("DELETE", "/images/moving:1")


def test_sizes_come_only_when_asked_for(api: API) -> None:
    made = api.ok("POST", "/containers/create", {"Image": "bb"})["Id"]
    assert "SizeRootFs" not in api.ok("GET", f"/containers/{made}/json")
    shown = api.ok("GET", f"/containers/{made}/json?size=1")
    assert shown["SizeRootFs"] > 0
    mine = quote(json.dumps({"id": [made]}))
    assert "SizeRootFs" not in api.ok("GET", f"/containers/json?all=1&filters={mine}")[0]


def test_an_annotation_is_listed_from_1_46_on(daemon: Daemon) -> None:
    body = {"Image": "bb", "HostConfig": {"Annotations": {"a": "b"}}}
    made = API(daemon.socket, "/v1.51").ok("POST", "/containers/create", body)["Id"]
    mine = quote(json.dumps({"id": [made]}))
    for version, seen in (("/v1.45", False), ("/v1.46", True)):
        row = API(daemon.socket, version).ok("GET", f"/containers/json?all=1&filters={mine}")[0]
        assert ("Annotations" in row["HostConfig"]) == seen
    shown = API(daemon.socket, "/v1.42").ok("GET", f"/containers/{made}/json")
    assert shown["HostConfig"]["Annotations"] == {"a": "b"}


@pytest.mark.parametrize("form", ["full id", "name", "slash", "short id", "letter"])
def test_a_container_is_found_by(form: str, api: API) -> None:
    made = api.ok("POST", "/containers/create?name=seekme", {"Image": "bb"})["Id"]
    # Another one is called as the first one's id begins: a name goes before a beginning.
    other = api.ok("POST", f"/containers/create?name={made[:12]}", {"Image": "bb"})["Id"]
    refs = {
        "full id": (made, made),
        "name": ("seekme", made),
        "slash": ("%2Fseekme", None),
        "short id": (made[:13], made),
        "letter": (made[:12], other),
    }
    ref, wanted = refs[form]
    answer = api("GET", f"/containers/{ref}/json")
    if wanted is None:
        assert answer.status in (301, 400)
    else:
        assert answer.json()["Id"] == wanted


def test_a_beginning_of_several_ids_is_refused(api: API) -> None:
    made = [api.ok("POST", "/containers/create", {"Image": "bb"})["Id"] for _ in range(17)]
    first = next(i[0] for i in made if sum(j[0] == i[0] for j in made) > 1)
    answer = api("GET", f"/containers/{first}/json")
    assert answer.status == 400
    assert answer.message == f"multiple IDs found with provided prefix: {first}"
