"""What `make install` does for the programs in C: builds some that run, or says in a line why there are none."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.shim.conftest import ROOT, installed


def build(target: Path, compiler: str) -> subprocess.CompletedProcess[str]:
    command = ["env", f"CC={compiler}", str(ROOT / "hack" / "run"), "compiled", str(target)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def compiler_that(folder: Path, script: str) -> str:
    path = folder / "cc"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_the_machines_compiler_builds_one_that_runs(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler, cc")
    target = tmp_path / "built" / "ratchet"
    done = build(target, "cc")
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in target.parent.iterdir()] == ["ratchet"]
    assert installed(target, tmp_path).call("VERSION").status == 0


def test_the_launcher_is_built_as_well(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("needs a C compiler, cc")
    target = tmp_path / "built" / "launcher"
    done = build(target, "cc")
    assert (done.returncode, done.stderr) == (0, "")
    alone = subprocess.run([target], capture_output=True, text=True, check=False)
    assert (alone.returncode, alone.stdout) == (1, "")
    assert alone.stderr == f"cannot run {target.parent}/lib/ld.so: No such file or directory\n"


def test_without_a_static_library_it_is_linked_to_the_machines_own(tmp_path: Path) -> None:
    if shutil.which("cc") is None or shutil.which("musl-gcc") is not None:
        pytest.skip("needs a C compiler, cc, and no musl-gcc, which goes before it")
    compiler = compiler_that(tmp_path, 'case "$*" in *-static*) exit 1 ;; esac\nexec cc "$@"')
    target = tmp_path / "built" / "ratchet"
    done = build(target, compiler)
    assert done.returncode == 0
    assert "no static C library is installed" in done.stdout
    assert installed(target, tmp_path).call("VERSION").status == 0


def test_without_a_compiler_one_line_says_so(tmp_path: Path) -> None:
    done = build(tmp_path / "built" / "ratchet", str(tmp_path / "no-such-cc"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["==> skipping shim/ratchet.c: no C compiler is installed"]
    assert list(tmp_path.iterdir()) == []


def test_a_compiler_that_does_not_work_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    if shutil.which("musl-gcc") is not None:
        pytest.skip("musl-gcc, which is here, goes before it")
    target = tmp_path / "built" / "ratchet"
    done = build(target, compiler_that(tmp_path, "echo there are no headers >&2\nexit 1"))
    assert done.returncode == 0
    assert "cannot compile shim/ratchet.c" in done.stdout
    assert "there are no headers" in done.stderr
    assert list(target.parent.iterdir()) == []
