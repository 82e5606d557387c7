"""The effect of every agent option on a real agent process, with real pods.

`EFFECTS` has one check per option. tests/unit/test_effects.py compares it with the list of options.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ratchet.core.pod import PodRef
from ratchet.dev.agents import AgentProcess
from ratchet.dev.fake_kubelet import CniResponse, Kubelet, Sandbox
from ratchet.dev.hosts import Hosts, ip, run_in
from ratchet.dev.testbed import Testbed, wait_for
from ratchet.install.plugin import find_shim
from ratchet.store.store import ApiStore
from tests.agent.pages import HEALTH, page
from tests.support.announcing import LEASE_LIST, earlier_agent
from tests.support.capabilities import delegating_capabilities
from tests.support.cluster import LINK, PAIR, PRIMARY
from tests.support.faults import Faults, Sent
from tests.support.forking import fork_agent
from tests.support.guard import guard_of, peers_of
from tests.support.namespaces import may_make_namespaces
from tests.support.topologies import LIMITED, LIMITS, topologies_over

# A network configuration without keys that override options of the agent.
PLAIN: dict[str, Any] = {"cniVersion": "1.0.0", "name": "net", "type": "ratchet"}
GATE = "ratchet/linked"
_numbers = itertools.count()

# Options of both agents. `ON_A` and `ON_B` are options of one agent.
OPTIONS: dict[str, object] = {
    "namespace": "elsewhere",
    "vxlan_port": 8472,
    "vxlan_ports": "8472-8474",
    "vni_range": "500-501",
    "heartbeat": 1,
}
ON_A: dict[str, object] = {
    "parent_interface": "up1",
    "topologies": "off",
    "wiring": "panel",
    "links_per_pod": 2,
    "links_per_namespace": 6,
    "wait": 0,
    "wait_policy": "require",
    "workers": 1,
    "resync": 10,
    "node_lost_after": 3,
    "drain_seconds": 0,
    "metrics_addr": "127.0.0.1:9999",
    "health_addr": "127.0.0.1:9998",
    "log_format": "json",
    "log_level": "debug",
    "events": False,
    "readiness": False,
}
ON_B: dict[str, object] = {
    "parent_address": "192.168.1.34",
    "wait": 120,
    "workers": 40,
    "guard": False,
    "annotation_bytes_per_namespace": 65536,
    "declaration_memory": 8,
    "links_per_node": 12,
    **LIMITS,
}
# Annotations with links that are over a limit of ON_B. Each of the 20,000 items counts as 768 bytes of memory.
OVER_LIMIT = {"annotation_bytes_per_namespace": "[] #" + "." * 65536, "declaration_memory": "[" + "a," * 20_000 + "]"}


@dataclass
class World:
    """Two nodes with agents that have the options above, and two linked pods."""

    bed: Testbed
    faults: Faults
    a: Kubelet
    b: Kubelet
    primary: Sandbox
    pair: Sandbox

    @property
    def store(self) -> ApiStore:
        return ApiStore(self.bed.api, str(OPTIONS["namespace"]))

    def agent(self, node: Kubelet) -> AgentProcess:
        return self.bed.agents[node.host.name]

    def tunnel(self, node: Kubelet) -> dict[str, Any]:
        """The link's tunnel on a node, as `ip -d link show` shows it."""
        sandbox, ifname = (self.primary, "in1") if node is self.a else (self.pair, "in2")
        shown = json.loads(ip("-j", "-d", "-n", sandbox.netns, "link", "show", "dev", ifname))[0]
        return dict(shown["linkinfo"]["info_data"])

    def vtep(self, node: Kubelet) -> str:
        return next(lease.vtep for lease in self.store.nodes.list_leases() if lease.node == node.host.name)

    def unpaired(self, node: Kubelet) -> Sandbox:
        """A sandbox of a new pod whose peer does not exist."""
        name = f"lone-{next(_numbers)}"
        labels = {**PRIMARY, "ratchet.pair_name": f"peer-of-{name}"}
        return node.make_sandbox(self.bed.create_pod(name, labels, node.host.name))

    def end(self, node: Kubelet, sandbox: Sandbox) -> None:
        """Call DEL, and delete the pod."""
        assert node.delete(sandbox).status == 0
        self.bed.delete_pod(sandbox.pod)

    def sent(self, matches: Callable[[Sent], bool]) -> int:
        """The number of matching requests from node a."""
        return sum(one.remote in (self.a.host.address, "192.168.1.74") and matches(one) for one in self.faults.sent)


