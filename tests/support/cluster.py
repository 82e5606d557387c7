"""A cluster of two nodes, `a` and `b`, with the chained plugin, and the steps of tests on it."""

from __future__ import annotations

import json
import random
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ratchet.core.model import State
from ratchet.core.pod import PodRef
from ratchet.core.state_machine import derive
from ratchet.dev.fake_kubelet import CniResponse, Kubelet, Sandbox, finished
from ratchet.dev.hosts import command_in, ip, netns_path
from ratchet.dev.testbed import RATCHET_NAMESPACE, Testbed, wait_for
from ratchet.gc import RemovalResult, collect_garbage
from ratchet.install.plugin import find_shim
from ratchet.node.journal import Journal
from tests.support.capabilities import agent_capabilities
from tests.support.faults import Faults, Sent
from tests.support.forking import fork_agent
from tests.support.namespaces import may_make_namespaces

# With an agent and without, ADD waits for its peers and fails without them.
CHAINED = {"cniVersion": "1.0.0", "name": "net", "type": "ratchet", "wait": 45, "wait_policy": "require"}
# The default of an agent: a link that is not complete in time is completed later.
PATIENT = {"cniVersion": "1.0.0", "name": "net", "type": "ratchet", "wait": 0, "wait_policy": "proceed"}

PRIMARY = {
    "ratchet": "true",
    "ratchet.primary": "true",
    "ratchet.local_ifname": "in1",
    "ratchet.local_ip": "192.168.2.100",
    "ratchet.pair_name": "pair-pod",
    "ratchet.pair_ifname": "in2",
    "ratchet.pair_ip": "192.168.2.101",
}
PAIR = {"ratchet": "true", "ratchet.primary": "false"}
LINK = "default.pair-pod.in2.primary-pod.in1"


