"""The server over a real socket: routing, versions, errors, bodies."""

from __future__ import annotations

import asyncio
import json

import docker
import pytest
from wire_client import read_answer, read_head

from dockerapi.app import ROUTES
from dockerapi.connection import Connection


async def test_every_answer_has_dockers_headers(world):
    answer = await world.ask("GET", "/v1.51/version")
    assert answer.status == 200
    assert answer.headers["api-version"] == "1.51"
    assert answer.headers["docker-experimental"] == "false"
    assert answer.headers["ostype"] == "linux"
    assert answer.headers["server"] == "Docker/28.5.2 (linux)"
    assert answer.body.endswith(b"}\n")


@pytest.mark.parametrize("path", ["/_ping", "/v1.24/_ping", "/v1.51/_ping"])
async def test_ping_is_answered_by_the_connection(world, path):
    get, head = await world.ask("GET", path), await world.ask("HEAD", path)
    for answer, size in ((get, "2"), (head, "0")):
        assert answer.status == 200
        assert answer.headers["content-length"] == size
        assert answer.headers["api-version"] == "1.51"
        assert answer.headers["builder-version"] == "1"
        assert answer.headers["swarm"] == "inactive"
        assert answer.headers["pragma"] == "no-cache"
        assert "date" in answer.headers
    assert get.body == b"OK"


async def test_the_slow_ping_answers_the_same(world):
    quick = await world.ask("GET", "/_ping")
    slow = await world.ask("GET", "/_ping?x=1")
    assert slow.body == quick.body
    assert {**slow.headers, "date": ""} == {**quick.headers, "date": ""}


async def test_ping_with_a_bad_version_is_refused(world):
    assert (await world.ask("GET", "/v1.99/_ping")).status == 400


async def test_pipelined_requests_are_answered_in_order(world):
    reader, writer = await world.connect()
    one = b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n"
    ping = b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n"
    writer.write(one + ping + one + ping + ping)
    bodies = [(await read_answer(reader)).body for _ in range(5)]
    assert [body == b"OK" for body in bodies] == [False, True, False, True, True]


async def test_a_request_may_arrive_byte_by_byte(world):
    reader, writer = await world.connect()
    body = b'{"Image":"x"}'
    for byte in (
        b"POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    ):
        writer.write(bytes((byte,)))
        await asyncio.sleep(0)
    assert (await read_answer(reader)).status == 201


async def test_a_chunked_body_needs_no_length(world):
    reader, writer = await world.connect()
    writer.write(
        b"POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b'Transfer-Encoding: chunked\r\n\r\n5;ext=1\r\n{"Ima\r\n8\r\nge":"x"}\r\n0\r\nT: 1\r\n\r\n'
        b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n"
    )
    assert (await read_answer(reader)).status == 201
    assert (await read_answer(reader)).body == b"OK"


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 100\r\n\r\n{}", b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"]
)
async def test_a_body_that_breaks_off_is_refused(world, framing):
    reader, writer = await world.connect()
    head = (
        b"POST /v1.41/containers/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    )
    writer.write(head + framing)
    writer.write_eof()
    async with asyncio.timeout(5):
        answer = await read_answer(reader)
        assert not await reader.read()
    assert (answer.status, answer.message) == (400, "malformed request body: unexpected EOF")


async def test_a_client_that_half_closes_gets_its_answer(world):
    reader, writer = await world.connect()
    writer.write(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
    writer.write_eof()
    assert (await read_answer(reader)).status == 200
    assert await reader.read() == b""


async def test_two_requests_and_a_half_close_get_two_answers(world):
    reader, writer = await world.connect()
    writer.write(2 * b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
    writer.write_eof()
    assert (await read_answer(reader)).status == 200
    assert (await read_answer(reader)).status == 200
    assert await reader.read() == b""


async def test_a_client_gone_right_after_its_answer_leaves_no_connection(world, monkeypatch):
    answered = Connection.finish_response

    async def then_end_of_input(self, *given):
        done = await answered(self, *given)
        # Before aiohttp has looked whether the connection stays.
        asyncio.get_running_loop().call_soon(self.eof_received)
        return done

    monkeypatch.setattr(Connection, "finish_response", then_end_of_input)
    reader, writer = await world.connect()
    writer.write(b"GET /info HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(5):
        assert (await read_answer(reader)).status == 200
        assert await reader.read() == b""


async def test_a_too_new_client_is_refused_in_json(world):
    answer = await world.ask("GET", "/v1.52/version")
    assert answer.status == 400
    assert answer.message == (
        "client version 1.52 is too new. Maximum supported API version is 1.51"
    )


async def test_a_too_old_client_is_refused_in_plain_text(world):
    answer = await world.ask("GET", "/v1.12/version")
    assert answer.status == 400
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.body.startswith(b"client version 1.12 is too old. Minimum supported API version")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/nope"),
        ("GET", "/vabc/info"),
        ("PUT", "/info"),
        ("GET", "/containers/json/"),
        ("HEAD", "/info"),
    ],
)
async def test_an_unknown_path_or_method_is_page_not_found(world, method, path):
    answer = await world.ask(method, path)
    assert answer.status == 404
    assert "api-version" not in answer.headers
    if method != "HEAD":
        assert answer.json == {"message": "page not found"}


async def test_options_is_always_fine(world):
    assert (await world.ask("OPTIONS", "/anything")).status == 200


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("//version", "/version"),
        ("/containers/%2Fc1/json?size=1", "/containers/c1/json?size=1"),
        ("/v1.51/containers/../info", "/v1.51/info"),
    ],
)
async def test_an_unclean_path_is_redirected(world, path, location):
    answer = await world.ask("GET", path)
    assert answer.status == 301
    assert answer.headers["location"] == location


