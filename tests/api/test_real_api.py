"""What a testbed does on a real API server in place of kubelets. The embedded one accepts it too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ratchet.dev import real_api
from ratchet.dev.testbed import wait_for
from ratchet.store.apiserver import ApiServer, connect

if TYPE_CHECKING:
    from tests.api.conftest import Client


@pytest.fixture
def server(kubeconfig: Path, api: Client) -> Iterator[ApiServer]:
    """A server with the namespace of the Leases, which a real API server creates by itself."""
    assert api.post("/api/v1/namespaces", {"metadata": {"name": "kube-node-lease"}}).code in (201, 409)
    with closing(connect(str(kubeconfig), patience=5.0)) as found:
        yield found


def test_the_leases_of_nodes_are_renewed_until_the_end(
    server: ApiServer, api: Client, node: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(real_api, "RENEW_SECONDS", 0.01)
    path = f"{real_api.NODE_LEASES}/{node}"
    with real_api.node_heartbeats(server, [node]):
        wait_for("a Lease", lambda: api.get(path).code == 200)
        first = api.get(path).accepted()["spec"]["renewTime"]
        wait_for("a renewal", lambda: api.get(path).accepted()["spec"]["renewTime"] > first)
    assert api.get(path).code == 404


def test_a_namespace_gets_its_default_account_once(server: ApiServer, api: Client, namespace: str) -> None:
    real_api.make_default_account(server, namespace)
    real_api.make_default_account(server, namespace)
    assert api.get(api.path("serviceaccounts", namespace, "default")).code == 200
    real_api.wait_until_deleted(server, namespace)  # it is not being deleted


def test_a_deleted_namespace_is_waited_for(server: ApiServer, api: Client) -> None:
    api.post("/api/v1/namespaces", {"metadata": {"name": "ratchet-test-ending"}}).accepted(201)
    api.delete("/api/v1/namespaces/ratchet-test-ending")
    real_api.wait_until_deleted(server, "ratchet-test-ending")
    assert api.get("/api/v1/namespaces/ratchet-test-ending").code == 404
