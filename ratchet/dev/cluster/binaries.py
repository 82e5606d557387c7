"""What a cluster is run with: Kubernetes, built once and kept outside the checkout; the rest from Debian's packages."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ratchet.errors import RatchetError

REPOSITORY = Path(__file__).resolve().parents[3]
SOURCE = REPOSITORY / "hack" / "kubernetes"
DAEMONS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet")
# The flannel plugin as it was when it was still one of the reference plugins.
FLANNEL = "github.com/containernetworking/plugins/plugins/meta/flannel@v0.9.1"
# Executables of Debian's packages, each with the package's name.
PACKAGES = {
    "etcd": "etcd-server",
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "busybox": "busybox-static",
}
SAY_SECONDS = 5.0

Say = Callable[[str], None]


def cache() -> Path:
    """Where what is built is kept, whatever becomes of the checkout ($XDG_CACHE_HOME, or ~/.cache)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ratchet"


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
        with made_whole(folder) as partial:
            _go("install", FLANNEL, say=say, GOBIN=str(partial), GOFLAGS="-mod=mod")
    return folder / "flannel"


def require_packages() -> None:
    """Raises RatchetError that names the Debian packages which are missing."""
    missing = {package for program, package in PACKAGES.items() if shutil.which(program) is None}
    if missing:
        raise RatchetError(
            f"cannot run a cluster without {', '.join(sorted(missing))} (Debian's names)",
            details="as root on Debian, `make cluster-up` installs them",
        )


@contextmanager
def made_whole(folder: Path) -> Iterator[Path]:
    """A folder to put things into, which becomes `folder` once the block has ended well, or goes."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _build(folder: Path, version: str, say: Say) -> None:
    numbers = version.removeprefix("v").split(".")
    package = "k8s.io/component-base/version"
    said = {"gitVersion": version, "gitMajor": numbers[0], "gitMinor": numbers[1]}
    flags = "-s -w " + " ".join(f"-X {package}.{key}={value}" for key, value in said.items())
    with made_whole(folder) as partial:
        output = str(partial / "kubernetes")
        _go("build", "-v", "-trimpath", "-tags", "netgo", "-ldflags", flags, "-o", output, ".", say=say)
        for daemon in DAEMONS:
            (partial / daemon).symlink_to("kubernetes")


def _go(*argv: str, say: Say, **environment: str) -> None:
    """Run Go, telling how far it is. Raises RatchetError with the end of what it printed."""
    if shutil.which("go") is None:
        raise RatchetError(
            "cannot build Kubernetes: Go is missing", details="install Go 1.24 or later (https://go.dev)"
        )
    process = subprocess.Popen(
        ["go", *argv],
        cwd=SOURCE,
        env={**os.environ, "CGO_ENABLED": "0", **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    began = said = time.monotonic()
    lines: list[str] = []
    with process:
        assert process.stdout is not None  # noqa: S101
        for line in process.stdout:
            lines.append(line)
            if time.monotonic() - said > SAY_SECONDS:
                said = time.monotonic()
                say(f"  {said - began:4.0f} s: {len(lines)} steps, {line.strip()}")
    if process.returncode != 0:
        raise RatchetError(
            f"cannot build with Go: {''.join(lines[-15:]).strip()}",
            details="Go needs its modules: from its cache, or from where GOPROXY says",
        )