async def test_an_older_version_has_the_newer_endpoints_too(world):
    assert (await world.ask("GET", "/v1.24/system/df")).status == 200


async def test_errors_have_status_and_words(world):
    missing = await world.ask("GET", "/containers/zz/json")
    assert (missing.status, missing.json) == (404, {"message": "No such container: zz"})
    world.engine.containers.known["running"] = {}
    unchanged = await world.ask("POST", "/containers/running/start")
    assert (unchanged.status, unchanged.body) == (304, b"")
    assert (await world.ask("POST", "/containers/c1/pause")).status == 409


async def test_an_unknown_error_tells_nothing_of_the_inside(world, caplog):
    answer = await world.ask("GET", "/containers/broken/json")
    assert answer.status == 500
    assert answer.message.startswith("server error (")
    assert "a secret of the inside" in caplog.text


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        b"hello\r\n",
        b"GET /info HTTP/1.1\nHost: x\n\n",
        b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /" + b"a" * 140_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=["header", "tls", "text", "bare-lf", "cl-te", "h2", "long"],
)
async def test_what_is_no_request_is_refused_without_echo(world, request_bytes, caplog):
    reader, writer = await world.connect()
    writer.write(request_bytes)
    async with asyncio.timeout(5):
        answer = await read_answer(reader)
    assert answer.status == 400
    assert answer.json == {"message": "malformed HTTP request"}
    assert "aiohttp" not in answer.headers["server"]
    assert "Traceback" not in caplog.text
    assert await reader.read() == b""


async def test_long_headers_are_accepted(world):
    answer = await world.ask("GET", "/version", X_Registry_Auth="a" * 100_000)
    assert answer.status == 200


CREATE = "/containers/create"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            b"{invalid",
            "invalid JSON: invalid character 'i' looking for beginning of object key string",
        ),
        (b"", "invalid JSON: got EOF while reading request body"),
        (b'{"Image":"x"} trailing', "unexpected content after JSON"),
        (b'{"Image":', "invalid JSON: unexpected EOF"),
        (b'{"Image":5}', "invalid JSON: json: cannot unmarshal number into Go struct field"),
        (b"[]", "invalid JSON: json: cannot unmarshal array into Go value"),
        (b"{}", "config cannot be empty in order to create a container"),
        (b'{"HostConfig":{}}', "config cannot be empty in order to create a container"),
    ],
)
async def test_bad_bodies_are_refused_in_gos_words(world, body, message):
    answer = await world.ask("POST", CREATE, body, Content_Type="application/json")
    assert answer.status == 400
    assert answer.message.startswith(message)


async def test_the_content_type_must_be_json(world):
    answer = await world.ask("POST", CREATE, b"{}", Content_Type="text/plain")
    assert answer.status == 400
    assert answer.message == (
        "unsupported Content-Type header (text/plain): must be 'application/json'"
    )
    assert (await world.ask("POST", CREATE, b"{}")).status == 400
    good = await world.ask(
        "POST", CREATE, b'{"image":"x"}', Content_Type="application/json; charset=utf-8"
    )
    assert good.status == 201


async def test_stops_signal_came_with_1_42(world):
    await world.ask("POST", "/v1.41/containers/c1/stop?signal=INT&t=3")
    await world.ask("POST", "/v1.42/containers/c1/stop?signal=INT")
    assert world.engine.containers.calls == [
        ("stop", "c1", None, 3),
        ("stop", "c1", "INT", None),
    ]


