"""`docker exec` by zlogin: dockerexec, the wrapper, su; real processes in zones of the fake global zone."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from dockerapi.errors import InvalidParameter, NotSupported, StartFailure
from dockerapi.framing import StreamId
from gateway.hosts.smartos import execs
from gateway.hosts.smartos.execs import Exec, Preamble
from gateway.hosts.smartos.globalzone import GlobalZone
from gateway.hosts.smartos.local import LocalGlobalZone
from gateway.zones.host import Process, Zone
from tests.gateway.hosts.smartos.streamslab import (
    BARE,
    DEADLINE_S,
    LINKED,
    WITH_SU,
    Lab,
    Reading,
    everything,
    exec_of,
    far,
    far_gz,
    gz,
    lab,
)

__all__ = ["far", "far_gz", "gz", "lab"]

root = pytest.mark.root
IDLE = ("sleep", "600")
SIZE = "until stty size 2>/dev/null; do :; done"
"""The Linux host behind the fake sets a terminal's size a moment after the start."""


async def run(
    lab: Lab, gz: GlobalZone, zone: Zone, process: Process, stdin: bytes | None = None
) -> tuple[dict[StreamId, bytes], int]:
    """Both streams and the code of an exec that ends by itself."""
    try:
        async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
            started: Exec = await execs.exec(gz, zone, process, group=group, root=lab.root)
            assert started.stdio is not None
            if stdin is not None:
                await started.stdio.write(stdin)
                await started.stdio.close_input()
            output = await everything(started.stdio)
            return output, await started.wait()
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


@pytest.fixture(params=["", WITH_SU, LINKED], ids=["no su", "su", "su by an absolute link"])
async def zone(request: pytest.FixtureRequest, lab: Lab) -> Zone:
    more: dict[str, Any] = {"image": request.param} if request.param else {}
    return await lab.run(*IDLE, env=["A=zone", "B=with blank"], workdir="/data", user="web", **more)


@root
async def test_output_and_code_are_the_commands_own(
    lab: Lab, gz: LocalGlobalZone, zone: Zone
) -> None:
    output, code = await run(lab, gz, zone, exec_of("sh", "-c", "echo out; echo err >&2; exit 3"))
    assert output == {StreamId.STDOUT: b"out\n", StreamId.STDERR: b"err\n"}
    assert code == 3


@root
async def test_arguments_arrive_as_they_were_given(
    lab: Lab, gz: LocalGlobalZone, zone: Zone
) -> None:
    words = ["", "a b", "it's", '"', "$HOME", "`id`", "*", "\\", "a\nb", "~", "ü", ";|&<>", "\t"]
    script = 'for a; do echo "<$a>"; done'
    output, _ = await run(lab, gz, zone, exec_of("sh", "-c", script, "sh", *words))
    assert output[StreamId.STDOUT].decode() == "".join(f"<{word}>\n" for word in words)


@root
async def test_user_folder_and_environment_are_the_zones(
    lab: Lab, gz: LocalGlobalZone, zone: Zone
) -> None:
    output, _ = await run(
        lab,
        gz,
        zone,
        exec_of("sh", "-c", "id -u; id -g; id -G; pwd; echo $A, $B, $HOME, $HOSTNAME"),
    )
    assert output[StreamId.STDOUT] == b"33\n34\n34 50\n/data\nzone, with blank, /srv, lab\n"


@root
async def test_an_exec_has_environment_and_folder_of_its_own(
    lab: Lab, gz: LocalGlobalZone, zone: Zone
) -> None:
    process = exec_of(
        "sh", "-c", "id -u; pwd; echo $A, $B, $C", env=("A=it's mine", "C=$new"), workdir="/tmp"
    )
    output, _ = await run(lab, gz, zone, process)
    assert output == {
        StreamId.STDOUT: b"33\n/tmp\nit's mine, with blank, $new\n",
        StreamId.STDERR: b"",
    }


@root
async def test_an_exec_as_root_leaves_the_zones_user(
    lab: Lab, gz: LocalGlobalZone, zone: Zone
) -> None:
    process = exec_of("sh", "-c", "id -u; pwd; echo $A, $HOME", user="root")
    output, _ = await run(lab, gz, zone, process)
    assert output == {StreamId.STDOUT: b"0\n/data\nzone, /root\n", StreamId.STDERR: b""}


