"""zfs: create, clone, snapshot, rename, destroy, list, get, set, inherit, diff over the fake pool.

Texts and exit codes are zfs(8)'s: 1 for what cannot be done, 2 for a wrong command line.
"""

from __future__ import annotations

import asyncio
import datetime
import getopt
import re
from collections.abc import Sequence

from tests.fakes.globalzone.call import Call, Failed
from tests.fakes.globalzone.gz import GZ
from tests.fakes.globalzone.pool import Dataset, Pool, disk_usage

_USER_PROPERTY = re.compile(r"[a-z0-9:._-]*:[a-z0-9:._-]*")
# Of user properties, on illumos: MAXPATHLEN.
_VALUE_LIMIT = 1024
_READ_ONLY = (
    "name",
    "type",
    "creation",
    "used",
    "available",
    "referenced",
    "compressratio",
    "mounted",
    "origin",
    "clones",
    "usedbydataset",
    "written",
)
_DEFAULTS = {
    "quota": "0",
    "refquota": "0",
    "reservation": "0",
    "refreservation": "0",
    "recordsize": "131072",
    "mountpoint": "",
    "compression": "lz4",
    "canmount": "on",
    "devices": "on",
    "setuid": "on",
    "zoned": "off",
    "atime": "off",
    "snapdir": "hidden",
    "filesystem_limit": "none",
    "snapshot_limit": "none",
    "sync": "standard",
    "volsize": "-",
}
_SIZES = (
    "used",
    "usedbydataset",
    "available",
    "referenced",
    "written",
    "quota",
    "refquota",
    "reservation",
    "refreservation",
    "recordsize",
    "volsize",
)
_POOL_SIZE = 1 << 40


async def main(gz: GZ, call: Call) -> int:
    """One command; its exit code."""
    if not call.arguments:
        raise Failed("missing command\nusage: zfs command args ...", 2)
    command, *arguments = call.arguments
    run = _COMMANDS.get(command)
    if run is None:
        raise Failed(f"unrecognized command '{command}'\nusage: zfs command args ...", 2)
    try:
        text = await run(gz.pool, arguments)
    except getopt.GetoptError as error:
        raise Failed(f"invalid option '{error.opt}'\nusage:", 2) from error
    if text:
        await call.out(text)
    return 0


async def _create(pool: Pool, arguments: Sequence[str]) -> str:
    options, names = getopt.getopt(arguments, "po:V:s")
    name = _one(names, "filesystem")
    properties = _properties(options, f"cannot create '{name}'")
    for option, value in options:
        if option == "-V":
            properties["volsize"] = str(_bytes(value))
    await pool.create(name, properties, parents=("-p", "") in options)
    return ""


async def _clone(pool: Pool, arguments: Sequence[str]) -> str:
    options, names = getopt.getopt(arguments, "po:")
    if len(names) != 2:
        raise Failed("missing source dataset argument\nusage:", 2)
    properties = _properties(options, f"cannot create '{names[1]}'")
    await pool.clone(names[0], names[1], properties)
    return ""


async def _snapshot(pool: Pool, arguments: Sequence[str]) -> str:
    options, names = getopt.getopt(arguments, "ro:")
    if not names:
        raise Failed("missing snapshot argument\nusage:", 2)
    for name in names:
        if "@" not in name:
            raise Failed(
                f"cannot create snapshot '{name}': empty component or misplaced '@' or '#' delimiter in name"
            )
        await pool.snapshot(name, _properties(options, f"cannot create snapshot '{name}'"))
    return ""


async def _rename(pool: Pool, arguments: Sequence[str]) -> str:
    _, names = getopt.getopt(arguments, "fpr")
    if len(names) != 2:
        raise Failed("missing source dataset argument\nusage:", 2)
    await pool.rename(names[0], names[1])
    return ""


async def _destroy(pool: Pool, arguments: Sequence[str]) -> str:
    options, names = getopt.getopt(arguments, "fnprRvd")
    flags = {option for option, _ in options}
    name = _one(names, "dataset")
    if "-R" in flags:
        raise Failed("fake zfs: destroy -R is not what anybody here should do", 99)
    await pool.destroy(name, recursive="-r" in flags)
    return ""


async def _set(pool: Pool, arguments: Sequence[str]) -> str:
    _, words = getopt.getopt(arguments, "")
    pairs = [word for word in words if "=" in word]
    names = [word for word in words if "=" not in word]
    if not pairs:
        raise Failed("missing property=value argument\nusage:", 2)
    if not names:
        raise Failed("missing dataset name(s)\nusage:", 2)
    for name in names:
        pool.get(name)
        for key, value in _parsed(pairs, f"cannot set property for '{name}'").items():
            await pool.set(name, key, value)
    return ""


async def _inherit(pool: Pool, arguments: Sequence[str]) -> str:
    _, words = getopt.getopt(arguments, "rS")
    if len(words) < 2:
        raise Failed("missing dataset argument\nusage:", 2)
    key, *names = words
    for name in names:
        pool.get(name)
        await pool.set(name, key, None)
    return ""


