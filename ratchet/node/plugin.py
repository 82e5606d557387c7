"""Entry point of the daemonless plugin: one process for each call of the runtime.

VERSION needs the specification's versions only, so everything else is imported once the command is known.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import NoReturn

from ratchet.cni.answer import asked_version, encode, version_json


def run(kubeconfig: str | None = None, state_dir: str | None = None) -> NoReturn:
    """Serve the call and end the process with os._exit.

    A regular exit unloads some 800 modules one by one. That takes a fifth of a call's time and serves no purpose. Nor
    does the garbage collector, which takes a tenth: a call ends before its cycles need memory.
    """
    gc.disable()
    status = main(kubeconfig, state_dir)
    sys.stderr.flush()
    os._exit(status)


def main(kubeconfig: str | None = None, state_dir: str | None = None) -> int:
    """Serve the call that the environment and stdin describe, and return the exit status.

    `kubeconfig` and `state_dir` are the values that the installer recorded; keys of the configuration override them.
    """
    stdout = _reserve_stdout()
    stdin = b"" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.read()
    with os.fdopen(stdout, "wb") as out:
        if os.environ.get("CNI_COMMAND") == "VERSION":
            out.write(encode(version_json(asked_version(stdin))))
            return 0
        from ratchet.node.daemonless import serve  # after the command is known, see above

        return serve(stdin, out, kubeconfig, state_dir)


def _reserve_stdout() -> int:
    """Reserve stdout for the result and return its descriptor. All other output now goes to stderr."""
    stdout = os.dup(1)
    os.dup2(2, 1)
    return stdout
