"""How zlogin is called: words for a su or without, wrappers, and whether a su is seen."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.hosts.command import run
from gateway.hosts.smartos.local import LocalGlobalZone
from gateway.hosts.smartos.zlogin import (
    as_user,
    attach_argv,
    busy_process,
    command_argv,
    server_socket,
    su_seen,
    wrapped,
)

U = "0be24e0e-04e4-6110-8b53-5f1e6cd8f2f4"
words = st.lists(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1
)


def test_attach_says_whether_its_end_is_the_processs() -> None:
    assert attach_argv(U, eof=True) == ["zlogin", "-Q", "-E", "-I", U]
    assert attach_argv(U, eof=False) == ["zlogin", "-Q", "-E", "-I", "-N", U]


@given(words)
def test_a_su_gets_one_word_that_a_shell_reads_as_the_command(command: list[str]) -> None:
    argv = command_argv(U, command, tty=False, su=True)
    assert argv[:3] == ["zlogin", "-Q", U]
    assert len(argv) == 4
    assert shlex.split(argv[3]) == command


@given(words)
def test_without_a_su_or_with_a_terminal_words_stay_as_they_are(command: list[str]) -> None:
    assert command_argv(U, command, tty=False, su=False) == ["zlogin", "-Q", U, *command]
    for su in (False, True):
        assert command_argv(U, command, tty=True, su=su) == [
            "zlogin",
            "-Q",
            "-E",
            "-i",
            U,
            *command,
        ]


def test_wrappers_are_the_platforms_own() -> None:
    assert wrapped("lx", ["a"])[:2] == ["/native/usr/bin/bash", "-c"]
    assert wrapped("lx", ["a"], env=["A=1"])[:3] == [
        "/native/usr/bin/env",
        "A=1",
        "/native/usr/bin/bash",
    ]
    assert wrapped("joyent", ["a"], env=["A=1"], clear=True)[:3] == ["/usr/bin/env", "-i", "A=1"]
    assert wrapped("lx", ["a", "b"], workdir="/w")[-4:] == ["zonegate", "/w", "a", "b"]
    shell = "/native/usr/bin/bash"
    assert as_user("lx", "web", ["a b"]) == ["su", "-s", shell, "-c", "exec 'a b'", "web"]
    assert as_user("joyent", "web", ["a"]) == ["su", "web", "-c", "exec a"]


async def test_the_wrapper_starts_what_it_was_given(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    command = ["sh", "-c", 'pwd; echo "$A"; echo "${GONE-none}"', "sh"]
    argv = wrapped("joyent", command, env=["A=it's $x", "GONE"], workdir=str(folder))
    out = await run(argv, timeout_s=10, env={"GONE": "here", "PATH": "/usr/bin:/bin"})
    assert out.decode() == f"{folder}\nit's $x\nnone\n"


@pytest.mark.parametrize(
    ("said", "process"),
    [
        (b"zlogin: Zone is already in use by process ID 4711.\n", "4711"),
        (b"zlogin: unable to connect for 30 seconds\n", None),
    ],
)
def test_a_refusal_names_the_process(said: bytes, process: str | None) -> None:
    assert busy_process(said) == process


def test_sockets_are_below_the_platforms_root() -> None:
    assert server_socket(U) == f"/var/run/zones/{U}.server_out"
    assert server_socket(U, "/x") == f"/x/var/run/zones/{U}.server_out"


@pytest.mark.parametrize(
    ("su", "seen"),
    [
        (None, False),
        ("file", True),
        ("busybox", True),  # a link to its neighbour
        ("../usr/bin/su", False),
        ("/bin/busybox", False),  # leads to the global zone's own /bin
        ("/bin/present", True),
        ("/bin/loop", False),
    ],
)
async def test_a_su_is_looked_for_from_the_global_zone(
    tmp_path: Path, su: str | None, seen: bool
) -> None:
    own, zone = tmp_path / "gz/bin", tmp_path / "gz/zones/z/root/bin"
    own.mkdir(parents=True)
    zone.mkdir(parents=True)
    (own / "present").touch()
    (own / "loop").symlink_to("/bin/loop")
    (zone / "busybox").touch()
    if su == "file":
        (zone / "su").touch()
    elif su is not None:
        (zone / "su").symlink_to(su)
    async with LocalGlobalZone() as gz:
        assert await su_seen(gz, str(zone.parents[1]), str(tmp_path / "gz")) is seen


async def test_a_folder_that_is_a_link_is_followed_too(tmp_path: Path) -> None:
    root = tmp_path / "z/root"
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/su").touch()
    (root / "bin").symlink_to("usr/bin")
    async with LocalGlobalZone() as gz:
        assert await su_seen(gz, str(tmp_path / "z"), str(tmp_path))
