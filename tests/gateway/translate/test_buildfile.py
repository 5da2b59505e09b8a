"""Dockerfiles as stages: what is known of them before anything is built."""

from __future__ import annotations

import pytest

from dockerapi.errors import InvalidParameter
from gateway.translate import buildfile
from gateway.translate.buildargs import BuildArguments
from gateway.translate.buildsteps import owner


def parsed(text: str, **more: object) -> buildfile.BuildFile:
    options: dict[str, object] = {"name": "Dockerfile", "labels": {}, **more}
    return buildfile.parse(text, **options)  # type: ignore[arg-type]


def test_a_stage_has_what_follows_its_from() -> None:
    file = parsed("ARG V=1\nFROM a:$V AS One\nRUN x\nFROM b\n")
    assert [line.rest for line in file.arguments] == ["V=1"]
    assert [(stage.base, stage.name, len(stage.steps)) for stage in file.stages] == [
        ("a:$V", "one", 1),
        ("b", "", 0),
    ]
    assert file.length == 4


def test_stages_after_the_target_are_left_out() -> None:
    text = "FROM a AS one\nFROM b AS two\nFROM c\n"
    assert len(parsed(text, target="TWO").stages) == 2
    assert len(parsed(text, target="0").stages) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM a\nRUN\n", "dockerfile parse error on line 2: RUN requires at least one argument"),
        ("FROM a b\n", "dockerfile parse error on line 1: FROM requires either one or three arguments"),
        ("FROM a\nSHELL sh -c\n", "dockerfile parse error on line 2: SHELL requires the arguments to be in JSON form"),
        ("FROM a\n\nCOPY --from=x --from=y a b", "dockerfile parse error on line 3: duplicate flag specified: from"),
        ("ENV A=1\nFROM a\n", "no build stage in current context"),
    ],
)  # fmt: skip
def test_what_is_no_dockerfile_is_said_with_its_line(text: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        parsed(text)
    assert caught.value.message == message


def test_a_label_of_the_client_is_taken_as_it_is() -> None:
    file = parsed("FROM a\n", labels={"k": 'it\'s $HOME "x"'})
    (step,) = file.stages[0].steps
    assert step.line == 'LABEL k=it\'s $HOME "x"'


def test_a_trigger_may_not_trigger() -> None:
    with pytest.raises(InvalidParameter, match="ONBUILD isn't allowed as an ONBUILD trigger"):
        buildfile.onbuild_triggers(["ONBUILD RUN x"])


def test_an_argument_counts_from_where_it_is_declared() -> None:
    arguments = BuildArguments({"A": "given", "B": None, "X": "1"}, [("META", "m"), ("A", None)])
    arguments.stage()
    assert arguments.for_run({}) == []
    assert arguments.declare("META", None, {}) is None
    assert arguments.declare("A", "default", {}) == "default"
    assert arguments.declare("C", "$A-$D", {"A": "a", "D": "d"}) == "a-d"
    assert arguments.for_run({}) == ["A=given", "C=a-d", "META=m"]
    assert arguments.for_run({"A": "env"}) == ["C=a-d", "META=m"]
    assert arguments.for_history({}) == ["|3", "A=given", "C=a-d", "META=m"]
    assert arguments.unused == ["X"]
    arguments.stage()
    assert arguments.for_run({}) == []


def test_a_proxy_is_known_to_run_and_not_to_the_history() -> None:
    arguments = BuildArguments({"https_proxy": "p"}, [])
    assert arguments.for_run({}) == ["https_proxy=p"]
    assert arguments.for_history({}) == ["|0"]
    assert arguments.unused == []


def test_an_owner_by_name_is_the_images() -> None:
    passwd, group = "bin:x:2:9::/:\n", "bin:x:5:\nstaff:x:50:\n"
    assert owner("bin", passwd, group) == (2, 5)
    assert owner("bin:staff", passwd, group) == (2, 50)
    assert owner("7:staff", None, group) == (7, 50)
    assert owner("7", None, None) == (7, 7)
    with pytest.raises(InvalidParameter, match="no such group: none"):
        owner("7:none", passwd, group)
