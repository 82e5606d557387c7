"""What the runtime executes.

A launcher of a few lines that starts the Python which this is running on; or one with a Python of its own beside it
(`bundle`), for nodes that have none. On a node with an agent, the shim, with the launcher beside it for when the agent
is away; where no shim was built, a launcher of what stands in for it (agent/client). It is put in place by a rename,
after everything that it needs; the network's configuration, where one is asked for, comes last.
"""

from __future__ import annotations

import compileall
import shlex
import sys
from pathlib import Path

from ratchet.agent.client import DAEMONLESS
from ratchet.errors import RatchetError
from ratchet.install import bundle
from ratchet.install.compiled import find_compiled
from ratchet.install.conflist import CONFIG, configure
from ratchet.install.files import install_file, install_symlink, remove
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
    """Put the executable `ratchet` into `bin_dir`, and a configuration into `conf_dir`, chained or the one in the file
    `network`; what was written.

    The launcher records `kubeconfig` and `state_dir`, for network configurations that name none; `relocatable` is one
    that needs no Python where it is called, nor this folder to be of that name there. With `agent` the executable is
    the shim (or what stands in for it: `find_shim`) and the launcher is what it falls back on, or with `fallback` False
    is not there at all.
    Raises RatchetError.
    """
    if kubeconfig is not None and not kubeconfig.is_file():
        raise RatchetError(f"cannot record the kubeconfig {kubeconfig}: no such file")
    recorded = {"kubeconfig": kubeconfig, "state_dir": state_dir}
    plugin = _plugin({name: path.resolve() for name, path in recorded.items() if path is not None})
    shim = _shim() if agent else None
    written = []
    if shim is None or fallback:
        path = bin_dir / (LAUNCHER if shim is None else FALLBACK)
        written.append(_put_bundled(path, plugin) if relocatable else _put_launcher(path, plugin))
    if shim is not None:
        # Last: what it falls back on has to be there first.
        written.append(install_file(bin_dir / LAUNCHER, shim, 0o755))
    if not fallback:
        remove(bin_dir / FALLBACK)
    if not relocatable:
        bundle.remove_all(bin_dir)
    if conf_dir is not None:
        configure(conf_dir, network)
        written.append(conf_dir / CONFIG)
    return written


def uninstall(bin_dir: Path, conf_dir: Path | None = None) -> list[Path]:
    """Take away what `install` puts there, the configuration first; what was removed. Raises RatchetError.

    The node's network is then what it was: its own configuration was never touched. Links that stand stay until their
    pods end.
    """
    paths = [*([conf_dir / CONFIG] if conf_dir else []), bin_dir / LAUNCHER, bin_dir / FALLBACK]
    there = [path for path in paths if path.exists() or path.is_symlink()]
    for path in there:
        remove(path)
    return there + bundle.remove_all(bin_dir)


def find_shim() -> Path | None:
    """The shim for this machine: a wheel brings it, and `make install` builds it in a checkout. None where none is.

    Then a Python program stands in for it.
    """
    return find_compiled(LAUNCHER)


def compile_bytecode() -> None:
    """Compile Ratchet and what it imports: without bytecode every call of the plugin takes three times as long."""
    for source, _ in needed_files():
        compileall.compile_file(source, quiet=2)


def _put_bundled(path: Path, plugin: str) -> Path:
    launcher = bundle.put_bundle(path.parent, plugin)
    install_symlink(path, launcher)
    bundle.remove_others(path.parent, launcher)
    return path


def _put_launcher(path: Path, plugin: str) -> Path:
    compile_bytecode()
    return install_file(path, _started_by_this_python(plugin), 0o755)


def _shim() -> bytes:
    path = find_shim()
    if path is None:
        return _started_by_this_python("from ratchet.agent.client import run\n\nrun()\n")
    try:
        return path.read_bytes()
    except OSError as cause:
        raise RatchetError(f"cannot install the shim: {path}: {cause.strerror}") from cause


def _plugin(recorded: dict[str, Path]) -> str:
    arguments = ", ".join(f"{name}={str(value)!r}" for name, value in recorded.items())
    return f"from ratchet.node.plugin import run\n\nrun({arguments})\n"


def _started_by_this_python(body: str) -> bytes:
    # Isolated (-I): neither the caller's environment nor its working directory may decide what is imported.
    if not set(sys.executable) & {" ", "\t"} and len(sys.executable) < SHEBANG_MAX:
        return f"#!{sys.executable} -I\n{body}".encode()
    # A path that the kernel does not take in its first line: the shell starts Python with this very file.
    return f"#!/bin/sh\n''':'\nexec {shlex.quote(sys.executable)} -I \"$0\" \"$@\"\n'''\n{body}".encode()
