"""Network namespaces without root, in a user namespace (user_namespaces(7))."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from ratchet.errors import RatchetError

INSIDE = "RATCHET_ROOTLESS"
UNSHARE = ("unshare", "--user", "--map-root-user", "--net", "--mount", "--propagation", "private")


def become_able(command: Sequence[str]) -> None:
    """Return if this process is root. Otherwise replace it by `command` in a new user namespace.

    Raises RatchetError if the kernel does not allow user namespaces.
    """
    if os.geteuid() == 0:
        if os.environ.get(INSIDE) == "1":
            _prepare_namespace()
        return
    if subprocess.run([*UNSHARE, "true"], check=False, capture_output=True).returncode != 0:
        raise RatchetError(
            "cannot create network namespaces: you are not root, and the kernel does not allow user namespaces",
            details="run this as root, or set the sysctls user.max_user_namespaces and "
            "kernel.unprivileged_userns_clone",
        )
    print("not root: running in a user namespace of its own", file=sys.stderr, flush=True)
    os.execvpe(UNSHARE[0], [*UNSHARE, *command], {**os.environ, INSIDE: "1"})


def _prepare_namespace() -> None:
    """Set loopback up, and mount a /run that `ip netns` may write to."""
    os.environ[INSIDE] = "2"
    for step in (["mount", "-t", "tmpfs", "tmpfs", "/run"], ["ip", "link", "set", "lo", "up"]):
        done = subprocess.run(step, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise RatchetError(f"cannot run {' '.join(step)} in the user namespace: {done.stderr.strip()}")


if __name__ == "__main__":
    try:
        become_able([sys.executable, "-m", "ratchet.dev.rootless", *sys.argv[1:]])
    except RatchetError as error:
        sys.exit(f"{error}\n{error.details}")
    os.execvp(sys.argv[1], sys.argv[1:])
