"""`ratchet completion`: shell completion by argcomplete, and completion of `kubectl ratchet`."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence

from ratchet.cli.commands import make_parser, printing_errors
from ratchet.cli.extras import optional_imports
from ratchet.cli.manual import Manual

SHELLS = ("bash", "zsh", "fish")
# Directives for kubectl (github.com/spf13/cobra, "ShellCompDirective"): only the printed file names; no space after the
# completion.
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


def complete_for_shell() -> int:
    """Print completions for the shell code that `ratchet completion` prints; the exit status."""
    with optional_imports("completion", "completion"):
        import argcomplete
    argcomplete.autocomplete(make_parser(used=os.environ["COMP_LINE"].split()))
    return 0


def main_for_kubectl() -> int:
    """The command `kubectl_complete-ratchet`: complete the last word of `kubectl ratchet`.

    kubectl passes the words after `kubectl ratchet`. Prints a line for each completion, and a directive (kubernetes.io,
    "Extend kubectl with plugins").
    """
    return printing_errors(lambda: _complete_for_kubectl(sys.argv[1:]))


def _complete_for_kubectl(words: Sequence[str]) -> int:
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
    finder(make_parser(used=before), exit_method=lambda _: None, output_stream=sys.stdout, append_space=False)
    unfinished = any(one.endswith(("/", "=")) for one in finder.found)
    if finder.found:
        print()
    print(f":{NO_FILES | (NO_SPACE if unfinished else 0)}")
    return 0
