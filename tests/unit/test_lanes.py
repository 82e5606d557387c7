"""The lanes of the Makefile: `make test` runs all tests, and `make check` all but the slow ones."""

from __future__ import annotations

import os
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.lanes import with_thorough

ROOT = Path(__file__).parents[2]


def arguments_of(lane: str) -> list[str]:
    """The arguments of pytest in a lane."""
    command = ["make", "--no-print-directory", "-n", lane, "JOBS=2"]
    environment = {"PATH": os.environ["PATH"]}  # without the variables of a make that runs this test
    printed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    (line,) = (line for line in printed.splitlines() if "-m pytest" in line)
    words = shlex.split(line)
    return words[words.index("pytest") + 1 :]


def test_make_test_selects_no_tests_and_no_profile() -> None:
    assert arguments_of("test") == ["-n", "2", "--dist", "worksteal"]
    configured = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["addopts"]
    assert not [one for one in configured if one.startswith(("-m", "-k", "--deselect", "--ignore", "--hypothesis"))]


def test_make_check_leaves_out_the_slow_tests_and_draws_fewer_examples() -> None:
    *_, expression, profile, unit, protocol = arguments_of("check")
    assert (expression, unit, protocol) == ("not thorough", "tests/unit", "tests/protocol")
    assert settings.get_profile(profile.removeprefix("--hypothesis-profile=")).max_examples < 100
    assert settings.get_profile("ci").max_examples == 100


def test_only_the_slow_parameters_are_thorough() -> None:
    small, large = with_thorough({"small": 1, "large": 2}, ["large"])
    assert small == "small"
    assert (large.values, [mark.name for mark in large.marks]) == (("large",), ["thorough"])


@pytest.mark.parametrize("slow", [["other"], ["small", "large"]], ids=["unknown", "all"])
def test_slow_parameters_must_exist_and_leave_one(slow: list[str]) -> None:
    with pytest.raises(ValueError, match="cannot mark parameters"):
        with_thorough(["small", "large"], slow)
