"""Which network of a node Ratchet is chained after: a decision on the node's network configurations.

A meta plugin, such as Multus, runs other networks of the node. Its entrypoint takes the first other file by name as its
master configuration, which is Ratchet's file. A chain after a meta plugin would therefore call itself without end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ratchet.errors import RatchetError

# The runtime uses the first file by name, so this name must sort before the file of the node's network.
CONFIG = "00-ratchet.conflist"

# Plugins that find their networks outside of their configuration, or in any folder that it names: Multus
# (docs/configuration.md), CNI-Genie (README.md), DANM (user-guide.md, `cniDir`), Galaxy (doc/galaxy-config.md).
_META_TYPES = ("multus", "multus-shim", "genie", "danm", "galaxy-sdn")
# Keys by which a meta plugin refers to other networks: those of Multus and its forks, and CNI-Genie's default.
_REFERENCES = ("clusterNetwork", "defaultNetworks", "delegates", "masterplugin", "default_plugin")
# Keys by which a plugin runs one other plugin, given in place: Ratchet's own, and flannel's `delegate`.
_INLINE = ("delegate", "boot_network")


class NoNetworkError(RatchetError):
    """The folder was read, and has no network to chain after."""


@dataclass(frozen=True, slots=True)
class NetworkFile:
    """A network configuration: the path of its file, and its content as a list of plugins."""

    path: Path
    content: Mapping[str, Any]

    @property
    def plugins(self) -> list[Mapping[str, Any]]:
        plugins: list[Mapping[str, Any]] = self.content["plugins"]
        return plugins

    @property
    def without_ratchet(self) -> list[Mapping[str, Any]]:
        return [plugin for plugin in self.plugins if plugin.get("type") != "ratchet"]

    @property
    def has_ratchet(self) -> bool:
        return len(self.without_ratchet) < len(self.plugins)

    @property
    def is_pod_network(self) -> bool:
        """Whether it gives pods a network by another plugin than Ratchet. Loopback alone does not count."""
        return any(plugin.get("type") != "loopback" for plugin in self.without_ratchet)

    @property
    def meta_plugin(self) -> str:
        """The type of the first meta plugin that it runs; empty if there is none."""
        return next(filter(None, map(_meta_plugin, self.plugins)), "")

    def delegates_to(self, own: NetworkFile | None) -> bool:
        """Whether its meta plugin runs Ratchet's file: by its path, existing or not, or by a copy of it in place.

        The keys are those of Multus (docs/configuration.md).
        """
        masters = [plugin["clusterNetwork"] for plugin in self.plugins if "clusterNetwork" in plugin]
        if masters:
            # The folder has another path in the pod of Multus.
            return any(isinstance(one, str) and PurePosixPath(one).name == CONFIG for one in masters)
        return own is not None and any(_copies_ratchet(plugin.get("delegates")) for plugin in self.plugins)


def network_to_chain_after(folder: Path, others: Iterable[NetworkFile], own: NetworkFile | None) -> NetworkFile:
    """Return the network to chain Ratchet after.

    `others`: the files of the folder by name, without Ratchet's; read only as far as necessary. `own`: Ratchet's file,
    if there is one. If a meta plugin comes first and runs Ratchet's file, that is the first network of no meta plugin.
    Raises NoNetworkError, and RatchetError if Ratchet would not be called.
    """
    networks = _pod_networks(others)
    first = next(networks, None)
    if first is not None and first.delegates_to(own):
        first = next((one for one in networks if not one.meta_plugin), None)
    elif first is not None:
        _refuse_unusable(folder, first)
    if first is None:
        raise NoNetworkError(
            f"cannot write a configuration into {folder}: there is no network to chain after",
            details="install the cluster's network first, or write a delegating configuration (docs/install.md)",
        )
    return first


def refuse_unused(folder: Path, others: Iterable[NetworkFile], own: NetworkFile | None) -> None:
    """Raise RatchetError if the runtime uses another network than Ratchet's file, one that does not run it."""
    first = next(_pod_networks(others), None)
    if first is not None and first.path.name < CONFIG and not first.delegates_to(own):
        _refuse_unusable(folder, first)


def _refuse_unusable(folder: Path, first: NetworkFile) -> None:
    if meta := first.meta_plugin:
        raise RatchetError(
            f"cannot configure ratchet in {folder}: the first network, {first.path.name}, is the meta plugin {meta}",
            details=f"chain ratchet inside the network that {meta} delegates to, or attach it by a "
            'NetworkAttachmentDefinition, and install without --conf-dir (docs/install.md, "Multus")',
        )
    if first.path.name < CONFIG:
        raise RatchetError(
            f"cannot configure ratchet in {folder}: the runtime uses {first.path.name}, which sorts before {CONFIG}",
            details=f"rename {first.path.name} so that it sorts after {CONFIG}",
        )


def _pod_networks(files: Iterable[NetworkFile]) -> Iterator[NetworkFile]:
    return (one for one in files if one.is_pod_network)


def _meta_plugin(plugin: Mapping[str, Any]) -> str:
    kind = plugin.get("type")
    if kind in _META_TYPES or any(plugin.get(key) is not None for key in _REFERENCES):
        return str(kind)
    inline = (plugin.get(key) for key in _INLINE)
    return next(filter(None, (_meta_plugin(one) for one in inline if isinstance(one, Mapping))), "")


def _copies_ratchet(delegates: object) -> bool:
    networks = [one for one in delegates if isinstance(one, Mapping)] if isinstance(delegates, list) else []
    lists = [one.get("plugins", [one]) for one in networks]
    plugins = [plugin for one in lists if isinstance(one, list) for plugin in one if isinstance(plugin, Mapping)]
    return any(plugin.get("type") == "ratchet" for plugin in plugins)
