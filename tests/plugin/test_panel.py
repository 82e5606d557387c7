"""STATUS names what has the path of the patch panel, and succeeds: pods start without links through it."""

from __future__ import annotations

import pytest

from ratchet.dev.hosts import ip, netns_path
from tests.support.cluster import CHAINED, Cluster

pytestmark = pytest.mark.daemonless


def test_status_names_a_namespace_at_the_path_of_the_panel(cluster: Cluster) -> None:
    panel, environment = cluster.a.host.panel, cluster.a.environment
    cluster.bed.hosts.remove_namespace(panel)
    ip("netns", "add", panel)
    cluster.bed.hosts.adopt_namespace(panel)
    try:
        path = netns_path(panel)
        status = cluster.a.call("STATUS", config={**CHAINED, "cniVersion": "1.1.0"})
        assert (status.status, status.stdout) == (0, "")
        fault = f"cannot use network namespace {path}: it is not Ratchet's"
        assert f'patch panel unusable cause="{fault}" details="Delete or rename' in status.stderr
        for absent in ("", f"{path}-absent"):
            cluster.a.environment = {"RATCHET_PANEL": absent}
            status = cluster.a.call("STATUS", config={**CHAINED, "cniVersion": "1.1.0"})
            assert status.status == 0
            assert "panel" not in status.stderr
    finally:
        cluster.a.environment = environment
        cluster.bed.hosts.remove_namespace(panel)
