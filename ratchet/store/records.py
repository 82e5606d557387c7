"""What Ratchet keeps in the API, and what it reads there: links, VNIs, pods, nodes.

Every write is conditional on the version that was read; ConflictError says that it was not the newest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import tenacity

from ratchet.core.garbage import VniLease
from ratchet.core.heartbeat import NodeLease
from ratchet.core.intent import TOPOLOGY_LABEL, Wanted, WantedLink, names_of, wanted_links
from ratchet.core.model import Link, Pod, Side, Topology
from ratchet.core.naming import (
    LEASE_LABEL,
    MANAGED_BY,
    SCHEMA_LABEL,
    VNI_LABEL,
    node_label,
    node_lease_name,
    pod_label,
    vni_lease_name,
)
from ratchet.core.record_updates import with_vni
from ratchet.errors import ConflictError, MalformedRecordError, RatchetError, TopologiesUnknownError
from ratchet.store.apiserver import ApiServer, ForbiddenError, NotFoundError, Watched
from ratchet.store.codec import MANAGER, decode_time
from ratchet.store.codec.leases import (
    decode_node_lease,
    decode_vni_lease,
    encode_node_lease,
    encode_vni_lease,
    lease_labels_patch,
)
from ratchet.store.codec.links import decode_link, encode_link, leave_patch, link_patch, record_vni, stored_link
from ratchet.store.codec.pods import decode_pod, decode_topology
from ratchet.store.formats import RecordFormats
from ratchet.store.listwatch import FIRST_PAUSE, LONGEST_PAUSE, Changed, Failed, Listed, Source, list_watch
from ratchet.store.vni import VniAllocator

log = logging.getLogger(__name__)

MANAGED_SELECTOR = f"{MANAGED_BY}={MANAGER}"
_TOPOLOGIES = f"{TOPOLOGY_LABEL}=true"
_TOPOLOGIES_FORBIDDEN = (
    "grant the account the ClusterRole ratchet-topologies; or, to use no topologies, set `topologies: off` in the "
    "network configuration and `--topologies off` for the agent"
)


@dataclass(frozen=True, slots=True)
class TopologyChange:
    """A topology as it became, or as it last was where it is `gone`."""

    topology: Topology
    gone: bool


@dataclass(frozen=True, slots=True)
class PodChange:
    """A pod as it became, or as it last was where it is `gone`."""

    pod: Pod
    gone: bool

    def apply_to(self, pods: dict[str, Pod]) -> None:
        """Bring the pods of a namespace, by name, to what has changed."""
        if self.gone:
            pods.pop(self.pod.ref.name, None)
        else:
            pods[self.pod.ref.name] = self.pod


@dataclass(frozen=True, slots=True)
class LinkChange:
    """A record as it became; None where it was deleted, or no longer matches the watch.

    With an `error` it was changed to something that cannot be read.
    """

    name: str
    link: Link | None
    version: str
    error: MalformedRecordError | None = None


class Records:
    """The links and VNIs in one namespace (`ratchet`) of one API server, and the cluster's pods and nodes.

    `numbers` is what is known of the VNIs that are taken; None for nothing, before each claim anew. `formats` is what
    is known of the formats of records; None for nothing yet. With `use_topologies` off, topologies are never listed: a
    namespace has none.
    """

    def __init__(
        self,
        api: ApiServer,
        namespace: str = "ratchet",
        vni_range: tuple[int, int] = (11, 16777215),
        numbers: VniAllocator | None = None,
        formats: RecordFormats | None = None,
        *,
        use_topologies: bool = True,
    ) -> None:
        self.api = api
        self.namespace = namespace
        self.vni_range = vni_range
        self.numbers = numbers
        self.formats = RecordFormats() if formats is None else formats
        self.use_topologies = use_topologies
        self.config_maps_path = f"/api/v1/namespaces/{namespace}/configmaps"
        self.leases_path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"

    def ready(self) -> None:
        """Return if the API answers for our namespace, and for topologies where they are used; raises RatchetError."""
        self.api.get(f"{self.config_maps_path}?limit=1")
        if self.use_topologies:
            try:
                self.api.get("/api/v1/configmaps?limit=1")
            except ForbiddenError as cause:
                raise TopologiesUnknownError(
                    "cannot list topologies (topologies: on): forbidden", details=_TOPOLOGIES_FORBIDDEN
                ) from cause

    # Links

    def link(self, name: str) -> Link | None:
        """The record of this name, None where there is none."""
        try:
            return decode_link(self.api.get(f"{self.config_maps_path}/{name}"))
        except NotFoundError:
            return None

    def known_link(self, name: str) -> tuple[Link | None, bool]:
        """The record as far as it is known here, and whether the API says so now rather than memory."""
        return self.link(name), True

    def expected_link(self, name: str) -> tuple[Link | None, bool]:
        """As `known_link`, for who creates a missing record: an absence need not be confirmed by the API."""
        return self.known_link(name)

    def has_changed(self, record: Link) -> bool:  # noqa: ARG002
        """Whether a record may differ from what was read or written last. True where no watch reports changes."""
        return True

    def is_created_by_peer(self, wanted: Link, side: Side, node: str) -> bool:  # noqa: ARG002
        """Whether the node of the link's other end is to create the missing record, as far as is known.

        `node` is that of `side`. False where no watch would report the record.
        """
        return False

    def as_recorded(self, wanted: WantedLink) -> Link:
        """The wanted link under the name of its record; where it has none, under the name that a new one gets.

        A record is never renamed, so it is looked up under every name that it may have, in an order that is the same
        on all nodes. Raises RatchetError where a record, or the formats in use, cannot be read.
        """
        writes_current, possible = self.formats.writes_current(self), wanted.alias_names()
        if self.formats.earlier_possible(self):
            possible += wanted.earlier_names()
        # A record of the current name that is not found here is found by whoever creates it.
        for name in possible if writes_current else [*possible, wanted.link.name]:
            record, _ = self.known_link(name)
            if record is not None:
                return replace(wanted.link, name=name, schema=record.schema)
        return wanted.link if writes_current else wanted.earlier_link()

    def has_earlier_records(self) -> bool:
        """Whether there are records of schema 1."""
        selector = f"{MANAGED_SELECTOR},!{SCHEMA_LABEL}"
        return self.api.has_any(self.config_maps_path, labelSelector=selector)

    def links(self) -> tuple[list[Link], list[MalformedRecordError]]:
        """All records, and an error for each that cannot be read as one."""
        links, malformed, _ = self.links_and_version()
        return links, malformed

    def links_and_version(self) -> tuple[list[Link], list[MalformedRecordError], str]:
        """As `links`, with the version from which a watch goes on."""
        return self._listed_links(MANAGED_SELECTOR)

    def all_link_changes(self, version: str, seconds: float) -> Iterator[tuple[LinkChange | None, str]]:
        """Each change of a record after `version`, and its version, for at most `seconds`."""
        return _link_changes(self.api.watch(self.config_maps_path, version, seconds, labelSelector=MANAGED_SELECTOR))

    def uids(self) -> set[str]:
        """The UIDs of all ConfigMaps there are: of every record, whatever has become of its labels or its data."""
        return set(self.api.list_metadata(self.config_maps_path, _uid))

    def create(self, link: Link) -> Link:
        """The link as it is now stored. Raises ConflictError where a record of that name exists."""
        try:
            encoded = encode_link(link)
            return stored_link(link, encoded, self.api.create(self.config_maps_path, encoded))
        except NotFoundError as cause:
            raise RatchetError(
                f"cannot record the link {link.name}: the namespace {self.namespace} is missing",
                details=f"kubectl create namespace {self.namespace}",
            ) from cause

    def update(self, before: Link, after: Link) -> Link:
        """The link as it is now stored. Raises ConflictError where `before` is no longer what is stored."""
        try:
            encoded = encode_link(after)
            answer = self.api.patch(f"{self.config_maps_path}/{before.name}", link_patch(before, encoded))
            return stored_link(after, encoded, answer)
        except NotFoundError as gone:
            raise ConflictError(f"cannot update the record {before.name}: it was deleted meanwhile") from gone

    def leave_newer(self, name: str, container_id: str) -> None:
        """Take a sandbox out of a record that this version may not use. Raises ConflictError where it has changed."""
        path = f"{self.config_maps_path}/{name}"
        with suppress(NotFoundError):
            patch = leave_patch(self.api.get(path), container_id)
            if patch is not None:
                self.api.patch(path, patch)

    def delete(self, link: Link) -> None:
        """Delete the record as it was read, then the VNI that it held. Raises ConflictError where it has changed.

        The Lease goes last, for as long as the record is there its number is in use.
        """
        path = f"{self.config_maps_path}/{link.name}"
        with suppress(NotFoundError):  # somebody else's deletion, or an earlier try of ours whose reply was lost
            self.api.delete(path, uid=link.uid, resource_version=link.resource_version)
        if link.vni is not None:
            self.release_vni(link.vni, link.uid)

    def links_of_pod(self, namespace: str, pod: str) -> tuple[list[Link], str]:
        """The records of the links that a pod has joined, and the version from which a watch goes on."""
        links, _, version = self._listed_links(pod_label(namespace, pod))
        return links, version

    def link_changes(self, namespace: str, pod: str, version: str, seconds: float) -> Iterator[tuple[str | None, str]]:
        """Name and version of each of a pod's records that changes after `version`, for at most `seconds`."""
        selector = pod_label(namespace, pod)
        for event in self.api.watch(self.config_maps_path, version, seconds, labelSelector=selector):
            metadata = event.object["metadata"]
            yield (None if event.type == "BOOKMARK" else metadata["name"], metadata["resourceVersion"])

    def names_of_changed_links(
        self,
        namespace: str,
        pod: str,
        names: Collection[str],  # noqa: ARG002  # for those who know what they have
        version: str,
        until: float,
    ) -> Iterator[set[str] | None]:
        """Those of a pod's records that change after `version`, until `until` (monotonic seconds).

        `names` are those that matter; others may be told. None where any may have changed.
        """
        source = Source(
            f"records of pod {namespace}/{pod}",
            list=lambda: self.links_of_pod(namespace, pod),
            watch=lambda version, seconds: self.link_changes(namespace, pod, version, seconds),
        )
        for event in list_watch(source, version=version, until=until):
            match event:
                case Changed(name):
                    yield {name}
                case Listed():
                    yield None
                case Failed():
                    event.raise_if_fatal()

    # VNIs

    def with_allocated_vni(self, link: Link) -> Link:
        """The link with a VNI that no other link has; `link.uid` must be the stored record's.

        One that a Lease already gives to this record is taken again (a crash before it was written, or the other
        end). Raises VniExhaustedError.
        """
        if link.vni is not None:
            return link
        return with_vni(link, (self.numbers or VniAllocator()).claim(self, link))

    def claim_another_vni(self, link: Link) -> int:
        """Claim a VNI for a record that has one and must not keep it. Raises VniExhaustedError."""
        return (self.numbers or VniAllocator()).claim(self, link, another=True)

    def hold_vni(self, link: Link) -> bool:
        """Whether the record holds the Lease of its VNI: a missing Lease is created, an ownerless one replaced.

        The record's own Lease gets the labels of the link's nodes if it lacks them.

        A Lease is ownerless if its holder is no record's UID; a backup that is restored leaves such Leases. False where
        another record is the holder. Raises ConflictError where the Lease changes meanwhile.
        """
        if link.vni is None:
            return False
        try:
            lease = decode_vni_lease(self.api.get(f"{self.leases_path}/{vni_lease_name(link.vni)}"))
        except NotFoundError:
            lease = None
        if lease is not None:
            if lease.holder == link.uid:
                self._label(lease, link)
                return True
            if lease.holder in self.uids():  # listed after the Lease: a record exists before it holds one
                return False
            with suppress(NotFoundError):
                self.delete_vni_lease(lease)
        self.api.create(self.leases_path, encode_vni_lease(link.vni, link))
        former = lease.holder if lease is not None else ""
        log.warning("VNI Lease created again link=%s vni=%s former_holder=%r", link.name, link.vni, former)
        return True

    def _label(self, lease: VniLease, link: Link) -> None:
        """Label a VNI Lease with the nodes of its link. Raises ConflictError where it has changed meanwhile."""
        patch = lease_labels_patch(lease, link)
        if patch is None:
            return
        try:
            self.api.patch(f"{self.leases_path}/{vni_lease_name(lease.vni)}", patch)
        except NotFoundError as gone:
            raise ConflictError(f"cannot label the Lease of VNI {lease.vni}: it was deleted meanwhile") from gone
        except ForbiddenError as error:  # the daemonless plugin may not patch Leases, and needs no labels
            log.debug('cannot label the VNI Lease vni=%s cause="%s"', lease.vni, error)

    def record_vnis(self, vnis: Collection[int] | None = None) -> dict[int, str]:
        """The VNIs in the labels of records, with the UID of a record that has it; of `vnis` alone where given."""
        selector = VNI_LABEL if vnis is None else f"{VNI_LABEL} in ({','.join(map(str, sorted(vnis)))})"
        found = self.api.list_metadata(self.config_maps_path, record_vni, labelSelector=selector)
        return dict(entry for entry in found if entry is not None)

    def release_vni(self, vni: int, holder: str) -> None:
        """Free a VNI, if it is the record `holder` that has it."""
        path = f"{self.leases_path}/{vni_lease_name(vni)}"
        with suppress(NotFoundError, ConflictError):  # freed meanwhile, and perhaps another's by now
            lease = decode_vni_lease(self.api.get(path))
            if lease is not None and lease.holder == holder:
                self.api.delete(path, uid=lease.uid)
        if self.numbers is not None:
            self.numbers.freed(vni)

    def vni_leases(self) -> list[VniLease]:
        decoded, _ = self.api.list_decoded(self.leases_path, decode_vni_lease, labelSelector=MANAGED_SELECTOR)
        return [lease for lease in decoded if lease is not None]

    def vni_leases_of_node(self, node: str) -> list[VniLease]:
        """The VNI Leases that are labelled with a node; those from before an upgrade are not labelled."""
        decoded, _ = self.api.list_decoded(self.leases_path, decode_vni_lease, labelSelector=node_label(node))
        return [lease for lease in decoded if lease is not None]

    def delete_vni_lease(self, lease: VniLease) -> None:
        """Delete the very Lease that was listed. Raises ConflictError where it has changed since."""
        path = f"{self.leases_path}/{vni_lease_name(lease.vni)}"
        self.api.delete(path, uid=lease.uid, resource_version=lease.resource_version)

    # Pods and nodes

    def pod(self, namespace: str, name: str, uid: str = "") -> Pod | None:  # noqa: ARG002
        """The pod of this name; `uid` is the one that is looked for, and need not be the one that is found."""
        try:
            return decode_pod(self.api.get(f"/api/v1/namespaces/{namespace}/pods/{name}"))
        except NotFoundError:
            return None

    def pods(self, namespace: str | None = None) -> list[Pod]:
        return self.pods_and_version(namespace)[0]

    def pods_and_version(self, namespace: str | None = None) -> tuple[list[Pod], str]:
        """The pods of a namespace (None: of the cluster), and the version from which a watch goes on."""
        path = f"/api/v1/namespaces/{namespace}/pods" if namespace else "/api/v1/pods"
        return self.api.list_decoded(path, decode_pod)

    def pod_changes(self, namespace: str, version: str, seconds: float) -> Iterator[tuple[PodChange | None, str]]:
        """Each change of a namespace's pods after `version`, and its version, for at most `seconds`."""
        return _pod_changes(self.api.watch(f"/api/v1/namespaces/{namespace}/pods", version, seconds))

    def pods_source(self, namespace: str) -> Source[Pod, PodChange]:
        """The pods of a namespace for a list-watch, always read from the API."""
        return Source(
            f"pods of namespace {namespace}",
            list=lambda: Records.pods_and_version(self, namespace),
            watch=lambda version, seconds: self.pod_changes(namespace, version, seconds),
        )

    def watch_wanted(self, pod: Pod, reserved: frozenset[str], seconds: float, until: float) -> Iterator[Wanted]:
        """The wanted links around a pod; again each time that they can have changed, until `until` (monotonic seconds).

        Unknown topologies are waited for, for so many `seconds`. Raises TopologiesUnknownError.
        """
        waiting = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TopologiesUnknownError),
            stop=tenacity.stop_before_delay(seconds),
            wait=tenacity.wait_random_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE),
            reraise=True,
        )
        namespace = pod.ref.namespace
        topologies = waiting(self.topologies, namespace)
        pods, version = self.pods_and_version(namespace)
        yield wanted_links(pods, reserved, topologies=topologies)
        for changed in self.pods_as_they_change(namespace, pods, version, until):
            yield wanted_links(changed, reserved, topologies=self.topologies(namespace))

    def pods_called(self, namespace: str, names: Collection[str]) -> list[Pod]:
        """The pods of a namespace that answer to one of these names."""
        return [pod for pod in self.pods(namespace) if not names_of(pod).isdisjoint(names)]

    def topologies(self, namespace: str) -> list[Topology]:
        """The topologies of a namespace. Raises TopologiesUnknownError where the account may not list them."""
        return self.topologies_and_version(namespace)[0] if self.use_topologies else []

    def topologies_and_version(self, namespace: str) -> tuple[list[Topology], str]:
        """The topologies of a namespace, and the version from which a watch goes on. Raises TopologiesUnknownError."""
        try:
            path = f"/api/v1/namespaces/{namespace}/configmaps"
            return self.api.list_decoded(path, decode_topology, labelSelector=_TOPOLOGIES)
        except ForbiddenError as cause:
            raise TopologiesUnknownError(
                f"cannot read the topologies of namespace {namespace}: forbidden", details=_TOPOLOGIES_FORBIDDEN
            ) from cause

    def topology_changes(
        self, namespace: str, version: str, seconds: float
    ) -> Iterator[tuple[TopologyChange | None, str]]:
        """Each change of a namespace's topologies after `version`, and its version, for at most `seconds`."""
        path = f"/api/v1/namespaces/{namespace}/configmaps"
        for event in self.api.watch(path, version, seconds, labelSelector=_TOPOLOGIES):
            change = None
            if event.type != "BOOKMARK":
                change = TopologyChange(decode_topology(event.object), event.type == "DELETED")
            yield change, event.object["metadata"]["resourceVersion"]

    def pods_as_they_change(self, namespace: str, pods: list[Pod], version: str, until: float) -> Iterator[list[Pod]]:
        """The pods of a namespace, each time that one has changed from `pods`, until `until` (monotonic seconds)."""
        known = {one.ref.name: one for one in pods}
        for event in list_watch(self.pods_source(namespace), version=version, until=until):
            match event:
                case Changed(change):
                    change.apply_to(known)
                case Listed(listed):
                    known = {one.ref.name: one for one in listed}
                case Failed():
                    event.raise_if_fatal()
                    continue
            yield list(known.values())

    def node_addresses(self, node: str) -> tuple[str, ...]:
        """The node's InternalIP addresses, empty where the API has no such node."""
        try:
            status = self.api.get(f"/api/v1/nodes/{node}").get("status") or {}
        except NotFoundError:
            return ()
        return tuple(entry["address"] for entry in status.get("addresses") or () if entry.get("type") == "InternalIP")

    def refresh_node_addresses(self, node: str) -> bool:  # noqa: ARG002
        """Read a node's addresses; whether they differ from those that were cached. Nothing is cached here."""
        return False

    def beat(self, lease: NodeLease, seconds: float, now: datetime) -> None:
        """Say that a node is there, for so many seconds."""
        body = encode_node_lease(lease, seconds, now)
        try:
            self.api.patch(f"{self.leases_path}/{body['metadata']['name']}", body)
        except NotFoundError:
            self.api.create(self.leases_path, body)

    def node_leases(self) -> list[NodeLease]:
        """The signs of life of all nodes that have an agent."""
        return self.api.list_decoded(self.leases_path, decode_node_lease, labelSelector=f"{LEASE_LABEL}=node")[0]

    def delete_node_lease(self, lease: NodeLease) -> None:
        """Delete a node's sign of life as it was listed. Raises ConflictError where it has changed since."""
        path = f"{self.leases_path}/{node_lease_name(lease.node)}"
        self.api.delete(path, uid=lease.uid, resource_version=lease.version)

    def links_of_node(self, node: str) -> tuple[list[Link], list[MalformedRecordError], str]:
        """The records of a node's links, what could not be read as one, and the version from which a watch goes on."""
        return self._listed_links(node_label(node))

    def node_link_changes(
        self, node: str, version: str, seconds: float, has: Callable[[str, str], bool] = lambda *_: False
    ) -> Iterator[tuple[LinkChange | None, str]]:
        """Each change of a node's records after `version`, and its version, for at most `seconds`.

        A change to a version of a record that the caller `has` already (by name and version) is not decoded.
        """
        watch = self.api.watch(self.config_maps_path, version, seconds, labelSelector=node_label(node))
        return _link_changes(watch, has)

    def pods_on_node(self, node: str) -> tuple[list[Pod], str]:
        """The pods that are bound to a node, and the version from which a watch goes on."""
        return self.api.list_decoded("/api/v1/pods", decode_pod, fieldSelector=f"spec.nodeName={node}")

    def node_pod_changes(self, node: str, version: str, seconds: float) -> Iterator[tuple[PodChange | None, str]]:
        """As `pod_changes`, of the pods that are bound to a node."""
        watch = self.api.watch("/api/v1/pods", version, seconds, fieldSelector=f"spec.nodeName={node}")
        return _pod_changes(watch)

    def node_is_ready(self, node: str) -> bool:
        """Whether the cluster holds a node for able to run pods (its condition Ready)."""
        try:
            status = self.api.get(f"/api/v1/nodes/{node}").get("status") or {}
        except NotFoundError:
            return False
        return any(one.get("type") == "Ready" and one.get("status") == "True" for one in status.get("conditions") or ())

    def nodes(self) -> dict[str, datetime | None]:
        """The Node objects by name, each with its creation time."""
        return dict(self.api.list_decoded("/api/v1/nodes", _node)[0])

    def _listed_links(self, selector: str) -> tuple[list[Link], list[MalformedRecordError], str]:
        """The selected records, an error for each that cannot be read, and the version of the list."""
        decoded, version = self.api.list_decoded(self.config_maps_path, _link_or_error, labelSelector=selector)
        links = [one for one in decoded if isinstance(one, Link)]
        return links, [one for one in decoded if isinstance(one, MalformedRecordError)], version


