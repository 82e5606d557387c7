"""The generated parts of docs/ match the code, and every command has a manual."""

from __future__ import annotations

import argparse
import re
import shlex

import pytest

from hack import docs
from ratchet.cli.commands import COMMANDS, make_parser
from ratchet.cli.manual import Manual

PAGES = {path.name: (text, generated) for path, text, generated in docs.pages()}
PARSERS = list(docs._leaves(make_parser(used=COMMANDS)))


def test_each_part_is_on_one_page() -> None:
    named = [name for text, _ in PAGES.values() for name in re.findall(r"<!-- generated: (\S+) -->", text)]
    assert sorted(named) == sorted(docs.PARTS)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_matches_the_code(page: str) -> None:
    text, generated = PAGES[page]
    assert text == generated, "run `make docs`"


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: str(parser.prog))
def test_a_command_has_a_description_examples_and_exit_statuses(parser: argparse.ArgumentParser) -> None:
    manual: Manual = parser.get_default("manual")
    assert manual.paragraphs
    assert list(manual.exit_status) == ([0, 1, 2] if parser.prog == "ratchet diff" else [0, 1])
    assert all(parser.prog in line or "kubectl" in line for _, line in manual.examples)
    help_text = parser.format_help()
    assert all(line in help_text for _, line in manual.examples)


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: str(parser.prog))
def test_every_argument_has_a_help_text(parser: argparse.ArgumentParser) -> None:
    assert [action.dest for action in parser._actions if not action.help] == []


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: str(parser.prog))
def test_the_examples_are_valid_command_lines(parser: argparse.ArgumentParser) -> None:
    manual: Manual = parser.get_default("manual")
    lines = [line for _, line in manual.examples]
    found = [words for line in lines for words in re.findall(r"(?<![\w-])ratchet [^|>&)]+", line)]
    assert found
    for words in found:
        assert make_parser().parse_args(shlex.split(words)[1:]).manual is manual