class Cluster:
    """The testbed, the faults of its API, and its two nodes. `agent`: their agents' options; None for no agents."""

    def __init__(
        self,
        bed: Testbed,
        faults: Faults,
        config: Mapping[str, Any] = CHAINED,
        agent: Mapping[str, object] | None = None,
    ) -> None:
        self.bed = bed
        self.faults = faults
        self.a = bed.add_node("a", "192.168.1.73/24", dict(config), agent=agent)
        self.b = bed.add_node("b", "192.168.1.33/24", dict(config), agent=agent)
        self._config = config
        self._started: list[subprocess.Popen[str]] = []
        self._sandboxes: list[tuple[Kubelet, Sandbox]] = []

    # Pods

    def pod(self, name: str, labels: Mapping[str, str], node: Kubelet, **annotations: str) -> Sandbox:
        """Create a pod that is bound to a node, and a sandbox without a network."""
        return self.sandbox(node, self.bed.create_pod(name, labels, node.host.name, annotations))

    def sandbox(self, node: Kubelet, ref: PodRef) -> Sandbox:
        """Create another sandbox of a pod, without a network."""
        made = node.make_sandbox(ref)
        self._sandboxes.append((node, made))
        return made

    def primary(self, node: Kubelet, **labels: str) -> Sandbox:
        return self.pod("primary-pod", {**PRIMARY, **labels}, node)

    def pair(self, node: Kubelet, **labels: str) -> Sandbox:
        return self.pod("pair-pod", {**PAIR, **labels}, node)

    def linked_pair(self, node_of_pair: Kubelet | None = None) -> tuple[Sandbox, Sandbox]:
        """The two pods of 2017, linked: the primary on `a`, the pair on `b` or another node."""
        pair_node = node_of_pair or self.b
        primary, pair = self.primary(self.a), self.pair(pair_node)
        self.add_all((self.a, primary), (pair_node, pair))
        self.wait_until(State.LINKED)
        return primary, pair

    def add_all(self, *pairs: tuple[Kubelet, Sandbox]) -> list[CniResponse]:
        """Call ADD for all pods concurrently, and assert that each succeeds."""
        answers = self.call_all("ADD", pairs)
        for (_, sandbox), answer in zip(pairs, answers, strict=True):
            assert answer.status == 0, f"{sandbox.pod.name}: {answer.stdout} {answer.stderr}"
            sandbox.result = answer.json
        return answers

    def delete_all(self, *pairs: tuple[Kubelet, Sandbox]) -> None:
        """Call DEL for all pods concurrently, then delete their namespaces and the pods."""
        for (kubelet, sandbox), answer in zip(pairs, self.call_all("DEL", pairs), strict=True):
            assert answer.status == 0, f"{sandbox.pod.name}: {answer.stdout} {answer.stderr}"
            assert answer.stdout == ""
            kubelet.hosts.remove_namespace(sandbox.netns)
            self.bed.delete_pod(sandbox.pod)

    def call_all(self, command: str, pairs: Sequence[tuple[Kubelet, Sandbox]]) -> list[CniResponse]:
        """Call the plugin for all pods concurrently, in random order. Responses are in the order of `pairs`."""
        order = random.sample(range(len(pairs)), len(pairs))
        with ThreadPoolExecutor(max_workers=max(1, len(pairs))) as at_once:
            calls = {index: at_once.submit(pairs[index][0].call, command, pairs[index][1]) for index in order}
            return [calls[index].result() for index in range(len(pairs))]

    def start(self, command: str, node: Kubelet, sandbox: Sandbox | None, **changes: Any) -> subprocess.Popen[str]:
        """Start a call. It is killed at the end of the test if it still runs."""
        process = node.start(command, sandbox, **changes)
        self._started.append(process)
        return process

    def kill_running_calls(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
            process.wait()

    def renew(self, node: Kubelet) -> None:
        """Make a node's agent read its underlay again. Otherwise it does so at its heartbeats only."""
        if agent := self.bed.agents.get(node.host.name):
            agent.stop()
            agent.start()

    def end(self, process: subprocess.Popen[str], seconds: float = 60.0) -> CniResponse:
        return finished(process, seconds)

    def lock_link(self, node: Kubelet, link: str = LINK) -> AbstractContextManager[None]:
        """Hold a link's lock on a node for a block, so that its agent repairs nothing."""
        return Journal(node.state_dir).lock(link)

    def set_internal_ips(self, node: Kubelet, *addresses: str) -> None:
        """Have the Node object list these InternalIP addresses."""
        listed = [{"type": "InternalIP", "address": address} for address in addresses]
        self.bed.api.patch(f"/api/v1/nodes/{node.host.name}/status", {"status": {"addresses": listed}})

    # What there is

    def state(self, link: str = LINK) -> State | None:
        record = self.bed.read(link, lambda: self.bed.store.links.get(link))
        return derive(record) if record else None

    def wait_until(self, state: State | None, link: str = LINK, seconds: float = 30.0) -> None:
        wait_for(f"state {state} of {link}", lambda: self.state(link) is state, seconds)

    def wait_until_left(self, link: str = LINK) -> None:
        """Wait until the pod that declared a link has left it and is deleted.

        The record is pending. It is deleted once the peer's node learns that no pod declares the link.
        """
        wait_for(f"the end of the primary of {link}", lambda: self.state(link) in (State.PENDING, None))

    def pods_with_event(self, reason: str) -> set[str]:
        """The UIDs of the pods that have an Event with this reason."""
        events, _ = self.bed.api.list(f"/api/v1/namespaces/{self.bed.namespace}/events")
        return {one["involvedObject"]["uid"] for one in events if one["reason"] == reason}

    def events_of_node(self, node: Kubelet) -> list[tuple[str, str]]:
        """The reasons and messages of a node's Events."""
        events, _ = self.bed.api.list("/api/v1/namespaces/default/events")
        about = {"apiVersion": "v1", "kind": "Node", "name": node.host.name, "uid": node.host.name}
        return [(one["reason"], one["message"]) for one in events if one["involvedObject"] == about]

    def interfaces(self, sandbox: Sandbox) -> list[str]:
        """The names of a sandbox's interfaces, except `lo`."""
        return [one["ifname"] for one in json.loads(ip("-j", "-n", sandbox.netns, "link", "show"))[1:]]

    def show(self, sandbox: Sandbox, ifname: str) -> dict[str, Any]:
        """An interface as in `ip -d addr show`."""
        return dict(json.loads(ip("-j", "-d", "-n", sandbox.netns, "addr", "show", "dev", ifname))[0])

    def identity(self, sandbox: Sandbox, ifname: str) -> dict[str, Any]:
        """What an interface keeps while Ratchet changes or recreates it: name, ifindex, MAC and IP addresses."""
        shown = self.show(sandbox, ifname)
        addresses = {f"{one['local']}/{one['prefixlen']}" for one in shown["addr_info"]}
        return {**{key: shown[key] for key in ("ifname", "ifindex", "address")}, "addresses": addresses}

    def pings(self, sandbox: Sandbox, address: str) -> bool:
        """Whether an address answers one of four pings. The first may precede the carrier."""
        command = command_in(sandbox.netns, "ping", "-n", "-c", "1", "-W", "1", address)
        return any(subprocess.run(command, check=False, capture_output=True).returncode == 0 for _ in range(4))

    def carries(self, sandbox: Sandbox, address: str, size: int) -> bool:
        """Whether one packet of `size` bytes (IPv4, not to be fragmented) is answered."""
        sized = ("-M", "do", "-s", str(size - 28))
        command = command_in(sandbox.netns, "ping", "-n", "-c", "1", "-W", "1", *sized, address)
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    def writes(self) -> list[Sent]:
        """The nodes' applied writes of records and VNIs, without heartbeats and Events."""
        nodes = (self.a.host.address, self.b.host.address)
        applied = [sent for sent in self.faults.sent if sent.writes and sent.remote in nodes and sent.status < 400]
        return [sent for sent in applied if not sent.path.endswith(("/events", "/leases/node-a", "/leases/node-b"))]

    def log_of(self, node: Kubelet, answer: CniResponse) -> str:
        """The log of a call: the plugin's stderr, or the log of the agent that served it."""
        agent = self.bed.agents.get(node.host.name)
        return answer.stderr if agent is None else agent.log.read_text()

    def assert_nothing_left(self, seconds: float = 30.0) -> None:
        """Wait until no record, VNI, journal entry or interface is left, except the nodes' own interfaces."""
        until = time.monotonic() + seconds
        while left := self._left():
            assert time.monotonic() < until, f"left: {left}"
            time.sleep(0.05)

    def end_everything(self) -> None:
        """Restore the agents and the configuration. Delete the sandboxes, pods and topologies of a test."""
        self.faults.clear()
        self.kill_running_calls()
        for agent in self.bed.agents.values():
            agent.resume()
            if not agent.running:
                agent.start()
        for node in (self.a, self.b):
            node.config = dict(self._config)
        self.delete_all(*self.left())
        self._sandboxes.clear()
        for pod in self.bed.store.pods.list(self.bed.namespace):
            self.bed.delete_pod(pod.ref)
        self.bed.delete_topologies()

    def left(self) -> list[tuple[Kubelet, Sandbox]]:
        """The sandboxes whose namespaces still exist."""
        return [(node, one) for node, one in self._sandboxes if one.netns in self.bed.hosts.made]

    def _left(self) -> list[str]:
        left = [*self.bed.links(), *(f"vni-{lease.vni}" for lease in self.bed.store.vnis.list())]
        for node in (self.a, self.b):
            left += [str(path) for path in journal_files(node.state_dir)]
            left += [f"{name} on {node.host.name}" for name in own_interfaces(node.host.netns)]
            left += [f"{name} in the panel of {node.host.name}" for name in panel_devices(node)]
            left += [str(path) for path in (node.state_dir / "panel").glob("*")]
        return left

    def forget_pods(self, *sandboxes: Sandbox) -> None:
        for sandbox in sandboxes:
            self.bed.delete_pod(sandbox.pod)


def journal_files(state_dir: Path) -> list[Path]:
    """The files of a state directory that belong to a sandbox.

    Partial files of killed processes are left out: they are removed after an hour.
    """
    files = [path for path in state_dir.rglob("[!.]*") if path.is_file()]
    return [path for path in files if path.parent.name != "deleted" and path.name not in ("links.lock", "panel.id")]


def own_interfaces(netns: str) -> list[str]:
    """The interfaces of a node except those that it has without Ratchet."""
    names = [one["ifname"] for one in json.loads(ip("-j", "-n", netns, "link", "show"))]
    return [name for name in names if name not in ("lo", "eth0")]


def panel_devices(node: Kubelet) -> list[str]:
    """The cables and tunnels in a node's patch panel."""
    if not Path(netns_path(node.host.panel)).exists():
        return []
    return [name for name in own_interfaces(node.host.panel) if re.fullmatch("[cft][0-9a-f]{5}-[0-9a-f]+", name)]


@contextmanager
def running(config: Mapping[str, Any] = CHAINED, agent: Mapping[str, object] | None = None) -> Iterator[Cluster]:
    """Run a cluster for a test. Skips the test without the right to make namespaces."""
    if not may_make_namespaces():
        pytest.skip("needs root with CAP_SYS_ADMIN, to make network namespaces")
    if agent is not None and find_shim() is None:
        pytest.skip("there is no shim for this machine: it has no C compiler")
    faults = Faults()
    capabilities = agent_capabilities()
    with Testbed(middlewares=[faults.middleware], spawn_agent=fork_agent, capabilities=capabilities) as bed:
        made = Cluster(bed, faults, config, agent)
        wait_for("signs of life", lambda: len(bed.store.nodes.list_leases()) == len(bed.agents))
        faults.sent.clear()
        try:
            yield made
        finally:
            faults.clear()
            made.kill_running_calls()


@contextmanager
def clean_cluster(config: Mapping[str, Any] = PATIENT, agent: Mapping[str, object] | None = None) -> Iterator[Cluster]:
    """Run a cluster, and assert at its end that nothing is left after all pods are deleted."""
    with running(config, agent={} if agent is None else agent) as made:
        try:
            yield made
        finally:
            made.end_everything()
            made.assert_nothing_left()


class KeptClusters:
    """Clusters that tests share: started at the first request, and again after a test that left something behind."""

    def __init__(self) -> None:
        self._clusters: dict[str, tuple[Cluster, ExitStack]] = {}

    @contextmanager
    def shared(
        self, config: Mapping[str, Any] = CHAINED, agent: Mapping[str, object] | None = None
    ) -> Iterator[Cluster]:
        """A cluster for one test. Asserts at its end that nothing is left after all pods are deleted."""
        key = json.dumps([config, agent], sort_keys=True)
        cluster = self._started(key, config, agent)
        try:
            try:
                yield cluster
            finally:
                cluster.end_everything()
                cluster.assert_nothing_left()
        except BaseException:
            self._stop(key)
            raise

    def close(self) -> None:
        for key in list(self._clusters):
            self._stop(key)

    def _started(self, key: str, config: Mapping[str, Any], agent: Mapping[str, object] | None) -> Cluster:
        if key not in self._clusters:
            stack = ExitStack()
            self._clusters[key] = stack.enter_context(running(config, agent)), stack
        cluster, _ = self._clusters[key]
        cluster.faults.sent.clear()
        return cluster

    def _stop(self, key: str) -> None:
        _, stack = self._clusters.pop(key)
        stack.close()


def recreated(cluster: Cluster, old: Sandbox, labels: Mapping[str, str], node: Kubelet) -> Sandbox:
    """Delete the pod of `old`, and create a pod of the same name with a sandbox."""
    cluster.bed.delete_pod(old.pod)
    return cluster.pod(old.pod.name, labels, node)


def sent_by(node: Kubelet, *methods: str, path: str = "") -> Callable[[Sent], bool]:
    """A predicate: whether a request is a node's, has one of the methods, and has `path` in its path."""

    def matches(sent: Sent) -> bool:
        return sent.remote == node.host.address and (not methods or sent.method in methods) and path in sent.path

    return matches


def lists_topologies(*nodes: Kubelet, watches: bool = True) -> Callable[[Sent], bool]:
    """A predicate: whether a request of one of these nodes lists or watches topologies, or checks that it may."""
    addresses = {node.host.address for node in nodes}

    def matches(sent: Sent) -> bool:
        topologies = "/configmaps?" in sent.path and f"/namespaces/{RATCHET_NAMESPACE}/" not in sent.path
        return sent.remote in addresses and topologies and (watches or not sent.watches)

    return matches


def collected(cluster: Cluster) -> list[str]:
    """The objects that one pass of garbage collection removes. No object is too young."""
    found = collect_garbage(cluster.bed.store, now=lambda: datetime.now(UTC), grace=timedelta(0))
    return [str(one) for one in found if one.result is RemovalResult.REMOVED]


def end_pods(cluster: Cluster, *pairs: tuple[Kubelet, Sandbox]) -> None:
    """Call DEL for each pod, and assert that its interfaces are gone before its namespace is deleted."""
    for node, sandbox in pairs:
        answer = node.call("DEL", sandbox)
        assert (answer.status, answer.stdout) == (0, ""), answer
        assert cluster.interfaces(sandbox) == []
        cluster.bed.hosts.remove_namespace(sandbox.netns)
        cluster.bed.delete_pod(sandbox.pod)