def gated(bed: Testbed, name: str, labels: dict[str, str], node: Kubelet) -> Sandbox:
    """A sandbox of a new pod with the readiness gate."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {"containers": [{"name": "c", "image": "none"}], "readinessGates": [{"conditionType": GATE}]},
    }
    created = bed.make(bed.pods_path, pod)
    bed.bind(name, node.host.name)
    return node.make_sandbox(PodRef(bed.namespace, name, created["metadata"]["uid"]))


def second_uplink(hosts: Hosts, node: Kubelet) -> None:
    netns = node.host.netns
    ip(*f"-n {netns} link add up1 type veth peer name pup1 netns {hosts.switch}".split())
    ip(*f"-n {hosts.switch} link set pup1 master br0 up".split())
    ip(*f"-n {netns} addr add 192.168.1.74/24 dev up1".split())
    ip(*f"-n {netns} link set up1 up".split())


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    if not may_make_namespaces():
        pytest.skip("needs root with CAP_SYS_ADMIN, to make network namespaces")
    if find_shim() is None:
        pytest.skip("there is no shim for this machine: it has no C compiler")
    folder, faults = tmp_path_factory.mktemp("options"), Faults()
    on_a = {**OPTIONS, **ON_A, "spool_dir": str(folder / "spool"), "host_root": str(folder / "root")}
    capabilities = delegating_capabilities()
    with Testbed(middlewares=[faults.middleware], spawn_agent=fork_agent, capabilities=capabilities) as bed:
        bed.make("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "elsewhere"}})
        a = bed.add_node("a", "192.168.1.73/24", PLAIN, agent=on_a)
        a.environment = {**a.environment, "RATCHET_AGENT_SPOOL": str(folder / "spool")}
        second_uplink(bed.hosts, a)
        b = bed.add_node("b", "192.168.1.33/24", PLAIN, agent={**OPTIONS, **ON_B})
        ip("-n", b.host.netns, "addr", "add", "192.168.1.34/24", "dev", "eth0")
        made = World(bed, faults, a, b, gated(bed, "primary-pod", PRIMARY, a), gated(bed, "pair-pod", PAIR, b))
        with adding(made, b, made.pair) as process:
            _add_until_linked(made)
            stdout, stderr = process.communicate(timeout=60)
            assert process.returncode == 0, stdout + stderr
        yield made
        for node, sandbox in ((a, made.primary), (b, made.pair)):
            made.end(node, sandbox)


@contextmanager
def adding(world: World, node: Kubelet, sandbox: Sandbox, **config: object) -> Iterator[subprocess.Popen[str]]:
    """Start an ADD, and wait until it has joined the record. It is killed after the block if it runs."""
    process = node.start("ADD", sandbox, config={**PLAIN, **config})
    try:
        wait_for(f"{sandbox.pod.name} in its record", lambda: sandbox.container_id in _holders(world))
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def _add_until_linked(world: World) -> None:
    """Repeat ADD of the primary as a kubelet does, because its agent does not wait for the pair."""

    def added() -> bool:
        if world.a.add(world.primary).status == 0:
            return True
        world.a.call("DEL", world.primary)
        return False

    wait_for("the ADD of the primary", added, 20)


Effect = Callable[[World], None]
EFFECTS: dict[str, Effect] = {}


def effect_of(option: str) -> Callable[[Effect], Effect]:
    """Register the check of an option."""

    def register(check: Effect) -> Effect:
        EFFECTS[option] = check
        return check

    return register


@effect_of("node_name")
def _node_name(world: World) -> None:
    """The default, the host name, is the same on both nodes."""
    assert {lease.node for lease in world.store.nodes.list_leases()} == {"a", "b"}
    assert os.uname().nodename not in ("a", "b")


@effect_of("kubeconfig")
def _kubeconfig(world: World) -> None:
    """There are no in-cluster credentials to fall back on."""
    assert "KUBERNETES_SERVICE_HOST" not in os.environ
    assert world.sent(lambda sent: sent.status == 200)


@effect_of("namespace")
def _namespace(world: World) -> None:
    assert world.store.links.get(LINK) is not None
    assert world.store.vnis.list()
    default = world.bed.store
    assert not [*default.links.list()[0], *default.nodes.list_leases(), *default.vnis.list()]


@effect_of("topologies")
def _topologies(world: World) -> None:
    def lists(sent: Sent) -> bool:
        return f"/namespaces/{world.primary.pod.namespace}/configmaps?" in sent.path

    assert not world.sent(lists)
    assert any(lists(sent) for sent in world.faults.sent), "which the other node does"


def _limits_topologies(option: str) -> Effect:
    def check(world: World) -> None:
        sandbox = world.b.make_sandbox(world.bed.create_pod(LIMITED, {"ratchet": "true"}, "b"))

        def is_rejected() -> bool:
            answer = world.b.call("ADD", sandbox)
            if answer.status == 0:  # the agent's watch has not reported the topologies yet
                assert world.b.call("DEL", sandbox).status == 0
                return False
            # The agent may still have the topologies of another limit, which are deleted.
            over = f"over the limit of {LIMITS[option]} " in answer.json["msg"]
            return over and option in answer.json["details"]

        with topologies_over(world.bed, option):
            wait_for("the rejection", is_rejected, 40)
            wait_for("its Event", lambda: f"({option})" in str(events_on(world, LIMITED)), 20)
            world.end(world.b, sandbox)

    return check


def events_on(world: World, pod: str) -> list[str]:
    """The messages of the Events on a pod."""
    found, _ = world.bed.api.list(f"/api/v1/namespaces/{world.bed.namespace}/events")
    return [one.get("message") or one.get("note") or "" for one in found if one["involvedObject"]["name"] == pod]


for limit in LIMITS:
    effect_of(limit)(_limits_topologies(limit))


def _limits_annotations(option: str) -> Effect:
    def check(world: World) -> None:
        pod = world.bed.create_pod("greedy", {"ratchet": "true"}, "b", {"ratchet.links": OVER_LIMIT[option]})
        sandbox = world.b.make_sandbox(pod)
        answer = world.b.call("ADD", sandbox)
        assert (answer.status, answer.json["code"]) == (1, 101)
        assert f"({option})" in answer.json["msg"]
        assert option in answer.json["details"]
        wait_for("its Event", lambda: f"({option})" in str(events_on(world, "greedy")), 20)
        world.end(world.b, sandbox)

    return check


for annotation_limit in OVER_LIMIT:
    effect_of(annotation_limit)(_limits_annotations(annotation_limit))


@effect_of("socket")
def _socket(world: World) -> None:
    socket = world.agent(world.a).socket
    assert stat.S_ISSOCK(socket.stat().st_mode)
    elsewhere = {**world.a.environment, "RATCHET_AGENT_SOCKET": f"{socket}.none"}
    unreached = run_shim(world.a, {**PLAIN, "cniVersion": "1.1.0"}, elsewhere)
    assert (unreached.status, unreached.json["code"]) == (1, 50)
    assert world.a.call("STATUS", config={**PLAIN, "cniVersion": "1.1.0"}).status == 0


def run_shim(node: Kubelet, config: dict[str, Any], environment: dict[str, str]) -> CniResponse:
    """Call STATUS through the shim with another environment."""
    kept, node.environment = node.environment, environment
    try:
        return node.call("STATUS", config=config)
    finally:
        node.environment = kept


@effect_of("state_dir")
def _state_dir(world: World) -> None:
    container_ids = [path.name.partition("+")[0] for path in (world.a.state_dir / "sandboxes").iterdir()]
    assert world.primary.container_id in container_ids


@effect_of("host_root")
def _host_root(world: World) -> None:
    """The delegate exists only under `host_root`. It is a shim, which fails for want of an agent there."""
    root = Path(str(world.agent(world.a).options["host_root"]))
    (root / "plugins").mkdir(parents=True)
    shim = find_shim()
    assert shim is not None
    shutil.copy(shim, root / "plugins" / "inner")
    plain = world.a.make_sandbox(world.bed.create_pod("plain", {}, "a"))
    answer = world.a.add(plain, config={**PLAIN, "delegate": {"type": "inner"}}, CNI_PATH="/plugins")
    assert "cannot reach the node agent" in answer.error or "chroot" in answer.error, answer
    world.end(world.a, plain)


@effect_of("parent_interface")
def _parent_interface(world: World) -> None:
    wait_for("the VTEP", lambda: world.vtep(world.a) == "192.168.1.74")
    index = json.loads(ip("-j", "-n", world.a.host.netns, "link", "show", "dev", "up1"))[0]["ifindex"]
    tunnel = world.tunnel(world.a)
    assert tunnel["local"] == "192.168.1.74"
    assert tunnel["link"] in ("up1", f"if{index}", index)


@effect_of("parent_address")
def _parent_address(world: World) -> None:
    """The Node object lists another address of the same interface."""
    wait_for("the VTEP", lambda: world.vtep(world.b) == "192.168.1.34")
    assert world.tunnel(world.b)["local"] == world.tunnel(world.a)["remote"] == "192.168.1.34"


@effect_of("wiring")
def _wiring(world: World) -> None:
    """Node a postpones panel wiring while an agent of an earlier version runs. The world's own link is of labels."""

    def lists_leases(sent: Sent) -> bool:
        return sent.method == "GET" and LEASE_LIST in sent.path

    with earlier_agent(world.store):
        read = world.sent(lists_leases)
        # The last one but one began after the announcement, and its answer was read before the last one.
        wait_for("the announcement, read", lambda: world.sent(lists_leases) >= read + 3)
        hub = world.a.make_sandbox(world.bed.create_pod("hub", {"ratchet": "true"}, "a", listed_links(1)))
        assert world.a.call("ADD", hub).json["code"] == 11
        world.end(world.a, hub)
    postponed = [line["message"] for line in logged(world, world.a) if "panel wiring postponed" in line["message"]]
    assert postponed == [
        "panel wiring postponed, because not all agents read its records link=default.hub.in0.nobody.x0"
    ]


