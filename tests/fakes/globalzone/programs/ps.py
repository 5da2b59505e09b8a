"""ps(1) of illumos, as far as `-z ZONE` goes: -f, -l, -o; the processes are the Linux host's."""

from __future__ import annotations

from dockerapi.errors import APIError
from gateway.zones.spec import ZoneUUID
from tests.fakes.globalzone.call import Call, Failed
from tests.fakes.globalzone.gz import GZ

_USAGE = "usage: ps [ -aAdefHlcjLPyZ ] [ -o format ] [ -t termlist ]"


async def main(gz: GZ, call: Call) -> int:
    """A table of one zone: its zsched first."""
    words = list(call.arguments)
    if "-z" not in words[:-1]:
        raise Failed(_USAGE)
    at = words.index("-z")
    uuid = words[at + 1]
    del words[at : at + 2]
    # What any option chooses is shown, whatever -z says.
    everything = _check(words)
    machine = gz.machines.vms.get(uuid)
    if machine is None:
        raise Failed(f"ps: unknown zone '{uuid}'")
    if not machine.is_up:
        raise Failed("", 1)
    try:
        table = await gz.host.gauges.processes(ZoneUUID(uuid), " ".join(words))
    except APIError as error:
        raise Failed(str(error)) from error
    zsched = {"PID": "2", "PPID": "1", "UID": "0", "CMD": "zsched", "COMMAND": "zsched"}
    rows = [table.titles, tuple(zsched.get(title, "-") for title in table.titles), *table.rows]
    if everything:
        others = {"PID": "7", "PPID": "1", "UID": "0", "CMD": "vminfod", "COMMAND": "vminfod"}
        rows.append(tuple(others.get(title, "-") for title in table.titles))
    await call.out("".join("  ".join(f"{text:>5}" for text in row) + "\n" for row in rows))
    return 0


def _check(words: list[str]) -> bool:
    """Whether every process of the machine is asked for.  BSD options (`ps aux`) are none of this program's."""
    takes_value = everything = False
    for word in words:
        if takes_value:
            takes_value = False
        elif not word.startswith("-") or set(word[1:]) - set("aAdefHlcjLPyZo"):
            letter = next((c for c in word.lstrip("-") if c not in "aAdefHlcjLPyZo"), word)
            raise Failed(f"ps: illegal option -- {letter}\n{_USAGE}")
        else:
            takes_value = word.endswith("o")
            everything |= bool(set(word[1:]) & set("aAde"))
    return everything
