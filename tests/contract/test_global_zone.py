"""What every GlobalZone must do, by the words of globalzone.py: here, and through a real sshd."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dockerapi.errors import CommandFailed, Conflict, NotFound
from dockerapi.framing import StreamId
from gateway.hosts.smartos.globalzone import GlobalZone, Program
from gateway.hosts.smartos.local import LocalGlobalZone
from gateway.hosts.smartos.ssh import SSHGlobalZone
from gateway.settings import SmartOSSettings
from tests.fakes import sshd

DEADLINE_S = 20.0

pytestmark = pytest.mark.root


@pytest.fixture(params=["local", "ssh"])
async def gz(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[GlobalZone]:
    if request.param == "local":
        async with LocalGlobalZone() as zone:
            yield zone
        return
    server = sshd.start(tmp_path / "sshd", {"PATH": os.environ["PATH"]})
    try:
        settings = SmartOSSettings(
            host=server.url, identity_file=server.identity_file, known_hosts=server.known_hosts
        )
        async with await SSHGlobalZone.open(settings) as zone:
            yield zone
    finally:
        server.stop()


async def all_output(program: Program) -> dict[StreamId, bytes]:
    """Both streams to their end."""
    found = {StreamId.STDOUT: b"", StreamId.STDERR: b""}
    async with asyncio.timeout(DEADLINE_S):
        async for stream, data in program.output():
            found[stream] += data
    return found


async def read_until(program: Program, text: bytes) -> bytes:
    """Output up to where `text` is part of it."""
    found = b""
    async with asyncio.timeout(DEADLINE_S):
        async for _, data in program.output():
            found += data
            if text in found:
                return found
    raise AssertionError(f"{text!r} is not in {found!r}")


async def gone(pid: int) -> None:
    """Returns when there is no such process any more."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(descriptor, ended.set)
    try:
        async with asyncio.timeout(DEADLINE_S):
            await ended.wait()
    finally:
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)


# -- programs that are waited for ------------------------------------------------------------------


async def test_a_program_gets_its_input_and_gives_its_output(gz: GlobalZone) -> None:
    assert await gz.run(["tr", "a-z", "A-Z"], stdin=b"zone\n", timeout_s=DEADLINE_S) == b"ZONE\n"


async def test_five_megabytes_pass_both_ways_unchanged(gz: GlobalZone) -> None:
    data = os.urandom(5_000_001)
    assert await gz.run(["cat"], stdin=data, timeout_s=DEADLINE_S) == data


async def test_a_program_without_input_sees_its_end(gz: GlobalZone) -> None:
    assert await gz.run(["cat"], timeout_s=DEADLINE_S) == b""


async def test_arguments_arrive_as_they_were_given(gz: GlobalZone) -> None:
    arguments = ["", " ", "a b", "it's", '"', "$HOME", "`id`", "*", "\\", "\n", "-n", "ü", ";|&<>"]
    out = await gz.run(["printf", "%s\\0", *arguments], timeout_s=DEADLINE_S)
    assert out.decode().split("\0")[:-1] == arguments


async def test_variables_are_added_to_the_platforms(gz: GlobalZone) -> None:
    value = "it's $HOME\nand *"
    script = 'printf "%s|%s" "$TEST_VALUE" "$PATH"'
    out = await gz.run(["sh", "-c", script], env={"TEST_VALUE": value}, timeout_s=DEADLINE_S)
    shown, _, path = out.decode().rpartition("|")
    assert shown == value
    assert {"/usr/sbin", "/usr/img/sbin", "/opt/local/bin"} < set(path.split(":"))


async def test_a_failure_is_told_by_its_last_line(gz: GlobalZone) -> None:
    with pytest.raises(CommandFailed, match="sh: second") as caught:
        await gz.run(["sh", "-c", "echo first >&2; echo second >&2; exit 3"], timeout_s=DEADLINE_S)
    assert caught.value.exit_status == 3


