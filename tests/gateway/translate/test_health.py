"""What a health check asks for, and what its results make of a container's health."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.translate import health
from gateway.translate.health import Check, Health, Result

S = 1_000_000_000
CHECK = Check(("true",), retries=2)


def result(code: int, start_ns: int = 0) -> Result:
    return Result(start_ns, start_ns + 1, code, "")


@pytest.mark.parametrize(
    ("config", "argv"),
    [
        ({"Healthcheck": {"Test": ["CMD", "a", "b"]}}, ("a", "b")),
        ({"Healthcheck": {"Test": ["CMD-SHELL", "a b"]}}, ("/bin/sh", "-c", "a b")),
        (
            {"Healthcheck": {"Test": ["CMD-SHELL", "a"]}, "Shell": ["/bin/bash", "-ec"]},
            ("/bin/bash", "-ec", "a"),
        ),
    ],
)
def test_what_is_run(config: dict[str, object], argv: tuple[str, ...]) -> None:
    check = health.check_of(config)
    assert check is not None
    assert check.argv == argv


@pytest.mark.parametrize("test", [["NONE"], [], ["CMD"], ["RUBBISH", "x"], None])
def test_nothing_is_run(test: list[str] | None) -> None:
    assert health.check_of({"Healthcheck": {"Test": test}}) is None
    assert health.check_of({"Healthcheck": None}) is None
    assert health.check_of({}) is None


def test_what_is_left_open_has_dockers_defaults() -> None:
    check = health.check_of({"Healthcheck": {"Test": ["CMD", "x"], "Interval": 0}})
    assert check == Check(
        ("x",),
        interval_ns=30 * S,
        timeout_ns=30 * S,
        start_period_ns=0,
        start_interval_ns=5 * S,
        retries=3,
    )


def test_a_container_is_unhealthy_after_so_many_failures_in_a_row() -> None:
    seen = Health().after(result(1), CHECK, 0)
    assert (seen.status, seen.streak) == ("starting", 1)
    seen = seen.after(result(1), CHECK, 0)
    assert (seen.status, seen.streak) == ("unhealthy", 2)
    seen = seen.after(result(0), CHECK, 0)
    assert (seen.status, seen.streak) == ("healthy", 0)
    assert seen.after(result(-1), CHECK, 0).status == "healthy"


def test_failures_while_it_starts_do_not_count() -> None:
    check = Check(("x",), start_period_ns=10 * S, retries=1)
    early = Health().after(result(1, 105 * S), check, 100 * S)
    assert (early.status, early.streak, len(early.log)) == ("starting", 0, 1)
    assert early.after(result(1, 110 * S), check, 100 * S).status == "unhealthy"
    # Who was healthy once has started.
    up = early.after(result(0, 106 * S), check, 100 * S)
    assert up.after(result(1, 107 * S), check, 100 * S).status == "unhealthy"


def test_probes_come_quicker_while_it_starts() -> None:
    check = Check(("x",), interval_ns=30 * S, start_period_ns=10 * S, start_interval_ns=2 * S)
    assert check.wait_ns("starting", 9 * S) == 2 * S
    assert check.wait_ns("starting", 10 * S) == 30 * S
    assert check.wait_ns("healthy", S) == 30 * S


@given(st.lists(st.integers(-1, 2), max_size=12))
def test_the_last_five_results_are_kept(codes: list[int]) -> None:
    seen = Health()
    for number, code in enumerate(codes):
        seen = seen.after(result(code, number), CHECK, 0)
    assert [row.exit_code for row in seen.log] == codes[-5:]
    assert seen.restarted() == Health("starting", 0, seen.log)
    assert seen.unwatched().status == "unhealthy"


def test_output_is_cut_at_4096_bytes() -> None:
    assert health.output_text(b"x" * 4096) == "x" * 4096
    assert health.output_text(b"x" * 4097) == "x" * 4096 + "..."
    assert health.output_text(b"a\xffb") == "a\ufffdb"


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (S, "1s"),
        (90 * S, "1m30s"),
        (3600 * S, "1h0m0s"),
        (1_500_000_000, "1.5s"),
        (300_000_000, "300ms"),
        (1_500_000, "1.5ms"),
        (61_050_000_000, "1m1.05s"),
    ],
)
def test_durations_as_go_prints_them(ns: int, text: str) -> None:
    assert health.go_duration(ns) == text


def test_what_is_said_of_a_probe_that_takes_too_long() -> None:
    assert health.exceeded(2 * S, "") == "Health check exceeded timeout (2s)"
    assert health.exceeded(2 * S, "out") == "Health check exceeded timeout (2s): out"
