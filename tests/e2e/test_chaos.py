"""A chaos run on a real API server. It has a control plane of its own: it loses Leases, and restarts the API server."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ratchet.dev.building import REPOSITORY
from ratchet.dev.cluster.cluster import Cluster

MINUTES, SEED = 1, 1


@pytest.fixture
def control_plane() -> Iterator[Cluster]:
    """A cluster without nodes."""
    made = Cluster(Path("/var/tmp") / f"ratchet-chaos-{os.getpid():x}")
    made.up(0, print)
    try:
        yield made
    finally:
        made.down(print)


@pytest.mark.timeout(900)
def test_agents_keep_links_under_random_faults(control_plane: Cluster) -> None:
    command = [
        str(REPOSITORY / "hack/chaos"),
        f"--cluster={control_plane.folder}",
        f"--minutes={MINUTES}",
        f"--seed={SEED}",
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stderr
