"""Changes of `docker commit`: what dockerd makes of each, and its words for those that it refuses.

The table was taken from a dockerd 20.10; where 28.5 has other words, those.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerapi.errors import InvalidParameter
from gateway.translate.changes import changed, go_duration

CONFIG: dict[str, Any] = {"Env": ["PATH=/bin"], "Cmd": ["true"], "Entrypoint": None}


@pytest.mark.parametrize(
    ("change", "result"),
    [
        ("CMD", {"Cmd": ["/bin/sh", "-c"]}),
        ('CMD ["a","b"]', {"Cmd": ["a", "b"]}),
        ("CMD [a]", {"Cmd": ["/bin/sh", "-c", "[a]"]}),
        ("CMD echo  $HOME 'x y'", {"Cmd": ["/bin/sh", "-c", "echo  $HOME 'x y'"]}),
        ("ENTRYPOINT", {"Cmd": None, "Entrypoint": None}),
        ("ENTRYPOINT a b", {"Cmd": None, "Entrypoint": ["/bin/sh", "-c", "a b"]}),
        ("ENTRYPOINT []", {"Cmd": None, "Entrypoint": None}),
        ("ENV A b c", {"Env": ["PATH=/bin", "A=b c"]}),
        ("ENV PATH=$PATH:/x", {"Env": ["PATH=/bin:/x"]}),
        ("ENV A=1 B=$A", {"Env": ["PATH=/bin", "A=1", "B="]}),
        ('ENV Q="a b" R=c\\ d', {"Env": ["PATH=/bin", "Q=a b", "R=c d"]}),
        ('ENV Q "a b" x', {"Env": ["PATH=/bin", "Q=a b x"]}),
        ("ENV Q='a $PATH'", {"Env": ["PATH=/bin", "Q=a $PATH"]}),
        ("ENV Q=${NO:-def}", {"Env": ["PATH=/bin", "Q=def"]}),
        ("ENV Q=${PATH:+set}", {"Env": ["PATH=/bin", "Q=set"]}),
        ("ENV A=1 \\\n B=2", {"Env": ["PATH=/bin", "A=1", "B=2"]}),
        ("# a comment\n\nENV A=1", {"Env": ["PATH=/bin", "A=1"]}),
        ("EXPOSE 80-82", {"ExposedPorts": {f"{n}/tcp": {} for n in (80, 81, 82)}}),
        ("EXPOSE 80:90 127.0.0.1:1:91/udp", {"ExposedPorts": {"90/tcp": {}, "91/udp": {}}}),
        ('LABEL "a b"="c d"', {"Labels": {"a b": "c d"}}),
        ("LABEL a b", {"Labels": {"a": "b"}}),
        ("USER a b", {"User": "a b"}),
        ("USER $PATH", {"User": "/bin"}),
        ("WORKDIR foo", {"WorkingDir": "/foo"}),
        ("WORKDIR /a/../b", {"WorkingDir": "/a/../b"}),
        ("VOLUME a b", {"Volumes": {"a": {}, "b": {}}}),
        ('VOLUME ["/x y"]', {"Volumes": {"/x y": {}}}),
        ("STOPSIGNAL TERM", {"StopSignal": "TERM"}),
        ("ONBUILD RUN x", {"OnBuild": ["RUN x"]}),
        ("onbuild ZZ", {"OnBuild": ["ZZ"]}),
        ("HEALTHCHECK NONE", {"Healthcheck": {"Test": ["NONE"]}}),
        ("HEALTHCHECK CMD x y", {"Healthcheck": {"Test": ["CMD-SHELL", "x y"]}}),
        ('HEALTHCHECK CMD ["x"]', {"Healthcheck": {"Test": ["CMD", "x"]}}),
        (
            "HEALTHCHECK --interval=5s --start-period=1m --retries=3 CMD x",
            {
                "Healthcheck": {
                    "Test": ["CMD-SHELL", "x"],
                    "Interval": 5 * 10**9,
                    "StartPeriod": 60 * 10**9,
                    "Retries": 3,
                }
            },
        ),
    ],
)
def test_a_change_does_what_dockerd_does(change: str, result: dict[str, Any]) -> None:
    assert changed(CONFIG, [change]) == CONFIG | result


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("FOO x", "FOO is not a valid change command"),
        ("run x", "run is not a valid change command"),
        ('SHELL ["a"]', "SHELL is not a valid change command"),
        ("", "file with no instructions"),
        ("#comment", "file with no instructions"),
        ("ENV", "ENV requires at least one argument"),
        ("ENV A", "ENV must have two arguments"),
        ("ENV A=b C", 'Syntax error - can\'t find = in "C". Must be of the form: name=value'),
        ("ENV =b", "ENV names can not be blank"),
        ("ENV Q=${", "failed to process \"${\": syntax error: missing '}'"),
        (
            'ENV A="x',
            'failed to process "\\"x": unexpected end of statement while looking for matching double-quote',
        ),
        ("ENV A=${B?}", 'failed to process "${B?}": B: is not allowed to be unset'),
        ("ENV A=${B#x}", 'failed to process "${B#x}": unsupported modifier (#) in substitution'),
        ("LABEL", "LABEL requires at least one argument"),
        ("LABEL a", "LABEL must have two arguments"),
        ("LABEL =b", "LABEL names can not be blank"),
        ("EXPOSE", "EXPOSE requires at least one argument"),
        ("EXPOSE x", "invalid containerPort: x"),
        ("EXPOSE 70000", "invalid containerPort: 70000"),
        ("EXPOSE 82-80", "invalid containerPort: 82-80"),
        ("EXPOSE 80/foo", "invalid proto: foo"),
        ("USER", "USER requires exactly one argument"),
        ("WORKDIR", "WORKDIR requires exactly one argument"),
        ("VOLUME", "VOLUME requires at least one argument"),
        ("VOLUME []", "VOLUME requires at least one argument"),
        ('VOLUME [""]', "VOLUME specified can not be an empty string"),
        ("STOPSIGNAL", "STOPSIGNAL requires exactly one argument"),
        ("STOPSIGNAL BAD", "invalid signal: BAD"),
        ("ONBUILD", "ONBUILD requires at least one argument"),
        ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
        ("ONBUILD ONBUILD RUN x", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        ("HEALTHCHECK", "HEALTHCHECK requires at least one argument"),
        ("HEALTHCHECK NONE x", "HEALTHCHECK NONE takes no arguments"),
        ("HEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD"),
        ("HEALTHCHECK FOO", 'Unknown type "FOO" in HEALTHCHECK (try CMD)'),
        ("HEALTHCHECK --interval=5 CMD x", 'time: missing unit in duration "5"'),
        ("HEALTHCHECK --interval=1us CMD x", 'Interval "interval" cannot be less than 1ms'),
        ("HEALTHCHECK --bad=5 CMD x", "unknown flag: --bad"),
        ("HEALTHCHECK --timeout CMD x", "missing a value on flag: timeout"),
        (
            "HEALTHCHECK --interval=5s --interval=6s CMD x",
            "duplicate flag specified: interval",
        ),
        ("HEALTHCHECK --retries=0 CMD x", "--retries must be at least 1 (not 0)"),
        (
            "HEALTHCHECK --retries=x CMD x",
            'strconv.ParseInt: parsing "x": invalid syntax',
        ),
        ("CMD --foo=x y", "unknown flag: --foo"),
        ("CMD [1]", "when using JSON array syntax, arrays must be comprised of strings only"),
    ],
)
def test_a_change_is_refused_in_dockerds_words(change: str, words: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        changed(CONFIG, [change])
    assert str(caught.value) == words


def test_changes_follow_one_another() -> None:
    config = changed(CONFIG, ["ENV A=1", "ENV B=$A", "WORKDIR /a", "WORKDIR b", 'CMD ["x"]'])
    assert config["Env"] == ["PATH=/bin", "A=1", "B=1"]
    assert (config["WorkingDir"], config["Cmd"]) == ("/a/b", ["x"])


@pytest.mark.parametrize(
    ("changes", "cmd"),
    [
        (['ENTRYPOINT ["e"]'], None),
        (['CMD ["c"]', 'ENTRYPOINT ["e"]'], ["c"]),
        (['ENTRYPOINT ["e"]', 'CMD ["c"]'], ["c"]),
    ],
)
def test_an_entrypoint_takes_the_old_command_away(changes: list[str], cmd: object) -> None:
    assert changed(CONFIG, changes)["Cmd"] == cmd


def test_the_given_config_stays_as_it_is() -> None:
    config = {"Env": ["A=1"], "Labels": {"a": "b"}}
    changed(config, ["ENV A=2 B=3", "LABEL a=c"])
    assert config == {"Env": ["A=1"], "Labels": {"a": "b"}}


@pytest.mark.parametrize(
    ("text", "duration"),
    [("1h2m3.5s", 3723_500_000_000), ("1.5ms", 1_500_000), ("0", 0), ("-1s", -(10**9))],
)
def test_durations_are_gos(text: str, duration: int) -> None:
    assert go_duration(text) == duration


@pytest.mark.parametrize("text", ["", "x", "1x", "1", ".", "1s2"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match="time: "):
        go_duration(text)


@given(st.lists(st.text(max_size=40), max_size=4))
def test_no_change_does_more_than_be_refused(changes: list[str]) -> None:
    try:
        changed(CONFIG, changes)
    except InvalidParameter:
        return


@given(st.text(st.characters(blacklist_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=30))
def test_a_quoted_value_comes_out_as_it_went_in(text: str) -> None:
    quoted = "'" + text.replace("'", "'\"'\"'") + "'"
    assert changed({}, [f"LABEL key={quoted}"])["Labels"] == {"key": text}
