"""Manifests: the pods and topologies that the objects in files create, and what the API server rejects in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from ratchet.cli.documents import ManifestError, Value, read_documents
from ratchet.cli.metadata import Metadata, key_slips, read_metadata
from ratchet.cli.problems import Problem
from ratchet.cli.topology_manifests import read_topology
from ratchet.cli.workloads import GENERATED, KINDS, PODS_MOST, Workload, workload_of
from ratchet.cli.yaml_nodes import Kind
from ratchet.core.escape import escape_unprintable, excerpt
from ratchet.core.pod import Pod, Topology
from ratchet.store.codec.pods import decode_pod

_KINDS = {kind.lower(): kind for kind in KINDS}
# Kinds of owners by the kind of what they create: pods of a Deployment are owned by its ReplicaSet.
_OWNERS_OF_OWNERS = {"ReplicaSet": "Deployment", "Job": "CronJob"}
_Object = tuple[str, str, str]  # kind, namespace, name


@dataclass(frozen=True, slots=True)
class ManifestPod:
    """A pod that a manifest creates. `owner` is the workload that creates it, empty for a pod's own manifest."""

    pod: Pod
    place: str
    owner: str = ""
    on_host_network: bool = False
    on_each_node: bool = False


@dataclass(slots=True)
class Manifests:
    """The content of files.

    `config_maps` are the namespaces and names of ConfigMaps that are no topologies, `namespaces` the names of
    Namespaces. `workloads`: why a name is no pod's, for the names of workloads by namespace and name. `unreadable` are
    the errors of objects that are left out, `problems` those of objects that are not.
    """

    pods: list[ManifestPod] = field(default_factory=list)
    topologies: list[Topology] = field(default_factory=list)
    config_maps: list[tuple[str, str]] = field(default_factory=list)
    namespaces: list[str] = field(default_factory=list)
    workloads: dict[tuple[str, str], str] = field(default_factory=dict)
    unreadable: list[ManifestError] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def read_manifests(files: Sequence[str], namespace: str) -> Manifests:
    """Read files ("-" is stdin). `namespace`: of objects that name none.

    Raises ManifestError if a file cannot be read or is not YAML.
    """
    reader = _Reader(namespace)
    for file in files:
        documents = read_documents(file)
        for document in documents:
            reader.read(document, "")
        if not documents:
            reader.found.problems.append(Problem(False, f"{escape_unprintable(file)}: there is no object"))
    reader.leave_out_owned()
    return reader.found


@dataclass(frozen=True, slots=True)
class _Source:
    """What pods are made from: a pod's own manifest or a pod template (`content`) with its metadata.

    `owners` are the owners of the manifest, `owner` the workload of the template.
    """

    place: str
    content: Value
    metadata: Metadata
    owners: set[_Object]
    owner: str = ""


