"""What ps prints -> `ProcessTable`.  Pure."""

from __future__ import annotations

from collections.abc import Callable

from dockerapi.errors import APIError, CommandFailed
from gateway.zones.host import ProcessTable


def table(output: str, belongs: Callable[[int], bool]) -> ProcessTable:
    """ps's columns by its first line, and the rows whose PID is wanted.  APIError without a PID column.

    The last column holds blanks.  Rows of threads have `-` for a PID and belong to the process before them.
    """
    lines = output.splitlines()
    titles = tuple(lines[0].split()) if lines else ()
    if "PID" not in titles:
        raise APIError("Couldn't find PID field in ps output")
    column = titles.index("PID")
    rows: list[tuple[str, ...]] = []
    wanted = False
    for line in lines[1:]:
        fields = line.split(None, len(titles) - 1)
        if len(fields) <= column:
            continue
        if fields[column] != "-":
            wanted = fields[column].isdecimal() and belongs(int(fields[column]))
        if wanted:
            rows.append(tuple(fields))
    return ProcessTable(titles, tuple(rows))


def refusal(error: CommandFailed) -> APIError:
    """What ps did not like, in dockerd's words: the first line that it said."""
    said = (line.strip() for line in error.detail.splitlines() if line.strip())
    return APIError(f"ps: {next(said, error.message)}")