@effect_of("vxlan_port")
def _vxlan_port(world: World) -> None:
    assert world.tunnel(world.a)["port"] == world.tunnel(world.b)["port"] == 8472
    run_in(world.primary.netns, "ping", "-n", "-c", "1", "-W", "3", "192.168.2.101")


@effect_of("vxlan_ports")
def _vxlan_ports(world: World) -> None:
    """A tunnel on one node needs the two ports above its own."""
    link = {"peer": "near", "ifname": "in1", "peer_ifname": "in1", "kind": "vxlan", "vxlan_port": 8473}
    settings = {"ratchet": "true"}
    hub = world.b.make_sandbox(world.bed.create_pod("hub", settings, "b", {"ratchet.links": json.dumps([link])}))
    near = world.b.make_sandbox(world.bed.create_pod("near", settings | {"ratchet.primary": "false"}, "b"))
    with adding(world, world.b, hub, wait_policy="require"):
        answer = world.b.add(near)
    assert (answer.status, answer.json["code"]) == (1, 101)
    assert "vxlan_port: 8473 needs 8474 and 8475 on one node, which are not in vxlan_ports, 8472-8474" in answer.error
    world.end(world.b, near)
    world.end(world.b, hub)


@effect_of("guard")
def _guard(world: World) -> None:
    assert peers_of(world.a) == {"192.168.1.34"}
    assert guard_of(world.b).layout == ()


