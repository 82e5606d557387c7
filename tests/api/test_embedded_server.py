"""Lifecycle of the embedded server: start, stop, restart, addresses, TLS, faults, `serve`."""

from __future__ import annotations

import queue
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import urllib3
import yaml
from aiohttp import web
from aiohttp.typedefs import Handler

from ratchet.dev.api import EmbeddedApi
from ratchet.dev.api.server import ApiAddress
from ratchet.dev.api.storage import Storage

if TYPE_CHECKING:
    from tests.api.conftest import Client, Kubectl

Connect = Callable[[Path], "Client"]


def _api_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "embedded-api"]


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])


def test_stopping_closes_the_port_and_ends_the_thread(connect: Connect, tmp_path: Path) -> None:
    before = len(_api_threads())
    with EmbeddedApi() as server:
        client = connect(server.write_kubeconfig(tmp_path / "config"))
        assert client.get("/healthz").code == 200
        port = _port(server.url)
    assert len(_api_threads()) == before
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        pass


def test_stopping_ends_watches(connect: Connect, tmp_path: Path) -> None:
    with EmbeddedApi() as server:
        client = connect(server.write_kubeconfig(tmp_path / "config"))
        with client.watch("/api/v1/namespaces") as stream:
            stream.take(4)
            server.stop()
            assert stream.rest() == []


def test_stop_is_idempotent_and_a_second_start_fails() -> None:
    server = EmbeddedApi()
    with pytest.raises(RuntimeError, match="it is not started"):
        _ = server.url
    with server:
        with pytest.raises(RuntimeError, match="it is running"):
            server.start()
        server.stop()
        server.stop()


def test_a_port_in_use_is_an_error() -> None:
    with EmbeddedApi() as server, pytest.raises(OSError, match="in use"):
        EmbeddedApi(port=_port(server.url)).start()


def test_a_restart_on_the_same_storage_keeps_objects_and_versions(connect: Connect, tmp_path: Path) -> None:
    storage = Storage()
    with EmbeddedApi(storage) as server:
        config = server.write_kubeconfig(tmp_path / "config")
        client = connect(config)
        created = client.post("/api/v1/nodes", {"metadata": {"name": "n"}}).accepted(201)
        port = _port(server.url)
    with EmbeddedApi(storage, port=port):
        client = connect(config)
        assert client.get("/api/v1/nodes/n").accepted() == created
        version = created["metadata"]["resourceVersion"]
        client.delete("/api/v1/nodes/n").accepted()
        with client.watch("/api/v1/nodes", resourceVersion=version) as stream:
            assert stream.take(1) == [("DELETED", "n")]


def test_the_server_listens_on_the_given_host(connect: Connect, tmp_path: Path) -> None:
    with EmbeddedApi(host="127.0.0.2") as server:
        assert server.url.startswith("http://127.0.0.2:")
        client = connect(server.write_kubeconfig(tmp_path / "config"))
        assert client.get("/readyz").code == 200


def test_a_wildcard_address_is_reached_over_loopback(connect: Connect, tmp_path: Path) -> None:
    with EmbeddedApi(host="0.0.0.0") as server:
        assert server.url.startswith("http://127.0.0.1:")
        assert connect(server.write_kubeconfig(tmp_path / "config")).get("/readyz").code == 200


def test_additional_sockets_are_served(connect: Connect, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.3", 0)) as further, EmbeddedApi(also=[further]) as server:
        address = ApiAddress(f"http://127.0.0.3:{further.getsockname()[1]}")
        there = connect(address.write_kubeconfig(tmp_path / "there"))
        here = connect(server.write_kubeconfig(tmp_path / "here"))
        there.post("/api/v1/nodes", {"metadata": {"name": "n"}}).accepted(201)
        assert here.items("/api/v1/nodes") == ["n"]


def test_tls_is_verified_against_the_ca_of_the_kubeconfig(connect: Connect, tmp_path: Path) -> None:
    with EmbeddedApi(tls=True) as server:
        assert server.url.startswith("https://")
        client = connect(server.write_kubeconfig(tmp_path / "config"))
        assert client.get("/api/v1/namespaces/default").code == 200
        pool = urllib3.PoolManager()
        with pytest.raises(urllib3.exceptions.SSLError):
            pool.request("GET", f"{server.url}/healthz", retries=False, timeout=5)
        pool.clear()


def test_kubectl_trusts_the_ca_of_the_kubeconfig(kubectl: Kubectl, tmp_path: Path) -> None:
    with EmbeddedApi(tls=True) as server:
        config = server.write_kubeconfig(tmp_path / "tls-config")
        process = kubectl("--kubeconfig", str(config), "get", "namespace", "default", "-o", "name")
    assert process.stdout == "namespace/default\n", process.stderr


def test_the_kubeconfig_is_private_and_complete(tmp_path: Path) -> None:
    target = tmp_path / "config"
    target.write_text("older")
    with EmbeddedApi() as server:
        assert server.write_kubeconfig(target) == target
        content = yaml.safe_load(target.read_text())
        assert content["clusters"][0]["cluster"] == {"server": server.url}
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [target]


def test_middlewares_inject_faults(connect: Connect, tmp_path: Path) -> None:
    failing = queue.SimpleQueue[int]()

    @web.middleware
    async def fault(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method == "POST" and not failing.empty():
            return web.Response(status=failing.get())
        return await handler(request)

    with EmbeddedApi(middlewares=[fault]) as server:
        client = connect(server.write_kubeconfig(tmp_path / "config"))
        failing.put(503)
        body = {"metadata": {"name": "n"}}
        assert [client.post("/api/v1/nodes", body).code for _ in range(2)] == [503, 201]


_SERVE = """
import sys
from ratchet.dev.api import serve
serve(sys.argv[1], on_ready=lambda url: print(url, flush=True))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_ends_on_a_signal(connect: Connect, tmp_path: Path, number: signal.Signals) -> None:
    config = tmp_path / "config"
    command = [sys.executable, "-c", _SERVE, str(config)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert yaml.safe_load(config.read_text())["clusters"][0]["cluster"]["server"] == url
            client = connect(config)
            with client.watch("/api/v1/namespaces") as stream:
                stream.take(4)
                process.send_signal(number)
                assert stream.rest() == []
            _, errors = process.communicate(timeout=10)
            assert (process.returncode, errors) == (0, "")
        finally:
            process.kill()
