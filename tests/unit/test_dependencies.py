"""Imports of each part of ratchet/, compared with the dependencies that pyproject.toml declares."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# The plugin's process imports every other part, so those must work in an installation without extras.
EXTRAS = {"agent": {"agent"}, "cli": {"graph", "completion"}, "dev": {"agent", "demo"}}


def part_of(path: Path) -> str:
    return path.relative_to(ROOT / "ratchet").parts[0]


PARTS = sorted({part_of(path) for path in (ROOT / "ratchet").rglob("*.py")})


def normalized(requirement: str) -> str:
    """The name of a distribution as PyPI compares it, without version and extras."""
    found = re.match(r"[\w.-]+", requirement)
    assert found
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def declared(part: str) -> set[str]:
    groups = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][name] for name in EXTRAS.get(part, ()))]
    return {normalized(requirement) for group in groups for requirement in group}


def imported(part: str) -> Iterator[tuple[str, str]]:
    """Each third-party top-level package that a part imports, at any place in a file, and that file."""
    for path in (ROOT / "ratchet").rglob("*.py"):
        if part_of(path) != part:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            for name in {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"ratchet"}:
                yield name, str(path.relative_to(ROOT))


@cache  # 0.3 s of CPU
def installed_distributions() -> Mapping[str, list[str]]:
    return packages_distributions()


def test_there_are_parts_with_and_without_extras() -> None:
    assert set(EXTRAS) <= set(PARTS)
    assert {"core", "node", "store", "datapath", "cni"} <= set(PARTS) - set(EXTRAS)


@pytest.mark.parametrize("part", PARTS)
def test_imports_are_declared_dependencies(part: str) -> None:
    distributions = installed_distributions()
    missing = {
        f"{file} imports {name}"
        for name, file in imported(part)
        if not {normalized(one) for one in distributions.get(name, [name])} & declared(part)
    }
    assert not missing
