"""OCI archives of images: index, blobs by digest, configuration and reproducible layers."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from ratchet.dev.oci import Image, Layer, write_archive


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "tool").write_text("#!/bin/sh\n")
    (folder / "bin" / "tool").chmod(0o755)
    (folder / "bin" / "other").symlink_to("tool")
    return folder


class Archive:
    """The contents of an archive. `blob` checks the digest and the size of what it returns."""

    def __init__(self, path: Path) -> None:
        with tarfile.open(path) as tar:
            self.files = {one.name: tar.extractfile(one).read() for one in tar}  # type: ignore[union-attr]
        self.index = json.loads(self.files["index.json"])
        self.manifest: dict[str, Any] = json.loads(self.blob(self.index["manifests"][0]))
        self.config: dict[str, Any] = json.loads(self.blob(self.manifest["config"]))

    def blob(self, descriptor: dict[str, Any]) -> bytes:
        content = self.files[f"blobs/sha256/{descriptor['digest'].partition(':')[2]}"]
        assert f"sha256:{hashlib.sha256(content).hexdigest()}" == descriptor["digest"]
        assert len(content) == descriptor["size"]
        return content


IMAGE = Image("localhost/x:1", ["/bin/tool"], {"PATH": "/bin"}, {"a": "b"}, user="65532")


@pytest.mark.parametrize("compress", [True, False])
def test_the_index_leads_to_the_files_of_the_layer(root: Path, tmp_path: Path, compress: bool) -> None:
    write_archive(IMAGE, [Layer.of(root, compress=compress)], tmp_path / "x.tar")
    archive = Archive(tmp_path / "x.tar")
    assert json.loads(archive.files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    assert archive.index["manifests"][0]["annotations"]["io.containerd.image.name"] == "localhost/x:1"
    (layer,) = archive.manifest["layers"]
    content = archive.blob(layer)
    plain = gzip.decompress(content) if compress else content
    assert layer["mediaType"].endswith("tar+gzip" if compress else "tar")
    assert archive.config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(plain).hexdigest()}"]
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        found = {one.name: (one.mode & 0o111 != 0, one.linkname, one.uid, one.mtime) for one in tar if not one.isdir()}
    assert found == {"bin/tool": (True, "", 0, 0), "bin/other": (True, "tool", 0, 0)}


def test_the_config_has_entrypoint_environment_labels_and_user(root: Path, tmp_path: Path) -> None:
    write_archive(IMAGE, [Layer.of(root, compress=False)], tmp_path / "x.tar")
    config = Archive(tmp_path / "x.tar").config["config"]
    expected = {"Entrypoint": ["/bin/tool"], "Env": ["PATH=/bin"], "Labels": {"a": "b"}, "User": "65532"}
    assert config == expected


def test_layers_keep_their_order(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").touch()
    layers = [Layer.of(root, compress=True), Layer.of(other, compress=True)]
    write_archive(IMAGE, layers, tmp_path / "x.tar")
    assert Archive(tmp_path / "x.tar").config["rootfs"]["diff_ids"] == [layer.plain for layer in layers]


def test_a_layer_does_not_depend_on_modification_times(root: Path) -> None:
    first = Layer.of(root, compress=True)
    (root / "bin" / "tool").touch()
    assert Layer.of(root, compress=True) == first
