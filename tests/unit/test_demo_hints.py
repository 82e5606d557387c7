"""The commands that the demo prints can be typed as they are."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ratchet.dev.demo.terminal import runnable


def test_a_program_beside_the_interpreter_has_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    program = folder / "ratchet"
    program.touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.chdir(tmp_path)
    assert runnable("ratchet") == ".venv/bin/ratchet"
    monkeypatch.chdir("/")
    assert runnable("ratchet") == str(program).removeprefix("/")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", str(folder))
    assert runnable("ratchet") == "ratchet"


def test_a_program_that_is_nowhere_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", "/nowhere")
    assert runnable("kubectl") == "kubectl"
