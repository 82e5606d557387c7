"""Builds of the shim, compiled once for all tests: as shipped, and with sanitisers.

STAND_IN is the Python client, which replaces the shim if there is no compiler. BOTH is for tests of both programs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest

from ratchet.install import LAUNCHER, install
from tests.shim.playing import Node

ROOT = Path(__file__).parents[2]
SANITISED = ("-g", "-O1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
# Milliseconds. Only tests of timeouts use these, because the machine may be slow.
HASTY = (
    *("-DCONNECT_MS=150", "-DADD_MS=400", "-DDEL_MS=400", "-DCHECK_MS=400"),
    *("-DGC_MS=400", "-DSTATUS_MS=400", "-DVERSION_MS=400"),
)
SPOOL_LIMIT = 8
BUILDS = {
    "plain": (),
    "sanitised": (*SANITISED, f"-DSPOOL_FILES_MAX={SPOOL_LIMIT}"),
    "hasty": (*SANITISED, *HASTY),
    "hasty panel": (*SANITISED, "-DPANEL_ANSWER_MS=200", "-DPANEL_MS=400"),
    "no time for a panel": (*SANITISED, "-DPANEL_MS=0"),
}
STAND_IN = "stand-in"
BOTH = ("plain", "sanitised", STAND_IN)


@cache
def sanitisers_work() -> bool:
    command = ["cc", *SANITISED, "-x", "c", "-", "-o", "/dev/null"]
    return (
        subprocess.run(command, input=b"int main(void) { return 0; }", capture_output=True, check=False).returncode == 0
    )


class Compiler:
    """Compile each build on first use."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def shim(self, build: str) -> Path:
        if build == STAND_IN:
            return self._stand_in()
        if shutil.which("cc") is None:
            pytest.skip("needs a C compiler, cc")
        if SANITISED[0] in BUILDS[build] and not sanitisers_work():
            pytest.skip("needs a C compiler with -fsanitize=address,undefined")
        path = self._folder / build
        if not path.exists():
            command = ["cc", "@shim/flags", "-Werror", *BUILDS[build], "-o", str(path), "shim/ratchet.c"]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        return path

    def _stand_in(self) -> Path:
        path = self._folder / STAND_IN
        if not path.exists():
            with patch("ratchet.install.plugin.find_shim", return_value=None):
                install(self._folder / "bin", agent=True, fallback=False)
            (self._folder / "bin" / LAUNCHER).rename(path)
        return path


@pytest.fixture(scope="session")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    return Compiler(tmp_path_factory.mktemp("shim"))


@pytest.fixture(scope="session", params=["plain", "sanitised"])
def build(request: pytest.FixtureRequest, compiler: Compiler) -> Path:
    return compiler.shim(request.param)


def install_shim(shim: Path, folder: Path) -> Node:
    (folder / "bin").mkdir()
    # A hard link: a file that was just written cannot be executed while a forked process still has it open.
    os.link(shim, folder / "bin" / "ratchet")
    return Node(folder, folder / "bin" / "ratchet")


@pytest.fixture
def node(build: Path, tmp_path: Path) -> Node:
    return install_shim(build, tmp_path)


@pytest.fixture
def stand_in_node(compiler: Compiler, tmp_path: Path) -> Node:
    return install_shim(compiler.shim(STAND_IN), tmp_path)


@pytest.fixture
def plain_node(compiler: Compiler, tmp_path: Path) -> Node:
    return install_shim(compiler.shim("plain"), tmp_path)


@pytest.fixture
def sanitised_node(compiler: Compiler, tmp_path: Path) -> Node:
    return install_shim(compiler.shim("sanitised"), tmp_path)


@pytest.fixture
def hasty_node(compiler: Compiler, tmp_path: Path) -> Node:
    """A node whose shim times out after tenths of a second."""
    return install_shim(compiler.shim("hasty"), tmp_path)


@pytest.fixture
def hasty_panel_node(compiler: Compiler, tmp_path: Path) -> Node:
    """A node whose shim spends tenths of a second on the patch panel, and otherwise as much time as shipped."""
    return install_shim(compiler.shim("hasty panel"), tmp_path)
