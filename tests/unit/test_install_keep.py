"""`ratchet install --keep` as a process: it watches its DaemonSet, and decides at SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ratchet.install import CONFIG, LAUNCHER
from tests.support.http_server import HttpServer, JsonHandler, running, write_kubeconfig

DAEMON_SET = {"kind": "DaemonSet", "metadata": {"name": "ratchet-install", "uid": "1", "resourceVersion": "7"}}
DENIED = {"kind": "Status", "reason": "Forbidden", "message": "no permission"}
COMMAND = [sys.executable, "-m", "ratchet.cli.main", "install", "--agent", "--no-fallback"]
SECONDS = 60.0


class Server(HttpServer):
    """An API with one DaemonSet. After `delete`, watches report its deletion, and requests are denied."""

    def __init__(self) -> None:
        super().__init__(Handler)
        self.watched, self.deleted, self.reported = threading.Event(), threading.Event(), threading.Event()

    def delete(self) -> None:
        self.deleted.set()
        assert self.reported.wait(SECONDS)


class Handler(JsonHandler):
    server: Server

    def get(self) -> None:
        if self.server.deleted.is_set():
            self.send(403, DENIED)
        elif "watch=1" not in self.path:
            self.send(200, DAEMON_SET)
        else:
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            self.server.watched.set()
            self.server.deleted.wait(SECONDS)
            self.wfile.write(json.dumps({"type": "DELETED", "object": DAEMON_SET}).encode() + b"\n")
            self.wfile.flush()
            self.server.reported.set()


@pytest.fixture
def server() -> Iterator[Server]:
    with running(Server()) as made:
        yield made
        made.deleted.set()


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A node with a network and an agent."""
    (tmp_path / "net.d").mkdir()
    (tmp_path / "net.d" / "10-pods.conf").write_text('{"name": "pods", "type": "bridge"}')
    (tmp_path / "agent.sock").touch()
    return tmp_path


@pytest.fixture
def installer(server: Server, node: Path) -> Iterator[subprocess.Popen[str]]:
    """A running installer."""
    options = ["--bin-dir", str(node / "bin"), "--conf-dir", str(node / "net.d"), "--keep", "ratchet/ratchet-install"]
    kubeconfig = write_kubeconfig(node, server.url)
    environment = {"RATCHET_KUBECONFIG": kubeconfig, "RATCHET_SOCKET": str(node / "agent.sock")}
    with subprocess.Popen(
        [*COMMAND, *options], env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            read_until(process, "network configured")
            assert server.watched.wait(SECONDS)
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], text: str) -> None:
    """Read the log up to a line with this text. Fails if the process ends before."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            return
    pytest.fail("".join(lines))


def end(process: subprocess.Popen[str]) -> str:
    """End the installer as a kubelet does, and return the rest of its log."""
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, log
    return log


def installed(node: Path) -> set[str]:
    return {path.name for path in (node / "bin" / LAUNCHER, node / "net.d" / CONFIG) if path.exists()}


def test_the_plugin_stays_while_the_daemon_set_is_deployed(installer: subprocess.Popen[str], node: Path) -> None:
    assert "plugin kept daemonset=ratchet/ratchet-install reason=it is deployed" in end(installer)
    assert installed(node) == {LAUNCHER, CONFIG}


def test_a_deletion_is_noticed_although_the_account_is_deleted_first(
    installer: subprocess.Popen[str], server: Server, node: Path
) -> None:
    server.delete()
    assert f"file removed path={node / 'net.d' / CONFIG}" in end(installer)
    assert installed(node) == set()


def test_the_installer_follows_its_network(installer: subprocess.Popen[str], node: Path) -> None:
    (node / "net.d" / "10-pods.conf").unlink()
    read_until(installer, "network configuration removed")
    assert installed(node) == {LAUNCHER}
    (node / "net.d" / "20-pods.conf").write_text('{"name": "pods", "type": "ptp"}')
    read_until(installer, "network configured")
    assert installed(node) == {LAUNCHER, CONFIG}
