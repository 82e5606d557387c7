"""Ratchet's own image without a container engine: what Containerfile makes, over a base that debootstrap makes.

What goes in is the same, by the same script (hack/image-contents). The base is made once and kept outside the checkout.
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
from ratchet.dev.building import REPOSITORY, Say, cache, new_folder, run
from ratchet.dev.oci import Image, Layer, write_archive
from ratchet.errors import RatchetError

NAME = "localhost/ratchet:dev"
SUITE, PYTHON = "bookworm", "3.11"
COMPILE = ("python3", "-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash")
MB = 1_000_000


def make(archive: Path, say: Say, wheel: Path | None = None) -> None:
    """Write the image as an OCI archive, with this wheel, or one that is built. Raises RatchetError."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor() as at_once:
        base = at_once.submit(_base, say)
        built = at_once.submit(lambda: wheel or _wheel(Path(folder) / "wheel", say))
        filled = Path(folder) / "filled"
        own = _own(filled, built.result(), base.result(), say)
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
    say(
        f"{NAME} in {archive}: {len(own.content) / MB:.1f} MB compressed over a base of "
        f"{len(lower.content) / MB:.1f} MB (Debian {SUITE}, Python {PYTHON})"
    )


def _base(say: Say) -> Path:
    folder = cache() / f"debian-{SUITE}-python{PYTHON}"
    if not folder.is_dir():
        say(f"Debian {SUITE} with Python, into {folder}, once")
        with new_folder(folder) as partial:
            debian.bootstrap(partial, SUITE, [f"python{PYTHON}-minimal", "python3"], say)
            # Bytecode goes by its source's time otherwise, which files in a layer do not have.
            run("compileall", ["chroot", str(partial), *COMPILE, f"/usr/lib/python{PYTHON}"], say)
            debian.strip(partial)
    return folder


def _wheel(folder: Path, say: Say) -> Path:
    say("the wheel, with the shims")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", str(folder), str(REPOSITORY)]
    # The shims' C library is compiled once, and not for every image.
    run("pip", command, say, {"ZIG_GLOBAL_CACHE_DIR": str(cache() / "zig")})
    return next(folder.glob("*.whl"))


def _own(filled: Path, wheel: Path, base: Path, say: Say) -> Layer:
    """What is over the base: packages for its Python, their bytecode by its Python, and a list of them."""
    say("what goes into the image")
    machine = os.uname().machine
    platforms = [f"--platform=manylinux{suffix}_{machine}" for suffix in ("2014", "_2_17", "_2_28", "_2_34")]
    options = ["--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp", *platforms]
    contents = [str(REPOSITORY / "hack" / "image-contents"), str(filled), sys.executable, str(wheel), *options]
    run("pip", contents, say)
    site = "/opt/ratchet/lib"
    packages = str(filled / site.lstrip("/"))
    run("compileall", ["unshare", "--mount", "sh", "-ec", _INSIDE, str(base), packages, site, *COMPILE, site], say)
    listed = subprocess.run(
        [sys.executable, str(REPOSITORY / "hack" / "image-sbom"), packages],
        check=True,
        capture_output=True,
    )
    (filled / "opt" / "ratchet" / "sbom.cdx.json").write_bytes(listed.stdout)
    return Layer.of(filled, compress=True)


# In a mount namespace of its own, a command in the base with the packages where the image will have them.
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
    """Run the command; its exit status."""
    parser = argparse.ArgumentParser(prog="image", description="Ratchet's image, without a container engine.")
    parser.add_argument("file", type=Path, nargs="?", default=REPOSITORY / "build" / "ratchet.tar", help="the archive")
    parser.add_argument("--wheel", type=Path, help="of Ratchet; otherwise one is built")
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