@pytest.mark.parametrize("name", ["no-such-program", "/no/such/program"])
async def test_a_program_that_is_not_there_has_the_shells_code(gz: GlobalZone, name: str) -> None:
    with pytest.raises(CommandFailed, match=r"no-such-program|/no/such/program") as caught:
        await gz.run([name], timeout_s=DEADLINE_S)
    assert caught.value.exit_status == 127
    with pytest.raises(CommandFailed) as caught:
        await gz.spawn([name])
    assert caught.value.exit_status == 127


async def test_a_program_that_takes_too_long_is_killed(gz: GlobalZone, tmp_path: Path) -> None:
    script = f"echo $$ >{tmp_path}/pid; exec sleep 600"
    with pytest.raises(CommandFailed, match="no end within"):
        await gz.run(["sh", "-c", script], timeout_s=1.0)
    await gone(int((tmp_path / "pid").read_text()))


async def test_a_program_that_nobody_waits_for_is_killed(gz: GlobalZone, tmp_path: Path) -> None:
    fifo = tmp_path / "begun"
    os.mkfifo(fifo)
    script = f"echo $$ >{fifo}; exec sleep 600"
    async with asyncio.TaskGroup() as group:
        task = group.create_task(gz.run(["sh", "-c", script], timeout_s=DEADLINE_S))
        pid = int(await asyncio.to_thread(fifo.read_text))
        task.cancel()
    await gone(pid)


async def test_thirty_programs_run_side_by_side(gz: GlobalZone) -> None:
    programs = [await gz.spawn(["cat"], stdin=True) for _ in range(30)]
    for number, program in enumerate(programs):
        await program.write(f"{number}\n".encode())
        await program.close_input()
    for number, program in enumerate(programs):
        assert (await all_output(program))[StreamId.STDOUT] == f"{number}\n".encode()
        assert await program.wait() == 0
        await program.close()


async def test_more_programs_than_are_run_at_once_wait_for_their_turn(gz: GlobalZone) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(gz.run(["echo", str(number)], timeout_s=DEADLINE_S))
            for number in range(60)
        ]
    assert [int(task.result()) for task in tasks] == list(range(60))


# -- programs whose streams come as they are -------------------------------------------------------


async def test_both_streams_arrive_apart(gz: GlobalZone) -> None:
    program = await gz.spawn(["sh", "-c", "echo out; echo err >&2; exit 5"])
    assert await all_output(program) == {StreamId.STDOUT: b"out\n", StreamId.STDERR: b"err\n"}
    assert await program.wait() == 5
    await program.close()


async def test_input_can_end_before_output_does(gz: GlobalZone) -> None:
    program = await gz.spawn(["sh", "-c", "wc -c; echo after"], stdin=True)
    await program.write(b"12345")
    await program.close_input()
    out = (await all_output(program))[StreamId.STDOUT]
    assert out.split() == [b"5", b"after"]
    await program.close()


async def test_streams_carry_megabytes_in_both_directions_at_once(gz: GlobalZone) -> None:
    data = os.urandom(5_000_000)
    program = await gz.spawn(["cat"], stdin=True)

    async def feed() -> None:
        await program.write(data)
        await program.close_input()

    async with asyncio.TaskGroup() as group:
        group.create_task(feed())
        out = (await all_output(program))[StreamId.STDOUT]
    assert out == data
    await program.close()


async def test_a_program_waits_for_a_reader_who_is_slow(gz: GlobalZone, tmp_path: Path) -> None:
    done = tmp_path / "done"
    script = f"head -c 30000000 /dev/zero; : >{done}"
    program = await gz.spawn(["sh", "-c", script])
    output = program.output()
    size = len((await anext(output))[1])
    assert not done.exists()
    async with asyncio.timeout(DEADLINE_S):
        async for _, data in output:
            size += len(data)
    assert size == 30_000_000
    assert done.exists()
    await program.close()


async def test_input_that_nobody_reads_is_dropped(gz: GlobalZone) -> None:
    program = await gz.spawn(["true"], stdin=True)
    assert await program.wait() == 0
    async with asyncio.timeout(DEADLINE_S):
        await program.write(b"x" * 3_000_000)
        await program.close_input()
    await program.close()


