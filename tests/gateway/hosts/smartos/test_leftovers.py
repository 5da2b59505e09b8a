"""What an earlier gateway left running is known again, and nothing else is touched."""

from __future__ import annotations

import pytest

from gateway.hosts.smartos.leftovers import attached, is_same, processes

OURS = "0e8ea7f5-3bd0-4b52-a1d7-5b3f3a6d5c01"
OTHER = "0e8ea7f5-3bd0-4b52-a1d7-5b3f3a6d5c02"


@pytest.mark.parametrize(
    ("shown", "argv", "same"),
    [
        ("/usr/sbin/zlogin -Q -I 0ab", ["zlogin", "-Q", "-I", "0ab"], True),
        ("zlogin -Q -I 0ab", ["/usr/sbin/zlogin", "-Q", "-I", "0ab"], True),
        ("/usr/node/bin/node --abort /usr/sbin/vmadm events -j", ["vmadm", "events", "-j"], True),
        ("sh -c trap  '' HUP; while", ["sh", "-c", "trap '' HUP; while :; do done"], True),
        ("zlogin -Q -I 0ac", ["zlogin", "-Q", "-I", "0ab"], False),
        ("/usr/sbin/zlogin -Q -I 0ab extra", ["zlogin", "-Q", "-I", "0ab"], False),
        ("less zlogin", ["cat", "file"], False),
        ("", ["cat"], False),
    ],
)
def test_a_program_is_known_again_by_what_ps_shows(shown: str, argv: list[str], same: bool) -> None:
    assert is_same(shown, argv) is same


def test_only_attached_zlogins_of_our_zones_are_meant() -> None:
    listing = f"""
      1 /sbin/init
     12 zlogin -Q -E -I {OURS}
     13 /usr/sbin/zlogin -Q -E -I -N {OURS}
     14 zlogin -Q -E -I {OTHER}
     15 zlogin -Q {OURS} sh -c sleep 600
     16 zlogin -I {OURS}
     17 zlogin -C {OURS}
     18 grep zlogin -Q -E -I {OURS[:8]}
     19 /usr/bin/python3 -ISs /fakes/bin/zlogin -Q -E -I {OURS}
    """
    assert attached(processes(listing.strip("\n ")), {OURS}) == [12, 13, 19]
