"""Which tests failed in some runs of pytest, and why, short enough to be read at the end of a long output.

    scripts/failed.py "first run"=first.xml "once more"=again.xml

The files are what pytest's `--junit-xml` wrote.  A run whose file is not there did not take place, one whose file is
empty was ended from outside.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

REASON = 300
"""So many characters of a reason are shown."""
EXPLAINED = 25
"""Of so many failures the reasons are shown; of more, the names."""


def failures(report: str) -> Iterator[tuple[str, str]]:
    """The name of each test that failed in this report and the reason, a line each."""
    for case in ET.fromstring(report).iter("testcase"):  # noqa: S314 - pytest wrote it
        for fault in (*case.iter("failure"), *case.iter("error")):
            place = (fault.text or "").strip().rpartition("\n")[2]
            reason = " ".join(fault.get("message", "").split())
            name = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
            yield name, f"{place} {reason}"[:REASON]


def summary(title: str, report: str | None) -> Iterator[str]:
    """The lines that tell of one run; `report` is None if it did not take place."""
    if report is None:
        return
    if not report:
        yield f"{title}: was ended before it was through"
        return
    try:
        failed = list(failures(report))
    except ET.ParseError:
        yield f"{title}: was ended while it wrote its report"
        return
    yield f"{title}: {len(failed) or 'none'} failed"
    for name, reason in failed:
        yield f"  {name}"
        if len(failed) <= EXPLAINED:
            yield f"    {reason}"


def main(arguments: list[str]) -> None:
    """Print the summaries of `TITLE=FILE`s."""
    for argument in arguments:
        title, _, file = argument.rpartition("=")
        path = Path(file)
        lines = summary(title, path.read_text() if path.exists() else None)
        sys.stdout.writelines(f"{line}\n" for line in lines)


if __name__ == "__main__":
    main(sys.argv[1:])
