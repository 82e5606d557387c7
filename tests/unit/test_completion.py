"""What shells and kubectl complete."""

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
from tests.support.links import wanted
from tests.support.plainapi import kubeconfig, serving

BIN = Path(sys.executable).parent
ENVIRONMENT = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


def for_kubectl(*words: str) -> list[str]:
    """What `kubectl ratchet` may go on with, and the directive."""
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
def test_words_and_options_and_choices_are_offered(words: list[str], offered: list[str]) -> None:
    assert sorted(for_kubectl(*words)) == sorted(offered)


def test_all_commands_are_offered() -> None:
    assert for_kubectl() == for_kubectl("")
    assert COMMANDS.keys() <= set(for_kubectl(""))


def test_files_are_offered_with_their_names_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "two words.yaml").touch()
    (tmp_path / "folder").mkdir()
    assert for_kubectl("validate", f"{tmp_path}/two") == [f"{tmp_path}/two words.yaml", ":4"]
    assert for_kubectl("graph", "-f", f"{tmp_path}/fol") == [f"{tmp_path}/folder/", ":6"]


def test_the_links_are_offered_where_one_is_to_be_named(tmp_path: Path) -> None:
    links = [replace(wanted(), name=f"lab.{name}.in1.b.in2") for name in ("a", "c")]
    with serving(*links) as api:
        file = kubeconfig(tmp_path, api)
        assert for_kubectl("inspect", "--kubeconfig", file, "lab.c") == ["lab.c.in1.b.in2", ":4"]


def test_kubectl_finds_it() -> None:
    done = subprocess.run(
        [BIN / "kubectl", "__complete", "ratchet", "links", "-o", ""],
        check=True,
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert done.stdout.splitlines() == ["table", "json", ":4"]


def test_bash_completes(tmp_path: Path) -> None:
    script = (
        'eval "$(ratchet completion bash)"; COMP_LINE="ratchet links --st"; COMP_POINT=${#COMP_LINE}; COMP_TYPE=9; '
        '_python_argcomplete ratchet; echo "${COMPREPLY[@]}"; complete -p ratchet'
    )
    done = subprocess.run(["bash", "--norc", "-c", script], check=True, capture_output=True, text=True, env=ENVIRONMENT)
    completed, registered = done.stdout.splitlines()
    assert completed.split() == ["--state"]
    assert registered.split()[-3:] == ["-F", "_python_argcomplete", "ratchet"]


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_has_its_code(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    code = capsys.readouterr().out
    assert "_ARGCOMPLETE" in code
    assert "ratchet" in code
    if interpreter := shutil.which(shell):
        subprocess.run([interpreter, "-n"], input=code, text=True, check=True)


def test_without_its_library_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "argcomplete.shell_integration", None)
    assert main(["completion", "bash"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "ratchet: cannot run completion: the Python package argcomplete.shell_integration is missing",
        "         pip install 'ratchet-cni[completion]'",
    ]
