"""A Python to take along: for nodes that have none, or another one than Ratchet needs.

A folder with an interpreter, what it is linked to down to the loader and the C library, the standard library, and the
packages that the plugin needs: all of it copied from where this is running, which is Ratchet's image as a rule. It may
lie anywhere, and be moved: its launcher (shim/launcher.c) finds the rest by its own place. Folders are named by their
content and never changed, so that a call that runs, and imports as it goes, has to the end what it began with.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import py_compile
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from ratchet.errors import RatchetError
from ratchet.install.compiled import find_compiled
from ratchet.install.packages import needed_files
from ratchet.node.files import replacing

BUNDLES = "ratchet.d"
LAUNCHER = "launcher"
PLUGIN = "plugin.py"
LOADER, PYTHON, PACKAGES = Path("lib/ld.so"), Path("bin/python3"), Path("packages")
# Parts of the standard library that are programs of their own, or tests.
_UNUSED = {"test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "pydoc_data", "venv"}
_UNUSED |= {"site-packages", "dist-packages", "__pycache__"}
_UNUSED_MODULES = ("_tkinter.", "_test", "_ctypes_test.", "config-")
_BEGINNING = f"""import sys

sys.path.append(__file__.removesuffix("/{PLUGIN}") + "/{PACKAGES}")
"""


def put_bundle(bin_dir: Path, plugin: str) -> Path:
    """Have a bundle below `bin_dir` that runs this program as the plugin; its launcher. Raises RatchetError."""
    launcher = find_compiled(LAUNCHER)
    if launcher is None:
        raise RatchetError(
            f"cannot bring Python along: there is no launcher for this machine ({os.uname().machine})",
            details="wheels have it for x86_64 and aarch64; in a checkout `make install` builds it, with a C compiler",
        )
    files = dict(_files(launcher))
    folder = bin_dir / BUNDLES / _name(files, plugin)
    if not folder.is_dir():
        try:
            _make(folder, files, plugin)
        except OSError as cause:
            raise RatchetError(f"cannot write {folder}: {cause.strerror or cause}") from cause
    return folder / LAUNCHER


def remove_others(bin_dir: Path, launcher: Path) -> None:
    """Remove all bundles but this one, and the youngest of the others: calls of it may run yet."""
    others = [folder for folder in _folders(bin_dir) if folder != launcher.parent]
    for folder in sorted(others, key=lambda one: one.stat().st_mtime)[:-1]:
        _remove(folder)


def remove_all(bin_dir: Path) -> list[Path]:
    """Remove every bundle, and their folder; what was removed. Raises RatchetError."""
    folder = bin_dir / BUNDLES
    if not folder.is_dir():
        return []
    _remove(folder)
    return [folder]


def _folders(bin_dir: Path) -> Iterable[Path]:
    folder = bin_dir / BUNDLES
    return list(folder.iterdir()) if folder.is_dir() else []


def _files(launcher: Path) -> Iterator[tuple[Path, Path]]:
    """The path of each file in a bundle, and where it comes from."""
    yield Path(LAUNCHER), launcher
    python = Path(sys.executable).resolve()
    yield PYTHON, python
    library = Path(sysconfig.get_path("stdlib"))
    into = Path("lib") / f"python{sys.version_info.major}.{sys.version_info.minor}"
    standard = [(into / path.relative_to(library), path) for path in _walk(library)]
    packages = [(PACKAGES / relative, source) for source, relative in needed_files()]
    yield from standard
    yield from packages
    loader = _loader()
    yield LOADER, loader
    linked = [python, *(source for path, source in (*standard, *packages) if _is_shared(path))]
    for source in sorted({one for program in linked for one in _libraries(loader, program)}):
        if source.name != loader.name:
            yield Path("lib") / source.name, source


def _walk(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name in _UNUSED or path.name.startswith(_UNUSED_MODULES):
            continue
        if path.is_dir():
            yield from _walk(path)
        elif path.suffix in (".py", ".so"):
            yield path


def _is_shared(path: Path) -> bool:
    return path.suffix == ".so"


def _loader() -> Path:
    """The loader that this process was started by."""
    found = re.search(r"/\S*/ld-linux\S*", Path("/proc/self/maps").read_text())
    if found is None:
        raise RatchetError("cannot bring Python along: this one is not linked to the GNU C library")
    return Path(found[0])


def _libraries(loader: Path, program: Path) -> Iterator[Path]:
    """The shared libraries that a program or another library is linked to, as the loader finds them (ld.so(8))."""
    done = subprocess.run([loader, "--list", program], capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        name, arrow, rest = line.strip().partition(" => ")
        if not arrow:
            continue
        if rest == "not found":
            raise RatchetError(f"cannot bring Python along: {program} needs {name}, which is not here")
        yield Path(rest.partition(" (")[0])


def _name(files: dict[Path, Path], plugin: str) -> str:
    digest = hashlib.sha256((_BEGINNING + plugin).encode())
    for path, source in files.items():
        digest.update(f"\0{path}\0".encode())
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _make(folder: Path, files: dict[Path, Path], plugin: str) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as partial:
        partial.mkdir(mode=0o700)
        for path, source in files.items():
            target = partial / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
            if path.suffix == ".py":
                _take_bytecode(source, target)
        (partial / PLUGIN).write_text(_BEGINNING + plugin)
        partial.chmod(0o755)


def _take_bytecode(source: Path, target: Path) -> None:
    """Give a module the bytecode that its source has here, if that is of it, or else compile it."""
    present = Path(importlib.util.cache_from_source(str(source)))
    into = Path(importlib.util.cache_from_source(str(target)))
    if present.is_file() and _is_bytecode_of(present, source):
        into.parent.mkdir(exist_ok=True)
        shutil.copy(present, into)
    else:
        # Some of what is in packages is a template of a module, and no module.
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile(str(target), quiet=2, invalidation_mode=mode)


def _is_bytecode_of(bytecode: Path, source: Path) -> bool:
    """Whether it is what Python would take (PEP 552): never checked, or of this time and size, which a copy keeps."""
    with bytecode.open("rb") as file:
        head = file.read(16)
    flags, stat = int.from_bytes(head[4:8], "little"), source.stat()
    of_source = (int(stat.st_mtime) & 0xFFFFFFFF, stat.st_size & 0xFFFFFFFF)
    times = (int.from_bytes(head[8:12], "little"), int.from_bytes(head[12:16], "little"))
    return head[:4] == importlib.util.MAGIC_NUMBER and (flags == 1 or (flags == 0 and times == of_source))


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except OSError as cause:
        raise RatchetError(f"cannot remove {folder}: {cause.strerror}") from cause
