"""Write OCI archives, which container engines and containerd import.

An archive is an OCI image layout in a tar file (opencontainers/image-spec, "image-layout.md").
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class Image:
    """The metadata of an image. `name` is the full name with the tag."""

    name: str
    command: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    user: str = "0"

    def config(self, layers: Sequence[Layer]) -> dict[str, Any]:
        """The image configuration (image-spec, "config.md")."""
        own: dict[str, Any] = {"Env": [f"{key}={value}" for key, value in self.environment.items()]}
        own |= {"User": self.user}
        own |= {"Entrypoint": list(self.command)} if self.command else {}
        own |= {"Labels": dict(self.labels)} if self.labels else {}
        return {
            "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": own,
            "rootfs": {"type": "layers", "diff_ids": [layer.plain for layer in layers]},
        }


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer: its content in the archive, and the digest of its uncompressed tar."""

    content: bytes
    plain: str
    compressed: bool

    @classmethod
    def of(cls, root: Path, *, compress: bool) -> Layer:
        """The files below a folder, owned by root. The result is reproducible."""
        plain = _tar(root)
        return cls(gzip.compress(plain, 6, mtime=0) if compress else plain, _digest(plain), compress)

    @property
    def media(self) -> str:
        return "layer.v1.tar+gzip" if self.compressed else "layer.v1.tar"


def write_archive(image: Image, layers: Sequence[Layer], archive: Path) -> None:
    """Write an image. The first layer is the lowest."""
    blobs: dict[str, bytes] = {}

    def blob(content: bytes, media: str) -> dict[str, Any]:
        blobs[_digest(content)] = content
        return {"mediaType": f"application/vnd.oci.image.{media}", "digest": _digest(content), "size": len(content)}

    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(_json(image.config(layers)), "config.v1+json"),
        "layers": [blob(layer.content, layer.media) for layer in layers],
    }
    named = {"annotations": {"io.containerd.image.name": image.name, "org.opencontainers.image.ref.name": image.name}}
    index = {"schemaVersion": 2, "manifests": [blob(_json(manifest), "manifest.v1+json") | named]}
    with tarfile.open(archive, "w") as tar:
        _add(tar, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(tar, "index.json", _json(index))
        for digest, content in blobs.items():
            _add(tar, f"blobs/sha256/{digest.partition(':')[2]}", content)


def _tar(root: Path) -> bytes:
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
