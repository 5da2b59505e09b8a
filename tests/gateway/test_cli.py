"""`zonegate` called wrongly: one line that says what is wrong, and the exit code of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import gateway.verify  # noqa: F401  # before nobody is to import it
from gateway.cli import main


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        ("", 2, "zonegate: the following arguments are required: command (see 'zonegate --help')"),
        (
            "serve --frob",
            2,
            "zonegate serve: unrecognized arguments: --frob (see 'zonegate serve --help')",
        ),
        (
            "serve --data /x",
            2,
            "zonegate serve: unrecognized arguments: --data /x (see 'zonegate serve --help')",
        ),
        (
            "serve --shutdown-timeout x",
            2,
            "zonegate serve: argument --shutdown-timeout: invalid int value: 'x'"
            " (see 'zonegate serve --help')",
        ),
        ("serve --config /", 1, "zonegate: cannot read /: Is a directory"),
        (
            "images verify --data-root /nowhere",
            1,
            "zonegate: /nowhere is no data root: it has no folder images",
        ),
        ("spec", 1, "zonegate: 'zonegate spec' requires at least 1 argument: the image"),
        ("spec --frob busybox", 1, "zonegate: unknown flag: --frob"),
        ("spec --image-config /nowhere x", 1, "zonegate: open /nowhere: No such file or directory"),
    ],
)
def test_wrong_usage_is_told_on_one_line(
    capsys: pytest.CaptureFixture[str], arguments: str, status: int, line: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments.split())
    assert ended.value.code == status
    assert capsys.readouterr().err == f"{line}\n"


@pytest.mark.root
def test_images_that_may_not_be_read_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    (images / "configs").mkdir(parents=True)
    os.seteuid(65534)
    try:
        with pytest.raises(SystemExit) as ended:
            main(["images", "verify", "--data-root", str(tmp_path)])
    finally:
        os.seteuid(0)
    assert ended.value.code == 1
    assert capsys.readouterr().err == f"zonegate: cannot read {images}: Permission denied\n"
