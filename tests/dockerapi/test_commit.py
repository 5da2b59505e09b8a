"""POST /commit: the query, and the bodies that clients send or do not send."""

import pytest

from dockerapi.engine import CommitQuery

JSON = {"Content_Type": "application/json"}


async def test_the_query_comes_whole(world):
    answer = await world.ask(
        "POST",
        "/commit?container=c&repo=r&tag=t&author=a%20b&comment=why&pause=0&changes=ENV%20A=1&changes=CMD%20x",
    )
    assert (answer.status, answer.json) == (201, {"Id": "sha256:1"})
    ref, query, body = world.engine.commits.asked[0]
    assert (ref, body.model_fields_set) == ("c", set())
    assert query == CommitQuery("r", "t", "a b", "why", pause=False, changes=("ENV A=1", "CMD x"))


@pytest.mark.parametrize(
    ("text", "pause"),
    [("", True), ("&pause=", True), ("&pause=true", True), ("&pause=false", False)],
)
async def test_containers_are_paused_unless_the_client_says_no(world, text, pause):
    await world.ask("POST", f"/commit?container=c{text}")
    assert world.engine.commits.asked[0][1].pause is pause


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"", {}),
        (b"", JSON),
        (b"null", JSON),
        (b"{}", JSON),
        (b"0\r\n\r\n", JSON | {"Transfer_Encoding": "chunked"}),
        (b"1\r\n\n\r\n0\r\n\r\n", JSON | {"Transfer_Encoding": "chunked"}),
    ],
)
async def test_no_body_is_no_config(world, body, headers):
    if "Transfer_Encoding" in headers:
        reader, writer = await world.connect()
        writer.write(
            b"POST /commit?container=c HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n" + body
        )
        assert (await reader.readline()).startswith(b"HTTP/1.1 201")
    else:
        assert (await world.ask("POST", "/commit?container=c", body, **headers)).status == 201
    assert world.engine.commits.asked[0][2].model_fields_set == set()


async def test_a_body_is_the_config(world):
    answer = await world.ask("POST", "/commit?container=c", {"Env": ["A=1"], "Cmd": "x"})
    assert answer.status == 201
    body = world.engine.commits.asked[0][2]
    assert (body.env, body.cmd) == (["A=1"], ["x"])


async def test_other_bodies_are_refused(world):
    answer = await world.ask("POST", "/commit?container=c", b"{}", Content_Type="text/plain")
    assert answer.status == 400
    assert "unsupported Content-Type" in answer.message
    answer = await world.ask("POST", "/commit?container=c", b"{bad", **JSON)
    assert answer.status == 400
    assert (
        answer.message
        == "invalid JSON: invalid character 'b' looking for beginning of object key string"
    )
