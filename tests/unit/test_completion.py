"""Completion in shells and in kubectl."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ratchet.cli.commands import COMMANDS
from ratchet.cli.completion import SHELLS
from ratchet.cli.main import main
from tests.support.http_server import write_kubeconfig
from tests.support.links import wanted
from tests.support.static_api import serving

BIN = Path(sys.executable).parent
ENVIRONMENT = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


def kubectl_completions(*words: str) -> list[str]:
    """The completions of `kubectl ratchet WORDS`, and the directive for kubectl."""
    done = subprocess.run([BIN / "kubectl_complete-ratchet", *words], check=True, capture_output=True, text=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["val"], ["validate", ":4"]),
        (["links", "--st"], ["--state", ":4"]),
        (["links", "--state", "p"], ["pending", "primary-ready", "pair-ready", ":4"]),
        (["install", "--no"], ["--no-fallback", ":4"]),
        (["dev", "api", "--sch"], ["--scheduler", ":4"]),
        (["agent", "--node-n"], ["--node-name", ":4"]),
        (["completion", ""], [*SHELLS, "-h", "--help", ":4"]),
        (["nothing", "x"], [":4"]),
    ],
)
def test_commands_options_and_choices_are_completed(words: list[str], offered: list[str]) -> None:
    assert sorted(kubectl_completions(*words)) == sorted(offered)


def test_all_commands_are_completed() -> None:
    assert kubectl_completions() == kubectl_completions("")
    assert COMMANDS.keys() <= set(kubectl_completions(""))


def test_file_names_are_completed_without_escapes(tmp_path: Path) -> None:
    (tmp_path / "two words.yaml").touch()
    (tmp_path / "folder").mkdir()
    assert kubectl_completions("validate", f"{tmp_path}/two") == [f"{tmp_path}/two words.yaml", ":4"]
    assert kubectl_completions("graph", "-f", f"{tmp_path}/fol") == [f"{tmp_path}/folder/", ":6"]


def test_link_names_are_completed_from_the_api(tmp_path: Path) -> None:
    links = [replace(wanted(), name=f"lab.{name}.in1.b.in2") for name in ("a", "c")]
    with serving(*links) as api:
        file = write_kubeconfig(tmp_path, api.url)
        assert kubectl_completions("inspect", "--kubeconfig", file, "lab.c") == ["lab.c.in1.b.in2", ":4"]


def test_kubectl_finds_the_completion_program() -> None:
    done = subprocess.run(
        [BIN / "kubectl", "__complete", "ratchet", "links", "-o", ""],
        check=True,
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert done.stdout.splitlines() == ["table", "wide", "json", ":4"]


def test_bash_completes_an_option(tmp_path: Path) -> None:
    script = (
        'eval "$(ratchet completion bash)"; COMP_LINE="ratchet links --st"; COMP_POINT=${#COMP_LINE}; COMP_TYPE=9; '
        '_python_argcomplete ratchet; echo "${COMPREPLY[@]}"; complete -p ratchet'
    )
    done = subprocess.run(["bash", "--norc", "-c", script], check=True, capture_output=True, text=True, env=ENVIRONMENT)
    completed, registered = done.stdout.splitlines()
    assert completed.split() == ["--state"]
    assert registered.split()[-3:] == ["-F", "_python_argcomplete", "ratchet"]


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_gets_valid_completion_code(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    code = capsys.readouterr().out
    assert "_ARGCOMPLETE" in code
    assert "ratchet" in code
    if interpreter := shutil.which(shell):
        subprocess.run([interpreter, "-n"], input=code, text=True, check=True)


def test_completion_without_argcomplete_shows_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "argcomplete.shell_integration", None)
    assert main(["completion", "bash"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "ratchet: cannot run completion: the Python package argcomplete.shell_integration is missing",
        "         pip install 'ratchet-cni[completion]'",
    ]
