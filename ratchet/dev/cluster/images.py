"""The pause image, and the image of the tests' pods."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from ratchet.dev.oci import Image, Layer, write_archive
from ratchet.errors import RatchetError

_LIBRARY = re.compile(r"(/\S+) \(0x")
TOOLS = "localhost/tools:1"
BUSYBOX = "docker.io/library/busybox:1.37"  # in the examples
_WAIT = "trap 'exit 0' TERM INT; while :; do sleep 3600 & wait $!; done"


def pause_image(archive: Path) -> None:
    """Write the pause image, which holds a pod's namespaces. It has busybox alone."""
    with tempfile.TemporaryDirectory() as folder:
        add_busybox(Path(folder))
        _write(Image("localhost/pause:1", ["/bin/sh", "-c", _WAIT]), Path(folder), archive)


def tools_image(archive: Path, name: str = TOOLS) -> None:
    """Write the image of the tests' pods: busybox, and the host's ip and ping."""
    with tempfile.TemporaryDirectory() as folder:
        add_busybox(Path(folder))
        for program in ("ip", "ping"):
            add_program(Path(folder), program)
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        _write(Image(name, ["/bin/sh", "-c", _WAIT], environment), Path(folder), archive)


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
    """Copy a program of the host and its shared libraries, at the same paths."""
    program = Path(_found(name))
    listed = subprocess.run(["ldd", str(program)], check=True, capture_output=True, text=True).stdout
    for path in (program, *map(Path, _LIBRARY.findall(listed))):
        target = root / str(path).lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path.resolve(), target)


def _write(image: Image, root: Path, archive: Path) -> None:
    write_archive(image, [Layer.of(root, compress=False)], archive)


def _found(program: str) -> str:
    if (path := shutil.which(program)) is None:
        raise RatchetError(f"cannot build an image with {program}: it is not installed")
    return path
