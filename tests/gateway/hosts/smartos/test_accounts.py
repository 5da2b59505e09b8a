"""Numbers of users and groups that an image does not know."""

from __future__ import annotations

from pathlib import Path

import pytest

from dockerapi.errors import InvalidParameter, StartFailure
from gateway.hosts.linux.users import identify
from gateway.hosts.smartos.accounts import check_names, make_known, with_entries
from gateway.hosts.smartos.local import LocalGlobalZone
from gateway.zones.metadata import DockerMetadata
from gateway.zones.spec import Filesystem
from tests.fakes.globalzone import dockerinit

PASSWD = b"root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n"
GROUP = b"root:x:0:\nweb:x:34:"


@pytest.mark.parametrize("user", ["", "0", "00:0", "root", "web", "web:web", "nobody:nogroup"])
def test_what_is_known_or_a_name_needs_no_entry(user: str) -> None:
    assert with_entries(PASSWD, GROUP, user) == (PASSWD, GROUP)


@pytest.mark.parametrize(
    ("user", "passwd", "group"),
    [
        ("1000", b"1000:x:1000:0::/:/bin/sh\n", None),
        ("1000:2000", b"1000:x:1000:2000::/:/bin/sh\n", b"\n2000:x:2000:\n"),
        ("web:2000", None, b"\n2000:x:2000:\n"),
        ("01000:web", b"01000:x:1000:0::/:/bin/sh\n", None),
        # Another name has the number: its group and home are kept, whichever of the two is found.
        ("33", b"33:x:33:34::/srv:/bin/sh\n", None),
        ("33:34", b"33:x:33:34::/srv:/bin/sh\n", b"\n34:x:34:\n"),
    ],
)
def test_an_unknown_number_gets_an_entry_named_by_itself(
    user: str, passwd: bytes | None, group: bytes | None
) -> None:
    found = with_entries(PASSWD, GROUP, user)
    assert found == (PASSWD + (passwd or b""), GROUP + (group or b""))
    assert with_entries(*found, user) == found


@pytest.mark.parametrize("user", ["1000", "1000:5", "33", "33:34", "web:34", "7:33"])
@pytest.mark.parametrize("by_name", [False, True])
def test_both_readings_of_a_number_find_the_entry(
    tmp_path: Path, user: str, *, by_name: bool
) -> None:
    (tmp_path / "etc").mkdir()
    found = with_entries(PASSWD, GROUP, user)
    for name, content in zip(("passwd", "group"), found, strict=True):
        (tmp_path / "etc" / name).write_bytes(content)
    (tmp_path / "true").write_bytes(b"\x7fELF")
    (tmp_path / "true").chmod(0o755)
    metadata = DockerMetadata(id="0" * 64, user=user, cmd=("/true",))
    ready = dockerinit.check(tmp_path, metadata, by_name=by_name)
    assert isinstance(ready, dockerinit.Ready)
    who = identify(ready.user, (), *found)
    wanted, _, group = user.partition(":")
    assert who.uid == int(wanted if wanted != "web" else 33)
    assert who.gid == int(group or (34 if wanted == "33" else 0))


@pytest.mark.parametrize("user", ["1000", "web:1000"])
def test_a_number_that_names_another_is_refused(user: str) -> None:
    with pytest.raises(InvalidParameter, match="for another number"):
        with_entries(PASSWD + b"1000:x:0:0::/:/bin/sh\n", GROUP + b"\n1000:x:0:", user)


@pytest.mark.parametrize("user", ["4294967296", "web:2147483648"])
def test_a_number_that_would_wrap_around_to_root_is_refused(user: str) -> None:
    with pytest.raises(InvalidParameter, match="must be in range 0-2147483647"):
        with_entries(PASSWD, GROUP, user)


