"""`ratchet completion`: has a shell complete the command, by argcomplete; and what kubectl asks to that end."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence

from ratchet.cli.commands import command_line, telling_errors
from ratchet.cli.extras import optional_imports
from ratchet.cli.manual import Manual

SHELLS = ("bash", "zsh", "fish")
# What kubectl understands (github.com/spf13/cobra, "ShellCompDirective"): no file names but those that are printed; and
# no space behind.
NO_FILES, NO_SPACE = 4, 2

MANUAL = Manual(
    description="""
        Print shell code that completes commands, flags, their values, file names, and the names of links. It needs
        pip install 'ratchet-cni[completion]'.

        kubectl completes "kubectl ratchet" without this code if its own completion is installed and
        kubectl_complete-ratchet is in PATH.
    """,
    examples=(
        ("In ~/.bashrc", 'eval "$(ratchet completion bash)"'),
        ("In ~/.zshrc, after compinit", 'eval "$(ratchet completion zsh)"'),
        ("In ~/.config/fish/config.fish", "ratchet completion fish | source"),
    ),
    exit_status={0: "the code was printed", 1: "the Python package argcomplete is missing"},
)


def declare(parser: argparse.ArgumentParser) -> None:
    MANUAL.attach(parser)
    parser.add_argument("shell", choices=SHELLS, help="shell to print the code for")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    with optional_imports("completion", "completion"):
        from argcomplete.shell_integration import shellcode
    print(shellcode(["ratchet"], shell=arguments.shell), end="")
    return 0


def answer_shell() -> int:
    """Tell a shell what may come next, as the code that `ratchet completion` printed asks for it; the exit status."""
    with optional_imports("completion", "completion"):
        import argcomplete
    argcomplete.autocomplete(command_line(used=os.environ["COMP_LINE"].split()))
    return 0


def main_for_kubectl() -> int:
    """`kubectl_complete-ratchet`, which kubectl runs with the words behind `kubectl ratchet`, the last to be completed.

    Prints what it may be, a line each, and a directive (kubernetes.io, "Extend kubectl with plugins").
    """
    return telling_errors(lambda: _answer_kubectl(sys.argv[1:]))


def _answer_kubectl(words: Sequence[str]) -> int:
    with optional_imports("completion", "completion"):
        from argcomplete.finders import CompletionFinder

    class Unquoted(CompletionFinder):
        def quote_completions(self, completions: list[str], *_: object) -> list[str]:
            self.found = completions
            return completions

    *before, last = words or [""]
    line = f"{shlex.join(['ratchet', *before])} {last}"
    os.environ |= {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n"}
    finder = Unquoted()
    finder(command_line(used=before), exit_method=lambda _: None, output_stream=sys.stdout, append_space=False)
    open_ended = any(one.endswith(("/", "=")) for one in finder.found)
    if finder.found:
        print()
    print(f":{NO_FILES | (NO_SPACE if open_ended else 0)}")
    return 0
