"""The command line as a whole: every command is there, and none waits for what another needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ratchet import __version__
from ratchet.cli.commands import COMMANDS
from ratchet.cli.main import main


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_tells_its_arguments(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f" {command} [-h]" in capsys.readouterr().out


def test_the_help_says_what_each_command_does(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert [name for name, (_, about) in COMMANDS.items() if f"{name} {about}" not in told] == []


def test_a_command_is_imported_when_it_is_used_and_no_other() -> None:
    code = (
        "import sys\nfrom ratchet.cli.main import main\n"
        "try:\n    main(['validate', '--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'ratchet.cli.validate', 'ratchet.cli.links', 'kubernetes'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "['ratchet.cli.validate']"


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"ratchet {__version__}\n"