@pytest.mark.parametrize("target", ["/etc", "/etc/passwd", "/etc/group", "/", "//etc/./", "/link"])
async def test_nothing_is_written_below_what_is_mounted_over_the_files(
    tmp_path: Path, target: str
) -> None:
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "root/link").symlink_to("/etc")
    (tmp_path / "root/etc/passwd").write_bytes(PASSWD)
    (tmp_path / "root/etc/group").write_bytes(GROUP)
    over = [Filesystem(source=str(tmp_path / "source"), target=target)]
    gz = LocalGlobalZone()
    for user in ("1000:2000", "33:34"):
        with pytest.raises(InvalidParameter, match="mounted over the container's /etc/"):
            await make_known(gz, str(tmp_path), user, over)
    assert (tmp_path / "root/etc/passwd").read_bytes() == PASSWD
    assert (tmp_path / "root/etc/group").read_bytes() == GROUP
    await make_known(gz, str(tmp_path), "root", over)
    elsewhere = [Filesystem(source=str(tmp_path / "source"), target="/etc/app")]
    await make_known(gz, str(tmp_path), "1000:2000", elsewhere)
    assert b"\n1000:x:1000:2000:" in (tmp_path / "root/etc/passwd").read_bytes()
    await gz.close()


async def test_what_is_mounted_over_the_files_may_have_the_entries(tmp_path: Path) -> None:
    (tmp_path / "root/etc").mkdir(parents=True)
    uuid = "1f1b6d3e-5f3c-4f44-8a52-0b6a3c9b7f10"
    volume = tmp_path / "volumes" / uuid
    volume.mkdir(parents=True)
    (volume / "passwd").write_bytes(PASSWD + b"1000:x:1000:0::/:/bin/sh\n")
    (volume / "group").write_bytes(GROUP)
    over = [Filesystem(source=uuid, target="/etc")]
    gz = LocalGlobalZone()
    await make_known(gz, str(tmp_path), "1000:web", over)
    await make_known(gz, str(tmp_path), "web", over)
    for user, error in (("1001", InvalidParameter), ("nobody", StartFailure)):
        with pytest.raises(error, match=f"unable to find user {user}"):
            await make_known(gz, str(tmp_path), user, over)
    (volume / "group").unlink()
    (volume / "group").symlink_to("/etc/group")
    with pytest.raises(InvalidParameter, match="/etc/group"):
        await make_known(gz, str(tmp_path), "web", over)
    assert not list((tmp_path / "root/etc").iterdir())
    await gz.close()


async def test_an_image_without_files_gets_them(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    gz = LocalGlobalZone()
    await make_known(gz, str(tmp_path), "root:root")
    assert not (tmp_path / "root/etc").exists()
    await make_known(gz, str(tmp_path), "1000:2000")
    assert (tmp_path / "root/etc/passwd").read_text() == "1000:x:1000:2000::/:/bin/sh\n"
    assert (tmp_path / "root/etc/group").read_text() == "2000:x:2000:\n"
    await gz.close()


@pytest.mark.parametrize("link", ["etc", "etc/passwd"])
async def test_a_link_of_the_image_leads_to_no_file_of_the_machine(
    tmp_path: Path, link: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "passwd").write_text("theirs\n")
    path = tmp_path / "zone/root" / link
    path.parent.mkdir(parents=True)
    path.symlink_to(outside if link == "etc" else outside / "passwd")
    gz = LocalGlobalZone()
    with pytest.raises(InvalidParameter, match="SmartOS would run it as root"):
        await make_known(gz, str(tmp_path / "zone"), "1000")
    assert (outside / "passwd").read_text() == "theirs\n"
    await gz.close()


@pytest.mark.parametrize("user", ["", "root", "web", "web:root", "1000:2000", "web:2000", "0:web"])
def test_names_that_are_there_and_numbers_are_fine(user: str) -> None:
    check_names(PASSWD, GROUP, user)


@pytest.mark.parametrize("user", ["nobody", "+1000", " 1000", "-5", "0x3e8", "we", "\u0661"])
async def test_a_name_that_is_not_there_would_be_root_and_is_refused(
    tmp_path: Path, user: str
) -> None:
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "root/etc/passwd").write_bytes(PASSWD)
    gz = LocalGlobalZone()
    with pytest.raises(StartFailure, match="no matching entries in passwd file"):
        await make_known(gz, str(tmp_path), user)
    with pytest.raises(StartFailure, match="no matching entries in group file"):
        await make_known(gz, str(tmp_path), f"web:{user}")
    assert (tmp_path / "root/etc/passwd").read_bytes() == PASSWD
    await gz.close()
