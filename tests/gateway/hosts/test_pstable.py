"""What ps prints, as a table."""

from __future__ import annotations

import pytest

from dockerapi.errors import APIError
from gateway.hosts.pstable import table


def test_rows_of_ps_are_picked_by_their_pid() -> None:
    text = "UID   PID CMD\nroot   10 sh -c  two words\nroot   11 other\n"
    found = table(text, {10}.__contains__)
    assert found.titles == ("UID", "PID", "CMD")
    assert found.rows == (("root", "10", "sh -c  two words"),)


def test_threads_belong_to_the_process_before_them() -> None:
    text = "PID LWP\n10 -\n- 10\n- 12\n11 -\n- 11\n"
    assert table(text, {10}.__contains__).rows == (("10", "-"), ("-", "10"), ("-", "12"))


def test_ps_must_be_asked_for_the_pid() -> None:
    with pytest.raises(APIError, match="Couldn't find PID field in ps output"):
        table("COMMAND\nsh\n", {1}.__contains__)