@effect_of("vni_range")
def _vni_range(world: World) -> None:
    assert world.tunnel(world.a)["id"] in (500, 501)
    assert world.tunnel(world.b)["id"] == world.tunnel(world.a)["id"]


def listed_links(number: int) -> dict[str, str]:
    """The annotation of a pod that declares so many links to a pod that does not exist."""
    links = [{"peer": "nobody", "ifname": f"in{at}", "peer_ifname": f"x{at}"} for at in range(number)]
    return {"ratchet.links": json.dumps(links)}


@effect_of("links_per_pod")
def _links_per_pod(world: World) -> None:
    hub = world.a.make_sandbox(world.bed.create_pod("hub", {"ratchet": "true"}, "a", listed_links(3)))
    answer = world.a.add(hub)
    assert (answer.status, answer.json["code"]) == (1, 101)
    assert answer.error == f"cannot link pod {hub.pod}: it has 3 links, more than links_per_pod, 2"
    world.end(world.a, hub)


@effect_of("links_per_namespace")
def _links_per_namespace(world: World) -> None:
    """A pod that has not started declares most of the links. The world's own link counts too."""
    declarer = world.bed.create_pod("declarer", {"ratchet": "true"}, "b", listed_links(6))
    unpaired = world.unpaired(world.a)
    answer = world.a.add(unpaired)
    assert answer.json["code"] == 101
    assert "declares 8 links, more than links_per_namespace, 6" in answer.error
    world.end(world.a, unpaired)
    world.bed.delete_pod(declarer)


