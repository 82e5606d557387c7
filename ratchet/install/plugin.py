"""The executables that the container runtime starts.

Without an agent: a launcher script that starts this Python, or the launcher of a bundle for nodes without Python.

With an agent: the shim, and beside it the launcher, which serves calls while the agent is down. If the shim is not
built, a Python program replaces it (agent/client).

An executable is renamed into place after all files that it needs. The network configuration comes last.
"""

from __future__ import annotations

import compileall
import shlex
import stat
import sys
from functools import cache
from pathlib import Path

from ratchet.agent.client import DAEMONLESS
from ratchet.errors import RatchetError
from ratchet.install import bundle
from ratchet.install.compiled import find_compiled
from ratchet.install.conflist import CONFIG, configure
from ratchet.install.files import exists, install_file, install_symlink, remove, remove_partial
from ratchet.install.lock import locked
from ratchet.install.packages import needed_files

LAUNCHER = "ratchet"
FALLBACK = DAEMONLESS
SHEBANG_MAX = 250


def install(
    bin_dir: Path,
    conf_dir: Path | None = None,
    kubeconfig: Path | None = None,
    state_dir: Path | None = None,
    *,
    agent: bool = False,
    fallback: bool = True,
    relocatable: bool = False,
    network: Path | None = None,
) -> list[Path]:
    """Install the executable `ratchet` into `bin_dir`, and return the paths that were written.

    `conf_dir`: also write a network configuration, a chained one or the content of the file `network`. `kubeconfig`,
    `state_dir`: defaults for network configurations that name none. `relocatable`: bundle Python, so that the node
    needs none and may mount `bin_dir` at another path. `agent`: install the shim (see `find_shim`). `fallback`: with
    `agent`, also install the launcher that serves calls while the agent is down. Raises RatchetError.
    """
    if kubeconfig is not None and not kubeconfig.is_file():
        raise RatchetError(f"cannot use the kubeconfig {kubeconfig}: no such file")
    recorded = {"kubeconfig": kubeconfig, "state_dir": state_dir}
    plugin = _plugin({name: path.resolve() for name, path in recorded.items() if path is not None})
    shim = _shim() if agent else None
    if relocatable and (shim is None or fallback):
        bundle.find_launcher()  # an error must come before anything is written
    with locked(bin_dir):
        written = _put_executables(bin_dir, plugin, shim, fallback=fallback, relocatable=relocatable)
    if conf_dir is not None:
        configure(conf_dir, network)
        written.append(conf_dir / CONFIG)
    return written


def _put_executables(
    bin_dir: Path, plugin: str, shim: bytes | None, *, fallback: bool, relocatable: bool
) -> list[Path]:
    remove_partial(bin_dir)
    written = []
    if shim is None or fallback:
        path = bin_dir / (LAUNCHER if shim is None else FALLBACK)
        written.append(_put_bundled(path, plugin) if relocatable else _put_launcher(path, plugin))
    if shim is not None:
        # After the launcher, which the shim falls back on.
        written.append(install_file(bin_dir / LAUNCHER, shim, 0o755))
    if not fallback:
        remove(bin_dir / FALLBACK)
    if not relocatable:
        bundle.remove_all(bin_dir)
    return written


def uninstall(bin_dir: Path, conf_dir: Path | None = None) -> list[Path]:
    """Remove what `install` writes, the network configuration first, and return the removed paths.

    The node uses its own network configuration again. Links of running pods stay until the pods end. Raises
    RatchetError.
    """
    removed = _remove_present([conf_dir / CONFIG] if conf_dir else [])
    if exists(bin_dir):
        with locked(bin_dir):
            removed += _remove_present([bin_dir / LAUNCHER, bin_dir / FALLBACK])
            removed += bundle.remove_all(bin_dir)
            remove_partial(bin_dir)
    return removed


def is_installed(bin_dir: Path) -> bool:
    """Whether the runtime can start `ratchet`, in any version. Not if it is empty or not executable, or a dead link.

    Raises RatchetError if that is unknown.
    """
    try:
        found = (bin_dir / LAUNCHER).stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as cause:
        raise RatchetError(f"cannot read {bin_dir / LAUNCHER}: {cause.strerror}") from cause
    return stat.S_ISREG(found.st_mode) and found.st_size > 0 and bool(found.st_mode & stat.S_IXUSR)


def _remove_present(paths: list[Path]) -> list[Path]:
    """Remove the paths that exist, and return them."""
    present = [path for path in paths if path.is_symlink() or exists(path)]
    for path in present:
        remove(path)
    return present


def find_shim() -> Path | None:
    """The path of the shim for this machine; None if it was not built. Then a Python program replaces it."""
    return find_compiled(LAUNCHER)


@cache  # a second of CPU, and no file changes while this process runs
def compile_bytecode() -> None:
    """Compile Ratchet and its dependencies.

    Without bytecode, a call of the plugin takes three times as long.
    """
    for source, _ in needed_files():
        compileall.compile_file(source, quiet=2)


def _put_bundled(path: Path, plugin: str) -> Path:
    launcher = bundle.put_bundle(path.parent, plugin)
    install_symlink(path, launcher)
    bundle.remove_others(path.parent, launcher)
    return path


def _put_launcher(path: Path, plugin: str) -> Path:
    compile_bytecode()
    return install_file(path, _script(plugin), 0o755)


def _shim() -> bytes:
    path = find_shim()
    if path is None:
        return _script("from ratchet.agent.client import run\n\nrun()\n")
    try:
        return path.read_bytes()
    except OSError as cause:
        raise RatchetError(f"cannot install the shim: {path}: {cause.strerror}") from cause


def _plugin(recorded: dict[str, Path]) -> str:
    arguments = ", ".join(f"{name}={str(value)!r}" for name, value in recorded.items())
    return f"from ratchet.node.plugin import run\n\nrun({arguments})\n"


def _script(body: str) -> bytes:
    # Isolated (-I): the caller's environment and working directory must not change what is imported.
    if not set(sys.executable) & {" ", "\t"} and len(sys.executable) < SHEBANG_MAX:
        return f"#!{sys.executable} -I\n{body}".encode()
    # The kernel does not accept this path in a first line, so the shell starts Python with this file.
    return f"#!/bin/sh\n''':'\nexec {shlex.quote(sys.executable)} -I \"$0\" \"$@\"\n'''\n{body}".encode()
