"""Metadata-only lists, from which the store reads the VNIs and UIDs of records."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from ratchet.store.apiserver import connect
from ratchet.store.store import ApiStore

if TYPE_CHECKING:
    from tests.api.conftest import Client


def test_metadata_lists_omit_data(kubeconfig: Path, api: Client, namespace: str) -> None:
    for name, labels in (("one", {"ratchet.vni": "11"}), ("two", {})):
        body = {"metadata": {"name": name, "labels": labels}, "data": {"key": "value"}}
        api.post(api.path("configmaps", namespace), body).accepted(201)
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    with closing(connect(str(kubeconfig), patience=5.0)) as server:
        (found,) = server.list_metadata(path, dict, labelSelector="ratchet.vni")
        names = {one["metadata"]["name"] for one in server.list_metadata(path, dict)}
        assert ApiStore(server, namespace).vnis.record_vnis([9, 11]) == {11: found["metadata"]["uid"]}
        assert ApiStore(server, namespace).vnis.record_vnis([9, 10]) == {}
    assert found["metadata"]["name"] == "one"
    assert found["metadata"]["uid"]
    assert "data" not in found
    assert names >= {"one", "two"}
