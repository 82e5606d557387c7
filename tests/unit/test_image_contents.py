"""hack/image-contents: the files of Ratchet's image over its base."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "hack" / "image-contents"
# Files that pip would install, of packages from which the script removes parts and of one that it keeps.
INSTALLED = (
    "ratchet/__init__.py",
    "ratchet/cli/main.py",
    "ratchet/schemas/links.json",
    "ratchet/dev/__init__.py",
    "ratchet/dev/api/server.py",
    "ratchet/dev/examples/10-ratchet.conf",
    "ratchet_cni-0.1.0.dist-info/METADATA",
    "kubernetes/client/__init__.py",
    "kubernetes/aio/__init__.py",
    "pyroute2/__init__.py",
    "pyroute2/tests/__init__.py",
    "bin/ratchet",
)


@pytest.fixture
def pip(tmp_path: Path) -> Path:
    """A fake of `python -m pip install --target SITE WHEEL`."""
    program = tmp_path / "python"
    create_files = "\n".join(f'mkdir -p "$site/{Path(file).parent}" && : > "$site/{file}"' for file in INSTALLED)
    find_site = 'while [ "$1" != --target ]; do shift; done\nsite=$2\necho "$3" > "$site.wheel"'
    program.write_text(f"#!/bin/sh\nset -e\n{find_site}\n{create_files}\n")
    program.chmod(0o755)
    return program


def test_development_tools_and_tests_are_removed(pip: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    subprocess.run([SCRIPT, root, pip, "ratchet.whl"], check=True)
    site = root / "opt" / "ratchet" / "lib"
    assert site.with_suffix(".wheel").read_text() == "ratchet.whl[agent]\n"
    assert sorted(str(path.relative_to(site)) for path in site.rglob("*") if path.is_file()) == [
        "kubernetes/client/__init__.py",
        "pyroute2/__init__.py",
        "ratchet/__init__.py",
        "ratchet/cli/main.py",
        "ratchet/schemas/links.json",
        "ratchet_cni-0.1.0.dist-info/METADATA",
    ]
    assert os.access(root / "usr" / "local" / "bin" / "ratchet", os.X_OK)
