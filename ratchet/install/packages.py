"""The installed Python packages that the plugin needs: Ratchet and its dependencies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import ratchet

# Tools for a developer's machine, with the embedded API server and the demo.
_OWN_UNUSED = "dev"
# The Kubernetes client contains a second client, for asyncio, and a class for each kind and API group. Ratchet uses
# plain JSON.
_UNUSED_DISTRIBUTIONS = {"aiohttp", "aiohttp-retry"}
_UNUSED = ("kubernetes/aio/", "kubernetes/client/api/", "kubernetes/client/models/")


def needed_files() -> Iterator[tuple[Path, Path]]:
    """The path of each file of these packages, and its path relative to a folder of packages. No bytecode."""
    own = Path(ratchet.__file__).parent
    for path in sorted(own.rglob("*")):
        parts = path.relative_to(own).parts
        if path.is_file() and parts[0] != _OWN_UNUSED and "__pycache__" not in parts:
            yield path, path.relative_to(own.parent)
    for one in _dependencies("ratchet-cni", set()):
        for file in one.files or []:
            source = Path(str(one.locate_file(file)))
            if _is_wanted(file.as_posix()) and source.is_file():
                yield source, Path(file)


def _dependencies(name: str, seen: set[str]) -> Iterator[Distribution]:
    for requirement in distribution(name).requires or []:
        head, _, marker = requirement.partition(";")
        found = re.match(r"[\w.-]+", head)
        needed = re.sub(r"[-_.]+", "-", found[0]).lower() if found else ""
        if not needed or needed in seen or needed in _UNUSED_DISTRIBUTIONS or "extra" in marker:
            continue
        seen.add(needed)
        try:
            yield distribution(needed)
        except PackageNotFoundError:
            continue  # for another operating system, or pip would have installed it
        yield from _dependencies(needed, seen)


def _is_wanted(file: str) -> bool:
    inside = not file.startswith("..") and "__pycache__" not in file
    return inside and (not file.startswith(_UNUSED) or file == "kubernetes/client/models/__init__.py")
