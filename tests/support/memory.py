"""An API server, a kernel and a node's agent in memory: the agent's real parts, without threads, sockets and root."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch
from urllib.parse import parse_qsl

from ratchet.agent import controller, handover, liveness
from ratchet.agent.announce import Announcer
from ratchet.agent.controller import LinkController
from ratchet.agent.events import Reason
from ratchet.agent.failures import EndFailures
from ratchet.agent.handover import Handover
from ratchet.agent.link_operations import LinkOperations
from ratchet.agent.liveness import SandboxLiveness
from ratchet.agent.lost_peers import LostPeers
from ratchet.agent.membership import Membership
from ratchet.agent.metrics import Metrics
from ratchet.agent.operation_files import OperationFiles
from ratchet.agent.operation_status import OperationStatus
from ratchet.agent.queue import ReconcileQueue
from ratchet.agent.status import LinkStatus
from ratchet.agent.underlay import Underlays
from ratchet.core.interface import Parent
from ratchet.core.model import Link, Side
from ratchet.core.pod import MIRROR_ANNOTATION, Pod, PodRef
from ratchet.core.sandbox import Sandbox
from ratchet.core.underlay import Underlay
from ratchet.errors import ConflictError, RatchetError
from ratchet.node import endpoint_reconcile, teardown
from ratchet.node.journal import Attachment, HeldEnd, Journal, SandboxEntry
from ratchet.node.verified import VerifiedEnds
from ratchet.store.api_errors import AlreadyExistsError, NotFoundError
from ratchet.store.apiserver import MERGE_PATCH, ApiServer, Decoded
from ratchet.store.cached_store import CachedStore
from ratchet.store.caches import Caches, PodCache
from ratchet.store.codec.links import encode_link
from ratchet.store.link_cache import LinkCache
from ratchet.store.namespace import NamespaceCache
from ratchet.store.nodes import NodeAddressCache
from ratchet.store.notifier import KeyedNotifier
from ratchet.store.pods import PodChange
from ratchet.store.vni import VniAllocator
from tests.protocol.asking import FakeKernel, run_by
from tests.protocol.editing import Alone
from tests.protocol.namespaces import netns_path
from tests.protocol.world import World
from tests.support.links import VTEPS, own, wanted

Json = dict[str, Any]
RECORDS = "/api/v1/namespaces/ratchet/configmaps"


class MemoryApi(ApiServer):
    """The objects of an API server by path. Writes are conditional on the UID and the resourceVersion that they name.

    `requests` has the method and the last part of the path of each request. `failures` are raised first, in turn.
    """

    def __init__(self) -> None:
        self.objects: dict[str, Json] = {}
        self.requests: list[tuple[str, str]] = []
        self.failures: list[RatchetError] = []
        self._version = 0

    def patient(self, seconds: float) -> MemoryApi:
        return self

    def get(self, path: str) -> Json:
        path, _, query = path.partition("?")
        if query:
            asked = dict(parse_qsl(query))
            assert int(asked.pop("resourceVersion", "0")) <= self._version
            return {"items": self.list_decoded(path, dict, **asked)[0]}
        self._begin("GET", path)
        return _copy(self._found(path))

    def list_decoded(self, path: str, decode: Any, **query: str) -> tuple[list[Decoded], str]:
        self._begin("LIST", path)
        key, _, value = query.get("labelSelector", "").partition("=")
        below = [one for at, one in self.objects.items() if at.rpartition("/")[0] == path]
        chosen = [one for one in below if not key or one["metadata"].get("labels", {}).get(key) == value]
        return [decode(_copy(one)) for one in chosen], str(self._version)

    def list_metadata(self, path: str, decode: Any, **query: str) -> list[Decoded]:
        return self.list_decoded(path, decode, **query)[0]

    def has_any(self, path: str, **query: str) -> bool:
        return bool(self.list_decoded(path, dict, **query)[0])

    def create(self, path: str, body: Json) -> Json:
        self._begin("POST", path)
        at = f"{path}/{body['metadata']['name']}"
        if at in self.objects:
            raise AlreadyExistsError(f"cannot POST {at}: it exists")
        return self.store(at, body)

    def patch(self, path: str, body: Json, content_type: str = MERGE_PATCH) -> Json:
        self._begin("PATCH", path)
        self._require(path, body["metadata"].get("uid", ""), body["metadata"].get("resourceVersion", ""))
        return self.store(path, _merged(self._found(path), body))

    def delete(self, path: str, *, uid: str, resource_version: str = "", grace_seconds: int | None = None) -> None:
        self._begin("DELETE", path)
        self._require(path, uid, resource_version)
        del self.objects[path]

    def store(self, path: str, body: Json) -> Json:
        """Store an object whatever is there, as another client would, and return it with its UID and version."""
        self._version += 1
        metadata = {"uid": f"uid-{self._version}", **body["metadata"], "resourceVersion": str(self._version)}
        self.objects[path] = _copy({**body, "metadata": metadata})
        return _copy(self.objects[path])

    def put_pod(self, pod: Pod) -> None:
        """Store a pod."""
        ref = pod.ref
        annotations = {**pod.annotations} | ({MIRROR_ANNOTATION: ref.mirror} if ref.mirror else {})
        metadata: Json = {"namespace": ref.namespace, "name": ref.name, "uid": ref.uid}
        metadata |= {"labels": dict(pod.labels), "annotations": annotations}
        metadata |= {"deletionTimestamp": "2026-01-01T00:00:00Z"} if pod.deleting else {}
        spec = {"nodeName": pod.node, "readinessGates": [{"conditionType": one} for one in pod.gates]}
        body = {"metadata": metadata, "spec": spec, "status": {"phase": pod.phase}}
        self.store(f"/api/v1/namespaces/{ref.namespace}/pods/{ref.name}", body)

    def delete_pod(self, ref: PodRef) -> None:
        """Delete a pod, as another client would."""
        del self.objects[f"/api/v1/namespaces/{ref.namespace}/pods/{ref.name}"]

    def _begin(self, method: str, path: str) -> None:
        self.requests.append((method, path.rpartition("/")[2]))
        if self.failures:
            raise self.failures.pop(0)

    def _found(self, path: str) -> Json:
        if path not in self.objects:
            raise NotFoundError(f"cannot find {path}")
        return self.objects[path]

    def _require(self, path: str, uid: str, version: str) -> None:
        metadata = self._found(path)["metadata"]
        if uid not in ("", metadata["uid"]) or version not in ("", metadata["resourceVersion"]):
            raise ConflictError(f"cannot write {path}: it has changed")


def _copy(value: Json) -> Json:
    return cast(Json, json.loads(json.dumps(value)))


def _merged(target: Any, patch_of_it: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch_of_it, dict):
        return patch_of_it
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch_of_it.items():
        merged[key] = _merged(merged.get(key), value)
    return {key: value for key, value in merged.items() if value is not None}


@dataclass
class Announcements:
    """An announcer that records Events (reason, text, interface) and conditions (status, reason, message)."""

    events: list[tuple[str, str, str]] = field(default_factory=list)
    conditions: list[tuple[bool, str, str]] = field(default_factory=list)

    def event(self, _: PodRef, reason: Reason, text: str, interface: str = "") -> None:
        self.events.append((reason, text, interface))

    def condition(self, _: Pod, linked: bool, reason: str, message: str) -> None:
        self.conditions.append((linked, reason, message))


@dataclass
class Calls:
    """The containers whose ADD runs."""

    adding: set[str] = field(default_factory=set)

    def is_adding(self, container_id: str) -> bool:
        return container_id in self.adding


@dataclass
class Nodes:
    """The lost nodes."""

    lost: set[str] = field(default_factory=set)

    def is_lost(self, node: str) -> bool:
        return node in self.lost


def underlay_of(node: str) -> Underlay:
    return Underlay(node, Parent("eth0", 2, VTEPS[node], 1500), 4789, has_agent=True)


def sandbox_of(side: Side, node: str = "node-a", number: int = 1) -> Sandbox:
    """The sandbox of the example's pod at this side, as its node records it, in a namespace of the kernel in memory."""
    bare = own(side, node, number)
    return underlay_of(node).sandbox(bare.container_id, bare.pod, netns_path(bare.container_id))