@root
async def test_bash_adds_hardly_anything_to_the_environment(
    lab: Lab, gz: LocalGlobalZone, zone: Zone
) -> None:
    plain, _ = await run(lab, gz, zone, exec_of("env"))
    wrapped, _ = await run(lab, gz, zone, exec_of("env", env=("NEW=1",)))
    before = set(plain[StreamId.STDOUT].split(b"\n"))
    after = set(wrapped[StreamId.STDOUT].split(b"\n"))
    added = {line for line in after - before if not line.startswith((b"_=", b"SHLVL="))}
    assert added == {b"NEW=1"}


@root
async def test_standard_input_reaches_the_command_with_its_end(
    lab: Lab, gz: LocalGlobalZone, zone: Zone
) -> None:
    data = os.urandom(300_000)
    output, code = await run(lab, gz, zone, exec_of("cat", attach_stdin=True), stdin=data)
    assert output[StreamId.STDOUT] == data
    assert code == 0


@root
async def test_another_user_of_the_zone_is_reached_by_its_su(lab: Lab, gz: LocalGlobalZone) -> None:
    zone = await lab.run(*IDLE, image=WITH_SU, env=["A=it's"])
    process = exec_of("sh", "-c", "id -u; id -G; echo $A, $B, $HOME", user="web", env=("B=2 3",))
    output, code = await run(lab, gz, zone, process)
    assert output == {StreamId.STDOUT: b"33\n34 50\nit's, 2 3, /srv\n", StreamId.STDERR: b""}
    assert code == 0
    by_number, _ = await run(lab, gz, zone, exec_of("id", "-u", user="33:web"))
    assert by_number[StreamId.STDOUT] == b"33\n"


@root
async def test_a_number_without_an_entry_gets_one(lab: Lab, gz: LocalGlobalZone) -> None:
    zone = await lab.run(*IDLE, image=WITH_SU)
    for user, shown in (("4711", b"4711\n0\n"), ("4712:34", b"4712\n34\n"), ("4711", b"4711\n0\n")):
        output, code = await run(lab, gz, zone, exec_of("sh", "-c", "id -u; id -g", user=user))
        assert (output, code) == ({StreamId.STDOUT: shown, StreamId.STDERR: b""}, 0)
    listed, _ = await run(lab, gz, zone, exec_of("grep", "-c", "^471", "/etc/passwd", user="root"))
    assert listed[StreamId.STDOUT] == b"2\n"


@root
async def test_a_link_of_the_container_leads_no_entry_out_of_it(
    lab: Lab, gz: LocalGlobalZone, tmp_path: Path
) -> None:
    zone = await lab.run(*IDLE, image=WITH_SU)
    outside = tmp_path / "passwd"
    outside.write_text("")
    script = f"ln -sf {outside} /etc/passwd"
    await run(lab, gz, zone, exec_of("sh", "-c", script, user="root"))
    with pytest.raises(NotSupported, match="none can be made"):
        await run(lab, gz, zone, exec_of("id", user="4713"))
    assert outside.read_text() == ""


@root
async def test_names_are_those_of_what_is_mounted_over_the_files(
    lab: Lab, gz: LocalGlobalZone, tmp_path: Path
) -> None:
    (tmp_path / "passwd").write_text("root:x:0:0::/root:/bin/sh\nguest:x:4714:4715::/srv:/bin/sh\n")
    mounted = [{"source": f"{tmp_path}/passwd", "target": "/etc/passwd", "type": "lofs"}]
    zone = await lab.run(*IDLE, image=WITH_SU, filesystems=mounted)
    output, _ = await run(lab, gz, zone, exec_of("id", "-u", user="guest"))
    assert output[StreamId.STDOUT] == b"4714\n"
    with pytest.raises(InvalidParameter, match="unable to find user web"):
        await run(lab, gz, zone, exec_of("id", user="web"))


@root
@pytest.mark.parametrize(
    ("user", "error", "words"),
    [
        ("web", NotSupported, "needs the program su"),
        ("77", NotSupported, "needs the program su"),
        ("nobody", InvalidParameter, "unable to find user nobody: no matching entries"),
        ("web:none", InvalidParameter, "unable to find group none: no matching entries"),
        ("web:root", NotSupported, "no other group"),
    ],
)
async def test_users_that_cannot_be_had_are_refused(
    lab: Lab, gz: LocalGlobalZone, user: str, error: type[Exception], words: str
) -> None:
    zone = await lab.run(*IDLE)
    with pytest.raises(error, match=words):
        await run(lab, gz, zone, exec_of("id", user=user))


