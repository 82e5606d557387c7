"""What a cluster is run with and no package brings: Kubernetes, and flannel's plugin, each built once from source."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

from ratchet.dev.building import REPOSITORY, Say, cache, new_folder, run
from ratchet.errors import RatchetError

SOURCE = REPOSITORY / "hack" / "kubernetes"
DAEMONS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet")
# The flannel plugin as it was when it was still one of the reference plugins.
FLANNEL = "github.com/containernetworking/plugins/plugins/meta/flannel@v0.9.1"


def kubernetes_version() -> str:
    """As Go modules have it, with its v."""
    found = re.search(r"^(?:require|\t)\s*k8s\.io/kubernetes (v\S+)$", (SOURCE / "go.mod").read_text(), re.MULTILINE)
    if found is None:
        raise RatchetError(f"cannot tell the version of Kubernetes: {SOURCE}/go.mod requires none")
    return found[1]


def kubernetes(say: Say) -> Path:
    """The folder with Kubernetes's daemons, which are built if they have not been. Raises RatchetError."""
    if not SOURCE.is_dir():
        raise RatchetError(f"cannot build Kubernetes: there is no {SOURCE}; run this from a checkout of Ratchet")
    version = kubernetes_version()
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(SOURCE.iterdir()))).hexdigest()[:12]
    folder = cache() / f"kubernetes-{version}-{digest}"
    if not folder.is_dir():
        say(f"building Kubernetes {version} into {folder}, once: it takes some minutes")
        _build(folder, version, say)
    return folder


def flannel(say: Say) -> Path:
    """The flannel CNI plugin, which is built if it has not been. Raises RatchetError."""
    folder = cache() / FLANNEL.rpartition("/")[2]
    if not folder.is_dir():
        say(f"building {FLANNEL}")
        with new_folder(folder) as partial:
            _go("install", FLANNEL, say=say, GOBIN=str(partial), GOFLAGS="-mod=mod")
    return folder / "flannel"


def _build(folder: Path, version: str, say: Say) -> None:
    numbers = version.removeprefix("v").split(".")
    package = "k8s.io/component-base/version"
    said = {"gitVersion": version, "gitMajor": numbers[0], "gitMinor": numbers[1]}
    flags = "-s -w " + " ".join(f"-X {package}.{key}={value}" for key, value in said.items())
    with new_folder(folder) as partial:
        output = str(partial / "kubernetes")
        _go("build", "-trimpath", "-tags", "netgo", "-ldflags", flags, "-o", output, ".", say=say)
        for daemon in DAEMONS:
            (partial / daemon).symlink_to("kubernetes")


def _go(*argv: str, say: Say, **environment: str) -> None:
    if shutil.which("go") is None:
        raise RatchetError(
            "cannot build Kubernetes: Go is missing", details="install Go 1.24 or later (https://go.dev)"
        )
    try:
        run(f"go {argv[0]}", ["go", *argv], say, {"CGO_ENABLED": "0", **environment}, SOURCE)
    except RatchetError as error:
        error.details = "Go needs its modules: from its cache, or from where GOPROXY says"
        raise
