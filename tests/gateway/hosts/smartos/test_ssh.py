"""The connection to another machine's global zone: verified, bounded, lost, made again.  Against a real sshd."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dockerapi.errors import InvalidParameter, NotSupported, Unavailable
from dockerapi.framing import StreamId
from gateway.hosts.command import run
from gateway.hosts.smartos import sshfiles, sshlink
from gateway.hosts.smartos.ssh import SSHGlobalZone
from gateway.hosts.smartos.sshsession import command_line
from gateway.settings import SmartOSSettings
from tests.contract.test_global_zone import DEADLINE_S, all_output, gone, read_until
from tests.fakes import sshd
from tests.fakes.sshd import Sshd

Start = Callable[..., Sshd]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    servers: list[Sshd] = []

    def begin(options: str = "") -> Sshd:
        folder = tmp_path / f"sshd{len(servers)}"
        servers.append(sshd.start(folder, {"PATH": os.environ["PATH"]}, options=options))
        return servers[-1]

    yield begin
    for server in servers:
        server.stop()


@pytest.fixture
def server(start: Start) -> Sshd:
    return start()


def told(server: Sshd, **more: object) -> SmartOSSettings:
    return SmartOSSettings.model_validate(
        {
            "host": server.url,
            "identity_file": server.identity_file,
            "known_hosts": server.known_hosts,
            **more,
        }
    )


@pytest.fixture
async def gz(server: Sshd) -> AsyncIterator[SSHGlobalZone]:
    async with await SSHGlobalZone.open(told(server)) as zone:
        yield zone


async def echo(gz: SSHGlobalZone, text: str = "there") -> None:
    assert await gz.run(["echo", text], timeout_s=DEADLINE_S) == f"{text}\n".encode()


# -- whom we trust, and who trusts us --------------------------------------------------------------


async def test_another_host_key_is_refused_with_its_fingerprint(server: Sshd) -> None:
    fingerprint = await run(
        ["/usr/bin/ssh-keygen", "-lf", str(server.folder / "host_key.pub")], timeout_s=DEADLINE_S
    )
    sshd.make_key(server.folder / "other")
    server.trust(server.folder / "other.pub")
    with pytest.raises(Unavailable) as caught:
        await SSHGlobalZone.open(told(server))
    assert fingerprint.split()[1].decode() in caught.value.message
    assert str(server.known_hosts) in caught.value.message


async def test_an_unknown_host_is_refused(server: Sshd, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="ssh-ed25519 SHA256:"):
        await SSHGlobalZone.open(told(server, known_hosts=tmp_path / "nothing"))


async def test_a_users_ssh_configuration_cannot_switch_verification_off(
    server: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text(
        "Host *\n  UserKnownHostsFile none\n  StrictHostKeyChecking no\n"
    )
    with pytest.raises(Unavailable, match="host key"):
        await SSHGlobalZone.open(told(server, known_hosts=None))
    (tmp_path / ".ssh" / "known_hosts").write_bytes(server.known_hosts.read_bytes())
    async with await SSHGlobalZone.open(told(server, known_hosts=None)) as gz:
        await echo(gz)


async def test_a_key_that_is_not_authorized_is_named(server: Sshd, tmp_path: Path) -> None:
    other = sshd.make_key(tmp_path / "other")
    with pytest.raises(Unavailable, match=f"takes none of our keys .*{other.name}"):
        await SSHGlobalZone.open(told(server, identity_file=other))


async def test_a_key_that_is_not_there_is_named(server: Sshd, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no-such-key"):
        await SSHGlobalZone.open(told(server, identity_file=tmp_path / "no-such-key"))


async def test_a_machine_that_does_not_answer_is_named(
    server: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sshlink, "RETRIES_S", (0.0, 0.01))
    server.stop()
    with pytest.raises(Unavailable, match=f"cannot reach the global zone {server.url}"):
        await SSHGlobalZone.open(told(server))


async def test_without_asyncssh_the_extra_is_named(
    server: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "asyncssh", None)
    for name in ("sshfiles", "sshlink", "sshsession"):
        monkeypatch.delitem(sys.modules, f"gateway.hosts.smartos.{name}")
    with pytest.raises(NotSupported, match=r"zonegate\[ssh\]"):
        await SSHGlobalZone.open(told(server))


async def test_a_machine_that_says_nothing_is_not_waited_for_long(
    server: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sshlink, "CONNECT_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"ssh://root@127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(Unavailable, match=r"no answer within 0\.2 s"):
            await SSHGlobalZone.open(told(server, host=url))


# -- how many sessions an sshd takes ---------------------------------------------------------------


async def test_a_further_connection_carries_what_the_first_has_no_room_for(
    gz: SSHGlobalZone, server: Sshd
) -> None:
    programs = [await gz.spawn(["cat"], stdin=True) for _ in range(25)]
    assert len(server.sessions()) >= 3
    for program in programs:
        await program.close()
    await echo(gz)


async def test_one_session_a_connection_is_enough(start: Start, tmp_path: Path) -> None:
    server = start("MaxSessions 1")
    (tmp_path / "file").write_text("data")
    async with await SSHGlobalZone.open(told(server)) as gz:
        program = await gz.spawn(["cat"], stdin=True)
        assert await gz.read(str(tmp_path / "file")) == b"data"
        await echo(gz)
        await program.close()
        assert await program.wait() == -9


async def test_an_sshd_that_takes_no_sessions_is_told_of(start: Start) -> None:
    with pytest.raises(Unavailable, match="refuses"):
        await SSHGlobalZone.open(told(start("MaxSessions 0")))


async def test_connections_that_are_not_needed_any_more_are_closed(
    gz: SSHGlobalZone, server: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sshlink, "IDLE_S", 0.0)
    programs = [await gz.spawn(["cat"], stdin=True) for _ in range(15)]
    first, *others = server.sessions()
    assert others
    for program in programs:
        await program.close()
    while further := [pid for pid in server.sessions() if pid != first]:
        await gone(further[0])
    assert server.sessions() == [first]
    await echo(gz)


async def test_forwarding_that_the_sshd_forbids_is_an_error_of_the_system(start: Start) -> None:
    async with await SSHGlobalZone.open(told(start("AllowTcpForwarding no"))) as gz:
        with pytest.raises(OSError, match="AllowTcpForwarding"):
            await gz.connect("127.0.0.1", 1)


async def test_files_are_replaced_though_the_server_cannot(start: Start, tmp_path: Path) -> None:
    # Later words of one keyword are ignored by an sshd: the fixture's own subsystem comes first.
    server = start()
    config = server.folder / "sshd_config"
    config.write_text(
        config.read_text().replace("internal-sftp", "internal-sftp -P posix-rename,hardlink")
    )
    server.stop()
    server.resume()
    async with await SSHGlobalZone.open(told(server)) as gz:
        (tmp_path / "file").write_text("old")
        await gz.write(str(tmp_path / "file"), b"new")
        assert (tmp_path / "file").read_text() == "new"


# -- a connection is lost --------------------------------------------------------------------------


async def test_a_lost_connection_ends_programs_and_the_next_use_connects(
    gz: SSHGlobalZone, server: Sshd
) -> None:
    program = await gz.spawn(["sh", "-c", "echo $$; exec cat"], stdin=True)
    output = program.output()
    pid = int((await anext(output))[1])
    server.drop()
    async with asyncio.timeout(DEADLINE_S):
        assert [chunk async for chunk in output] == []
        with pytest.raises(Unavailable, match="lost the connection"):
            await program.wait()
    await program.write(b"nobody hears")
    await program.close_input()
    await program.close()
    await echo(gz)
    await gone(pid)


async def test_a_connection_that_stands_still_is_given_up(
    server: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sshlink, "KEEPALIVE_S", 0.2)
    async with await SSHGlobalZone.open(told(server)) as gz:
        program = await gz.spawn(["cat"], stdin=True)
        (serving,) = server.sessions()
        os.kill(serving, signal.SIGSTOP)
        try:
            async with asyncio.timeout(DEADLINE_S):
                with pytest.raises(Unavailable, match="lost the connection"):
                    await program.wait()
            await echo(gz)
        finally:
            os.kill(serving, signal.SIGKILL)


async def test_what_ran_on_a_lost_connection_is_ended_before_anything_new_begins(
    gz: SSHGlobalZone, server: Sshd
) -> None:
    # As `zlogin -I`: it holds on, whatever its streams say, and takes the only place there is.
    script = "trap '' HUP TERM; echo $$; while :; do sleep 1; done"
    program = await gz.spawn(["sh", "-c", script])
    pid = int(await read_until(program, b"\n"))
    server.drop()
    await all_output(program)
    await echo(gz)
    await gone(pid)


async def test_a_program_that_is_waited_for_outlives_its_connection(
    gz: SSHGlobalZone, server: Sshd, tmp_path: Path
) -> None:
    begun, goes_on, done = tmp_path / "begun", tmp_path / "goes_on", tmp_path / "done"
    os.mkfifo(begun)
    os.mkfifo(goes_on)
    script = f"echo $$ >{begun}; read line <{goes_on}; echo $line >{done}"
    async with asyncio.TaskGroup() as group:
        task = group.create_task(_error(gz.run(["sh", "-c", script], timeout_s=DEADLINE_S)))
        pid = int(await asyncio.to_thread(begun.read_text))
        server.drop()
    assert isinstance(task.result(), Unavailable)
    await echo(gz)
    await asyncio.to_thread(goes_on.write_text, "whole\n")
    await gone(pid)
    assert done.read_text() == "whole\n"


async def _error(work: object) -> BaseException | None:
    try:
        await work  # type: ignore[misc]
    except Unavailable as error:
        return error
    return None


async def test_a_connection_that_was_lost_unnoticed_is_made_again(
    gz: SSHGlobalZone, server: Sshd, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("data")
    assert await gz.read(str(tmp_path / "file")) == b"data"
    server.drop()
    await echo(gz)
    server.drop()
    assert await gz.read(str(tmp_path / "file")) == b"data"
    server.drop()
    await gz.write(str(tmp_path / "file"), b"new")
    assert (tmp_path / "file").read_text() == "new"


async def test_a_machine_may_come_back_later(
    gz: SSHGlobalZone, server: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sshlink, "RETRIES_S", (0.0, 0.01, 0.02))
    server.stop()
    with pytest.raises(Unavailable, match="cannot reach"):
        await gz.run(["true"], timeout_s=DEADLINE_S)
    with pytest.raises(Unavailable, match="cannot reach"):
        await gz.read("/etc/passwd")
    with pytest.raises(Unavailable, match="cannot reach"):
        await gz.connect("127.0.0.1", 1)
    server.resume()
    await echo(gz)
    assert await gz.read("/etc/passwd", size=5) == b"root:"


async def test_a_restart_of_the_sshd_is_waited_for(gz: SSHGlobalZone, server: Sshd) -> None:
    server.stop()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(echo(gz, str(number))) for number in range(10)]
        await asyncio.to_thread(server.resume)
    assert all(task.done() for task in tasks)
    assert len(server.sessions()) <= 3


async def test_all_who_wait_for_a_machine_that_is_away_are_told_at_once(
    gz: SSHGlobalZone, server: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sshlink, "RETRIES_S", (0.0, 0.3))
    server.stop()
    async with asyncio.timeout(3.0), asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(_error(gz.run(["true"], timeout_s=DEADLINE_S))) for _ in range(16)
        ]
    assert all(isinstance(task.result(), Unavailable) for task in tasks)


async def test_an_upload_that_is_cut_begins_again(
    gz: SSHGlobalZone, server: Sshd, tmp_path: Path
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    data = os.urandom(30_000_000)
    source.write_bytes(data)
    assert await gz.status(str(target)) is None
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        group.create_task(gz.upload(source, str(target)))
        while not target.exists():  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)
        server.drop()
    assert target.read_bytes() == data


async def test_a_program_whose_start_is_cancelled_does_not_run_on(
    gz: SSHGlobalZone, tmp_path: Path
) -> None:
    for turns in range(40):
        async with asyncio.TaskGroup() as group:
            task = group.create_task(gz.spawn(["sleep", f"7654.{turns}"]))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
        if not task.cancelled():
            await task.result().close()
    shown = await gz.run(["ps", "-e", "-o", "args="], timeout_s=DEADLINE_S)
    assert b"sleep 7654." not in shown
    await echo(gz)


# -- what goes over the line -----------------------------------------------------------------------

_ARGUMENTS = st.lists(
    st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=12),
    max_size=5,
)


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
@settings(max_examples=25)
@given(arguments=_ARGUMENTS, value=st.text("ab'\"$ \n\\`", max_size=8))
def test_any_arguments_pass_the_far_shell(shell: str, arguments: list[str], value: str) -> None:
    line = command_line(
        ["/usr/bin/printf", "%s\\0", "-", *arguments], path="/a b:/x'y", env={"V": value}
    )
    out = asyncio.run(run([shell, "-c", line], timeout_s=DEADLINE_S))
    first, _, rest = out.partition(b"\n")
    assert first.startswith(b"zonegate-pid ")
    assert rest.decode().split("\0")[1:-1] == arguments


def test_a_variable_whose_name_is_none_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="no name of a variable"):
        command_line(["true"], path="", env={"A;reboot": "x"})


async def test_what_a_login_shell_says_is_not_the_programs(server: Sshd) -> None:
    (server.folder / ".bashrc").write_text("echo welcome; echo to the machine\n")
    async with await SSHGlobalZone.open(told(server)) as gz:
        await echo(gz)
        program = await gz.spawn(["stty", "size"], terminal=(24, 80))
        assert (await all_output(program))[StreamId.STDOUT] == b"24 80\r\n"
        await program.close()


def test_a_command_line_is_one_word_to_the_far_shell() -> None:
    words = shlex.split(command_line(["a", "b c"], path="/x", env={}))
    assert words[:3] == ["exec", "/bin/sh", "-c"]
    assert words[4:] == ["sh", "a", "b c"]


async def test_a_fifo_that_takes_a_files_place_blocks_nobody(
    gz: SSHGlobalZone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sshfiles, "_check_regular", lambda found, path: None)  # it was a file then
    monkeypatch.setattr(sshfiles, "_REGULAR_TIMEOUT_S", 1.0)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").write_bytes(b"text")
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        stuck = group.create_task(_unavailable(gz, str(tmp_path / "fifo")))
        for _ in range(5):
            assert await gz.read(str(tmp_path / "file")) == b"text"
        await stuck
        assert await gz.read(str(tmp_path / "file"), regular_only=True) == b"text"
    # Its writer has come: the far side's program goes on to its end.
    writer = os.open(tmp_path / "fifo", os.O_WRONLY)
    os.close(writer)


async def _unavailable(gz: SSHGlobalZone, path: str) -> None:
    with pytest.raises(Unavailable, match="cannot be read"):
        await gz.read(path, regular_only=True)