@root
async def test_a_privileged_exec_is_refused(lab: Lab, gz: LocalGlobalZone) -> None:
    zone = await lab.run(*IDLE)
    with pytest.raises(NotSupported, match="privileged exec"):
        await run(lab, gz, zone, exec_of("id", privileged=True))


@root
async def test_an_image_without_a_shell_takes_commands_all_the_same(
    lab: Lab, gz: LocalGlobalZone
) -> None:
    zone = await lab.run("/busybox", "sleep", "600", image=BARE)
    plain, _ = await run(lab, gz, zone, exec_of("/busybox", "echo", "a  b"))
    assert plain[StreamId.STDOUT] == b"a  b\n"
    script = "echo $X; pwd"
    process = exec_of("/busybox", "sh", "-c", script, env=("X=a b",), workdir="/proc")
    output, _ = await run(lab, gz, zone, process)
    assert output == {StreamId.STDOUT: b"a b\n/proc\n", StreamId.STDERR: b""}


@root
@pytest.mark.parametrize("more", [{}, {"env": ("A=1",)}], ids=["dockerexec", "wrapper"])
@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["nothing"], 127, r'exec: "nothing": executable file not found in \$PATH'),
        (["/no/such"], 127, 'exec: "/no/such": stat /no/such: no such file or directory'),
        (["/etc"], 126, 'exec: "/etc": is a directory: permission denied'),
        (["/etc/passwd"], 126, 'exec: "/etc/passwd": permission denied'),
    ],
)
async def test_what_cannot_be_started_is_told_in_dockerds_words(
    lab: Lab, gz: LocalGlobalZone, argv: list[str], code: int, words: str, more: dict[str, Any]
) -> None:
    zone = await lab.run(*IDLE)
    with pytest.raises(StartFailure, match=f"^OCI runtime exec failed: .*{words}$") as caught:
        await run(lab, gz, zone, exec_of(*argv, **more))
    assert caught.value.exit_code == code


@root
async def test_a_folder_that_is_not_there_is_told(lab: Lab, gz: LocalGlobalZone) -> None:
    zone = await lab.run(*IDLE)
    words = r'chdir to cwd \("/none"\) set in config.json failed: no such file or directory'
    with pytest.raises(StartFailure, match=words):
        await run(lab, gz, zone, exec_of("true", workdir="/none"))


@root
async def test_a_terminal_has_a_size_that_changes(
    lab: Lab, gz: LocalGlobalZone, zone: Zone
) -> None:
    process = exec_of("sh", tty=True, attach_stdin=True, console_size=(40, 100))
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        started = await execs.exec(gz, zone, process, group=group, root=lab.root)
        assert started.stdio is not None
        assert started.stdio.tty
        reading = Reading(started.stdio, group)
        for height, width in ((40, 100), (24, 77)):
            await started.stdio.resize(height, width)
            size = b"%d %d" % (height, width)
            await started.stdio.write(b"until stty size | grep '%b'; do :; done\n" % size)
            await reading.until(size + b"\r\n")
        await started.stdio.write(b"~ hello; exit 7\n")
        assert b"EXEC" not in await reading.end()
        assert b"~ hello" in reading.data
        assert await started.wait() == 7


@root
async def test_an_exec_outlives_its_client(lab: Lab, gz: LocalGlobalZone) -> None:
    zone = await lab.run(*IDLE)
    script = "yes | head -c 2000000; echo done >/tmp/done; cat /tmp/fifo"
    fifo = lab.zonepath(zone) / "root/tmp/fifo"
    os.mkfifo(fifo)
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        started = await execs.exec(
            gz, zone, exec_of("sh", "-c", script), group=group, root=lab.root
        )
        assert started.stdio is not None
        await started.stdio.close()
        await asyncio.to_thread(fifo.write_text, "go")
        assert await started.wait() == 0
    assert (lab.zonepath(zone) / "root/tmp/done").read_text() == "done\n"


@root
async def test_a_detached_exec_has_no_streams(lab: Lab, gz: LocalGlobalZone) -> None:
    zone = await lab.run(*IDLE)
    process = exec_of("sh", "-c", "echo x; exit 4", attach_stdout=False, attach_stderr=False)
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        started = await execs.exec(gz, zone, process, group=group, root=lab.root)
        assert started.stdio is None
        assert await started.wait() == 4