@effect_of("links_per_node")
def _links_per_node(world: World) -> None:
    """The world's own link counts too. The namespace may have three quarters."""
    hub = world.b.make_sandbox(world.bed.create_pod("hub", {"ratchet": "true"}, "b", listed_links(9)))
    answer = world.b.add(hub)
    assert (answer.status, answer.json["code"]) == (1, 101)
    assert "namespace default has 1 links on this node and the pod needs 9 more" in answer.error
    assert "its share of links_per_node, 12, is 9" in answer.error
    world.end(world.b, hub)


@effect_of("wait")
def _wait(world: World) -> None:
    """An ADD on node b still waits when one that began later, and waits longer than the default, has failed."""
    patient, unpaired = world.unpaired(world.b), world.unpaired(world.b)
    with adding(world, world.b, patient) as waiting:
        answer = world.b.add(unpaired, config={**PLAIN, "wait": 6, "wait_policy": "require"})
        assert waiting.poll() is None
    assert answer.json["code"] == 11
    assert f"peer-of-{unpaired.pod.name}" in answer.error
    for sandbox in (patient, unpaired):
        world.end(world.b, sandbox)


def _holders(world: World) -> set[str]:
    ends = [one for link in world.store.links.list()[0] for one in (link.primary.sandbox, link.pair.sandbox)]
    return {one.container_id for one in ends if one is not None}


@effect_of("wait_policy")
def _wait_policy(world: World) -> None:
    unpaired = world.unpaired(world.a)
    assert world.a.add(unpaired).json["code"] == 11
    assert world.a.add(unpaired, config={**PLAIN, "wait_policy": "proceed"}).status == 0
    world.end(world.a, unpaired)


@effect_of("workers")
def _workers(world: World) -> None:
    """Node b's agent has 40 workers, node a's agent has one."""

    def threads(node: Kubelet) -> int:
        return len(list(Path(f"/proc/{world.agent(node).pid}/task").iterdir()))

    assert threads(world.b) - threads(world.a) > 20


@effect_of("resync")
def _resync(world: World) -> None:
    """Each resync lists the VNI Leases of the node's links."""

    def lists(sent: Sent) -> bool:
        return sent.method == "GET" and "/leases?" in sent.path and "node.ratchet" in sent.path

    before = world.sent(lists)
    wait_for("a resync", lambda: world.sent(lists) > before, 25)


@effect_of("heartbeat")
def _heartbeat(world: World) -> None:
    """Three heartbeats come in less than the default interval."""

    def beats() -> int:
        return world.sent(lambda sent: sent.method == "PATCH" and sent.path.endswith("/leases/node-a"))

    before = beats()
    wait_for("three heartbeats", lambda: beats() >= before + 3, 8)


@effect_of("metrics_addr")
def _metrics_addr(world: World) -> None:
    assert "ratchet_build_info" in page(world.a, "/metrics", 9999)[1]


