"""What conmon is told, and what becomes of a runtime's complaints."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerapi.errors import InvalidParameter
from gateway.hosts.linux import signals
from gateway.hosts.linux.conmon import Bundle, Runtime, Streams, create_argv, reworded

RUNTIME = Runtime("/usr/bin/conmon", "/usr/bin/crun", Path("/run/state"), Path("/run/exits"))


@pytest.mark.parametrize(
    ("text", "words", "code"),
    [
        ("executable file `x' not found in $PATH: No such file or directory",
         'exec: "x": executable file not found in $PATH', 127),
        ("executable file `/a/x` not found in $PATH: No such file or directory",
         'exec: "/a/x": stat /a/x: no such file or directory', 127),
        ("open executable: Permission denied", 'exec: "prog": permission denied', 126),
        ("open executable: Operation not permitted",
         'exec: "prog": is a directory: permission denied', 126),
        ("warning\nchdir `/x': Not a directory",
         'chdir to cwd ("/x") set in config.json failed: not a directory', 126),
        ("[conmon:e]: something else", "something else", 128),
        ("", "the runtime ended without a word", 128),
    ],
)  # fmt: skip
def test_complaints_are_put_in_dockers_words(text: str, words: str, code: int) -> None:
    assert reworded(text, "prog") == (words, code)


def test_a_program_without_a_name_is_not_found() -> None:
    found = ('exec: "": executable file not found in $PATH', 127)
    assert reworded("open executable: Operation not permitted", "") == found


@pytest.mark.parametrize(
    ("streams", "given_flags"),
    [
        (Streams(False, False, False, None), []),
        (Streams(True, True, True, None), ["-t", "-i"]),
        (Streams(False, True, False, None), ["-i", "--leave-stdin-open"]),
    ],
)
def test_stdin_and_terminal_are_as_the_zone_has_them(
    streams: Streams, given_flags: list[str]
) -> None:
    argv = create_argv(RUNTIME, Bundle(Path("/run/b")), "zone", streams)
    assert [flag for flag in argv if flag in ("-t", "-i", "--leave-stdin-open")] == given_flags
    assert argv[argv.index("-l") + 1] == "none"


def test_the_log_is_a_file_of_the_zone() -> None:
    streams = Streams(False, False, False, Path("/data/ctr.log"))
    argv = create_argv(RUNTIME, Bundle(Path("/run/b")), "zone", streams)
    assert argv[argv.index("-l") + 1] == "k8s-file:/data/ctr.log"


@pytest.mark.parametrize(
    ("name", "number"),
    [("SIGTERM", 15), ("term", 15), ("9", 9), ("RTMIN", 34), ("SIGRTMIN+3", 37), ("RTMAX-1", 63),
     ("SIGCLD", 17), ("64", 64)],
)  # fmt: skip
def test_signals_have_dockers_names(name: str, number: int) -> None:
    assert signals.number(name) == number


@given(st.text(max_size=8).filter(lambda name: not set(name) & set("0123456789IN")))
def test_what_is_no_signal_is_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        signals.number(f"{name}?")
    assert caught.value.message == f"Invalid signal: {name}?"
