"""The Python packages that the plugin needs, as they are installed here: Ratchet's own, and what it depends on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import ratchet

# The API's client has a second one in it, for asyncio, with a package below it; and a class for every kind and every
# group of kinds, which it imports when asked for. Ratchet speaks to the API in plain JSON.
_UNUSED_DISTRIBUTIONS = {"aiohttp", "aiohttp-retry"}
_UNUSED = ("kubernetes/aio/", "kubernetes/client/api/", "kubernetes/client/models/")


def needed_files() -> Iterator[tuple[Path, Path]]:
    """The files of these packages: where each is, and its path in a folder of packages. No bytecode."""
    own = Path(ratchet.__file__).parent
    for path in sorted(own.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
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
            continue  # for another system than this: pip would have installed it
        yield from _dependencies(needed, seen)


def _is_wanted(file: str) -> bool:
    inside = not file.startswith("..") and "__pycache__" not in file
    return inside and (not file.startswith(_UNUSED) or file == "kubernetes/client/models/__init__.py")
