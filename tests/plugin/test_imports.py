"""What an ADD of the daemonless plugin imports; `tests/unit/test_plugin_imports.py` has the calls without a sandbox."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ratchet.dev.fake_kubelet import Kubelet, Sandbox
from tests.support.cluster import PAIR, PRIMARY, Cluster

pytestmark = [pytest.mark.daemonless, pytest.mark.executed]

# For pods with links only.
LINKING = {"ratchet.core.plan", "ratchet.core.interface", "ratchet.datapath.messages", "ratchet.node.attach"}
RECORDING = """import os, json, sys
def leave(status, leave=os._exit):
    with open({path!r}, "w") as out:
        json.dump(sorted(sys.modules), out)
    leave(status)
os._exit = leave
"""


def imported_by(node: Kubelet, command: str, sandbox: Sandbox, folder: Path) -> set[str]:
    """The modules that a call has imported at its end. The call succeeds."""
    written = folder / "modules"
    interpreter, body = (node.bin_dir / "ratchet").read_text().split("\n", 1)
    launcher = folder / "ratchet"
    launcher.write_text(f"{interpreter}\n{RECORDING.format(path=str(written))}{body}")
    launcher.chmod(0o755)
    answer = replace(node, bin_dir=folder).call(command, sandbox)
    assert answer.status == 0, answer
    return set(json.loads(written.read_text()))


def test_an_add_without_links_imports_nothing_for_links(cluster: Cluster, tmp_path: Path) -> None:
    modules = imported_by(cluster.a, "ADD", cluster.pod("plain", {}, cluster.a), tmp_path)
    assert modules & (LINKING | {"kubernetes", "pyroute2", "tenacity"}) == set()


def test_an_add_with_labels_imports_neither_the_yaml_parser_nor_retries(cluster: Cluster, tmp_path: Path) -> None:
    primary, pair = cluster.pod("primary-pod", PRIMARY, cluster.a), cluster.pod("pair-pod", PAIR, cluster.a)
    waiting = cluster.start("ADD", cluster.a, pair)
    modules = imported_by(cluster.a, "ADD", primary, tmp_path)
    assert cluster.end(waiting).status == 0
    assert modules & {"ratchet.core.intent.yaml_parser", "kubernetes", "tenacity"} == set()
    assert modules >= LINKING
