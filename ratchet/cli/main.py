"""`ratchet`: the command for people, and for the CronJob."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from ratchet.cli.commands import command_line, telling_errors

SHELL_ASKS = "_ARGCOMPLETE"  # argcomplete's own variable


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; its exit status: 0 done, 1 an error that was printed, 2 wrong usage."""
    if SHELL_ASKS in os.environ:
        return telling_errors(_answer_shell)
    arguments = command_line().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr)
    return telling_errors(lambda: int(arguments.run(arguments)))


def _answer_shell() -> int:
    from ratchet.cli.completion import answer_shell

    return answer_shell()


if __name__ == "__main__":
    sys.exit(main())