async def test_a_signal_shows_as_its_negative_number(gz: GlobalZone) -> None:
    program = await gz.spawn(["sleep", "600"])
    await program.kill("SIGTERM")
    async with asyncio.timeout(DEADLINE_S):
        assert await program.wait() == -15
        assert await program.wait() == -15
    await program.kill()
    await program.close()


async def test_closing_ends_a_program_and_its_output(gz: GlobalZone) -> None:
    program = await gz.spawn(["sh", "-c", "trap '' HUP TERM; echo $$; while :; do sleep 1; done"])
    output = program.output()
    pid = int((await anext(output))[1])
    await program.close()
    await program.close()
    assert [chunk async for chunk in output] == []
    await gone(pid)


async def test_output_ends_with_the_last_who_holds_it(gz: GlobalZone) -> None:
    script = "exec 3<&0; (read line <&3; echo late) & echo early"
    program = await gz.spawn(["sh", "-c", script], stdin=True)
    assert await program.wait() == 0
    await program.write(b"go\n")
    assert (await all_output(program))[StreamId.STDOUT] == b"early\nlate\n"
    await program.close()


async def test_programs_end_with_their_global_zone(gz: GlobalZone) -> None:
    program = await gz.spawn(["sh", "-c", "echo $$; exec sleep 600"])
    pid = int(await read_until(program, b"\n"))
    await gz.close()
    await gone(pid)


# -- terminals -------------------------------------------------------------------------------------


async def test_a_terminal_has_the_size_asked_for(gz: GlobalZone) -> None:
    program = await gz.spawn(["stty", "size"], terminal=(33, 111))
    assert program.tty
    assert await read_until(program, b"\n") == b"33 111\r\n"
    assert await program.wait() == 0
    await program.close()


async def test_a_terminal_can_be_resized(gz: GlobalZone) -> None:
    script = "trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.05; done"
    program = await gz.spawn(["sh", "-c", script], terminal=(24, 80))
    await read_until(program, b"ready")
    await program.resize(50, 132)
    assert b"50 132" in await read_until(program, b"50 132")
    assert await program.wait() == 0
    await program.close()


async def test_a_terminal_controls_its_program(gz: GlobalZone) -> None:
    program = await gz.spawn(["sh", "-c", "echo ready; exec sleep 600"], terminal=(24, 80))
    await read_until(program, b"ready")
    await program.write(b"\x03")
    async with asyncio.timeout(DEADLINE_S):
        assert await program.wait() == -2
    await program.close()


async def test_closing_ends_a_program_on_a_terminal(gz: GlobalZone) -> None:
    script = "trap '' HUP TERM INT; echo $$; while :; do sleep 1; done"
    program = await gz.spawn(["sh", "-c", script], terminal=(24, 80))
    pid = int(await read_until(program, b"\n"))
    await program.close()
    await gone(pid)


# -- files -----------------------------------------------------------------------------------------