@root
async def test_only_the_streams_that_were_asked_for_are_shown(
    lab: Lab, gz: LocalGlobalZone
) -> None:
    zone = await lab.run(*IDLE)
    process = exec_of("sh", "-c", "echo out; echo err >&2", attach_stderr=False)
    output, _ = await run(lab, gz, zone, process)
    assert output == {StreamId.STDOUT: b"out\n", StreamId.STDERR: b""}


@root
async def test_an_exec_in_a_stopped_zone_is_told(lab: Lab, gz: LocalGlobalZone) -> None:
    zone = await asyncio.to_thread(lab.zone, *IDLE)
    with pytest.raises(StartFailure, match="login allowed only to running zones"):
        await run(lab, gz, zone, exec_of("true"))


@root
@pytest.mark.parametrize("brand", ["joyent", "lx"])
async def test_full_zones_have_no_dockerexec_and_need_none(
    lab: Lab, gz: LocalGlobalZone, brand: str
) -> None:
    zone = await asyncio.to_thread(lab.full_zone, brand, WITH_SU)
    await asyncio.to_thread(lab.start, zone)
    process = exec_of("sh", "-c", "id -u; pwd; echo $A; exit 3", env=("A=it's",), workdir="/tmp")
    output, code = await run(lab, gz, zone, process)
    assert output[StreamId.STDOUT] == b"0\n/tmp\nit's\n"
    assert code == 3
    output, _ = await run(lab, gz, zone, exec_of("sh", "-c", "id -u; pwd", user="web"))
    assert output[StreamId.STDOUT].startswith(b"33\n")
    with pytest.raises(StartFailure, match="executable file not found"):
        await run(lab, gz, zone, exec_of("nothing"))
    size = exec_of("sh", "-c", SIZE, tty=True, console_size=(33, 44))
    output, _ = await run(lab, gz, zone, size)
    assert output[StreamId.STDOUT] == b"33 44\r\n"


@root
async def test_an_exec_on_another_machine_is_the_same(lab: Lab, far_gz: GlobalZone) -> None:
    zone = await lab.run(*IDLE, image=WITH_SU, env=["A=it's"])
    data = os.urandom(300_000)
    output, code = await run(lab, far_gz, zone, exec_of("cat", attach_stdin=True), stdin=data)
    assert (output[StreamId.STDOUT], code) == (data, 0)
    process = exec_of("sh", "-c", "echo $A $B; pwd; exit 3", env=("B=$x",), workdir="/tmp")
    output, code = await run(lab, far_gz, zone, process)
    assert (output[StreamId.STDOUT], code) == (b"it's $x\n/tmp\n", 3)
    with pytest.raises(StartFailure, match="executable file not found"):
        await run(lab, far_gz, zone, exec_of("nothing"))
    process = exec_of("sh", "-c", f"{SIZE}; exit 5", tty=True, console_size=(33, 44))
    output, code = await run(lab, far_gz, zone, process)
    assert (output[StreamId.STDOUT], code) == (b"33 44\r\n", 5)


# -- the lines before the command's own -----------------------------------------------------------


LINES = (
    b"2026-01-01T00:00:00.000Z MDATA docker:env=[]\n"
    b"zlogin: Could not chdir to home directory /root: No such file or directory\n"
    b"2026-01-01T00:00:00.000Z ENV[0] A=first\nsecond\n"
    b"2026-01-01T00:00:00.000Z EXEC\n"
)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_lines_of_dockerexec_are_taken_out_wherever_they_are_cut(size: int) -> None:
    preamble = Preamble(1)
    data = LINES + b"2026-01-01T00:00:00.000Z EXEC\nown\n"
    own = b"".join(preamble.feed(data[i : i + size]) for i in range(0, len(data), size))
    assert own == b"2026-01-01T00:00:00.000Z EXEC\nown\n"
    assert preamble.said == LINES


def test_two_stages_are_taken_out_and_the_pid_is_known() -> None:
    preamble = Preamble(2)
    own = preamble.feed(LINES + b"1970-01-01T00:00:00.000Z EXEC 4711\r\nown")
    assert own == b"own"
    assert preamble.over
    assert preamble.pid == 4711


def test_a_failure_is_code_and_text() -> None:
    preamble = Preamble(1)
    assert (
        preamble.feed(b"2026-01-01T00:00:00.000Z FATAL (code: 17): 'x' not found in PATH\n") == b""
    )
    assert preamble.failure == (17, "'x' not found in PATH")
    assert not preamble.over