class _Reader:
    """Reads objects one after the other into `found`."""

    def __init__(self, namespace: str) -> None:
        self.found = Manifests()
        self._namespace = namespace
        self._seen = set[int]()
        self._declared: dict[_Object, str] = {}
        self._generated = Counter[tuple[str, str]]()
        self._owned: dict[str, set[_Object]] = {}  # the owners of each pod, by its UID

    def read(self, document: Value, default_kind: str) -> None:
        """Read an object, or the objects of a list. What aliases repeat is read once."""
        if document.identity in self._seen:
            return
        self._seen.add(document.identity)
        try:
            kind = document["kind"].text(default_kind)
            if kind.endswith("List") and document["items"].kind is Kind.LIST:
                for item in document["items"].items():
                    self.read(item, kind.removesuffix("List"))
            else:
                self._read_object(kind, document)
        except ManifestError as error:
            self.found.unreadable.append(error)

    def leave_out_owned(self) -> None:
        """Leave out pods whose owner is in the files too: they are checked by the owner's template."""
        declared, owned = self._declared, self._owned
        self.found.pods = [
            one for one in self.found.pods if not any(owner in declared for owner in owned[one.pod.ref.uid])
        ]

    def _read_object(self, kind: str, document: Value) -> None:
        if not kind:
            self.found.problems.append(Problem(False, f"{document.place}: an object without kind is ignored"))
        elif kind not in KINDS and (known := _KINDS.get(kind.lower())) is not None:
            raise document["kind"].error(f"expected {known}")
        elif kind == "ConfigMap":
            topology, problems = read_topology(document, self._namespace)
            self.found.problems += problems
            if topology is None:
                place, name = _text_or_nothing(document, "namespace"), _text_or_nothing(document, "name")
                self.found.config_maps.append((place or self._namespace, name))
            elif self._is_first(document.place, (kind, topology.namespace, topology.name)):
                self.found.topologies.append(topology)
        elif kind == "Namespace":
            self.found.namespaces.append(_text_or_nothing(document, "name"))
        elif kind == "Pod":
            self._read_pod(document)
        else:
            self._read_workload(kind, document)

    def _read_pod(self, document: Value) -> None:
        metadata = read_metadata(document["metadata"], self._namespace, self.found.problems)
        name = metadata.name or self._generated_name(metadata)
        self.found.problems += key_slips(f"{document.place}: pod {metadata.namespace}/{name}", metadata)
        owners = _owners(document, metadata.namespace)
        self._add_pod(name, _Source(document.place, document, metadata, owners))

    def _read_workload(self, kind: str, document: Value) -> None:
        own = document["metadata"]
        name = own["name"].text("") if own.kind is Kind.MAPPING else ""
        workload = workload_of(kind, document, name)
        if workload is None or workload.template.kind is Kind.NOTHING:
            return
        metadata = read_metadata(own, self._namespace, self.found.problems)
        if not self._is_first(document.place, (kind, metadata.namespace, metadata.name)):
            return
        owner = f"{excerpt(kind)} {metadata.name or metadata.prefix}"
        self.found.workloads[metadata.namespace, metadata.name] = _names_of_pods(owner, workload)
        if workload.wanted > PODS_MOST:
            text = f"{document.place}: {owner}: the first {PODS_MOST} of {workload.wanted} pods are checked"
            self.found.problems.append(Problem(False, text))
        template = read_metadata(
            workload.template["metadata"], metadata.namespace, self.found.problems, is_template=True
        )
        self.found.problems += key_slips(f"{document.place}: {owner}", template)
        owners = _owners(document, metadata.namespace)
        source = _Source(document.place, workload.template, template, owners, owner)
        for index in range(workload.count):
            self._add_pod(workload.names[index] if workload.names else self._generated_name(metadata), source)

    def _add_pod(self, name: str, source: _Source) -> None:
        metadata = source.metadata
        if not self._is_first(source.place, ("Pod", metadata.namespace, name)):
            return
        uid = f"{source.place}#{len(self._owned)}"
        self._owned[uid] = source.owners
        spec = source.content["spec"]
        pod = decode_pod(
            {
                "metadata": {
                    "namespace": metadata.namespace,
                    "name": name,
                    "uid": uid,
                    "labels": metadata.labels,
                    "annotations": metadata.annotations,
                    "creationTimestamp": metadata.created,
                    "deletionTimestamp": metadata.deleted,
                },
                "spec": {"nodeName": spec["nodeName"].text("")},
                "status": {"phase": source.content["status"]["phase"].text("")},
            }
        )
        on_host, on_each = spec["hostNetwork"].flag(), source.owner.startswith("DaemonSet ")
        self.found.pods.append(ManifestPod(pod, source.place, source.owner, on_host, on_each))

    def _is_first(self, place: str, key: _Object) -> bool:
        """Whether this is the first object with its kind, namespace and name. Others are errors."""
        kind, namespace, name = key
        if key not in self._declared or not name:
            self._declared[key] = place
            return True
        text = f"{place}: {excerpt(kind)} {namespace}/{name} is declared twice, first at {self._declared[key]}"
        self.found.problems.append(Problem(True, text))
        return False

    def _generated_name(self, metadata: Metadata) -> str:
        """A name in the place of a generated one."""
        start = (metadata.prefix or f"{metadata.name}-")[:200]
        self._generated[metadata.namespace, start] += 1
        return f"{start}{GENERATED}-{self._generated[metadata.namespace, start]}"


def _text_or_nothing(document: Value, field: str) -> str:
    """A field of an object's metadata, empty if it is no text: only the API server reads the rest of this object."""
    metadata = document["metadata"]
    value = metadata[field] if metadata.kind is Kind.MAPPING else metadata
    return value.text() if value.kind is Kind.TEXT else ""


def _owners(document: Value, namespace: str) -> set[_Object]:
    """The owners of an object, and the likely owners of these, which created them with a suffix."""
    found = set[_Object]()
    for reference in document["metadata"]["ownerReferences"].items():
        kind, name = reference["kind"].text(""), reference["name"].text("")
        found.add((kind, namespace, name))
        if (above := _OWNERS_OF_OWNERS.get(kind)) is not None:
            found.add((above, namespace, name.rpartition("-")[0]))
    return found


def _names_of_pods(owner: str, workload: Workload) -> str:
    """Why the name of a workload is no pod's name."""
    if workload.names is None:
        return f"pods of {owner} have generated names: set ratchet.pod_name in its template"
    if not workload.names:
        return f"{owner} has no replicas"
    return f"pods of {owner} are called {workload.names[0]} to {workload.names[-1]}"
