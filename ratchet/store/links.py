"""The records of links, which are ConfigMaps in Ratchet's namespace.

Every write is conditional on the version that was read. It raises ConflictError if that version is not the newest one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from ratchet.core.garbage import RecordDigests, digest
from ratchet.core.model import Link, Side
from ratchet.core.naming import SCHEMA_LABEL, node_label, pod_label
from ratchet.errors import ConflictError, MalformedRecordError, RatchetError
from ratchet.store.api_errors import NotFoundError
from ratchet.store.apiserver import ApiServer
from ratchet.store.codec import MANAGED_SELECTOR
from ratchet.store.codec.links import decode_link, encode_link, leave_patch, link_patch, stored_link
from ratchet.store.listwatch import Changed, Failed, Listed, Source, list_watch
from ratchet.store.paging import restarts_expired
from ratchet.store.paths import config_maps_path
from ratchet.store.session import Watched
from ratchet.store.vni_leases import VniLeases

LinkList = tuple[list[Link], list[MalformedRecordError]]
DigestList = tuple[RecordDigests, list[MalformedRecordError]]
VersionedLinkList = tuple[list[Link], list[MalformedRecordError], str]


class Lookup(NamedTuple):
    """The record of a link, or None. `certain`: the API has just answered so, and not a cache."""

    link: Link | None
    certain: bool


class LinkChange(NamedTuple):
    """A change of a record. `link` is None if the record was deleted or no longer matches the watch.

    With an `error`, the record has become malformed.
    """

    name: str
    link: Link | None
    version: str
    error: MalformedRecordError | None = None


class LinkStore:
    """The records in the API. Each question is a request."""

    def __init__(self, api: ApiServer, namespace: str, vnis: VniLeases) -> None:
        self.api = api
        self.namespace = namespace
        self.vnis = vnis
        self.path = config_maps_path(namespace)

    # Read

    def get(self, name: str) -> Link | None:
        """The record in the API; None if there is none."""
        try:
            return decode_link(self.api.get(f"{self.path}/{name}"))
        except NotFoundError:
            return None

    def lookup(self, name: str) -> Lookup:
        """The record, from a cache if there is one."""
        return Lookup(self.get(name), certain=True)

    def lookup_cached(self, name: str) -> Lookup:
        """The record, or its absence, from a cache if there is one."""
        return self.lookup(name)

    def known(self, name: str) -> Link | None:  # noqa: ARG002
        """The record if a cache has it. Sends no request."""
        return None

    def has_changed(self, record: Link) -> bool:  # noqa: ARG002
        """Whether a record may differ from its last read or written version. True without a cache."""
        return True

    def is_created_by_peer(self, wanted: Link, side: Side, node: str) -> bool:  # noqa: ARG002
        """Whether the peer's node is expected to create the missing record.

        `node` is the node of `side`. False without a cache, because no watch would report the record.
        """
        return False

    def has_earlier(self) -> bool:
        """Whether there are records of schema 1."""
        return self.api.has_any(self.path, labelSelector=f"{MANAGED_SELECTOR},!{SCHEMA_LABEL}")

    @restarts_expired
    def list(self) -> LinkList:
        """All records, and an error for each malformed one."""
        links, malformed, _ = self.list_with_version()
        return links, malformed

    def list_with_version(self) -> VersionedLinkList:
        """All records, an error for each malformed one, and the version from which a watch continues."""
        return self._list(MANAGED_SELECTOR)

    @restarts_expired
    def digests(self) -> DigestList:
        """The digests of all records, and an error for each malformed one."""
        digests, malformed = RecordDigests(), list[MalformedRecordError]()

        def decode(item: dict[str, Any]) -> None:
            decoded = _link_or_error(item)
            if isinstance(decoded, Link):
                digests.add(decoded)
            else:
                malformed.append(decoded)

        self.api.list_decoded(self.path, decode, labelSelector=MANAGED_SELECTOR)
        return digests, malformed

    @restarts_expired
    def list_versions(self, versions: Collection[int], most: int) -> Sequence[Link]:
        """The records whose names and versions have these digests; `most` of them at most."""
        left = iter(range(most))

        def decode(item: dict[str, Any]) -> Link | None:
            metadata = item["metadata"]
            if digest(metadata["name"], metadata["resourceVersion"]) not in versions or next(left, None) is None:
                return None
            return decode_link(item)

        decoded, _ = self.api.list_decoded(self.path, decode, labelSelector=MANAGED_SELECTOR)
        return [link for link in decoded if link is not None]

    def list_of_node(self, node: str, keep: Callable[[Link], bool] = lambda _: True) -> VersionedLinkList:
        """The records with the label of a node that `keep` accepts, as by `list_with_version`."""
        return self._list(node_label(node), keep)

    def list_of_pod(self, namespace: str, pod: str) -> VersionedLinkList:
        """The records of the links that a pod has joined, as by `list_with_version`."""
        return self._list(pod_label(namespace, pod))

    # Watch

    def watch(self, version: str, seconds: float) -> Iterator[tuple[LinkChange | None, str]]:
        """Each change of a record after `version`, with its version, for at most `seconds`."""
        return self.api.watch_decoded(self.path, version, seconds, _change, labelSelector=MANAGED_SELECTOR)

    def watch_of_node(
        self, node: str, version: str, seconds: float, has: Callable[[str, str], bool] = lambda *_: False
    ) -> Iterator[tuple[LinkChange | None, str]]:
        """Each change of a record with the label of a node, as by `watch`.

        `has` gets the name and the version of a record. A version that the caller has is not decoded.
        """
        change = partial(_change, has=has)
        return self.api.watch_decoded(self.path, version, seconds, change, labelSelector=node_label(node))

    def watch_of_pod(self, namespace: str, pod: str, version: str, seconds: float) -> Iterator[tuple[str | None, str]]:
        """The name and version of each record of a pod that changes after `version`, for `seconds` at most."""
        selector = pod_label(namespace, pod)
        return self.api.watch_decoded(self.path, version, seconds, _name_and_version, labelSelector=selector)

    def watch_names(
        self,
        namespace: str,
        pod: str,
        names: Collection[str],  # noqa: ARG002  # a cache has an index of them
        version: str,
        until: float,
    ) -> Iterator[set[str] | None]:
        """The names of a pod's records that change after `version`, until `until` (monotonic seconds).

        `names` are the records of interest; others may be yielded too. None: any of them may have changed.
        """

        def list_of_pod() -> tuple[list[Link], str]:
            links, _, listed = self.list_of_pod(namespace, pod)
            return links, listed

        source = Source(
            f"records of pod {namespace}/{pod}",
            list=list_of_pod,
            watch=lambda version, seconds: self.watch_of_pod(namespace, pod, version, seconds),
        )
        for event in list_watch(source, version=version, until=until):
            match event:
                case Changed(name):
                    yield {name}
                case Listed():
                    yield None
                case Failed():
                    event.raise_if_fatal()

    # Write

    def create(self, link: Link) -> Link:
        """Create the record, and return the link as stored. Raises ConflictError if the name exists."""
        try:
            encoded = encode_link(link)
            return stored_link(link, encoded, self.api.create(self.path, encoded))
        except NotFoundError as cause:
            raise RatchetError(
                f"cannot record the link {link.name}: the namespace {self.namespace} is missing",
                details=f"kubectl create namespace {self.namespace}",
            ) from cause

    def update(self, before: Link, after: Link) -> Link:
        """Update the record, and return the link as stored.

        Raises ConflictError if `before` is not the newest one.
        """
        try:
            encoded = encode_link(after)
            answer = self.api.patch(f"{self.path}/{before.name}", link_patch(before, encoded))
            return stored_link(after, encoded, answer)
        except NotFoundError as gone:
            raise ConflictError(f"cannot update the record {before.name}: it was deleted meanwhile") from gone

    def leave_newer(self, name: str, container_id: str) -> None:
        """Remove a sandbox from a record of a newer version. Raises ConflictError if the record has changed."""
        path = f"{self.path}/{name}"
        with suppress(NotFoundError):
            patch = leave_patch(self.api.get(path), container_id)
            if patch is not None:
                self.api.patch(path, patch)

    def delete(self, link: Link) -> None:
        """Delete the record on condition of its version, then release its VNI. Raises ConflictError.

        The Lease is deleted last: the number is in use for as long as the record exists.
        """
        with suppress(NotFoundError):  # another process deleted it, or the response to an earlier try was lost
            self.api.delete(f"{self.path}/{link.name}", uid=link.uid, resource_version=link.resource_version)
        if link.vni is not None:
            self.vnis.release(link.vni, link.uid)

    def _list(self, selector: str, keep: Callable[[Link], bool] = lambda _: True) -> VersionedLinkList:
        def decode(item: dict[str, Any]) -> Link | MalformedRecordError | None:
            decoded = _link_or_error(item)
            return decoded if not isinstance(decoded, Link) or keep(decoded) else None

        decoded, version = self.api.list_decoded(self.path, decode, labelSelector=selector)
        links = [one for one in decoded if isinstance(one, Link)]
        return links, [one for one in decoded if isinstance(one, MalformedRecordError)], version


def _change(event: Watched, has: Callable[[str, str], bool] = lambda *_: False) -> tuple[LinkChange | None, str]:
    metadata = event.object["metadata"]
    latest = metadata["resourceVersion"]
    if event.type == "DELETED":
        return LinkChange(metadata["name"], None, latest), latest
    if event.type == "BOOKMARK" or has(metadata["name"], latest):
        return None, latest
    decoded = _link_or_error(event.object)
    if isinstance(decoded, Link):
        return LinkChange(metadata["name"], decoded, latest), latest
    return LinkChange(metadata["name"], None, latest, decoded), latest


def _name_and_version(event: Watched) -> tuple[str | None, str]:
    """The name of the changed object, None for a bookmark, and the version."""
    metadata = event.object["metadata"]
    return None if event.type == "BOOKMARK" else metadata["name"], metadata["resourceVersion"]


def _link_or_error(item: dict[str, Any]) -> Link | MalformedRecordError:
    try:
        return decode_link(item)
    except MalformedRecordError as error:
        error.version = item["metadata"].get("resourceVersion", "")
        return error
