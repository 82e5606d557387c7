"""Description, examples and exit status of a command, for `--help` and docs/cli.md."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

_WIDTH = 78  # columns


@dataclass(frozen=True, slots=True)
class Manual:
    """The description of one command.

    `description`: paragraphs, with an empty line between two. `examples`: pairs of what an example does and its command
    line. `exit_status`: the meaning of each status besides those that all commands have (2: wrong usage, 130: Ctrl-C).
    """

    description: str
    examples: tuple[tuple[str, str], ...]
    exit_status: Mapping[int, str]

    def attach(self, parser: argparse.ArgumentParser) -> None:
        """Show this in the parser's --help. `parser.get_default("manual")` returns it."""
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
        parser.description = "\n\n".join(textwrap.fill(one, _WIDTH, break_on_hyphens=False) for one in self.paragraphs)
        examples = [f"  # {what}\n  $ {line}" for what, line in self.examples]
        statuses = [f"  {status}  {meaning}" for status, meaning in self.exit_status.items()]
        parser.epilog = "\n".join(["examples:", *examples, "", "exit status:", *statuses])
        parser.set_defaults(manual=self)

    @property
    def paragraphs(self) -> list[str]:
        """The description's paragraphs, each on one line."""
        return [" ".join(one.split()) for one in self.description.strip().split("\n\n")]
