"""A bundle: a copy of Python for nodes that have none, or another version than Ratchet needs.

A bundle is a folder with the interpreter, its shared libraries, the loader, the C library, the standard library, and
the packages of the plugin. All of it is copied from this system, usually Ratchet's image. A bundle works in any folder:
its launcher (shim/launcher.c) finds the other files by its own path. The name of a bundle is the digest of its content.
A bundle never changes, so a running call can import from it until the call ends.
"""

from __future__ import annotations

import ctypes
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
from ratchet.install.files import remove_folder, remove_partial, unwritable
from ratchet.install.packages import needed_files
from ratchet.node.files import replacing

BUNDLES = "ratchet.d"
LAUNCHER = "launcher"
PLUGIN = "plugin.py"
LOADER, PYTHON, PACKAGES = Path("lib/ld.so"), Path("bin/python3"), Path("packages")
# Parts of the standard library that the plugin does not need: programs, and tests.
_UNUSED = {"test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "pydoc_data", "venv"}
_UNUSED |= {"site-packages", "dist-packages", "__pycache__"}
_UNUSED_MODULES = ("_tkinter.", "_test", "_ctypes_test.", "config-")
_PROLOGUE = f"""import sys

sys.path.append(__file__.removesuffix("/{PLUGIN}") + "/{PACKAGES}")
"""


def put_bundle(bin_dir: Path, plugin: str) -> Path:
    """Create a bundle below `bin_dir`, if missing, and return its launcher.

    `plugin`: the Python code to run. Raises RatchetError.
    """
    files = dict(_files(find_launcher()))
    folder = bin_dir / BUNDLES / _name(files, plugin)
    try:
        remove_partial(folder.parent)
        if not _is_whole(folder, files, plugin):
            _make(folder, files, plugin)
    except OSError as cause:
        raise unwritable(folder, cause) from cause
    return folder / LAUNCHER


def find_launcher() -> Path:
    """The path of the launcher for this machine. Raises RatchetError if it was not built."""
    launcher = find_compiled(LAUNCHER)
    if launcher is None:
        raise RatchetError(
            f"cannot bundle Python: there is no launcher for this machine ({os.uname().machine})",
            details="wheels have it for x86_64 and aarch64; in a checkout, `make install` builds it with a C compiler",
        )
    return launcher


def remove_others(bin_dir: Path, launcher: Path) -> None:
    """Remove all bundles but this one and the youngest of the others, which running calls may use."""
    others = [folder for folder in _folders(bin_dir) if folder != launcher.parent]
    for folder in sorted(others, key=lambda one: one.stat().st_mtime)[:-1]:
        remove_folder(folder)


def remove_all(bin_dir: Path) -> list[Path]:
    """Remove all bundles and their folder, and return the removed paths. Raises RatchetError."""
    folder = bin_dir / BUNDLES
    if not folder.is_dir():
        return []
    remove_folder(folder)
    return [folder]


def _folders(bin_dir: Path) -> Iterable[Path]:
    folder = bin_dir / BUNDLES
    return list(folder.iterdir()) if folder.is_dir() else []


def _files(launcher: Path) -> Iterator[tuple[Path, Path]]:
    """The path of each file in a bundle, and its source."""
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
    """The dynamic loader of this process."""
    found = re.search(r"/\S*/ld-linux\S*", Path("/proc/self/maps").read_text())
    if found is None:
        raise RatchetError("cannot bundle Python: it is not linked to the GNU C library")
    return Path(found[0])


def _libraries(loader: Path, program: Path) -> Iterator[Path]:
    """The shared libraries of a program or library, as the loader finds them (ld.so(8))."""
    done = subprocess.run([loader, "--list", program], capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        name, arrow, rest = line.strip().partition(" => ")
        if not arrow:
            continue
        if rest == "not found":
            raise RatchetError(f"cannot bundle Python: {program} needs the library {name}, which is missing")
        yield Path(rest.partition(" (")[0])


def _name(files: dict[Path, Path], plugin: str) -> str:
    digest = hashlib.sha256((_PROLOGUE + plugin).encode())
    for path, source in files.items():
        digest.update(f"\0{path}\0".encode())
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _is_whole(folder: Path, files: dict[Path, Path], plugin: str) -> bool:
    """Whether a bundle exists with all its files, in their sizes. A disk that failed may have truncated some."""
    try:
        sizes = all((folder / path).stat().st_size == source.stat().st_size for path, source in files.items())
        return sizes and (folder / PLUGIN).read_text() == _PROLOGUE + plugin
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False


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
        (partial / PLUGIN).write_text(_PROLOGUE + plugin)
        partial.chmod(0o755)
        _sync(partial)
        if folder.is_dir():  # damaged
            remove_folder(folder)


def _sync(folder: Path) -> None:
    """Write the folder's file system to the disk (syncfs(2)): the rename that follows must not outlive its files."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
    finally:
        os.close(descriptor)


def _take_bytecode(source: Path, target: Path) -> None:
    """Copy the bytecode of a module if it is up to date, else compile the module."""
    present = Path(importlib.util.cache_from_source(str(source)))
    into = Path(importlib.util.cache_from_source(str(target)))
    if present.is_file() and _is_bytecode_of(present, source):
        into.parent.mkdir(exist_ok=True)
        shutil.copy(present, into)
    else:
        # quiet: some files of packages are templates of modules, with invalid syntax.
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile(str(target), quiet=2, invalidation_mode=mode)


def _is_bytecode_of(bytecode: Path, source: Path) -> bool:
    """Whether Python would use this bytecode (PEP 552): unchecked, or of the mtime and size of the source."""
    with bytecode.open("rb") as file:
        head = file.read(16)
    flags, stat = int.from_bytes(head[4:8], "little"), source.stat()
    of_source = (int(stat.st_mtime) & 0xFFFFFFFF, stat.st_size & 0xFFFFFFFF)
    times = (int.from_bytes(head[8:12], "little"), int.from_bytes(head[12:16], "little"))
    return head[:4] == importlib.util.MAGIC_NUMBER and (flags == 1 or (flags == 0 and times == of_source))
