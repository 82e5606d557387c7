"""The memory of an agent beside hostile tenants: as they write, and after a restart, when it lists all of it.

Each of TENANTS namespaces has a pod on the node, and the topologies and pods of `tests/support/hostile`.

Run it as root: `python -m tests.bench.bench_memory`.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from ratchet.dev.testbed import wait_for
from tests.bench.nodes import NODES, ApiProcessBed, Node, add_namespaces, add_node, sandbox_in
from tests.bench.rows import Report, Row, at_most, table
from tests.support.cluster import PATIENT
from tests.support.hostile import hostile_pods, hostile_topologies

TENANTS = 8
# MiB: the manifests' limit is 256.
MOST = 200
# The agent is at rest once it has used less CPU than IDLE_CPU in REST_SECONDS.
REST_SECONDS, IDLE_CPU, PATIENCE_SECONDS = 5.0, 0.5, 300.0


def measure(report: Report = print, prefix: str | None = None) -> list[Row]:
    """The peaks of the agent's resident memory."""
    with ExitStack() as stack:
        bed = stack.enter_context(ApiProcessBed(prefix))
        bed.api = bed.api.patient(60.0)
        node = add_node(bed, stack, "a", NODES["a"], PATIENT)
        for number in range(TENANTS):
            _write(bed, node, number)
            report(f"{number + 1} hostile namespaces: {node.memory():.0f} MiB")
        watched = _peak_at_rest(node)
        node.agent.kill()
        began = time.monotonic()
        node.agent.start()
        wait_for("the watches after all lists", lambda: len(_watched(node, began)) == 2 * TENANTS, PATIENCE_SECONDS)
        listed = _peak_at_rest(node)
        name = f"agent: peak memory beside {TENANTS} hostile namespaces"
        beside = "RSS; the manifests' limit is 256"
        return [
            at_most(f"{name}, as they write", watched, "MiB", MOST, beside),
            at_most(f"{name}, at its start", listed, "MiB", MOST, beside),
        ]


def _write(bed: ApiProcessBed, node: Node, number: int) -> None:
    """Start a pod in a new namespace, and write all that the tenant has."""
    name = f"tenant-{number}"
    bed.make("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    before, bed.namespace = bed.namespace, name
    try:
        pod = bed.create_pod("started", {"ratchet": "true"}, "a")
    finally:
        bed.namespace = before
    (netns,) = add_namespaces(bed.hosts, f"t{number}")
    node.runtime.timed("ADD", sandbox_in(netns, pod))
    for topology in hostile_topologies(number):
        bed.api.create(f"/api/v1/namespaces/{name}/configmaps", topology)
    for one in hostile_pods(number):
        bed.api.create(f"/api/v1/namespaces/{name}/pods", one)


def _watched(node: Node, since: float) -> set[str]:
    """The collections of tenants that the agent has watched, each after its list."""
    paths = (urlsplit(one.path) for one in node.requests(since))
    return {one.path for one in paths if "watch=" in one.query and "/namespaces/tenant-" in one.path}


def _peak_at_rest(node: Node) -> float:
    """Wait until the agent is at rest. Returns the peak of its RSS in MiB (proc_pid_status(5), VmHWM)."""

    def rests() -> bool:
        used = node.cpu()
        time.sleep(REST_SECONDS)
        return node.cpu() - used < IDLE_CPU

    wait_for("rest", rests, PATIENCE_SECONDS)
    lines = Path(f"/proc/{node.agent.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    print(table(measure()))
