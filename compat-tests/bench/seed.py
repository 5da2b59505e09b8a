#!/usr/bin/env python3
"""Make the benchmark's images in DIR and push them to a registry on loopback.

seed.py DIR [--registry 127.0.0.1:5055]

DIR/busybox.tar      a `docker load`-able image named busybox (Debian's busybox-static, every applet linked)
REGISTRY/big:gz,zst  about 570 MB in five layers of files found under /usr, mixed small and large, gzip and zstd
REGISTRY/para,parb,parc:latest  three images made of some of the same gzip layers; REGISTRY/busybox:latest

Needs: busybox-static, pigz, zstd, skopeo, and a docker-registry that serves REGISTRY:
  printf 'version: 0.1\\nstorage: {filesystem: {rootdirectory: DIR/registry}, delete: {enabled: true}}\\nhttp: {addr: 127.0.0.1:5055}\\n' > DIR/reg.yml
  docker-registry serve DIR/reg.yml
"""

import argparse
import hashlib
import json
import os
import pathlib
import shutil
import subprocess

SOURCES = [
    (["/usr/lib/x86_64-linux-gnu"], 190e6),
    (["/usr/lib/python3.11", "/usr/lib/git-core", "/usr/share/vim"], 120e6),
    (["/usr/share/doc", "/usr/share/perl", "/usr/share/cmake-3.25", "/usr/share/i18n"], 110e6),
    (["/usr/lib/gcc"], 120e6),
    (["/usr/share/man", "/usr/share/zoneinfo"], 70e6),
]
OCI = "application/vnd.oci.image"


def chosen_files(folders, cap):
    total, names = 0, []
    for folder in folders:
        for root, _, files in os.walk(folder):
            for name in sorted(files):
                path = os.path.join(root, name)
                size = os.lstat(path).st_size
                if total + size <= cap:
                    total += size
                    names.append(path.lstrip("/"))
    return names


class Layout:
    """An OCI image layout on disk."""

    def __init__(self, folder):
        shutil.rmtree(folder, ignore_errors=True)
        self.folder, self.manifests = folder, []
        (folder / "blobs/sha256").mkdir(parents=True)
        (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    def put(self, data, media_type):
        digest = hashlib.sha256(data).hexdigest()
        (self.folder / "blobs/sha256" / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    def image(self, name, layers, diff_ids):
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [{"created_by": "bench"}] * len(layers),
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.manifest.v1+json",
            "config": self.put(json.dumps(config).encode(), f"{OCI}.config.v1+json"),
            "layers": layers,
        }
        row = self.put(json.dumps(manifest).encode(), f"{OCI}.manifest.v1+json")
        self.manifests.append(row | {"annotations": {"org.opencontainers.image.ref.name": name}})
        (self.folder / "index.json").write_text(
            json.dumps({"schemaVersion": 2, "manifests": self.manifests})
        )

    def push(self, name, target):
        subprocess.run(
            [
                "skopeo",
                "copy",
                "-q",
                "--preserve-digests",
                "--dest-tls-verify=false",
                f"oci:{self.folder}:{name}",
                f"docker://{target}",
            ],
            check=True,
        )


def main():
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("dir", type=pathlib.Path)
    options.add_argument("--registry", default="127.0.0.1:5055")
    args = options.parse_args()
    base, registry = args.dir.resolve(), args.registry
    base.mkdir(parents=True, exist_ok=True)

    tars, diff_ids = [], []
    for number, (folders, cap) in enumerate(SOURCES):
        listing, tar = base / f"layer{number}.list", base / f"layer{number}.tar"
        listing.write_text("\n".join(chosen_files(folders, cap)))
        subprocess.run(
            ["tar", "-C", "/", "--sort=name", "--mtime=@0", "-cf", tar, "-T", listing], check=True
        )
        tars.append(tar)
        diff_ids.append("sha256:" + hashlib.sha256(tar.read_bytes()).hexdigest())

    total = sum(tar.stat().st_size for tar in tars) / 1e6
    print(
        f"image: {total:.0f} MB in {len(tars)} layers"
        + (
            ""
            if 450 < total < 700
            else ": not comparable with other runs, install what README.md lists"
        )
    )
    for tag, suffix, command in (
        ("gz", "gzip", ["pigz", "-6", "-n", "-c"]),
        ("zst", "zstd", ["zstd", "-3", "-T2", "-q", "-c"]),
    ):
        layout = Layout(base / f"oci-{tag}")
        layers = [
            layout.put(
                subprocess.run([*command, tar], stdout=subprocess.PIPE, check=True).stdout,
                f"{OCI}.layer.v1.tar+{suffix}",
            )
            for tar in tars
        ]
        layout.image("big", layers, diff_ids)
        layout.push("big", f"{registry}/big:{tag}")
        if tag == "gz":
            for name, parts in (("para", [0]), ("parb", [1, 3]), ("parc", [2])):
                layout.image(name, [layers[i] for i in parts], [diff_ids[i] for i in parts])
                layout.push(name, f"{registry}/{name}:latest")

    root = base / "busybox"
    shutil.rmtree(root, ignore_errors=True)
    for folder in ("bin", "tmp", "etc", "root", "proc", "sys", "dev"):
        (root / folder).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    (root / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"
    )
    (root / "etc/group").write_text("root:x:0:\nnobody:x:65534:\n")
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for applet in subprocess.run(
        ["/bin/busybox", "--list"], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    tar = base / "busybox-layer.tar"
    subprocess.run(
        ["tar", "-C", root, "--sort=name", "--mtime=@0", "--owner=0", "--group=0", "-cf", tar, "."],
        check=True,
    )
    layout = Layout(base / "oci-busybox")
    data = tar.read_bytes()
    layer = layout.put(
        subprocess.run(["gzip", "-n", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout,
        f"{OCI}.layer.v1.tar+gzip",
    )
    layout.image("busybox", [layer], ["sha256:" + hashlib.sha256(data).hexdigest()])
    layout.push("busybox", f"{registry}/busybox:latest")
    (base / "busybox.tar").unlink(missing_ok=True)
    subprocess.run(
        [
            "skopeo",
            "copy",
            "-q",
            f"oci:{layout.folder}:busybox",
            f"docker-archive:{base}/busybox.tar:busybox:latest",
        ],
        check=True,
    )


if __name__ == "__main__":
    main()
