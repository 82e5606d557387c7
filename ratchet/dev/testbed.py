"""A testbed: an API server, and nodes on a switch with the plugin installed."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from aiohttp.typedefs import Middleware

from ratchet.core.intent import TOPOLOGY_KEY, TOPOLOGY_LABEL
from ratchet.core.model import Link
from ratchet.core.naming import node_lease_name
from ratchet.core.operations import OPERATIONS_NAME
from ratchet.core.pod import PodRef
from ratchet.dev.access import Access, embedded_api, relayed_api
from ratchet.dev.agents import AgentProcess, Process, spawn
from ratchet.dev.fake_kubelet import Kubelet
from ratchet.dev.hosts import Hosts
from ratchet.dev.real_api import make_default_account, node_heartbeats, wait_until_deleted
from ratchet.errors import ConflictError, RatchetError
from ratchet.install import install
from ratchet.store.api_errors import AlreadyExistsError, ExpiredError, NotFoundError
from ratchet.store.apiserver import ApiServer, connect
from ratchet.store.codec.operations import encode_operations
from ratchet.store.store import ApiStore

T = TypeVar("T")
Json = dict[str, Any]

RATCHET_NAMESPACE = "ratchet"


@dataclass(slots=True)
class Testbed:
    """The testbed. A context manager that removes everything at its end, also from the API server.

    `kubeconfig`: an API server to use; None for an embedded one. `middlewares`: inject faults into the embedded one.
    `spawn_agent` starts the processes of the agents. `capabilities`: the names of those that agents have, such
    as NET_ADMIN; None for those of this process.
    """

    __test__ = False  # pytest would collect it by its name

    prefix: str | None = None
    kubeconfig: Path | None = None
    middlewares: Sequence[Middleware] = ()
    namespace: str = "default"
    spawn_agent: Callable[[AgentProcess, Path], Process] = spawn
    capabilities: Collection[str] | None = None
    hosts: Hosts = field(init=False)
    folder: Path = field(init=False)
    access: Access = field(init=False)
    api: ApiServer = field(init=False)
    kubelets: dict[str, Kubelet] = field(default_factory=dict)
    agents: dict[str, AgentProcess] = field(default_factory=dict)
    _made: list[str] = field(default_factory=list)
    _read: dict[str, tuple[int, Any]] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ratchet-bed-")))
            self.hosts = stack.enter_context(Hosts(self.prefix) if self.prefix else Hosts())
            self.access = stack.enter_context(self._reached_api())
            self.api = connect(str(self.access.kubeconfig))
            stack.callback(self.api.close)
            stack.callback(self._remove_made)
            for namespace in (RATCHET_NAMESPACE, self.namespace):
                self._make_namespace(namespace)
            if self.kubeconfig is not None:
                stack.enter_context(node_heartbeats(self.api, self.kubelets))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    @property
    def store(self) -> ApiStore:
        return ApiStore(self.api, RATCHET_NAMESPACE)

    def links(self) -> dict[str, Link]:
        """All records by name. Raises MalformedRecordError if one cannot be read."""
        while True:
            with suppress(ExpiredError):  # between two pages, if the API server was restarted
                links, malformed = self.read("links", self.store.links.list)
                break
        for error in malformed:
            raise error
        return {link.name: link for link in links}

    def read(self, key: str, call: Callable[[], T]) -> T:
        """The result of a call that reads the API; the last one for `key` if nothing was written to the API since.

        For conditions that are polled: most polls find nothing new.
        """
        if self.access.version is None:
            return call()
        version = self.access.version()
        if self._read.get(key, (None,))[0] != version:
            self._read[key] = version, call()
        result: T = self._read[key][1]
        return result

    def add_node(
        self,
        name: str,
        address: str,
        config: Json,
        *,
        labels: Mapping[str, str] | None = None,
        mtu: int = 1500,
        agent: Mapping[str, object] | None = None,
        fallback: bool = False,
    ) -> Kubelet:
        """Create a node and install the plugin on it.

        `address`: of `eth0`, with a prefix length. `agent`: the settings of the node's agent; None for no agent.
        `fallback`: install the daemonless plugin too, for calls while the agent is down.
        """
        host = self.hosts.add_node(name, address, mtu=mtu)
        self._create_node(name, host.address, labels or {})
        bin_dir = self.folder / name / "bin"
        state_dir = self.folder / name / "state"
        kubeconfig = self.access.node_kubeconfig
        kubelet = self.kubelets[name] = Kubelet(self.hosts, host, bin_dir, state_dir, config)
        kubelet.environment = {"RATCHET_PANEL": self.hosts.adopt_namespace(host.panel)}
        if agent is None:
            install(bin_dir, kubeconfig=kubeconfig, state_dir=state_dir)
            return kubelet
        install(bin_dir, kubeconfig=kubeconfig, state_dir=state_dir, agent=True, fallback=fallback)
        process = self.agents[name] = AgentProcess(
            host,
            kubeconfig,
            self.folder / name,
            state_dir,
            agent,
            capabilities=self.capabilities,
            spawn=self.spawn_agent,
        )
        kubelet.environment = process.environment
        self._stack.callback(process.kill)
        process.start()
        self._made.append(f"{self.store.vnis.path}/{node_lease_name(name)}")
        return kubelet

    def _create_node(self, name: str, address: str, labels: Mapping[str, str]) -> None:
        """Create the Node object, which is Ready."""
        status = {
            "addresses": [{"type": "InternalIP", "address": address}],
            "conditions": [{"type": "Ready", "status": "True", "reason": "Bed"}],
        }
        metadata = {"name": name, "labels": dict(labels)}
        self.make("/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "status": status})
        self.api.patch(f"/api/v1/nodes/{name}/status", {"status": status})

    def create_pod(
        self, name: str, settings: Mapping[str, str], node: str = "", annotations: Mapping[str, str] | None = None
    ) -> PodRef:
        """Create a pod with labels and annotations. `node`: bind the pod to it without a scheduler."""
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": dict(settings), "annotations": dict(annotations or {})},
            "spec": {"containers": [{"name": "c", "image": "none"}]} | ({"nodeName": node} if node else {}),
        }
        created = self.make(self.pods_path, pod)
        return PodRef(self.namespace, name, created["metadata"]["uid"])

    def create_topology(self, name: str, links: str) -> None:
        """Create a topology in the pods' namespace."""
        metadata = {"name": name, "labels": {TOPOLOGY_LABEL: "true"}}
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {TOPOLOGY_KEY: links}}
        self.make(f"/api/v1/namespaces/{self.namespace}/configmaps", body)

    def edit_topology(self, name: str, links: str) -> None:
        """Replace the links of a topology."""
        path = f"/api/v1/namespaces/{self.namespace}/configmaps/{name}"
        self.api.patch(path, {"data": {TOPOLOGY_KEY: links}})

    def set_operations(self, operations: Mapping[str, str]) -> None:
        """Replace the operations on links of the pods' namespace, by the names of the links' records."""
        path = f"/api/v1/namespaces/{self.namespace}/configmaps"
        body = encode_operations(TOPOLOGY_LABEL, {})
        data = self.make(path, body).get("data") or {}
        self.api.patch(f"{path}/{OPERATIONS_NAME}", {"data": dict.fromkeys(data) | dict(operations)})

    def delete_topologies(self) -> None:
        """Delete the topologies of the pods' namespace, and its operations."""
        path = f"/api/v1/namespaces/{self.namespace}/configmaps"
        for topology in self.api.list(path, labelSelector=TOPOLOGY_LABEL)[0]:
            metadata = topology["metadata"]
            with suppress(NotFoundError):
                self.api.delete(f"{path}/{metadata['name']}", uid=metadata["uid"])

    def bind(self, pod: str, node: str) -> None:
        """Bind a pod to a node, as the scheduler does."""
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod}, "target": target}
        self.api.create(f"{self.pods_path}/{pod}/binding", binding)

    def delete_pod(self, pod: PodRef) -> None:
        """Delete a pod's object at once, as a kubelet does after DEL."""
        with suppress(NotFoundError, ConflictError):  # already deleted, perhaps another pod has the name
            self.api.delete(f"{self.pods_path}/{pod.name}", uid=pod.uid, grace_seconds=0)

    @property
    def pods_path(self) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods"

    def make(self, collection: str, body: Json) -> Json:
        """Create an object, which the testbed removes at its end. An object that exists is left unchanged."""
        path = f"{collection}/{body['metadata']['name']}"
        try:
            created = self.api.create(collection, copy.deepcopy(body))
        except AlreadyExistsError:
            return self.api.get(path)
        self._made.append(path)
        return created

    def _make_namespace(self, name: str) -> None:
        if self.kubeconfig is not None:
            wait_until_deleted(self.api, name)
        self.make("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        if self.kubeconfig is not None:
            make_default_account(self.api, name)

    def _reached_api(self) -> Any:
        if self.kubeconfig is not None:
            return relayed_api(self.hosts, self.folder, self.kubeconfig)
        return embedded_api(self.hosts, self.folder, self.middlewares)

    def _remove_made(self) -> None:
        """Remove the created objects from a foreign API server. An embedded one ends with the testbed."""
        if self.kubeconfig is None:
            return
        for path in reversed(self._made):
            try:
                self.api.delete(path, uid=self.api.get(path)["metadata"]["uid"], grace_seconds=0)
            except NotFoundError:
                continue


def wait_for(what: str, holds: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until `holds` returns True. Raises RatchetError that names `what` after `seconds`."""
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            raise RatchetError(f"cannot go on: {what} did not come about within {seconds:.0f} s")
        time.sleep(0.05)
