"""Output that cannot be written: a pipe without a reader, a full disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ratchet.cli.output import BROKEN_PIPE, reporting_output_errors

COMMAND = (sys.executable, "-c", "import sys; from ratchet.cli.main import main; sys.exit(main())")
PRINTING = [["--help"], ["links", "--help"], ["completion", "bash"]]


@pytest.mark.parametrize("arguments", PRINTING)
@pytest.mark.parametrize("buffering", ["1", ""], ids=["unbuffered", "buffered"])
def test_a_full_disk_is_reported(arguments: list[str], buffering: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, *arguments],
            check=False,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={"PYTHONUNBUFFERED": buffering},
        )
    assert done.stderr == "ratchet: cannot write to stdout: No space left on device\n"
    assert done.returncode == 1


@pytest.mark.parametrize("arguments", PRINTING)
def test_a_pipe_that_nobody_reads_ends_the_command_in_silence(arguments: list[str]) -> None:
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == BROKEN_PIPE


def test_an_error_of_another_file_is_not_taken_for_one_of_the_output() -> None:
    with pytest.raises(BrokenPipeError):
        reporting_output_errors(lambda: _raise(BrokenPipeError()))


def test_binary_output_is_checked_too(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert reporting_output_errors(lambda: sys.stdout.buffer.write(b"x") and 0) == 1
        monkeypatch.undo()
    assert capfd.readouterr().err == "ratchet: cannot write to stdout: No space left on device\n"


def _raise(error: Exception) -> int:
    raise error
