"""Bodies of the exec routes."""

from __future__ import annotations

from pydantic import Field

from dockerapi.models.base import Body, Boolean


class ExecCreate(Body):
    """POST /containers/{id}/exec."""

    attach_stdin: Boolean = False
    attach_stdout: Boolean = False
    attach_stderr: Boolean = False
    console_size: list[int] | None = None
    detach_keys: str = ""
    tty: Boolean = False
    env: list[str] | None = None
    cmd: list[str] = Field(default_factory=list)
    privileged: Boolean = False
    user: str = ""
    working_dir: str = ""


class ExecStart(Body):
    """POST /exec/{id}/start."""

    detach: Boolean = False
    tty: Boolean = False
    console_size: list[int] | None = None
