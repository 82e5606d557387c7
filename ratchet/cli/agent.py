"""`ratchet agent`: the command line of the node agent."""

from __future__ import annotations

import argparse
import os

from ratchet.agent.settings import add_arguments, settings_of
from ratchet.cli.extras import of_extra


def declare(parser: argparse.ArgumentParser) -> None:
    add_arguments(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    settings = settings_of(arguments, os.environ)
    with of_extra("agent"):
        from ratchet.agent.agent import run
    return run(settings)
