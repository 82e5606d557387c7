"""Topologies: the users' ConfigMaps that declare links; and operations on links, which come with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ratchet.core.intent import TOPOLOGY_LABEL
from ratchet.core.intent.topologies import TOPOLOGY_VALUES
from ratchet.core.intent.topology_limits import Admission
from ratchet.core.limits import DEFAULT_TOPOLOGY_LIMITS, TopologyLimits
from ratchet.core.operations import OPERATIONS_VALUE, Operations
from ratchet.core.pod import Topology
from ratchet.errors import TopologiesUnknownError
from ratchet.store.api_errors import ForbiddenError
from ratchet.store.apiserver import ApiServer
from ratchet.store.codec.operations import decode_operations, is_operations
from ratchet.store.codec.pods import decode_topology
from ratchet.store.paths import config_maps_path
from ratchet.store.session import Watched

Declared = Topology | Operations
TopologyList = list[Topology]
DeclaredList = list[Declared]

_SELECTOR = f"{TOPOLOGY_LABEL} in ({','.join((*TOPOLOGY_VALUES, OPERATIONS_VALUE))})"
_FORBIDDEN = (
    "grant the account the ClusterRole ratchet-topologies; or, to use no topologies, set `topologies: off` in the "
    "network configuration and `--topologies off` for the agent"
)


class TopologyChange(NamedTuple):
    """A topology after a change. With `gone`, the topology before its deletion."""

    topology: Topology
    gone: bool


class OperationsChange(NamedTuple):
    """The operations of a namespace as they are now; None: the namespace is not followed any more.

    `watched`: a watch has reported them, so what is new was set just now. A list cannot tell.
    """

    operations: Operations | None
    watched: bool = False


DeclaredChange = TopologyChange | OperationsChange


class TopologyStore:
    """The topologies of the cluster. Each question is a request.

    If topologies are not `enabled`, `list` sends no request: a namespace has none. Of a list, those over the `limits`
    are withheld.
    """

    def __init__(
        self, api: ApiServer, *, enabled: bool = True, limits: TopologyLimits = DEFAULT_TOPOLOGY_LIMITS
    ) -> None:
        self._api = api
        self.enabled = enabled
        self.limits = limits

    def check(self) -> None:
        """Raise TopologiesUnknownError if the account may not list topologies."""
        if not self.enabled:
            return
        try:
            self._api.get("/api/v1/configmaps?limit=1")
        except ForbiddenError as cause:
            raise TopologiesUnknownError(
                "cannot list topologies (topologies: on): forbidden", details=_FORBIDDEN
            ) from cause

    def list(self, namespace: str) -> TopologyList:
        """The topologies of a namespace in the API.

        Raises TopologiesUnknownError if the account may not list them.
        """
        if not self.enabled:
            return []
        declared, _ = self.list_with_version(namespace)
        return [one for one in declared if isinstance(one, Topology)]

    def lookup_all(self, namespace: str) -> TopologyList:
        """The topologies of a namespace, from a cache if there is one. Raises TopologiesUnknownError."""
        return self.list(namespace)

    def list_with_version(self, namespace: str) -> tuple[DeclaredList, str]:
        """The topologies as by `list`, the operations, and the version from which a watch continues."""
        admission, operations = Admission(self.limits), list[Operations]()
        path = config_maps_path(namespace)

        def add(item: Mapping[str, Any]) -> None:
            if not is_operations(item, TOPOLOGY_LABEL):
                admission.add(decode_topology(item))
            elif (found := decode_operations(item)) is not None:
                operations.append(found)

        try:
            _, version = self._api.list_decoded(path, add, labelSelector=_SELECTOR)
        except ForbiddenError as cause:
            raise TopologiesUnknownError(
                f"cannot read the topologies of namespace {namespace}: forbidden", details=_FORBIDDEN
            ) from cause
        return [*admission.admitted(), *operations], version

    def watch(self, namespace: str, version: str, seconds: float) -> Iterator[tuple[DeclaredChange | None, str]]:
        """Each change of a namespace's topologies and operations after `version`, with its version.

        It ends after `seconds` at most.
        """
        path = config_maps_path(namespace)
        return self._api.watch_decoded(path, version, seconds, _change, labelSelector=_SELECTOR)


def _change(event: Watched) -> tuple[DeclaredChange | None, str]:
    change: DeclaredChange | None = None
    gone = event.type == "DELETED"
    if event.type == "BOOKMARK":
        pass
    elif not is_operations(event.object, TOPOLOGY_LABEL):
        change = TopologyChange(decode_topology(event.object), gone)
    elif (operations := decode_operations(event.object)) is not None:
        change = OperationsChange(Operations({}, {}) if gone else operations, watched=True)
    return change, event.object["metadata"]["resourceVersion"]
