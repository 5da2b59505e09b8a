"""mount(8): -F tmpfs and nfs with -o, and the list of what is mounted."""

from __future__ import annotations

import getopt

from tests.fakes.globalzone import mnttab
from tests.fakes.globalzone.call import Call, Failed
from tests.fakes.globalzone.gz import GZ

_USAGE = "Usage:\nmount [-v | -p]\nmount [-F FSType] [-V] [current_options] [-o specific_options]\n\tspecial mount_point"


async def main(gz: GZ, call: Call) -> int:
    """See the module."""
    try:
        options, words = getopt.getopt(call.arguments, "F:o:vp")
    except getopt.GetoptError as error:
        raise Failed(_USAGE) from error
    found = dict(options)
    if not words:
        rows = mnttab.rows(gz)
        await call.out("".join(f"{row[1]} on {row[0]} {row[3]}\n" for row in rows))
        return 0
    if len(words) != 2 or "-F" not in found:
        raise Failed(_USAGE)
    told = [word for word in found.get("-o", "").split(",") if word]
    mnttab.mount(gz, found["-F"], told, *words)
    return 0
