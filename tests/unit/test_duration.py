"""Durations on the command line, as kubectl reads them."""

from __future__ import annotations

import argparse

import pytest

from ratchet.cli.duration import duration
from ratchet.cli.main import main


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30.0),
        ("0.5", 0.5),
        ("1s", 1.0),
        ("1m", 60.0),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        ("300ms", 0.3),
        ("1m0.5s", 60.5),
        ("0", 0.0),
    ],
)
def test_a_duration_is_read_in_seconds(text: str, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "-1", "-5s", "1x", "s", "1 m", "1m ", "1e3", "inf", "nan", "1m30", "١s"])
def test_an_invalid_duration_is_rejected(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f'invalid duration "{text}": expected a number and a unit'):
        duration(text)


@pytest.mark.parametrize("typed", [["--timeout=-5s"], ["--timeout", "-5s"], ["--timeout", "-.5s"]])
def test_the_error_of_a_flag_names_it(typed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["wait", *typed])
    assert ended.value.code == 2
    assert "argument --timeout: invalid duration" in capsys.readouterr().err
