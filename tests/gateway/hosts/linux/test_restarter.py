"""The restart policy's rules as a table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.hosts.linux.restarter import LONGEST_DELAY_S, BackOff, RestartPolicy


@pytest.mark.parametrize(
    ("policy", "exit_code", "restarts", "stopped_by_hand", "again"),
    [
        ("", 1, 0, False, False),
        ("no", 1, 0, False, False),
        ("always", 0, 9, False, True),
        ("always", 0, 9, True, True),
        ("unless-stopped", 0, 0, False, True),
        ("unless-stopped", 1, 0, True, False),
        ("on-failure", 0, 0, False, False),
        ("on-failure", 1, 1000, False, True),
        ("on-failure:2", 1, 1, False, True),
        ("on-failure:2", 1, 2, False, False),
    ],
)
def test_who_starts_again(
    policy: str, exit_code: int, restarts: int, stopped_by_hand: bool, again: bool
) -> None:
    wants = RestartPolicy.parse(policy).wants(
        exit_code=exit_code, restarts=restarts, stopped_by_hand=stopped_by_hand
    )
    assert wants is again


@pytest.mark.parametrize("text", ["sometimes", "on-failure:x", "Always"])
def test_an_unknown_policy_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"unknown restart policy|invalid literal"):
        RestartPolicy.parse(text)


def test_delays_double_up_to_a_minute() -> None:
    delays, back_off = [], BackOff()
    for _ in range(12):
        back_off = back_off.after(0.1)
        delays.append(round(back_off.delay_s, 1))
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 60.0, 60.0]


@given(st.lists(st.floats(0, 100), max_size=30))
def test_a_steady_run_begins_anew(runs: list[float]) -> None:
    back_off = BackOff()
    for ran_s in runs:
        back_off = back_off.after(ran_s)
        assert 0.1 <= back_off.delay_s <= LONGEST_DELAY_S
        if ran_s >= 10:
            assert back_off.delay_s == 0.1
