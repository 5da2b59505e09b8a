import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerapi.errors import InvalidParameter
from gateway.hosts.linux.users import Identity, identify, resolve

PASSWD = b"""root:x:0:0:root:/root:/bin/sh
# a comment
daemon:x:1:1:daemon:/usr/sbin:/bin/false
app:x:1000:1001::/home/app:/bin/sh
homeless:x:7:7
broken:x:what:ever::/:
"""
GROUP = b"""root:x:0:
wheel:x:10:root,app
audio:x:29:app
app:x:1001:
"""


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", Identity(0, 0, (0, 10), "/root", "root")),
        ("root", Identity(0, 0, (0, 10), "/root", "root")),
        ("app", Identity(1000, 1001, (1001, 10, 29), "/home/app", "app")),
        ("1000", Identity(1000, 1001, (1001, 10, 29), "/home/app", "app")),
        ("app:audio", Identity(1000, 29, (29,), "/home/app", "app")),
        ("app:4000", Identity(1000, 4000, (4000,), "/home/app", "app")),
        ("5000", Identity(5000, 0, (0,), "/", "")),
        ("5000:6000", Identity(5000, 6000, (6000,), "/", "")),
        ("homeless", Identity(7, 7, (7,), "/", "homeless")),
        (":audio", Identity(0, 29, (29,), "/root", "root")),
    ],
)
def test_a_user_is_found_as_dockerd_finds_it(user, expected):
    assert identify(user, (), PASSWD, GROUP) == expected


def test_added_groups_come_after_the_users_own():
    assert identify("app", ("root", "77"), PASSWD, GROUP).additional_gids == (1001, 10, 29, 0, 77)


@pytest.mark.parametrize(
    ("user", "groups", "message"),
    [
        ("nobody", (), "unable to find user nobody: no matching entries in passwd file"),
        ("app:none", (), "unable to find group none: no matching entries in group file"),
        ("", ("none",), "unable to find group none: no matching entries in group file"),
        ("2147483648", (), "uids and gids must be in range 0-2147483647"),
        ("-1", (), "uids and gids must be in range 0-2147483647"),
        ("0:4294967295", (), "uids and gids must be in range 0-2147483647"),
    ],
)
def test_the_complaints_are_dockerds(user, groups, message):
    with pytest.raises(InvalidParameter) as caught:
        identify(user, groups, PASSWD, GROUP)
    assert caught.value.message == message


def test_numbers_need_no_files(tmp_path):
    assert resolve(tmp_path, "12:34") == Identity(12, 34, (34,), "/", "")
    assert resolve(tmp_path, "") == Identity()


def test_the_files_are_looked_for_inside_the_root_only(tmp_path):
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "real").mkdir()
    (root / "real/passwd").write_text("inside:x:5:5::/in:/bin/sh\n")
    (tmp_path / "outside").write_text("outside:x:6:6::/out:/bin/sh\n")
    (root / "etc/passwd").symlink_to("/real/passwd")
    assert resolve(root, "inside").uid == 5
    (root / "etc/passwd").unlink()
    (root / "etc/passwd").symlink_to("../../../../../../../outside")
    with pytest.raises(InvalidParameter):
        resolve(root, "outside")


def test_a_fifo_in_the_place_of_passwd_does_not_block(tmp_path):
    (tmp_path / "etc").mkdir()
    os.mkfifo(tmp_path / "etc/passwd")
    (tmp_path / "etc/group").symlink_to("/proc/self/root/etc/group")
    assert resolve(tmp_path, "3").uid == 3


@given(st.binary(max_size=200), st.binary(max_size=200), st.text(max_size=12))
def test_any_content_gives_an_identity_or_a_complaint(passwd, group, user):
    try:
        identity = identify(user, (), passwd, group)
    except InvalidParameter:
        return
    assert identity.home
    assert identity.gid in identity.additional_gids