@pytest.mark.parametrize("path", ["/containers/c1/resize", "/exec/e1/resize"])
@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("w=1", 'invalid resize height "": invalid syntax'),
        ("h=1&w=x", 'invalid resize width "x": invalid syntax'),
        ("h=4294967296&w=1", 'invalid resize height "4294967296": value out of range'),
    ],
)
async def test_a_bad_terminal_size_is_named(world, path, query, message):
    answer = await world.ask("POST", f"{path}?{query}")
    assert (answer.status, answer.message) == (400, message)


async def test_a_list_for_an_old_client_lacks_annotations(world):
    assert b"Annotations" in (await world.ask("GET", "/containers/json")).body
    old = await world.ask("GET", "/v1.45/containers/json")
    assert old.json == [{"Id": "1", "HostConfig": {"NetworkMode": "bridge"}}]


async def test_an_image_has_the_fields_of_its_time(world):
    new = await world.ask("GET", "/images/json")
    old = await world.ask("GET", "/v1.42/images/json")
    assert "VirtualSize" not in new.json[0]
    assert old.json[0]["VirtualSize"] == 5
    assert old.json[0]["RepoTags"] == ["<none>:<none>"]


async def test_an_image_name_may_hold_slashes(world):
    answer = await world.ask("GET", "/v1.51/images/docker.io/library/a:1/json")
    assert answer.json["Id"] == "docker.io/library/a:1"
    foreign = await world.ask(
        "GET", '/v1.51/images/a/json?platform={"os":"linux","architecture":"arm64"}'
    )
    assert foreign.status == 404


async def test_swarm_is_refused_in_dockerds_words(world):
    answer = await world.ask("GET", "/services")
    assert answer.status == 503
    assert answer.message.startswith("This node is not a swarm manager.")
    assert (await world.ask("GET", "/plugins")).json == []


async def test_what_is_not_built_says_so(world):
    for method, path in (("POST", "/build?version=2"), ("POST", "/session"), ("POST", "/grpc")):
        answer = await world.ask(method, path)
        assert answer.status == 501
        assert "zonegate" in answer.message


def test_no_route_is_there_twice():
    keys = [(route.method, route.path) for route in ROUTES]
    assert len(keys) == len(set(keys))


async def test_a_change_survives_its_client(world):
    _, writer = await world.connect()
    writer.write(b"POST /containers/c1/start HTTP/1.1\r\nHost: x\r\n\r\n")
    await world.engine.containers.started.wait()
    writer.transport.abort()
    ping = await world.ask("GET", "/_ping")
    assert ping.status == 200
    world.engine.containers.gate.set()
    async with asyncio.timeout(5):
        await world.engine.containers.finished.wait()
    assert ("started", "c1") in world.engine.containers.calls


async def test_the_sdk_negotiates_and_reads(world):
    def use() -> tuple[str, dict[str, object]]:
        client = docker.DockerClient(base_url=f"unix://{world.path}", version="auto")
        try:
            assert client.ping()
            with pytest.raises(docker.errors.NotFound, match="No such container: zz"):
                client.containers.get("zz")
            return client.api._version, client.version()
        finally:
            client.close()

    negotiated, version = await asyncio.to_thread(use)
    assert negotiated == "1.51"
    assert version["Version"] == "28.5.2"


async def test_expect_100_is_answered_before_the_body_is_read(world):
    reader, writer = await world.connect()
    writer.write(
        b"POST /images/load HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    )
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"hello")
    answer = await read_answer(reader)
    assert answer.status == 200
    assert answer.body == b'{"stream":"Loaded image: x:latest\\n"}\r\n'
    assert world.engine.images.loaded == 5