async def test_a_file_is_read_in_whole_and_in_part(gz: GlobalZone, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    assert await gz.read(str(path)) == b"0123456789"
    assert await gz.read(str(path), offset=3, size=4) == b"3456"
    assert await gz.read(str(path), offset=8, size=10) == b"89"
    assert await gz.read(str(path), offset=20) == b""


async def test_a_regular_file_is_read_and_nothing_else(gz: GlobalZone, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    assert await gz.read(str(path), regular_only=True) == b"0123456789"
    assert await gz.read(str(path), offset=3, size=4, regular_only=True) == b"3456"
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(path)
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
    async with asyncio.timeout(DEADLINE_S):
        for name in ("fifo", "link", "folder", "socket", "missing"):
            with pytest.raises(NotFound):
                await gz.read(str(tmp_path / name), regular_only=True)
    assert await gz.read(str(tmp_path / "link")) == b"0123456789"


async def test_a_lock_is_one_tasks_at_a_time(gz: GlobalZone, tmp_path: Path) -> None:
    inside = 0

    async def once() -> None:
        nonlocal inside
        async with gz.locked(str(tmp_path / "lockfile")):
            inside += 1
            assert inside == 1
            await asyncio.sleep(0)
            inside -= 1

    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(once())


async def test_what_is_not_there_is_not_found(gz: GlobalZone, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    with pytest.raises(NotFound, match=missing):
        await gz.read(missing)
    with pytest.raises(NotFound, match=missing):
        await gz.names(missing)
    with pytest.raises(NotFound):
        await gz.write(f"{missing}/file", b"")
    assert await gz.status(missing) is None
    await gz.remove(missing)


async def test_a_file_is_replaced_at_once_with_its_mode(gz: GlobalZone, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with path.open("rb") as before:
        await gz.write(str(path), b"new" * 1000, mode=0o664)
        assert before.read() == b"old"
    assert path.read_bytes() == b"new" * 1000
    assert stat.S_IMODE(path.stat().st_mode) == 0o664
    await gz.write(str(path), b"")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "file" in await gz.names(str(tmp_path))
    assert not [name for name in await gz.names(str(tmp_path)) if name.startswith("file.")]


async def test_a_write_that_fails_leaves_nothing(gz: GlobalZone, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "target").mkdir(parents=True)
    with pytest.raises(Exception, match="target"):
        await gz.write(str(folder / "target"), b"data")
    assert await gz.names(str(folder)) == ["target"]


async def test_an_upload_is_a_copy_that_replaces_nothing(gz: GlobalZone, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    data = os.urandom(9_000_001)
    source.write_bytes(data)
    await gz.upload(source, str(target))
    assert target.read_bytes() == data
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    with pytest.raises(Conflict):
        await gz.upload(source, str(target))
    with pytest.raises(NotFound):
        await gz.upload(source, str(tmp_path / "no" / "target"))


async def test_an_upload_that_fails_leaves_nothing(gz: GlobalZone, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="missing"):
        await gz.upload(tmp_path / "missing", str(tmp_path / "target"))
    assert not (tmp_path / "target").exists()


async def test_status_does_not_follow_links(gz: GlobalZone, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    path.chmod(0o640)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    (tmp_path / "link").symlink_to("file")
    found = await gz.status(str(path))
    assert found is not None
    assert (found.size, found.mode) == (5, stat.S_IFREG | 0o640)
    assert found.mtime_ns == 1_700_000_000 * 10**9
    link = await gz.status(str(tmp_path / "link"))
    assert link is not None
    assert stat.S_ISLNK(link.mode)
    assert link.link == "file"
    folder = await gz.status(str(tmp_path))
    assert folder is not None
    assert stat.S_ISDIR(folder.mode)


async def test_folders_are_made_with_their_parents(gz: GlobalZone, tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c"
    await gz.make_folder(str(path))
    await gz.make_folder(str(path))
    (path / "file").touch()
    assert await gz.names(str(path)) == ["file"]
    await gz.remove(str(path / "file"))
    assert await gz.names(str(path)) == []
    (path / "file").touch()
    with pytest.raises(Conflict):
        await gz.make_folder(str(path / "file"))


# -- addresses -------------------------------------------------------------------------------------


async def test_addresses_are_reached_as_from_the_global_zone(gz: GlobalZone) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read()).upper())
        await writer.drain()
        writer.close()

    data = b"x" * 3_000_000
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, asyncio.timeout(DEADLINE_S):
        reader, writer = await gz.connect("127.0.0.1", server.sockets[0].getsockname()[1])
        writer.write(data)
        await writer.drain()
        writer.write_eof()
        assert await reader.read() == data.upper()
        writer.close()
        await writer.wait_closed()


async def test_a_port_without_a_listener_is_an_error_of_the_system(gz: GlobalZone) -> None:
    with pytest.raises(OSError, match=r"(?i)refused|connect"):
        await gz.connect("127.0.0.1", 1)
