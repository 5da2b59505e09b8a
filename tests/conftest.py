"""Fixtures for any test: short paths for sockets, and vmadm's strict check of every spec that the translation makes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from gateway.translate import to_zone
from gateway.zones.spec import ZoneSpec
from tests.fakes.globalzone.properties import check_create

# A machine that is busy with something else is no fault of an example.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory whose name is short: a unix socket's path has at most 107 bytes, pytest's are long."""
    folder = Path(tempfile.mkdtemp(prefix="zg-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


class _Checked:
    """`ZoneSpec` as the translation calls it."""

    @staticmethod
    def model_validate(values: Any) -> ZoneSpec:
        spec = ZoneSpec.model_validate(values)
        assert check_create(spec.payload()) == []
        return spec


@pytest.fixture(autouse=True, scope="session")
def _specs_that_vmadm_takes() -> Iterator[None]:
    """No test, whatever it is about, can make a spec that vmadm would refuse or drop a key of."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(to_zone, "ZoneSpec", _Checked)
        yield
