"""umount(8) of one mount point."""

from __future__ import annotations

from tests.fakes.globalzone import mnttab
from tests.fakes.globalzone.call import Call, Failed
from tests.fakes.globalzone.gz import GZ


async def main(gz: GZ, call: Call) -> int:
    """See the module."""
    if len(call.arguments) != 1:
        raise Failed("Usage:\numount [-f] [-V] [-o specific_options] {special | mount-point}")
    mnttab.umount(gz, call.arguments[0])
    return 0