def _link_changes(
    watch: Iterator[Watched], has: Callable[[str, str], bool] = lambda *_: False
) -> Iterator[tuple[LinkChange | None, str]]:
    for event in watch:
        metadata = event.object["metadata"]
        latest = metadata["resourceVersion"]
        if event.type == "BOOKMARK":
            yield None, latest
        elif event.type == "DELETED":
            yield LinkChange(metadata["name"], None, latest), latest
        elif has(metadata["name"], latest):
            yield None, latest
        else:
            decoded = _link_or_error(event.object)
            if isinstance(decoded, Link):
                yield LinkChange(metadata["name"], decoded, latest), latest
            else:
                yield LinkChange(metadata["name"], None, latest, decoded), latest


def _pod_changes(watch: Iterator[Watched]) -> Iterator[tuple[PodChange | None, str]]:
    for event in watch:
        change = None if event.type == "BOOKMARK" else PodChange(decode_pod(event.object), event.type == "DELETED")
        yield change, event.object["metadata"]["resourceVersion"]


def _link_or_error(item: dict[str, Any]) -> Link | MalformedRecordError:
    try:
        return decode_link(item)
    except MalformedRecordError as error:
        error.version = item["metadata"].get("resourceVersion", "")
        return error


def _uid(item: dict[str, Any]) -> str:
    return str(item["metadata"]["uid"])


def _node(item: dict[str, Any]) -> tuple[str, datetime | None]:
    return item["metadata"]["name"], decode_time(item["metadata"].get("creationTimestamp"))
