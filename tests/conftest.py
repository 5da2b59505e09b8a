"""Fixtures for any test: short paths for sockets, and the command line tools of this checkout."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# A machine that is busy with something else is no fault of an example.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory whose name is short: a unix socket's path has at most 107 bytes, pytest's are long."""
    folder = Path(tempfile.mkdtemp(prefix="zg-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
