"""The runtime's configuration: the node's network with Ratchet behind it, or one that is given.

The node's own file is never touched, so that taking ours away puts the node back.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ratchet.errors import RatchetError
from ratchet.install.files import install_file

# The runtime takes the first file by name, so ours has to come before the network that it extends.
CONFIG = "00-ratchet.conflist"


def configure(conf_dir: Path, network: Path | None = None) -> bool:
    """Have the runtime use a network of ours: the one in a file, or none given, the one that the folder has now with us
    behind it. Whether that was not so before. Raises RatchetError.
    """
    wanted = _given(network) if network else _chained(conf_dir)
    path, content = conf_dir / CONFIG, f"{json.dumps(wanted, indent=2)}\n".encode()
    if path.is_file() and path.read_bytes() == content:
        return False
    install_file(path, content, 0o600)
    return True


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
        details="install the cluster's network first, or write a delegating configuration by hand (docs/install.md)",
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