async def _list(pool: Pool, arguments: Sequence[str]) -> str:
    options, names = getopt.getopt(arguments, "Hprd:t:o:s:S:")
    flags = dict(options)
    columns = flags.get("-o", "name,used,available,referenced,mountpoint").split(",")
    for column in columns:
        if column not in (*_READ_ONLY, *_DEFAULTS) and not _USER_PROPERTY.fullmatch(column):
            raise Failed(f"bad property list: invalid property '{column}'\nusage:", 2)
    datasets = _chosen(pool, names, flags)
    rows = await asyncio.to_thread(
        lambda: [
            [_value(pool, d, column, "-p" in flags)[0] for column in columns] for d in datasets
        ]
    )
    return _table([column.upper() for column in columns], rows, plain="-H" in flags)


async def _get(pool: Pool, arguments: Sequence[str]) -> str:
    options, words = getopt.getopt(arguments, "Hprd:t:o:s:")
    flags = dict(options)
    if not words:
        raise Failed("missing property argument\nusage:", 2)
    wanted, *names = words
    fields = flags.get("-o", "name,property,value,source").split(",")
    sources = flags.get("-s", "").split(",") if "-s" in flags else []
    datasets = _chosen(pool, names, flags | ({} if names else {"-r": ""}))
    rows = await asyncio.to_thread(_get_rows, pool, datasets, wanted, "-p" in flags)
    rows = [row for row in rows if not sources or row["source"].split()[0] in sources]
    cells = [[row[field] for field in fields] for row in rows]
    return _table([field.upper() for field in fields], cells, plain="-H" in flags)


def _get_rows(
    pool: Pool, datasets: Sequence[Dataset], wanted: str, parsable: bool
) -> list[dict[str, str]]:
    rows = []
    for dataset in datasets:
        keys = wanted.split(",")
        if wanted == "all":
            keys = [*_READ_ONLY[1:], *_DEFAULTS, *_user_keys(pool, dataset)]
        for key in keys:
            if key not in (*_READ_ONLY, *_DEFAULTS) and not _USER_PROPERTY.fullmatch(key):
                raise Failed(f"bad property list: invalid property '{key}'\nusage:", 2)
            value, source = _value(pool, dataset, key, parsable)
            rows.append({"name": dataset.name, "property": key, "value": value, "source": source})
    return rows


async def _diff(pool: Pool, arguments: Sequence[str]) -> str:
    options, names = getopt.getopt(arguments, "FHt")
    flags = {option for option, _ in options}
    if len(names) != 2:
        raise Failed("must provide at least one snapshot name\nusage:", 2)
    for name in names:
        pool.get(name)
    lines = []
    for change in await asyncio.to_thread(pool.changes, names[0], names[1]):
        cells = [change.kind]
        if "-F" in flags:
            cells.append(change.type)
        paths = [_escaped(path) for path in (change.path, change.renamed) if path]
        cells += paths if "-H" in flags else [" -> ".join(paths)]
        if change.delta:
            cells.append(f"({change.delta:+d})")
        lines.append("\t".join(cells) + "\n")
    return "".join(lines)


async def _promote(pool: Pool, arguments: Sequence[str]) -> str:
    name = _one(arguments, "clone filesystem")
    if pool.get(name).origin is None:
        raise Failed(f"cannot promote '{name}': not a cloned filesystem")
    raise Failed("fake zfs: promote is not built", 99)


_COMMANDS = {
    "create": _create,
    "clone": _clone,
    "snapshot": _snapshot,
    "snap": _snapshot,
    "rename": _rename,
    "destroy": _destroy,
    "set": _set,
    "inherit": _inherit,
    "list": _list,
    "get": _get,
    "diff": _diff,
    "promote": _promote,
}


# --- properties


def _properties(options: Sequence[tuple[str, str]], words: str) -> dict[str, str]:
    return _parsed([value for option, value in options if option == "-o"], words)


