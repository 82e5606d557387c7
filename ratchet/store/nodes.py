"""Nodes: their addresses, their condition, and the Leases that their agents renew."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from ratchet.core.heartbeat import NodeLease
from ratchet.core.naming import LEASE_LABEL, node_lease_name
from ratchet.errors import ApiUnavailableError
from ratchet.store.api_errors import NotFoundError
from ratchet.store.apiserver import ApiServer
from ratchet.store.codec import decode_time
from ratchet.store.codec.leases import decode_node_lease, encode_node_lease
from ratchet.store.paging import restarts_expired
from ratchet.store.paths import leases_path

_NODES = "/api/v1/nodes"
_NODE_LEASES = f"{LEASE_LABEL}=node"
ADDRESSES_SECONDS = 300.0


class NodeAddressCache:
    """The addresses of nodes.

    They are read again after ADDRESSES_SECONDS, or by `refresh`. No empty list is kept.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._cached: dict[str, tuple[float, tuple[str, ...]]] = {}

    def of(self, node: str, read: Callable[[str], tuple[str, ...]]) -> tuple[str, ...]:
        """The addresses of a node. `read` is called if the cache has none, or old ones."""
        read_at, addresses = self._cached.get(node, (float("-inf"), ()))
        if self._clock() - read_at > ADDRESSES_SECONDS:
            try:
                addresses = read(node)
            except ApiUnavailableError:
                if not addresses:
                    raise
                return addresses  # an API that does not answer is no evidence of a change
            self._keep(node, addresses)
        return addresses

    def refresh(self, node: str, read: Callable[[str], tuple[str, ...]]) -> bool:
        """Read a node's addresses. Returns whether they differ from the cached ones."""
        addresses = read(node)
        _, cached = self._cached.get(node, (0.0, ()))
        self._keep(node, addresses)
        return addresses != cached

    def _keep(self, node: str, addresses: tuple[str, ...]) -> None:
        if addresses:
            self._cached[node] = (self._clock(), addresses)
        else:
            self._cached.pop(node, None)


class NodeStore:
    """The Node objects and the node Leases in the API. Only addresses are cached, if there is a `cache`."""

    def __init__(self, api: ApiServer, namespace: str, cache: NodeAddressCache | None = None) -> None:
        self._api = api
        self._cache = cache
        self._leases_path = leases_path(namespace)

    @restarts_expired
    def list(self) -> dict[str, datetime | None]:
        """The Node objects by name, each with its creation time."""
        return dict(self._api.list_decoded(_NODES, _name_and_created)[0])

    def addresses(self, node: str) -> tuple[str, ...]:
        """The node's InternalIP addresses in the API; empty if there is no such Node object."""
        entries = self._status(node).get("addresses") or ()
        return tuple(entry["address"] for entry in entries if entry.get("type") == "InternalIP")

    def lookup_addresses(self, node: str) -> tuple[str, ...]:
        """The node's addresses as by `addresses`, from the cache if there is one."""
        return self.addresses(node) if self._cache is None else self._cache.of(node, self.addresses)

    def refresh_addresses(self, node: str) -> bool:
        """Read the node's addresses into the cache. Returns whether they have changed; False without a cache."""
        return self._cache is not None and self._cache.refresh(node, self.addresses)

    def is_ready(self, node: str) -> bool:
        """Whether the Node object has the condition Ready."""
        conditions = self._status(node).get("conditions") or ()
        return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)

    @restarts_expired
    def list_leases(self) -> Sequence[NodeLease]:
        """The Leases of all nodes that have an agent."""
        return self._api.list_decoded(self._leases_path, decode_node_lease, labelSelector=_NODE_LEASES)[0]

    def list_leases_since(self, version: str) -> Sequence[NodeLease]:
        """The Leases of all nodes that have an agent, as they were at `version` or later.

        The API server answers from its watch cache, which it may only without a limit (kubernetes.io, "Resource
        versions"). For a list in pages it reads all Leases from etcd, VNI Leases included.

        `version` is that of this node's own renewal. So the answer has what other nodes renewed before it. Raises
        ApiUnavailableError if the server's cache remains older: the Leases are then unknown, and no node counts as
        silent.
        """
        query = {"resourceVersion": version, "resourceVersionMatch": "NotOlderThan", "labelSelector": _NODE_LEASES}
        listed = self._api.get(f"{self._leases_path}?{urlencode(query)}")
        return [decode_node_lease(item) for item in listed.get("items") or ()]

    def renew_lease(self, lease: NodeLease, seconds: float, now: datetime) -> str:
        """Renew a node's Lease at `now` for `seconds`, or create it. Returns its version."""
        body = encode_node_lease(lease, seconds, now)
        try:
            renewed = self._api.patch(f"{self._leases_path}/{body['metadata']['name']}", body)
        except NotFoundError:
            renewed = self._api.create(self._leases_path, body)
        return str(renewed["metadata"]["resourceVersion"])

    def delete_lease(self, lease: NodeLease) -> None:
        """Delete a node's Lease on condition of its version. Raises ConflictError if it has changed."""
        path = f"{self._leases_path}/{node_lease_name(lease.node)}"
        self._api.delete(path, uid=lease.uid, resource_version=lease.version)

    def _status(self, node: str) -> dict[str, Any]:
        """The status of a Node object; empty if there is no such object."""
        try:
            return self._api.get(f"{_NODES}/{node}").get("status") or {}
        except NotFoundError:
            return {}


def _name_and_created(item: dict[str, Any]) -> tuple[str, datetime | None]:
    return item["metadata"]["name"], decode_time(item["metadata"].get("creationTimestamp"))
