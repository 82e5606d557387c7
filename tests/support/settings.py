"""The agent's settings from a command line, as `ratchet agent` reads them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from ratchet.agent.settings import Settings, add_arguments, settings_of


def read_settings(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """The settings of a command line and an environment. Raises InvalidConfigError, as `settings_of` does."""
    parser = argparse.ArgumentParser(prog="ratchet agent")
    add_arguments(parser)
    return settings_of(parser.parse_args(argv), environ)
