"""Programs that no package has: Kubernetes and the flannel plugin. Each is built from source once."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

from ratchet.dev.building import REPOSITORY, Report, cache_folder, new_folder, run
from ratchet.errors import RatchetError

SOURCE = REPOSITORY / "hack" / "kubernetes"
DAEMONS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet")
# The last version of the flannel plugin among the reference plugins.
FLANNEL = "github.com/containernetworking/plugins/plugins/meta/flannel@v0.9.1"


def kubernetes_version() -> str:
    """The version of Kubernetes in go.mod, such as v1.34.0."""
    found = re.search(r"^(?:require|\t)\s*k8s\.io/kubernetes (v\S+)$", (SOURCE / "go.mod").read_text(), re.MULTILINE)
    if found is None:
        raise RatchetError(f"cannot read the version of Kubernetes: {SOURCE}/go.mod does not require it")
    return found[1]


def kubernetes(report: Report) -> Path:
    """Build the daemons of Kubernetes if missing, and return their folder. Raises RatchetError."""
    if not SOURCE.is_dir():
        raise RatchetError(f"cannot build Kubernetes: {SOURCE} is missing; run this in a checkout of Ratchet")
    version = kubernetes_version()
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(SOURCE.iterdir()))).hexdigest()[:12]
    folder = cache_folder() / f"kubernetes-{version}-{digest}"
    if not folder.is_dir():
        report(f"building Kubernetes {version} in {folder}, once; this takes some minutes")
        _build(folder, version, report)
    return folder


def flannel(report: Report) -> Path:
    """Build the flannel CNI plugin if missing, and return its path. Raises RatchetError."""
    folder = cache_folder() / FLANNEL.rpartition("/")[2]
    if not folder.is_dir():
        report(f"building {FLANNEL}")
        with new_folder(folder) as partial:
            _go("install", FLANNEL, report=report, GOBIN=str(partial), GOFLAGS="-mod=mod")
    return folder / "flannel"


def _build(folder: Path, version: str, report: Report) -> None:
    numbers = version.removeprefix("v").split(".")
    package = "k8s.io/component-base/version"
    variables = {"gitVersion": version, "gitMajor": numbers[0], "gitMinor": numbers[1]}
    flags = "-s -w " + " ".join(f"-X {package}.{key}={value}" for key, value in variables.items())
    with new_folder(folder) as partial:
        output = str(partial / "kubernetes")
        _go("build", "-trimpath", "-tags", "netgo", "-ldflags", flags, "-o", output, ".", report=report)
        for daemon in DAEMONS:
            (partial / daemon).symlink_to("kubernetes")


def _go(*argv: str, report: Report, **environment: str) -> None:
    if shutil.which("go") is None:
        raise RatchetError(
            "cannot build Kubernetes: Go is missing", details="install Go 1.24 or later (https://go.dev)"
        )
    try:
        run(f"go {argv[0]}", ["go", *argv], report, {"CGO_ENABLED": "0", **environment}, SOURCE)
    except RatchetError as error:
        error.details = "Go needs the modules, from its cache or from the proxy in GOPROXY"
        raise
