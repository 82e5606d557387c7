"""Build Ratchet's image without a container engine: `hack/image`.

The content is that of Containerfile, from the same script (hack/image-contents). The base is made by debootstrap, once,
and kept outside the checkout.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ratchet import __version__
from ratchet.dev import debian
from ratchet.dev.building import REPOSITORY, Report, cache_folder, new_folder, run
from ratchet.dev.oci import Image, Layer, write_archive
from ratchet.errors import RatchetError

NAME = "localhost/ratchet:dev"
SUITE, PYTHON = "bookworm", "3.11"
COMPILE = ("python3", "-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash")
MB = 1_000_000


def make(archive: Path, report: Report, wheel: Path | None = None) -> None:
    """Write the image as an OCI archive. Builds a wheel if none is given. Raises RatchetError."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor() as executor:
        base = executor.submit(_base, report)
        built = executor.submit(lambda: wheel or _wheel(Path(folder) / "wheel", report))
        filled = Path(folder) / "filled"
        own = _own(filled, built.result(), base.result(), report)
        lower = Layer.of(base.result(), compress=True)
    image = Image(
        NAME,
        ["/usr/local/bin/ratchet"],
        {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONUNBUFFERED": "1"},
        {"org.opencontainers.image.title": "ratchet", "org.opencontainers.image.version": __version__},
        user="65532",
    )
    archive.parent.mkdir(parents=True, exist_ok=True)
    write_archive(image, [lower, own], archive)
    report(
        f"{NAME} in {archive}: {len(own.content) / MB:.1f} MB compressed over a base of "
        f"{len(lower.content) / MB:.1f} MB (Debian {SUITE}, Python {PYTHON})"
    )


def _base(report: Report) -> Path:
    folder = cache_folder() / f"debian-{SUITE}-python{PYTHON}"
    if not folder.is_dir():
        report(f"Debian {SUITE} with Python, into {folder}, once")
        with new_folder(folder) as partial:
            debian.bootstrap(partial, SUITE, [f"python{PYTHON}-minimal", "python3"], report)
            # Otherwise Python compares bytecode with the mtime of its source, which files in a layer do not keep.
            run("compileall", ["chroot", str(partial), *COMPILE, f"/usr/lib/python{PYTHON}"], report)
            debian.strip(partial)
    return folder


def _wheel(folder: Path, report: Report) -> Path:
    report("the wheel, with the shims")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", str(folder), str(REPOSITORY)]
    # In a kept cache, the C library of the shims is compiled once.
    run("pip", command, report, {"ZIG_GLOBAL_CACHE_DIR": str(cache_folder() / "zig")})
    return next(folder.glob("*.whl"))


def _own(filled: Path, wheel: Path, base: Path, report: Report) -> Layer:
    """The layer over the base: packages, bytecode compiled by the base's Python, and the list of packages."""
    report("what goes into the image")
    machine = os.uname().machine
    platforms = [f"--platform=manylinux{suffix}_{machine}" for suffix in ("2014", "_2_17", "_2_28", "_2_34")]
    options = ["--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp", *platforms]
    contents = [str(REPOSITORY / "hack" / "image-contents"), str(filled), sys.executable, str(wheel), *options]
    run("pip", contents, report)
    site = "/opt/ratchet/lib"
    packages = str(filled / site.lstrip("/"))
    run("compileall", ["unshare", "--mount", "sh", "-ec", _INSIDE, str(base), packages, site, *COMPILE, site], report)
    listed = subprocess.run(
        [sys.executable, str(REPOSITORY / "hack" / "image-sbom"), packages],
        check=True,
        capture_output=True,
    )
    (filled / "opt" / "ratchet" / "sbom.cdx.json").write_bytes(listed.stdout)
    return Layer.of(filled, compress=True)


# Run a command in the base, in a new mount namespace, with the packages at the path that they have in the image.
_INSIDE = """
base=$0 packages=$1 site=$2
shift 2
mount --make-rprivate /
mount -t tmpfs none /mnt
mkdir -p /mnt/work /mnt/upper /mnt/root
mount -t overlay overlay -o lowerdir="$base",upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
mkdir -p "/mnt/root$site"
mount --bind "$packages" "/mnt/root$site"
chroot /mnt/root "$@"
"""


def main() -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(prog="image", description="Build Ratchet's image without a container engine.")
    parser.add_argument(
        "file",
        type=Path,
        nargs="?",
        default=REPOSITORY / "build" / "ratchet.tar",
        help="archive to write (default: build/ratchet.tar)",
    )
    parser.add_argument("--wheel", type=Path, help="wheel of Ratchet (default: build one)")
    arguments = parser.parse_args()
    began = time.monotonic()
    try:
        make(
            arguments.file.absolute(),
            lambda line: print(f"  {time.monotonic() - began:5.1f} s  {line}", flush=True),
            arguments.wheel and arguments.wheel.absolute(),
        )
    except RatchetError as error:
        print(f"image: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
