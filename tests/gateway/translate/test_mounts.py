"""What a bind of the body means."""

from __future__ import annotations

import pytest

from gateway.translate import mounts


@pytest.mark.parametrize("raw", ["/data", "named:/data"])
def test_a_bind_that_is_a_volume_is_shown_in_mode_z(raw: str) -> None:
    point = mounts.parse_bind(raw)
    assert (point.type, point.destination, point.mode) == ("volume", "/data", "z")


def test_a_bind_of_a_path_keeps_the_mode_it_was_given() -> None:
    assert mounts.parse_bind("/srv:/data").mode == ""
    assert mounts.parse_bind("/srv:/data:ro").mode == "ro"
