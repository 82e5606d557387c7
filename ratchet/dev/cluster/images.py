"""Container images without a container engine: a folder made into an OCI archive that containerd imports.

An archive is an OCI image layout in a tar file (opencontainers/image-spec, "image-layout.md"), with one layer.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ratchet.errors import RatchetError

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_LIBRARY = re.compile(r"(/\S+) \(0x")


@dataclass(frozen=True, slots=True)
class Image:
    """What an image says of itself: its full name with its tag, and how what is in it is run."""

    name: str
    command: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    user: str = ""

    def config(self, layer: bytes) -> dict[str, Any]:
        """The image's configuration (image-spec, "config.md"), `layer` being the digest of the layer's plain tar."""
        own: dict[str, Any] = {"Env": [f"{key}={value}" for key, value in self.environment.items()]}
        own |= {"Entrypoint": list(self.command)} if self.command else {}
        own |= {"Labels": dict(self.labels)} if self.labels else {}
        own |= {"User": self.user} if self.user else {}
        return {
            "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": own,
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        }


def write_archive(image: Image, root: Path, archive: Path, *, compress: bool) -> int:
    """Make an image of what is below `root`, whose owner is root then; how many bytes its layer has in the archive."""
    plain = _layer(root)
    layer = gzip.compress(plain, 9, mtime=0) if compress else plain
    kind = "tar+gzip" if compress else "tar"
    blobs: dict[str, bytes] = {}

    def blob(content: bytes, media: str) -> dict[str, Any]:
        blobs[_digest(content)] = content
        return {"mediaType": f"application/vnd.oci.image.{media}", "digest": _digest(content), "size": len(content)}

    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(_json(image.config(plain)), "config.v1+json"),
        "layers": [blob(layer, f"layer.v1.{kind}")],
    }
    named = {"annotations": {"io.containerd.image.name": image.name, "org.opencontainers.image.ref.name": image.name}}
    index = {"schemaVersion": 2, "manifests": [blob(_json(manifest), "manifest.v1+json") | named]}
    with tarfile.open(archive, "w") as tar:
        _add(tar, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(tar, "index.json", _json(index))
        for digest, content in blobs.items():
            _add(tar, f"blobs/sha256/{digest.partition(':')[2]}", content)
    return len(layer)


def pause_image(archive: Path) -> None:
    """What holds a pod's namespaces, of busybox alone."""
    with tempfile.TemporaryDirectory() as folder:
        add_busybox(Path(folder))
        line = "trap 'exit 0' TERM INT; while :; do sleep 3600 & wait $!; done"
        write_archive(Image("localhost/pause:1", ["/bin/sh", "-c", line]), Path(folder), archive, compress=False)


def tools_image(archive: Path) -> None:
    """What the pods of tests run: busybox, with the host's own ip and ping."""
    with tempfile.TemporaryDirectory() as folder:
        add_busybox(Path(folder))
        for program in ("ip", "ping"):
            add_program(Path(folder), program)
        line = "trap 'exit 0' TERM INT; while :; do sleep 3600 & wait $!; done"
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        image = Image("localhost/tools:1", ["/bin/sh", "-c", line], environment)
        write_archive(image, Path(folder), archive, compress=False)


def add_busybox(root: Path) -> None:
    (root / "bin").mkdir(parents=True)
    (root / "tmp").mkdir()
    shutil.copy(_found("busybox"), root / "bin" / "busybox")
    names = subprocess.run(["busybox", "--list"], check=True, capture_output=True, text=True).stdout.split()
    for name in names:
        if name not in ("busybox", "ip", "ping"):
            (root / "bin" / name).symlink_to("busybox")
    etc = root / "etc"
    etc.mkdir()
    (etc / "passwd").write_text("root:x:0:0:root:/:/bin/sh\n")


def add_program(root: Path, name: str) -> None:
    """One of the host's programs, with the libraries that it is linked with, where it looks for them."""
    program = Path(_found(name))
    listed = subprocess.run(["ldd", str(program)], check=True, capture_output=True, text=True).stdout
    for path in (program, *map(Path, _LIBRARY.findall(listed))):
        target = root / str(path).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path.resolve(), target)


def _found(program: str) -> str:
    if (path := shutil.which(program)) is None:
        raise RatchetError(f"cannot make an image with {program}: it is not installed")
    return path


def _layer(root: Path) -> bytes:
    """The files below a folder as a tar that is the same each time."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(root.rglob("*")):
            tar.add(path, str(path.relative_to(root)), recursive=False, filter=_anonymous)
    return buffer.getvalue()


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def _json(content: object) -> bytes:
    return json.dumps(content, sort_keys=True).encode()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
