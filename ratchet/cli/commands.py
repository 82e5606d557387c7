"""All commands, as a table and as a parser; and how an error of any of them is told."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Container
from importlib import import_module
from pathlib import Path
from typing import Any

from ratchet import __version__
from ratchet.errors import RatchetError

# Each command with the module that declares its arguments and runs it, and what it does.
COMMANDS = {
    "links": ("links", "print the links and where each stands"),
    "inspect": ("inspect", "print one link: its life, its ends as wanted and as they are, what they count"),
    "wait": ("wait", "until all links that a namespace wants are linked"),
    "graph": ("graph", "draw the links of a namespace"),
    "validate": ("validate", "check manifests before they are applied, without a cluster"),
    "import": ("importing", "make a topology of a containerlab file, or of meshnet's objects"),
    "agent": ("agent", "serve a node: its runtime's calls, and what becomes of its links"),
    "gc": ("gc", "remove what is left of pods and nodes that are gone"),
    "install": ("install", "put the CNI plugin where a container runtime finds it"),
    "uninstall": ("uninstall", "take away what install put there"),
    "demo": ("demo", "two nodes, two pods, a link, a ping, on this machine"),
    "completion": ("completion", "print what has a shell complete this command"),
    "dev": ("dev", "for development: the embedded API server"),
}


def telling_errors(run: Callable[[], int]) -> int:
    """What `run` gives; 1 where it raises an error of ours, which is printed."""
    try:
        return run()
    except RatchetError as error:
        print(f"ratchet: {error}", file=sys.stderr)
        if error.details:
            print(f"         {error.details}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def command_line(used: Container[str] = ()) -> argparse.ArgumentParser:
    """The parser of all commands, each of which is given its arguments when it is used; those `used` have them now."""
    # kubectl runs what is called kubectl-ratchet as `kubectl ratchet`.
    prog = "kubectl ratchet" if Path(sys.argv[0]).name.startswith("kubectl-") else "ratchet"
    parser = argparse.ArgumentParser(prog=prog, description="Point-to-point links between Kubernetes pods.")
    parser.add_argument("--version", action="version", version=f"ratchet {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Command)
    for name, (module, about) in COMMANDS.items():
        command = commands.add_parser(name, help=about, module=module)
        if name in used:
            command.declare()
    return parser


class _Command(argparse.ArgumentParser):
    """A command's parser. Its module is imported when it is used, so that no command waits for another's libraries."""

    def __init__(self, *, module: str = "", **options: Any) -> None:
        super().__init__(**options)
        self._module = module

    def declare(self) -> None:
        """Have the command's module declare its arguments, once."""
        if self._module:
            import_module(f"ratchet.cli.{self._module}").declare(self)
            self._module = ""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # what is called for a sub-command
        self.declare()
        return super().parse_known_args(args, namespace)
