"""Putting the plugin where a container runtime looks for it, so that a half-done install never breaks a pod's start.

What is executed is a launcher of a few lines that starts the Python which this is running on, or, on a node that has an
agent, the shim, with the launcher beside it for when the agent is away; where no shim was built, a launcher of what
stands in for it (agent/client). It is put in place by a rename, after everything that it needs; the network
configuration, where one is asked for, comes last.
"""

from __future__ import annotations

import compileall
import json
import os
import shlex
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from ratchet.agent.client import DAEMONLESS
from ratchet.errors import RatchetError

LAUNCHER = "ratchet"
FALLBACK = DAEMONLESS
# The runtime takes the first file by name, so ours has to come before the network that it extends.
CONFIG = "00-ratchet.conflist"
SHEBANG_MAX = 250
PACKAGES = ("kubernetes", "pyroute2", "tenacity", "transitions", "urllib3", "yaml", "six", "dateutil", "certifi")


def install(
    bin_dir: Path,
    conf_dir: Path | None = None,
    kubeconfig: Path | None = None,
    state_dir: Path | None = None,
    *,
    agent: bool = False,
    fallback: bool = True,
    network: Path | None = None,
) -> list[Path]:
    """Put the executable `ratchet` into `bin_dir`, and a configuration into `conf_dir`, chained or the one in the file
    `network`; what was written.

    The launcher records `kubeconfig` and `state_dir`, for network configurations that name none. With `agent` the
    executable is the shim (or what stands in for it: `find_shim`) and the launcher is what it falls back on, or with
    `fallback` False is not there at all.
    Raises RatchetError.
    """
    if fallback or not agent:
        compile_bytecode()
    if kubeconfig is not None and not kubeconfig.is_file():
        raise RatchetError(f"cannot record the kubeconfig {kubeconfig}: no such file")
    launcher = _launcher(kubeconfig.resolve() if kubeconfig else None, state_dir.resolve() if state_dir else None)
    executables = _beside_an_agent(launcher, fallback=fallback) if agent else {LAUNCHER: launcher}
    written = [_put(bin_dir / name, content, 0o755) for name, content in executables.items()]
    if not fallback:
        _remove(bin_dir / FALLBACK)
    if conf_dir is not None:
        configure(conf_dir, network)
        written.append(conf_dir / CONFIG)
    return written


def configure(conf_dir: Path, network: Path | None = None) -> bool:
    """Have the runtime use a network of ours: the one in a file, or none given, the one that the folder has now with us
    behind it. Whether that was not so before. Raises RatchetError.
    """
    wanted = _given(network) if network else _chained(conf_dir)
    path, content = conf_dir / CONFIG, f"{json.dumps(wanted, indent=2)}\n".encode()
    if path.is_file() and path.read_bytes() == content:
        return False
    _put(path, content, 0o600)
    return True


def uninstall(bin_dir: Path, conf_dir: Path | None = None) -> list[Path]:
    """Take away what `install` puts there, the configuration first; what was removed. Raises RatchetError.

    The node's network is then what it was: its own configuration was never touched. Links that stand stay until their
    pods end.
    """
    paths = [*([conf_dir / CONFIG] if conf_dir else []), bin_dir / LAUNCHER, bin_dir / FALLBACK]
    there = [path for path in paths if path.exists()]
    for path in there:
        _remove(path)
    return there


def find_shim() -> Path | None:
    """The shim for this machine: a wheel brings it, and `make install` builds it in a checkout. None where none is.

    Then a Python program stands in for it.
    """
    shim = Path(__file__).parent / "shim" / os.uname().machine / LAUNCHER
    return shim if shim.is_file() else None


def compile_bytecode() -> None:
    """Compile Ratchet and what it imports: without bytecode every call of the plugin takes three times as long."""
    site = Path(sysconfig.get_paths()["purelib"])
    for package in (Path(__file__).parent, *(site / name for name in PACKAGES)):
        if package.is_dir():
            compileall.compile_dir(package, quiet=2, workers=1)


def _beside_an_agent(launcher: bytes, *, fallback: bool) -> dict[str, bytes]:
    """The executables by name, the shim last: what it falls back on has to be there first."""
    return {**({FALLBACK: launcher} if fallback else {}), LAUNCHER: _shim()}


def _shim() -> bytes:
    path = find_shim()
    if path is None:
        return _started_by_this_python("from ratchet.agent.client import run\n\nrun()\n")
    try:
        return path.read_bytes()
    except OSError as cause:
        raise RatchetError(f"cannot install the shim: {path}: {cause.strerror}") from cause


def _launcher(kubeconfig: Path | None, state_dir: Path | None) -> bytes:
    recorded = {"kubeconfig": kubeconfig, "state_dir": state_dir}
    arguments = ", ".join(f"{name}={str(value)!r}" for name, value in recorded.items() if value is not None)
    return _started_by_this_python(f"from ratchet.node.plugin import run\n\nrun({arguments})\n")


def _started_by_this_python(body: str) -> bytes:
    # Isolated (-I): neither the caller's environment nor its working directory may decide what is imported.
    if not set(sys.executable) & {" ", "\t"} and len(sys.executable) < SHEBANG_MAX:
        return f"#!{sys.executable} -I\n{body}".encode()
    # A path that the kernel does not take in its first line: the shell starts Python with this very file.
    return f"#!/bin/sh\n''':'\nexec {shlex.quote(sys.executable)} -I \"$0\" \"$@\"\n'''\n{body}".encode()


def _chained(conf_dir: Path) -> dict[str, Any]:
    """The node's present network with Ratchet behind it; Ratchet behind loopback alone is of use to no runtime."""
    for path in sorted(conf_dir.iterdir()) if conf_dir.is_dir() else []:
        present = _network(path) if path.name != CONFIG else None
        if present is not None:
            plugins = [plugin for plugin in present["plugins"] if plugin.get("type") != "ratchet"]
            if any(plugin.get("type") != "loopback" for plugin in plugins):
                return {**present, "plugins": [*plugins, {"type": "ratchet"}]}
    raise RatchetError(
        f"cannot write a configuration into {conf_dir}: there is no network to stand behind",
        details="install the cluster's network first, or write a delegating configuration by hand (README)",
    )


def _given(path: Path) -> dict[str, Any]:
    network = _network(path)
    if network is None or not any(plugin.get("type") == "ratchet" for plugin in network["plugins"]):
        raise RatchetError(f"cannot configure the network of {path}: it is no configuration of ratchet's")
    return network


def _network(path: Path) -> dict[str, Any] | None:
    """A file of the runtime's configuration folder as a list of plugins; None where it is something else."""
    if path.suffix not in (".conf", ".conflist", ".json"):
        return None
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as cause:
        raise RatchetError(f"cannot read {path}: {cause}") from cause
    if not isinstance(content, dict):
        return None
    plugins = content.get("plugins")
    if isinstance(plugins, list) and all(isinstance(plugin, dict) for plugin in plugins):
        return content
    if "type" not in content:
        return None
    head = {key: content[key] for key in ("cniVersion", "name") if key in content}
    return {**head, "plugins": [{key: value for key, value in content.items() if key not in head}]}


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as cause:
        raise RatchetError(f"cannot remove {path}: {cause.strerror}") from cause


def _put(path: Path, content: bytes, mode: int) -> Path:
    """Write a file whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            Path(partial).rename(path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise
    except OSError as cause:
        raise RatchetError(f"cannot write {path}: {cause.strerror}") from cause
    return path
