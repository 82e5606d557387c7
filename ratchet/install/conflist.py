"""The network configuration: Ratchet chained after the node's network, or a given file.

The node's own file is never changed, so that removing Ratchet's file restores the node.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ratchet.errors import RatchetError
from ratchet.install.chain import CONFIG, NetworkFile, network_to_chain_after, refuse_unused
from ratchet.install.files import install_file, remove

__all__ = ["CONFIG", "configure"]


def configure(conf_dir: Path, network: Path | None = None) -> bool:
    """Write Ratchet's network configuration. Returns whether the file changed.

    `network`: a file with the configuration; None to chain Ratchet after the first network in the folder. Raises
    RatchetError. Then it has removed Ratchet's file if that runs a meta plugin, as files of 0.1.0 may do.
    """
    path, own = conf_dir / CONFIG, _own(conf_dir)
    try:
        wanted = _given(network, conf_dir, own) if network else _chained(conf_dir, own)
    except RatchetError:
        if own is not None and own.meta_plugin:
            remove(path)  # once the meta plugin takes this file as its master, it calls itself without end
        raise
    content = f"{json.dumps(wanted, indent=2)}\n".encode()
    if path.is_file() and path.read_bytes() == content:
        return False
    install_file(path, content, 0o600)
    return True


def _chained(conf_dir: Path, own: NetworkFile | None) -> dict[str, Any]:
    """The node's network with Ratchet chained after it."""
    network = network_to_chain_after(conf_dir, _others(conf_dir), own)
    return {**network.content, "plugins": [*network.without_ratchet, {"type": "ratchet"}]}


def _given(path: Path, conf_dir: Path, own: NetworkFile | None) -> dict[str, Any]:
    network = _read(path)
    if network is None or not network.has_ratchet:
        raise RatchetError(f"cannot configure the network of {path}: it has no plugin of type ratchet")
    if meta := network.meta_plugin:
        raise RatchetError(
            f"cannot configure the network of {path}: it runs the meta plugin {meta}, which may run ratchet in turn",
            details=f'chain ratchet inside the network that {meta} delegates to (docs/install.md, "Multus")',
        )
    refuse_unused(conf_dir, _others(conf_dir), own)
    return dict(network.content)


def _own(conf_dir: Path) -> NetworkFile | None:
    """Ratchet's file; None if it does not exist or has no valid content, and is to be written again."""
    path = conf_dir / CONFIG
    try:
        return _read(path) if path.is_file() else None
    except RatchetError:
        return None


def _others(conf_dir: Path) -> Iterator[NetworkFile]:
    """The network configurations of the folder by name, without Ratchet's. Raises RatchetError."""
    for path in sorted(conf_dir.iterdir()) if conf_dir.is_dir() else []:
        network = _read(path) if path.name != CONFIG else None
        if network is not None:
            yield network


def _read(path: Path) -> NetworkFile | None:
    """A network configuration file as a list of plugins; None if the file is something else."""
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
        return NetworkFile(path, content)
    if "type" not in content:
        return None
    head = {key: content[key] for key in ("cniVersion", "name") if key in content}
    return NetworkFile(path, {**head, "plugins": [{key: value for key, value in content.items() if key not in head}]})
