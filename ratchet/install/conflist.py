"""The network configuration: Ratchet chained after the node's network, or a given file.

The node's own file is never changed, so that removing Ratchet's file restores the node.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ratchet.errors import RatchetError
from ratchet.install.files import install_file

# The runtime uses the first file by name, so this name must sort before the file of the node's network.
CONFIG = "00-ratchet.conflist"


def configure(conf_dir: Path, network: Path | None = None) -> bool:
    """Write Ratchet's network configuration. Returns whether the file changed.

    `network`: a file with the configuration; None to chain Ratchet after the first network in the folder. Raises
    RatchetError.
    """
    wanted = _given(network) if network else _chained(conf_dir)
    path, content = conf_dir / CONFIG, f"{json.dumps(wanted, indent=2)}\n".encode()
    if path.is_file() and path.read_bytes() == content:
        return False
    install_file(path, content, 0o600)
    return True


def _chained(conf_dir: Path) -> dict[str, Any]:
    """The node's network with Ratchet chained after it. A network of loopback alone does not count."""
    for path in sorted(conf_dir.iterdir()) if conf_dir.is_dir() else []:
        present = _network(path) if path.name != CONFIG else None
        if present is not None:
            plugins = [plugin for plugin in present["plugins"] if plugin.get("type") != "ratchet"]
            if any(plugin.get("type") != "loopback" for plugin in plugins):
                return {**present, "plugins": [*plugins, {"type": "ratchet"}]}
    raise RatchetError(
        f"cannot write a configuration into {conf_dir}: there is no network to chain after",
        details="install the cluster's network first, or write a delegating configuration (docs/install.md)",
    )


def _given(path: Path) -> dict[str, Any]:
    network = _network(path)
    if network is None or not any(plugin.get("type") == "ratchet" for plugin in network["plugins"]):
        raise RatchetError(f"cannot configure the network of {path}: it has no plugin of type ratchet")
    return network


def _network(path: Path) -> dict[str, Any] | None:
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
        return content
    if "type" not in content:
        return None
    head = {key: content[key] for key in ("cniVersion", "name") if key in content}
    return {**head, "plugins": [{key: value for key, value in content.items() if key not in head}]}
