"""Bodies of the exec routes."""

from __future__ import annotations

from pydantic import Field

from dockerapi.models.base import Body


class ExecCreate(Body):
    """POST /containers/{id}/exec."""

    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    console_size: list[int] | None = None
    detach_keys: str = ""
    tty: bool = False
    env: list[str] | None = None
    cmd: list[str] = Field(default_factory=list)
    privileged: bool = False
    user: str = ""
    working_dir: str = ""


class ExecStart(Body):
    """POST /exec/{id}/start."""

    detach: bool = False
    tty: bool = False
    console_size: list[int] | None = None