def _parsed(pairs: Sequence[str], words: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise Failed("missing '=' for property=value argument\nusage:", 2)
        if key in found:
            raise Failed(f"property '{key}' specified multiple times", 2)
        if key in _READ_ONLY:
            raise Failed(f"{words}: '{key}' is readonly")
        if key not in _DEFAULTS and not _USER_PROPERTY.fullmatch(key):
            raise Failed(f"{words}: invalid property '{key}'")
        if len(key) > 255:
            raise Failed(f"{words}: property name '{key}' is too long")
        if len(value.encode(errors="surrogateescape")) >= _VALUE_LIMIT:
            raise Failed(f"{words}: '{value}': property value too long")
        found[key] = value
    return found


def _user_keys(pool: Pool, dataset: Dataset) -> list[str]:
    keys: set[str] = set()
    for one in pool.datasets.values():
        if dataset.name == one.name or dataset.name.startswith((f"{one.name}/", f"{one.name}@")):
            keys |= {key for key in one.properties if ":" in key}
    return sorted(keys)


def _value(pool: Pool, dataset: Dataset, key: str, parsable: bool) -> tuple[str, str]:
    """A property's value and source, as `get` shows them; "-" where there is none."""
    if ":" in key:
        return pool.value(dataset.name, key) or ("-", "-")
    if key in _READ_ONLY:
        value, source = _read_only(pool, dataset, key, parsable), "-"
    elif key == "mountpoint":
        is_mounted = dataset.type == "filesystem"
        return (str(dataset.mountpoint), "default") if is_mounted else ("-", "-")
    else:
        set_here = dataset.properties.get(key)
        value, source = set_here or _DEFAULTS[key], "local" if set_here else "default"
    if key in _SIZES and not parsable and value.isdigit():
        value = "none" if value == "0" and "quota" in key else _human(int(value))
    return value, source


def _read_only(pool: Pool, dataset: Dataset, key: str, parsable: bool) -> str:
    if key in ("name", "type"):
        return str(getattr(dataset, key))
    if key == "origin":
        return dataset.origin or "-"
    if key == "clones":
        return (
            ",".join(one.name for one in pool.clones(dataset.name)) if "@" in dataset.name else "-"
        )
    if key == "creation":
        seconds = dataset.created_ns // 1_000_000_000
        when = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
        return str(seconds) if parsable else when.strftime("%a %b %d %H:%M %Y")
    if key == "mounted":
        return "yes" if dataset.type == "filesystem" else "-"
    if key == "compressratio":
        return "1.00x"
    return str(_size(pool, dataset, key))


def _size(pool: Pool, dataset: Dataset, key: str) -> int:
    if key == "available":
        return _POOL_SIZE if pool.free is None else pool.free
    if dataset.type == "snapshot":
        return 0 if key in ("used", "written") else _referenced(pool, dataset)
    if key == "referenced":
        return _referenced(pool, dataset)
    own = disk_usage(pool.folder(dataset)) if dataset.is_clone else disk_usage(dataset.mountpoint)
    if key == "used":
        below = [d for d in pool.children(dataset.name) if d.is_clone]
        own += sum(disk_usage(pool.folder(one)) for one in below)
    return own


def _referenced(pool: Pool, dataset: Dataset) -> int:
    layers = dataset.layers or (dataset.id,)
    datasets = [one for one in pool.datasets.values() if one.id in layers]
    folders = {pool.folder(one) for one in datasets} | {pool.folder(dataset)}
    return sum(disk_usage(folder) for folder in folders)


# --- words and tables


def _chosen(pool: Pool, names: Sequence[str], flags: dict[str, str]) -> list[Dataset]:
    """The datasets that `list` and `get` speak of."""
    kinds = flags.get("-t", "").split(",") if flags.get("-t") else []
    kinds = [{"snap": "snapshot", "fs": "filesystem", "vol": "volume"}.get(k, k) for k in kinds]
    is_deep = "-r" in flags or "-d" in flags or not names
    limit = int(flags["-d"]) if "-d" in flags else NO_LIMIT
    found: list[Dataset] = []
    for name in names or [pool.name]:
        top = pool.get(name)
        candidates = [top, *pool.children(name)] if is_deep else [top]
        wanted = kinds or ([top.type] if top.type == "snapshot" else ["filesystem", "volume"])
        for one in candidates:
            depth = len(re.findall("[/@]", one.name)) - len(re.findall("[/@]", name))
            if depth <= limit and ("all" in wanted or one.type in wanted):
                found.append(one)
    return found


NO_LIMIT = 1 << 30


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], *, plain: bool) -> str:
    if plain:
        return "".join("\t".join(row) + "\n" for row in rows)
    lines = [list(header), *map(list, rows)] if rows else []
    widths = [max(len(line[at]) for line in lines) for at in range(len(header))] if lines else []
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        + "\n"
        for line in lines
    )


def _one(names: Sequence[str], what: str) -> str:
    if len(names) != 1:
        words = f"missing {what} argument" if not names else "too many arguments"
        raise Failed(f"{words}\nusage:", 2)
    return names[0]


def _bytes(text: str) -> int:
    units = {"K": 10, "M": 20, "G": 30, "T": 40}
    last = text[-1:].upper()
    return int(text[:-1]) << units[last] if last in units else int(text)


def _human(size: int) -> str:
    value, unit = float(size), 0
    while value >= 1024 and unit < 6:
        value, unit = value / 1024, unit + 1
    if not unit:
        return str(size)
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f}{' KMGTPE'[unit]}"


def _escaped(path: str) -> str:
    """As diff prints names: blanks, backslashes and all that is not printable ASCII are octal."""
    return "".join(
        chr(byte) if 32 < byte < 127 and byte != 92 else f"\\{byte:03o}"
        for byte in path.encode(errors="surrogateescape")
    )
