"""The patch panel of nodes with agents: the shim makes it, and the agent holds and watches it."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ratchet.agent.frame import PANEL_REQUEST, Reply, read_answer
from ratchet.datapath.identity import netns_cookie
from ratchet.dev import agents
from ratchet.dev.agents import AgentProcess
from ratchet.dev.hosts import Host, ip, remove_namespace
from ratchet.dev.testbed import wait_for
from ratchet.install.plugin import find_shim
from tests.agent.pages import page
from tests.support.cluster import PATIENT, PRIMARY, Cluster, clean_cluster
from tests.support.namespaces import may_make_namespaces

LATEST = {**PATIENT, "cniVersion": "1.1.0"}
HELD = "patch panel opened"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    if not may_make_namespaces():
        pytest.skip("needs root with CAP_SYS_ADMIN, to make network namespaces")
    if find_shim() is None:
        pytest.skip("needs the shim, which a C compiler builds")
    with clean_cluster(PATIENT, agent={}) as made:
        yield made


def log_of(agent: AgentProcess) -> str:
    return agent.log.read_text()


def ask_for_panel(agent: AgentProcess) -> tuple[Reply, list[int]]:
    """The answer to a shim's question for the panel: the reply, and the descriptors that came with it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.connect(str(agent.socket))
        asking.sendall(PANEL_REQUEST)
        answer, descriptors, _, _ = socket.recv_fds(asking, 1 << 16, 4)
        pieces = iter([answer])
        return read_answer(lambda _: next(pieces)), descriptors


def test_a_panel_is_made_held_and_given_back(cluster: Cluster) -> None:
    agent = cluster.bed.agents["a"]
    assert not Path(agent.panel).exists()
    assert ask_for_panel(agent) == (Reply(0, b""), [])
    assert "panel" not in log_of(agent)

    pod = cluster.pod("lonely", {**PRIMARY, "ratchet.pair_name": "nobody"}, cluster.a)
    assert cluster.a.add(pod).status == 0
    cookie = netns_cookie(agent.panel)
    assert f"{HELD} path={agent.panel} cookie={cookie}\n" in log_of(agent)
    panel = cluster.a.host.panel
    ip("-n", panel, "link", "add", "c1", "type", "veth", "peer", "name", "c2")
    interfaces = ip("-n", panel, "-d", "-j", "link")

    remove_namespace(panel)
    wait_for("the report of the lost name", lambda: "patch panel lost its name, links stay" in log_of(agent))
    assert not Path(agent.panel).exists()
    status = cluster.a.call("STATUS", config=LATEST)
    assert (status.status, status.stderr) == (0, "")
    assert netns_cookie(agent.panel) == cookie
    assert ip("-n", panel, "-d", "-j", "link") == interfaces
    wait_for("the report of the name", lambda: "patch panel has its name again" in log_of(agent))
    assert len(re.findall("patch panel", log_of(agent))) == 3


def test_a_restarted_agent_holds_the_panel_that_it_finds(cluster: Cluster) -> None:
    agent = cluster.bed.agents["a"]
    assert cluster.a.call("STATUS", config=LATEST).status == 0
    cookie = netns_cookie(agent.panel)
    agent.stop()
    agent.start()
    held = f"{HELD} path={agent.panel} cookie={cookie}\n"
    wait_for("the panel", lambda: held in log_of(agent))
    reply, (descriptor,) = ask_for_panel(agent)
    with open(descriptor, "rb"):  # noqa: PTH123  # closes it
        assert reply == Reply(0, b"")
        assert netns_cookie(f"/proc/self/fd/{descriptor}") == cookie


def test_another_namespace_under_the_name_is_reported_once_and_calls_are_served(cluster: Cluster) -> None:
    agent, panel = cluster.bed.agents["a"], cluster.a.host.panel
    assert cluster.a.call("STATUS", config=LATEST).status == 0
    wait_for("the panel", lambda: HELD in log_of(agent))
    remove_namespace(panel)
    ip("netns", "add", panel)
    fault = f"cannot use network namespace {agent.panel}: it is not Ratchet's"
    wait_for("the report", lambda: f'patch panel unusable cause="{fault} (' in log_of(agent))
    for _ in range(2):
        status = cluster.a.call("STATUS", config=LATEST)
        assert (status.status, status.stderr) == (0, "")
    noted = f'STATUS succeeded note="{fault} ('
    assert log_of(agent).count(noted) == 2
    status_code, ready = page(cluster.a, "/readyz")
    assert status_code == 200
    assert fault in ready
    assert log_of(agent).count("patch panel unusable") == 1

    remove_namespace(panel)
    assert cluster.a.call("STATUS", config=LATEST).status == 0
    wait_for("the end of the fault", lambda: "patch panel fault is over" in log_of(agent))
    assert page(cluster.a, "/readyz") == (200, "ok\n")


def test_a_paused_agent_keeps_its_panel_the_only_one(cluster: Cluster) -> None:
    agent, panel = cluster.bed.agents["a"], cluster.a.host.panel
    assert cluster.a.call("STATUS", config=LATEST).status == 0
    cookie = netns_cookie(agent.panel)
    wait_for("the panel", lambda: HELD in log_of(agent))
    agent.pause()
    try:
        remove_namespace(panel)
        running = cluster.start("STATUS", cluster.a, None, config=LATEST)
        assert running.stderr is not None
        line = running.stderr.readline()
        assert not Path(agent.panel).exists()
    finally:
        agent.resume()
    assert "for the panel that it has open: it did not answer within 2000 ms" in line
    assert cluster.end(running).status == 0
    assert cluster.a.call("STATUS", config=LATEST).status == 0
    assert netns_cookie(agent.panel) == cookie


def test_an_agent_in_a_container_gives_its_panel(cluster: Cluster) -> None:
    """Mounts of the node are seen in the agent's mount namespace, and not the other way around."""
    agent = cluster.bed.agents["b"]
    assert cluster.b.call("STATUS", config=LATEST).status == 0
    cookie = netns_cookie(agent.panel)
    agent.stop()
    agent.spawn = spawn_in_mount_namespace
    agent.start()
    wait_for("the panel", lambda: f"cookie={cookie}\n" in log_of(agent))
    remove_namespace(cluster.b.host.panel)
    wait_for("the report of the lost name", lambda: "patch panel lost its name" in log_of(agent))
    status = cluster.b.call("STATUS", config=LATEST)
    assert (status.status, status.stderr) == (0, "")
    assert netns_cookie(agent.panel) == cookie
    wait_for("the report of the name", lambda: "patch panel has its name again" in log_of(agent))


def spawn_in_mount_namespace(agent: AgentProcess, config: Path) -> agents.Process:
    apart = replace(agent, host=_Apart(agent.host.name, agent.host.netns, agent.host.addresses))
    return agents.spawn(apart, config)


class _Apart(Host):
    def command(self, *argv: str) -> list[str]:
        return Host.command(self, "unshare", "--mount", "--propagation", "slave", *argv)
