"""Numbers of users and groups that an image does not know."""

from __future__ import annotations

from pathlib import Path

import pytest

from dockerapi.errors import InvalidParameter, StartFailure
from gateway.hosts.smartos.accounts import check_names, make_known, with_entries
from gateway.hosts.smartos.local import LocalGlobalZone

PASSWD = b"root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n"
GROUP = b"root:x:0:\nweb:x:34:"


@pytest.mark.parametrize(
    "user", ["", "0", "root", "web", "33", "33:34", "web:web", "nobody:nogroup"]
)
def test_what_is_known_or_a_name_needs_no_entry(user: str) -> None:
    assert with_entries(PASSWD, GROUP, user) == (PASSWD, GROUP)


@pytest.mark.parametrize(
    ("user", "passwd", "group"),
    [
        ("1000", b"1000:x:1000:0::/:/bin/sh\n", None),
        ("1000:2000", b"1000:x:1000:2000::/:/bin/sh\n", b"\n2000:x:2000:\n"),
        ("web:2000", None, b"\n2000:x:2000:\n"),
        ("01000:web", b"1000:x:1000:0::/:/bin/sh\n", None),
    ],
)
def test_an_unknown_number_gets_an_entry_named_by_itself(
    user: str, passwd: bytes | None, group: bytes | None
) -> None:
    found = with_entries(PASSWD, GROUP, user)
    assert found == (PASSWD + (passwd or b""), GROUP + (group or b""))
    assert with_entries(*found, user) == found


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
