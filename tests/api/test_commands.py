"""Commands for people and the store against an API server: namespaces that do not exist, and labels of topologies."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ratchet.cli.main import main
from ratchet.core.pod import Topology
from ratchet.store.apiserver import connect
from ratchet.store.topologies import TopologyChange, TopologyStore

if TYPE_CHECKING:
    from tests.api.conftest import Client

Captured = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("command", "action"),
    [
        (["links"], "list links"),
        (["links", "-o", "json"], "list links"),
        (["links", "--watch"], "watch links"),
        (["graph"], "draw links"),
        (["wait", "--timeout", "0"], "wait for links"),
    ],
)
def test_a_namespace_that_does_not_exist_is_an_error(
    command: list[str], action: str, kubeconfig: Path, namespace: str, capsys: Captured
) -> None:
    options = ["--kubeconfig", str(kubeconfig), "--records-in", namespace]
    assert main([*command, *options, "-n", "typo"]) == 1
    assert capsys.readouterr().err == f"ratchet: cannot {action}: namespace typo does not exist\n"


@pytest.mark.parametrize("command", ["links", "graph"])
def test_a_namespace_without_links_is_no_error(
    command: str, kubeconfig: Path, namespace: str, capsys: Captured
) -> None:
    assert main([command, "--kubeconfig", str(kubeconfig), "--records-in", namespace, "-n", namespace]) == 0
    assert capsys.readouterr().err == ""


def test_the_label_of_topologies_may_have_upper_case(kubeconfig: Path, api: Client, namespace: str) -> None:
    for number, value in enumerate(("true", "True", "TRUE", "false", "yes")):
        metadata = {"name": f"lab-{number}", "labels": {"ratchet.topology": value}}
        api.post(api.path("configmaps", namespace), {"metadata": metadata, "data": {"links": "[]"}}).accepted(201)
    with closing(connect(str(kubeconfig), patience=5.0)) as server:
        topologies, version = TopologyStore(server).list_with_version(namespace)
        assert [one.name for one in topologies if isinstance(one, Topology)] == ["lab-0", "lab-1", "lab-2"]
        api.delete(f"{api.path('configmaps', namespace)}/lab-1").accepted()
        change, _ = next(TopologyStore(server).watch(namespace, version, 30.0))
    assert isinstance(change, TopologyChange)
    assert (change.topology.name, change.gone) == ("lab-1", True)
