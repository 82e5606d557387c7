"""Two ways to one API server: from the machine on loopback, and from the nodes' namespaces over the switch."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from aiohttp.typedefs import Middleware

from ratchet import datapath
from ratchet.dev.api.server import EmbeddedApi, Endpoint
from ratchet.dev.hosts import SWITCH_ADDRESS, Hosts, netns_path
from ratchet.errors import RatchetError

PIECE = 1 << 16


@dataclass(frozen=True, slots=True)
class Access:
    """Kubeconfigs for the machine and for the nodes."""

    kubeconfig: Path
    node_kubeconfig: Path


@contextmanager
def embedded_api(hosts: Hosts, folder: Path, middlewares: Sequence[Middleware] = ()) -> Iterator[Access]:
    """An embedded API server of one's own, both on loopback and on the switch."""
    with _switch_socket(hosts) as listener, EmbeddedApi(also=(listener,), middlewares=middlewares) as api:
        port = listener.getsockname()[1]
        node_side = Endpoint(f"http://{SWITCH_ADDRESS}:{port}").write_kubeconfig(folder / "node.kubeconfig")
        yield Access(api.write_kubeconfig(folder / "kubeconfig"), node_side)


@contextmanager
def relayed_api(hosts: Hosts, folder: Path, kubeconfig: Path) -> Iterator[Access]:
    """The API server that `kubeconfig` names, which the nodes reach through a relay on the switch."""
    content, server = _current_cluster(kubeconfig)
    target = urlsplit(str(server["server"]))
    if target.hostname is None:
        raise RatchetError(f"cannot relay to the API server {server['server']}: it is no URL with a host")
    with _switch_socket(hosts) as listener, _relay(listener, target.hostname, target.port or 443):
        server["server"] = f"{target.scheme}://{SWITCH_ADDRESS}:{listener.getsockname()[1]}"
        if target.scheme == "https":
            server.setdefault("tls-server-name", target.hostname)
        node_side = folder / "node.kubeconfig"
        node_side.touch(mode=0o600)
        node_side.write_text(yaml.safe_dump(content))
        yield Access(kubeconfig.resolve(), node_side)


def _current_cluster(kubeconfig: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A kubeconfig's content, and within it the cluster that its current context names."""
    try:
        content = yaml.safe_load(kubeconfig.read_text())
        contexts = {one["name"]: one["context"] for one in content["contexts"]}
        clusters = {one["name"]: one["cluster"] for one in content["clusters"]}
        return content, clusters[contexts[content["current-context"]]["cluster"]]
    except (OSError, KeyError, TypeError, yaml.YAMLError) as cause:
        raise RatchetError(f"cannot use the kubeconfig {kubeconfig}: {cause}") from cause


@contextmanager
def _switch_socket(hosts: Hosts) -> Iterator[socket.socket]:
    """A listening socket in the switch's namespace; the thread that accepts on it may be anywhere."""
    with datapath.open_netns(netns_path(hosts.switch)) as netns, datapath.inside(netns):
        listener = socket.create_server((SWITCH_ADDRESS, 0), backlog=128)
    with listener:
        yield listener


@contextmanager
def _relay(listener: socket.socket, host: str, port: int) -> Iterator[None]:
    """Pass every connection on to `host` and `port` as the machine reaches them, in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="relay", daemon=True)
    thread.start()

    async def passed_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            upstream_reader, upstream_writer = await asyncio.open_connection(host, port)
            await asyncio.gather(_copied(reader, upstream_writer), _copied(upstream_reader, writer))

    serving = asyncio.start_server(passed_on, sock=listener)
    server = asyncio.run_coroutine_threadsafe(serving, loop).result()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(server.close)
        asyncio.run_coroutine_threadsafe(_cancel_all(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while piece := await reader.read(PIECE):
            writer.write(piece)
            await writer.drain()
    finally:
        writer.close()


async def _cancel_all() -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
