"""The command line: every command has help and imports only the modules that it needs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import ratchet
from ratchet import __version__
from ratchet.cli.commands import COMMANDS
from ratchet.cli.main import main


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f" {command} [-h]" in capsys.readouterr().out


def test_the_help_describes_each_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    output = " ".join(capsys.readouterr().out.split())
    assert [name for name, (_, about) in COMMANDS.items() if f"{name} {about}" not in output] == []


def test_only_the_module_of_the_used_command_is_imported() -> None:
    code = (
        "import sys\nfrom ratchet.cli.main import main\n"
        "try:\n    main(['validate', '--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'ratchet.cli.validate', 'ratchet.cli.links', 'kubernetes'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "['ratchet.cli.validate']"


# Ratchet's image and the nodes lack ratchet.dev.


@pytest.fixture(scope="module")
def without_dev(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run code with a ratchet package that has no ratchet.dev."""
    packages = tmp_path_factory.mktemp("packages")
    (packages / "ratchet").mkdir()
    for path in Path(ratchet.__file__).parent.iterdir():
        if path.name != "dev":
            (packages / "ratchet" / path.name).symlink_to(path)

    def run(code: str, *argv: str) -> subprocess.CompletedProcess[str]:
        code = f"import sys; sys.path.insert(0, {str(packages)!r})\n{code}"
        return subprocess.run([sys.executable, "-c", code, *argv], check=False, capture_output=True, text=True)

    return run


@pytest.mark.parametrize(
    ("argv", "command"), [(["demo", "--down"], "demo"), (["dev", "api", "--kubeconfig", "/nowhere"], "dev api")]
)
def test_a_command_without_ratchet_dev_shows_how_to_install_it(
    without_dev: Callable[..., subprocess.CompletedProcess[str]], argv: list[str], command: str
) -> None:
    done = without_dev("from ratchet.cli.main import main; sys.exit(main())", *argv)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"ratchet: cannot run {command}: this installation does not include it",
        "         Ratchet's image and the nodes lack ratchet.dev; run it on your machine: "
        "pip install 'ratchet-cni[demo]'",
    ]


def test_no_other_module_imports_ratchet_dev(
    without_dev: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    code = """
from pkgutil import walk_packages
from importlib import import_module
import ratchet
for found in walk_packages(ratchet.__path__, "ratchet."):
    import_module(found.name)
from ratchet.cli.commands import COMMANDS, make_parser
make_parser(used=COMMANDS)
assert not any(name.startswith("ratchet.dev") for name in sys.modules)
"""
    done = without_dev(code)
    assert done.returncode == 0, done.stderr


def test_version_prints_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"ratchet {__version__}\n"
