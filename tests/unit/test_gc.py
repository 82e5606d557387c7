"""Garbage collection in a large cluster: what it removes, and how much memory it needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.gc_objects import gc_collections
from tests.support.synthetic import measure, serve

PODS = 5_000
GC = "from ratchet.cli.main import main; raise SystemExit(main(sys.argv[1:]))"
# MB. A pass over no objects takes 37 MB, and one over ten times as many objects may take 128 MB.
MOST = 60


def collect(folder: Path, expiries: int = 0, **of_cluster: Any) -> tuple[list[str], float]:
    """Run `ratchet gc --dry-run`. Return the lines that it prints, and the peak of its memory in MB."""
    with serve(gc_collections(**of_cluster), expiries) as api:
        measured = measure(GC, "gc", "--dry-run", "--kubeconfig", api.kubeconfig(folder))
    return measured.stdout.splitlines(), measured.peak


@pytest.mark.thorough
def test_gc_keeps_a_few_bytes_of_each_object(tmp_path: Path) -> None:
    lines, peak = collect(tmp_path, pods=PODS, links=2 * PODS)
    assert lines == ["nothing to remove"]
    assert peak < MOST


@pytest.mark.parametrize(
    "links",
    [pytest.param(900, id="one batch"), pytest.param(6_000, id="two batches", marks=pytest.mark.thorough)],
)
def test_gc_finds_all_garbage_in_bounded_memory(links: int, tmp_path: Path) -> None:
    """Of a batch of full records, some 3 kB each are in memory."""
    lines, peak = collect(tmp_path, pods=links, links=links, alive=links // 2)
    dead = links - links // 2 + 1  # the last living pod has a link to the first dead one, and the last to the first
    assert lines[-1] == f"would remove {dead} in all"
    assert len(set(lines[:-1])) == dead
    assert peak < MOST


def test_gc_starts_an_expired_list_again(tmp_path: Path) -> None:
    """Neither is an object of the part that was read counted twice, nor is one of the rest taken as missing."""
    lines, _ = collect(tmp_path, expiries=2, pods=900, links=900)
    assert lines == ["nothing to remove"]
    lines, _ = collect(tmp_path, expiries=2, pods=900, links=900, alive=899)
    assert lines[-1] == "would remove 2 in all"


def test_gc_removes_nothing_if_its_lists_keep_expiring(tmp_path: Path) -> None:
    with serve(gc_collections(pods=900, links=900, alive=0), expiries=1000) as api:
        command = [sys.executable, "-m", "ratchet.cli.main", "gc", "--kubeconfig", api.kubeconfig(tmp_path)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "too old" in ended.stderr
