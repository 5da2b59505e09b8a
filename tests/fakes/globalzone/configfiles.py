"""hosts, hostname and resolv.conf of a docker zone, and how they come over /etc in its root; its metadata.json.

vmadm writes them under ZONEPATH/config and mounts the three files over those of the image.  They are written in
place: a running zone has them mounted, and a new file under the old name would not be seen there.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gateway.hosts.linux.rooted import make_folders, open_in_root
from tests.fakes.globalzone.call import Failed

_KEYS = {
    "hosts": "docker:hostsFile",
    "hostname": "docker:hostnameFile",
    "resolv.conf": "docker:resolvConfFile",
}


def write(zonepath: Path, vm: Mapping[str, Any]) -> None:
    """All three, anew."""
    folder = zonepath / "config"
    folder.mkdir(mode=0o755, exist_ok=True)
    for name, text in (
        ("hosts", hosts(vm)),
        ("hostname", f"{vm.get('hostname', '')}\n"),
        ("resolv.conf", resolv_conf(vm)),
    ):
        with (folder / name).open("w") as file:
            file.write(text)
        (folder / name).chmod(0o644)


def hosts(vm: Mapping[str, Any]) -> str:
    """/etc/hosts: ourselves, docker:extraHosts, docker:linkHosts."""
    metadata = vm["internal_metadata"]
    own = vm.get("hostname", vm["uuid"])
    lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]
    lines += ["fe00::0\tip6-localnet", "ff00::0\tip6-mcastprefix"]
    lines += ["ff02::1\tip6-allnodes", "ff02::2\tip6-allrouters"]
    lines += [
        f"{nic['ip']}\t{own}" for nic in vm.get("nics", []) if nic.get("ip", "")[:1].isdigit()
    ]
    for entry in json.loads(str(metadata.get("docker:extraHosts", "[]"))):
        name, colon, address = entry.partition(":")
        if not colon:
            raise Failed(f"invalid docker:extraHosts entry: {entry}")
        lines.append(f"{address}\t{name}")
    linked = str(metadata.get("docker:linkHosts", "")).strip("\n")
    return "\n".join([*lines, *([linked] if linked else [])]) + "\n"


def resolv_conf(vm: Mapping[str, Any]) -> str:
    """/etc/resolv.conf: docker:dnssearch, then the domain; the resolvers."""
    search = list(json.loads(str(vm["internal_metadata"].get("docker:dnssearch", "[]"))))
    search += [vm["dns_domain"]] if vm.get("dns_domain") else []
    lines = [f"search {' '.join(search)}"] if search else []
    return "".join(f"{line}\n" for line in (*lines, *(f"nameserver {r}" for r in vm["resolvers"])))


def mounts(vm: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The three filesystems as `vmadm get` lists them."""
    return [
        {
            "source": f"/zones/{vm['uuid']}/config/{name}",
            "target": str(vm["internal_metadata"].get(key, f"/etc/{name}")),
            "type": "lofs",
            "options": [],
        }
        for name, key in _KEYS.items()
    ]


def make_room(root: Path, target: str) -> None:
    """See that a file can be mounted there: a link is replaced by an empty file, a folder is an error."""
    make_folders(root, os.path.dirname(target))  # noqa: PTH120 - a path of the zone's
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        folder = open_in_root(top, os.path.dirname(target), os.O_PATH | os.O_DIRECTORY)  # noqa: PTH120
    finally:
        os.close(top)
    try:
        name = os.path.basename(target)  # noqa: PTH119
        with suppress(FileNotFoundError):
            mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                raise Failed(f"{target} is a directory")
            if not stat.S_ISLNK(mode):
                return
            os.unlink(name, dir_fd=folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(name, flags, 0o644, dir_fd=folder))
    finally:
        os.close(folder)


def write_metadata(zonepath: Path, vm: Mapping[str, Any]) -> int:
    """config/metadata.json and tags.json; the first one's time of change, in nanoseconds."""
    for name, body in (
        ("tags.json", vm["tags"]),
        ("metadata.json", {k: vm[k] for k in ("customer_metadata", "internal_metadata")}),
    ):
        path = zonepath / "config" / name
        path.parent.mkdir(mode=0o755, exist_ok=True)
        new = path.with_name(f"{name}.new")
        new.write_text(json.dumps(body, indent=2))
        new.chmod(0o600)
        new.rename(path)
    return (zonepath / "config/metadata.json").stat().st_mtime_ns


def read_metadata(zonepath: Path) -> dict[str, dict[str, Any]]:
    """What stands in metadata.json now."""
    body: dict[str, dict[str, Any]] = json.loads((zonepath / "config/metadata.json").read_text())
    return body
