"""Access to one API server: on loopback from this machine, over the switch from the nodes' namespaces."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from aiohttp.typedefs import Middleware

from ratchet import datapath
from ratchet.dev.api.server import ApiAddress, EmbeddedApi
from ratchet.dev.hosts import SWITCH_ADDRESS, Hosts, netns_path
from ratchet.dev.relay import relay
from ratchet.errors import RatchetError


@dataclass(frozen=True, slots=True)
class Access:
    """Kubeconfigs for the machine and for the nodes. `version` is the latest write of an embedded API."""

    kubeconfig: Path
    node_kubeconfig: Path
    version: Callable[[], int] | None = None


@contextmanager
def embedded_api(hosts: Hosts, folder: Path, middlewares: Sequence[Middleware] = ()) -> Iterator[Access]:
    """Run an embedded API server that listens on loopback and on the switch."""
    with _switch_socket(hosts) as listener, EmbeddedApi(also=(listener,), middlewares=middlewares) as api:
        port = listener.getsockname()[1]
        node_side = ApiAddress(f"http://{SWITCH_ADDRESS}:{port}").write_kubeconfig(folder / "node.kubeconfig")
        yield Access(api.write_kubeconfig(folder / "kubeconfig"), node_side, lambda: api.storage.version)


@contextmanager
def relayed_api(hosts: Hosts, folder: Path, kubeconfig: Path) -> Iterator[Access]:
    """Use the API server of `kubeconfig`. The nodes reach it through a relay on the switch."""
    content, server = _current_cluster(kubeconfig)
    target = urlsplit(str(server["server"]))
    if target.hostname is None:
        raise RatchetError(f"cannot relay to the API server {server['server']}: expected a URL with a host")
    with _switch_socket(hosts) as listener, relay(listener, target.hostname, target.port or 443):
        server["server"] = f"{target.scheme}://{SWITCH_ADDRESS}:{listener.getsockname()[1]}"
        if target.scheme == "https":
            server.setdefault("tls-server-name", target.hostname)
        node_side = folder / "node.kubeconfig"
        node_side.touch(mode=0o600)
        node_side.write_text(yaml.safe_dump(content))
        yield Access(kubeconfig.resolve(), node_side)


def _current_cluster(kubeconfig: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The content of a kubeconfig, and in it the cluster of the current context."""
    try:
        content = yaml.safe_load(kubeconfig.read_text())
        contexts = {one["name"]: one["context"] for one in content["contexts"]}
        clusters = {one["name"]: one["cluster"] for one in content["clusters"]}
        return content, clusters[contexts[content["current-context"]]["cluster"]]
    except (OSError, KeyError, TypeError, yaml.YAMLError) as cause:
        raise RatchetError(f"cannot use the kubeconfig {kubeconfig}: {cause}") from cause


@contextmanager
def _switch_socket(hosts: Hosts) -> Iterator[socket.socket]:
    """A listening socket in the switch's namespace. A thread of any namespace may accept on it."""
    with datapath.open_netns(netns_path(hosts.switch)) as netns, datapath.inside(netns):
        listener = socket.create_server((SWITCH_ADDRESS, 0), backlog=128)
    with listener:
        yield listener
