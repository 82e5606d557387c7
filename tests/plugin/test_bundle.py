"""The relocatable install: the plugin brings its own Python and maps no library of the node."""

from __future__ import annotations

from pathlib import Path

import pytest

from ratchet.core.model import State
from ratchet.install import install
from ratchet.install.bundle import BUNDLES
from ratchet.install.compiled import find_compiled
from tests.support.cluster import Cluster

pytestmark = pytest.mark.daemonless


def mapped_files(process: int) -> set[str]:
    """Return the files that a process has mapped: libraries, and also locale files (proc_pid_maps(5))."""
    lines = Path(f"/proc/{process}/maps").read_text().splitlines()
    return {fields[5] for fields in (line.split(maxsplit=5) for line in lines) if fields[5:] and fields[5][0] == "/"}


def test_a_relocatable_install_links_pods_without_the_nodes_libraries(cluster: Cluster) -> None:
    if find_compiled("launcher") is None:
        pytest.skip("needs a C compiler, for the launcher of a Python of its own")
    for node in (cluster.a, cluster.b):
        kubeconfig = cluster.bed.access.node_kubeconfig
        install(node.bin_dir, kubeconfig=kubeconfig, state_dir=node.state_dir, relocatable=True)
    primary, pair = cluster.primary(cluster.a), cluster.pair(cluster.b)
    waiting = cluster.start("ADD", cluster.a, primary)
    cluster.wait_until(State.PRIMARY_READY)
    bundles = str((cluster.a.bin_dir / BUNDLES).resolve())
    libraries = {file for file in mapped_files(waiting.pid) if ".so" in file}
    assert any(file.endswith("/libc.so.6") for file in libraries)
    assert {file for file in libraries if not file.startswith(bundles)} == set()
    assert cluster.b.add(pair).status == 0
    assert cluster.end(waiting).status == 0
    assert cluster.pings(primary, "192.168.2.101")
    cluster.delete_all((cluster.a, primary), (cluster.b, pair))
    cluster.assert_nothing_left()
