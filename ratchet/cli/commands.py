"""The table of commands, their parser, and how the error of a command is printed."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Container
from importlib import import_module
from pathlib import Path
from typing import Any

from ratchet import __version__
from ratchet.errors import RatchetError

# Each command with the module that declares its flags and runs it, and a summary of at most one line.
COMMANDS = {
    "links": ("links", "list links and their states"),
    "link": ("link", "hold links up or down, cut or flap them, for a time"),
    "inspect": ("inspect", "show one link: state, both ends as declared and as observed, counters, history"),
    "wait": ("wait", "wait until all links of a namespace are linked"),
    "graph": ("graph", "draw the links of a namespace"),
    "validate": ("validate", "check manifests for link errors, without a cluster"),
    "diff": ("diff", "show what applying manifests would do to each link"),
    "import": ("importing", "convert a topology of containerlab, meshnet-cni, KNE or Kathará"),
    "agent": ("agent", "run the node agent"),
    "gc": ("gc", "remove records and Leases of pods and nodes that are gone"),
    "install": ("install", "install the CNI plugin on this node"),
    "uninstall": ("uninstall", "remove what install wrote"),
    "demo": ("demo", "run the demo: nodes, pods and links on this machine"),
    "completion": ("completion", "print shell completion code"),
    "dev": ("dev", "development tools: an embedded Kubernetes API server"),
}
# By default argparse takes -5s for a flag, and its error hides that negative values are invalid.
NEGATIVE_VALUE = re.compile(r"-\.?[0-9]")


def printing_errors(run: Callable[[], int], failure: int = 1) -> int:
    """The status that `run` returns; `failure` if it raises a RatchetError, which is printed; 130 after Ctrl-C."""
    try:
        return run()
    except RatchetError as error:
        print(f"ratchet: {error}", file=sys.stderr)
        if error.details:
            print(f"         {error.details}", file=sys.stderr)
        return failure
    except KeyboardInterrupt:
        return 130


def make_parser(used: Container[str] = ()) -> argparse.ArgumentParser:
    """The parser of all commands.

    A command declares its flags when it is used. Commands in `used` declare them now.
    """
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
    """The parser of a command.

    It imports the command's module on use, so no command loads the libraries of another.
    """

    def __init__(self, *, module: str = "", **options: Any) -> None:
        super().__init__(**options)
        self._negative_number_matcher = NEGATIVE_VALUE
        self._module = module

    def declare(self) -> None:
        """Have the command's module declare its flags, once."""
        if self._module:
            import_module(f"ratchet.cli.{self._module}").declare(self)
            self._module = ""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # argparse calls it for a sub-command
        self.declare()
        return super().parse_known_args(args, namespace)
