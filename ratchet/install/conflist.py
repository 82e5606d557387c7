"""The network configuration: Ratchet chained after the node's network, or a given file.

The node's own file is never changed, so that removing Ratchet's file restores the node.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ratchet.errors import RatchetError
from ratchet.install.chain import CONFIG, NetworkFile, network_to_chain_after, refuse_unused
from ratchet.install.files import install_file, list_folder, read_file, remove

__all__ = ["CONFIG", "configure", "find_wanted", "withdraw", "write"]

_UNREADABLE = "correct the file, or delete it if no network needs it; a file that is being written is read again"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Ratchet's network configuration as it must be: its source, and the content of the file."""

    source: Path
    content: bytes


def configure(conf_dir: Path, network: Path | None = None) -> bool:
    """Write Ratchet's network configuration. Returns whether the file changed.

    Arguments and errors are those of `find_wanted`.
    """
    return write(conf_dir, find_wanted(conf_dir, network))


def find_wanted(conf_dir: Path, network: Path | None = None) -> Wanted:
    """Decide Ratchet's network configuration.

    `network`: a file with the configuration; None to chain Ratchet after the first network in the folder. Raises
    RatchetError. Then it has removed Ratchet's file if that runs a meta plugin, as files of 0.1.0 may do.
    """
    own = _own(conf_dir)
    try:
        found = _given(network, conf_dir, own) if network else _chained(conf_dir, own)
    except RatchetError:
        if own is not None and own.meta_plugin:
            remove(conf_dir / CONFIG)  # once the meta plugin takes this file as its master, it calls itself without end
        raise
    return Wanted(found.path, f"{json.dumps(found.content, indent=2)}\n".encode())


def write(conf_dir: Path, wanted: Wanted) -> bool:
    """Write Ratchet's network configuration if it differs. Returns whether it did. Raises RatchetError."""
    path = conf_dir / CONFIG
    if read_file(path) == wanted.content:
        return False
    install_file(path, wanted.content, 0o600)
    return True


def withdraw(conf_dir: Path) -> bool:
    """Remove Ratchet's file if it is a copy of another network. Returns whether it did.

    A delegating configuration is no copy. Raises RatchetError, also if the file has no valid content: then it is
    unknown what it is.
    """
    path = conf_dir / CONFIG
    if read_file(path) is None:
        return False
    own = _read(path)
    if own is None:
        raise RatchetError(f"cannot read {path}: it is no network configuration", details=_UNREADABLE)
    if not (own.has_ratchet and own.is_pod_network):
        return False
    remove(path)
    return True


def _chained(conf_dir: Path, own: NetworkFile | None) -> NetworkFile:
    """The node's network with Ratchet chained after it."""
    network = network_to_chain_after(conf_dir, _others(conf_dir), own)
    plugins = [*network.without_ratchet, {"type": "ratchet"}]
    return NetworkFile(network.path, {**network.content, "plugins": plugins})


def _given(path: Path, conf_dir: Path, own: NetworkFile | None) -> NetworkFile:
    network = _read(path)
    if network is None or not network.has_ratchet:
        raise RatchetError(f"cannot configure the network of {path}: it has no plugin of type ratchet")
    if meta := network.meta_plugin:
        raise RatchetError(
            f"cannot configure the network of {path}: it runs the meta plugin {meta}, which may run ratchet in turn",
            details=f'chain ratchet inside the network that {meta} delegates to (docs/install.md, "Multus")',
        )
    refuse_unused(conf_dir, _others(conf_dir), own)
    return network


def _own(conf_dir: Path) -> NetworkFile | None:
    """Ratchet's file; None if it does not exist or has no valid content, and is to be written again."""
    try:
        return _read(conf_dir / CONFIG)
    except RatchetError:
        return None


def _others(conf_dir: Path) -> Iterator[NetworkFile]:
    """The network configurations of the folder by name, without Ratchet's. Raises RatchetError."""
    for path in list_folder(conf_dir):
        network = _read(path) if path.name != CONFIG else None
        if network is not None:
            yield network


def _read(path: Path) -> NetworkFile | None:
    """A network configuration file as a list of plugins; None if the file is something else."""
    if path.suffix not in (".conf", ".conflist", ".json"):
        return None
    try:
        content = json.loads(path.read_text())
    except IsADirectoryError:
        return None  # runtimes skip folders too
    except OSError as cause:
        raise RatchetError(f"cannot read {path}: {cause.strerror}", details=_UNREADABLE) from cause
    except (ValueError, RecursionError) as cause:
        raise RatchetError(f"cannot read {path}: {cause}", details=_UNREADABLE) from cause
    if not isinstance(content, dict):
        return None
    plugins = content.get("plugins")
    if isinstance(plugins, list) and all(isinstance(plugin, dict) for plugin in plugins):
        return NetworkFile(path, content)
    if "type" not in content:
        return None
    head = {key: content[key] for key in ("cniVersion", "name") if key in content}
    return NetworkFile(path, {**head, "plugins": [{key: value for key, value in content.items() if key not in head}]})
