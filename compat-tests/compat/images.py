"""Small images made from the machine's own busybox-static: pushed to a registry, or as a `docker load` archive.

No image comes from the internet, and none needs a daemon to be made.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import json
import platform
import subprocess
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DOCKER = "application/vnd.docker"
MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
PASSWD = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\nalice:x:1001:1002:Alice:/home/alice:/bin/sh\n"
GROUP = "root:x:0:\nnogroup:x:65534:\nstaff:x:50:alice\nalice:x:1002:\nextra:x:2000:alice\n"


def digest(data: bytes) -> str:
    """`sha256:HEX`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def layer(entries: list[tuple[str, Any]]) -> bytes:
    """A tar: (name, bytes) is a file, (name/, None) a directory, (name, `-> target`) a symlink; (name, (bytes, mode)) has a mode."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in entries:
            info = tarfile.TarInfo(name.rstrip("/"))
            data = b""
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp/" else 0o755
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content.removeprefix("-> ")
            else:
                data, info.mode = content if isinstance(content, tuple) else (content, 0o644)
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def busybox_layer(mark: str = "") -> bytes:
    """A root with busybox and a link for every applet; a mark makes it a layer of its own."""
    program = Path("/bin/busybox")
    listed = subprocess.run(
        [program, "--list"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    ).stdout.split()
    folders = ["bin", "dev", "etc", "home", "home/alice", "proc", "root", "sys", "tmp", "var"]
    entries: list[tuple[str, Any]] = [(f"{name}/", None) for name in folders]
    entries += [("etc/passwd", PASSWD.encode()), ("etc/group", GROUP.encode())]
    entries += [("etc/mark", mark.encode())] if mark else []
    entries += [("bin/busybox", (program.read_bytes(), 0o755))]
    entries += [(f"bin/{name}", "-> busybox") for name in sorted(listed) if name != "busybox"]
    return layer(entries)


@dataclass
class Image:
    """What a registry or an archive needs to know of an image."""

    name: str
    layers: list[bytes]
    config: dict[str, Any] = field(default_factory=dict)
    architecture: str = MACHINE

    def config_bytes(self) -> bytes:
        """The config document; created in the past, so that `ago` texts are stable."""
        return json.dumps(
            {
                "architecture": self.architecture,
                "os": "linux",
                "created": "2024-01-02T03:04:05.000000006Z",
                "author": "zonegate",
                "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]} | self.config,
                "rootfs": {"type": "layers", "diff_ids": [digest(tar) for tar in self.layers]},
                "history": [
                    {"created": "2024-01-02T03:04:05Z", "created_by": f"made layer {number}"}
                    for number in range(len(self.layers))
                ],
            }
        ).encode()


def catalogue() -> list[Image]:
    """The images of the scenarios, by short name."""
    base = busybox_layer()
    script = b'#!/bin/sh\necho entry:$FLAVOUR:$(id -u):$(pwd):"$@"\n'
    return [
        Image("bb", [base]),
        Image(
            "rich",
            [
                base,
                layer(
                    [
                        ("srv/", None),
                        ("srv/data/", None),
                        ("srv/data/seed", b"seeded\n"),
                        ("bin/entry", (script, 0o755)),
                    ]
                ),
            ],
            {
                "Env": ["PATH=/bin", "FLAVOUR=plain"],
                "Entrypoint": ["/bin/entry"],
                "Cmd": ["default", "args"],
                "User": "1001:1002",
                "WorkingDir": "/srv",
                "Volumes": {"/srv/data": {}},
                "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
                "Labels": {"maker": "zonegate", "tier": "image"},
                "StopSignal": "SIGUSR1",
            },
        ),
        Image(
            "white",
            [
                base,
                layer(
                    [
                        ("d/", None),
                        ("d/gone", b"1"),
                        ("d/kept", b"2"),
                        ("o/", None),
                        ("o/lower", b"3"),
                        ("top", b"4"),
                    ]
                ),
                layer(
                    [
                        ("d/.wh.gone", b""),
                        ("o/", None),
                        ("o/.wh..wh..opq", b""),
                        ("o/upper", b"5"),
                        (".wh.top", b""),
                    ]
                ),
            ],
        ),
        Image(
            "fresh",
            [
                busybox_layer("fresh"),
                layer([("fresh/", None), ("fresh/one", b"1" * 5000)]),
                layer([("fresh/two", b"2" * 70000)]),
            ],
            {"Labels": {"only": "in the registry"}},
        ),
        Image("failing", [base], {"Cmd": ["sh", "-c", "echo bad >&2; exit 3"]}),
        Image("nocmd", [base], {"Cmd": None}),
        Image(
            "trap",
            [base],
            {
                "Cmd": [
                    "sh",
                    "-c",
                    "trap 'echo got TERM; exit 5' TERM; echo ready; while :; do sleep 0.05; done",
                ]
            },
        ),
        Image(
            "foreign", [busybox_layer("foreign")], {}, "s390x" if MACHINE != "s390x" else "amd64"
        ),
    ]


class Registry:
    """Pushes by the distribution API; enough of it for our own images."""

    def __init__(self, address: str) -> None:
        self.address = address

    def _call(
        self, method: str, path: str, body: bytes = b"", media: str = "application/octet-stream"
    ) -> str:
        connection = http.client.HTTPConnection(self.address, timeout=20)
        connection.request(method, path, body=body, headers={"Content-Type": media})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        assert answer.status < 300, (method, path, answer.status, text)
        return answer.headers.get("Location", "")

    def blob(self, name: str, data: bytes) -> dict[str, Any]:
        """Push one blob; its descriptor without a media type."""
        upload = self._call("POST", f"/v2/{name}/blobs/uploads/")
        path = upload.split(self.address, 1)[-1]
        self._call("PUT", f"{path}{'&' if '?' in path else '?'}digest={digest(data)}", data)
        return {"size": len(data), "digest": digest(data)}

    def push(self, image: Image, tag: str = "latest", name: str | None = None) -> str:
        """Push an image; the digest of its manifest."""
        name = name or image.name
        config = self.blob(name, image.config_bytes())
        layers = [self.blob(name, gzip.compress(tar, 1, mtime=0)) for tar in image.layers]
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": f"{DOCKER}.distribution.manifest.v2+json",
                "config": {"mediaType": f"{DOCKER}.container.image.v1+json"} | config,
                "layers": [
                    {"mediaType": f"{DOCKER}.image.rootfs.diff.tar.gzip"} | row for row in layers
                ],
            }
        ).encode()
        self._call(
            "PUT",
            f"/v2/{name}/manifests/{tag}",
            manifest,
            f"{DOCKER}.distribution.manifest.v2+json",
        )
        return digest(manifest)


def archive(images: dict[str, Image]) -> bytes:
    """A `docker save` archive of {`repo:tag`: image}."""
    entries: dict[str, bytes] = {}
    rows = []
    for tag, image in images.items():
        config = image.config_bytes()
        config_name = digest(config).removeprefix("sha256:") + ".json"
        names = [f"{digest(tar).removeprefix('sha256:')}/layer.tar" for tar in image.layers]
        entries |= {config_name: config} | dict(zip(names, image.layers, strict=True))
        rows.append({"Config": config_name, "RepoTags": [tag], "Layers": names})
    return layer([("manifest.json", json.dumps(rows).encode()), *entries.items()])