async def test_a_large_archive_streams_through(world):
    reader, writer = await world.connect()
    block = bytes(1 << 20)
    writer.write(b"POST /images/load HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(64):
        writer.write(b"100000\r\n" + block + b"\r\n")
        await writer.drain()
    writer.write(b"0\r\n\r\n")
    assert (await read_answer(reader)).status == 200
    assert world.engine.images.loaded == 64 << 20
    assert world.engine.images.largest < 1 << 20


async def test_pull_progress_is_lines_and_errors_are_status_or_last_line(world):
    good = await world.ask("POST", "/images/create?fromImage=x&tag=latest", X_Registry_Auth="e30")
    assert next(json.loads(line) for line in good.body.split(b"\r\n") if line)["id"] == "latest"
    assert good.headers["content-type"] == "application/json"
    missing = await world.ask("POST", "/images/create?fromImage=missing&tag=latest")
    assert missing.status == 404
    late = await world.ask("POST", "/images/create?fromImage=bad&tag=latest")
    last = json.loads(late.body.split(b"\r\n")[-2])
    assert late.status == 200
    assert last == {"errorDetail": {"message": "No such image: bad"}, "error": "No such image: bad"}


async def test_a_bad_upload_does_not_break_the_server(world):
    reader, writer = await world.connect()
    writer.write(
        b"POST /images/load HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
    )
    async with asyncio.timeout(5):
        status, _ = await read_head(reader)
    assert status == 400
    assert (await world.ask("GET", "/_ping")).status == 200


async def test_shutdown_waits_for_a_change_whose_client_has_left(world):
    _, writer = await world.connect()
    writer.write(b"POST /containers/c1/start HTTP/1.1\r\nHost: x\r\n\r\n")
    await world.engine.containers.started.wait()
    writer.transport.abort()
    async with asyncio.TaskGroup() as group:
        ending = group.create_task(world.server.shutdown(10))
        await asyncio.sleep(0)
        assert not ending.done()
        world.engine.containers.gate.set()
    assert ("started", "c1") in world.engine.containers.calls


async def test_shutdown_does_not_wait_for_idle_connections(world):
    readers = []
    for path in (b"/_ping", b"/version"):
        reader, writer = await world.connect()
        writer.write(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path)
        await read_answer(reader)
        readers.append(reader)
    async with asyncio.timeout(2):
        await world.server.shutdown(10)
        for reader in readers:
            assert await reader.read() == b""


# -- answers at once


@pytest.mark.parametrize("path", ["/version", "/containers/json", "/v1.45/containers/json?all=1"])
async def test_what_is_answered_at_once_is_what_the_usual_way_answers(world, path):
    prompt = await world.ask("GET", path)
    usual = await world.ask("GET", path, Connection="close")
    assert prompt.body == usual.body
    assert {**prompt.headers, "date": "", "connection": ""} == {
        **usual.headers,
        "date": "",
        "connection": "",
    }


async def test_what_cannot_be_answered_at_once_is_refused_in_the_usual_way(world):
    for path, status in (
        ("/containers/json?limit=x", 500),
        ("/containers/json?filters=x", 400),
        ("/v1.99/containers/json", 400),
        ("/v1.99/version", 400),
        ("/containers//json", 301),
        ("/versions", 404),
    ):
        assert (await world.ask("GET", path)).status == status


async def test_a_fault_of_an_answer_at_once_is_a_500_of_the_usual_way(world, monkeypatch):
    def fails(query):
        raise RuntimeError("a secret of the inside")

    monkeypatch.setattr(world.engine.containers, "listed", fails)
    answer = await world.ask("GET", "/containers/json")
    assert answer.status == 500
    assert "secret" not in answer.message


async def test_who_reads_nothing_gets_no_more_answers_at_once(world, monkeypatch):
    asked = 0

    def large(query):
        nonlocal asked
        asked += 1
        return b'["' + b"x" * (1 << 20) + b'"]\n'

    monkeypatch.setattr(world.engine.containers, "listed", large)
    reader, writer = await world.connect()
    one = b"GET /containers/json HTTP/1.1\r\nHost: x\r\n\r\n"
    writer.write(one * 50)
    await writer.drain()
    ping = await world.ask("GET", "/_ping")  # the server has read what came before
    assert ping.status == 200
    assert asked < 10
    for _ in range(50):
        assert (await read_answer(reader)).status == 200
    assert asked == 50


# -- disk usage


async def test_disk_usage_tells_what_was_asked_for(world):
    every = (await world.ask("GET", "/system/df")).json
    assert every["Images"][0]["Id"] == "sha256:1"
    assert "VirtualSize" not in every["Images"][0]
    assert "BuilderSize" not in every
    some = (await world.ask("GET", "/v1.42/system/df?type=container&type=volume")).json
    assert some["Images"] is None


async def test_disk_usage_of_an_older_version_has_its_fields(world):
    answer = (await world.ask("GET", "/v1.41/system/df?type=container")).json
    assert answer["Images"][0]["VirtualSize"] == 5  # `type` came later
    assert answer["BuilderSize"] == 7
    assert answer["Containers"][0]["HostConfig"] == {"Annotations": {"a": "b"}}


async def test_disk_usage_of_an_unknown_kind_is_refused(world):
    answer = await world.ask("GET", "/system/df?type=zz")
    assert (answer.status, answer.message) == (400, "unknown object type: zz")
