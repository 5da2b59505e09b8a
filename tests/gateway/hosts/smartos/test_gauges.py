"""Which words of `docker top` reach the ps of the global zone."""

from __future__ import annotations

import pytest

from dockerapi.errors import InvalidParameter
from gateway.hosts.smartos.gauges import ps_words


@pytest.mark.parametrize(
    ("ps_args", "words"),
    [
        ("-f", ["-f"]),
        ("-ef", ["-f"]),
        ("-efl", ["-fl"]),
        ("-A", []),
        ("-e -o pid,comm", ["-o", "pid,comm"]),
        ("-eo pid,args", ["-o", "pid,args"]),
        ("-lopid,user", ["-l", "-o", "pid,user"]),
        ("-o", ["-o", ""]),
    ],
)
def test_only_the_zone_is_chosen(ps_args: str, words: list[str]) -> None:
    assert ps_words(ps_args) == words


@pytest.mark.parametrize(
    "ps_args", ["aux", "-u root", "-f -z global", "-fz global", "-p1", "1", "-", "--pid 1"]
)
def test_what_would_choose_others_is_refused(ps_args: str) -> None:
    with pytest.raises(InvalidParameter, match="SmartOS"):
        ps_words(ps_args)
