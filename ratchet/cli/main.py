"""The command `ratchet`."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from ratchet.cli.commands import make_parser, printing_errors
from ratchet.cli.output import reporting_output_errors

COMPLETION_VARIABLE = "_ARGCOMPLETE"  # argcomplete's own variable


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, 1 for an error that was printed, 2 for wrong usage."""
    if COMPLETION_VARIABLE in os.environ:
        return printing_errors(_complete_for_shell)
    return reporting_output_errors(lambda: _run_command(argv))


def _run_command(argv: Sequence[str] | None) -> int:
    arguments = make_parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    return printing_errors(lambda: int(arguments.run(arguments)))


def _complete_for_shell() -> int:
    from ratchet.cli.completion import complete_for_shell

    return complete_for_shell()


if __name__ == "__main__":
    sys.exit(main())
