"""The build of the C programs in `make install`, and the messages when it is skipped or fails."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.shim.conftest import ROOT, install_shim


def build(target: Path, compiler: str) -> subprocess.CompletedProcess[str]:
    command = ["env", f"CC={compiler}", str(ROOT / "hack" / "run"), "compiled", str(target)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def fake_compiler(folder: Path, script: str) -> str:
    path = folder / "cc"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_cc_builds_a_shim_that_runs(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler, cc")
    target = tmp_path / "built" / "ratchet"
    done = build(target, "cc")
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in target.parent.iterdir()] == ["ratchet"]
    assert install_shim(target, tmp_path).call("VERSION").status == 0


def test_cc_builds_the_launcher(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler, cc")
    target = tmp_path / "built" / "launcher"
    done = build(target, "cc")
    assert (done.returncode, done.stderr) == (0, "")
    alone = subprocess.run([target], capture_output=True, text=True, check=False)
    assert (alone.returncode, alone.stdout) == (1, "")
    assert alone.stderr == f"cannot run {target.parent}/lib/ld.so: No such file or directory\n"


def test_the_shim_is_linked_dynamically_without_a_static_c_library(tmp_path: Path) -> None:
    if shutil.which("cc") is None or shutil.which("musl-gcc") is not None:
        pytest.skip("needs a C compiler, cc, and no musl-gcc, which goes before it")
    compiler = fake_compiler(tmp_path, 'case "$*" in *-static*) exit 1 ;; esac\nexec cc "$@"')
    target = tmp_path / "built" / "ratchet"
    done = build(target, compiler)
    assert done.returncode == 0
    assert "no static C library is installed" in done.stdout
    assert install_shim(target, tmp_path).call("VERSION").status == 0


def test_a_missing_compiler_is_reported_in_one_line(tmp_path: Path) -> None:
    done = build(tmp_path / "built" / "ratchet", str(tmp_path / "no-such-cc"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["==> skipping shim/ratchet.c: no C compiler is installed"]
    assert list(tmp_path.iterdir()) == []


def test_a_failing_compiler_is_reported_and_leaves_no_file(tmp_path: Path) -> None:
    if shutil.which("musl-gcc") is not None:
        pytest.skip("musl-gcc, which is here, goes before it")
    target = tmp_path / "built" / "ratchet"
    done = build(target, fake_compiler(tmp_path, "echo there are no headers >&2\nexit 1"))
    assert done.returncode == 0
    assert "cannot compile shim/ratchet.c" in done.stdout
    assert "there are no headers" in done.stderr
    assert list(target.parent.iterdir()) == []
