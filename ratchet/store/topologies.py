"""Topologies: the users' ConfigMaps that declare links."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ratchet.core.intent import TOPOLOGY_LABEL
from ratchet.core.intent.topologies import TOPOLOGY_VALUES
from ratchet.core.intent.topology_limits import Admission
from ratchet.core.limits import DEFAULT_TOPOLOGY_LIMITS, TopologyLimits
from ratchet.core.pod import Topology
from ratchet.errors import TopologiesUnknownError
from ratchet.store.api_errors import ForbiddenError
from ratchet.store.apiserver import ApiServer
from ratchet.store.codec.pods import decode_topology
from ratchet.store.paths import config_maps_path
from ratchet.store.session import Watched

TopologyList = list[Topology]

_SELECTOR = f"{TOPOLOGY_LABEL} in ({','.join(TOPOLOGY_VALUES)})"
_FORBIDDEN = (
    "grant the account the ClusterRole ratchet-topologies; or, to use no topologies, set `topologies: off` in the "
    "network configuration and `--topologies off` for the agent"
)


class TopologyChange(NamedTuple):
    """A topology after a change. With `gone`, the topology before its deletion."""

    topology: Topology
    gone: bool


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
        return self.list_with_version(namespace)[0] if self.enabled else []

    def lookup_all(self, namespace: str) -> TopologyList:
        """The topologies of a namespace, from a cache if there is one. Raises TopologiesUnknownError."""
        return self.list(namespace)

    def list_with_version(self, namespace: str) -> tuple[TopologyList, str]:
        """The topologies as by `list`, and the version from which a watch continues."""
        admission = Admission(self.limits)
        path = config_maps_path(namespace)
        try:
            _, version = self._api.list_decoded(
                path, lambda item: admission.add(decode_topology(item)), labelSelector=_SELECTOR
            )
        except ForbiddenError as cause:
            raise TopologiesUnknownError(
                f"cannot read the topologies of namespace {namespace}: forbidden", details=_FORBIDDEN
            ) from cause
        return admission.admitted(), version

    def watch(self, namespace: str, version: str, seconds: float) -> Iterator[tuple[TopologyChange | None, str]]:
        """Each change of a namespace's topologies after `version`, with its version, for at most `seconds`."""
        path = config_maps_path(namespace)
        return self._api.watch_decoded(path, version, seconds, _change, labelSelector=_SELECTOR)


def _change(event: Watched) -> tuple[TopologyChange | None, str]:
    change = None
    if event.type != "BOOKMARK":
        change = TopologyChange(decode_topology(event.object), event.type == "DELETED")
    return change, event.object["metadata"]["resourceVersion"]