@effect_of("health_addr")
def _health_addr(world: World) -> None:
    assert page(world.a, "/livez", 9998) == (200, "ok\n")
    assert page(world.b, "/livez", HEALTH) == (200, "ok\n")


def logged(world: World, node: Kubelet) -> list[dict[str, Any]]:
    return [json.loads(line) for line in world.agent(node).log.read_text().splitlines()]


@effect_of("log_format")
def _log_format(world: World) -> None:
    assert any(line["message"].startswith("agent started node=a") for line in logged(world, world.a))


@effect_of("log_level")
def _log_level(world: World) -> None:
    assert any(line["level"] == "debug" for line in logged(world, world.a))
    assert "DEBUG" not in world.agent(world.b).log.read_text()


@effect_of("events")
def _events(world: World) -> None:
    """Node b creates an Event of the link. Node a, where Events are off, creates none."""

    def pods_with_events() -> set[str]:
        events, _ = world.bed.api.list(f"/api/v1/namespaces/{world.bed.namespace}/events")
        return {one["involvedObject"]["name"] for one in events}

    wait_for("the Event of the pair", lambda: "pair-pod" in pods_with_events())
    assert "primary-pod" not in pods_with_events()
    assert world.sent(lambda sent: sent.method == "POST" and sent.path.endswith("/events")) == 0


@effect_of("readiness")
def _readiness(world: World) -> None:
    def condition(sandbox: Sandbox) -> list[str]:
        status = world.bed.api.get(f"{world.bed.pods_path}/{sandbox.pod.name}").get("status") or {}
        return [one["status"] for one in status.get("conditions") or () if one["type"] == GATE]

    wait_for("the condition of the pair", lambda: condition(world.pair) == ["True"])
    assert condition(world.primary) == []


# Checks that stop an agent come last.


@effect_of("node_lost_after")
def _node_lost_after(world: World) -> None:
    agent, path = world.agent(world.b), "/api/v1/nodes/b/status"

    def ready(status: str) -> None:
        conditions = [{"type": "Ready", "status": status, "reason": "Bed"}]
        world.bed.api.patch(path, {"status": {"conditions": conditions}})

    agent.kill()
    ready("Unknown")
    lost = "node lost node=b lease_unchanged_for=3s"
    wait_for("its loss", lambda: any(line["message"] == lost for line in logged(world, world.a)), 20)
    ready("True")
    agent.start()
    back = "node returned node=b"
    wait_for("its return", lambda: any(line["message"] == back for line in logged(world, world.a)), 20)


@effect_of("spool_dir")
def _spool_dir(world: World) -> None:
    agent, unpaired = world.agent(world.a), world.unpaired(world.a)
    spool = Path(str(agent.options["spool_dir"]))
    assert world.a.add(unpaired, config={**PLAIN, "wait_policy": "proceed"}).status == 0
    agent.stop()
    assert world.a.call("DEL", unpaired).status == 0
    assert [path for path in spool.iterdir() if path.is_file()]
    agent.start()
    wait_for("the DEL", lambda: not [path for path in spool.iterdir() if path.is_file()])
    wait_for("its place free", lambda: unpaired.container_id not in _holders(world))
    world.end(world.a, unpaired)


@effect_of("panel")
def _panel(world: World) -> None:
    opened = f"patch panel opened path={world.agent(world.a).panel} cookie="
    assert any(line["message"].startswith(opened) for line in logged(world, world.a))


@effect_of("drain_seconds")
def _drain_seconds(world: World) -> None:
    agent, unpaired = world.agent(world.a), world.unpaired(world.a)
    with adding(world, world.a, unpaired, wait=60):
        os.kill(agent.pid, signal.SIGTERM)
        wait_for("the end of the agent", lambda: not agent.running)
    assert any(line["message"] == "calls aborted calls=1 drain_seconds=0" for line in logged(world, world.a))
    agent.start()
    world.end(world.a, unpaired)


@pytest.mark.parametrize("option", EFFECTS)
def test_an_option_takes_effect(option: str, world: World) -> None:
    EFFECTS[option](world)