class AgentNode:
    """The parts of one node's agent that reconcile links, on an API and a kernel in memory and a journal on disk."""

    def __init__(self, folder: Path, api: MemoryApi, name: str = "node-a") -> None:
        self.name = name
        self.api = api
        self.kernel = Alone(World(), name)
        self.journal = Journal(folder / name, remembers=True)
        self.namespaces: dict[str, NamespaceCache] = {}
        self.caches = Caches(
            links=LinkCache(),
            node_pods=PodCache(),
            namespace_cache=lambda namespace: self.namespaces.setdefault(namespace, NamespaceCache()),
            pods_notifier=KeyedNotifier(),
            vni_allocator=VniAllocator(),
            addresses=NodeAddressCache(),
        )
        self.store = CachedStore(api, "ratchet", (11, 99), self.caches, use_topologies=False)
        self.announcements = Announcements()
        self.metrics = Metrics()
        self.calls = Calls()
        self.nodes = Nodes()
        self.queue = ReconcileQueue()
        self.verified = VerifiedEnds()
        self.underlay = underlay_of(name)
        announcer = cast(Announcer, self.announcements)
        underlays = cast(Underlays, lambda *_: self.underlay)
        handover = Handover(name, self.store, underlays)
        self.membership = Membership(self.journal, self.store, announcer, self.calls, self.queue, handover)
        self.liveness = SandboxLiveness(name, self.journal, self.store, self.calls)
        self.lost_peers = LostPeers(self.journal, self.store, self.nodes)
        self.status = LinkStatus(
            name, self.journal, self.store, announcer, self.metrics, self.calls, self.liveness, since=0.0
        )
        files = OperationFiles(str(folder / name))
        self.operations = LinkOperations(files, self.journal, self.queue, self.store.links.cache.get)
        self.controller = LinkController(
            name,
            self.journal,
            self.store,
            underlays,
            EndFailures(self.store, self.journal, announcer),
            self.calls,
            self.membership,
            self.liveness,
            self.lost_peers,
            self.status,
            self.queue,
            OperationStatus(self.journal, self.store, self.operations, announcer),
            self.verified,
        )

    @contextmanager
    def running(self) -> Iterator[AgentNode]:
        """Within the block, the node's code uses the kernel in memory."""
        kernel = FakeKernel({self.name: self.underlay.parent})
        with ExitStack() as stack:
            stack.enter_context(run_by(self.kernel))
            for module in (endpoint_reconcile, teardown, controller, liveness, handover):
                stack.enter_context(patch.object(module, "datapath", kernel))
            yield self

    def hold(self, sandbox: Sandbox, link: Link | None = None, **of_entry: Any) -> SandboxEntry:
        """Start a pod and its sandbox, and write the journal entry of its ADD, which holds its end of the link."""
        link = link or wanted()
        side = next(side for side in Side if link.end(side).name == sandbox.pod.name)
        end = HeldEnd(link, side, index=1_000_000 + (side is Side.PAIR))
        attachment = Attachment("net", sandbox.container_id, "eth0")
        entry = SandboxEntry(
            attachment, sandbox.netns, sandbox.pod, (end,), asks=True, cookie=sandbox.cookie, **of_entry
        )
        self.journal.write(entry)
        self.add_namespace(sandbox.container_id)
        self.api.put_pod(Pod(sandbox.pod, node=sandbox.node, phase="Running", gates=("ratchet/linked",)))
        held = self.journal.read(attachment)
        assert held is not None
        return held

    def held(self, link: str = "") -> list[tuple[SandboxEntry, HeldEnd]]:
        return self.journal.holding(link or wanted().name)

    def put_record(self, link: Link) -> Link:
        """Store a record, as another node's agent would, and have the informer report it."""
        self.api.store(f"{RECORDS}/{link.name}", encode_link(link))
        self.caches.links.drop(link.name)
        record = self.store.links.get(link.name)
        assert record is not None
        return record

    def record(self) -> Link | None:
        """The example's record as the API has it."""
        return self.store.links.get(wanted().name)

    def see_pod(self, pod: Pod) -> None:
        """Have the informer report a pod of this node."""
        self.caches.node_pods.apply(PodChange(pod, gone=False))

    def add_namespace(self, container_id: str) -> None:
        self.kernel.world = self.kernel.world._replace(namespaces=self.kernel.world.namespaces | {container_id})

    def remove_namespace(self, container_id: str) -> None:
        """Remove a namespace with the interfaces in it."""
        path, world = netns_path(container_id), self.kernel.world
        gone = {one.place for one in world.interfaces if one.place[0] == path}
        kept = frozenset(one for one in world.interfaces if one.place not in gone and one.peer not in gone)
        self.kernel.world = world._replace(namespaces=world.namespaces - {container_id}, interfaces=kept)

    def interfaces(self) -> set[tuple[str, str]]:
        """The path of the namespace and the name of each interface."""
        return {one.place for one in self.kernel.world.interfaces}


def with_end(link: Link, side: Side, sandbox: Sandbox | None) -> Link:
    """The link with a sandbox at one end."""
    return link.with_end(side, replace(link.end(side), sandbox=sandbox))
