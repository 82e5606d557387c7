"""The effect of each key of the network configuration on a real plugin process, with real pods.

`EFFECTS` holds one check for each key. tests/unit/test_effects.py compares it with the existing keys. A key that an
agent honours is checked on both hosts. The agents have options that differ from the key.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ratchet.agent.service import _OWN
from ratchet.core.model import State
from ratchet.dev.fake_kubelet import Sandbox
from ratchet.dev.hosts import ip
from ratchet.dev.testbed import wait_for
from ratchet.store.store import ApiStore
from tests.support.announcing import earlier_agent
from tests.support.cluster import PRIMARY, Cluster, lists_topologies, running
from tests.support.guard import guard_of
from tests.support.topologies import LIMITED, LIMITS, topologies_over

BASE: dict[str, Any] = {"cniVersion": "1.0.0", "name": "net", "type": "ratchet", "wait": 45, "wait_policy": "require"}
OPTIONS: dict[str, object] = {"vxlan_port": 8472, "wait": 30, "wait_policy": "proceed", "vni_range": "500-509"}
ELSEWHERE = "elsewhere"
DIRECT = {"wiring": "direct"}
# A plugin that writes its configuration to a folder and prints a result without addresses.
SCRIPT = """#!/bin/sh
cat > {folder}/$CNI_COMMAND
[ "$CNI_COMMAND" = DEL ] || echo '{{"cniVersion": "1.0.0", "interfaces": [], "ips": []}}'
"""


class ClustersByHost:
    """One cluster for each host, daemonless or agent. Each is started on first use."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._made: dict[str, Cluster] = {}

    def of(self, host: str) -> Cluster:
        if host not in self._made:
            made = self._stack.enter_context(running(BASE, agent=OPTIONS if host == "agent" else None))
            metadata = {"name": ELSEWHERE}
            made.bed.make("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
            _give_second_uplink(made)
            self._made[host] = made
        return self._made[host]


def _give_second_uplink(cluster: Cluster) -> None:
    """Give node a a second address on eth0, and a second interface."""
    netns, switch = cluster.a.host.netns, cluster.bed.hosts.switch
    ip(*f"-n {netns} addr add 192.168.1.75/24 dev eth0".split())
    ip(*f"-n {netns} link add up1 type veth peer name pup1 netns {switch}".split())
    ip(*f"-n {switch} link set pup1 master br0 up".split())
    ip(*f"-n {netns} addr add 192.168.1.74/24 dev up1".split())
    ip(*f"-n {netns} link set up1 up".split())


@pytest.fixture(scope="module")
def worlds() -> Iterator[ClustersByHost]:
    with ExitStack() as stack:
        yield ClustersByHost(stack)


@contextmanager
def linked_tunnel(
    cluster: Cluster, on_a: dict[str, Any], on_b: dict[str, Any] | None = None
) -> Iterator[dict[str, Any]]:
    """Link two pods across nodes with these extra keys. Yield the primary's VXLAN as `ip` shows it."""
    cluster.a.config, cluster.b.config = {**BASE, **on_a}, {**BASE, **(on_b or {})}
    ends = (cluster.a, cluster.primary(cluster.a)), (cluster.b, cluster.pair(cluster.b))
    try:
        cluster.add_all(*ends)
        yield cluster.show(ends[0][1], "in1")["linkinfo"]["info_data"]
    finally:
        cluster.delete_all(*ends)
        cluster.a.config = cluster.b.config = BASE


@contextmanager
def sandbox_without_peer(
    cluster: Cluster, labels: dict[str, str] | None = None, name: str = "lone"
) -> Iterator[Sandbox]:
    """Make a sandbox on node a for a pod with these labels. By default its peer never starts."""
    without_peer = {**PRIMARY, "ratchet.pair_name": f"peer-of-{name}"}
    sandbox = cluster.pod(name, without_peer if labels is None else labels, cluster.a)
    try:
        yield sandbox
    finally:
        cluster.delete_all((cluster.a, sandbox))


def holders(cluster: Cluster) -> set[str]:
    """The container IDs of the primaries that have joined a link."""
    return {link.primary.sandbox.container_id for link in cluster.bed.links().values() if link.primary.sandbox}


def install_plugin(cluster: Cluster, folder: Path, name: str) -> Callable[[], dict[str, Any]]:
    """Install a plugin on node a. The returned function reads the configuration of its last ADD, if any."""
    folder.mkdir(exist_ok=True)
    path = cluster.a.bin_dir / name
    path.write_text(SCRIPT.format(folder=folder))
    path.chmod(0o755)
    stdin_file = folder / "ADD"
    return lambda: dict(json.loads(stdin_file.read_text())) if stdin_file.exists() else {}


Effect = Callable[[Cluster, Path], None]
EFFECTS: dict[str, tuple[Effect, tuple[str, ...]]] = {}


def effect_of(key: str, *hosts: str) -> Callable[[Effect], Effect]:
    """Register the check of a key for these hosts, or for both by default."""

    def register(check: Effect) -> Effect:
        EFFECTS[key] = (check, hosts or ("daemonless", "agent"))
        return check

    return register


@effect_of("parent_interface")
def _parent_interface(cluster: Cluster, _: Path) -> None:
    with linked_tunnel(cluster, {"parent_interface": "up1"}) as tunnel:
        assert tunnel["local"] == "192.168.1.74"


@effect_of("parent_address")
def _parent_address(cluster: Cluster, _: Path) -> None:
    with linked_tunnel(cluster, {"parent_address": "192.168.1.75"}) as tunnel:
        assert tunnel["local"] == "192.168.1.75"


@effect_of("vxlan_port")
def _vxlan_port(cluster: Cluster, _: Path) -> None:
    keys = {"vxlan_port": 4790}
    with linked_tunnel(cluster, keys, keys) as tunnel:
        assert tunnel["port"] == 4790


@effect_of("vxlan_ports", "daemonless")
def _vxlan_ports(cluster: Cluster, _: Path) -> None:
    """The range must include the node's own port."""
    with sandbox_without_peer(cluster) as sandbox:
        answer = cluster.a.call("ADD", sandbox, config={**BASE, "vxlan_ports": [9000, 9010]})
        assert answer.json["code"] == 7
        assert answer.error.endswith("vxlan_ports must include 4789-4791 for the vxlan_port 4789, not 9000-9010")
    link = {"peer": "x", "ifname": "in1", "peer_ifname": "in1", "vxlan_port": 9005, **DIRECT}
    hub = cluster.pod("hub", {"ratchet": "true"}, cluster.a, **{"ratchet.links": json.dumps([link])})
    peer = cluster.pod("x", {"ratchet": "true", "ratchet.primary": "false"}, cluster.b)
    cluster.a.config = cluster.b.config = {**BASE, "vxlan_ports": [4789, 9010]}
    cluster.add_all((cluster.a, hub), (cluster.b, peer))
    assert cluster.show(hub, "in1")["linkinfo"]["info_data"]["port"] == 9005
    cluster.delete_all((cluster.a, hub), (cluster.b, peer))
    cluster.a.config = cluster.b.config = BASE


@effect_of("guard")
def _guard(cluster: Cluster, _: Path) -> None:
    with linked_tunnel(cluster, {"guard": False}) as tunnel:
        assert tunnel["id"] not in {one.vni for one in guard_of(cluster.a).tunnels}
        assert tunnel["id"] in {one.vni for one in guard_of(cluster.b).tunnels}, "where the key is not set"


@effect_of("wiring", "daemonless")
def _wiring(cluster: Cluster, _: Path) -> None:
    """Panel wiring is postponed while an agent of an earlier version runs. A link of labels is direct."""
    item = {"peer": "nobody", "ifname": "in1", "peer_ifname": "in1"}
    hub = cluster.pod("hub", {"ratchet": "true"}, cluster.a, **{"ratchet.links": json.dumps([item])})
    config, postponed = {**BASE, "wait": 0}, "panel wiring postponed, because not all agents read its records link="
    with earlier_agent(cluster.bed.store), sandbox_without_peer(cluster) as labelled:
        for keys, sandbox, is_postponed in ((DIRECT, hub, False), ({}, labelled, False), ({}, hub, True)):
            answer = cluster.a.call("ADD", sandbox, config={**config, **keys})
            assert answer.json["code"] == 11
            assert (f"{postponed}default.hub.in1.nobody.in1" in answer.stderr) is is_postponed
    cluster.delete_all((cluster.a, hub))


@effect_of("vni_range", "daemonless")
def _vni_range(cluster: Cluster, _: Path) -> None:
    keys = {"vni_range": [700, 709]}
    with linked_tunnel(cluster, keys, keys) as tunnel:
        assert 700 <= tunnel["id"] <= 709


@effect_of("links_per_pod", "daemonless")
def _links_per_pod(cluster: Cluster, _: Path) -> None:
    exceeds(cluster, {"links_per_pod": 1}, "it has 2 links, more than links_per_pod, 1")


@effect_of("links_per_namespace", "daemonless")
def _links_per_namespace(cluster: Cluster, _: Path) -> None:
    exceeds(cluster, {"links_per_namespace": 1}, "namespace default declares 2 links, more than links_per_namespace, 1")


def exceeds(cluster: Cluster, keys: dict[str, int], cause: str) -> None:
    """Add a pod with two links with these keys: it is rejected. With a limit of two it joins both."""
    cluster.bed.create_topology("two", "- endpoints: [hub:in1, x:in1]\n- endpoints: [hub:in2, x:in2]")
    hub = cluster.pod("hub", {"ratchet": "true"}, cluster.a)
    answer = cluster.a.call("ADD", hub, config={**BASE, **keys, "wait": 0})
    assert (answer.json["code"], answer.error) == (101, f"cannot link pod default/hub: {cause}")
    assert cluster.bed.links() == {}
    answer = cluster.a.call("ADD", hub, config={**BASE, **dict.fromkeys(keys, 2), "wait": 0})
    assert answer.json["code"] == 11
    cluster.delete_all((cluster.a, hub))
    cluster.bed.delete_topologies()


@effect_of("topologies", "daemonless")
def _topologies(cluster: Cluster, _: Path) -> None:
    before = len(cluster.faults.sent)
    with linked_tunnel(cluster, {"topologies": "off"}):
        sent = cluster.faults.sent[before:]
    assert not any(map(lists_topologies(cluster.a), sent))
    assert any(map(lists_topologies(cluster.b), sent)), "which the other node does"


def _limits_topologies(key: str) -> Effect:
    def check(cluster: Cluster, _: Path) -> None:
        keys = {**BASE, key: LIMITS[key]}
        with topologies_over(cluster.bed, key):
            sandbox = cluster.pod(LIMITED, {"ratchet": "true"}, cluster.a)
            answer = cluster.a.call("ADD", sandbox, config=keys)
            cluster.delete_all((cluster.a, sandbox))
        assert (answer.status, answer.json["code"]) == (1, 101)
        assert f"over the limit of {LIMITS[key]} " in answer.json["msg"]
        assert key in answer.json["details"]

    return check


for limit in LIMITS:
    effect_of(limit, "daemonless")(_limits_topologies(limit))


@effect_of("annotation_bytes_per_namespace", "daemonless")
def _annotation_bytes_per_namespace(cluster: Cluster, _: Path) -> None:
    keys = {**BASE, "annotation_bytes_per_namespace": 1024}
    sandbox = cluster.pod("greedy", {"ratchet": "true"}, cluster.a, **{"ratchet.links": "[] #" + "." * 1024})
    answer = cluster.a.call("ADD", sandbox, config=keys)
    cluster.delete_all((cluster.a, sandbox))
    assert (answer.status, answer.json["code"]) == (1, 101)
    assert "over the limit of 1024 bytes " in answer.json["msg"]
    assert "annotation_bytes_per_namespace" in answer.json["details"]


@effect_of("namespace", "daemonless")
def _namespace(cluster: Cluster, _: Path) -> None:
    keys = {"namespace": ELSEWHERE}
    with linked_tunnel(cluster, keys, keys):
        assert len(ApiStore(cluster.bed.api, ELSEWHERE).links.list()[0]) == 1
        assert cluster.bed.links() == {}


@effect_of("kubeconfig", "daemonless")
def _kubeconfig(cluster: Cluster, folder: Path) -> None:
    """Override the kubeconfig that the installer recorded."""
    with sandbox_without_peer(cluster) as sandbox:
        answer = cluster.a.call("ADD", sandbox, config={**BASE, "kubeconfig": str(folder / "none")})
        assert (answer.status, answer.json["code"]) == (1, 7)
        assert str(folder / "none") in answer.error


@effect_of("wait")
def _wait(cluster: Cluster, _: Path) -> None:
    """Set `wait` to 0. An ADD without the key, which began before, still waits when this one has failed.

    It waits for a minute, or as long as the agent's option says. If the key were ignored, it would end first.
    """
    without_key = {key: value for key, value in BASE.items() if key != "wait"}
    with sandbox_without_peer(cluster) as sandbox, sandbox_without_peer(cluster, name="patient") as patient:
        waiting = cluster.start("ADD", cluster.a, patient, config=without_key)
        wait_for("the ADD that waits", lambda: patient.container_id in holders(cluster))
        answer = cluster.a.call("ADD", sandbox, config={**BASE, "wait": 0})
        assert waiting.poll() is None
        waiting.kill()
        assert (answer.status, answer.json["code"]) == (1, 11)


@effect_of("wait_policy")
def _wait_policy(cluster: Cluster, _: Path) -> None:
    """Set `require` on an agent that has `proceed`. Without agents, `proceed` is logged as without effect."""
    with sandbox_without_peer(cluster) as sandbox:
        if cluster.bed.agents:
            config = {**BASE, "wait": 0}
            assert cluster.a.call("ADD", sandbox, config={**config, "wait_policy": "require"}).json["code"] == 11
            del config["wait_policy"]
            assert cluster.a.call("ADD", sandbox, config=config).status == 0
        else:
            answer = cluster.a.call("ADD", sandbox, config={**BASE, "wait": 0, "wait_policy": "proceed"})
            assert answer.json["code"] == 11
            assert '"wait_policy": "proceed" has no effect' in answer.stderr


@effect_of("delegate")
def _delegate(cluster: Cluster, folder: Path) -> None:
    """Add a pod without links: it gets the delegate's network."""
    received = install_plugin(cluster, folder, "pods")
    config = {**BASE, "delegate": {"type": "pods", "mark": "d"}}
    with sandbox_without_peer(cluster, {}) as sandbox:
        assert cluster.a.add(sandbox, config=config).status == 0
        assert received()["mark"] == "d"


@effect_of("boot_network")
def _boot_network(cluster: Cluster, folder: Path) -> None:
    """Add a pod with links: it gets `boot_network` instead of `delegate`."""
    received_by_delegate, received = (
        install_plugin(cluster, folder / "p", "pods"),
        install_plugin(cluster, folder / "b", "boot"),
    )
    keys = {"delegate": {"type": "pods", "mark": "d"}, "boot_network": {"type": "boot", "mark": "b"}}
    with linked_tunnel(cluster, keys):
        assert received()["mark"] == "b"
        assert received_by_delegate() == {}


@effect_of("state_dir", "daemonless")
def _state_dir(cluster: Cluster, folder: Path) -> None:
    config = {**BASE, "state_dir": str(folder / "state")}
    sandbox = cluster.primary(cluster.a)
    cluster.a.call("ADD", sandbox, config={**config, "wait": 0})
    assert (folder / "state" / "links.lock").exists()
    assert not list((cluster.a.state_dir / "sandboxes").glob(f"{sandbox.container_id}*"))
    assert cluster.a.delete(sandbox, config=config).status == 0
    assert list((folder / "state" / "deleted").glob(f"{sandbox.container_id}*"))
    cluster.bed.delete_pod(sandbox.pod)


@effect_of("log_file", "daemonless")
def _log_file(cluster: Cluster, folder: Path) -> None:
    with sandbox_without_peer(cluster, {}) as sandbox:
        answer = cluster.a.add(sandbox, config={**BASE, "log_file": str(folder / "log")})
        assert (folder / "log").read_text() == answer.stderr != ""


@effect_of("log_level", "daemonless")
def _log_level(cluster: Cluster, _: Path) -> None:
    with sandbox_without_peer(cluster, {}) as sandbox:
        assert " INFO " in cluster.a.add(sandbox, config=BASE).stderr
        assert cluster.a.call("CHECK", sandbox, config={**BASE, "log_level": "error"}).stderr == ""


CASES = [(key, host) for key, (_, hosts) in EFFECTS.items() for host in hosts]


@pytest.mark.parametrize(("key", "on"), CASES)
def test_a_key_takes_effect(key: str, on: str, worlds: ClustersByHost, tmp_path: Path) -> None:
    cluster = worlds.of(on)
    EFFECTS[key][0](cluster, tmp_path)
    wait_for("the end of the link", lambda: cluster.bed.links() == {})


VALUES = {
    "kubeconfig": "/nowhere",
    "namespace": ELSEWHERE,
    "topologies": "off",
    **LIMITS,
    "annotation_bytes_per_namespace": 1024,
    "state_dir": "/nowhere",
    "vxlan_ports": [9000, 9010],
    **DIRECT,
    "vni_range": [700, 709],
    "links_per_pod": 1,
    "links_per_namespace": 1,
    "log_file": "/nowhere/log",
    "log_level": "debug",
}


def test_keys_for_which_an_agent_has_options_are_ignored_and_logged_once(worlds: ClustersByHost) -> None:
    assert set(VALUES) == set(_OWN)
    cluster = worlds.of("agent")
    with linked_tunnel(cluster, {**VALUES, "name": "own"}, {**VALUES, "name": "own"}) as tunnel:
        assert 500 <= tunnel["id"] <= 509
        cluster.wait_until(State.LINKED)
    log = cluster.bed.agents["a"].log
    named = f"because the agent has its own settings keys={','.join(_OWN)}"
    wait_for("the log", lambda: log.read_text().count(named) == 1)


def test_the_agents_vxlan_port_is_the_default(worlds: ClustersByHost) -> None:
    with linked_tunnel(worlds.of("agent"), {}) as tunnel:
        assert tunnel["port"] == 8472
