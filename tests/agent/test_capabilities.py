"""Agents with the capabilities of the manifests, which agents of tests have, and with fewer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ratchet.dev.agents import AgentProcess, Process, spawn
from ratchet.dev.hosts import ip
from ratchet.dev.testbed import wait_for
from tests.agent.pages import page
from tests.support.capabilities import NUMBERS, agent_capabilities, capability_sets
from tests.support.cluster import LINK, PATIENT, Cluster, clean_cluster
from tests.support.forking import fork_agent
from tests.support.resync import touch
from tests.support.wired import has_carrier, wired_pair

LATEST = {**PATIENT, "cniVersion": "1.1.0"}
FAULT = "cannot open an OAM socket in patch panel"


def start_again(agent: AgentProcess) -> None:
    agent.stop()
    agent.start()


@pytest.mark.parametrize("start", [fork_agent, spawn])
def test_an_agent_of_a_testbed_has_the_capabilities_of_the_manifest(
    cluster: Cluster, start: Callable[[AgentProcess, Path], Process]
) -> None:
    agent, mask = cluster.bed.agents["a"], sum(1 << NUMBERS[name] for name in agent_capabilities())
    agent.spawn = start
    try:
        start_again(agent)
        has = capability_sets(agent.pid)
        assert has == {"CapInh": 0, "CapPrm": mask, "CapEff": mask, "CapBnd": mask, "CapAmb": 0}
    finally:
        agent.spawn = fork_agent


@pytest.fixture
def without_net_raw() -> Iterator[Cluster]:
    """A cluster of which the agent of node a has no CAP_NET_RAW."""
    with clean_cluster(PATIENT, agent={}) as made:
        agent = made.bed.agents["a"]
        agent.capabilities = agent_capabilities() - {"NET_RAW"}
        start_again(agent)
        yield made


def test_an_agent_without_net_raw_follows_the_pods_of_its_own_node(without_net_raw: Cluster) -> None:
    primary, pair = wired_pair(without_net_raw, without_net_raw.a)
    for state, has in (("down", False), ("up", True)):
        ip("-n", primary.netns, "link", "set", "in1", state)
        wait_for(f"carrier {has}", lambda has=has: has_carrier(without_net_raw, pair, "in2") is has)  # type: ignore[misc]
    assert without_net_raw.pings(pair, "192.168.2.100")


def test_an_agent_without_net_raw_reports_that_carrier_ends_at_its_node(without_net_raw: Cluster) -> None:
    """Links across nodes are made and have carrier. Neither end is verified, and none counts as silent."""
    a, b = without_net_raw.a, without_net_raw.b
    primary, pair = wired_pair(without_net_raw, b)
    wait_for("the note", lambda: FAULT in page(a, "/readyz")[1])
    assert page(a, "/readyz")[0] == 200
    assert FAULT not in page(b, "/readyz")[1]
    assert a.call("STATUS", config=LATEST).status == 0
    log = without_net_raw.bed.agents["a"].log
    wait_for("the note of STATUS", lambda: f'STATUS succeeded note="{FAULT}' in log.read_text())
    assert f'carrier does not follow the pods of other nodes cause="{FAULT}' in log.read_text()
    assert "Ratchet needs CAP_NET_RAW." in log.read_text()

    ip("-n", primary.netns, "link", "set", "in1", "down")
    touch(without_net_raw.bed, LINK)
    assert has_carrier(without_net_raw, pair, "in2")
    ip("-n", primary.netns, "link", "set", "in1", "up")
    assert without_net_raw.pings(pair, "192.168.2.100")
    uid = without_net_raw.bed.links()[LINK].uid
    unheard = {"verified": None, "silent": None}
    wait_for("b to listen", lambda: _proof(without_net_raw, "b", uid) == unheard)
    assert _proof(without_net_raw, "a", uid) is None


def _proof(cluster: Cluster, node: str, uid: str) -> dict[str, Any] | None:
    (end,) = json.loads(page(cluster.bed.kubelets[node], f"/links/{uid}")[1])["ends"].values()
    found: dict[str, Any] | None = end["proof"]
    return found
